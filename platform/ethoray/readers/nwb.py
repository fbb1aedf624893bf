"""NWB files: poses of ndx-pose (0.1 to 0.4), or positions (SpatialSeries), read as the HDF5 they are.

One ``PoseEstimation`` is one animal seen by one camera; each ``PoseEstimationSeries`` in it is a keypoint. Containers
of the same keypoints and times that say they come from the same video or camera are the individuals of a group.
Without poses, the series of a ``Position`` are keypoints of one animal. Stored numbers become the unit they name
(times conversion, plus offset), x before y unless the reference frame says rows come first. Dropped frames are NaN.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np

from ethoray.readers.contents import ReadError, Tracks, masked, numbered, without
from ethoray.readers.hdf5 import array, opened, texts
from ethoray.readers.nwb_layout import Clock, attribute, clock, is_nwb, kind, located, measure, numbers, typed

WHAT = "NWB poses (ndx-pose) or positions (.nwb)"
_MOST_POSITIONS = 1 << 30
_ROWS_FIRST = re.compile(r"\(?\b(y\s*,\s*x\b|rows?\s*,\s*col(umn)?s?\b)", re.IGNORECASE)
_PREFIX = "PoseEstimationSeries"
_NOT_PLACES = ("CompassDirection", "EyeTracking", "PupilTracking")


@dataclass(frozen=True)
class Container:
    """One group of keypoints: its key in the file, the key of each keypoint's series, and where it was seen."""

    key: str
    series: dict[str, str]
    source: tuple[str, ...]
    poses: bool

    @property
    def name(self) -> str:
        """What people call it."""
        return self.key.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Timed:
    """Tracks with the clock they were taken by: frame 0 is at ``start`` seconds of the session."""

    tracks: Tracks
    start: float
    unit: str


def sniffs(head: bytes, path: Path) -> bool:
    """Whether it is HDF5 that says which version of NWB it is."""
    return is_nwb(head, path)


def tracks(path: Path, ignore: Sequence[str] = (), min_confidence: float = 0.0, pose: str = "") -> Tracks:
    """Read one file; what is in ``ignore``, keypoints or whole containers, is left out.

    Positions less confident than the minimum become NaN. ``pose`` names the container to read when there are
    several, or several with commas between, which are then the individuals.
    """
    return timed(path, ignore, min_confidence, pose).tracks


def timed(path: Path, ignore: Sequence[str] = (), min_confidence: float = 0.0, pose: str = "") -> Timed:
    """The same tracks, with the time of the first frame and the unit of the positions."""
    with opened(path) as file:
        found, notes = _chosen(path, containers(path, file), ignore, pose)
        names = _names(path, file, found[0])
        places = without(path, names, ignore)
        names = tuple(names[i] for i in places)
        parts = [[_series(path, file, c.series[name]) for name in names] for c in found]
    clocks = [s.clock for part in parts for s in part]
    first = clocks[0]
    for other in clocks[1:]:
        if other.frames != first.frames or abs(other.start - first.start) * first.fps > 0.5:
            raise ReadError(
                f"{path}: {found[0].key} has keypoints of different times, {first.frames} frames from "
                f"{first.start:g} s and {other.frames} from {other.start:g} s; name what is not wanted in ignore"
            )
    if len({s.data.shape[1] for part in parts for s in part}) > 1:
        raise ReadError(f"{path}: {found[0].key} has keypoints in two and in three coordinates; ignore one kind")
    keypoints = np.stack([np.stack([s.placed() for s in part], axis=1) for part in parts], axis=1)
    confidence = None
    if any(s.confidence is not None for part in parts for s in part):
        confidence = np.stack([np.stack([s.sure() for s in part], axis=1) for part in parts], axis=1)
    units = {s.unit for part in parts for s in part}
    notes += [f"positions in {' and '.join(sorted(units))}", *first.notes()]
    notes += list(dict.fromkeys(s.note for part in parts for s in part if s.note))
    notes += masked(path, keypoints, confidence, min_confidence)
    individuals = numbered(1) if len(found) == 1 else tuple(c.name for c in found)
    read = Tracks(keypoints, confidence, individuals, names, tuple(notes), first.fps)
    return Timed(read, first.start, " or ".join(sorted(units)))


def containers(path: Path, file: h5py.File) -> list[Container]:
    """Everything in the file that tracks keypoints; poses first."""
    series: dict[str, dict[str, str]] = {}
    for key, what in typed(path, file):
        parent, _, name = key.rpartition("/")
        if what == "PoseEstimationSeries":
            series.setdefault(parent, {})[name.removeprefix(_PREFIX) or name] = key
        elif what == "SpatialSeries" and kind(file[parent]) not in _NOT_PLACES:
            data = located(path, file, f"{key}/data")
            shape: tuple[int, ...] = getattr(file[data], "shape", ()) if data else ()
            if len(shape) == 2 and shape[1] in (2, 3):  # one column is an angle or a place on a line
                series.setdefault(parent if kind(file[parent]) == "Position" else key, {})[name] = key
    found = []
    for key, inside in series.items():
        poses = any(kind(file[k]) == "PoseEstimationSeries" for k in inside.values())
        found.append(Container(key, inside, _source(path, file, key), poses))
    return sorted(found, key=lambda c: not c.poses)


def _source(path: Path, file: h5py.File, key: str) -> tuple[str, ...]:
    """What a container says of the video or camera it comes from; nothing when it does not say."""
    said = []
    for name in ("source_video", "device"):
        place = located(path, file, f"{key}/{name}")
        said += [place] if place else []
    place = located(path, file, f"{key}/original_videos")
    return (*said, *(texts(path, file, place.lstrip("/")) if place else ()))


def _chosen(path: Path, found: list[Container], ignore: Sequence[str], pose: str) -> tuple[list[Container], list[str]]:
    """The containers to read, and notes on those left out."""
    if not found:
        raise ReadError(f"{path}: NWB without a pose (ndx-pose) and without a position in two or three coordinates")
    listed = ", ".join(f"{c.key} ({len(c.series)} keypoints)" for c in found)
    if pose:
        wanted = [next((c for c in found if name.strip() in (c.name, c.key)), None) for name in pose.split(",")]
        chosen = [c for c in wanted if c is not None]
        if len(chosen) < len(wanted):
            raise ReadError(f"{path}: no pose {pose!r}; it holds {listed}")
    else:
        dropped = {name.casefold() for name in ignore}
        left = [c for c in found if not {c.name.casefold(), c.key.casefold()} & dropped]
        if not left:
            raise ReadError(f"{path}: no pose is left of {listed}")
        chosen = [c for c in left if c.poses == left[0].poses]
    alike = all(set(c.series) == set(chosen[0].series) for c in chosen)
    together = bool(pose) or (bool(chosen[0].source) and len({c.source for c in chosen}) == 1)
    if len(chosen) > 1 and not (alike and together):
        raise ReadError(
            f"{path}: {len(chosen)} poses or positions, and nothing says that they are animals in one picture: "
            f"{listed}. Choose: name the others in ignore, or name one (or several animals, with commas) as pose"
        )
    others = [c.key for c in found if c not in chosen]
    return chosen, [f"not read: {', '.join(others)}"] if others else []


def _names(path: Path, file: h5py.File, container: Container) -> tuple[str, ...]:
    """Keypoints in the order of the skeleton's nodes where those are the names of series, else of the file."""
    nodes: tuple[str, ...] = ()
    for name in file[container.key]:
        place = located(path, file, f"{container.key}/{name}")
        if place and name == "nodes":  # before ndx-pose 0.2
            nodes = texts(path, file, place.lstrip("/"))
        elif place and kind(file[place]) == "Skeleton":
            nodes = texts(path, file, f"{place}/nodes".lstrip("/"))
    spelled = {name.casefold(): name for name in container.series}
    if len(nodes) == len(spelled) == len(container.series) and all(node.casefold() in spelled for node in nodes):
        return tuple(spelled[node.casefold()] for node in nodes)
    return tuple(container.series)


@dataclass(frozen=True)
class _Series:
    """One keypoint: its samples and when they were taken."""

    data: np.ndarray
    confidence: np.ndarray | None
    clock: Clock
    unit: str
    note: str = ""

    def placed(self) -> np.ndarray:
        """Float32 (frame, space) on the clock's grid."""
        out = np.full((self.clock.frames, self.data.shape[1]), np.nan, dtype=np.float32)
        out[self.clock.frame] = self.data
        return out

    def sure(self) -> np.ndarray:
        """Float32 (frame,), NaN where nothing was sampled or the series has no confidence."""
        out = np.full(self.clock.frames, np.nan, dtype=np.float32)
        if self.confidence is not None:
            out[self.clock.frame] = self.confidence
        return out


def _series(path: Path, file: h5py.File, key: str) -> _Series:
    place = located(path, file, f"{key}/data")
    if place is None:
        raise ReadError(f"{path}: no {key}/data")
    data = array(path, file, place.lstrip("/"), "fiu").astype(np.float64)
    if data.ndim != 2 or data.shape[1] not in (2, 3) or not len(data):
        raise ReadError(f"{path}: {place} has shape {data.shape}, expected (frame, 2 or 3)")
    when = clock(path, file, key, len(data))
    if when.frames * data.shape[1] > _MOST_POSITIONS:
        raise ReadError(f"{path}: {key} spans {when.frames} frames, more than can be read at once")
    data = data * measure(path, file, place, "conversion", 1.0) + measure(path, file, place, "offset", 0.0)
    confidence = None
    if located(path, file, f"{key}/confidence") is not None:
        confidence = numbers(path, file, f"{key}/confidence", "fiu").astype(np.float64)
        if confidence.shape != data.shape[:1]:
            raise ReadError(f"{path}: {key}/confidence has shape {confidence.shape}, data {data.shape}")
    found = _Series(data, confidence, when, attribute(file[place], "unit") or "pixels")
    frame = located(path, file, f"{key}/reference_frame")
    said = "".join(texts(path, file, frame.lstrip("/"))) if frame else ""
    if data.shape[1] == 2 and _ROWS_FIRST.search(said):
        return replace(found, data=data[:, ::-1], note=f"stored as rows, columns ({said!r:.60}); turned to x, y")
    return found
