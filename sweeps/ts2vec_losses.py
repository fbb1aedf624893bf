"""Which of TS2Vec's losses helps on behaviour?

The instance loss alone (I), the temporal loss alone (T), both (IT): the three rows of BAMS's Table 2.

    python sweeps/ts2vec_losses.py
    ray job submit -- python sweeps/ts2vec_losses.py
"""

import optuna

from ethoray.experiment import Experiment
from ethoray.methods.ts2vec import TS2Vec
from ethoray.sweep import Flags, Sweep, usual


def candidate(trial: optuna.Trial, flags: Flags) -> Experiment:
    """TS2Vec with one loss or both."""
    mode = trial.suggest_categorical("mode", ["I", "T", "IT"])
    return usual(TS2Vec(**{**TS2Vec.presets["small"], "mode": mode}), trial, flags)


sweep = Sweep("ts2vec_losses", candidate, metric="*/ts2vec", direction="maximize")

if __name__ == "__main__":
    sweep.main()
