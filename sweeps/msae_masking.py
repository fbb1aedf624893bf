"""How much should a masked skeleton autoencoder hide?

The share of frames that are hidden and the share of joints in the others; the paper hides 40 % and 50 %.

    python sweeps/msae_masking.py
    ray job submit -- python sweeps/msae_masking.py
"""

from pathlib import Path

import optuna
import pandas as pd

from ethoray.experiment import Experiment
from ethoray.figures import score_against
from ethoray.methods.msae import MSAE
from ethoray.sweep import Flags, Sweep, usual

FRAMES = (0.0, 0.2, 0.4, 0.6)
JOINTS = (0.25, 0.5, 0.75)


def candidate(trial: optuna.Trial, flags: Flags) -> Experiment:
    """MSAE that hides so much."""
    frames = trial.suggest_categorical("hidden_frames", list(FRAMES))
    joints = trial.suggest_categorical("hidden_joints", list(JOINTS))
    return usual(MSAE(**{**MSAE.presets["small"], "hidden_frames": frames, "hidden_joints": joints}), trial, flags)


def picture(scores: pd.DataFrame, folder: Path) -> list[Path]:
    """Score against the share of hidden joints, with the paper's share of hidden frames."""
    paper = scores[scores["method.hidden_frames"] == 0.4]
    joints = "hidden joints (share)"
    return score_against(paper, lambda run: run["method.hidden_joints"], joints, folder / "masking", log=False)


sweep = Sweep("msae_masking", candidate, metric="*/msae", direction="maximize", picture=picture)

if __name__ == "__main__":
    sweep.main()
