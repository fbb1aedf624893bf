"""Ridge classifiers and regressors from class-wise sums of products, gathered in one pass over the rows.

With z = (features, 1, targets), the sum of z zᵀ over some rows is their count, their sum and their second
moment in one matrix; it is all that a ridge solution needs to know of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Array = np.ndarray
Cell = tuple[tuple[int, ...], tuple[int, ...]]
Key = TypeVar("Key")
CELL_BYTES = 64 * 2**20
"""What the sums that wait to be spread over tasks and splits may hold."""


class Unsolvable(ValueError):
    """Training rows from which a task cannot be learnt; the message is the reason."""


class Moments:
    """Sums of z zᵀ over training rows, per split, task and class, in float64.

    A row is multiplied once for all tasks in which its class prevails among the rows it came with, and once
    more for every task in which it does not: rare behaviours cost little. The shared products wait in cells
    of equal splits and equal prevailing classes, so that a recording is added once and not once a task.
    """

    def __init__(self, classes: Sequence[int]) -> None:
        self.classes = tuple(classes)
        self._settled: dict[tuple[int, int, int], Array] = {}
        self._whole: dict[Cell, Array] = {}
        self._parts: dict[Cell, dict[tuple[int, int], Array]] = {}

    def add(self, z: Array, groups: Sequence[Array], seen: tuple[int, ...]) -> None:
        """Add rows z (row, column) to the splits ``seen``; groups: per task each row's class.

        The number after the last class stands for unlabelled rows, which are left out.
        """
        counts = [np.bincount(g, minlength=c + 1) for g, c in zip(groups, self.classes, strict=True)]
        prevailing = tuple(int(count.argmax()) for count in counts)
        cell = seen, prevailing
        parts = self._parts.setdefault(cell, {})
        _into(self._whole, cell, z.T @ z)
        for task, (group, count) in enumerate(zip(groups, counts, strict=True)):
            for label in np.flatnonzero(count):
                if label != prevailing[task]:
                    rows = z[group == label]
                    _into(parts, (task, int(label)), rows.T @ rows)
        held = sum(1 + len(parts) for parts in self._parts.values())
        if held * z.shape[1] ** 2 * z.itemsize > CELL_BYTES:
            self._settle()

    def of(self, split: int, task: int) -> list[Array | None]:
        """Per class the sum over the rows that a split has seen, None for a class without rows."""
        self._settle()
        return [self._settled.get((split, task, label)) for label in range(self.classes[task])]

    def _settle(self) -> None:
        for cell, whole in self._whole.items():
            seen, prevailing = cell
            sums = dict(self._parts[cell])
            for task, label in enumerate(prevailing):
                sums[task, label] = whole - sum(part for (t, _), part in self._parts[cell].items() if t == task)
            for (task, label), part in sums.items():
                for split in seen if label < self.classes[task] else ():
                    _into(self._settled, (split, task, label), part)
        self._whole.clear()
        self._parts.clear()


def classify(sums: Sequence[Array | None], features: int, alphas: Sequence[float]) -> tuple[Array, Array]:
    """One-against-rest ridge classifiers, rows weighted inversely to the size of their class.

    Returns weights (alpha, column, feature) and intercepts (alpha, column). Two classes have one column, which
    is positive for the second; more have a column each, minus infinity for one that training never saw.
    Raises Unsolvable when fewer than two classes occur.
    """
    d, found = features, {label: s for label, s in enumerate(sums) if s is not None}
    if len(found) < 2:
        raise Unsolvable(f"training has {'no label' if not found else f'only class {next(iter(found))}'}")
    rows = sum(s[d, d] for s in found.values())
    weighted = {label: s * (rows / (len(found) * s[d, d])) for label, s in found.items()}
    total = np.sum(list(weighted.values()), axis=0)
    columns = [1] if len(sums) == 2 else list(found)
    # targets are +1 in the class and -1 elsewhere: twice the class less everything
    cross = np.stack([2 * weighted[c][:d, d] - total[:d, d] for c in columns], axis=1)
    height = np.array([2 * weighted[c][d, d] - total[d, d] for c in columns])
    solved = _solve(total, d, cross, height, alphas)
    if len(columns) == 1:
        return solved
    weights = np.zeros((len(alphas), len(sums), d))
    intercepts = np.full((len(alphas), len(sums)), -np.inf)
    weights[:, columns], intercepts[:, columns] = solved
    return weights, intercepts


def regress(sums: Sequence[Array | None], features: int, target: int, alphas: Sequence[float]) -> tuple[Array, Array]:
    """Ridge regression on column ``target`` of z: weights (alpha, 1, feature), intercepts (alpha, 1)."""
    (total,) = sums
    if total is None:
        raise Unsolvable("training has no label")
    d = features
    return _solve(total, d, total[:d, target, None], total[d, target, None], alphas)


def _solve(total: Array, d: int, cross: Array, height: Array, alphas: Sequence[float]) -> tuple[Array, Array]:
    """Centre, penalise, solve: the intercept is not penalised."""
    mean, target_mean = total[:d, d] / total[d, d], height / total[d, d]
    gram = total[:d, :d] - np.outer(mean, total[:d, d])
    penalised = gram + np.asarray(alphas)[:, None, None] * np.eye(d)
    centred = cross - np.outer(mean, height)
    if not (np.isfinite(penalised).all() and np.isfinite(centred).all()):
        raise Unsolvable("features or labels are too large to be squared")
    weights = np.linalg.solve(penalised, centred[None]).swapaxes(1, 2)
    return weights, target_mean - weights @ mean


def _into(sums: dict[Key, Array], key: Key, part: Array) -> None:
    if key in sums:
        sums[key] += part
    else:
        sums[key] = part.copy()
