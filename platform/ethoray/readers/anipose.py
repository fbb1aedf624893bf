"""Anipose tracks in three dimensions: a csv with columns <keypoint>_x, _y, _z, _error, _ncams and _score.

The score is the confidence. The matrices and centres that Anipose appends (M_00, center_0) are left out; they turn
the arena, not the animal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ethoray.readers.columns import CONFIDENCE, Place, Sheet, first_lines
from ethoray.readers.contents import Layout, ReadError, Tracks, decode, rows, separator

WHAT = "Anipose tracks (csv with columns <keypoint>_x, _y, _z, _error, _score)"


def sniffs(head: bytes, path: Path) -> bool:
    """Whether the first line names a keypoint with z and its error or score."""
    names = _names(decode(head))[0]
    return any({f"{k}_z", f"{k}_error"} <= set(names) or {f"{k}_z", f"{k}_score"} <= set(names) for k in _points(names))


def layout(path: Path, ignore: Sequence[str] = ()) -> Layout:
    """What the file holds."""
    return _sheet(path, ignore).layout()


def pieces(
    path: Path, ignore: Sequence[str] = (), min_confidence: float = 0.0, frames: int | None = None
) -> Iterator[Tracks]:
    """Consecutive tracks; keypoints in ``ignore`` are left out, those less confident than the minimum become NaN."""
    return _sheet(path, ignore).pieces(min_confidence, frames)


def _sheet(path: Path, ignore: Sequence[str]) -> Sheet:
    names, sep = _names(first_lines(path, 1))
    dropped = {name.casefold() for name in ignore}
    places: dict[Place, int] = {}
    for point in _points(names):
        for coord, ending in (("x", "x"), ("y", "y"), ("z", "z"), (CONFIDENCE, "score")):
            column = f"{point}_{ending}"
            if names.count(column) > 1:
                raise ReadError(f"{path}, line 1: column {column!r} stands twice")
            if column in names and point.casefold() not in dropped:
                places["individual_0", point, coord] = names.index(column)
    if not places:
        raise ReadError(f"{path}: no keypoint is left")
    return Sheet(path, sep, 1, names, places, names.index("fnum") if "fnum" in names else None)


def _names(text: str) -> tuple[list[str], str]:
    first = next(iter(text.splitlines()), "")
    sep = separator(first)
    return (rows(first, sep)[0] if first.strip() else []), sep


def _points(names: Sequence[str]) -> list[str]:
    return [name[:-2] for name in names if name.endswith("_x")]
