"""The experiment that most questions vary one thing of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ethoray.batch import Windows
from ethoray.experiment import Experiment
from ethoray.learning import Budget, Method
from ethoray.probes import Probe
from ethoray.probes.linear import Linear
from ethoray.sweep.flags import Flags

if TYPE_CHECKING:
    import optuna


def usual(method: Method, trial: optuna.Trial, flags: Flags, *, probes: tuple[Probe, ...] = (Linear(),)) -> Experiment:
    """This method on the windows and for the steps of the flags, judged linearly; the seed is the trial's."""
    return Experiment(
        data=Windows(flags.dataset, seconds=flags.seconds, batch_size=flags.batch_size),
        method=method,
        probes=probes,
        budget=Budget(steps=flags.steps),
        seed=trial.suggest_categorical("seed", list(flags.seeds)),
    )
