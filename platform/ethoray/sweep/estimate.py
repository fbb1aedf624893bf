"""How long a trial takes and what a sweep costs: before, from finished runs or a few steps; after, from the clock."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import replace
from pathlib import Path

from ethoray import experiment, stream
from ethoray.experiment import Experiment
from ethoray.store import Dataset
from ethoray.sweep.flags import Flags


def pace(example: Experiment, dataset: Dataset, storage: Path) -> tuple[float, str]:
    """Seconds one trial takes, and how that is known: finished runs of the method, else a few steps of it now."""
    method, steps = example.method.name, example.budget.steps
    known = [_seconds(path.parent, method, dataset.key, steps) for path in storage.glob("*/scores.json")]
    found = [seconds for seconds in known if seconds is not None]
    if found:
        return statistics.median(found), f"from {len(found)} finished run{'s' * (len(found) > 1)} of {method}"
    pauses = [0.0]
    try:
        encoder = experiment.build(example, stream.spec(example.data, dataset, example.seed))
        batches = stream.open_stream(example.data, dataset, example.seed)
        for progress in encoder.fit(batches, replace(example.budget, steps=3, log_every=1)):
            pauses.append(progress.seconds)
    except Exception as error:  # this candidate's trial will say so; the others may be sound
        return math.nan, f"the first candidate failed when it was tried: {type(error).__name__}: {error}"
    step = (pauses[-1] - pauses[1]) / max(len(pauses) - 2, 1) if len(pauses) > 2 else 0.0
    return pauses[1] + steps * step, "from 2 steps measured now, scoring not counted"


def _seconds(folder: Path, method: str, data: str, steps: int) -> float | None:
    try:
        document = json.loads((folder / "experiment.json").read_text())
        origin = json.loads((folder / "provenance.json").read_text())
        scores = json.loads((folder / "scores.json").read_text())
        if document["method"]["name"] != method or origin["dataset"]["key"] != data:
            return None
        trained = scores["cost"]["train_seconds"]
        scored = max(0.0, scores["finished"] - origin["started"] - trained)
        return float(trained * steps / document["budget"]["steps"] + scored)
    except (OSError, ValueError, KeyError, ZeroDivisionError):
        return None


def beside(folder: Path, seconds: float) -> float:
    """Of the seconds a trial took, those that were neither training nor embedding and probing."""
    try:
        cost = json.loads((folder / "scores.json").read_text())["cost"]
        return float(seconds - cost["train_seconds"] - cost["embed_seconds"])
    except (OSError, ValueError, KeyError):
        return math.nan


def bill(seconds: float, flags: Flags) -> str:
    """What so many seconds of trials take of the cluster, and of money where a price is known."""
    hours = seconds / 3600
    if not math.isfinite(hours):
        return "at an unknown cost"
    words = [f"{hours * flags.cpus * flags.workers:.2g} CPU-hours"]
    if flags.gpus:
        words.append(f"{hours * flags.gpus * flags.workers:.2g} GPU-hours")
    if flags.price:
        words.append(f"{hours * flags.price:.2f} at {flags.price:g} an hour and trial")
    return ", ".join(words)
