"""How much of a frame should BEAST hide?

The share of patches that the encoder does not see; the paper hides three quarters. What is seen is also all that the
contrast has, so the two losses may want different shares.

    python datasets/simulated_video.py --out simulated_video --pixels 96 --write frames
    python sweeps/beast_masking.py
    ray job submit -- python sweeps/beast_masking.py
"""

from pathlib import Path

import optuna
import pandas as pd

from ethoray.experiment import Experiment
from ethoray.figures import score_against
from ethoray.methods.beast import BEAST
from ethoray.sweep import Flags, Sweep, usual

SHARES = (0.25, 0.5, 0.75, 0.9)


def candidate(trial: optuna.Trial, flags: Flags) -> Experiment:
    """BEAST that hides so much."""
    share = trial.suggest_categorical("mask", list(SHARES))
    return usual(BEAST(**{**BEAST.presets["tiny"], "mask": share}), trial, flags)


def picture(scores: pd.DataFrame, folder: Path) -> list[Path]:
    """Score against the share that is hidden."""
    return score_against(scores, lambda run: run["method.mask"], "hidden (share)", folder / "masking", log=False)


sweep = Sweep(
    "beast_masking",
    candidate,
    metric="*/cls",
    picture=picture,
    dataset="simulated_video_frames",
    steps=300,
    batch_size=32,
)

if __name__ == "__main__":
    sweep.main()
