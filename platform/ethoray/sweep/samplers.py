"""Who proposes candidates and who stops them: Optuna's samplers and pruners, made anew from what a journal holds.

Nothing is remembered in a process. The n-th draw of a study comes from a sampler seeded with n and from the results
in the journal; a pruner judges by the losses in the journal. So a sweep that was killed goes on as if it had not been.
"""

from __future__ import annotations

from typing import Any, Literal

import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from ethoray.sweep.proposals import Proposals

Direction = Literal["maximize", "minimize"]

_HALVING = 3  # of the trials at a rung, one in so many goes on
_COMPARED = 4  # trials that end before the median of them stops others


def sampler(kind: str | BaseSampler, draw: int) -> BaseSampler:
    """The sampler of a study's n-th draw; one that is handed over is taken as it is, with what it remembers."""
    if isinstance(kind, BaseSampler):
        return kind
    if kind == "random":
        return RandomSampler(seed=draw)
    if kind == "gp":
        return GPSampler(seed=draw, warn_independent_sampling=False)
    return TPESampler(seed=draw, constant_liar=True)  # what is running counts as poor: neighbours are not drawn


def pruner(kind: str, steps: int) -> BasePruner:
    """The pruner of a name, for trials of so many steps: none is stopped before a ninth, or a quarter, of them."""
    if kind == "asha":
        return SuccessiveHalvingPruner(min_resource=max(1, steps // _HALVING**2), reduction_factor=_HALVING)
    if kind == "median":
        return MedianPruner(n_startup_trials=_COMPARED, n_warmup_steps=steps // 4)
    return NopPruner()


class Pruning(FIFOScheduler):
    """Stops a trial at a pause when Optuna's pruner says so."""

    def __init__(self, proposals: Proposals) -> None:
        super().__init__()
        self.proposals = proposals

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether the trial goes on."""
        if "value" in result or "failed" in result:
            return str(TrialScheduler.CONTINUE)
        hopeless = self.proposals.hopeless(trial.trial_id, int(result["step"]), float(result["loss"]))
        return str(TrialScheduler.STOP if hopeless else TrialScheduler.CONTINUE)


def best(values: dict[str, tuple[float, ...]], direction: str) -> str:
    """The key of the best metric (the first of the values); of equals the first by name, whatever ended first."""
    sign = 1 if direction == "maximize" else -1
    return min(values, key=lambda key: (-sign * values[key][0], key))


def front(values: dict[str, tuple[float, ...]], direction: Direction) -> list[str]:
    """The keys that no other beats in the metric without costing more, cheapest first."""
    study = optuna.create_study(directions=[direction, "minimize"])
    for key, pair in values.items():
        study.add_trial(optuna.trial.create_trial(values=list(pair), user_attrs={"key": key}))
    found = sorted(study.best_trials, key=lambda trial: trial.values[1])
    return [str(trial.user_attrs["key"]) for trial in found]
