"""One trial: what travels to a worker process, and what it does there."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from ray import tune

from ethoray import cluster, record
from ethoray.experiment import Experiment, run
from ethoray.learning import Progress
from ethoray.schema import Card


class SweepError(RuntimeError):
    """A sweep that cannot be run, or whose every trial failed; the message says what to do."""


@dataclass(frozen=True)
class Work:
    """A trial's experiment and where and how it is run.

    Attributes
    ----------
    folder: the run folder, named by the experiment's key, on storage that every node sees.
    prune: report the training loss at every pause, so that a scheduler may stop the trial.
    """

    experiment: Experiment
    folder: str
    metric: str
    workers: int = 1
    cpus: int = 1
    gpus: float = 0.0
    prune: bool = False


def train(config: Mapping[str, Any]) -> None:
    """Run config["work"] and report its value; an error is written down and reported, never raised.

    So a trial that raises is not run again, while one whose process dies is, from its checkpoint.
    """
    work: Work = config["work"]
    folder = Path(work.folder)

    def log(progress: Progress) -> None:
        if work.prune:
            tune.report({"step": progress.step, "loss": progress.metrics["loss"]})

    try:
        if work.workers > 1:
            scores = cluster.launch(
                work.experiment, folder, work.workers, gpus=work.gpus > 0, cpus_per_worker=work.cpus, log=log
            )
        else:
            torch.set_num_threads(work.cpus)
            scores = run(work.experiment, folder, log)
        tune.report({"value": measure(scores, work.metric), "step": work.experiment.budget.steps, "loss": 0.0})
    except Exception as error:
        folder.mkdir(parents=True, exist_ok=True)
        record.fail(folder, error)
        tune.report({"failed": f"{type(error).__name__}: {error}", "step": 0, "loss": math.inf})


def measure(scores: Mapping[str, float], metric: str) -> float:
    """The mean of the scores a metric matches; SweepError when none does or when it is not a finite number."""
    found = [scores[name] for name in matches(scores, metric)]
    if not found:
        raise SweepError(f"no score matches {metric!r}; this run has {', '.join(scores) or 'none'}")
    value = sum(found) / len(found)
    if not math.isfinite(value):
        raise SweepError(f"{metric} is {value}: a score that is not a number is never the best")
    return value


def matches(names: Mapping[str, Any], metric: str) -> list[str]:
    """The score names a metric means: itself, or those that one of its patterns (between commas) fits.

    Other penalties only when asked for. The one space of a method that has no more is "all" of it.
    """
    if metric in names:
        return [metric]
    patterns, spaces = metric.split(","), {name.rpartition("/")[2] for name in names if "@" not in name}
    if len(spaces) == 1:
        patterns = [f"{p.removesuffix('/all')}/{next(iter(spaces))}" if p.endswith("/all") else p for p in patterns]
    fits = (n for n in names if any(fnmatch.fnmatchcase(n, pattern) for pattern in patterns))
    return [n for n in fits if "@" in metric or "@" not in n]


def resolve(metric: str, card: Card, wanted: str | None) -> tuple[str, Literal["maximize", "minimize"]]:
    """The metric with its tasks named, and which way it is better.

    A direction that is wanted leaves out the tasks that are better the other way. Raises SweepError when no task
    is meant, or when tasks disagree and no direction is wanted.
    """
    pattern, _, space = metric.rpartition("/")
    tasks = [task for task in card.tasks if fnmatch.fnmatchcase(task.name, pattern)]
    if wanted:
        tasks = [task for task in tasks if task.higher_is_better == (wanted == "maximize")]
    ways = {task.higher_is_better for task in tasks}
    if not ways:
        raise SweepError(f"metric {metric!r}: {card.name} has no such task ({', '.join(t.name for t in card.tasks)})")
    if len(ways) > 1:
        raise SweepError(f"metric {metric!r} averages tasks where more is better with tasks where less is: choose one")
    return ",".join(f"{task.name}/{space}" for task in tasks), "maximize" if ways.pop() else "minimize"
