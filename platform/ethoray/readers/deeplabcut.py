"""DeepLabCut tracks: csv with three header rows, or four when there are several animals.

The rows named bodyparts, coords and (several animals) individuals are found by name, so that files that went
through pandas, with further index columns, read the same; so do those of Lightning Pose. Bodyparts of the
individual "single" that no other individual has are DeepLabCut's unique bodyparts: marks in the arena, not an
animal. They are left out, and noted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ethoray.readers.columns import CONFIDENCE, Place, assembled, numbers
from ethoray.readers.contents import ReadError, Tracks, decode, rows, separator

WHAT = "DeepLabCut or Lightning Pose tracks (csv, one animal or several)"
_HEADER = ("scorer", "individuals", "bodyparts", "coords")
_SPREAD = re.compile(r"[xyz]_(ens_median|ens_var|posterior_var)")  # what ensembles of Lightning Pose networks add


def sniffs(head: bytes, path: Path) -> bool:
    """Whether the first lines name bodyparts and coords."""
    return _header(decode(head)) is not None


def tracks(path: Path, ignore: Sequence[str] = (), min_confidence: float = 0.0) -> Tracks:
    """Read one file; keypoints in ``ignore`` are left out, those less confident than the minimum become NaN."""
    text = decode(path.read_bytes())
    header = _header(text)
    if header is None:
        raise ReadError(f"{path}: no header rows named bodyparts and coords")
    places = _places(path, header, ignore)
    cells = header.cells
    named = [f"{name!r} {coord}" for name, coord in zip(cells["bodyparts"], cells["coords"], strict=True)]
    wanted = range(header.first, len(named))
    values = numbers(path, text, header.sep, header.line, named, wanted)
    shifted = {place: column - header.first for place, column in places.items()}
    return assembled(path, shifted, values, min_confidence, f", line {header.line}")


@dataclass(frozen=True)
class _Header:
    cells: dict[str, list[str]]
    first: int  # data column
    line: int  # of coords, counted from 1; data follows
    sep: str


def _header(text: str) -> _Header | None:
    lines = text.splitlines()[:12]
    sep = separator(next((line for line in lines if "bodyparts" in line), ""))
    found: dict[str, list[str]] = {}
    for number, cells in enumerate(rows("\n".join(lines), sep), start=1):
        label = next((i for i, cell in enumerate(cells[:4]) if cell.lower() in _HEADER), None)
        if label is None:
            continue
        found[cells[label].lower()] = cells
        if cells[label].lower() == "coords":
            first = next((i for i in range(label + 1, len(cells)) if cells[i]), label + 1)  # after image paths
            return _Header(found, first, number, sep) if "bodyparts" in found else None
    return None


def _places(path: Path, header: _Header, ignore: Sequence[str]) -> dict[Place, int]:
    """Column of every (individual, keypoint, coordinate)."""
    places: dict[Place, int] = {}
    names, coords = header.cells["bodyparts"], header.cells["coords"]
    animals = header.cells.get("individuals", ["individual_0"] * len(coords))
    if not len(names) == len(coords) == len(animals):
        raise ReadError(f"{path}: header rows of {len(names)}, {len(coords)} and {len(animals)} columns")
    dropped = {name.casefold() for name in ignore}
    for column in range(header.first, len(coords)):
        name, coord = names[column], coords[column].lower()
        if name.casefold() in dropped or _SPREAD.fullmatch(coord):
            continue
        if not name or coord not in ("x", "y", "z", CONFIDENCE):
            raise ReadError(
                f"{path}, line {header.line}, column {column + 1}: keypoint {name!r} with coordinate {coord!r}; "
                "expected x, y, z or likelihood"
            )
        key = (animals[column], name, coord)
        if key in places:
            raise ReadError(
                f"{path}, line {header.line}, column {column + 1}: {coord} of keypoint {name!r} stands in column "
                f"{places[key] + 1} too; rename or remove one"
            )
        places[key] = column
    if not places:
        raise ReadError(f"{path}: no keypoint is left" if dropped else f"{path}: the header names no keypoint")
    return places
