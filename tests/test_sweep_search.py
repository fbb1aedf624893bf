"""A search that is killed draws what it would have drawn; pruners and costs are told what they need."""

import json
from functools import partial
from pathlib import Path

import optuna
import pytest

from ethoray import record
from ethoray.batch import Windows
from ethoray.experiment import Experiment
from ethoray.learning import Budget
from ethoray.methods.bams import BAMS
from ethoray.methods.raw import Raw
from ethoray.probes.linear import Linear
from ethoray.sweep import Flags, Sweep, SweepError
from ethoray.sweep.flags import parse
from ethoray.sweep.journal import open_journal
from ethoray.sweep.proposals import Proposals, settle
from ethoray.sweep.question import Question, grid
from ethoray.sweep.samplers import best, front, pruner, sampler
from ethoray.sweep.trial import TURN


def candidate(trial: optuna.Trial, flags: Flags) -> Experiment:
    seconds = 4.0 + trial.suggest_float("more", 0, 1)
    return Experiment(Windows(flags.dataset, seconds=seconds), Raw(), (Linear(),), Budget(flags.steps), 0)


def pulled(trial: optuna.Trial, flags: Flags) -> Experiment:
    method = BAMS(alpha=trial.suggest_float("alpha", 0, 1))
    return Experiment(Windows(flags.dataset, seconds=4.3), method, (Linear(),), Budget(flags.steps), 0)


def score(question: Question, config: dict) -> float:
    return 1 - (config["work"].experiment.data.seconds - 4.3) ** 2


def finish(question: Question, config: dict, losses: dict[int, float] | None = None) -> None:
    folder = question.folder(config["key"])
    folder.mkdir(parents=True, exist_ok=True)
    log(folder, losses or {})
    document = {"scores": {"running/raw": score(question, config)}, "cost": {"parameters": 7}}
    (folder / "scores.json").write_text(json.dumps(document))


def log(folder, losses):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"step": step, "seconds": 1.0, "loss": loss}) for step, loss in losses.items()]
    (folder / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))


class Searching:
    """A search with one trial at a time, whose driver can be killed: only the journal and the folders stay."""

    def __init__(self, toy, place, total=12, *, ways=("maximize",), candidate=candidate, **flags):
        self.flags = Flags(dataset=toy.uri, storage=str(place), trials=total, steps=90, **flags)
        self.question = Question(candidate, self.flags, toy, "running/raw")
        self.path, self.total, self.ways = place / "search" / "optuna.journal", total, list(ways)
        self.start()

    def start(self):
        storage = open_journal(self.path)
        self.study = optuna.create_study(storage=storage, study_name="s", directions=self.ways, load_if_exists=True)
        self.study.pruner = pruner(self.flags.prune, self.flags.steps)
        ledger = settle(self.study, self.question, [], self.total)
        self.asked = Proposals(
            self.question, self.study, storage, self.total, ledger, lambda config, values: None,
            partial(sampler, self.flags.sampler), self.study.pruner,
        )  # fmt: skip

    def drain(self, killed_at=()):
        """Keys in the order in which they were finished; killed while the trials of these places run."""
        keys, kills = [], list(killed_at)
        while isinstance(config := self.asked.suggest("t"), dict):
            if kills and len(keys) == kills[0]:
                kills.pop(0)
                self.start()
                continue
            finish(self.question, config)
            self.asked.on_trial_complete("t", {"value": score(self.question, config)})
            keys.append(config["key"])
        return keys


@pytest.mark.parametrize("kind", ["random", "tpe", "gp"])
def test_a_killed_search_draws_what_it_would_have_drawn(kind, toy, tmp_path):
    whole = Searching(toy, tmp_path / "whole", sampler=kind).drain()
    broken = Searching(toy, tmp_path / "broken", sampler=kind).drain(killed_at=[0, 3, 3, 11])
    assert broken == whole and len(set(whole)) == 12


def test_killed_between_a_draw_and_its_number_nothing_is_drawn_twice(toy, tmp_path):
    search = Searching(toy, tmp_path, total=3, sampler="random")
    search.asked.suggest("t")
    lines = search.path.read_text().splitlines(keepends=True)
    assert '"draw"' in lines[-1]
    search.path.write_text("".join(lines[:-1]))
    search.start()
    assert len(set(search.drain())) == 3


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_sampler_of_optunas_own_is_taken_as_it_is():
    mine = optuna.samplers.QMCSampler(seed=1)
    assert sampler(mine, 5) is mine
    assert Sweep("s", candidate, "running/raw", 5, mine).flags().sampler is mine
    assert Sweep("s", candidate, "running/raw", 5).flags().sampler == "tpe"
    assert Sweep("s", candidate, "running/raw").flags().sampler == "grid"
    assert parse(Flags(), ["--sampler", "gp"]).sampler == "gp"


def test_a_search_without_an_end_is_refused(toy, tmp_path):
    sweep = Sweep("s", candidate, "running/raw", dataset=toy.uri)
    with pytest.raises(SweepError, match="no grid"):
        sweep.run(storage=str(tmp_path), dry_run=True)
    with pytest.raises(SweepError, match="give --trials"):
        sweep.run(storage=str(tmp_path), dry_run=True, sampler="random")
    with pytest.raises(SweepError, match="no grid"):
        grid(candidate, Flags())


@pytest.mark.parametrize(
    "wrong", [["--sampler", "best"], ["--prune", "all"], ["--cost", "time"], ["--limit", "0"], ["--price", "-1"],
              ["--at-once", "0"], ["--cost", "parameters", "--prune", "asha"]],
)  # fmt: skip
def test_flags_that_mean_nothing_are_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        parse(Flags(), wrong)
    assert wrong[0] in capsys.readouterr().err


def test_no_more_is_proposed_than_there_is_room_for(toy, tmp_path):
    search = Searching(toy, tmp_path, sampler="random")
    room = 1
    search.asked.slots = lambda: room
    first = search.asked.suggest("a")
    assert isinstance(first, dict) and search.asked.suggest("b") is None
    room = 2  # a node has joined
    assert isinstance(search.asked.suggest("b"), dict) and search.asked.suggest("c") is None


def sharing(toy, place, slots, total=7):
    """A search whose trials are alike, four to a process at most, on so many slots."""
    search = Searching(toy, place, total, sampler="random", candidate=pulled)
    search.asked.together, search.asked.slots = 4, lambda: slots
    return search


def works(config):
    return [one["work"] for one in (config, *config.get("others", ()))]


def test_alike_trials_share_a_process_and_leave_no_slot_empty(toy, tmp_path):
    search = sharing(toy, tmp_path, 2)
    first, second = (search.asked.suggest(name) for name in "ab")
    assert (len(works(first)), len(works(second))) == (4, 2)
    assert search.asked.suggest("c") is None
    for config in works(first):
        finish(search.question, {"key": config.folder.rpartition("/")[2], "work": config})
    search.asked.on_trial_complete("a", {"value": score(search.question, first)})
    last = search.asked.suggest("c")
    assert len(works(last)) == 1 and search.asked.suggest("d") is None
    (search.question.folder(second["key"])).mkdir()
    record.fail(search.question.folder(second["key"]), ValueError("no"))
    finish(search.question, second["others"][0])
    search.asked.on_trial_complete("b", {"failed": "ValueError: no"})
    finish(search.question, last)
    search.asked.on_trial_complete("c", {"value": score(search.question, last)})
    assert search.asked.suggest("d") == "FINISHED"
    assert len(search.asked.ledger) == 6 and search.asked.failed == {second["key"]}
    assert all(v == (score(search.question, first),) for v in search.asked.ledger.values())
    search.start()
    assert len(search.asked.ledger) == 6, "a later command finds them done"


def test_trials_that_are_not_alike_and_searches_share_nothing(toy, tmp_path):
    search = Searching(toy, tmp_path, sampler="random")
    search.asked.together, search.asked.slots = 4, lambda: 1
    assert "others" not in search.asked.suggest("a")


def test_who_dies_in_company_fails_alone_and_who_had_no_turn_is_tried_again(toy, tmp_path):
    search = sharing(toy, tmp_path, 1)
    config = search.asked.suggest("a")
    done, dead, raised, waiting = works(config)
    finish(search.question, config)
    Path(raised.folder).mkdir()
    record.fail(Path(raised.folder), ValueError("no"))
    (Path(done.folder) / TURN).write_text(Path(dead.folder).name)
    search.asked.on_trial_complete("a", error=True)
    assert set(search.asked.ledger) == {Path(done.folder).name}
    assert search.asked.failed == {Path(work.folder).name for work in (dead, raised)}
    again = search.asked.suggest("b")
    assert again["key"] == Path(waiting.folder).name and "others" not in again


def test_a_number_that_is_none_never_becomes_best(toy, tmp_path):
    search = Searching(toy, tmp_path, sampler="random")
    key = search.asked.suggest("a")["key"]
    search.asked.on_trial_complete("a", {"value": float("nan")})
    assert key in search.asked.failed and key not in search.asked.ledger
    assert search.study.get_trials()[-1].state == optuna.trial.TrialState.FAIL


def test_the_best_of_equals_does_not_depend_on_who_came_first():
    values = {"b": (0.5,), "a": (0.5,), "c": (0.4,)}
    assert best(values, "maximize") == "a" == best(dict(reversed(values.items())), "maximize")
    assert best(values, "minimize") == "c"


def test_cost_is_a_second_objective(toy, tmp_path):
    assert front({"a": (0.9, 5.0), "b": (0.8, 1.0), "c": (0.7, 2.0)}, "maximize") == ["b", "a"]
    search = Searching(toy, tmp_path, ways=("maximize", "minimize"), sampler="tpe", cost="parameters")
    first, second = (search.asked.suggest(name) for name in "ab")
    search.asked.on_trial_complete("a", {"value": 0.5, "cost": 3.0})
    search.asked.on_trial_complete("b", {"value": 0.5})  # a cost that is not known is no pruned trial
    assert search.asked.ledger == {first["key"]: (0.5, 3.0), second["key"]: ()}
    assert search.study.get_trials()[0].values == [0.5, 3.0]
    finish(search.question, first)
    search.start()
    assert search.asked.ledger == {first["key"]: (score(search.question, first), 7.0)}


@pytest.mark.parametrize("kind", ["asha", "median"])
def test_a_pruner_judges_after_a_crash_as_it_would_have_before(kind, toy, tmp_path):
    search = Searching(toy, tmp_path, total=20, sampler="random", prune=kind)
    curves = [{step: level + 1 / step for step in range(10, 91, 10)} for level in (0.1, 0.2, 0.3, 0.4)]
    for curve in curves:
        config = search.asked.suggest("t")
        finish(search.question, config, curve)
        if curve is not curves[-1]:  # the last one ends while nobody is there to tell
            [search.asked.hopeless("t", step, loss) for step, loss in curve.items()]
            search.asked.on_trial_complete("t", {"value": score(search.question, config)})
    poor = [(step, 9.0) for step in range(10, 91, 10)]
    search.start()
    assert len(search.asked.ledger) == 4
    config = search.asked.suggest("t")
    stopped = [step for step, loss in poor if search.asked.hopeless("t", step, loss)]
    assert stopped and stopped[0] < 60
    search.asked.on_trial_complete("t", {"step": stopped[0], "loss": 9.0})
    assert search.asked.ledger[config["key"]] == ()
    good = search.asked.suggest("t")
    assert not any(search.asked.hopeless("t", step, 0.01) for step in range(10, 91, 10))
    search.asked.on_trial_complete("t", {"value": score(search.question, good)})
    search.start()
    assert search.asked.ledger[config["key"]] == (), "what was pruned stays pruned"


def test_a_resumed_trial_brings_its_earlier_losses(toy, tmp_path):
    search = Searching(toy, tmp_path, sampler="random", prune="asha")
    config = search.asked.suggest("t")
    log(search.question.folder(config["key"]), {10: 3.0, 20: 2.0})
    search.asked.hopeless("t", 30, 1.0)
    assert search.study.get_trials()[-1].intermediate_values == {10: -3.0, 20: -2.0, 30: -1.0}


def test_without_pruning_what_was_pruned_is_trained(toy, tmp_path):
    search = Searching(toy, tmp_path, sampler="random", prune="asha")
    key = search.asked.suggest("t")["key"]
    search.asked.on_trial_complete("t", {"step": 10, "loss": 9.0})
    search.start()
    assert search.asked.ledger == {key: ()}
    search = Searching(toy, tmp_path, sampler="random")
    assert search.asked.ledger == {} and search.asked.suggest("t")["key"] == key
