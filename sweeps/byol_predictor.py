"""Can a predictor that learns faster replace a teacher?

The table of the BAMS slides (CVPR-MABe workshop 2022): a bootstrap whose target is the network itself, without a
gradient, and whose predictor learns so many times faster; and a teacher that is the network's moving average. On
ImageNet they report 0.01, 5.5, 62.8, 66.6 and 66.3 % top-1 for rates of 0, 1, 2, 10 and 20, and 72.5 % with a
teacher. Here it is T-BYOL on animals; a collapse shows in the rank of its space.

    python sweeps/byol_predictor.py
    ray job submit -- python sweeps/byol_predictor.py
"""

from pathlib import Path

import optuna
import pandas as pd

from ethoray.experiment import Experiment
from ethoray.figures import score_by
from ethoray.methods.byol import BYOL
from ethoray.sweep import Flags, Sweep, usual

RATES: dict[str, dict[str, object]] = {
    **{f"predictor x {rate}": {"teacher": "predictor", "predictor_lr": float(rate)} for rate in (0, 1, 2, 10, 20)},
    "teacher": {"teacher": "momentum"},
}


def candidate(trial: optuna.Trial, flags: Flags) -> Experiment:
    """T-BYOL with this predictor, or with a teacher."""
    rate = RATES[trial.suggest_categorical("target", list(RATES))]
    return usual(BYOL(**{**BYOL.presets["small"], **rate}), trial, flags)


def picture(scores: pd.DataFrame, folder: Path) -> list[Path]:
    """Mean scores of every row."""
    return score_by(scores, "called", folder / "predictor")


sweep = Sweep("byol_predictor", candidate, metric="*/byol", direction="maximize", picture=picture)

if __name__ == "__main__":
    sweep.main()
