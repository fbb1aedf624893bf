"""Label budgets of the few-label curves: which recordings are drawn, what is summed of each, and the points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ethoray import metrics
from ethoray.probes import Score
from ethoray.probes._sampled import Examined, measured, rule
from ethoray.schema import Task

Array = np.ndarray
BLOCK = 4096
"""Rows that are answered at once."""
Holder = tuple[int, str, frozenset[int]]
"""A recording's place in the order of a draw, its name, and the classes of a task that it holds."""


def shortlist(order: Sequence[Holder], budget: int) -> list[Holder]:
    """Of recordings in order, those that a draw of so many can want: the first, and the first to hold what is rare.

    Kept are the first ``budget``, the first of every class, and the first of those that hold the most classes. What
    was left out is never wanted again when more recordings come.
    """
    wanted = set(range(min(budget, len(order))))
    seen: set[int] = set()
    most = 0
    for place, (_, _, holds) in enumerate(order):
        if holds - seen or len(holds) > most:
            wanted.add(place)
        seen |= holds
        most = max(most, len(holds))
    return [order[place] for place in sorted(wanted)]


def pick(order: Sequence[Holder], budget: int, wanted: frozenset[int]) -> tuple[str, ...]:
    """Names of the first recordings; one is exchanged for a later one as long as that brings in more classes.

    Of exchanges that bring in as many, the one that gives up the latest recording for the earliest.
    """
    holds = [wanted & held for _, _, held in order]
    picked = list(range(min(budget, len(order))))
    while True:
        have: frozenset[int] = frozenset().union(*(holds[i] for i in picked))
        best, change = len(have), (-1, -1)
        for out in reversed(picked) if have < wanted else ():
            left: frozenset[int] = frozenset().union(*(holds[i] for i in picked if i != out))
            for place in range(len(order)):
                if place not in picked and len(left | holds[place]) > best:
                    best, change = len(left | holds[place]), (out, place)
        if change == (-1, -1):
            return tuple(order[i][1] for i in sorted(picked))
        picked = sorted({*picked, change[1]} - {change[0]})


class Sums:
    """Sums of z zᵀ over the rows of a recording, per task and class, without one matrix a task.

    What prevails in a task is what the other classes leave of the whole.
    """

    def __init__(self, groups: Sequence[Array], numbers: Sequence[int]) -> None:
        self.groups, self.numbers = groups, numbers
        self.counts = [np.bincount(g, minlength=n + 1) for g, n in zip(groups, numbers, strict=True)]
        self.whole: Array | None = None
        self.parts: dict[tuple[int, int], Array] = {}

    def add(self, z: Array, rows: slice) -> None:
        """Add rows z (row, column), which are these of the recording."""
        whole = z.T @ z
        self.whole = whole if self.whole is None else self.whole + whole
        for task, (group, count) in enumerate(zip(self.groups, self.counts, strict=True)):
            for label in np.flatnonzero(count):
                if label != count.argmax():
                    part = z[group[rows] == label]
                    key, product = (task, int(label)), part.T @ part
                    self.parts[key] = self.parts[key] + product if key in self.parts else product

    def of(self, task: int) -> dict[int, Array]:
        """The matrix of every class that the recording holds."""
        assert self.whole is not None
        mine = {label: part for (t, label), part in self.parts.items() if t == task}
        prevailing = int(self.counts[task].argmax())
        mine[prevailing] = self.whole - sum(mine.values())
        return {label: part for label, part in mine.items() if label < self.numbers[task]}


@dataclass
class Point:
    """One budget of a curve.

    Attributes
    ----------
    recordings: how many are labelled; ``seconds``: of labelled frames, mean over draws.
    incomplete: draws in which a class is missing that training has.
    weights, intercepts: of the draws that could be solved, (draw, column, feature) and (draw, column).
    tallies: of every test recording in ``names``, (draw, ...).
    """

    name: str
    recordings: int
    seconds: float
    incomplete: int
    weights: Array
    intercepts: Array
    names: list[str] = field(default_factory=list)
    tallies: list[Array] = field(default_factory=list)


class Curve:
    """The points of one task and space."""

    def __init__(self, task: Task, number: int) -> None:
        self.task, self.number = task, number
        self.points: list[Point] = []
        self.unfit: dict[str, str] = {}

    def examine(self, name: str, x: Array, y: Array) -> None:
        """Count how labelled rows x (row, feature) of a test recording are answered at every budget and draw."""
        for point in self.points:
            parts = []
            for first in range(0, len(x), BLOCK):
                rows = slice(first, first + BLOCK)
                answer = np.einsum("dcf,rf->dcr", point.weights, x[rows], optimize=True) + point.intercepts[..., None]
                parts.append(self._tally(answer, y[rows]))
            point.names.append(name)
            point.tallies.append(np.sum(parts, axis=0))

    def score(self, point: Point, space: str, seed: int) -> Score:
        """The score of all draws together; raises Unsolvable where the test recordings do not define it."""
        seen = Examined(point.names, [tally.sum(0) for tally in point.tallies])
        metric = self.task.metric
        return measured(self.task, f"{space}@{point.name}", metric, rule(self.task, metric), seen, seed)

    def describe(self, point: Point, space: str, seed: int) -> dict[str, Any]:
        """A point as plain data, see the judge's ``describe``."""
        score = self.score(point, space, seed)
        draws = metrics.RULES[score.rule](np.sum(point.tallies, axis=0))
        return {
            "recordings": point.recordings,
            "seconds": point.seconds,
            "value": score.value,
            "low": score.low,
            "high": score.high,
            "draws": draws.tolist(),
            "incomplete": point.incomplete,
        }

    def _tally(self, answer: Array, y: Array) -> Array:
        """(draw, class, class) of answers (draw, column, row), or (draw, 2) of a regression."""
        if self.task.kind == "regression":
            error = ((answer[:, 0] - y) ** 2).sum(-1)
            return np.stack([error, np.full(len(error), float(len(y)))], axis=-1)
        said = answer[:, 0] > 0 if self.number == 2 else answer.argmax(1)
        return metrics.confusion(y, said, self.number)
