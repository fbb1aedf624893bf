"""How long should training windows be?

The same methods, frames and steps; only the length of a window changes, and with it how many there are in a batch.

    python sweeps/windows.py
    ray job submit -- python sweeps/windows.py
"""

from dataclasses import replace
from pathlib import Path

import optuna
import pandas as pd

from ethoray import methods
from ethoray.experiment import Experiment
from ethoray.figures import score_against, whole
from ethoray.sweep import Flags, Sweep, usual

SECONDS = (10.0, 20.0, 60.0)
METHODS = ("bams", "byol", "ts2vec", "msae", "vqvame")


def candidate(trial: optuna.Trial, flags: Flags) -> Experiment:
    """One method on windows of this length, as many frames in a batch whatever the length."""
    kind = methods.load(trial.suggest_categorical("method", list(METHODS)))
    seconds = trial.suggest_categorical("seconds", list(SECONDS))
    size = round(flags.batch_size * flags.seconds / seconds)
    return usual(kind(**kind.presets["small"]), trial, replace(flags, seconds=seconds, batch_size=size))


def picture(scores: pd.DataFrame, folder: Path) -> list[Path]:
    """Score against the length of a window, a line a method."""
    length, place = "training window (s)", folder / "windows"
    return score_against(whole(scores), lambda run: run["data.seconds"], length, place, line="method")


sweep = Sweep("windows", candidate, metric="*/all", direction="maximize", picture=picture)

if __name__ == "__main__":
    sweep.main()
