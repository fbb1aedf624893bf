"""Every question in sweeps/ is one a reader can find and one that builds; found here without a list."""

import importlib.util
import pickle
from pathlib import Path

import optuna
import pytest

from ethoray import record
from ethoray.experiment import Experiment
from ethoray.sweep import Sweep
from ethoray.sweep.question import grid

FOLDER = Path(__file__).resolve().parent.parent / "sweeps"
SCRIPTS = sorted(FOLDER.glob("*.py"))


@pytest.fixture(params=SCRIPTS, ids=lambda path: path.stem)
def script(request):
    spec = importlib.util.spec_from_file_location(request.param.stem, request.param)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_is_a_question():
    assert SCRIPTS


def test_it_asks_a_question_that_the_readme_lists(script):
    question = script.__doc__.splitlines()[0]
    assert question.endswith("?")
    assert question in (FOLDER / "README.md").read_text()


def test_it_is_a_sweep_named_like_its_file(script):
    assert isinstance(script.sweep, Sweep)
    assert script.sweep.name == Path(script.__file__).stem


def test_its_candidates_are_experiments_that_a_record_can_keep(script):
    flags = script.sweep.flags(seeds=(0, 1), steps=7)
    for trial in grid(script.candidate, flags)[:4]:
        experiment = script.candidate(optuna.trial.FixedTrial(trial.params), flags)
        assert isinstance(experiment, Experiment)
        assert experiment.budget.steps == 7
        assert record.from_json(record.to_json(experiment)) == experiment
        assert pickle.loads(pickle.dumps(experiment)) == experiment


def test_seeds_are_an_axis(script):
    one, three = (len(grid(script.candidate, script.sweep.flags(seeds=s))) for s in ((0,), (0, 1, 2)))
    assert three == 3 * one
