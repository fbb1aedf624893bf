"""Skeletons, recordings, tasks and cards: plain data that checks itself once.

Axis order is always time, individual, keypoint, space. Positions are in the recording's own units (pixels
unless the card says otherwise); a missing keypoint is NaN in every space coordinate. A recording of video alone
has a skeleton without keypoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Kind = Literal["binary", "multiclass", "regression"]
Level = Literal["frame", "recording"]
Metric = Literal["f1", "macro_recall", "mse"]

_METRICS: dict[str, tuple[str, ...]] = {
    "binary": ("f1", "macro_recall"),
    "multiclass": ("macro_recall", "f1"),
    "regression": ("mse",),
}
_FORBIDDEN = set('/\\\0\n\r\t"')


class SchemaError(ValueError):
    """Data that does not have the shape, the names or the units it claims; the message names the culprit."""


def check_name(name: str, what: str) -> str:
    """A name that can stand in a path, a metric and a table; raises SchemaError otherwise."""
    if not name or len(name) > 200 or set(name) & _FORBIDDEN or name.startswith(".") or name != name.strip():
        raise SchemaError(
            f"{what} {name!r}: use 1 to 200 characters without slashes, quotes, line breaks, "
            "leading dots or surrounding spaces"
        )
    return name


@dataclass(frozen=True)
class Skeleton:
    """What is tracked on one animal: named keypoints, the bones between them and the body axis.

    Attributes
    ----------
    keypoints: names, in the order of the arrays; none where only video was recorded.
    bones: pairs of keypoint indices, for drawing.
    front, back: the keypoints that point the body axis (nose or snout, tail base), or None when unknown;
        egocentric features rotate by this axis and only translate without it.
    """

    keypoints: tuple[str, ...]
    bones: tuple[tuple[int, int], ...] = ()
    front: str | None = None
    back: str | None = None

    def __post_init__(self) -> None:
        twice = sorted({k for k in self.keypoints if self.keypoints.count(k) > 1})
        if twice:
            raise SchemaError(f"keypoints named twice: {', '.join(twice)}")
        for a, b in self.bones:
            if not (0 <= a < len(self.keypoints) and 0 <= b < len(self.keypoints)) or a == b:
                raise SchemaError(f"bone ({a}, {b}) does not join two of the {len(self.keypoints)} keypoints")
        if (self.front is None) != (self.back is None) or (self.front is not None and self.front == self.back):
            raise SchemaError("a body axis needs two different keypoints, front and back")
        for end in (self.front, self.back):
            if end is not None:
                self.index(end)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Skeleton:
        """The skeleton whose ``dataclasses.asdict`` went through JSON, which turns tuples into lists."""
        bones = tuple((a, b) for a, b in document["bones"])
        return cls(tuple(document["keypoints"]), bones, document["front"], document["back"])

    def index(self, keypoint: str) -> int:
        """The position of a keypoint by name; KeyError-free: raises SchemaError naming what exists."""
        if keypoint not in self.keypoints:
            raise SchemaError(f"no keypoint {keypoint!r}; this skeleton has {', '.join(self.keypoints)}")
        return self.keypoints.index(keypoint)


@dataclass(frozen=True)
class Task:
    """A question a probe answers from an embedding.

    Attributes
    ----------
    kind: "binary", "multiclass" or "regression".
    level: "frame" when the label changes within a recording, "recording" when it is one value.
    classes: class names; a label is the index of its class. Empty for regression.
    metric: "f1" (positive class, or macro for several classes), "macro_recall" or "mse".
    """

    name: str
    kind: Kind = "binary"
    level: Level = "frame"
    classes: tuple[str, ...] = ()
    metric: Metric = "f1"

    def __post_init__(self) -> None:
        check_name(self.name, "task")
        if self.kind not in _METRICS or self.level not in ("frame", "recording"):
            raise SchemaError(f"task {self.name!r}: unknown kind {self.kind!r} or level {self.level!r}")
        if self.metric not in _METRICS[self.kind]:
            raise SchemaError(
                f"task {self.name!r}: a {self.kind} task is scored by {' or '.join(_METRICS[self.kind])}, "
                f"not {self.metric!r}"
            )
        if self.kind == "multiclass" and len(self.classes) < 2:
            raise SchemaError(f"task {self.name!r}: a multiclass task names its classes")

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger score is the better one."""
        return self.metric != "mse"


@dataclass(frozen=True)
class Card:
    """What a dataset is, for people and for programs: written beside the shards, shown in reports.

    Attributes
    ----------
    fps: frames per second, the same for all recordings of the dataset.
    unit: of keypoint coordinates ("pixel", "mm").
    split_rule: one sentence: what separates train from test (recording, animal, contiguous blocks).
    source: where the originals are, for people who want to download them.
    simulated: True when no animal was recorded.
    notes: counted facts a reader should know (masked frames, ignored keypoints, gaps).
    cleaning: the steps that changed the tracks, in order, each with its numbers and units.
    quality: what was counted while the data was written: missing keypoints, jumps, duplicates, label balance.
    checksums: "sha256 file" of the originals.
    neural: what the neural columns are ("spike counts in 20 ms"), empty when there are none.
    """

    name: str
    species: str
    fps: float
    skeleton: Skeleton
    tasks: tuple[Task, ...] = ()
    split_rule: str = "by recording"
    unit: str = "pixel"
    licence: str = "unstated"
    citation: str = ""
    source: str = ""
    simulated: bool = False
    description: str = ""
    notes: tuple[str, ...] = ()
    cleaning: tuple[str, ...] = ()
    quality: tuple[str, ...] = ()
    checksums: tuple[str, ...] = ()
    neural: str = ""

    def __post_init__(self) -> None:
        check_name(self.name, "dataset")
        if not (np.isfinite(self.fps) and self.fps > 0):
            raise SchemaError(f"dataset {self.name!r}: fps must be a positive number, not {self.fps!r}")
        names = [t.name for t in self.tasks]
        if len(set(names)) != len(names):
            raise SchemaError(f"dataset {self.name!r}: a task is named twice among {names}")

    def task(self, name: str) -> Task:
        """The task of that name; raises SchemaError naming those that exist."""
        for task in self.tasks:
            if task.name == name:
                return task
        known = ", ".join(t.name for t in self.tasks) or "none"
        raise SchemaError(f"dataset {self.name!r} has no task {name!r}; it has {known}")


@dataclass(frozen=True)
class Recording:
    """One continuous observation of one or more animals, or a piece of it.

    Attributes
    ----------
    name: unique within the dataset.
    subject: the animal or group; splits never put one subject's recordings on both sides unless the card's
        split rule says so.
    split: "train", "test", or another name that only those who ask for it see.
    keypoints: float32 (time, individual, keypoint, space), NaN where missing; no keypoints beside images is fine.
    confidence: float32 (time, individual, keypoint) in [0, 1], or None.
    individuals: names of the animals, as long as the individual axis.
    labels: per task name a float32 array (time,) for frame tasks, a number for recording tasks; NaN is
        unlabelled. Class labels are class indices.
    start: the frame at which this piece begins; 0 for a whole recording. What is too long for memory is handed
        over in pieces of one name, in order.
    neural: float32 (time, unit), one value a frame (the card says what), or None.
    images: uint8 (time, height, width, channel) with one channel (grey) or three (RGB), or None. Pieces with
        images may leave frames out between them.
    """

    name: str
    subject: str
    fps: float
    skeleton: Skeleton
    keypoints: np.ndarray
    confidence: np.ndarray | None = None
    individuals: tuple[str, ...] = ()
    split: str = "train"
    labels: Mapping[str, np.ndarray | float] = field(default_factory=dict)
    start: int = 0
    neural: np.ndarray | None = None
    images: np.ndarray | None = None

    def __post_init__(self) -> None:
        where = f"recording {check_name(self.name, 'recording')!r}"
        check_name(self.subject, f"{where}: subject")
        check_name(self.split, f"{where}: split")
        if not (np.isfinite(self.fps) and self.fps > 0):
            raise SchemaError(f"{where}: fps must be a positive number, not {self.fps!r}")
        keypoints = np.asarray(self.keypoints, dtype=np.float32)
        empty = (*keypoints.shape[:2], *keypoints.shape[3:]) if self.images is not None else keypoints.shape
        if keypoints.ndim != 4 or 0 in empty or keypoints.shape[-1] not in (2, 3):
            raise SchemaError(f"{where}: keypoints must be (time, individual, keypoint, 2 or 3), not {keypoints.shape}")
        if self.start < 0:
            raise SchemaError(f"{where}: a piece cannot begin at frame {self.start}")
        if keypoints.shape[2] != len(self.skeleton.keypoints):
            raise SchemaError(
                f"{where}: {keypoints.shape[2]} keypoints in the array, {len(self.skeleton.keypoints)} in the skeleton"
            )
        if np.isinf(keypoints).any():
            raise SchemaError(f"{where}: infinite coordinates; write NaN for a missing keypoint")
        missing = np.isnan(keypoints)
        partly = missing.any(-1) & ~missing.all(-1)
        if partly.any():
            t, i, k = np.argwhere(partly)[0]
            raise SchemaError(
                f"{where}: frame {t}, individual {i}, keypoint {self.skeleton.keypoints[k]!r} has some but not "
                "all coordinates; a missing keypoint is NaN in every one"
            )
        object.__setattr__(self, "keypoints", keypoints)
        self._check_companions(where, keypoints)

    def _check_companions(self, where: str, keypoints: np.ndarray) -> None:
        frames, animals = keypoints.shape[:2]
        individuals = self.individuals or tuple(f"individual_{i}" for i in range(animals))
        if len(individuals) != animals or len(set(individuals)) != animals:
            raise SchemaError(f"{where}: {animals} individuals in the array, names {individuals}")
        object.__setattr__(self, "individuals", tuple(individuals))
        if self.confidence is not None:
            confidence = np.asarray(self.confidence, dtype=np.float32)
            if confidence.shape != keypoints.shape[:3]:
                raise SchemaError(f"{where}: confidence is {confidence.shape}, keypoints are {keypoints.shape}")
            object.__setattr__(self, "confidence", confidence)
        if self.neural is not None:
            neural = np.asarray(self.neural, dtype=np.float32)
            if neural.ndim != 2 or len(neural) != frames or not neural.shape[1]:
                raise SchemaError(f"{where}: neural must be ({frames}, unit), not {neural.shape}")
            object.__setattr__(self, "neural", neural)
        if self.images is not None:
            images = np.asarray(self.images)
            if images.dtype != np.uint8 or images.ndim != 4 or len(images) != frames or images.shape[3] not in (1, 3):
                raise SchemaError(
                    f"{where}: images are uint8 ({frames}, height, width, 1 or 3), not {images.dtype} {images.shape}"
                )
        labels: dict[str, np.ndarray | float] = {}
        for task, values in self.labels.items():
            if np.ndim(values) == 0:
                labels[task] = float(values)
                continue
            array = np.asarray(values, dtype=np.float32)
            if array.shape != (frames,):
                raise SchemaError(
                    f"{where}: labels of task {task!r} have {array.shape[0]} frames, the track has {frames}"
                )
            labels[task] = array
        object.__setattr__(self, "labels", labels)

    @property
    def frames(self) -> int:
        """How many frames the recording, or this piece of it, has."""
        return int(self.keypoints.shape[0])


def check_labels(tasks: Sequence[Task], recording: Recording) -> None:
    """Raise SchemaError when a recording's labels do not fit the tasks of its card.

    Unknown task names, a frame task with a single number, a recording task with a track, and a label that is
    not the index of a class are refused; a task without labels is unlabelled (NaN) and allowed.
    """
    known = {t.name: t for t in tasks}
    for name, values in recording.labels.items():
        where = f"recording {recording.name!r}: labels of {name!r}"
        if name not in known:
            raise SchemaError(f"{where}: the card has no such task ({', '.join(known) or 'none'})")
        task = known[name]
        if (task.level == "frame") != isinstance(values, np.ndarray):
            raise SchemaError(f"{where}: a {task.level}-level task needs one value a {task.level}")
        if task.kind != "regression":
            finite = np.atleast_1d(np.asarray(values, dtype=np.float32))
            finite = finite[np.isfinite(finite)]
            count = len(task.classes) or 2
            wrong = finite[(finite < 0) | (finite >= count) | (finite != np.round(finite))]
            if wrong.size:
                raise SchemaError(f"{where}: {wrong[0]} is not the index of one of {count} classes")
