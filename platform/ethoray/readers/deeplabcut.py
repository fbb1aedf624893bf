"""DeepLabCut tracks: csv with three header rows, or four when there are several animals.

The rows named bodyparts, coords and (several animals) individuals are found by name, so that files that went
through pandas, with further index columns, read the same; so do those of Lightning Pose. Bodyparts of the
individual "single" that no other individual has are DeepLabCut's unique bodyparts: marks in the arena, not an
animal. They are left out, and noted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ethoray.readers.columns import CONFIDENCE, Place, Sheet, first_lines
from ethoray.readers.contents import Layout, ReadError, Tracks, decode, rows, separator

WHAT = "DeepLabCut or Lightning Pose tracks (csv, one animal or several)"
_LINES = 12  # of which the header is a part
_HEADER = ("scorer", "individuals", "bodyparts", "coords")
_SPREAD = re.compile(r"[xyz]_(ens_median|ens_var|posterior_var)")  # what ensembles of Lightning Pose networks add


def sniffs(head: bytes, path: Path) -> bool:
    """Whether the first lines name bodyparts and coords."""
    return _header(decode(head)) is not None


def layout(path: Path, ignore: Sequence[str] = ()) -> Layout:
    """What the file holds."""
    return _sheet(path, ignore).layout()


def pieces(
    path: Path, ignore: Sequence[str] = (), min_confidence: float = 0.0, frames: int | None = None
) -> Iterator[Tracks]:
    """Consecutive tracks; keypoints in ``ignore`` are left out, those less confident than the minimum become NaN."""
    sheet = _sheet(path, ignore)
    notes = _pictures(path, sheet.line)
    for piece in sheet.pieces(min_confidence, frames):
        yield replace(piece, notes=(*piece.notes, *notes))
        notes = ()


def _pictures(path: Path, line: int) -> tuple[str, ...]:
    """A note where rows are named after pictures, as labelled frames are, which need not follow one another."""
    first = first_lines(path, line + 1).splitlines()[line:]
    named = first and re.search(r"\.(png|jpe?g|tiff?|bmp)\b", first[0], re.IGNORECASE)
    return (
        ("rows are named after pictures; whether these follow one another in time is not in the file",) if named else ()
    )


def _sheet(path: Path, ignore: Sequence[str]) -> Sheet:
    header = _header(first_lines(path, _LINES))
    if header is None:
        raise ReadError(f"{path}: no header rows named bodyparts and coords")
    places = _places(path, header, ignore)
    cells = header.cells
    named = [f"{name!r} {coord}" for name, coord in zip(cells["bodyparts"], cells["coords"], strict=True)]
    return Sheet(path, header.sep, header.line, named, places)


@dataclass(frozen=True)
class _Header:
    cells: dict[str, list[str]]
    first: int  # data column
    line: int  # of coords, counted from 1; data follows
    sep: str


def _header(text: str) -> _Header | None:
    lines = text.splitlines()[:_LINES]
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
