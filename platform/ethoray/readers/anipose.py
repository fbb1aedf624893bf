"""Anipose tracks in three dimensions: a csv with columns <keypoint>_x, _y, _z, _error, _ncams and _score.

The score is the confidence. The matrices and centres that Anipose appends (M_00, center_0) are left out; they turn
the arena, not the animal.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ethoray.readers.columns import CONFIDENCE, Place, assembled, numbers
from ethoray.readers.contents import ReadError, Tracks, decode, rows, separator

WHAT = "Anipose tracks (csv with columns <keypoint>_x, _y, _z, _error, _score)"


def sniffs(head: bytes, path: Path) -> bool:
    """Whether the first line names a keypoint with z and its error or score."""
    names = _names(decode(head))[0]
    return any({f"{k}_z", f"{k}_error"} <= set(names) or {f"{k}_z", f"{k}_score"} <= set(names) for k in _points(names))


def tracks(path: Path, ignore: Sequence[str] = (), min_confidence: float = 0.0) -> Tracks:
    """Read one file; keypoints in ``ignore`` are left out, those less confident than the minimum become NaN."""
    text = decode(path.read_bytes())
    names, sep = _names(text)
    dropped = {name.casefold() for name in ignore}
    places: dict[Place, int] = {}
    wanted: list[int] = []
    for point in _points(names):
        for coord, ending in (("x", "x"), ("y", "y"), ("z", "z"), (CONFIDENCE, "score")):
            column = f"{point}_{ending}"
            if names.count(column) > 1:
                raise ReadError(f"{path}, line 1: column {column!r} stands twice")
            if column in names and point.casefold() not in dropped:
                places["individual_0", point, coord] = len(wanted)
                wanted.append(names.index(column))
    if not places:
        raise ReadError(f"{path}: no keypoint is left")
    counted = "fnum" in names
    values = numbers(path, text, sep, 1, names, [*wanted, names.index("fnum")] if counted else wanted)
    if counted and not np.array_equal(values[:, -1], values[0, -1] + np.arange(len(values))):
        line = int(np.flatnonzero(values[1:, -1] - values[:-1, -1] != 1)[0]) + 3
        raise ReadError(f"{path}, line {line}, column fnum: frames do not follow one another")
    return assembled(path, places, values, min_confidence, ", line 1")


def _names(text: str) -> tuple[list[str], str]:
    first = next(iter(text.splitlines()), "")
    sep = separator(first)
    return (rows(first, sep)[0] if first.strip() else []), sep


def _points(names: Sequence[str]) -> list[str]:
    return [name[:-2] for name in names if name.endswith("_x")]
