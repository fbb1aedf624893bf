"""The linear probe: ridge classifiers and regressors in closed form, every task from one pass over the frames.

A ridge solution needs of the training frames only a count, a sum and a second moment of each class. With
z = (features, 1, targets), zᵀz is all three in one matrix, and a class-balanced solution for any penalty is a
weighted sum of such matrices and one small solve. So tasks, penalties and splits cost next to nothing, and
memory does not grow with the number of training recordings. Coefficients equal scikit-learn's
``RidgeClassifier(class_weight="balanced")`` and ``Ridge``.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from ethoray import metrics
from ethoray.embedding import Embedding
from ethoray.probes import Judge, Labels, Probe, ProbeError, Score
from ethoray.probes._ridge import Moments, Unsolvable, classify, regress
from ethoray.probes._rows import check
from ethoray.schema import Card, Task

log = logging.getLogger(__name__)

Array = np.ndarray
BLOCK = 4096
"""Rows that are in hand as float64 at once."""
_RULES = {
    ("binary", "f1"): "binary_f1",
    ("multiclass", "f1"): "macro_f1",
    ("binary", "macro_recall"): "macro_recall",
    ("multiclass", "macro_recall"): "macro_recall",
    ("regression", "mse"): "mse",
}


@dataclass(frozen=True)
class Linear(Probe):
    """Ridge regression on frozen embeddings, balanced over classes, scored per task and space.

    Attributes
    ----------
    tasks: names of the card's tasks; none means all of them.
    alphas: penalties; the first one is reported, the others as "task/space@alpha".
    splits: how many subsets of the training recordings are fitted; their predictions are put together.
    fraction: of the training recordings that a subset sees, each drawn on its own by seed and name.
    vote: how subsets are put together. "majority": the class most of them name, the lower index where they tie.
        "any": a binary task is positive when one of them says so, as in the MABe 2022 evaluator. Regressions
        are averaged.
    recordings: how tasks with one label a recording are probed: "frames" (every frame carries the label, as in
        MABe 2022) or "mean" (the mean embedding of a recording is one row).
    """

    tasks: tuple[str, ...] = ()
    alphas: tuple[float, ...] = (1.0,)
    splits: int = 1
    fraction: float = 1.0
    vote: Literal["majority", "any"] = "majority"
    recordings: Literal["frames", "mean"] = "frames"

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "mabe22": {"alphas": (1.0, 0.1, 0.5, 2.0, 5.0), "splits": 3, "fraction": 0.9, "vote": "any"},
    }

    def __post_init__(self) -> None:
        object.__setattr__(self, "alphas", tuple(float(alpha) for alpha in self.alphas))
        if not self.alphas or not all(0 < alpha < np.inf for alpha in self.alphas):
            raise ValueError(f"linear probe: alphas must be positive numbers, not {self.alphas!r}")
        if len({f"{alpha:g}" for alpha in self.alphas}) < len(self.alphas):
            raise ValueError(f"linear probe: two alphas have the same name in {self.alphas!r}")
        if self.splits < 1 or not 0 < self.fraction <= 1:
            raise ValueError(f"linear probe: {self.splits!r} splits of a fraction {self.fraction!r} cannot be drawn")
        if self.splits > 1 and self.fraction == 1:
            raise ValueError("linear probe: several splits differ only when each sees a fraction below 1")
        if self.vote not in ("majority", "any") or self.recordings not in ("frames", "mean"):
            raise ValueError(f"linear probe: unknown vote {self.vote!r} or recordings {self.recordings!r}")

    def judge(self, card: Card, seed: int) -> Judge:
        """See ``Probe.judge``."""
        return _LinearJudge(self, tuple(card.task(name) for name in self.tasks) or card.tasks, seed)


class _LinearJudge(Judge):
    def __init__(self, probe: Linear, tasks: tuple[Task, ...], seed: int) -> None:
        self.probe, self.tasks, self.seed = probe, tasks, seed
        self.widths: dict[str, int] = {}
        self.panels: dict[str, list[Panel]] = {}

    def learn(self, embedding: Embedding, labels: Labels) -> None:
        if not self.panels:
            self.widths = {space: x.shape[-1] for space, x in embedding.spaces.items()}
            self.panels = {space: self._panels(width) for space, width in self.widths.items()}
        name = embedding.entry.name
        seen = tuple(s for s in range(self.probe.splits) if drawn(self.seed, s, name, self.probe.fraction))
        for panel, x, truth in self._rows(embedding, labels):
            panel.learn(x, truth, seen)

    def examine(self, embedding: Embedding, labels: Labels) -> None:
        if self.panels:
            for panel, x, truth in self._rows(embedding, labels):
                panel.examine(embedding.entry.name, x, truth)

    def scores(self) -> tuple[Score, ...]:
        if not self.panels:
            log.warning("nothing is scored: no training recording was shown")
        scores: list[Score] = []
        silent: dict[tuple[str, str], list[str]] = {}
        for task in self.tasks:
            for space, panels in self.panels.items():
                panel = next(p for p in panels if task in p.tasks)
                try:
                    scores.extend(panel.scores(task, space, self.seed))
                except Unsolvable as reason:
                    silent.setdefault((task.name, str(reason)), []).append(space)
        for (name, why), spaces in silent.items():
            log.warning("task %r has no score in %s: %s", name, ", ".join(spaces), why)
        return tuple(scores)

    def _panels(self, width: int) -> list[Panel]:
        by_mean = [t for t in self.tasks if t.level == "recording" and self.probe.recordings == "mean"]
        by_frame = [t for t in self.tasks if t not in by_mean]
        return [Panel(self.probe, tasks, width, mean=tasks is by_mean) for tasks in (by_frame, by_mean) if tasks]

    def _rows(self, embedding: Embedding, labels: Labels) -> Iterator[tuple[Panel, Array, list[Array]]]:
        """Each panel's rows (row, feature) of a recording and, per task of the panel, labels (row,)."""
        name, frames = embedding.entry.name, embedding.entry.frames
        check(embedding, self.widths)
        truths = {task: truth(name, frames, task, labels) for task in self.tasks}
        for space, panels in self.panels.items():
            for panel in panels:
                x = embedding.spaces[space]
                if panel.mean:
                    x = x.mean(0, dtype=np.float64, keepdims=True)
                yield panel, x, [np.broadcast_to(truths[task], len(x)) for task in panel.tasks]


class Panel:
    """The tasks answered from the same rows of one space: learns, solves once, then keeps test counts."""

    def __init__(self, probe: Linear, tasks: Sequence[Task], width: int, *, mean: bool) -> None:
        self.probe, self.tasks, self.width, self.mean = probe, tasks, width, mean
        self.classes = [1 if t.kind == "regression" else len(t.classes) or 2 for t in tasks]
        self.targets = [i for i, task in enumerate(tasks) if task.kind == "regression"]
        self.moments: Moments | None = Moments(self.classes)
        self.origin: Array | None = None
        self.unfit: dict[int, str] = {}
        self.columns: list[slice] = []
        self.tallies: list[list[Array]] = [[] for _ in tasks]
        self.names: list[list[str]] = [[] for _ in tasks]

    @np.errstate(over="ignore", invalid="ignore")
    def learn(self, x: Array, truth: list[Array], seen: tuple[int, ...]) -> None:
        """Take in rows x (row, feature) with labels (row,) per task, NaN unlabelled, for the splits ``seen``."""
        assert self.moments is not None
        if self.origin is None:
            # Ridge with an intercept does not mind a shift, and near the data squares lose no digits.
            self.origin = x.mean(0, dtype=np.float64)
        if not seen:
            return
        for rows in _blocks(len(x)):
            labels = [values[rows] for values in truth]
            z = np.empty((len(x[rows]), self.width + 1 + len(self.targets)))
            np.subtract(x[rows], self.origin, out=z[:, : self.width])
            z[:, self.width] = 1
            for column, task in enumerate(self.targets, start=self.width + 1):
                z[:, column] = np.where(np.isfinite(labels[task]), labels[task], 0)
            groups = [_groups(values, c) for values, c in zip(labels, self.classes, strict=True)]
            self.moments.add(z, groups, seen)

    def answers(self, x: Array, truth: list[Array]) -> Iterator[tuple[int, Array, Array]]:
        """For blocks of rows and every fitted task: the task, answers (split, alpha, column, row) and labels (row,).

        Rows without a label are left out. Nothing can be learnt after the first call.
        """
        if self.moments is not None:
            self._solve(self.moments)
            self.moments = None
        assert self.origin is not None
        for rows in _blocks(len(x)):
            shifted = np.subtract(x[rows], self.origin).astype(np.float32)
            answers = (self.weights.reshape(-1, self.width) @ shifted.T).reshape(*self.intercepts.shape, -1)
            answers += self.intercepts[..., None]
            for task, columns in enumerate(self.columns):
                known = np.isfinite(truth[task][rows])
                if task not in self.unfit and known.any():
                    answer = answers[:, :, columns]
                    yield task, answer if known.all() else answer[..., known], truth[task][rows][known]

    @np.errstate(over="ignore", invalid="ignore")
    def examine(self, name: str, x: Array, truth: list[Array]) -> None:
        """Count how the rows of the test recording of that name are answered."""
        sums: dict[int, Array] = {}
        for task, answer, labels in self.answers(x, truth):
            sums[task] = sums.get(task, 0) + self._count(task, answer, labels)
        for task, counted in sums.items():
            self.tallies[task].append(counted)
            self.names[task].append(name)

    def scores(self, task: Task, space: str, seed: int) -> Iterator[Score]:
        """A score per penalty; raises Unsolvable with the reason when there is none."""
        index = self.tasks.index(task)
        if index in self.unfit:
            raise Unsolvable(self.unfit[index])
        if not self.tallies[index]:
            raise Unsolvable("no test recording has a label")
        counts = np.stack(self.tallies[index])
        if task.kind == "binary" and task.metric == "f1" and not counts[..., 1, :].any():
            raise Unsolvable("no test recording has a positive label")
        name = _RULES[task.kind, task.metric]
        rule, seen = metrics.RULES[name], tuple(self.names[index])
        values = rule(counts.sum(0))
        low, high = metrics.interval(rule, counts, seed)
        if not np.isfinite([values, low, high]).all():
            raise Unsolvable("predictions are not finite")
        for place, alpha in enumerate(self.probe.alphas):
            where = space if place == 0 else f"{space}@{alpha:g}"
            numbers = float(values[place]), float(low[place]), float(high[place])
            yield Score(task.name, where, task.metric, *numbers, len(counts), name, seen, counts[:, place])

    def _solve(self, moments: Moments) -> None:
        """Weights (split, alpha, column, feature) and intercepts (split, alpha, column) of all tasks."""
        splits, alphas = self.probe.splits, self.probe.alphas
        widths = [c if c > 2 else 1 for c in self.classes]
        ends = np.cumsum(widths)
        self.columns = [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]
        shape = (splits, len(alphas), sum(widths))
        self.weights, self.intercepts = np.zeros((*shape, self.width), np.float32), np.zeros(shape, np.float32)
        for task, columns in enumerate(self.columns):
            for split in range(splits):
                sums = moments.of(split, task)
                try:
                    if task in self.targets:
                        target = self.width + 1 + self.targets.index(task)
                        solved = regress(sums, self.width, target, alphas)
                    else:
                        solved = classify(sums, self.width, alphas)
                except Unsolvable as reason:
                    self.unfit[task] = f"{reason} (split {split + 1} of {splits})" if splits > 1 else str(reason)
                    break
                self.weights[split, :, columns], self.intercepts[split, :, columns] = solved

    def _count(self, task: int, answer: Array, truth: Array) -> Array:
        """What a score sums over rows, per alpha, from answers (split, alpha, column, row)."""
        classes = self.classes[task]
        if task in self.targets:
            error = answer[:, :, 0].mean(0, dtype=np.float64) - truth
            return np.stack([(error**2).sum(-1), np.full(len(error), error.shape[-1])], axis=-1)
        named = answer[:, :, 0] > 0 if classes == 2 else answer.argmax(2)
        if len(named) == 1:
            return metrics.confusion(truth, named[0], classes)
        if classes == 2 and self.probe.vote == "any":
            return metrics.confusion(truth, named.any(0), classes)
        votes = np.stack([(named == label).sum(0) for label in range(classes)])
        return metrics.confusion(truth, votes.argmax(0), classes)


def truth(name: str, frames: int, task: Task, labels: Labels) -> Array:
    """Labels of a task as an array that broadcasts over rows; NaN when the recording has none."""
    values = np.asarray(labels.get(task.name, np.nan), dtype=np.float64)
    if values.shape != ((frames,) if values.ndim and task.level == "frame" else ()):
        raise ProbeError(
            f"recording {name!r}: labels of task {task.name!r} have shape {values.shape}; a {task.level}-level "
            f"task has {f'one value a frame ({frames})' if task.level == 'frame' else 'one number'}"
        )
    return values


def _groups(values: Array, classes: int) -> Array:
    """The class of each row (0 for a regression), the number after the last class where unlabelled."""
    known = np.isfinite(values)
    labels = np.where(known, values, 0).astype(np.intp) if classes > 1 else np.zeros(len(values), np.intp)
    return np.where(known, labels, classes)


def _blocks(rows: int) -> Iterator[slice]:
    return (slice(first, first + BLOCK) for first in range(0, rows, BLOCK))


def drawn(seed: int, split: int, name: str, fraction: float) -> bool:
    """Whether a split sees a recording: decided by its name alone, in whatever order recordings come."""
    digest = hashlib.sha256(f"{seed}/{split}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64
