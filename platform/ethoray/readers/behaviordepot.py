"""BehaviorDEPOT labels: MATLAB files (version 5 or 7.3) with hBehavior.<behaviour>.Vector, one number a frame.

Only numeric arrays inside the file itself are read: no link to other files is followed, nothing is executed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from ethoray.readers.contents import FrameLabels, ReadError, kept

WHAT = "BehaviorDEPOT labels (MATLAB)"


def sniffs(head: bytes, path: Path) -> bool:
    """Whether this is a MATLAB file with hBehavior; version 4 is recognised by nobody."""
    if not head.startswith(b"MATLAB "):
        return False
    if head.startswith(b"MATLAB 7.3"):
        return True
    from scipy.io import whosmat

    try:
        return any(name == "hBehavior" for name, *_ in whosmat(path))
    except Exception:  # of a damaged file, whatever SciPy stumbles over; ``labels`` says so
        return True


def labels(path: Path, pose: str, ignore: Sequence[str] = ()) -> FrameLabels:
    """Read one file."""
    with path.open("rb") as file:
        newer = file.read(10) == b"MATLAB 7.3"
    found = (_version_73 if newer else _version_5)(path, ignore)
    values = {name: vector for name, vector in found.items() if vector is not None}
    if not values:
        raise ReadError(f"{path}: hBehavior holds no behaviour with a Vector")
    if len({len(v) for v in values.values()}) > 1:
        lengths = ", ".join(f"{name} {len(v)}" for name, v in values.items())
        raise ReadError(f"{path}: behaviours of different lengths in frames: {lengths}")
    return FrameLabels(values)


def _version_73(path: Path, ignore: Sequence[str]) -> dict[str, np.ndarray | None]:
    try:
        with h5py.File(path, "r") as file:
            group = _inside(file, "hBehavior")
            if not isinstance(group, h5py.Group):
                raise ReadError(f"{path}: no hBehavior; it holds {', '.join(file)}")
            return {str(name): _vector(path, name, _inside(group, name)) for name in kept(group, ignore)}
    except OSError as error:
        raise ReadError(f"{path}: not a readable MATLAB v7.3 file ({error})") from error


def _version_5(path: Path, ignore: Sequence[str]) -> dict[str, np.ndarray | None]:
    from scipy.io import loadmat

    try:
        group = loadmat(path, variable_names=["hBehavior"])["hBehavior"]
    except Exception as error:
        raise ReadError(
            f"{path}: not a readable MATLAB file with hBehavior ({error}); save it again with '-v7.3'"
        ) from error
    found: dict[str, np.ndarray | None] = {}
    for name in kept(group.dtype.names or (), ignore):
        behaviour = group[name].flat[0]
        has = getattr(behaviour, "dtype", None) is not None and "Vector" in (behaviour.dtype.names or ())
        found[name] = _zeros_and_ones(path, name, behaviour["Vector"].flat[0]) if has else None
    return found


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
    return _zeros_and_ones(path, name, vector[()])


def _zeros_and_ones(path: Path, name: str, vector: object) -> np.ndarray:
    array = np.asarray(vector)
    if array.dtype.kind not in "fiub":
        raise ReadError(f"{path}: hBehavior/{name}/Vector is not an array of numbers")
    values = array.astype(np.float32).reshape(-1)
    if not np.isin(values[~np.isnan(values)], (0, 1)).all():
        raise ReadError(f"{path}: hBehavior/{name}/Vector holds other numbers than 0 and 1")
    return values
