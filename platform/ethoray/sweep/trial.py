"""One trial: what travels to a worker process, and what it does there.

A worker runs trial after trial. Each is alone in its run folder, is watched for signs of life, and answers with
numbers or with the reason why there are none; nothing it does ends the worker but a hang and the kernel.
"""

from __future__ import annotations

import ctypes
import fnmatch
import gc
import json
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from ray import tune

from ethoray import cluster, cohort, record
from ethoray.experiment import Experiment, Log, run
from ethoray.learning import Progress
from ethoray.schema import Card
from ethoray.sweep.guard import HUNG, alone, hung, signs_of_life
from ethoray.sweep.lent import Lent, adopt

TURN = "turn.txt"
"""File of a run folder while its trial shares a process with others."""

_log = logging.getLogger(__name__)


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
    """Carry out config["work"], and that of config["others"] beside it, and report the value of the first.

    An error is written down and reported, never raised: a trial that raises is not run again, while one whose
    process dies is, from its checkpoint. How the others ended is in their folders (``outcome``).
    """
    works: list[Work] = [one["work"] for one in (config, *config.get("others", ()))]
    began = time.perf_counter()
    adopt(lent)
    _forget()
    answer = _carry_out(works[0]) if len(works) == 1 else _side_by_side(works)
    tune.report({**answer, "seconds": time.perf_counter() - began})


def _carry_out(work: Work) -> dict[str, Any]:
    folder = Path(work.folder)
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

            execute(work, log)
            return outcome(work)
    except Exception as error:
        folder.mkdir(parents=True, exist_ok=True)
        record.fail(folder, error)
        return _failed(f"{type(error).__name__}: {error}")


def _side_by_side(works: Sequence[Work]) -> dict[str, Any]:
    """Several works in this process, sharing what they can; one by one where they cannot, or died of it before.

    A file in the first folder says that this is going on, and whose turn it is when they go one by one.
    """
    folders = [Path(work.folder) for work in works]
    turn = folders[0] / TURN
    if not turn.exists():
        try:
            with ExitStack() as guards:
                for folder in folders:
                    guards.enter_context(alone(folder))
                turn.touch()
                alive = guards.enter_context(signs_of_life(folders[0] / HUNG, works[0].limit))
                torch.set_num_threads(works[0].cpus)
                for places in cohort.together([work.experiment for work in works]):
                    group = [(works[i].experiment, works[i].folder) for i in places]
                    cohort.train(group, log=lambda index, progress: alive())
            turn.unlink()
            return outcome(works[0])
        except Exception as error:  # not of one of them, which would be told in its folder
            _log.warning("%d trials go one by one: %s", len(works), error)
    elif not turn.read_text():
        hung(folders[0])  # whoever it was, it did so beside others
    answers = []
    for work, folder in zip(works, folders, strict=True):
        turn.write_text(folder.name)
        answers.append(_carry_out(work))
    turn.unlink()
    return answers[0]


def whose_turn(folder: str | Path) -> str:
    """The run key of the trial that a dead process was busy with alone, by the folder of its first; else empty."""
    turn = Path(folder) / TURN
    return turn.read_text() if turn.exists() else ""


def outcome(work: Work) -> dict[str, Any]:
    """How a work ended, as its folder tells: its value (and cost), why it "failed", or nothing when it has not."""
    folder = Path(work.folder)
    scores = record.finished(folder)
    if scores is None:
        told = folder / "failure.json"
        return _failed(str(json.loads(told.read_text())["error"])) if told.exists() else {}
    try:
        answer = dict(zip(("value", "cost"), value_and_cost(folder, scores, work.metric, work.cost), strict=False))
        return {**answer, "step": work.experiment.budget.steps, "loss": 0.0}
    except SweepError as error:
        record.fail(folder, error)
        return _failed(f"SweepError: {error}")


def _failed(why: str) -> dict[str, Any]:
    return {"failed": why, "step": 0, "loss": math.inf}


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
    """Give back what the trial before held, also one that ran out of memory, and let peak memory count anew.

    glibc keeps what a trial's thread has freed: some 50 MB a trial, more with every trial.
    """
    gc.collect()
    if not gc.get_freeze_count():
        gc.freeze()  # modules stay: looking through them takes a tenth of a second
    with suppress(AttributeError, OSError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        Path(f"/proc/{os.getpid()}/clear_refs").write_text("5")
    except OSError:
        return  # not Linux: peak memory is then that of the worker


def value_and_cost(folder: Path, scores: Mapping[str, float], metric: str, cost: str) -> tuple[float, ...]:
    """The metric of a finished run, and its cost where that counts too; SweepError when one is no finite number."""
    value = measure(scores, metric)
    return (value, spent(folder, cost)) if cost else (value,)


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
