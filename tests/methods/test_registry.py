"""A method is one file: put it into the folder and it is in the CLI, the sweep and on the leaderboard."""

import json
import sys
from pathlib import Path

import optuna
import pytest

from ethoray import cli, methods, record, testing, wording
from ethoray.leaderboard import collect, leaderboard
from ethoray.sweep.question import grid
from ethoray.tracking import Mirror

SWEEPS = Path(__file__).resolve().parents[2] / "sweeps"
FILE = '''"""Speed of every animal through a linear map."""

from dataclasses import dataclass

import torch
from torch import nn

from ethoray.learning import Learner, Method


@dataclass(frozen=True)
class Dummy(Method):
    width: int = 4
    presets = {"paper": {}, "small": {"width": 3}}

    def build(self, spec):
        return DummyEncoder(self, spec)


class DummyEncoder(Learner):
    def __init__(self, method, spec):
        super().__init__()
        self.seed = spec.seed
        self.net = nn.Linear(spec.space, method.width)
        self.back = nn.Linear(method.width, spec.space)

    def embed(self, batch):
        x = batch.keypoints.nan_to_num().mean(3)
        return {"dummy": torch.tanh(self.net(x.diff(dim=1, prepend=x[:, :1])))}

    def loss(self, batch):
        x = batch.keypoints.nan_to_num().mean(3)
        error = self.back(self.embed(batch)["dummy"]) - x.diff(dim=1, prepend=x[:, :1])
        return {"loss": error.square().mean()}
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A further folder of methods, which the package sees as its own."""
    place = tmp_path / "methods"
    place.mkdir()
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(place)])
    before = set(sys.modules)
    yield place
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and Path(sys.modules[name].__file__).parent == place:
            del sys.modules[name]
            vars(methods).pop(name.rpartition(".")[2], None)


def sweep_script():
    with testing.script(SWEEPS / "all_methods.py") as module:
        return module


def test_a_file_is_a_method_everywhere(folder):
    assert "dummy" not in methods.names()
    (folder / "dummy.py").write_text(FILE)
    assert "dummy" in methods.names()
    assert methods.load("dummy")().name == "dummy"
    assert wording.configure("dummy", "small", ["width=2"]).width == 2
    script = sweep_script()
    assert script.sweep.smoke_trials == len(methods.names("keypoints"))
    flags = script.sweep.flags(seeds=(0, 1))
    (first, _) = [p.params for p in grid(script.candidate, flags) if p.params["method"] == "dummy"]
    experiment = script.candidate(optuna.trial.FixedTrial(first), flags)
    assert experiment.method == methods.load("dummy")(width=3)
    assert record.from_json(json.loads(json.dumps(record.to_json(experiment)))) == experiment


def test_every_method_is_a_trial_of_a_smoke_sweep():
    script = sweep_script()
    points = [p.params for p in grid(script.candidate, script.sweep.flags())][: script.sweep.smoke_trials]
    assert sorted(p["method"] for p in points) == sorted(methods.names("keypoints"))


def test_a_files_method_trains_and_lands_on_the_leaderboard(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Mirror, "follow", lambda *_, **__: True)
    (folder / "dummy.py").write_text(FILE)
    testing.toy_dataset(tmp_path / "store" / "toy", seconds=8.0, fps=10.0)
    shared = ("--seconds", "4", "--steps", "3")
    cli.main(["train", "toy", "dummy", "--preset", "small", *shared])
    cli.main(["train", "toy", "pca", "--set", "components=4", *shared])
    assert "running/dummy" in capsys.readouterr().out
    board = leaderboard(collect(sorted(p.parent for p in (tmp_path / "runs").glob("*/scores.json"))))
    assert {row["method"] for row in board.rows} == {"dummy", "pca"}
    assert all({"running/all", "lively/all"} <= set(row["cells"]) for row in board.rows)
    (row,) = [row for row in board.rows if row["method"] == "dummy"]
    assert row["monitors"]["dummy/deviation"] > 0 and row["monitors"]["gradient_norm"] > 0


def test_a_file_that_defines_no_method_says_so(folder):
    (folder / "empty.py").write_text('"""Nothing."""\n')
    with pytest.raises(LookupError, match="must define exactly one Method, it defines 0"):
        methods.load("empty")


def test_a_file_with_an_underscore_is_no_method(folder):
    (folder / "_draft.py").write_text(FILE)
    assert "_draft" not in methods.names()
