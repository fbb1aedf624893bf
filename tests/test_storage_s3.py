"""Data and results on an S3 server on this machine (moto): the same as in a folder, also when it often fails."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from safetensors.numpy import load_file

from ethoray import record, store
from ethoray.batch import Windows
from ethoray.experiment import Experiment, run
from ethoray.learning import Budget
from ethoray.methods.pca import PCA
from ethoray.probes.linear import Linear
from ethoray.testing import toy_dataset
from ethoray.testing.toy import toy_card, toy_recordings
from ethoray.tracking import Mirror

FAILS = 0.15


@pytest.fixture
def shelf(monkeypatch):
    """An empty bucket on a server of its own, as an address and the server, whose ``failing`` may be set."""
    application = pytest.importorskip("moto.moto_server.werkzeug_app", reason="moto[server] is not installed")
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    from werkzeug.serving import make_server

    inside = application.DomainDispatcherApplication(application.create_backend_app)
    rng = random.Random(0)

    def answer(environ, start_response):
        if answer.failing and rng.random() < FAILS:
            answer.failed += 1
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("503 Slow Down", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"]
        return inside(environ, start_response)

    answer.failing, answer.failed = False, 0
    server = make_server("127.0.0.1", 0, answer, threaded=True)
    Thread(target=server.serve_forever, daemon=True).start()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = f"s3://shelf-{server.port}"
    s3fs.S3FileSystem().mkdir(bucket)
    yield bucket, answer
    s3fs.S3FileSystem.clear_instance_cache()
    server.shutdown()


def experiment(dataset: str) -> Experiment:
    budget = Budget(steps=4, log_every=2, save_every=2, device="cpu")
    return Experiment(Windows(dataset, seconds=4.0, batch_size=2), PCA(components=4), (Linear(),), budget)


def test_a_run_on_data_in_a_bucket_is_the_run_on_the_same_data_in_a_folder(shelf, toy, tmp_path, monkeypatch):
    bucket, _ = shelf
    stored = toy_dataset(f"{bucket}/toy")
    assert stored.key == toy.key
    here = run(experiment(toy.uri), tmp_path / "here")
    monkeypatch.setenv("ETHORAY_STORE", bucket)  # as the machines of a cluster are told
    there = run(experiment("toy"), tmp_path / "there")
    assert there == here
    first, second = (load_file(tmp_path / place / "checkpoint.safetensors") for place in ("here", "there"))
    assert first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)
    assert record.key(experiment(toy.uri), toy) == record.key(experiment("toy"), stored)


def test_another_process_finds_the_bucket_by_its_environment(shelf, monkeypatch):
    bucket, _ = shelf
    stored = toy_dataset(f"{bucket}/toy")
    monkeypatch.setenv("ETHORAY_STORE", bucket)
    code = "from ethoray import store; d = store.open('toy'); d.verify(); print(d.key)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == [stored.key], done.stderr


def test_a_store_that_often_says_slow_down_is_written_and_read_whole(shelf):
    bucket, server = shelf
    server.failing = True
    made = toy_recordings(3, seconds=2.0)
    stored = store.prepare(toy_card(), made, f"{bucket}/toy", clip_seconds=1.0, shard_mb=0.01)
    stored.verify()
    for entry, given in zip(stored.entries, made, strict=True):
        np.testing.assert_array_equal(stored.recording(entry).keypoints, given.keypoints)
    assert server.failed > 3


def test_a_writer_that_dies_leaves_what_was_there(shelf):
    bucket, _ = shelf
    before = toy_dataset(f"{bucket}/toy")

    def dying():
        yield from toy_recordings(2, seconds=4.0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.prepare(toy_card(), dying(), f"{bucket}/toy", shard_mb=0.01, overwrite=True)
    after = store.open("toy", bucket)
    after.verify()
    assert after == before


@pytest.mark.slow
def test_the_artifacts_of_a_run_go_to_the_bucket_of_the_mlflow_server(shelf, tmp_path):
    """As in clusters/compose.yaml: clients know the server alone, which knows the bucket."""
    bucket, _ = shelf
    folder = tmp_path / "runs" / "0123456789abcdef"
    toy = toy_dataset(tmp_path / "toy", recordings=3, seconds=8.0)
    run(experiment(toy.uri), folder)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    words = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db", "--artifacts-destination", f"{bucket}/mlflow"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen([sys.executable, *words], stdout=log, stderr=log, start_new_session=True)
    try:
        uri = f"http://127.0.0.1:{port}"
        wait(uri, server, tmp_path / "log")
        mirror = Mirror("sweep", tmp_path / "runs", uri, parent="first")
        assert mirror.follow([folder], insist=True)
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        found = {path.rsplit("/", 1)[-1]: path for path in s3fs.S3FileSystem().find(f"{bucket}/mlflow")}
        part = next((folder / "embeddings").glob("*.parquet"))
        for path in (folder / "checkpoint.safetensors", folder / "scores.json", part):
            assert s3fs.S3FileSystem().cat_file(found[path.name]) == path.read_bytes(), path.name
        assert json.loads(s3fs.S3FileSystem().cat_file(found["experiment.json"]))["method"]["name"] == "pca"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def wait(uri: str, server: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + 300
    while True:
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=5):
                return
        except OSError:
            assert server.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.3)
