"""Which part of BAMS does the work?

The rows of the paper's Table 3: all of it, ten frames ahead one by one instead of their histogram, no bootstrap, one
network with the reach of the long one; and those of its Table 5: no distance regression, and training on the test
recordings too (transductive; no label is seen). The same steps for all.

    python sweeps/bams_ablation.py
    ray job submit -- python sweeps/bams_ablation.py
"""

from dataclasses import replace
from pathlib import Path

import optuna
import pandas as pd

from ethoray.experiment import Experiment
from ethoray.figures import score_by
from ethoray.methods.bams import BAMS
from ethoray.sweep import Flags, Sweep, usual

TOO = "test recordings too"
PARTS: dict[str, dict[str, object]] = {
    "everything": {},
    "frames instead of histograms": {"objective": "sequential"},
    "no bootstrap": {"alpha": 0.0},
    "one network": {"short_channels": ()},
    "no distances": {"interaction": 0.0},
    TOO: {},
}


def candidate(trial: optuna.Trial, flags: Flags) -> Experiment:
    """BAMS without one of its parts, or with more recordings."""
    part = trial.suggest_categorical("part", list(PARTS))
    experiment = usual(BAMS(**{**BAMS.presets["small"], **PARTS[part]}), trial, flags)
    return replace(experiment, data=replace(experiment.data, split="all")) if part == TOO else experiment


def picture(scores: pd.DataFrame, folder: Path) -> list[Path]:
    """Mean scores without each part."""
    return score_by(scores, "called", folder / "parts")


sweep = Sweep("bams_ablation", candidate, metric="strain/*", picture=picture)

if __name__ == "__main__":
    sweep.main()
