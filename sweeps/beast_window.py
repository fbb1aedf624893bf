"""Which two frames should BEAST call alike, and which frames should it look at?

Partners at most 1, 3 or 10 frames apart, or anywhere in the film (ViC-MAE), among all frames; and neighbours among a
hundred distinct frames of each film and those around them, or among as many drawn evenly.

    python datasets/simulated_video.py --out simulated_video --pixels 96 --write frames
    python sweeps/beast_window.py
    ray job submit -- python sweeps/beast_window.py
"""

from dataclasses import replace
from pathlib import Path

import optuna
import pandas as pd

from ethoray.experiment import Experiment
from ethoray.figures import score_by
from ethoray.methods.beast import BEAST
from ethoray.sweep import Flags, Sweep, usual

PAIRS: dict[str, dict[str, object]] = {
    "1 frame": {},
    "3 frames": {"window": 3},
    "10 frames": {"window": 10},
    "anywhere": {"pairs": "video"},
    "1 frame, distinct anchors": {"anchors": "distinct"},
    "1 frame, uniform anchors": {"anchors": "uniform"},
}


def candidate(trial: optuna.Trial, flags: Flags) -> Experiment:
    """BEAST on such pairs."""
    pairs = PAIRS[trial.suggest_categorical("pairs", list(PAIRS))]
    experiment = usual(BEAST(**BEAST.presets["tiny"]), trial, flags)
    return replace(experiment, data=replace(experiment.data, **pairs))


def picture(scores: pd.DataFrame, folder: Path) -> list[Path]:
    """Mean scores of each choice."""
    return score_by(scores, "called", folder / "pairs")


sweep = Sweep(
    "beast_window",
    candidate,
    metric="*/cls",
    picture=picture,
    dataset="simulated_video_frames",
    steps=300,
    batch_size=32,
)

if __name__ == "__main__":
    sweep.main()
