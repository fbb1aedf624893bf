"""One trial: what travels to a worker process, and what it does there.

A worker runs trial after trial. Each is alone in its run folder, is watched for signs of life, and answers with
numbers or with the reason why there are none; nothing it does ends the worker but a hang and the kernel.
"""

from __future__ import annotations

import fnmatch
import gc
import json
import math
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from ray import tune

from ethoray import cluster, record
from ethoray.experiment import Experiment, Log, run
from ethoray.learning import Progress
from ethoray.schema import Card
from ethoray.sweep.guard import HUNG, alone, hung, signs_of_life
from ethoray.sweep.lent import Lent, adopt


class SweepError(RuntimeError):
    """A sweep that cannot be run, or whose every trial failed; the message says what to do."""


@dataclass(frozen=True)
class Work:
    """A trial's experiment and where and how it is run.

    Attributes
    ----------
    folder: the run folder, named by the experiment's key, on storage that every node sees.
    metric, cost: what the trial answers with; cost may be empty.
    prune: report the training loss at every pause, so that a scheduler may stop the trial.
    limit: seconds without a sign of life after which the process is ended.
    """

    experiment: Experiment
    folder: str
    metric: str
    workers: int = 1
    cpus: int = 1
    gpus: float = 0.0
    prune: bool = False
    cost: str = ""
    limit: float = math.inf


def train(config: Mapping[str, Any], lent: Lent | None = None) -> None:
    """Carry out config["work"] and report its value; an error is written down and reported, never raised.

    So a trial that raises is not run again, while one whose process dies is, from its checkpoint.
    """
    work: Work = config["work"]
    folder, began = Path(work.folder), time.perf_counter()
    adopt(lent)
    _forget()
    try:
        with ExitStack() as guards:
            guards.enter_context(alone(folder))
            if trace := hung(folder):
                error = SweepError(f"no sign of life for {work.limit:g} s: its process was ended; raise --limit")
                error.add_note(trace)
                raise error
            alive = guards.enter_context(signs_of_life(folder / HUNG, work.limit))

            def log(progress: Progress) -> None:
                alive()
                if work.prune:
                    tune.report({"step": progress.step, "loss": progress.metrics["loss"]})

            scores = execute(work, log)
            answer: dict[str, Any] = {
                "value": measure(scores, work.metric),
                "step": work.experiment.budget.steps,
                "loss": 0.0,
            }
            if work.cost:
                answer["cost"] = spent(folder, work.cost)
    except Exception as error:
        folder.mkdir(parents=True, exist_ok=True)
        record.fail(folder, error)
        answer = {"failed": f"{type(error).__name__}: {error}", "step": 0, "loss": math.inf}
    tune.report({**answer, "seconds": time.perf_counter() - began})


def execute(work: Work, log: Log) -> Mapping[str, float]:
    """The one place where a trial is carried out, in this process or in several; what is around it only guards."""
    if work.workers > 1:
        gpus = work.gpus > 0
        return cluster.launch(
            work.experiment, Path(work.folder), work.workers, gpus=gpus, cpus_per_worker=work.cpus, log=log
        )
    torch.set_num_threads(work.cpus)
    return run(work.experiment, Path(work.folder), log)


def _forget() -> None:
    """Give back what the trial before held, also one that ran out of memory, and let peak memory count anew."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        Path(f"/proc/{os.getpid()}/clear_refs").write_text("5")
    except OSError:
        return  # not Linux: peak memory is then that of the worker


def spent(folder: Path, cost: str) -> float:
    """What a finished run cost, of the kinds in its scores.json; SweepError when it is not a finite number."""
    value = json.loads((folder / "scores.json").read_text()).get("cost", {}).get(cost, math.nan)
    if not math.isfinite(value):
        raise SweepError(f"{folder}: the cost {cost} of this run is not known")
    return float(value)


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
