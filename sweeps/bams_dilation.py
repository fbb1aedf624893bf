"""Does a longer memory help BAMS?

Every candidate sees the same data for the same number of steps; only the reach of the long-term encoder
changes, through the number of its blocks and the growth of their dilation, over several seeds.

    python sweeps/bams_dilation.py
    ray job submit -- python sweeps/bams_dilation.py
"""

from pathlib import Path

import optuna
import pandas as pd

from ethoray.experiment import Experiment
from ethoray.figures import score_against
from ethoray.methods.bams import BAMS
from ethoray.nn.tcn import receptive_field
from ethoray.sweep import Flags, Sweep, usual

FPS = 30.0
MEMORIES = {"2 s": (4, 2), "5 s": (4, 3), "11 s": (4, 4), "45 s": (5, 4)}  # blocks, dilation


def candidate(trial: optuna.Trial, flags: Flags) -> Experiment:
    """BAMS whose long encoder remembers this far."""
    blocks, dilation = MEMORIES[trial.suggest_categorical("memory", list(MEMORIES))]
    memory = {"long_channels": (32,) * blocks, "long_dilation": dilation}
    return usual(BAMS(**{**BAMS.presets["small"], **memory}), trial, flags)


def reach(run: pd.Series) -> float:
    """How far the long encoder of a run looks back, in seconds."""
    return receptive_field(len(run["method.long_channels"]), run["method.long_dilation"], run["method.kernel"]) / FPS


def picture(scores: pd.DataFrame, folder: Path) -> list[Path]:
    """Score against memory, one line a space."""
    return score_against(scores, reach, "memory of the long encoder (s)", folder / "memory")


sweep = Sweep("bams_dilation", candidate, metric="strain/all", picture=picture)

if __name__ == "__main__":
    sweep.main()
