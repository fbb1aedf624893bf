"""The nearest-neighbour probe: a frame is what the training frames around it are.

It asks whether like frames lie together, not whether a plane parts them, and learns nothing. Answers equal
scikit-learn's ``KNeighborsClassifier`` and ``KNeighborsRegressor`` with equal weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ethoray.probes import Judge, Probe
from ethoray.probes._ridge import Unsolvable
from ethoray.probes._sampled import Answers, SampledJudge, chosen, classes, labelled, refuse
from ethoray.schema import Card, Task

Array = np.ndarray


@dataclass(frozen=True)
class KNN(Probe):
    """The vote, or the mean, of the nearest training rows; scores are named "task/space@knn".

    Attributes
    ----------
    tasks: names of the card's tasks; none means all of them.
    k: how many neighbours; all labelled rows where there are fewer. A tied vote goes to the class of lower index.
    distance: "cosine" or "euclidean". Rows of zeros are at a right angle to everything.
    rows: training rows that are held, as evenly over recordings as they allow.
    every: seconds between test frames that are asked; 0 asks all.
    recordings: how tasks with one label a recording are probed: "frames" (every frame carries the label) or "mean".
    """

    tasks: tuple[str, ...] = ()
    k: int = 15
    distance: Literal["cosine", "euclidean"] = "cosine"
    rows: int = 10_000
    every: float = 0.0
    recordings: Literal["frames", "mean"] = "frames"

    def __post_init__(self) -> None:
        refuse(
            {
                f"k and rows are at least 1, not {self.k!r} and {self.rows!r}": self.k < 1 or self.rows < 1,
                f"every is a number of seconds, not {self.every!r}": not 0 <= self.every < np.inf,
                f"unknown distance {self.distance!r}": self.distance not in ("cosine", "euclidean"),
                f"unknown recordings {self.recordings!r}": self.recordings not in ("frames", "mean"),
            },
            "knn",
        )

    def judge(self, card: Card, seed: int) -> Judge:
        """See ``Probe.judge``."""
        return _KNNJudge(self, chosen(card, self.tasks, "knn"), seed)


class _KNNJudge(SampledJudge):
    def __init__(self, probe: KNN, tasks: tuple[Task, ...], seed: int) -> None:
        super().__init__(tasks, seed, probe.rows, mean=probe.recordings == "mean", every=probe.every)
        self.probe = probe

    def fit(self, space: str, x: Array, truths: list[Array], tasks: tuple[Task, ...]) -> Answers:
        """Tasks that are labelled in the same rows share their neighbours."""
        together: dict[bytes, tuple[Neighbours, list[tuple[int, Array]]]] = {}
        for index, (task, y) in enumerate(zip(tasks, truths, strict=True)):
            try:
                known = labelled(y, task)
            except Unsolvable as reason:
                self.leave_out(task, space, "knn", reason)
                continue
            if known.tobytes() not in together:
                together[known.tobytes()] = Neighbours(x[known], self.probe.k, self.probe.distance), []
            together[known.tobytes()][1].append((index, y[known]))

        def answers(rows: Array) -> Iterable[tuple[int, str, Array]]:
            for neighbours, members in together.values():
                near = neighbours(rows)
                for index, y in members:
                    yield index, "knn", _vote(y[near], classes(tasks[index]))

        return answers


class Neighbours:
    """Finds the nearest of rows (row, feature), by products of matrices and in blocks of what is asked."""

    def __init__(self, x: Array, k: int, distance: str) -> None:
        self.k, self.cosine = min(k, len(x)), distance == "cosine"
        # Distances do not mind a shift, and near the data their squares lose no digits.
        self.origin = 0.0 if self.cosine else x.mean(0, dtype=np.float64)
        held = self._placed(x)
        self.held = held.T.copy()
        self.squares = np.square(held).sum(1) / 2

    def __call__(self, rows: Array) -> Array:
        """Indices (row, k) of the nearest, in no particular order."""
        near = self._placed(rows) @ self.held
        if not self.cosine:
            near -= self.squares
        if self.k == near.shape[1]:
            return np.broadcast_to(np.arange(self.k), near.shape)
        return np.argpartition(near, -self.k, axis=1)[:, -self.k :]

    def _placed(self, x: Array) -> Array:
        x = x.astype(np.float64) - self.origin
        if self.cosine:
            length = np.linalg.norm(x, axis=1, keepdims=True)
            x /= np.where(length > 0, length, 1)
        return x


def _vote(y: Array, number: int) -> Array:
    """The most frequent class of labels (row, k), the lowest of equals; their mean for a regression."""
    if number == 1:
        return np.asarray(y.mean(1))
    return np.stack([(y == label).sum(1) for label in range(number)]).argmax(0)
