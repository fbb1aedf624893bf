"""A user's own files, read piece by piece: cleaned, cut in stretches, each with the labels of its frames."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ethoray import cleaning, readers
from ethoray.cleaning import Step
from ethoray.readers.contents import Labels, ReadError, Tracks, added
from ethoray.readers.splits import Stretch
from ethoray.schema import Recording, Skeleton


@dataclass(frozen=True)
class File:
    """A pose file, the label file that belongs to it, and the stretches that it is cut in.

    Attributes
    ----------
    length: frames that the pose file holds.
    frames: frames after resampling; stretches count these.
    """

    name: str
    pose: Path
    label: Path | None
    length: int
    frames: int
    stretches: tuple[Stretch, ...]

    @property
    def stamp(self) -> str:
        """Sizes and dates of both files: another one when either was replaced."""
        facts = [path.stat() for path in (self.pose, self.label) if path is not None]
        return " ".join(f"{fact.st_size} {fact.st_mtime_ns}" for fact in facts)


@dataclass(frozen=True)
class Reading:
    """How every file of a dataset is read; ``rate`` is frames per second of the files, before any cleaning."""

    skeleton: Skeleton
    behaviours: tuple[str, ...]
    rate: float
    cleaning: tuple[Step, ...] = ()
    ignore: tuple[str, ...] = ()
    ignore_behaviours: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        cleaning.reach(self.cleaning, self.rate)  # steps without sense at this rate are told before anything is read

    @property
    def fps(self) -> float:
        """Frames per second of the recordings."""
        return cleaning.rate(self.rate, self.cleaning)

    @property
    def unit(self) -> str:
        """Of the recordings' positions."""
        return cleaning.unit("pixel", self.cleaning)

    def frames(self, length: int) -> int:
        """How many frames are made of so many."""
        return len(cleaning.places(length, self.cleaning, self.rate)) if self.fps != self.rate else length

    def track(self, labels: Labels, behaviour: str, file: File) -> np.ndarray:
        """One behaviour frame by frame, float16 (time,): 1 present, 0 absent, NaN unlabelled."""
        track = labels.frames(behaviour, file.length, self.rate).astype(np.float16)
        return track[cleaning.places(file.length, self.cleaning, self.rate)] if self.fps != self.rate else track

    def read(self, files: Sequence[File]) -> Iterator[Recording | str]:
        """The recordings of the files, in pieces, and notes of what was met; raises ReadError naming the file."""
        for file in files:
            yield from self._file(file)

    def _file(self, file: File) -> Iterator[Recording | str]:
        labels = self._labels(file)
        notes: list[str] = []
        at, seen, tracks = 0, np.zeros(0, dtype=bool), None
        for tracks in self._pieces(file):
            notes += tracks.notes
            known = ~np.isnan(tracks.keypoints).all(axis=(0, 2, 3))
            seen = seen | known if len(seen) else known
            yield from self._recordings(file, tracks, at, labels)
            at += len(tracks.keypoints)
        if at != file.frames:
            raise ReadError(f"{file.pose}: {at} frames were read, {file.frames} were counted before; did it change?")
        assert tracks is not None
        yield from (f"{file.name}: {note}" for note in added(notes))
        for lost in np.flatnonzero(~seen):
            individual = tracks.individuals[lost]
            yield f"{file.name}: individual {individual!r} has no position in any frame; kept, masked"

    def _pieces(self, file: File) -> Iterator[Tracks]:
        pieces = readers.pieces(file.pose, ignore=self.ignore)
        return cleaning.clean(pieces, self.cleaning, self.rate) if self.cleaning else pieces

    def _labels(self, file: File) -> Mapping[str, np.ndarray]:
        if file.label is None:
            return {}
        found = readers.labels(file.label, file.pose, ignore=self.ignore_behaviours)
        return {b: self.track(found, b, file) for b in self.behaviours}

    def _recordings(self, file: File, tracks: Tracks, at: int, labels: Mapping[str, np.ndarray]) -> Iterator[Recording]:
        """The stretches that frames from ``at`` on belong to, as far as this piece reaches."""
        order = [tracks.names.index(k) for k in self.skeleton.keypoints]
        end = at + len(tracks.keypoints)
        for stretch in file.stretches:
            first, last = max(stretch.start, at), min(stretch.stop, end)
            if first >= last:
                continue
            cut = slice(first - at, last - at)
            confidence = tracks.confidence
            blank = np.full(last - first, np.nan, dtype=np.float32)
            yield Recording(
                name=stretch.name,
                subject=stretch.subject,
                fps=self.fps,
                skeleton=self.skeleton,
                keypoints=tracks.keypoints[cut][:, :, order],
                confidence=None if confidence is None else confidence[cut][:, :, order],
                individuals=tracks.individuals,
                split=stretch.split,
                labels={b: labels[b][first:last].astype(np.float32) if b in labels else blank for b in self.behaviours},
                start=first - stretch.start,
            )
