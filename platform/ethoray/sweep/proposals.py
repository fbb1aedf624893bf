"""What to try next: Optuna's journal of proposals, settled with the ledger of finished runs."""

from __future__ import annotations

import itertools
import logging
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from ethoray import record
from ethoray.cohort import alike
from ethoray.sweep.question import Question, Values
from ethoray.sweep.trial import outcome, whose_turn

_QUEUED = "queued"  # a trial that was not drawn: a point of a grid, or one that was interrupted
_REPEATS = 100  # proposals in a row that were all tried before: the space holds no more
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Proposal:
    """A proposed trial: the key of its run, its name in Optuna's wrapper, its parameters with its work."""

    key: str
    inner: str
    config: dict[str, Any]


class Proposals(OptunaSearch):
    """Optuna's proposals for Ray Tune that stop at a total and never repeat a run.

    A proposal whose run is finished is answered from the ledger without a process, one that was tried in this
    sweep before is answered and does not count.

    Attributes
    ----------
    sampler: of the study's n-th draw.
    slots: how many processes of trials the cluster can run now; no more are proposed at a time.
    together: trials that one process may carry out, where they are alike and no slot is empty for it.
    ledger: values of every trial that counts as done, by run key.
    """

    def __init__(
        self, question: Question, study: optuna.Study, storage: JournalStorage, total: int, ledger: dict[str, Values],
        found: Callable[[dict[str, Any], Values], None], sampler: Callable[[int], optuna.samplers.BaseSampler],
        pruner: optuna.pruners.BasePruner | None = None, slots: Callable[[], float] = lambda: math.inf,
        together: int = 1,
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
        self.together = together
        self.running: dict[str, list[Proposal]] = {}  # by Tune's trial
        self.failed: set[str] = set()
        self._taken: set[str] = set()  # keys of what runs or is about to
        self._held: Proposal | None = None
        self._single: set[str] = set()
        self._count, self._draws = itertools.count(), 1 + max(map(_draw, study.trials), default=-1)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Work that nobody did or is doing, None while every slot is taken, or the end of the sweep."""
        if self._held is None and self._asked() >= self.total:
            shared = any(len(found) > 1 for found in self.running.values())  # may give some of them back
            return None if shared else str(Searcher.FINISHED)
        if len(self.running) >= self.slots():
            return None
        chosen: list[Proposal] = []
        size = min(self.together, math.ceil((self.total - self._asked() + (self._held is not None)) / self.slots()))
        while len(chosen) < max(size, 1):
            one, self._held = self._held or self._draw(trial_id), None
            if one is None:
                break
            if chosen and not self._beside(chosen[0], one):
                self._held = one
                break
            chosen.append(one)
        if not chosen:
            return str(Searcher.FINISHED)
        self.running[trial_id] = chosen
        first, *others = (one.config for one in chosen)
        return {**first, "others": others} if others else first

    def _draw(self, trial_id: str) -> Proposal | None:
        for _ in range(_REPEATS):
            if self._asked() >= self.total:
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
            if values is None and key not in self.ledger and key not in self.failed and key not in self._taken:
                self._taken.add(key)
                return Proposal(key, inner, config)
            super().on_trial_complete(inner, _result(values), error=not values)
            if values and key not in self.ledger:
                self.ledger[key] = values
                self.found(config, values)
        _log.warning("every proposal has been tried: the space holds fewer than %d candidates", self.total)
        return None

    def _asked(self) -> int:
        return len(self.ledger) + len(self.failed) + len(self._taken)

    def _beside(self, first: Proposal, other: Proposal) -> bool:
        return not {first.key, other.key} & self._single and alike(
            first.config["work"].experiment, other.config["work"].experiment
        )

    def hopeless(self, trial_id: str, step: int, loss: float) -> bool:
        """Tell the pruner a loss, first those from before an interruption, and ask whether to stop the trial."""
        (proposal,) = self.running[trial_id]
        trial = self._ot_trials[proposal.inner]
        told = trial.storage.get_trial(trial._trial_id).intermediate_values
        if not told:
            replay(trial, self.question.folder(proposal.key), self._sign, step)
        trial.report(self._sign * loss, step)
        return bool(trial.should_prune())

    @property
    def _sign(self) -> int:
        return sign(self._ot_study)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: only the values at the end are told, the scheduler sees the rest."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna how it ended: values, an error, or neither when it was pruned."""
        first, *others = self.running.pop(trial_id)
        if not others:
            self._end(first, result or {}, error)
            return
        died = whose_turn(self.question.folder(first.key)) if error else ""
        for one in (first, *others):
            told = outcome(one.config["work"])
            if told or one.key == died or not error:
                self._end(one, told, not told)
            else:
                self._give_back(one)

    def _end(self, one: Proposal, result: dict[str, Any], error: bool) -> None:
        names = self.metric if isinstance(self.metric, list) else [self.metric]
        found = [result.get(name) for name in names]
        values: Values = () if None in found else tuple(float(value) for value in found)  # type: ignore[arg-type]
        error = error or "failed" in result or not all(map(math.isfinite, values))
        self._taken.discard(one.key)
        if error:
            self.failed.add(one.key)
        else:
            self.ledger[one.key] = values
        super().on_trial_complete(one.inner, None if error else _result(values), error=error)

    def _give_back(self, one: Proposal) -> None:
        """Another trial of its process ended them all before it had its turn: it is proposed again, for itself."""
        self._taken.discard(one.key)
        self._single.add(one.key)
        params = self._ot_trials[one.inner].params
        super().on_trial_complete(one.inner, None, error=True)
        self._ot_study.enqueue_trial(params, user_attrs={_QUEUED: True})

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
