"""A sweep asks for exactly its trials, each once, whatever kills it."""

import json
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import optuna
import pytest

from ethoray import cohort
from ethoray.batch import Windows
from ethoray.experiment import Experiment
from ethoray.learning import Budget
from ethoray.methods.bams import BAMS
from ethoray.methods.raw import Raw
from ethoray.probes.linear import Linear
from ethoray.schema import Card, Skeleton, Task
from ethoray.sweep import Flags, Sweep, SweepError
from ethoray.sweep.flags import home, parse, runs
from ethoray.sweep.journal import open_journal
from ethoray.sweep.proposals import Proposals, settle
from ethoray.sweep.question import Question, grid
from ethoray.sweep.samplers import sampler
from ethoray.sweep.session import Session
from ethoray.sweep.trial import _side_by_side, matches, measure, outcome, resolve


def candidate(trial: optuna.Trial, flags: Flags) -> Experiment:
    method = Raw(features=trial.suggest_categorical("features", ["auto", "generic"]))
    seed = trial.suggest_categorical("seed", list(flags.seeds))
    return Experiment(Windows(flags.dataset), method, (Linear(),), Budget(flags.steps), seed)


def alphas(trial: optuna.Trial, flags: Flags) -> Experiment:
    method = BAMS(
        features="generic", short_channels=(4,), long_channels=(4,), head=(4,), horizon=0.2, warmup=0.2,
        anchor_stride=9, alpha=trial.suggest_categorical("alpha", [0.0, 0.5, 1.0]),
    )  # fmt: skip
    data = Windows(flags.dataset, seconds=4.0, batch_size=2)
    return Experiment(data, method, (Linear(),), Budget(flags.steps, device="cpu"), 0)


@pytest.fixture
def question(toy, tmp_path):
    return Question(candidate, Flags(dataset=toy.uri, storage=str(tmp_path / "runs")), toy, "running/raw")


@pytest.fixture
def study(question):
    storage = open_journal(Path(question.flags.storage) / "letters" / "optuna.journal")
    return optuna.create_study(storage=storage, study_name="letters@1", direction="maximize", load_if_exists=True)


def finish(question: Question, key: str, value: float = 0.5) -> None:
    question.folder(key).mkdir(parents=True, exist_ok=True)
    (question.folder(key) / "scores.json").write_text(json.dumps({"scores": {"running/raw": value}}))


def proposals(question, study, total, ledger):
    draw = partial(sampler, "random")
    return Proposals(question, study, study._storage, total, ledger, lambda config, values: None, draw)


def drain(asked: Proposals) -> list[str]:
    """Keys in the order a sweep of one trial at a time would run them, all finished."""
    keys = []
    while isinstance(config := asked.suggest(f"t{len(keys)}"), dict):
        finish(asked.question, config["key"])
        asked.on_trial_complete(f"t{len(keys)}", {"value": 0.5})
        keys.append(config["key"])
    return keys


def test_a_grid_is_every_point_once_in_whole_rounds_of_seeds():
    points = [p.params for p in grid(candidate, Flags(seeds=(4, 2)))]
    assert [p["seed"] for p in points] == [4, 4, 2, 2]
    assert len({tuple(p.items()) for p in points}) == 4


def test_a_grid_runs_each_point_once(question, study):
    points = grid(candidate, question.flags)
    ledger = settle(study, question, points, 6)
    assert len(set(drain(proposals(question, study, 6, ledger)))) == 6
    assert len(settle(study, question, points, 6)) == 6


def test_what_another_sweep_finished_is_not_proposed(question, study):
    points = grid(candidate, question.flags)
    finish(question, question.of(points[0].params)["key"])
    ledger = settle(study, question, points, 6)
    assert len(ledger) == 1
    assert len(drain(proposals(question, study, 6, ledger))) == 5


def test_trials_left_running_by_a_killed_sweep_are_proposed_again(question, study):
    points = grid(candidate, question.flags)
    killed = proposals(question, study, 6, settle(study, question, points, 6))
    left_running = {killed.suggest(name)["key"] for name in ("x", "y")}
    ledger = settle(study, question, points, 6)
    again = drain(proposals(question, study, 6, ledger))
    assert set(again[:2]) == left_running
    assert len(again) == len(set(again)) == 6


def test_a_trial_killed_while_it_was_drawn_is_forgotten(question, study):
    study.ask().suggest_categorical("features", ["auto", "generic"])
    assert settle(study, question, [], 6) == {}
    assert study.trials[0].state == optuna.trial.TrialState.FAIL


def test_a_sampler_that_repeats_itself_ends_the_sweep(question, study, caplog):
    keys = drain(proposals(question, study, 50, {}))
    assert len(keys) == len(set(keys)) == 6  # all there are
    assert "fewer than 50" in caplog.text


def test_a_failed_trial_counts_once_and_is_tried_again_next_time(question, study):
    points = grid(candidate, question.flags)
    asked = proposals(question, study, 6, settle(study, question, points, 6))
    broken = asked.suggest("x")["key"]
    asked.on_trial_complete("x", {"failed": "ValueError: no", "value": 0.9})
    assert broken not in asked.ledger
    assert len(drain(asked)) == 5
    ledger = settle(study, question, points, 6)
    assert drain(proposals(question, study, 6, ledger)) == [broken]


def test_a_torn_journal_is_mended(question, study, caplog):
    points = grid(candidate, question.flags)
    settle(study, question, points, 6)
    path = Path(question.flags.storage) / "letters" / "optuna.journal"
    path.write_bytes(path.read_bytes()[:-7])
    again = optuna.load_study(study_name="letters@1", storage=open_journal(path))
    assert "torn" in caplog.text
    assert len(drain(proposals(question, again, 6, settle(again, question, points, 6)))) == 6


def test_a_value_that_is_no_number_is_an_error():
    with pytest.raises(SweepError, match="not a number"):
        measure({"a/long": math.nan}, "a/long")
    with pytest.raises(SweepError, match="this run has a/long"):
        measure({"a/long": 0.5}, "b/long")
    assert measure({"a/long": 0.5, "b/long": 0.7, "a/short": 0.0, "a/long@5.0": 0.0}, "*/long") == pytest.approx(0.6)


def test_the_direction_is_the_tasks(toy):
    tasks = (Task("chase"), Task("strain", kind="regression", level="recording", metric="mse"))
    card = Card("toy", "mouse", 30.0, Skeleton(("nose",)), tasks)
    assert resolve("chase/all", card, None) == ("chase/all", "maximize")
    assert resolve("strain/all", card, None) == ("strain/all", "minimize")
    assert resolve("*/long", card, "maximize") == ("chase/long", "maximize")
    assert resolve("*/long", card, "minimize") == ("strain/long", "minimize")
    with pytest.raises(SweepError, match="choose one"):
        resolve("*/all", card, None)
    with pytest.raises(SweepError, match="no such task"):
        resolve("nap/all", card, None)
    with pytest.raises(SweepError, match="no such task"):
        resolve("chase/all", card, "minimize")
    assert measure({"a/long": 0.5, "b/long": 0.7, "c/long": 9.0}, "a/long,b/long") == pytest.approx(0.6)


def test_flags_are_the_same_for_every_sweep(capsys):
    flags = parse(Flags(), ["--seeds", "3", "4", "--steps", "9", "--gpus", "0.25", "--dry-run"])
    assert (flags.seeds, flags.steps, flags.gpus, flags.dry_run) == ((3, 4), 9, 0.25, True)
    for wrong in (["--steps", "0"], ["--seeds", "1", "1"], ["--stops", "3"], ["--trials", "-1"],
                  ["--cost", "peak_mb", "--together", "2"]):  # fmt: skip
        with pytest.raises(SystemExit):
            parse(Flags(), wrong)


def test_results_never_go_into_a_jobs_temporary_copy(tmp_path, monkeypatch):
    copy = tmp_path / "_ray_pkg_0123"
    copy.mkdir()
    outside = subprocess.run(
        [sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[1:], cwd='_ray_pkg_0123', check=True)",
         sys.executable, "-c", "from ethoray.sweep.flags import home; print(home())"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent / "platform")},
    )  # fmt: skip
    assert outside.stdout.strip().splitlines()[-1] == str(tmp_path.resolve())
    monkeypatch.delenv("ETHORAY_RUNS")
    monkeypatch.chdir(tmp_path)
    assert runs() == (tmp_path / "runs").resolve()
    assert home() == tmp_path.resolve()


def test_a_dataset_that_is_not_prepared_says_how(capsys):
    with pytest.raises(SystemExit) as ended:
        Sweep("letters", candidate, metric="running/raw", dataset="nowhere").main([])
    assert ended.value.code == 2
    assert "python datasets/nowhere.py --out nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "company"),
    [
        ({}, 1),
        ({"together": 3}, 3),
        ({"together": 3, "prune": "asha"}, 1),
        ({"together": 3, "sampler": "tpe", "trials": 9}, 1),
    ],
)
def test_trials_share_a_process_where_none_waits_for_another(toy, tmp_path, flags, company):
    asked = Flags(dataset=toy.uri, storage=str(tmp_path), **{"sampler": "grid", **flags})
    assert Session(Sweep("alphas", alphas, metric="running/short"), asked, "why?")._together() == company


def test_alike_trials_of_two_shapes_are_two_cohorts(toy, tmp_path, monkeypatch):
    flags, made = Flags(dataset=toy.uri, storage=str(tmp_path), steps=2), []
    asked = Question(alphas, flags, toy, "running/short")
    works = [asked.of({"alpha": alpha})["work"] for alpha in (0.0, 0.5, 1.0)]  # the first has no bootstrap
    whole = cohort.train
    monkeypatch.setattr(cohort, "train", lambda group, log: (made.append(len(group)), whole(group, log=log))[1])
    answer = _side_by_side(works)
    assert made == [1, 2] and not list(tmp_path.glob("*/turn.txt"))
    assert answer["value"] == outcome(works[0])["value"] and all("value" in outcome(work) for work in works)


def test_a_dry_run_trains_nothing(toy, tmp_path, capsys):
    sweep = Sweep("letters", candidate, metric="running/raw", dataset=toy.uri)
    assert sweep.run(dry_run=True, storage=str(tmp_path / "runs")) is None
    said = capsys.readouterr().out
    assert "6 trials of 400 steps" in said and "features=auto seed=2" in said and "memory:" in said and "time:" in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("smoke_trials", "typed", "runs_"), [(2, None, 2), (5, None, 5), (5, 3, 3), (5, 6, 5)])
def test_smoke_runs_two_steps_of_as_many_trials_as_the_sweep_says(smoke_trials, typed, runs_, toy, tmp_path, capsys):
    sweep = Sweep("letters", candidate, metric="running/raw", dataset=toy.uri, smoke_trials=smoke_trials)
    sweep.run(dry_run=True, smoke=True, trials=typed, storage=str(tmp_path / "runs"))
    assert f"letters-smoke: {runs_} trials of 2 steps" in capsys.readouterr().out


def test_all_of_a_method_with_one_space_is_that_space():
    one, two = {"a/z": 0.5, "b/z": 0.7, "a/z@5.0": 0.0}, {"a/all": 0.4, "b/all": 0.6, "a/short": 0.9, "b/short": 0.9}
    assert matches(one, "*/all") == ["a/z", "b/z"] and matches(one, "a/all,b/all") == ["a/z", "b/z"]
    assert measure(one, "a/all,b/all") == pytest.approx(0.6)
    assert measure(two, "*/all") == pytest.approx(0.5)
    assert matches(one, "*/short") == []
    assert matches({"a/short": 0.5, "a/long": 0.5}, "*/all") == []
