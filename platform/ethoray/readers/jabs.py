"""JABS tracks of mice: pose_est files of version 2 to 6 (HDF5), with the twelve keypoints of that pipeline.

Points are stored as row and column, so y before x; here they are x, y. A keypoint of confidence 0 is missing.
Versions 4 and later know every mouse for the whole recording. Version 3 only has tracklets: each takes the place
of the animal that was lost longest ago, so an individual may change; the note counts them. The file does not
tell its frame rate (30 in this pipeline).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from ethoray.readers.contents import Layout, ReadError, Tracks, numbered
from ethoray.readers.hdf5 import Sliced, dataset, holds, opened, read

WHAT = "JABS tracks (pose_est h5, versions 2 to 6)"
KEYPOINTS = (
    "nose", "left ear", "right ear", "base neck", "left front paw", "right front paw", "centre spine",
    "left rear paw", "right rear paw", "base tail", "mid tail", "tip tail",
)  # fmt: skip
_SCAN = 1 << 18  # frames
_MOST_MICE = 1000


def sniffs(head: bytes, path: Path) -> bool:
    """Whether it has poseest/points and their confidence."""
    return holds(head, path, "poseest/points", "poseest/confidence")


def layout(path: Path, ignore: Sequence[str] = ()) -> Layout:
    """What the file holds."""
    with opened(path) as file:
        return _sliced(path, file).without(path, ignore)[0]


def pieces(
    path: Path, ignore: Sequence[str] = (), min_confidence: float = 0.0, frames: int | None = None
) -> Iterator[Tracks]:
    """Consecutive tracks; keypoints in ``ignore`` are left out, those less confident than the minimum become NaN."""
    with opened(path) as file:
        yield from _sliced(path, file).pieces(path, ignore, min_confidence, frames)


def _sliced(path: Path, file: h5py.File) -> Sliced:
    points = dataset(path, file, "poseest/points", "fiu")
    scores = dataset(path, file, "poseest/confidence", "f")
    alone = points.ndim == 3 and scores.ndim == 2
    shape = (len(points), 1, *points.shape[1:]) if alone else points.shape
    if len(shape) != 4 or shape[2:] != (len(KEYPOINTS), 2) or not points.size:
        raise ReadError(f"{path}: poseest/points has shape {points.shape}, expected (frame, mouse, 12, 2)")
    if scores.shape != points.shape[:-1]:
        raise ReadError(f"{path}: poseest/confidence has shape {scores.shape}, poseest/points {points.shape}")
    slots = _slots(path, file, shape[:2])

    def part(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        found = read(path, points, slice(start, stop)).reshape(-1, *shape[1:])
        seen = read(path, scores, slice(start, stop)).astype(np.float32).reshape(found.shape[:-1])
        if (seen < 0).any():
            raise ReadError(f"{path}: poseest/confidence is negative, {seen.min():g} at the least; it begins at 0")
        identity = slots.identity(start, stop)
        frame, slot = np.nonzero(identity >= 0)
        keypoints = np.full((len(found), slots.animals, *shape[2:]), np.nan, dtype=np.float32)
        confidence = np.full(keypoints.shape[:3], np.nan, dtype=np.float32)
        kept, place = seen[frame, slot], identity[frame, slot]
        keypoints[frame, place] = np.where(kept[..., None] > 0, found[frame, slot][..., ::-1], np.float32(np.nan))
        confidence[frame, place] = kept
        return keypoints, confidence

    return Sliced(Layout(shape[0], numbered(slots.animals), KEYPOINTS, 2, None, slots.notes), part)


@dataclass(frozen=True)
class _Slots:
    """Which individual stands in every slot of every frame.

    Attributes
    ----------
    identity: of frames start to stop, int (frame, slot), -1 where there is nobody.
    animals: how many individuals there are.
    """

    identity: Callable[[int, int], np.ndarray]
    animals: int
    notes: tuple[str, ...] = ()


def _slots(path: Path, file: h5py.File, shape: tuple[int, int]) -> _Slots:
    """By identity (versions 4 and later), else by tracklet (3), else by slot (2); what is read whole is a scan."""
    count = _same(path, file, "instance_count", shape[:1])
    embedded = _same(path, file, "instance_embed_id", shape)
    hidden = _same(path, file, "id_mask", shape) if embedded is not None else None
    tracklets = _same(path, file, "instance_track_id", shape) if embedded is None else None

    def stored(start: int, stop: int) -> np.ndarray:
        part, here = slice(start, stop), np.arange(shape[1])
        present = np.ones((stop - start, shape[1]), dtype=bool)
        if count is not None:
            present &= here < read(path, count, part).astype(np.int64)[:, None]
        if hidden is not None:
            present &= read(path, hidden, part) == 0
        if embedded is not None:
            return np.where(present, read(path, embedded, part).astype(np.int64) - 1, -1)
        return np.where(present, here if tracklets is None else read(path, tracklets, part).astype(np.int64), -1)

    spans = _spans(stored(start, min(start + _SCAN, shape[0])) for start in range(0, shape[0], _SCAN))
    highest = max(spans, default=-1)
    if highest < 0:
        raise ReadError(f"{path}: poseest has no mouse in any frame")
    if tracklets is not None:
        return _joined(spans, stored)
    if highest >= _MOST_MICE:
        raise ReadError(f"{path}: poseest/instance_embed_id is up to {highest + 1}; that many mice?")

    def identity(start: int, stop: int) -> np.ndarray:
        found = stored(start, stop)
        ordered = np.sort(found, axis=1)
        twice = np.argwhere((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0))
        if len(twice):
            frame, mouse = start + twice[0, 0], ordered[tuple(twice[0])] + 1
            raise ReadError(f"{path}: poseest/instance_embed_id has mouse {mouse} twice in frame {frame}")
        return found

    return _Slots(identity, highest + 1)


def _same(path: Path, file: h5py.File, key: str, shape: tuple[int, ...]) -> h5py.Dataset | None:
    if key not in file["poseest"]:
        return None
    data = dataset(path, file, f"poseest/{key}", "iub")
    if data.shape != shape:
        raise ReadError(f"{path}: poseest/{key} has shape {data.shape}, expected {shape}")
    return data


def _spans(parts: Iterable[np.ndarray]) -> dict[int, tuple[int, int]]:
    """First and last frame of every number that is not negative, from consecutive (frame, slot)."""
    spans: dict[int, tuple[int, int]] = {}
    start = 0
    for part in parts:
        flat, width = part.reshape(-1), part.shape[1]
        values, first = np.unique(flat, return_index=True)
        last = len(flat) - 1 - np.unique(flat[::-1], return_index=True)[1]
        for value, begin, end in zip(values.tolist(), first // width, last // width, strict=True):
            if value >= 0:
                spans[value] = (spans.get(value, (start + int(begin), 0))[0], start + int(end))
        start += len(part)
    return spans


def _joined(spans: Mapping[int, tuple[int, int]], stored: Callable[[int, int], np.ndarray]) -> _Slots:
    """Individuals out of tracklets: each takes the place that has been free longest."""
    ends: list[int] = []
    places: dict[int, int] = {}
    for tracklet, (first, last) in sorted(spans.items(), key=lambda item: (item[1], item[0])):
        free = [place for place, end in enumerate(ends) if end < first]
        place = min(free, key=lambda p: ends[p]) if free else len(ends)
        ends[place : place + 1] = [last]
        places[tracklet] = place
    known = np.array(sorted(places))
    individual = np.array([places[tracklet] for tracklet in known.tolist()])

    def identity(start: int, stop: int) -> np.ndarray:
        found = stored(start, stop)
        return np.where(found >= 0, individual[np.searchsorted(known, found).clip(0, len(known) - 1)], -1)

    notes = (f"{len(places)} tracklets joined to {len(ends)} individuals, who may change",)
    return _Slots(identity, len(ends), notes if len(places) > len(ends) else ())
