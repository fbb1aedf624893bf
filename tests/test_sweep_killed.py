"""A sweep whose driver is killed at any moment ends as if nobody had; a trial that goes wrong goes wrong alone.

Two kills of a small sweep by default; ETHORAY_KILLS=10 ETHORAY_TRIALS=20 is the whole ordeal.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest

from ethoray import testing
from ethoray.experiment import run
from ethoray.sweep import Flags
from ethoray.sweep.samplers import sampler

pytestmark = [pytest.mark.slow, pytest.mark.cluster]
KILLS, TRIALS = (int(os.environ.get(f"ETHORAY_{name}", few)) for name, few in (("KILLS", 2), ("TRIALS", 6)))
SAVE, STEPS = 5, 20

SCRIPT = '''"""How much should it tremble?"""
import os, signal, sys, time
from dataclasses import dataclass
from pathlib import Path
import torch
from ethoray.batch import Windows
from ethoray.experiment import Experiment
from ethoray.learning import Budget, Learner, Method
from ethoray.probes.linear import Linear
from ethoray.sweep import Sweep

@dataclass(frozen=True)
class Tremble(Method):
    size: float = 0.0
    fate: str = "sound"
    def build(self, spec):
        return TrembleEncoder(self)

class TrembleEncoder(Learner):
    lr = 0.05
    def __init__(self, method):
        super().__init__()
        self.method, self.gain = method, torch.nn.Parameter(torch.ones(1))
    def embed(self, batch):
        centre = batch.keypoints.nanmean(3).nan_to_num()
        speed = torch.diff(centre, dim=1, prepend=centre[:, :1]).norm(dim=-1, keepdim=True)
        return {"z": self.gain * speed + 20 * self.method.size * torch.sin(1e3 * centre[..., :1])}
    def loss(self, batch):
        return {"loss": (self.embed(batch)["z"] - 3).square().mean()}
    def after_step(self, step):
        if "DIARY" not in os.environ or os.environ["DRIVER"] == str(os.getpid()):  # which tries a few steps
            return
        time.sleep(float(os.environ.get("PAUSE", 0)))
        with open(os.environ["DIARY"], "a") as file:
            file.write(f"{self.method.size!r} {step + 1} {os.getpid()} {self.method.fate}\\\\n")
        if step == 2:
            self.meet()
    def meet(self):
        fate, marked = self.method.fate, Path(os.environ["DIARY"]).with_suffix(".died")
        if os.environ.get("DIES") == repr(self.method.size):
            fate = "dies"
        if fate == "raises":
            raise ValueError("it fell")
        if fate == "memory":
            torch.empty(1 << 60)
        if fate == "nan":
            self.gain.data.fill_(torch.nan)
        if fate == "hangs":
            time.sleep(3600)
        if fate == "dies" or (fate == "dies once" and not marked.exists()):
            if fate == "dies once":
                marked.touch()
            os.kill(os.getpid(), signal.SIGKILL)

FATES = ["sound", "raises", "memory", "nan", "hangs", "dies", "dies once", "sound too"]

def search(trial, flags):
    return experiment(Tremble(trial.suggest_float("size", 0, 1)), flags)

def fates(trial, flags):
    return experiment(Tremble(0.5, trial.suggest_categorical("fate", FATES)), flags)

def company(trial, flags):
    return experiment(Tremble(trial.suggest_categorical("size", [0.1, 0.2, 0.3, 0.4])), flags)

def experiment(method, flags):
    data = Windows(flags.dataset, seconds=4.0, batch_size=2)
    return Experiment(data, method, (Linear(),), Budget(flags.steps, 1, 5), 0)

if __name__ == "__main__":
    os.environ["DRIVER"] = str(os.getpid())
    kind, trials = sys.argv.pop(1), int(sys.argv.pop(1))
    candidate = {"search": search, "fates": fates, "company": company}[kind]
    many, by = (trials, "random") if kind == "search" else (None, None)
    sweep = Sweep("tremble", candidate, "running/z", many, by, dataset=os.environ["TOY"], steps=20)
    sweep.main()
'''.replace("\\\\n", "\\n")


@pytest.fixture
def place(toy, tmp_path, monkeypatch):
    (tmp_path / "tremble.py").write_text(SCRIPT)
    source = str(Path(__file__).parent.parent / "platform")
    settings = {"PYTHONPATH": source, "TOY": toy.uri, "DIARY": str(tmp_path / "diary"), "PAUSE": "0.05"}
    settings["PYTHONWARNINGS"] = "default"
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "diary").touch()
    return tmp_path


def command(*words: str) -> list[str]:
    return [sys.executable, "tremble.py", *words]


def lines(place: Path) -> list[tuple[str, int, str]]:
    return [(size, int(step), pid) for size, step, pid, *_ in map(str.split, (place / "diary").open())]


def kill_at_a_random_moment(place: Path, dice: random.Random, training: bool) -> bool:
    """Start the sweep and kill its driver while it starts, or after some steps of training; False when it was done."""
    before, seconds = len(lines(place)), dice.uniform(0, 8)
    steps = dice.randrange(1, 3 * STEPS) if training else 10**9
    with (place / "killed.txt").open("a") as out:
        driver = subprocess.Popen(command("search", str(TRIALS)), cwd=place, stdout=out, stderr=out)
        started = time.monotonic()
        while driver.poll() is None and len(lines(place)) < before + steps:
            if not training and time.monotonic() > started + seconds:
                break
            time.sleep(0.02)
        time.sleep(dice.uniform(0, 0.1))
        over = driver.poll() is not None
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    return not over


def script_of(place: Path):
    with testing.script(place / "tremble.py") as script:
        return script


def uninterrupted(place: Path, uri: str) -> dict[float, dict[str, float]]:
    """Scores by candidate of the same draws, trained one after another in this process."""
    script, study, found = script_of(place), optuna.create_study(), {}
    for draw in range(TRIALS):
        study.sampler = sampler("random", draw)
        experiment = script.search(study.ask(), Flags(dataset=uri, steps=STEPS))
        found[experiment.method.size] = dict(run(experiment, place / "alone" / str(draw)))
    return found


def check_attempts(diary: list[tuple[str, int, str]]) -> None:
    """Every attempt at a trial begins after its last checkpoint, and only once the attempt before has ended."""
    for size in {line[0] for line in diary}:
        mine = [line[1:] for line in diary if line[0] == size]
        seen, pids = 0, []
        for step, pid in mine:
            if not pids or pid != pids[-1]:
                assert pid not in pids, f"two processes trained {size} at a time"
                pids.append(pid)
                saved = SAVE * ((seen - 1) // SAVE) if seen else 0
                assert step >= saved + 1, f"{size} was at step {seen} and began again at {step}"
            else:
                assert step == seen + 1, f"{size} repeated step {step}"
            seen = step
        assert seen == STEPS


def test_killed_at_random_moments_every_trial_is_trained_once(toy, place, monkeypatch):
    dice = random.Random(7)
    killed = sum(kill_at_a_random_moment(place, dice, training=turn % 2 == 0) for turn in range(KILLS))
    assert killed == KILLS, (place / "killed.txt").read_text()
    done = subprocess.run(command("search", str(TRIALS)), cwd=place, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == "" and f"[{TRIALS}/{TRIALS}]" in done.stdout
    folders = [path.parent for path in (place / "runs").glob("*/scores.json")]
    assert len(folders) == TRIALS
    check_attempts(lines(place))
    monkeypatch.delenv("DIARY")
    alone = uninterrupted(place, toy.uri)
    for folder in folders:
        size = json.loads((folder / "experiment.json").read_text())["method"]["size"]
        assert json.loads((folder / "scores.json").read_text())["scores"] == alone.pop(size)
    assert not alone
    best = max(json.loads((f / "scores.json").read_text())["scores"]["running/z"] for f in folders)
    assert f"best running/z: {best:.4g}" in done.stdout
    again = subprocess.run(command("search", str(TRIALS)), cwd=place, capture_output=True, text=True, timeout=900)
    assert f"all {TRIALS} trials are done already" in again.stdout
    (memo,) = (place / "runs").glob("*/*/page.json")
    called = json.loads(memo.read_text())["runs"]
    assert called.keys() == {folder.name for folder in folders}
    for key, words in called.items():
        size = json.loads((place / "runs" / key / "experiment.json").read_text())["method"]["size"]
        assert words == f"size {size:.4g}"


def test_a_trial_that_goes_wrong_is_recorded_and_goes_wrong_alone(place):
    words = command("fates", "0", "--limit", str(15 / 3600), "--cpus", "1")
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    (place / "said.txt").write_text(done.stdout)
    told = {}
    for path in (place / "runs").glob("*/experiment.json"):
        fate = json.loads(path.read_text())["method"]["fate"]
        failure = path.with_name("failure.json")
        told[fate] = json.loads(failure.read_text()) if failure.exists() else None
        assert path.with_name("scores.json").exists() == (failure.exists() is False)
    assert {fate for fate, failure in told.items() if failure is None} == {"sound", "sound too", "dies once"}
    assert "it fell" in told["raises"]["error"] and "in meet" in told["raises"]["traceback"]
    assert "memory" in told["memory"]["error"] and "in meet" in told["memory"]["traceback"]
    assert "nan" in told["nan"]["error"]
    assert "no sign of life" in told["hangs"]["error"] and "in meet" in told["hangs"]["traceback"]
    assert "died again and again" in told["dies"]["error"] and "died" in told["dies"]["traceback"]
    assert "5 trials failed" in done.stdout and "[8/8]" in done.stdout
    pids = {}
    for line in (place / "diary").open():
        _, _, pid, *fate = line.split()
        pids.setdefault(" ".join(fate), set()).add(pid)
    assert len(pids["dies"]) == 4 and len(pids["dies once"]) == 2
    assert len(set.union(*pids.values())) < sum(map(len, pids.values())), "workers are used again"


def test_trials_in_one_process_score_as_alone_and_one_that_kills_it_fails_alone(toy, place, monkeypatch):
    monkeypatch.setenv("DIES", "0.3")
    words = command("company", "0", "--together", "4", "--at-once", "1")
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[4/4]" in done.stdout and "1 trials failed" in done.stdout
    first = {size: pid for size, _, pid in reversed(lines(place))}
    assert len(first) == 4 and len(set(first.values())) == 1, "all began in one process"
    found = {json.loads(p.read_text())["method"]["size"]: p.parent for p in (place / "runs").glob("*/experiment.json")}
    assert "died again and again" in json.loads((found[0.3] / "failure.json").read_text())["error"]
    monkeypatch.delenv("DIARY")
    script = script_of(place)
    for size in (0.1, 0.2, 0.4):
        experiment = script.experiment(script.Tremble(size), Flags(dataset=toy.uri, steps=STEPS))
        scores = dict(run(experiment, place / "alone" / str(size)))
        assert json.loads((found[size] / "scores.json").read_text())["scores"] == scores
