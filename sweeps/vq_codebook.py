"""How many groups and variables should a codebook have?

The grid of the VQ-VAME slides: groups times variables of the product quantiser. The slides found few groups to
collapse and many to give nearly every window a codeword of its own.

    python sweeps/vq_codebook.py
    ray job submit -- python sweeps/vq_codebook.py
"""

from pathlib import Path

import optuna
import pandas as pd

from ethoray.experiment import Experiment
from ethoray.figures import codebook_usage, score_against
from ethoray.methods.vqvame import VQVAME
from ethoray.sweep import Flags, Sweep, usual

GROUPS = (1, 2, 16, 32)
VARIABLES = (16, 32, 64, 128)


def candidate(trial: optuna.Trial, flags: Flags) -> Experiment:
    """VQ-VAME with a codebook of this shape."""
    shape = {
        "groups": trial.suggest_categorical("groups", list(GROUPS)),
        "variables": trial.suggest_categorical("variables", list(VARIABLES)),
    }
    return usual(VQVAME(**{**VQVAME.presets["small"], **shape}), trial, flags)


def picture(scores: pd.DataFrame, folder: Path) -> list[Path]:
    """How codebooks of every shape were used; score against the number of groups, codebooks of 64."""
    some = scores[scores["method.variables"] == 64]
    drawn = score_against(some, lambda run: run["method.groups"], "groups", folder / "groups")
    return [*codebook_usage(scores, folder / "usage"), *drawn]


sweep = Sweep("vq_codebook", candidate, metric="*/zq", direction="maximize", picture=picture)

if __name__ == "__main__":
    sweep.main()
