"""Run folders in MLflow: nothing lost, nothing doubled, nothing raised."""

import json
import logging
import shutil
import sqlite3
import warnings
from pathlib import Path

import pandas as pd
import pytest

from ethoray import tracking
from ethoray.tracking import Mirror, flatten, slug
from ethoray.tracking.connection import connect

KEY = "0123456789abcdef"


def folder_of(root: Path, steps: range, key: str = KEY) -> Path:
    folder = root / key
    folder.mkdir(parents=True, exist_ok=True)
    experiment = {"method": {"name": "toy", "channels": [4, 8]}, "seed": 3, "probes": [{"name": "linear"}]}
    (folder / "experiment.json").write_text(json.dumps(experiment))
    (folder / "provenance.json").write_text(json.dumps({"commit": "c0ffee", "dirty": False, "started": 1e9}))
    lines = [{"step": s, "seconds": s / 10, "loss": 1 / s} for s in steps]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def finish(folder: Path) -> None:
    (folder / "embeddings").mkdir(exist_ok=True)
    (folder / "embeddings" / "part-0.parquet").write_bytes(b"PAR1")
    (folder / "checkpoint.safetensors").write_bytes(b"weights")
    scores = {"scores": {"strain/long": 0.8}, "intervals": {}, "cost": {"train_seconds": 1.0}, "finished": 1e9 + 9}
    (folder / "scores.json").write_text(json.dumps(scores))


def children(mirror: Mirror):
    client = mirror._api()
    runs = client.search_runs([mirror._experiment])
    return [run for run in runs if "mlflow.parentRunId" in run.data.tags]


def history(mirror: Mirror, run, name: str = "loss") -> list[int]:
    return [m.step for m in mirror._api().get_metric_history(run.info.run_id, name)]


@pytest.fixture(scope="module")
def blank(tmp_path_factory):
    """A database without anything in it; making one takes MLflow seconds."""
    path = tmp_path_factory.mktemp("blank") / "mlflow.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        connect(f"sqlite:///{path}")
    return path


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A mirror into a storage that has no database yet."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Mirror("dilation", tmp_path / "runs", parent="dilation-1", tags={"question": "why"})


@pytest.fixture
def mirror(nowhere, blank):
    nowhere.storage.mkdir()
    shutil.copy(blank, nowhere.storage / "mlflow.db")
    return nowhere


def again(mirror: Mirror) -> Mirror:
    return Mirror(mirror.name, mirror.storage, parent=mirror.parent, tags=mirror.tags)


def test_a_finished_run_has_parameters_steps_scores_and_files(mirror):
    folder = folder_of(mirror.storage, range(1, 6))
    finish(folder)
    assert mirror.follow([folder])
    (run,) = children(mirror)
    assert run.info.status == "FINISHED"
    assert run.data.params["method.channels"] == "[4, 8]"
    assert run.data.params["probes.0.name"] == "linear"
    assert run.data.metrics["score/strain/long"] == 0.8
    assert run.data.tags["mlflow.source.git.commit"] == "c0ffee"
    assert history(mirror, run) == [1, 2, 3, 4, 5]
    names = {a.path for a in mirror._api().list_artifacts(run.info.run_id)}
    assert {"embeddings", "checkpoint.safetensors", "experiment.json"} <= names


def test_mirroring_again_from_another_process_doubles_nothing(mirror):
    folder = folder_of(mirror.storage, range(1, 6))
    assert mirror.follow([folder])
    folder_of(mirror.storage, range(1, 9))
    for _ in range(2):
        second = again(mirror)
        assert second.follow([folder])
    (run,) = children(second)
    assert history(second, run) == list(range(1, 9))


def test_steps_repeated_by_a_resumed_run_are_counted_once(mirror):
    folder = folder_of(mirror.storage, range(1, 9))
    assert mirror.follow([folder])
    folder_of(mirror.storage, range(1, 5))  # the checkpoint was at step 4: the diary forgets the rest
    assert mirror.follow([folder])
    folder_of(mirror.storage, range(1, 11))
    assert again(mirror).follow([folder])
    (run,) = children(mirror)
    assert history(mirror, run) == list(range(1, 11))


@pytest.mark.parametrize("call", ["create_run", "log_batch", "log_artifact", "set_tag", "set_terminated"])
def test_killed_after_any_call_the_next_mirror_completes_it(mirror, monkeypatch, call):
    folder = folder_of(mirror.storage, range(1, 2000))
    finish(folder)
    real = getattr(mirror._api(), call)

    def killed(*args, **kwargs):
        real(*args, **kwargs)
        raise ConnectionError("pulled the plug")

    monkeypatch.setattr(mirror._api(), call, killed)
    assert not mirror.follow([folder])
    second = again(mirror)
    assert second.follow([folder])
    (run,) = children(second)
    assert history(second, run) == list(range(1, 2000))
    assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_a_locked_database_is_waited_for_and_never_raises(mirror, monkeypatch, caplog):
    monkeypatch.setattr(tracking, "PAUSE", 0.0)
    folder = folder_of(mirror.storage, range(1, 4))
    assert mirror.follow([folder])
    folder_of(mirror.storage, range(1, 6))
    lock = sqlite3.connect(mirror.storage / "mlflow.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    with caplog.at_level(logging.WARNING):
        assert not mirror.follow([folder])
    assert sum("is behind" in r.message for r in caplog.records) == 1
    lock.execute("COMMIT")
    lock.close()
    assert mirror.follow([folder])
    assert history(mirror, children(mirror)[0]) == [1, 2, 3, 4, 5]


def test_a_server_that_is_down_returns_false(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mirror = Mirror("dilation", tmp_path, "http://127.0.0.1:9", parent="p")
    folder = folder_of(tmp_path, range(1, 3))
    assert not mirror.follow([folder])
    assert not mirror.publish(pd.DataFrame({"a": [1]}), [])


def test_a_failed_run_is_failed_and_may_finish_later(mirror):
    folder = folder_of(mirror.storage, range(1, 3))
    (folder / "failure.json").write_text(json.dumps({"error": "ValueError: no", "traceback": "..."}))
    assert mirror.follow([folder])
    assert children(mirror)[0].info.status == "FAILED"
    (folder / "failure.json").unlink()
    finish(folder)
    assert mirror.follow([folder])
    assert children(mirror)[0].info.status == "FINISHED"


def test_the_leaderboard_is_replaced_not_appended(mirror, tmp_path):
    page = tmp_path / "leaderboard.md"
    page.write_text("| a |")
    for rows in (2, 3):
        assert again(mirror).publish(pd.DataFrame({"rank": range(rows)}), [page])
    client, run = mirror._api(), mirror._parent_run()
    table = json.loads(Path(client.download_artifacts(run, "leaderboard.json", str(tmp_path))).read_text())
    assert table == {"columns": ["rank"], "data": [[0], [1], [2]]}
    assert "leaderboard.json" in client.get_run(run).data.tags["mlflow.loggedArtifacts"]
    assert "leaderboard.md" in {a.path for a in client.list_artifacts(run)}
    assert client.get_run(run).data.tags["question"] == "why"


def test_names_cannot_climb_out_of_a_folder():
    assert ".." not in slug("../../etc/passwd").split("/")
    assert slug("strain@0.1/all") == "strain_0.1/all"
    assert all(len(v) <= 6000 for v in flatten({"a": "x" * 9000}).values())


def test_a_new_database_is_made_quietly(nowhere, capfd):
    assert nowhere.follow([folder_of(nowhere.storage, range(1, 3))])
    said = capfd.readouterr()
    assert "alembic" not in said.err and "INFO" not in said.err + said.out


def test_killed_while_the_database_is_made_leaves_none(nowhere, monkeypatch):
    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(tracking.os, "link", killed)
    with pytest.raises(KeyboardInterrupt):
        nowhere.follow([folder_of(nowhere.storage, range(1, 3))])
    assert not (nowhere.storage / "mlflow.db").exists()
    monkeypatch.undo()
    assert again(nowhere).follow([nowhere.storage / KEY])
    assert [p.name for p in nowhere.storage.glob(".mlflow*")] == []
