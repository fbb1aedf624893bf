"""A question: parameters become experiments with run folders, and a grid is every point of its space."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from ethoray import record
from ethoray.experiment import Experiment
from ethoray.store import Dataset
from ethoray.sweep.flags import Flags
from ethoray.sweep.trial import SweepError, Work, value_and_cost

Candidate = Callable[[optuna.Trial, Flags], Experiment]
Values = tuple[float, ...]
"""The metric of a trial, and its cost where that counts too; empty for a pruned one."""


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
            return value_and_cost(self.folder(key), scores, self.metric, self.flags.cost)
        except (SweepError, ValueError):
            return None


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
