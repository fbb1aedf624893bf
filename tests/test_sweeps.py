"""Every question in sweeps/ is one a reader can find and one that builds; found here without a list."""

import pickle
from pathlib import Path

import optuna
import pandas as pd
import pytest

from ethoray import record, testing
from ethoray.experiment import Experiment
from ethoray.sweep import Sweep
from ethoray.sweep.question import grid

FOLDER = Path(__file__).resolve().parent.parent / "sweeps"
SCRIPTS = sorted(FOLDER.glob("*.py"))


@pytest.fixture(params=SCRIPTS, ids=lambda path: path.stem)
def script(request):
    with testing.script(request.param) as module:
        yield module


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


def test_methods_of_images_ask_for_images_where_a_dataset_holds_keypoints_too(script):
    for trial in grid(script.candidate, script.sweep.flags(seeds=(0,))):
        experiment = script.candidate(optuna.trial.FixedTrial(trial.params), script.sweep.flags(seeds=(0,)))
        assert (experiment.data.inputs == "images") == (experiment.method.needs == "images")


def test_seeds_are_an_axis(script):
    one, three = (len(grid(script.candidate, script.sweep.flags(seeds=s))) for s in ((0,), (0, 1, 2)))
    assert three == 3 * one


@pytest.mark.parametrize("script", [FOLDER / "tuned_methods.py"], indirect=True)
def test_tuning_takes_the_rate_that_scored_best_on_other_recordings(script, monkeypatch):
    asked = []

    class Tried:
        def __init__(self, name, candidate, **metric):
            self.name, self.candidate = name, candidate

        def run(self, flags, question):
            asked.append((flags.dataset, flags.trials, flags.seeds, flags.prune))
            rows = []
            for rate, value in ((0.001, 0.4), (0.004, 0.9), (0.008, 0.5)):
                experiment = self.candidate(optuna.trial.FixedTrial({"lr": rate, "seed": 3}), flags)
                about = {"key": str(rate), "seed": 0, "method": experiment.method.name, "folder": str(rate)}
                about |= {"score": "running/all", "task": "running", "space": "all", "metric": "f1", "level": "frame"}
                about |= {"low": value, "high": value, "cost": {}, "monitors": {}, "train_seconds": 1.0}
                rows.append({**about, "value": value, "commit": "", "dirty": False, "method.lr": experiment.method.lr})
            return pd.DataFrame(rows)

    monkeypatch.setattr(script, "Sweep", Tried)
    flags = script.sweep.flags(dataset="mice", seeds=(3, 4))
    script.tune(flags)
    assert set(asked) == {("mice_tuning", script.TRIALS, (3,), "asha")}
    assert len(script.RATES) == len(asked) > 8 and set(script.RATES.values()) == {0.004}
    learned = script.candidate(optuna.trial.FixedTrial({"method": "bams", "seed": 3}), flags)
    assert learned.method.lr == 0.004 and learned.data.dataset == "mice"
