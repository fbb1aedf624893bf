"""HDF5 files of strangers: numbers and text inside the file itself, by key.

No link to other files is followed, nothing is unpickled, and no array larger than a few gigabytes is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from ethoray.readers.contents import ReadError

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


def array(path: Path, file: h5py.Group, key: str, kinds: str = "fiub") -> np.ndarray:
    """A dataset of numbers (or of ``kinds``, the letters of numpy's dtypes); ReadError names the key otherwise."""
    data = _inside(file, key)
    if data is None:
        raise ReadError(f"{path}: no {key}; it holds {', '.join(list(file)[:20]) or 'nothing'}")
    if not isinstance(data, h5py.Dataset) or data.dtype.kind not in kinds or data.external or data.is_virtual:
        raise ReadError(f"{path}: {key} is not an array of the expected kind")
    if data.size is not None and data.size * data.dtype.itemsize > _MOST_BYTES:
        raise ReadError(f"{path}: {key} has shape {data.shape}, more than can be read at once")
    try:
        return np.asarray(data[()])
    except (OSError, ValueError, TypeError) as error:
        raise ReadError(f"{path}: {key} cannot be read, is the file cut off? ({error})") from error


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
