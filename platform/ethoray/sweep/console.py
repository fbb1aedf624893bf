"""What a sweep says: a plan, a line a finished trial, a sign of life in between, and where to look at the end."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune

from ethoray import experiment, record, stream
from ethoray.experiment import Experiment
from ethoray.store import Dataset
from ethoray.tracking import Mirror

_SIGN_OF_LIFE = 20.0  # seconds
_MIRROR_EVERY = 15.0


def say(line: str) -> None:
    """Print a line at once, also into a pipe."""
    print(line, flush=True)


def span(seconds: float) -> str:
    """A duration in words that fit a line."""
    if not math.isfinite(seconds):
        return "an unknown time"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def worded(config: dict[str, Any]) -> str:
    """The drawn parameters of a trial."""
    return " ".join(f"{name}={value}" for name, value in config.items() if name not in ("work", "key"))


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


def dry_run(name: str, trials: list[str], total: int, example: Experiment, dataset: Dataset, at_once: int) -> None:
    """Say what the sweep would do."""
    shape = stream.spec(example.data, dataset, example.seed)
    plan = stream.plan(example.data, dataset, example.seed)
    window = (shape.individuals, len(shape.skeleton.keypoints), shape.space)
    batch = 4 * example.data.batch_size * shape.frames * int(np.prod(window))
    say(f"{name}: {total} trials of {example.budget.steps} steps, {at_once} at a time; a dry run trains nothing")
    for number, trial in enumerate(trials, 1):
        say(f"  {number:3d}  {trial}")
    if not trials:
        say("  parameters are drawn as the sweep goes; the first would be:")
    say(f"method: {example.method}")
    say(
        f"data: {dataset.card.name}, {len(dataset.entries)} recordings; a batch is {example.data.batch_size} "
        f"windows of {example.data.seconds:g} s ({shape.frames} frames); {plan.steps_per_epoch} steps an epoch"
    )
    say(f"memory: {dataset.bytes / 1e6:.0f} MB of tracks in each trial's process, {batch / 1e6:.1f} MB a batch")


class Voice(tune.Callback):
    """Follows the trials of a running sweep: speaks, and mirrors their folders into MLflow.

    Everything it needs lies in the run folders, so it also sees trials on other machines.
    """

    def __init__(self, total: int, done: int, pace: float, at_once: int, metric: str, mirror: Mirror) -> None:
        self.total, self.done, self.pace, self.at_once, self.metric = total, done, pace, at_once, metric
        self.mirror = mirror
        self.failed: list[str] = []
        self._spoke = self._mirrored = time.monotonic()
        self._began: dict[str, float] = {}
        self._took: list[float] = []

    def found(self, config: dict[str, Any], value: float) -> None:
        """A proposal was answered from the ledger."""
        self.done += 1
        say(f"[{self.done}/{self.total}] {worded(config)}  {self.metric} {value:.4g}  finished before, not run again")

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note when it began."""
        self._began.setdefault(trial.trial_id, time.monotonic())

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say how it ended."""
        result = trial.last_result or {}
        if "failed" in result:
            self._fail(trial, result["failed"])
            return
        value = f"{self.metric} {result['value']:.4g}" if "value" in result else f"pruned at step {result.get('step')}"
        self._end(trial, value)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Its process died more often than is forgiven."""
        folder = Path(trial.config["work"].folder)
        error = RuntimeError("the process of this trial died again and again (out of memory?)")
        folder.mkdir(parents=True, exist_ok=True)
        record.fail(folder, error)
        self._fail(trial, str(error))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Give a sign of life, and let MLflow follow."""
        now = time.monotonic()
        running = [t for t in trials if t.status == "RUNNING"]
        if running and now - self._mirrored > _MIRROR_EVERY:
            self.mirror.follow(t.config["work"].folder for t in running)
            self._mirrored = time.monotonic()
        if running and now - self._spoke > _SIGN_OF_LIFE:
            steps = " · ".join(self._steps(t) for t in running)
            left = self._left(running, now)
            say(f"        running: {steps}  about {span(left)} left")
            self._spoke = now

    def _steps(self, trial: Any) -> str:
        work = trial.config["work"]
        lines = record.read_metrics(work.folder)
        done, steps = int(lines[-1]["step"]) if lines else 0, work.experiment.budget.steps
        return f"{worded(trial.config)} " + (f"step {done}/{steps}" if done < steps else "scoring")

    def _left(self, running: Iterable[Any], now: float) -> float:
        spent = sum(min(self.pace, now - self._began.get(t.trial_id, now)) for t in running)
        return max(0.0, (self.total - self.done) * self.pace - spent) / max(self.at_once, 1)

    def _fail(self, trial: Any, error: str) -> None:
        self.failed.append(trial.config["key"])
        self._end(trial, f"FAILED: {error.splitlines()[0][:160]} (see {trial.config['work'].folder}/failure.json)")

    def _end(self, trial: Any, how: str) -> None:
        self.done += 1
        now = time.monotonic()
        took = now - self._began.get(trial.trial_id, now)
        if not self.failed:
            self._took.append(took)
            self.pace = statistics.fmean(self._took)
        left = self._left((), now)
        rest = f"  about {span(left)} left" if self.done < self.total else ""
        say(f"[{self.done}/{self.total}] {worded(trial.config)}  {how}  {span(took)}{rest}")
        self._spoke = now
        self.mirror.follow([trial.config["work"].folder])
