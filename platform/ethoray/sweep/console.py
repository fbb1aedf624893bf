"""What a sweep says: lines that are out at once, a plan, and a table that grows as trials end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ethoray import stream
from ethoray.experiment import Experiment
from ethoray.store import Dataset

_NOT_DRAWN = ("work", "key", "others")
_LONGEST = 24  # characters of a heading


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


def drawn(config: dict[str, Any]) -> dict[str, str]:
    """The drawn parameters of a trial, as words."""
    shown = {name: value for name, value in config.items() if name not in _NOT_DRAWN}
    return {name: f"{v:.4g}" if isinstance(v, float) else str(v) for name, v in shown.items()}


def worded(config: dict[str, Any]) -> str:
    """The drawn parameters of a trial in one line."""
    return " ".join(f"{name}={value}" for name, value in drawn(config).items())


def called(config: dict[str, Any]) -> str:
    """What tells a candidate from others of its method: words drawn as they are, numbers with their names."""
    own = {name: value for name, value in config.items() if name not in ("method", "seed")}
    shown = drawn(own)
    words = (
        shown[name] if isinstance(v, str) else f"{name.replace('_', ' ')} {shown[name]}" for name, v in own.items()
    )
    return ", ".join(words)


class Table:
    """A table whose rows come one by one; its head is said again when a column is new or has become wider.

    Parameters
    ----------
    total: trials of the sweep.
    metric: heads the column of scores.
    """

    def __init__(self, total: int, metric: str) -> None:
        self.total, self.metric = total, metric if len(metric) <= _LONGEST else "score"
        self._counted = len(f"[{total}/{total}]")
        self._width: dict[str, int] = {}

    def row(self, count: str, config: dict[str, Any], words: Sequence[str]) -> list[str]:
        """The lines to say for a trial: its place, its parameters, then score, time taken and time left."""
        cells = drawn(config)
        lines = []
        if any(len(value) > self._width.get(name, -1) for name, value in cells.items()):
            for name, value in cells.items():
                self._width[name] = max(len(name), len(value), self._width.get(name, 0))
            lines.append(self._line("", {name: name for name in self._width}, (self.metric, "took", "left")))
        return [*lines, self._line(count, cells, words)]

    def _line(self, count: str, cells: dict[str, str], words: Sequence[str]) -> str:
        score = max(len(self.metric), 10)
        shown = [count.ljust(self._counted), *(cells.get(name, "-").ljust(w) for name, w in self._width.items())]
        ends = [words[0].rjust(score), *(word.rjust(7) for word in words[1:])] if len(words) > 1 else list(words)
        return "  ".join([*shown, *ends]).rstrip()


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
    say(f"memory: {dataset.bytes / 1e6:.0f} MB of tracks, once for all trials of a node, {batch / 1e6:.1f} MB a batch")
