"""What to try next: Optuna's journal of proposals, settled with the ledger of finished runs."""

from __future__ import annotations

import itertools
import logging
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from ethoray import record
from ethoray.experiment import Experiment
from ethoray.store import Dataset
from ethoray.sweep.flags import Flags
from ethoray.sweep.trial import SweepError, Work, measure, spent

Candidate = Callable[[optuna.Trial, Flags], Experiment]
Values = tuple[float, ...]
"""The metric of a trial, and its cost where that counts too; empty for a pruned one."""

_QUEUED = "queued"  # a trial that was not drawn: a point of a grid, or one that was interrupted
_REPEATS = 100  # proposals in a row that were all tried before: the space holds no more
_log = logging.getLogger(__name__)


class Question:
    """A candidate function with the flags and the data it is asked about: parameters become runs."""

    def __init__(self, candidate: Candidate, flags: Flags, dataset: Dataset, metric: str) -> None:
        self.candidate, self.flags, self.dataset, self.metric = candidate, flags, dataset, metric

    @property
    def prune(self) -> bool:
        """Whether trials may be stopped early."""
        return self.flags.prune != "none"

    def __call__(self, trial: optuna.Trial) -> dict[str, Any]:
        """The trial's work; an attribute of the trial says which run folder it means."""
        flags = self.flags
        experiment = self.candidate(trial, flags)
        experiment = replace(experiment, data=replace(experiment.data, dataset=self.dataset.uri))
        key = record.key(experiment, self.dataset)
        folder, limit = str(self.folder(key)), 3600.0 * flags.limit
        work = Work(
            experiment, folder, self.metric, flags.workers, flags.cpus, flags.gpus, self.prune, flags.cost, limit
        )
        trial.set_user_attr("key", key)
        return {"work": work, "key": key}

    def of(self, params: dict[str, Any]) -> dict[str, Any]:
        """The work of these parameters; ValueError when they are not all there."""
        return self(optuna.trial.FixedTrial(params))  # type: ignore[arg-type]

    def folder(self, key: str) -> Path:
        """The run folder of a key."""
        return Path(self.flags.storage) / key

    def values(self, key: str) -> Values | None:
        """The metric (and the cost) of a finished run, else None; one that is no number is not finished."""
        try:
            scores = record.finished(self.folder(key))
            if scores is None:
                return None
            value, cost = measure(scores, self.metric), self.flags.cost
            return (value, spent(self.folder(key), cost)) if cost else (value,)
        except (SweepError, ValueError):
            return None


class Proposals(OptunaSearch):
    """Optuna's proposals for Ray Tune that stop at a total and never repeat a run.

    A proposal whose run is finished is answered from the ledger without a process, one that was tried in this
    sweep before is answered and does not count.

    Attributes
    ----------
    sampler: of the study's n-th draw.
    slots: how many trials the cluster can run now; no more are proposed at a time.
    ledger: values of every trial that counts as done, by run key.
    """

    def __init__(
        self, question: Question, study: optuna.Study, storage: JournalStorage, total: int, ledger: dict[str, Values],
        found: Callable[[dict[str, Any], Values], None], sampler: Callable[[int], optuna.samplers.BaseSampler],
        pruner: optuna.pruners.BasePruner | None = None, slots: Callable[[], float] = lambda: math.inf,
    ) -> None:  # fmt: skip
        ways = ["max" if way == optuna.study.StudyDirection.MAXIMIZE else "min" for way in study.directions]
        several = len(ways) > 1
        super().__init__(
            question,
            metric=["value", "cost"] if several else "value",
            mode=ways if several else ways[0],
            sampler=sampler(0),
            storage=storage,
            study_name=study.study_name,
        )
        self._ot_study.pruner = pruner or optuna.pruners.NopPruner()
        self.question, self.total, self.ledger, self.found = question, total, ledger, found
        self.sampler, self.slots = sampler, slots
        self.running: dict[str, str] = {}  # Tune's trial: run key
        self.failed: set[str] = set()
        self._inner: dict[str, str] = {}
        self._count, self._draws = itertools.count(), 1 + max(map(_draw, study.trials), default=-1)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Work that nobody did or is doing, None while every slot is taken, or the end of the sweep."""
        for _ in range(_REPEATS):
            if len(self.ledger) + len(self.failed) + len(self.running) >= self.total:
                return str(Searcher.FINISHED)
            if len(self.running) >= self.slots():
                return None
            inner = f"{trial_id}.{next(self._count)}"
            self._ot_study.sampler = self.sampler(self._draws)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Define-by-run function")  # a sampler may take its time
                config = super().suggest(inner)
            assert isinstance(config, dict)
            if _QUEUED not in self._ot_trials[inner].user_attrs:
                self._ot_trials[inner].set_user_attr("draw", self._draws)
                self._draws += 1
            key = config["key"]
            values = self.ledger.get(key) or self.question.values(key)
            if values is None and key not in self.ledger and key not in self.failed and key not in self._taken():
                self.running[trial_id], self._inner[trial_id] = key, inner
                return config
            super().on_trial_complete(inner, _result(values), error=not values)
            if values and key not in self.ledger:
                self.ledger[key] = values
                self.found(config, values)
        _log.warning("every proposal has been tried: the space holds fewer than %d candidates", self.total)
        return str(Searcher.FINISHED)

    def _taken(self) -> set[str]:
        return set(self.running.values())

    def hopeless(self, trial_id: str, step: int, loss: float) -> bool:
        """Tell the pruner a loss, first those from before an interruption, and ask whether to stop the trial."""
        trial = self._ot_trials[self._inner[trial_id]]
        told = trial.storage.get_trial(trial._trial_id).intermediate_values
        if not told:
            replay(trial, self.question.folder(self.running[trial_id]), self._sign, step)
        trial.report(self._sign * loss, step)
        return bool(trial.should_prune())

    @property
    def _sign(self) -> int:
        return sign(self._ot_study)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: only the values at the end are told, the scheduler sees the rest."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna how it ended: values, an error, or neither when it was pruned."""
        key, inner = self.running.pop(trial_id), self._inner.pop(trial_id)
        names = self.metric if isinstance(self.metric, list) else [self.metric]
        found = [(result or {}).get(name) for name in names]
        values: Values = () if None in found else tuple(float(value) for value in found)  # type: ignore[arg-type]
        error = error or "failed" in (result or {}) or not all(map(math.isfinite, values))
        if error:
            self.failed.add(key)
        else:
            self.ledger[key] = values
        super().on_trial_complete(inner, None if error else _result(values), error=error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is what a later command reads."""


def _result(values: Values | None) -> dict[str, float] | None:
    return dict(zip(("value", "cost"), values, strict=False)) if values else None


def _draw(trial: FrozenTrial) -> int:
    return int(trial.user_attrs.get("draw", -1))


def sign(study: optuna.Study) -> int:
    """What a loss is multiplied by, so that the study's direction is also the direction of the losses."""
    return -1 if study.directions[0] == optuna.study.StudyDirection.MAXIMIZE else 1


def replay(trial: optuna.Trial, folder: Path, sign: int, before: float = math.inf) -> None:
    """Tell a pruner the losses that a run folder holds."""
    for line in record.read_metrics(folder):
        if line["step"] < before and "loss" in line:
            trial.report(sign * line["loss"], int(line["step"]))
            trial.should_prune()  # some pruners note what they see when they are asked


def settle(study: optuna.Study, question: Question, points: list[FrozenTrial], total: int) -> dict[str, Values]:
    """Close what a killed run left open, queue what is not done, and answer with what is (the ledger).

    Everything ever proposed to this study, and every point of a grid, is either done (its folder holds scores,
    or it was pruned) or proposed again, in the order of the grid, then of the journal.
    """
    while any(t.state == TrialState.WAITING for t in study.get_trials(deepcopy=False)):
        study.tell(study.ask(), state=TrialState.FAIL)
    ledger: dict[str, Values] = {}
    told: set[str] = set()
    again: dict[str, dict[str, Any]] = {question.of(point.params)["key"]: point.params for point in points}
    for trial in study.trials:
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
        try:
            key = question.of(trial.params)["key"]
        except ValueError:  # killed while it was drawn: not all parameters are known
            continue
        again.setdefault(key, trial.params)
        if trial.state == TrialState.PRUNED and question.prune:
            ledger[key] = ()
        if trial.state == TrialState.COMPLETE:
            told.add(key)
    for key, params in again.items():
        values = question.values(key)
        if values is not None and (key in told or len(ledger) < total):
            ledger[key] = values
            if key not in told:
                _tell(study, question, params, values)
    for key, params in again.items():
        if key not in ledger:
            study.enqueue_trial(params, user_attrs={_QUEUED: True})
    return ledger


def _tell(study: optuna.Study, question: Question, params: dict[str, Any], values: Values) -> None:
    """Make a finished run known to the sampler, and its losses to the pruner."""
    study.enqueue_trial(params, user_attrs={_QUEUED: True})
    trial = study.ask()
    key = question(trial)["key"]
    if question.prune:
        replay(trial, question.folder(key), sign(study))
    study.tell(trial, list(values))


def grid(candidate: Candidate, flags: Flags) -> list[FrozenTrial]:
    """Every point of a grid once, whole rounds of a seed after another: a shortened grid stays balanced.

    Raises SweepError for a space that has no end, such as a number without steps.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.BruteForceSampler(seed=0)
    study = optuna.create_study(sampler=sampler)

    def visit(trial: optuna.Trial) -> float:
        candidate(trial, flags)
        return 0.0

    try:
        study.optimize(visit)
    except ValueError as error:
        if "infinite" not in str(error) and "step" not in str(error):
            raise
        raise SweepError(f"this is no grid ({error}); give --trials and --sampler random, tpe or gp") from None

    def order(trial: FrozenTrial) -> tuple[int, list[float]]:
        seed = trial.params.get("seed")
        place = [trial.distributions[name].to_internal_repr(value) for name, value in trial.params.items()]
        return (flags.seeds.index(seed) if seed in flags.seeds else 0, place)

    return sorted(study.trials, key=order)
