"""CalMS21's frame labels as A-SOiD hands them out: csv with sequence number and annotation, sequences end to end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ethoray.readers.calms21 import CLASSES
from ethoray.readers.contents import FrameLabels, ReadError, decode, kept, stem

WHAT = "CalMS21 frame labels of many sequences (csv with sequence number, annotation)"

_HEAD = "sequence number,annotation"


def sniffs(head: bytes, path: Path) -> bool:
    """Whether the first line is these two columns."""
    return next(iter(decode(head).splitlines()), "").strip().lower() == _HEAD


def recordings(path: Path) -> frozenset[str]:
    """The numbers of the sequences."""
    return frozenset(map(str, sequences(path)))


def labels(path: Path, pose: str, ignore: Sequence[str] = ()) -> FrameLabels:
    """The behaviours of the sequence whose number ``pose`` is or ends in."""
    found = sequences(path)
    number = re.search(r"\d+$", stem(pose))
    if number is None or int(number[0]) not in found:
        raise ReadError(
            f"{path}: holds sequences {min(found)} to {max(found)}; {stem(pose)!r} ends in none of these numbers"
        )
    track = found[int(number[0])]
    return FrameLabels({name: (track == CLASSES.index(name)).astype(np.float32) for name in kept(CLASSES, ignore)})


def sequences(path: str | Path) -> dict[int, np.ndarray]:
    """By its number, the class (index into ``calms21.CLASSES``) of every frame of a sequence."""
    body = decode(Path(path).read_bytes()).splitlines()[1:]
    try:
        table = np.array([line.split(",") for line in body if line.strip()], dtype=np.float64).reshape(-1, 2)
    except ValueError as error:
        raise ReadError(f"{path}: a row is not a sequence's number and a class ({error})") from error
    if not len(table) or (table != np.round(table)).any() or not np.isin(table[:, 1], range(len(CLASSES))).all():
        raise ReadError(f"{path}: holds other numbers than sequences and classes 0 to {len(CLASSES) - 1}")
    numbers, classes = table.astype(np.int64).T
    return {int(n): classes[numbers == n] for n in np.unique(numbers)}
