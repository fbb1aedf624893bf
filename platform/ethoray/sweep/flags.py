"""The flags every sweep script takes, and the folders that hold datasets and runs when none is named."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from ethoray.batch import Windows
from ethoray.budget import Budget

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

SAMPLERS = ("grid", "random", "tpe", "gp")
PRUNERS = ("none", "asha", "median")
COSTS = ("train_seconds", "embed_seconds", "parameters", "peak_mb")


@dataclass(frozen=True)
class Flags:
    """What the command line says to a sweep; its candidate is given them.

    Attributes
    ----------
    dataset: name, folder or URL of a prepared dataset.
    trials: how many candidates in all; None exhausts a grid.
    seeds: an axis of the grid.
    steps: training steps of every trial.
    seconds, batch_size: length of the training windows, and how many a step holds.
    workers: processes that train one trial together.
    cpus, gpus: of each of these processes; a GPU may be shared (0.25).
    at_once: trials at a time; None is as many as fit the nodes there are, those that join later included. Give it
        where a cluster grows on demand.
    together: trials of one process at most, which share batches, features and, where that is faster, one program, if
        they differ in real numbers and seeds alone; as one program each step is that of training alone to rounding.
        A search never shares: its draws wait for results.
    sampler: "grid", "random", "tpe" or "gp"; empty is the grid, and TPE where a number of trials is given.
    prune: "asha" or "median" stop unpromising trials early, "none" stops none.
    cost: of the runs, made small while the metric is made good (two objectives); empty for the metric alone.
    limit: hours without a sign of life (a pause of training, or all of the scoring) after which a trial is ended
        and recorded as failed.
    price: what an hour of one trial's CPUs and GPUs costs, in any currency; 0 leaves money out.
    storage: folder of the runs.
    dry_run: say what would be done and stop.
    smoke: two steps of two trials, or of as many as the sweep says, end to end.
    """

    dataset: str = "simulated_mice"
    trials: int | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = Budget.steps
    seconds: float = Windows.seconds
    batch_size: int = Windows.batch_size
    workers: int = 1
    cpus: int = 1
    gpus: float = 0.0
    at_once: int | None = None
    together: int = 1
    sampler: str | BaseSampler = ""
    prune: str = "none"
    cost: str = ""
    limit: float = 2.0
    price: float = 0.0
    storage: str = ""
    dry_run: bool = False
    smoke: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "workers", "cpus", "trials", "at_once", "together"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"--seeds must be different numbers, not {self.seeds}")
        for name in ("gpus", "price"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"--{name} must not be negative, it is {getattr(self, name)}")
        for name, unit in (("limit", "hours"), ("seconds", "seconds")):
            if not getattr(self, name) > 0:
                raise ValueError(f"--{name} must be more than 0 {unit}, not {getattr(self, name)}")
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            if isinstance(value, str) and value and value not in known:
                raise ValueError(f"--{name} is {', '.join(known)}, not {value!r}")
        if self.cost and self.prune != "none":
            raise ValueError("--cost and --prune exclude each other: a trial that was stopped has no score to weigh")
        if self.cost == "peak_mb" and self.together > 1:
            raise ValueError("--cost peak_mb and --together exclude each other: trials of one process share its memory")


_CHOICES = {"sampler": SAMPLERS, "prune": PRUNERS, "cost": COSTS}
_HELP = {
    "dataset": "name, folder or URL of a prepared dataset",
    "trials": "candidates in all (default: the whole grid)",
    "seeds": "seeds of every candidate",
    "steps": "training steps of a trial",
    "seconds": "length of the training windows",
    "batch_size": "windows of a training step",
    "workers": "processes that train one trial together",
    "cpus": "CPUs of a process",
    "gpus": "GPUs of a process; 0.25 shares one among four",
    "at_once": "trials at a time (default: as many as fit)",
    "together": "alike trials that one process trains side by side",
    "sampler": f"who proposes trials: {', '.join(SAMPLERS)} (default: grid, or tpe with --trials in a search)",
    "prune": f"stop unpromising trials early: {', '.join(PRUNERS)}",
    "cost": f"make this small as well: {', '.join(COSTS)}",
    "limit": "hours without a sign of life that end a trial",
    "price": "of an hour of one trial's share, to say what the sweep costs",
    "storage": "folder of the runs (default: $ETHORAY_RUNS or runs/)",
    "dry_run": "print trials, memory and time; train nothing",
    "smoke": "a few trials of two steps, end to end",
}
_TYPES = {
    **dict.fromkeys(("dataset", "storage", "sampler", "prune", "cost"), str),
    **dict.fromkeys(("seconds", "gpus", "limit", "price"), float),
}


def parse(defaults: Flags, words: Sequence[str] | None = None, description: str | None = None) -> Flags:
    """The flags typed after a sweep script; the same for every sweep. Ends the process on a wrong one."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    for field in fields(Flags):
        default = getattr(defaults, field.name)
        flag = "--" + field.name.replace("_", "-")
        shown = (
            ""
            if default in (None, "", False) or not isinstance(default, str | int | float | tuple)
            else f" (default: {default})"
        )
        if isinstance(default, bool):
            parser.add_argument(flag, action="store_true", default=default, help=_HELP[field.name])
        else:
            several = "+" if field.name == "seeds" else None
            kind = _TYPES.get(field.name, int)
            parser.add_argument(flag, type=kind, nargs=several, default=default, help=_HELP[field.name] + shown)
    typed = vars(parser.parse_args(words))
    try:
        return Flags(**{**typed, "seeds": tuple(typed["seeds"])})
    except ValueError as error:
        parser.error(str(error))


def runs(storage: str = "") -> Path:
    """The absolute folder of the runs: ``storage``, $ETHORAY_RUNS, or runs/ where the command was typed.

    Raises FileNotFoundError for a URL: checkpoints and the sampler's journal need a file system with locks.
    """
    named = storage or os.environ.get("ETHORAY_RUNS")
    if named and "://" in named:
        raise FileNotFoundError(
            f"{named}: runs are kept in a folder that all machines see, not at a URL (datasets may be)"
        )
    return Path(named).resolve() if named and Path(named).is_absolute() else (home() / (named or "runs")).resolve()


def shelf() -> str:
    """The folder or URL of the prepared datasets: $ETHORAY_STORE, or store/ where the command was typed."""
    return os.environ.get("ETHORAY_STORE") or str(home() / "store")


def home() -> Path:
    """Where the command was typed; for a Ray job, which may run in a temporary copy, where its cluster was started.

    ``ray job submit --working-dir`` unpacks the tree into Ray's own folder, which vanishes with the cluster and
    holds no datasets. The process that started the cluster is an ancestor of the job and still stands outside.
    Raises FileNotFoundError where ancestors cannot be seen (not Linux), naming the variables to set.
    """
    here, process = Path.cwd(), os.getpid()
    while _is_copy(here) and process > 1:
        try:
            here = Path(os.readlink(f"/proc/{process}/cwd"))
            status = Path(f"/proc/{process}/stat").read_text()
        except OSError:
            break
        process = int(status.rpartition(")")[2].split()[1])
    if _is_copy(here):
        raise FileNotFoundError(
            f"{here} is a temporary copy made by ray job submit --working-dir: results written here would be lost; "
            "set ETHORAY_RUNS and ETHORAY_STORE to absolute folders before ray start"
        )
    return here


def _is_copy(folder: Path) -> bool:
    return any(part.startswith("_ray_pkg_") for part in folder.parts)
