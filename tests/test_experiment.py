import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from ethoray import embedding, experiment, record, store, tallies
from ethoray.batch import Windows
from ethoray.experiment import Experiment, run
from ethoray.learning import Budget
from ethoray.methods.bams import BAMS
from ethoray.methods.pca import PCA
from ethoray.methods.raw import Raw
from ethoray.probes.linear import Linear
from ethoray.testing import toy_dataset

TINY = BAMS(
    features="generic", short_channels=(8, 8), long_channels=(8, 8, 8), head=(16,), warmup=0.5, horizon=0.5, pairs=4
)  # fmt: skip


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return toy_dataset(tmp_path_factory.mktemp("toy") / "toy")


def make(dataset, method=TINY, steps=12, **changes) -> Experiment:
    budget = Budget(steps=steps, log_every=2, save_every=4, device="cpu")
    return Experiment(Windows(dataset.uri, seconds=4.0, batch_size=2, **changes), method, (Linear(),), budget)


@pytest.mark.parametrize("method", [TINY, PCA(components=4), Raw()], ids=lambda m: m.name)
def test_one_experiment_from_data_to_scores(dataset, tmp_path, method):
    scores = run(make(dataset, method), tmp_path)
    written = json.loads((tmp_path / "scores.json").read_text())
    assert written["scores"] == scores and scores
    spaces = {"short", "long", "all"} if method is TINY else {method.name}
    assert {name.split("/")[1] for name in scores} == spaces
    found = tallies.read(tmp_path)
    for name, value in scores.items():
        low, high = written["intervals"][name]
        assert low <= value <= high
        assert found[name].value() == pytest.approx(value)
    assert {p.name for p in tmp_path.iterdir()} == {
        "experiment.json", "provenance.json", "metrics.jsonl", "checkpoint.safetensors", "embeddings", "scores.json",
        "tallies.parquet",
    }  # fmt: skip
    table = pq.read_table(next((tmp_path / "embeddings").glob("*.parquet")))
    assert {"recording", "frame", "time"} <= set(table.column_names)


def test_a_finished_run_is_not_run_again(dataset, tmp_path, monkeypatch):
    scores = run(make(dataset, PCA(components=2)), tmp_path)
    monkeypatch.setattr(experiment, "train", None)
    assert run(make(dataset, PCA(components=2)), tmp_path) == scores


def test_embedding_again_equals_what_was_scored(dataset, tmp_path):
    one = make(dataset)
    run(one, tmp_path)
    found, encoder = experiment.restore(tmp_path)
    assert found == one
    stored = embedding.read(tmp_path / "embeddings").to_pylist()
    fresh = {e.entry.name: e.spaces for e in embedding.embed(encoder, dataset, dataset.select("test"))}
    checked = 0
    for row in stored:
        if row["recording"] in fresh:
            assert row["long"] == fresh[row["recording"]]["long"][row["frame"]].tolist()
            checked += 1
    assert checked > 10


def test_a_failure_is_written_and_raised_and_the_next_try_clears_it(dataset, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("the disk is on fire")

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "evaluate", broken)
        with pytest.raises(RuntimeError, match="on fire"):
            run(make(dataset), tmp_path)
    failure = json.loads((tmp_path / "failure.json").read_text())
    assert failure["error"] == "RuntimeError: the disk is on fire" and "broken" in failure["traceback"]
    assert run(make(dataset), tmp_path) and not (tmp_path / "failure.json").exists()


def test_another_seed_gives_other_weights_and_the_same_seed_the_same(dataset, tmp_path):
    states = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(replace(make(dataset), seed=seed), tmp_path / name)
        states.append(record.load_state(tmp_path / name))
    same = [torch.equal(states[0][k], states[1][k]) for k in states[0]]
    other = [torch.equal(states[0][k], states[2][k]) for k in states[0] if "direction" in k]
    assert all(same) and not any(other)


KILLED = """
import sys, time
from ethoray import record
from ethoray.experiment import run
import json
document = json.loads(open(sys.argv[1]).read())
def slowly(progress):
    time.sleep(0.05)
run(record.from_json(document), sys.argv[2], log=slowly)
"""


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_ends_with_the_same_weights(dataset, tmp_path):
    one = make(dataset, steps=60)
    run(one, tmp_path / "whole")
    (tmp_path / "experiment.json").write_text(json.dumps(record.to_json(one)))
    folder = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(tmp_path / "experiment.json"), str(folder)]
    for until in (4, 22):
        process = subprocess.Popen(command)
        deadline = time.monotonic() + 60
        while not any(line["step"] >= until for line in record.read_metrics(folder)):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (folder / "scores.json").exists()
    assert subprocess.run(command).returncode == 0
    whole, resumed = record.load_state(tmp_path / "whole"), record.load_state(folder)
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[k], resumed[k]) for k in whole)
    steps = [line["step"] for line in record.read_metrics(folder)]
    assert steps == list(range(2, 61, 2))
    assert record.finished(folder) == record.finished(tmp_path / "whole")


def test_windows_longer_than_a_recording_are_padded_and_masked(dataset, tmp_path):
    assert run(replace(make(dataset), data=Windows(dataset.uri, seconds=60.0, batch_size=2)), tmp_path)


def test_an_unknown_dataset_names_the_nearest(dataset, tmp_path):
    root = Path(dataset.uri).parent
    with pytest.raises(store.StoreError, match="toy"):
        store.open("tooy", root)
