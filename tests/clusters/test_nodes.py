"""A sweep on three Ray nodes: it spreads, a node dies under it, a node joins, and no trial is lost or done twice."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

STEPS = 60
TRIALS = 6
LONG = 600.0  # seconds; a quarter of it is enough where nothing else runs


@pytest.fixture(scope="module")
def three(nodes, folder):
    """A head and two workers of one CPU each, in the repository's folder, and mice to learn from."""
    recipe = [sys.executable, "datasets/simulated_mice.py", "--out", "simulated_mice", "--recordings", "12"]
    subprocess.run(recipe, cwd=folder.parent, env=nodes.environment, check=True, capture_output=True, timeout=LONG)
    nodes.start("first")
    nodes.start("second")
    return nodes


def runs(nodes) -> Path:
    return Path(nodes.environment["ETHORAY_RUNS"])


def finished(nodes, since: float = 0.0) -> list[Path]:
    return [path.parent for path in runs(nodes).glob("*/scores.json") if path.stat().st_mtime > since]


def trials(nodes) -> list[dict]:
    """The processes that trained, the dead ones too, as the head knows them."""
    status, body = nodes.get("/api/v0/actors?detail=1&limit=1000", nodes.token)
    assert status == 200
    actors = json.loads(body)["data"]["result"]["result"]
    return [a for a in actors if not a["class_name"].startswith("Job") and a["pid"]]


def wait(what, message: str):
    end = time.monotonic() + LONG
    while not (found := what()):
        assert time.monotonic() < end, message
        time.sleep(0.3)
    return found


def test_the_literal_command_spreads_over_nodes(three):
    done = three.submit("python", "sweeps/vq_codebook.py", "--smoke", timeout=LONG)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(finished(three)) == 2
    assert len({trial["node_id"] for trial in trials(three)}) == 2


def test_a_node_dies_and_one_joins_and_no_trial_is_lost(three):
    begun = time.time()
    words = ["python", "sweeps/vq_codebook.py", "--trials", str(TRIALS), "--seeds", "0", "--steps", str(STEPS)]
    command = ["ray", "job", "submit", "--address", f"http://127.0.0.1:{three.dashboard}", "--", *words]
    log = three.place / "job.log"
    with log.open("w") as out:
        job = subprocess.Popen(command, env=three.environment, stdout=out, stderr=out)
    try:
        victim = three.names["second"]

        def training() -> bool:
            assert job.poll() is None, log.read_text()
            there = any(t["node_id"] == victim and t["state"] == "ALIVE" for t in trials(three))
            return there and any(p.stat().st_mtime > begun for p in runs(three).glob("*/metrics.jsonl"))

        wait(training, "no trial came to the second worker")
        three.kill("second")
        three.start("third")
        job.wait(LONG)
    finally:
        job.kill()
    assert job.returncode == 0, log.read_text()
    done = finished(three, begun)
    assert len(done) == TRIALS, log.read_text()
    assert not list(runs(three).glob("*/failure.json"))
    for folder in done:
        steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert steps == sorted(set(steps)) and steps[-1] == STEPS  # each step once, the last one reached
    shapes = [json.loads((folder / "experiment.json").read_text())["method"] for folder in done]
    assert len({(shape["groups"], shape["variables"]) for shape in shapes}) == TRIALS
    where = [trial["node_id"] for trial in trials(three)]
    assert victim in where and three.names["third"] in where
