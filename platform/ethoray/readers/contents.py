"""What a pose file and a label file hold once read, and how their text is taken apart."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np

_TRACKER = re.compile(r"(DLC[_-]|DeepCut[_-]).*$")
_SUFFIX = re.compile(
    r"\.(csv|tsv|txt|h5|hdf5|mat|json|mp4|avi|mov|mkv|mpg|mpeg|wmv|slp|parquet|npy|npz|annot|nwb|videoPositionTracking)$",
    re.IGNORECASE,
)
_PIECE = 1 << 24  # bytes


class ReadError(ValueError):
    """A file that cannot be read as what it seems to be; the message names file, line, column and what to do."""


@dataclass(frozen=True)
class Tracks:
    """Positions of keypoints over time, from one file.

    Attributes
    ----------
    keypoints: float32 (time, individual, keypoint, space), NaN where missing.
    confidence: float32 (time, individual, keypoint), or None when the file has none.
    individuals, names: of the animals and of the keypoints.
    notes: counted facts about what was masked or left out.
    fps: frame rate that the file states, or None.
    """

    keypoints: np.ndarray
    confidence: np.ndarray | None
    individuals: tuple[str, ...]
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    fps: float | None = None


@dataclass(frozen=True)
class Layout:
    """What a pose file holds, without its numbers.

    Attributes
    ----------
    frames: how many there are.
    individuals, names: of the animals and of the keypoints.
    space: coordinates of a keypoint, 2 or 3.
    fps: frame rate that the file states, or None.
    notes: facts about what is left out, as far as they are known without the numbers.
    """

    frames: int
    individuals: tuple[str, ...]
    names: tuple[str, ...]
    space: int
    fps: float | None = None
    notes: tuple[str, ...] = ()


class Counted(str):
    """A note whose numbers add up over the pieces of a recording, as in "3 of 40 keypoints masked".

    Made of a pattern with {} for every number, and the numbers.
    """

    pattern: str
    numbers: tuple[int, ...]

    def __new__(cls, pattern: str, *numbers: int) -> Counted:
        """The text with its numbers filled in."""
        note = super().__new__(cls, pattern.format(*numbers))
        note.pattern, note.numbers = pattern, numbers
        return note

    def __getnewargs__(self) -> tuple[Any, ...]:  # pickled as pattern and numbers
        return (self.pattern, *self.numbers)


def added(notes: Iterable[str]) -> tuple[str, ...]:
    """Notes of consecutive pieces as those of the whole: counts of one kind are summed, other notes stand once."""
    plain: dict[str, None] = {}
    counts: dict[str, tuple[int, ...]] = {}
    for note in notes:
        if isinstance(note, Counted):
            before = counts.get(note.pattern, (0,) * len(note.numbers))
            counts[note.pattern] = tuple(a + b for a, b in zip(before, note.numbers, strict=True))
        else:
            plain[note] = None
    return (*plain, *(Counted(pattern, *counts[pattern]) for pattern in sorted(counts)))


def joined(path: Path, pieces: Iterable[Tracks]) -> Tracks:
    """Consecutive pieces of a recording as one; ReadError when there is none."""
    found = list(pieces)
    if not found:
        raise ReadError(f"{path}: it has no frame")
    first, notes = found[0], added(note for piece in found for note in piece.notes)
    if len(found) == 1:
        return replace(first, notes=notes)
    keypoints = np.concatenate([piece.keypoints for piece in found])
    scores = [piece.confidence for piece in found if piece.confidence is not None]
    return replace(first, keypoints=keypoints, confidence=np.concatenate(scores) if scores else None, notes=notes)


def cut(tracks: Tracks, frames: int | None = None) -> Iterator[Tracks]:
    """Tracks that are in memory as consecutive pieces of so many frames; notes of the whole stand in the first."""
    length, animals, points, space = tracks.keypoints.shape
    step = frames or worth(animals * points * (space + 1))
    for start in range(0, length, step):
        part = slice(start, start + step)
        confidence = None if tracks.confidence is None else tracks.confidence[part]
        notes = () if start else tracks.notes
        yield replace(tracks, keypoints=tracks.keypoints[part], confidence=confidence, notes=notes)


def worth(numbers: int) -> int:
    """How many frames of so many numbers make a piece, about 16 MB."""
    return max(1, _PIECE // (4 * max(numbers, 1)))


@dataclass(frozen=True)
class Bouts:
    """Behaviours as intervals in seconds, by one rater or several.

    Attributes
    ----------
    raters: per rater, per behaviour, float64 (bout, 2): start and stop. A behaviour without bouts did not occur.
    fps: frame rate that the file states, or None.
    """

    raters: Mapping[str, Mapping[str, np.ndarray]]
    fps: float | None = None

    @property
    def behaviours(self) -> tuple[str, ...]:
        """Every behaviour that any rater saw, in order of appearance."""
        return tuple(dict.fromkeys(name for bouts in self.raters.values() for name in bouts))

    def seconds(self, fps: float) -> float:
        """When the last bout ends."""
        return max((b[:, 1].max() for bouts in self.raters.values() for b in bouts.values() if len(b)), default=0.0)

    def frames(self, behaviour: str, length: int, fps: float) -> np.ndarray:
        """Float32 (length,): 1 where more than half of the raters see the behaviour; a bout lasts >= 1 frame."""
        votes = np.zeros(length, dtype=np.int64)
        for bouts in self.raters.values():
            seen = np.zeros(length, dtype=bool)
            for start, stop in bouts.get(behaviour, np.empty((0, 2))):
                first = round(start * fps)
                seen[first : max(round(stop * fps), first + 1)] = True
            votes += seen
        return (2 * votes > len(self.raters)).astype(np.float32)


@dataclass(frozen=True)
class FrameLabels:
    """Behaviours as one number a frame: 1 present, 0 absent, NaN unlabelled."""

    values: Mapping[str, np.ndarray]
    fps: float | None = None

    @property
    def behaviours(self) -> tuple[str, ...]:
        """The labelled behaviours."""
        return tuple(self.values)

    def seconds(self, fps: float) -> float:
        """How long the labels are."""
        return max((len(v) for v in self.values.values()), default=0) / fps

    def frames(self, behaviour: str, length: int, fps: float) -> np.ndarray:
        """Float32 (length,), NaN after the labels' end and for a behaviour this file does not label."""
        track = np.full(length, np.nan, dtype=np.float32)
        values = self.values.get(behaviour, np.empty(0))[:length]
        track[: len(values)] = values
        return track


Labels = Bouts | FrameLabels


def masked(path: Path, keypoints: np.ndarray, confidence: np.ndarray | None, minimum: float) -> tuple[str, ...]:
    """Make positions NaN, in place, that are incomplete or less confident than the minimum; notes that count them."""
    if confidence is not None and (confidence < 0).any():
        raise ReadError(f"{path}: confidence is negative, {np.nanmin(confidence):g} at the least; it begins at 0")
    notes: list[str] = []
    absent = np.zeros(keypoints.shape[:-1], dtype=bool)
    finite = np.isfinite(keypoints)
    if not finite.all():
        axes = [~finite[..., axis] for axis in range(keypoints.shape[-1])]
        absent = np.logical_and.reduce(axes)
        partly = np.logical_or.reduce(axes) & ~absent
        if np.isinf(keypoints).any():
            raise ReadError(f"{path}: {int(np.isinf(keypoints).sum())} coordinates are infinite")
        if partly.any():
            keypoints[partly] = np.nan
            notes.append(Counted("{} keypoints with some but not all coordinates masked", int(partly.sum())))
    if minimum > 0 and confidence is not None:
        unsure = (confidence < minimum) & ~absent
        keypoints[unsure] = np.nan
        pattern = f"{{}} of {{}} keypoints below confidence {minimum:g} masked"
        notes.append(Counted(pattern, int(unsure.sum()), unsure.size))
    return tuple(notes)


def numbered(count: int) -> tuple[str, ...]:
    """Names of individuals in a file that does not name them."""
    return tuple(f"individual_{i}" for i in range(count))


def without(path: Path, names: Sequence[str], ignore: Sequence[str]) -> list[int]:
    """Places of the keypoints that are not to be ignored; ReadError when none is left or one comes twice."""
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise ReadError(f"{path}: keypoints named twice: {', '.join(twice)}")
    dropped = {name.casefold() for name in ignore}
    places = [i for i, name in enumerate(names) if name.casefold() not in dropped]
    if not places:
        raise ReadError(f"{path}: no keypoint is left" if dropped else f"{path}: it names no keypoint")
    return places


def stem(path: str | PurePath) -> str:
    """A recording's name out of a file's: without folders, endings and what DeepLabCut appends."""
    name = re.split(r"[/\\]", str(path))[-1]
    while _SUFFIX.search(name):
        name = _SUFFIX.sub("", name)
    return _TRACKER.sub("", name).rstrip("_-. ") or name


def decode(data: bytes) -> str:
    """Text of a file: UTF-8 or UTF-16 by its byte-order mark, else UTF-8, else Latin-1."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data[: len(data) // 2 * 2].decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        cut_off = error.start >= len(data) - 4  # the end of a head that was cut within a character
        return data[: error.start].decode("utf-8-sig") if cut_off else data.decode("latin-1")


def separator(line: str) -> str:
    """Which of comma, semicolon and tab a line uses most."""
    return max(",;\t", key=line.count)


def rows(text: str, sep: str) -> list[list[str]]:
    """The cells of every line, stripped."""
    return [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text), delimiter=sep)]


def number(cell: str, where: str) -> float:
    """A finite number, with a decimal point or comma; ReadError naming the place otherwise."""
    try:
        value = float(cell.replace(",", "."))
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise ReadError(f"{where}: {cell!r} is not a number")
    return value


def kept(behaviours: Iterable[str], ignored: Sequence[str]) -> list[str]:
    """The behaviours that count: not ignored by name, not starting with an underscore."""
    dropped = {name.casefold() for name in ignored}
    return [b for b in behaviours if b and not b.startswith("_") and b.casefold() not in dropped]
