"""How many labelled recordings does each method need?

Every method once, its frozen embedding read out with 1, 2, 4, ... labelled recordings and with all of them: a better
embedding needs fewer.

    python sweeps/label_budget.py
    ray job submit -- python sweeps/label_budget.py
"""

from pathlib import Path

import optuna
import pandas as pd

from ethoray import figures, methods
from ethoray.experiment import Experiment
from ethoray.probes.few_labels import FewLabels
from ethoray.probes.linear import Linear
from ethoray.sweep import Flags, Sweep, usual

METHODS = ("bams", "byol", "pca", "pointnet", "raw", "ts2vec", "vqvame")


def candidate(trial: optuna.Trial, flags: Flags) -> Experiment:
    """One method, judged with few labels and with all."""
    kind = methods.load(trial.suggest_categorical("method", list(METHODS)))
    return usual(kind(**kind.presets.get("small", {})), trial, flags, probes=(Linear(), FewLabels()))


def picture(scores: pd.DataFrame, folder: Path) -> list[Path]:
    """Mean scores against how many recordings are labelled, a line a method; of several spaces all together."""
    recordings = scores["space"].str.extract(r"@(\d+)_recording")[0]
    few = figures.whole(scores.assign(budget=pd.to_numeric(recordings))).dropna(subset="budget")
    return figures.label_budget(few, folder / "budget")


sweep = Sweep("label_budget", candidate, metric="strain/all", picture=picture)

if __name__ == "__main__":
    sweep.main()
