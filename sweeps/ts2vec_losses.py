"""Which of TS2Vec's losses helps on behaviour?

The instance loss alone (I), the temporal loss alone (T), both (IT): the three rows of BAMS's Table 2.

    python sweeps/ts2vec_losses.py
    ray job submit -- python sweeps/ts2vec_losses.py
"""

from pathlib import Path

import optuna
import pandas as pd

from ethoray.experiment import Experiment
from ethoray.figures import score_by
from ethoray.methods.ts2vec import TS2Vec
from ethoray.sweep import Flags, Sweep, usual


def candidate(trial: optuna.Trial, flags: Flags) -> Experiment:
    """TS2Vec with one loss or both."""
    mode = trial.suggest_categorical("mode", ["I", "T", "IT"])
    return usual(TS2Vec(**{**TS2Vec.presets["small"], "mode": mode}), trial, flags)


def picture(scores: pd.DataFrame, folder: Path) -> list[Path]:
    """Mean scores of each loss."""
    return score_by(scores, "called", folder / "losses")


sweep = Sweep("ts2vec_losses", candidate, metric="*/ts2vec", direction="maximize", picture=picture)

if __name__ == "__main__":
    sweep.main()
