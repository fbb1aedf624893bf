"""How much should masked methods hide?

Every method that learns by filling in what it does not see, each with a low, a middle and a high share of it hidden:
MSAE's frames and joints, the spans of BERT and of the Perceiver.

    python sweeps/masking.py
    ray job submit -- python sweeps/masking.py
"""

from pathlib import Path

import optuna
import pandas as pd

from ethoray import methods
from ethoray.experiment import Experiment
from ethoray.figures import score_against
from ethoray.sweep import Flags, Sweep, usual

SHARES = (0.15, 0.4, 0.7)
FIELDS = {"msae": ("hidden_frames", "hidden_joints"), "bert": ("share",), "perceiver": ("share",)}


def candidate(trial: optuna.Trial, flags: Flags) -> Experiment:
    """One method that hides so much."""
    name = trial.suggest_categorical("method", list(FIELDS))
    share = trial.suggest_categorical("share", list(SHARES))
    kind = methods.load(name)
    return usual(kind(**{**kind.presets["small"], **dict.fromkeys(FIELDS[name], share)}), trial, flags)


def picture(scores: pd.DataFrame, folder: Path) -> list[Path]:
    """Score against the share that is hidden, one figure a method."""
    files: list[Path] = []
    for name, runs in scores.groupby("method"):
        field = f"method.{FIELDS[str(name)][0]}"
        files += score_against(runs, lambda run, f=field: run[f], "hidden (share)", folder / str(name), log=False)
    return files


sweep = Sweep("masking", candidate, metric="*/all", direction="maximize", picture=picture)

if __name__ == "__main__":
    sweep.main()
