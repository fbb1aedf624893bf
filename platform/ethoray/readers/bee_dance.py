"""Dances of honey bees as packed with KL-CPD: MATLAB 5 files with the track Y (time, 3) and change points L (time, 1).

Y is x, y and heading, each scaled to 0..1 on its own; the units they had are not in the file. The bee's ``head`` is at
(x, y); ``heading`` is a second keypoint one unit of the scaled arena away, in the direction 2 pi times the third
column, counted from x towards y. That is the true direction where the bee turned through a whole circle, and a
stretched one where it did not. The one behaviour is ``change``, 1 in the frame where the dance's phase changes.

Y. Oh et al., Learning and inferring motion patterns using parametric segmental switching linear dynamic systems, 2008.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ethoray.readers.contents import FrameLabels, ReadError, Tracks, kept, masked, without

WHAT = "honey-bee dances with change points (MATLAB 5 with Y and L)"

_NAMES = ("head", "heading")
_MOST_FRAMES = 1 << 26


def sniffs(head: bytes, path: Path) -> bool:
    """Whether a MATLAB 5 file holds two arrays of numbers, Y (time, 3) and L (time, 1)."""
    if not head.startswith(b"MATLAB 5.0"):
        return False
    from scipy import io

    try:
        held = {name: (shape, kind) for name, shape, kind in io.whosmat(path)}
    except Exception:  # a damaged file: whoever reads MATLAB files next says so
        return False
    (track, _), (marks, _) = held.get("Y", ((), "")), held.get("L", ((), ""))
    return len(held) == 2 and tuple(track[1:]) == (3,) and tuple(marks) == (track[0], 1) and track[0] < _MOST_FRAMES


def tracks(path: Path, ignore: Sequence[str] = (), min_confidence: float = 0.0) -> Tracks:
    """Read one file."""
    track = _array(path, "Y").astype(np.float64)
    turn = 2 * np.pi * track[:, 2]
    points = np.stack([track[:, :2], track[:, :2] + np.stack([np.cos(turn), np.sin(turn)], -1)], 1)[:, None]
    places = without(path, _NAMES, ignore)
    keypoints = np.ascontiguousarray(points[:, :, places], dtype=np.float32)
    notes = ("x, y and heading are each scaled to 0..1 in the file", *masked(path, keypoints, None, min_confidence))
    return Tracks(keypoints, None, ("bee",), tuple(_NAMES[i] for i in places), notes)


def labels(path: Path, pose: str, ignore: Sequence[str] = ()) -> FrameLabels:
    """The change points: 1 in the frame of each."""
    marks = _array(path, "L").reshape(-1).astype(np.float32)
    if not np.isin(marks, (0, 1)).all():
        raise ReadError(f"{path}: L holds other numbers than 0 and 1")
    return FrameLabels({name: marks for name in kept(("change",), ignore)})


def _array(path: Path, key: str) -> np.ndarray:
    from scipy import io

    try:
        found: Any = io.loadmat(path, variable_names=[key], mat_dtype=False)[key]
    except Exception as error:  # scipy raises many kinds for a file that is cut off
        raise ReadError(f"{path}: {key} cannot be read, is the file cut off? ({error})") from error
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiub" or not found.size:
        raise ReadError(f"{path}: {key} is not an array of numbers")
    return found
