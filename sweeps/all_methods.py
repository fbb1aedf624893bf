"""Which method tells behaviours apart best?

Every method there is, in its small preset where it has one, sees the same windows for the same number of steps and
is judged by the same linear probe, over several seeds.

    python sweeps/all_methods.py
    ray job submit -- python sweeps/all_methods.py
"""

from pathlib import Path

import optuna
import pandas as pd

from ethoray import methods
from ethoray.experiment import Experiment
from ethoray.figures import score_by
from ethoray.sweep import Flags, Sweep, usual


def candidate(trial: optuna.Trial, flags: Flags) -> Experiment:
    """One method with one seed."""
    kind = methods.load(trial.suggest_categorical("method", list(methods.names("keypoints"))))
    return usual(kind(**kind.presets.get("small", {})), trial, flags)


def picture(scores: pd.DataFrame, folder: Path) -> list[Path]:
    """Score by method, one panel a level."""
    return score_by(scores, "method", folder / "methods")


every = len(methods.names("keypoints"))
sweep = Sweep("all_methods", candidate, metric="*/all", direction="maximize", picture=picture, smoke_trials=every)

if __name__ == "__main__":
    sweep.main()
