"""How long should the segments of SSTFormer be?

The frames that one token of time covers; windows and everything else stay.

    python sweeps/msae_segments.py
    ray job submit -- python sweeps/msae_segments.py
"""

from pathlib import Path

import optuna
import pandas as pd

from ethoray.experiment import Experiment
from ethoray.figures import score_against
from ethoray.methods.msae import MSAE
from ethoray.sweep import Flags, Sweep, usual

SEGMENTS = (2, 3, 6, 10, 20)


def candidate(trial: optuna.Trial, flags: Flags) -> Experiment:
    """MSAE with segments of so many frames."""
    segment = trial.suggest_categorical("segment", list(SEGMENTS))
    return usual(MSAE(**{**MSAE.presets["small"], "segment": segment}), trial, flags)


def picture(scores: pd.DataFrame, folder: Path) -> list[Path]:
    """Score against the length of a segment."""
    return score_against(scores, lambda run: run["method.segment"], "frames of a segment", folder / "segments")


sweep = Sweep("msae_segments", candidate, metric="*/msae", direction="maximize", picture=picture)

if __name__ == "__main__":
    sweep.main()
