"""Which action every frame shows: labels of one task with classes, or of several binary tasks put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ethoray.probes import Labels, ProbeError
from ethoray.probes.linear import truth
from ethoray.schema import Card, SchemaError, Task

Array = np.ndarray
BACKGROUND = "background"


@dataclass(frozen=True)
class Question:
    """What is asked of every frame.

    Attributes
    ----------
    name: of the score's task.
    tasks: one task with classes, or binary ones.
    classes: names; the first one is the background where there is one.
    background: whether there is; then it has no F1 of its own.
    order: of a single task, which of its classes becomes which of these.
    """

    name: str
    tasks: tuple[Task, ...]
    classes: tuple[str, ...]
    background: bool
    order: tuple[int, ...] = ()

    def labels(self, name: str, frames: int, labels: Labels) -> Array:
        """float32 (time, task): class or 0/1 of every task, NaN unlabelled; ProbeError when a shape is wrong."""
        columns = [np.broadcast_to(truth(name, frames, task, labels), frames) for task in self.tasks]
        return np.stack(columns, -1).astype(np.float32)

    def compose(self, values: Array, rarity: Array) -> Array:
        """int64 (time,) class indices, -100 unlabelled, of labels (time, task).

        Of several binary tasks that are positive the one that is first in ``rarity`` counts. A frame is background
        when all are known and none is positive.
        """
        if self.order:
            known = np.isfinite(values[:, 0])
            places = np.array(self.order)[np.where(known, values[:, 0], 0).astype(np.intp)]
            return np.where(known, places, -100).astype(np.int64)
        positive = values[:, rarity] > 0
        first = np.asarray(rarity)[positive.argmax(1)] + 1
        known = np.isfinite(values).all(1)
        return np.where(positive.any(1), first, np.where(known, 0, -100)).astype(np.int64)


def question(card: Card, names: Sequence[str], background: str) -> Question:
    """What to ask of this card: the named tasks, or all that label frames.

    ``background`` is a class of a single task that has no F1 of its own. Raises SchemaError when the tasks do not
    make one question.
    """
    tasks = tuple(card.task(n) for n in names) or tuple(
        t for t in card.tasks if t.level == "frame" and t.kind != "regression"
    )
    wrong = [t.name for t in tasks if t.level != "frame" or t.kind == "regression"]
    if wrong or not tasks:
        raise SchemaError(
            f"action probe: task {wrong[0]!r} does not name the class of a frame"
            if wrong
            else f"action probe: dataset {card.name!r} has no task that labels frames with classes"
        )
    if all(t.kind == "binary" for t in tasks):
        name = tasks[0].name if len(tasks) == 1 else "action"
        return Question(name, tasks, (BACKGROUND, *(t.name for t in tasks)), True)
    if len(tasks) > 1:
        raise SchemaError(
            f"action probe: {', '.join(t.name for t in tasks)} do not make one question; choose one task with classes, "
            "or binary ones"
        )
    classes = tasks[0].classes
    if background and background not in classes:
        raise SchemaError(f"action probe: task {tasks[0].name!r} has no class {background!r}; it has {classes}")
    first = classes.index(background) if background else 0
    ordered = [first, *(i for i in range(len(classes)) if i != first)]
    order = tuple(ordered.index(i) for i in range(len(classes)))
    return Question(tasks[0].name, tasks, tuple(classes[i] for i in ordered), bool(background), order)


def rarity(values: Sequence[Array]) -> Array:
    """Binary tasks from the one with the fewest positive frames on, over labels (time, task) of training."""
    if not values:
        raise ProbeError("action probe: no training recording was shown")
    return np.argsort(sum((v > 0).sum(0) for v in values), kind="stable")
