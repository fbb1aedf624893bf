"""HDF5 files of strangers: numbers and text inside the file itself, by key.

No link to other files is followed, nothing is unpickled, and no array larger than a few gigabytes is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ethoray.readers.contents import Layout, ReadError, Tracks, masked, without, worth

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_MOST_BYTES = 1 << 33


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The open file; what HDF5 cannot read is a ReadError."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except OSError as error:
        raise ReadError(f"{path}: not a whole HDF5 file, is it cut off? ({error})") from error


def holds(head: bytes, path: Path, *keys: str) -> bool:
    """Whether a file that begins with ``head`` is HDF5 and has every key."""
    if not head.startswith(SIGNATURE):
        return False
    with opened(path) as file:
        return all(_inside(file, key) is not None for key in keys)


def dataset(path: Path, file: h5py.Group, key: str, kinds: str = "fiub") -> h5py.Dataset:
    """A dataset of numbers (or of ``kinds``, the letters of numpy's dtypes), not yet read; ReadError names the key."""
    data = _inside(file, key)
    if data is None:
        raise ReadError(f"{path}: no {key}; it holds {', '.join(list(file)[:20]) or 'nothing'}")
    if not isinstance(data, h5py.Dataset) or data.dtype.kind not in kinds or data.external or data.is_virtual:
        raise ReadError(f"{path}: {key} is not an array of the expected kind")
    return data


def read(path: Path, data: h5py.Dataset, part: Any = ()) -> np.ndarray:
    """The numbers of a dataset, or of a part of it; ReadError where they are damaged."""
    try:
        return np.asarray(data[part])
    except (OSError, ValueError, TypeError) as error:
        raise ReadError(f"{path}: {data.name} cannot be read, is the file cut off? ({error})") from error


def array(path: Path, file: h5py.Group, key: str, kinds: str = "fiub") -> np.ndarray:
    """All numbers of a dataset; ReadError names the key when there is none, or when it is too large."""
    data = dataset(path, file, key, kinds)
    if data.size is not None and data.size * data.dtype.itemsize > _MOST_BYTES:
        raise ReadError(f"{path}: {key} has shape {data.shape}, more than can be read at once")
    return read(path, data)


@dataclass(frozen=True)
class Sliced:
    """Tracks of an open file that are read from one frame up to another.

    Attributes
    ----------
    layout: what the file holds, nothing ignored.
    read: float32 keypoints (time, individual, keypoint, space) and confidence, or None, of frames start to stop.
    """

    layout: Layout
    read: Callable[[int, int], tuple[np.ndarray, np.ndarray | None]]

    def without(self, path: Path, ignore: Sequence[str]) -> tuple[Layout, list[int]]:
        """The layout without the keypoints to ignore, and the places of the others."""
        places = without(path, self.layout.names, ignore)
        return replace(self.layout, names=tuple(self.layout.names[i] for i in places)), places

    def pieces(
        self, path: Path, ignore: Sequence[str] = (), min_confidence: float = 0.0, frames: int | None = None
    ) -> Iterator[Tracks]:
        """Consecutive tracks of so many frames, None for 16 MB's worth."""
        layout, places = self.without(path, ignore)
        step = frames or worth(len(layout.individuals) * len(self.layout.names) * (layout.space + 1))
        for start in range(0, layout.frames, step):
            keypoints, confidence = self.read(start, min(start + step, layout.frames))
            if len(places) < len(self.layout.names):
                keypoints = keypoints[:, :, places]
                confidence = None if confidence is None else confidence[:, :, places]
            notes = (*layout.notes, *masked(path, keypoints, confidence, min_confidence))
            yield Tracks(keypoints, confidence, layout.individuals, layout.names, notes, layout.fps)


def texts(path: Path, file: h5py.Group, key: str) -> tuple[str, ...]:
    """A dataset of names, or nothing where it is absent or empty."""
    if _inside(file, key) is None:
        return ()
    values = array(path, file, key, "SOUfiub").reshape(-1)
    if not all(isinstance(value, bytes | str) for value in values):
        if values.size:
            raise ReadError(f"{path}: {key} holds no text")
        return ()
    return tuple(v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in values)


def _inside(group: h5py.Group, key: str) -> object:
    """What stands at a key, every step a hard link; None otherwise."""
    place: object = group
    for name in key.split("/"):
        hard = isinstance(place, h5py.Group) and isinstance(place.get(name, getlink=True), h5py.HardLink)
        if not hard:
            return None
        assert isinstance(place, h5py.Group)
        place = place[name]
    return place
