"""How much should BEAST's contrast weigh beside its reconstruction?

lambda in L = MSE + lambda InfoNCE, from none at all (ViT-M) over the release's 0.03 to contrast alone (ViT-C), on a
dataset that holds whole films with behaviour labels.

    python datasets/simulated_video.py --out simulated_video --pixels 96 --write frames
    python sweeps/beast_lambda.py
    ray job submit -- python sweeps/beast_lambda.py
"""

from pathlib import Path

import optuna
import pandas as pd

from ethoray.experiment import Experiment
from ethoray.figures import score_against
from ethoray.methods.beast import BEAST
from ethoray.sweep import Flags, Sweep, usual

ALONE = "contrast alone"
LAMBDAS = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, ALONE)


def candidate(trial: optuna.Trial, flags: Flags) -> Experiment:
    """BEAST with so much contrast."""
    weight = trial.suggest_categorical("lambda", list(LAMBDAS))
    losses = {"reconstruction": 0.0, "contrast": 1.0} if weight == ALONE else {"contrast": weight}
    return usual(BEAST(**{**BEAST.presets["tiny"], **losses}), trial, flags)


def picture(scores: pd.DataFrame, folder: Path) -> list[Path]:
    """Score against lambda; contrast alone is not on the line."""
    both = scores[scores["method.reconstruction"] > 0]
    return score_against(both, lambda run: run["method.contrast"], "lambda", folder / "lambda", log=False)


sweep = Sweep(
    "beast_lambda",
    candidate,
    metric="*/cls",
    picture=picture,
    dataset="simulated_video_frames",
    steps=300,
    batch_size=32,
)

if __name__ == "__main__":
    sweep.main()
