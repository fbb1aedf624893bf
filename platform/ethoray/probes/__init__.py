"""How frozen embeddings are judged: one evaluation protocol a file; the folder is the registry.

A ``Probe`` is a frozen dataclass of settings; ``judge`` answers with a ``Judge``, which is shown every
embedded recording once, the training ones first, and keeps sums instead of frames.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ethoray import registry
from ethoray.embedding import Embedding
from ethoray.learning import Encoder
from ethoray.schema import Card
from ethoray.store import Dataset

_HERE = sys.modules[__name__]

Labels = Mapping[str, np.ndarray | float]


class ProbeError(ValueError):
    """Embeddings or labels that cannot be judged; the message names the recording and what to do."""


@dataclass(frozen=True)
class Score:
    """One number of a leaderboard and how sure it is.

    Attributes
    ----------
    space: of the embedding; ``@alpha`` is appended for a penalty other than the probe's first.
    metric: "f1", "macro_recall" or "mse", or the name of a rule, such as "nmi", "r2" or "rmse".
    low, high: 95 % bootstrap interval over the test recordings.
    recordings: test recordings that have a label of this task.
    rule: name in ``metrics.RULES`` of what turns the tallies, added up, into the value; "" when there are none.
    names: of those recordings.
    tallies: float64 (recording, ...), what each of them adds; two methods are compared by drawing the same ones.
    """

    task: str
    space: str
    metric: str
    value: float
    low: float
    high: float
    recordings: int
    rule: str = ""
    names: tuple[str, ...] = field(default=(), repr=False)
    tallies: np.ndarray | None = field(default=None, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The score's name in every table: task/space."""
        return f"{self.task}/{self.space}"


class Probe(ABC):
    """Settings of one evaluation protocol: a frozen dataclass in a file under probes/."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named settings of the fields, such as the protocol of a benchmark."""

    @property
    def name(self) -> str:
        """The file's name, which is the probe's name everywhere."""
        return type(self).__module__.rpartition(".")[2]

    @abstractmethod
    def judge(self, card: Card, seed: int) -> Judge:
        """Someone to show embeddings of this dataset to; raises SchemaError for a task the card has not."""


class Judge(ABC):
    """Sees embedded recordings one at a time and answers with scores.

    Recordings of the split "train" come before those of "test"; other splits are ignored.
    """

    _examining = False

    def see(self, embedding: Embedding, labels: Labels) -> None:
        """Learn from a training recording or be examined by a test recording."""
        split = embedding.entry.split
        if split == "train":
            if self._examining:
                raise ProbeError(
                    f"recording {embedding.entry.name!r}: a training recording after a test one; "
                    "show every training recording first"
                )
            self.learn(embedding, labels)
        elif split == "test":
            self._examining = True
            self.examine(embedding, labels)

    def meet(self, encoder: Encoder, dataset: Dataset) -> None:  # noqa: B027 - most judges need no more than embeddings
        """Look at the trained encoder before anything is shown."""

    def describe(self) -> Mapping[str, Any]:
        """What scores leave out, as plain JSON: curves, tables, counts; asked after ``scores``, empty by default."""
        return {}

    @abstractmethod
    def learn(self, embedding: Embedding, labels: Labels) -> None:
        """Take in a training recording."""

    @abstractmethod
    def examine(self, embedding: Embedding, labels: Labels) -> None:
        """Predict a test recording and keep what its scores need."""

    @abstractmethod
    def scores(self) -> tuple[Score, ...]:
        """One score a task and space; a task that cannot be scored has none and a warning in the log."""


def names() -> tuple[str, ...]:
    """Every probe there is: the files of this folder without a leading underscore."""
    return registry.names(_HERE)


def load(name: str) -> type[Probe]:
    """The probe's dataclass; an unknown name raises LookupError with the nearest one."""
    return registry.load(_HERE, name, Probe)  # type: ignore[type-abstract]
