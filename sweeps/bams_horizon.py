"""How far ahead should BAMS look, and how finely?

The horizon of the histogram of actions and the number of its bins; everything else stays.

    python sweeps/bams_horizon.py
    ray job submit -- python sweeps/bams_horizon.py
"""

from pathlib import Path

import optuna
import pandas as pd

from ethoray.experiment import Experiment
from ethoray.figures import score_against
from ethoray.methods.bams import BAMS
from ethoray.sweep import Flags, Sweep, usual

HORIZONS = (0.2, 0.5, 1.0, 2.0)  # seconds
BINS = (8, 32)


def candidate(trial: optuna.Trial, flags: Flags) -> Experiment:
    """BAMS with this horizon and so many bins."""
    ahead = {
        "horizon": trial.suggest_categorical("horizon", list(HORIZONS)),
        "bins": trial.suggest_categorical("bins", list(BINS)),
    }
    return usual(BAMS(**{**BAMS.presets["small"], **ahead}), trial, flags)


def picture(scores: pd.DataFrame, folder: Path) -> list[Path]:
    """Score against the horizon, one line a space, with the paper's 32 bins."""
    paper = scores[scores["method.bins"] == 32]
    return score_against(paper, lambda run: run["method.horizon"], "horizon (s)", folder / "horizon")


sweep = Sweep("bams_horizon", candidate, metric="strain/all", picture=picture)

if __name__ == "__main__":
    sweep.main()
