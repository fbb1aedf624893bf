"""What to try next: Optuna's journal of proposals, settled with the ledger of finished runs."""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from ethoray import record
from ethoray.experiment import Experiment
from ethoray.store import Dataset
from ethoray.sweep.flags import Flags
from ethoray.sweep.trial import SweepError, Work, measure

Candidate = Callable[[optuna.Trial, Flags], Experiment]

_REPEATS = 100  # proposals in a row that were all tried before: the space holds no more
_log = logging.getLogger(__name__)


class Question:
    """A candidate function with the flags and the data it is asked about: parameters become runs."""

    def __init__(self, candidate: Candidate, flags: Flags, dataset: Dataset, metric: str, prune: bool) -> None:
        self.candidate, self.flags, self.dataset = candidate, flags, dataset
        self.metric, self.prune = metric, prune

    def __call__(self, trial: optuna.Trial) -> dict[str, Any]:
        """The trial's work; an attribute of the trial says which run folder it means."""
        experiment = self.candidate(trial, self.flags)
        experiment = replace(experiment, data=replace(experiment.data, dataset=self.dataset.uri))
        key = record.key(experiment, self.dataset)
        flags = self.flags
        work = Work(experiment, str(self.folder(key)), self.metric, flags.workers, flags.cpus, flags.gpus, self.prune)
        trial.set_user_attr("key", key)
        return {"work": work, "key": key}

    def of(self, params: dict[str, Any]) -> dict[str, Any]:
        """The work of these parameters; ValueError when they are not all there."""
        return self(optuna.trial.FixedTrial(params))  # type: ignore[arg-type]

    def folder(self, key: str) -> Path:
        """The run folder of a key."""
        return Path(self.flags.storage) / key

    def value(self, key: str) -> float | None:
        """The metric of a finished run, else None; a run whose metric is no number is not finished."""
        scores = record.finished(self.folder(key))
        try:
            return None if scores is None else measure(scores, self.metric)
        except SweepError:
            return None


class Proposals(OptunaSearch):
    """Optuna's proposals for Ray Tune that stop at a total and never repeat a run.

    A proposal whose run is finished is answered from the ledger without a process, one that was tried in this
    sweep before is answered and does not count.

    Attributes
    ----------
    ledger: metric of every trial that counts as done, by run key; NaN for a pruned one.
    """

    def __init__(
        self, question: Question, study: optuna.Study, storage: JournalStorage, total: int,
        ledger: dict[str, float], found: Callable[[dict[str, Any], float], None],
    ) -> None:  # fmt: skip
        mode = "max" if study.direction == optuna.study.StudyDirection.MAXIMIZE else "min"
        super().__init__(
            question, metric="value", mode=mode, sampler=study.sampler, storage=storage, study_name=study.study_name
        )
        self.question, self.total, self.ledger, self.found = question, total, ledger, found
        self.running: dict[str, str] = {}  # Tune's trial: run key
        self.failed: set[str] = set()
        self._inner: dict[str, str] = {}
        self._count = itertools.count()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Work that nobody did or is doing, or the end of the sweep."""
        for _ in range(_REPEATS):
            if len(self.ledger) + len(self.failed) + len(self.running) >= self.total:
                return str(Searcher.FINISHED)
            inner = f"{trial_id}.{next(self._count)}"
            config = super().suggest(inner)
            assert isinstance(config, dict)
            key = config["key"]
            value = self.ledger.get(key, self.question.value(key))
            if value is None and key not in self.failed and key not in self.running.values():
                self.running[trial_id], self._inner[trial_id] = key, inner
                return config
            super().on_trial_complete(inner, None if value is None else {"value": value}, error=value is None)
            if value is not None and key not in self.ledger:
                self.ledger[key] = value
                self.found(config, value)
        _log.warning("every proposal has been tried: the space holds fewer than %d candidates", self.total)
        return str(Searcher.FINISHED)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: only the value at the end is told, the scheduler sees the rest."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna how it ended: a value, an error, or neither when it was pruned."""
        key, inner = self.running.pop(trial_id), self._inner.pop(trial_id)
        value = (result or {}).get("value")
        error = error or "failed" in (result or {})
        if error:
            self.failed.add(key)
        else:
            self.ledger[key] = float("nan") if value is None else value
        super().on_trial_complete(inner, None if value is None or error else {"value": value}, error=error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is what a later command reads."""


def open_journal(path: Path) -> JournalStorage:
    """The journal of proposals; a last line torn by a crash is cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = path.read_bytes() if path.exists() else b""
    if content and not content.endswith(b"\n"):
        _log.warning("%s: the last line was torn by a crash and is left out", path)
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)
    return JournalStorage(JournalFileBackend(str(path)))


def settle(study: optuna.Study, question: Question, points: list[FrozenTrial], total: int) -> dict[str, float]:
    """Close what a killed run left open, queue what is not done, and answer with what is (the ledger).

    Everything ever proposed to this study, and every point of a grid, is either done (its folder holds scores,
    or it was pruned) or proposed again, in the order of the grid, then of the journal.
    """
    while any(t.state == TrialState.WAITING for t in study.get_trials(deepcopy=False)):
        study.tell(study.ask(), state=TrialState.FAIL)
    ledger: dict[str, float] = {}
    told: set[str] = set()
    again: dict[str, FrozenTrial] = {question.of(point.params)["key"]: point for point in points}
    for trial in study.trials:
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
        try:
            key = question.of(trial.params)["key"]
        except ValueError:  # killed while it was drawn: not all parameters are known
            continue
        again.setdefault(key, trial)
        if trial.state == TrialState.PRUNED:
            ledger[key] = float("nan")
        if trial.state == TrialState.COMPLETE:
            told.add(key)
    for key, trial in again.items():
        value = question.value(key)
        if value is not None and (key in told or len(ledger) < total):
            ledger[key] = value
            if key not in told:
                study.add_trial(create_trial(params=trial.params, distributions=trial.distributions, value=value))
        elif key not in ledger:
            study.enqueue_trial(trial.params)
    return ledger


def grid(candidate: Candidate, flags: Flags) -> list[FrozenTrial]:
    """Every point of a grid once, whole rounds of a seed after another: a shortened grid stays balanced."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.BruteForceSampler(seed=0)
    study = optuna.create_study(sampler=sampler)

    def visit(trial: optuna.Trial) -> float:
        candidate(trial, flags)
        return 0.0

    study.optimize(visit)

    def order(trial: FrozenTrial) -> tuple[int, list[float]]:
        seed = trial.params.get("seed")
        place = [trial.distributions[name].to_internal_repr(value) for name, value in trial.params.items()]
        return (flags.seeds.index(seed) if seed in flags.seeds else 0, place)

    return sorted(study.trials, key=order)
