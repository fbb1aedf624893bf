"""How hard should BAMS pull its bootstrap?

The weight of the bootstrap and the learning rate of its predictors, which replaces a teacher (in the authors' slides a
rate ten times the network's was as good as a moving average; zero collapsed). Everything else stays.

    python sweeps/bams_alpha.py
    ray job submit -- python sweeps/bams_alpha.py
"""

from pathlib import Path

import optuna
import pandas as pd

from ethoray.experiment import Experiment
from ethoray.figures import score_against
from ethoray.methods.bams import BAMS
from ethoray.sweep import Flags, Sweep, usual

ALPHAS = (0.0, 0.15, 1.0, 4.0)
RATES = (0.0, 1.0, 10.0)


def candidate(trial: optuna.Trial, flags: Flags) -> Experiment:
    """BAMS with this weight and this rate; without a bootstrap the rate says nothing."""
    alpha = trial.suggest_categorical("alpha", list(ALPHAS))
    rate = trial.suggest_categorical("predictor_lr", list(RATES)) if alpha else 10.0
    return usual(BAMS(**{**BAMS.presets["small"], "alpha": alpha, "predictor_lr": rate}), trial, flags)


def picture(scores: pd.DataFrame, folder: Path) -> list[Path]:
    """Score against the weight, one line a space, the predictors as the paper has them."""
    paper = scores[scores["method.predictor_lr"] == 10.0]
    return score_against(paper, lambda run: run["method.alpha"], "weight of the bootstrap", folder / "alpha", log=False)


sweep = Sweep("bams_alpha", candidate, metric="strain/all", picture=picture)

if __name__ == "__main__":
    sweep.main()
