"""What every test stands on: no telemetry, a store and runs of its own, and a toy dataset."""

import os

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  beside a busy test, polite workers would wait for ever
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side: two threads each would fight for two cores

import pytest

from ethoray import testing
from ethoray.store import Dataset


@pytest.fixture(autouse=True)
def _places_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("ETHORAY_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("ETHORAY_RUNS", str(tmp_path / "runs"))


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> Dataset:
    """Six recordings of two toy mice, prepared once; tests read it and never write to it."""
    return testing.toy_dataset(tmp_path_factory.mktemp("toy") / "toy")
