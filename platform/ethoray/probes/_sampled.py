"""Probes that learn from a bounded sample of training rows: gathering, examining and scoring, once for all of them."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ethoray import metrics
from ethoray.embedding import Embedding
from ethoray.probes import Judge, Labels, ProbeError, Score
from ethoray.probes._ridge import Unsolvable
from ethoray.probes._rows import Sample, check
from ethoray.probes.linear import truth
from ethoray.schema import Card, SchemaError, Task

log = logging.getLogger(__name__)

Array = np.ndarray
Answers = Callable[[Array], Iterable[tuple[int, str, Array]]]
"""From rows (row, feature): the index of a task, the answer's name and its answers (row,)."""
BLOCK = 2048
"""Test rows that are answered at once."""
_TRUTH = "\0truth"  # no space has this name


@dataclass
class Examined:
    """What one task, space and answer gathered over the test recordings."""

    names: list[str] = field(default_factory=list)
    tallies: list[Array] = field(default_factory=list)


@dataclass
class Group:
    """Tasks that are answered from the same rows: frames, or means of recordings."""

    tasks: tuple[Task, ...]
    mean: bool
    sample: Sample
    answers: dict[str, Answers] = field(default_factory=dict)


def chosen(card: Card, names: Sequence[str], probe: str, *, discrete: bool = False) -> tuple[Task, ...]:
    """The named tasks of a card, or all; ``discrete`` leaves regressions out and refuses them by name."""
    tasks = tuple(card.task(name) for name in names) or card.tasks
    wrong = [task.name for task in tasks if task.kind == "regression"] if discrete else []
    if wrong and names:
        raise SchemaError(f"{probe} probe: task {wrong[0]!r} is a regression; choose tasks with classes")
    return tuple(task for task in tasks if task.name not in wrong)


def classes(task: Task) -> int:
    """How many classes a task has; 1 for a regression."""
    return 1 if task.kind == "regression" else len(task.classes) or 2


def labelled(y: Array, task: Task) -> Array:
    """Where labels (row,) are known; raises Unsolvable when there is too little to learn the task from."""
    known = np.isfinite(y)
    seen = np.unique(y[known])
    if not len(seen):
        raise Unsolvable("training has no label")
    if task.kind != "regression" and len(seen) < 2:
        raise Unsolvable(f"training has only class {int(seen[0])}")
    return known


class SampledJudge(Judge):
    """Holds a sample of training rows, fits once when the first test recording comes, then counts.

    Parameters
    ----------
    rows: how many training rows are held.
    mean: whether recording-level tasks are answered from the mean of a recording; otherwise from its frames.
    every: seconds between test frames that are answered; 0 answers all.
    """

    unlabelled = False
    """Whether training rows without any label are of use."""

    def __init__(
        self, tasks: tuple[Task, ...], seed: int, rows: int, *, mean: bool = False, every: float = 0.0
    ) -> None:
        self.tasks, self.seed, self.every = tasks, seed, every
        self.widths: dict[str, int] = {}
        by_mean = tuple(t for t in tasks if mean and t.level == "recording")
        by_frame = tuple(t for t in tasks if t not in by_mean)
        self.groups = [Group(t, t is by_mean, Sample(rows, seed)) for t in (by_frame, by_mean) if t]
        self.fitted = False
        self.unfit: dict[tuple[str, str, str], str] = {}
        self.examined: dict[tuple[str, str, str], Examined] = {}

    @abstractmethod
    def fit(self, space: str, x: Array, truths: list[Array], tasks: tuple[Task, ...]) -> Answers:
        """Learn tasks from rows x (row, feature) with labels (row,) each, NaN unlabelled.

        What cannot be learnt is left out of the answers and told to ``leave_out``; Unsolvable leaves out all.
        """

    def views(self, embedding: Embedding) -> Mapping[str, Array]:
        """What is judged of a recording, by name: (time, feature) each."""
        return embedding.spaces

    def leave_out(self, task: Task, space: str, answer: str, reason: object) -> None:
        """Remember why a task has no score."""
        self.unfit[task.name, space, answer] = str(reason)

    def learn(self, embedding: Embedding, labels: Labels) -> None:
        """See ``Judge.learn``."""
        if not self.widths:
            self.widths = {space: x.shape[-1] for space, x in embedding.spaces.items()}
        check(embedding, self.widths)
        name, views = embedding.entry.name, self.views(embedding)
        for group in self.groups:
            truths = self._truths(embedding, labels, group)
            useful = np.isfinite(truths).any(1) | self.unlabelled
            columns = {space: _rows(x, group.mean)[useful] for space, x in views.items()}
            group.sample.add(name, {**columns, _TRUTH: truths[useful]})

    def examine(self, embedding: Embedding, labels: Labels) -> None:
        """See ``Judge.examine``."""
        if not self.widths:
            return
        check(embedding, self.widths)
        if not self.fitted:
            self._fit()
        entry, views = embedding.entry, self.views(embedding)
        stride = max(1, round(self.every * entry.fps))
        for group in self.groups:
            step = 1 if group.mean else stride
            truths = self._truths(embedding, labels, group)[::step]
            known = np.isfinite(truths)
            useful = known.any(1)
            for space, answers in group.answers.items():
                x = _rows(views[space], group.mean)[::step][useful]
                self._count(entry.name, space, group.tasks, answers, x, truths[useful])

    def scores(self) -> tuple[Score, ...]:
        """See ``Judge.scores``."""
        if not self.widths:
            log.warning("nothing is scored: no training recording was shown")
            return ()
        if not self.tasks:
            log.warning("nothing is scored: the dataset has no task that this probe can answer")
        if not self.fitted:
            self._fit()
        found: list[Score] = []
        silent: dict[tuple[str, str], list[str]] = {}
        for (task_name, space, answer), reason in self.unfit.items():
            silent.setdefault((task_name, reason), []).append(f"{space}@{answer}" if answer else space)
        order = {task.name: i for i, task in enumerate(self.tasks)}
        for key in sorted(self.examined, key=lambda key: order[key[0]]):
            task, (_, space, answer) = self.tasks[order[key[0]]], key
            try:
                found.extend(self.score(task, space, answer, self.examined[key]))
            except Unsolvable as reason:
                silent.setdefault((task.name, str(reason)), []).append(f"{space}@{answer}")
        for (name, why), places in silent.items():
            log.warning("task %r has no score in %s: %s", name, ", ".join(places), why)
        return tuple(found)

    def score(self, task: Task, space: str, answer: str, seen: Examined) -> Iterable[Score]:
        """The scores of one task, space and answer; raises Unsolvable with the reason when there are none."""
        yield measured(task, f"{space}@{answer}", task.metric, rule(task, task.metric), seen, self.seed)

    def tally(self, task: Task, answer: str, said: Array, y: Array) -> Array:
        """What labelled rows add to the sums of a score, from answers (row,) and labels (row,)."""
        if task.kind == "regression":
            return np.array([((said - y) ** 2).sum(), len(y)], dtype=np.float64)
        return metrics.confusion(y, said, classes(task))

    def _count(self, name: str, space: str, tasks: tuple[Task, ...], answers: Answers, x: Array, truths: Array) -> None:
        sums: dict[tuple[str, str, str], Array] = {}
        for first in range(0, len(x), BLOCK):
            part = slice(first, first + BLOCK)
            for index, answer, said in answers(x[part]):
                known = np.isfinite(truths[part, index])
                if known.any():
                    key = tasks[index].name, space, answer
                    added = self.tally(tasks[index], answer, said[known], truths[part, index][known])
                    sums[key] = sums[key] + added if key in sums else added
        for key, counted in sums.items():
            self.examined[key].names.append(name)
            self.examined[key].tallies.append(counted)

    def _fit(self) -> None:
        self.fitted = True
        for group in self.groups:
            columns = group.sample.rows()
            if not columns:
                for task in group.tasks:
                    self.leave_out(task, "every space", "", "training has no label")
                continue
            truths = list(columns.pop(_TRUTH).T)
            for space, x in columns.items():
                try:
                    answers = self.fit(space, x, truths, group.tasks)
                except Unsolvable as reason:
                    for task in group.tasks:
                        self.leave_out(task, space, "", reason)
                    continue
                group.answers[space] = answers
                for index, answer, _ in answers(x[:1]):
                    self.examined[group.tasks[index].name, space, answer] = Examined()
            group.sample = Sample(1, self.seed)

    def _truths(self, embedding: Embedding, labels: Labels, group: Group) -> Array:
        """Labels (row, task)."""
        name, frames = embedding.entry.name, embedding.entry.frames
        rows = 1 if group.mean else frames
        return np.stack(
            [np.broadcast_to(truth(name, frames, task, labels), rows) for task in group.tasks], axis=1
        ).astype(np.float64)


def rule(task: Task, metric: Literal["f1", "macro_recall", "mse"]) -> str:
    """The name in ``metrics.RULES`` of a task's metric."""
    return metric if metric != "f1" else "binary_f1" if task.kind == "binary" else "macro_f1"


def measured(task: Task, space: str, metric: str, name: str, seen: Examined, seed: int) -> Score:
    """A score by the rule of that name and its interval; Unsolvable where the test recordings do not define it."""
    if not seen.tallies:
        raise Unsolvable("no test recording has a label")
    tallies = np.stack(seen.tallies)
    if name == "binary_f1" and not tallies[:, 1].any():
        raise Unsolvable("no test recording has a positive label")
    score = metrics.RULES[name]
    value = score(tallies.sum(0))
    low, high = metrics.interval(score, tallies, seed)
    if not np.isfinite([value, low, high]).all():
        raise Unsolvable("predictions are not finite")
    return Score(
        task.name, space, metric, float(value), float(low), float(high), len(tallies), name, tuple(seen.names), tallies
    )


def refuse(settings: Mapping[str, bool], probe: str) -> None:
    """Raise ValueError with the first sentence that is True."""
    for sentence, wrong in settings.items():
        if wrong:
            raise ValueError(f"{probe} probe: {sentence}")


def mean_rows(x: Array) -> Array:
    """The mean of a recording as one row."""
    if not len(x):
        raise ProbeError("a recording without frames has no mean")
    return x.mean(0, dtype=np.float64, keepdims=True).astype(x.dtype)


def _rows(x: Array, mean: bool) -> Array:
    return mean_rows(x) if mean else x
