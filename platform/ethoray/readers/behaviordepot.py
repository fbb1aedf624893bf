"""BehaviorDEPOT labels: MATLAB v7.3 files with hBehavior/<behaviour>/Vector, one number a frame.

Only numeric arrays inside the file itself are read: no link to other files is followed, nothing is executed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from ethoray.readers.contents import FrameLabels, ReadError, kept

WHAT = "BehaviorDEPOT labels (MATLAB v7.3)"


def sniffs(head: bytes, path: Path) -> bool:
    """Whether this is a MATLAB file; older ones are recognised so that they can be refused with advice."""
    return head.startswith(b"MATLAB ")


def labels(path: Path, pose: str, ignore: Sequence[str] = ()) -> FrameLabels:
    """Read one file."""
    with path.open("rb") as file:
        version = file.read(10).decode("ascii", errors="replace")
    if version != "MATLAB 7.3":
        raise ReadError(f"{path}: {version} file; in MATLAB, save it again with '-v7.3'")
    try:
        with h5py.File(path, "r") as file:
            group = _inside(file, "hBehavior")
            if not isinstance(group, h5py.Group):
                raise ReadError(f"{path}: no hBehavior; it holds {', '.join(file)}")
            found = {str(name): _vector(path, name, _inside(group, name)) for name in kept(group, ignore)}
    except OSError as error:
        raise ReadError(f"{path}: not a readable MATLAB v7.3 file ({error})") from error
    values = {name: vector for name, vector in found.items() if vector is not None}
    if not values:
        raise ReadError(f"{path}: hBehavior holds no behaviour with a Vector")
    if len({len(v) for v in values.values()}) > 1:
        lengths = ", ".join(f"{name} {len(v)}" for name, v in values.items())
        raise ReadError(f"{path}: behaviours of different lengths in frames: {lengths}")
    return FrameLabels(values)


def _inside(group: object, name: str) -> object:
    assert isinstance(group, h5py.Group)
    hard = name in group and isinstance(group.get(name, getlink=True), h5py.HardLink)
    return group[name] if hard else None


def _vector(path: Path, name: str, behaviour: object) -> np.ndarray | None:
    vector = _inside(behaviour, "Vector") if isinstance(behaviour, h5py.Group) else None
    if vector is None:
        return None
    if not isinstance(vector, h5py.Dataset) or vector.dtype.kind not in "fiub" or vector.external:
        raise ReadError(f"{path}: hBehavior/{name}/Vector is not an array of numbers")
    values = np.asarray(vector[()], dtype=np.float32).reshape(-1)
    if not np.isin(values[~np.isnan(values)], (0, 1)).all():
        raise ReadError(f"{path}: hBehavior/{name}/Vector holds other numbers than 0 and 1")
    return values
