"""Few-label curves: what the linear probe knows from one labelled recording, from two, four, and all of them.

Ridge solutions as in the linear probe, from class-wise sums of products of each recording: a budget costs an addition
of matrices and a small solve. For every draw the recordings have an order that their names and the seed decide; a
budget is its beginning, with recordings exchanged where that brings in a class which would be missing.
"""

from __future__ import annotations

import logging
from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ethoray.embedding import Embedding
from ethoray.probes import Judge, Labels, Probe, Score
from ethoray.probes._budgets import Curve, Holder, Point, Sums, pick, shortlist
from ethoray.probes._ridge import Unsolvable, classify, regress
from ethoray.probes._rows import check, priority
from ethoray.probes._sampled import chosen, classes, refuse
from ethoray.probes.linear import truth
from ethoray.schema import Card, Task

log = logging.getLogger(__name__)

Array = np.ndarray
BLOCK = 4096
"""Rows that are in hand as float64 at once."""


@dataclass(frozen=True)
class FewLabels(Probe):
    """Scores named "task/space@1_recording", "task/space@4_recordings" and "task/space@all_recordings".

    A score puts the predictions of all draws together; the interval is over test recordings. Single draws, and how
    many seconds were labelled, are in the judge's description.

    Attributes
    ----------
    tasks: names of the card's tasks; none means all of them.
    budgets: numbers of labelled recordings; those that are not fewer than there are become "all".
    draws: how often each number is drawn.
    alpha: penalty of the ridge.
    widest: most features of a space; sums of a recording have the square of it.
    """

    tasks: tuple[str, ...] = ()
    budgets: tuple[int, ...] = (1, 2, 4, 8, 16)
    draws: int = 5
    alpha: float = 1.0
    widest: int = 512

    def __post_init__(self) -> None:
        ordered = tuple(sorted(set(self.budgets)))
        refuse(
            {
                f"budgets are different numbers from 1 on, rising, not {self.budgets!r}": (
                    ordered != tuple(self.budgets) or not ordered or ordered[0] < 1
                ),
                f"draws and widest are at least 1, not {self.draws!r} and {self.widest!r}": (
                    self.draws < 1 or self.widest < 1
                ),
                f"alpha is a positive number, not {self.alpha!r}": not 0 < self.alpha < np.inf,
            },
            "few_labels",
        )

    def judge(self, card: Card, seed: int) -> Judge:
        """See ``Probe.judge``."""
        return _FewLabelsJudge(self, chosen(card, self.tasks, "few_labels"), seed)


class _FewLabelsJudge(Judge):
    def __init__(self, probe: FewLabels, tasks: tuple[Task, ...], seed: int) -> None:
        self.probe, self.tasks, self.seed = probe, tasks, seed
        self.numbers = [classes(t) for t in tasks]
        self.targets = [i for i, t in enumerate(tasks) if t.kind == "regression"]
        self.widths: dict[str, int] = {}
        self.origins: dict[str, Array] = {}
        self.held: dict[str, dict[str, Sums]] = {}
        self.total: dict[str, list[dict[int, Array]]] = {}
        self.holders: dict[tuple[int, int], list[Holder]] = {}
        self.available = [0] * len(tasks)
        self.occurring: list[frozenset[int]] = [frozenset()] * len(tasks)
        self.seconds: dict[str, list[float]] = {}
        self.curves: dict[tuple[int, str], Curve] = {}
        self.solved = False

    def learn(self, embedding: Embedding, labels: Labels) -> None:
        """See ``Judge.learn``."""
        if not self.widths:
            self.widths = {space: x.shape[-1] for space, x in embedding.spaces.items()}
            self._begin(embedding)
        check(embedding, self.widths)
        name, frames = embedding.entry.name, embedding.entry.frames
        truths = [np.broadcast_to(truth(name, frames, task, labels), frames) for task in self.tasks]
        groups = [_groups(y, number) for y, number in zip(truths, self.numbers, strict=True)]
        self.seconds[name] = [float(np.isfinite(y).sum()) / embedding.entry.fps for y in truths]
        self._file(name, groups)
        self.held[name] = {space: self._sums(embedding, space, truths, groups) for space in self.total}
        for space, sums in self.held[name].items():
            for task, whole in enumerate(self.total[space]):
                for label, part in sums.of(task).items():
                    whole[label] = whole[label] + part if label in whole else part.copy()
        kept = {holder[1] for holders in self.holders.values() for holder in holders}
        self.held = {name: sums for name, sums in self.held.items() if name in kept}

    def examine(self, embedding: Embedding, labels: Labels) -> None:
        """See ``Judge.examine``."""
        if not self.widths:
            return
        check(embedding, self.widths)
        self._solve()
        name, frames = embedding.entry.name, embedding.entry.frames
        for index, task in enumerate(self.tasks):
            y = np.broadcast_to(truth(name, frames, task, labels), frames)
            known = np.isfinite(y)
            for space in self.total if known.any() else ():
                curve = self.curves[index, space]
                if curve.points:
                    curve.examine(name, embedding.spaces[space][known] - self.origins[space], y[known])

    def scores(self) -> tuple[Score, ...]:
        """See ``Judge.scores``."""
        if not self.widths:
            log.warning("nothing is scored: no training recording was shown")
            return ()
        self._solve()
        found: list[Score] = []
        silent: dict[tuple[str, str], list[str]] = {}
        for (index, space), curve in self.curves.items():
            for name, reason in curve.unfit.items():
                silent.setdefault((self.tasks[index].name, reason), []).append(f"{space}@{name}")
            for point in curve.points:
                try:
                    found.append(curve.score(point, space, self.seed))
                except Unsolvable as reason:
                    silent.setdefault((self.tasks[index].name, str(reason)), []).append(f"{space}@{point.name}")
        for (task, why), places in silent.items():
            log.warning("task %r has no score in %s: %s", task, ", ".join(places), why)
        return tuple(found)

    def describe(self) -> dict[str, Any]:
        """By "task/space" the points of the curve.

        recordings: how many were labelled; ``seconds``: of labelled frames, mean over draws; ``value``, ``low``,
        ``high``: as in the score; ``draws``: the score of every draw; ``incomplete``: draws that lack a class.
        """
        told = {}
        for (index, space), curve in self.curves.items():
            points = []
            for point in curve.points:
                try:
                    points.append(curve.describe(point, space, self.seed))
                except Unsolvable:
                    continue
            if points:
                told[f"{self.tasks[index].name}/{space}"] = points
        return told

    def _begin(self, embedding: Embedding) -> None:
        wide = {space: width for space, width in self.widths.items() if width > self.probe.widest}
        for space, width in wide.items():
            log.warning("few_labels: %s has no score, %d features are more than %d", space, width, self.probe.widest)
        for space in self.widths:
            if space not in wide:
                self.origins[space] = embedding.spaces[space].mean(0, dtype=np.float64)
                self.total[space] = [{} for _ in self.tasks]

    def _file(self, name: str, groups: Sequence[Array]) -> None:
        """Remember what classes a recording holds, and in which draws it may be wanted."""
        for task, (group, number) in enumerate(zip(groups, self.numbers, strict=True)):
            holds = frozenset(np.unique(group).tolist()) - {number}
            if not holds:
                continue
            self.available[task] += 1
            self.occurring[task] |= holds
            for draw in range(self.probe.draws):
                order = self.holders.setdefault((draw, task), [])
                insort(order, (priority(self.seed, draw, name), name, holds), key=lambda holder: holder[0])
                self.holders[draw, task] = shortlist(order, self.probe.budgets[-1])

    def _sums(self, embedding: Embedding, space: str, truths: Sequence[Array], groups: Sequence[Array]) -> Sums:
        x, sums = embedding.spaces[space], Sums(groups, self.numbers)
        for first in range(0, len(x), BLOCK):
            rows = slice(first, first + BLOCK)
            z = np.ones((len(x[rows]), self.widths[space] + 1 + len(self.targets)))
            z[:, : self.widths[space]] = x[rows] - self.origins[space]
            for column, task in enumerate(self.targets, start=self.widths[space] + 1):
                z[:, column] = np.nan_to_num(truths[task][rows], nan=0.0)
            sums.add(z, rows)
        return sums

    def _solve(self) -> None:
        """Every budget and draw of every task and space; nothing can be learnt afterwards."""
        if self.solved:
            return
        self.solved = True
        for index, task in enumerate(self.tasks):
            draws = self._draws(index)
            for space in self.total:
                curve = self.curves[index, space] = Curve(task, self.numbers[index])
                for budget, drawn in draws.items():
                    self._fit(curve, budget, drawn, index, space)
            for point in next(iter(self.curves[index, space].points for space in self.total), []):
                if point.incomplete:
                    log.warning(
                        "task %r: a class is missing in %d of %d draws of %s",
                        task.name, point.incomplete, len(draws[point.recordings]), point.name,
                    )  # fmt: skip
        self.held.clear()

    def _draws(self, task: int) -> dict[int, list[tuple[str, ...]]]:
        """Names of the recordings of every draw, by budget; the last budget is all there are, without names."""
        found: dict[int, list[tuple[str, ...]]] = {}
        for budget in self.probe.budgets:
            if budget < self.available[task]:
                orders = [self.holders[draw, task] for draw in range(self.probe.draws)]
                found[budget] = [pick(order, budget, self.occurring[task]) for order in orders]
        return {**found, self.available[task]: [()]}

    def _fit(self, curve: Curve, budget: int, drawn: Sequence[tuple[str, ...]], task: int, space: str) -> None:
        name = "all_recordings" if drawn == [()] else f"{budget}_recording{'s' * (budget > 1)}"
        width, solutions, seconds, incomplete, reason = self.widths[space], [], [], 0, ""
        for names in drawn:
            sums = self._together(names, task, space)
            seconds.append(sum(self.seconds[n][task] for n in names or self.seconds))
            incomplete += len(sums) < len(self.occurring[task])
            rows = [sums.get(label) for label in range(self.numbers[task])]
            try:
                if task in self.targets:
                    target = width + 1 + self.targets.index(task)
                    solutions.append(regress(rows, width, target, (self.probe.alpha,)))
                else:
                    solutions.append(classify(rows, width, (self.probe.alpha,)))
            except Unsolvable as why:
                reason = str(why)
        if not solutions:
            curve.unfit[name] = reason
            return
        weights, intercepts = (np.concatenate(parts) for parts in zip(*solutions, strict=True))
        curve.points.append(Point(name, budget, float(np.mean(seconds)), incomplete, weights, intercepts))

    def _together(self, names: Iterable[str], task: int, space: str) -> dict[int, Array]:
        if not names:
            return self.total[space][task]
        sums: dict[int, Array] = {}
        for name in names:
            for label, part in self.held[name][space].of(task).items():
                sums[label] = sums[label] + part if label in sums else part
        return sums


def _groups(y: Array, number: int) -> Array:
    """The class of each row (0 for a regression), the number after the last class where unlabelled."""
    known = np.isfinite(y)
    labels = np.where(known, y, 0).astype(np.intp) if number > 1 else np.zeros(len(y), np.intp)
    return np.where(known, labels, number)
