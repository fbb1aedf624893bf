"""The flags every sweep script takes, and the folders that hold datasets and runs when none is named."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from ethoray.budget import Budget


@dataclass(frozen=True)
class Flags:
    """What the command line says to a sweep; its candidate is given them.

    Attributes
    ----------
    dataset: name, folder or URL of a prepared dataset.
    trials: how many candidates in all; None exhausts a grid.
    seeds: an axis of the grid.
    steps: training steps of every trial.
    workers: processes that train one trial together.
    cpus, gpus: of each of these processes; a GPU may be shared (0.25).
    storage: folder of the runs.
    dry_run: say what would be done and stop.
    smoke: two steps of two trials, or of as many as the sweep says, end to end.
    """

    dataset: str = "simulated_mice"
    trials: int | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = Budget.steps
    workers: int = 1
    cpus: int = 1
    gpus: float = 0.0
    storage: str = ""
    dry_run: bool = False
    smoke: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "workers", "cpus"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, not {getattr(self, name)}")
        if self.trials is not None and self.trials < 1:
            raise ValueError(f"--trials must be at least 1, not {self.trials}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"--seeds must be different numbers, not {self.seeds}")
        if self.gpus < 0:
            raise ValueError(f"--gpus must not be negative, it is {self.gpus}")


_HELP = {
    "dataset": "name, folder or URL of a prepared dataset",
    "trials": "candidates in all (default: the whole grid)",
    "seeds": "seeds of every candidate",
    "steps": "training steps of a trial",
    "workers": "processes that train one trial together",
    "cpus": "CPUs of a process",
    "gpus": "GPUs of a process; 0.25 shares one among four",
    "storage": "folder of the runs (default: $ETHORAY_RUNS or runs/)",
    "dry_run": "print trials, memory and time; train nothing",
    "smoke": "a few trials of two steps, end to end",
}
_TYPES = {"dataset": str, "storage": str, "gpus": float}


def parse(defaults: Flags, words: Sequence[str] | None = None, description: str | None = None) -> Flags:
    """The flags typed after a sweep script; the same for every sweep. Ends the process on a wrong one."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    for field in fields(Flags):
        default = getattr(defaults, field.name)
        flag = "--" + field.name.replace("_", "-")
        shown = "" if default in (None, "", False) else f" (default: {default})"
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
    """The absolute folder of the runs: ``storage``, $ETHORAY_RUNS, or runs/ where the command was typed."""
    named = storage or os.environ.get("ETHORAY_RUNS")
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
