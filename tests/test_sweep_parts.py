"""Locks that die with their process, clocks that need no interpreter, room on nodes, words, shared memory."""

import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ethoray import stream
from ethoray.batch import Windows
from ethoray.experiment import Experiment
from ethoray.methods.raw import Raw
from ethoray.probes.linear import Linear
from ethoray.sweep import Flags
from ethoray.sweep.console import Table, called
from ethoray.sweep.estimate import beside, bill
from ethoray.sweep.guard import Taken, alone, hung, signs_of_life
from ethoray.sweep.lent import Lent, adopt, lend
from ethoray.sweep.nodes import fits
from ethoray.sweep.voice import Voice

HOLD = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from guard import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
HANG = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from guard import signs_of_life
def stuck():
    time.sleep(60)
with signs_of_life(Path(sys.argv[1]) / "hung.txt", 0.2) as alive:
    alive()
    stuck()
"""


def python(code: str, *words: str) -> subprocess.Popen:
    path = str(Path(__file__).parent.parent / "platform" / "ethoray" / "sweep")  # alone: it needs nothing else
    return subprocess.Popen([sys.executable, "-c", f"import sys; sys.path.insert(0, {path!r})" + code, *words],
                            stdout=subprocess.PIPE, text=True)  # fmt: skip


def test_a_folder_has_one_process_until_it_dies(tmp_path):
    holder = python(HOLD, str(tmp_path / "run"))
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(Taken, match="another process"), alone(tmp_path / "run", wait=False):
        pass
    holder.kill()
    with alone(tmp_path / "run"):
        pass
    holder.wait()
    holder.stdout.close()


def test_a_process_that_hangs_is_ended_and_says_where(tmp_path):
    stuck = python(HANG, str(tmp_path))
    assert stuck.wait(30) == 1
    stuck.stdout.close()
    assert "in stuck" in hung(tmp_path)
    assert hung(tmp_path) == "", "told once"


def test_signs_of_life_leave_nothing_behind(tmp_path):
    with signs_of_life(tmp_path / "hung.txt", math.inf) as alive:
        alive()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("nodes", "flags", "room"),
    [
        ([{"CPU": 2}], {}, 2),
        ([{"CPU": 3}, {"CPU": 3}], {"cpus": 2}, 2),  # six in all, but no trial spans nodes
        ([{"CPU": 3}, {"CPU": 3}], {"cpus": 4}, 0),
        ([{"CPU": 2}, {"CPU": 2}], {"workers": 2}, 2),
        ([{"CPU": 1}, {"CPU": 1}], {"workers": 2}, 1),  # workers of a trial may
        ([{"CPU": 8, "GPU": 2}], {"gpus": 0.25}, 8),
        ([{"CPU": 8, "GPU": 2}], {"gpus": 0.4}, 4),  # two on each GPU, none on both
        ([{"CPU": 8, "GPU": 3}], {"gpus": 2}, 1),
        ([{"CPU": 8}], {"gpus": 1}, 0),
        ([], {}, 0),
    ],
)
def test_how_many_trials_nodes_hold(nodes, flags, room):
    assert fits(nodes, Flags(**flags)) == room


def test_a_table_is_aligned_and_says_its_head_again_when_it_grows():
    table = Table(12, "running/raw")
    head, first = table.row("[1/12]", {"alpha": 0.5, "seed": 0, "work": None, "key": ""}, ["0.512", "12 s", "2 min"])
    (second,) = table.row("[2/12]", {"alpha": 0.25, "seed": 1}, ["pruned at 10", "3 s", "2 min"])
    assert head.split() == ["alpha", "seed", "running/raw", "took", "left"]
    assert head.index("alpha") == first.index("0.5") == second.index("0.25")
    assert head.index("seed") == first.index("0", 12) and first.endswith("12 s    2 min")
    (failed,) = table.row("[3/12]", {"alpha": 4.0, "seed": 1}, ["FAILED: no"])
    assert failed.endswith("FAILED: no")
    again, third = table.row("[4/12]", {"alpha": 1.0, "rate": 0.0001, "seed": 1}, ["0.5", "1 s", ""])
    assert "rate" in again and third.split() == ["[4/12]", "1", "1", "0.0001", "0.5", "1", "s"]


def test_a_candidate_is_called_what_was_drawn_for_it():
    assert called({"method": "bams", "seed": 3}) == ""
    assert called({"part": "no bootstrap", "predictor_lr": 0.123456, "seed": 0}) == "no bootstrap, predictor lr 0.1235"


def test_a_bill_counts_processes_and_money():
    assert bill(7200, Flags(cpus=2, workers=3)) == "12 CPU-hours"
    assert bill(1800, Flags(gpus=0.5, price=4.0)) == "0.5 CPU-hours, 0.25 GPU-hours, 2.00 at 4 an hour and trial"
    assert bill(math.nan, Flags()) == "at an unknown cost"


def test_what_a_trial_takes_beside_its_work(tmp_path):
    (tmp_path / "scores.json").write_text(json.dumps({"cost": {"train_seconds": 5.0, "embed_seconds": 2.0}}))
    assert beside(tmp_path, 7.5) == pytest.approx(0.5)
    assert math.isnan(beside(tmp_path / "nowhere", 7.5))


def test_lent_keypoints_are_what_every_stream_of_a_process_reads(toy, monkeypatch):
    experiment = Experiment(Windows(toy.uri, seconds=4.0), Raw(), (Linear(),))
    monkeypatch.setattr("ray.available_resources", lambda: {"object_store_memory": 1e9})
    lent = lend(toy, experiment, workers=1)
    assert lent is not None and [r.shape[0] for r in lent.recordings] == [e.frames for e in toy.select("train")]
    monkeypatch.setattr(stream, "_loaded", type(stream._loaded)())
    shared = [array.copy() for array in lent.recordings]
    for array in shared:
        array.setflags(write=False)  # as the object store gives them
    monkeypatch.setattr(type(toy), "keypoints", lambda *words: pytest.fail("read again"))
    adopt(Lent(lent.key, lent.split, shared))
    batches = stream.open_stream(experiment.data, toy, 0)
    assert batches.recordings is shared
    np.testing.assert_array_equal(batches(0).keypoints, stream.Resident(
        batches.plan, batches.spec, lent.recordings, 0, 1)(0).keypoints)  # fmt: skip


def test_what_does_not_fit_or_is_not_resident_is_not_lent(toy, monkeypatch):
    experiment = Experiment(Windows(toy.uri, seconds=4.0), Raw(), (Linear(),))
    monkeypatch.setattr("ray.available_resources", lambda: {"object_store_memory": 1e9})
    streamed = Experiment(Windows(toy.uri, seconds=4.0, stream="ray"), Raw(), (Linear(),))
    assert lend(toy, streamed, 1) is None and lend(toy, experiment, 2) is None
    monkeypatch.setattr("ray.available_resources", lambda: {"object_store_memory": 1e3})
    assert lend(toy, experiment, 1) is None
    adopt(None)


class Mirrored:
    """A mirror that remembers what it followed."""

    def __init__(self):
        self.folders = []

    def follow(self, folders, insist=False):
        self.folders += folders
        return True


def trial(place: Path, name: str, **result) -> SimpleNamespace:
    work = SimpleNamespace(folder=str(place / name), experiment=SimpleNamespace(budget=SimpleNamespace(steps=40)))
    config = {"size": 0.5, "work": work, "key": name}
    return SimpleNamespace(
        trial_id=name, config=config, last_result=result, status="RUNNING", get_error=lambda: "killed"
    )


def test_what_a_sweep_says(tmp_path, capsys, monkeypatch):
    mirror = Mirrored()
    voice = Voice(5, 1, 10.0, 2, "running/z", Flags(), mirror)
    trials = [
        trial(tmp_path, "good", value=0.5, seconds=8.0), trial(tmp_path, "poor", step=9),
        trial(tmp_path, "bad", failed="ValueError: no\nmore"), trial(tmp_path, "dead"),
    ]  # fmt: skip
    monkeypatch.setattr("ethoray.sweep.voice._SIGN_OF_LIFE", -1.0)
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "metrics.jsonl").write_text(json.dumps({"step": 30, "loss": 1.0}) + "\n")
    for one in trials:
        voice.on_trial_start(0, trials, one)
    voice.on_step_end(0, trials[:1])
    for one in trials[:3]:
        voice.on_trial_complete(0, trials, one)
    voice.on_trial_error(0, trials, trials[3])
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == ["size", "running/z", "took", "left"]
    assert said[1].split()[:4] == ["…", "0.5", "step", "30/40"]
    assert said[2].split() == ["[2/5]", "0.5", "0.5", "0", "s", "0", "s"]
    assert "pruned at 9" in said[3] and "[3/5]" in said[3]
    assert "FAILED: ValueError: no (see" in said[4] and "failure.json" in said[4]
    assert "[5/5]" in said[5] and "died again and again" in said[5]
    assert "killed" in json.loads((tmp_path / "dead" / "failure.json").read_text())["traceback"]
    assert voice.failed == ["bad", "dead"]
    voice.on_step_end(0, trials)
    assert len(mirror.folders) <= 1, "mirroring takes a tenth of the time at most"
    assert voice.close().startswith("4 trials took 0 s (20 s expected): ")
