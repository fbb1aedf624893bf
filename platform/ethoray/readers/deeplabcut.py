"""DeepLabCut tracks: csv with three header rows, or four when there are several animals.

The rows named bodyparts, coords and (several animals) individuals are found by name, so that files that went
through pandas, with further index columns, read the same. Bodyparts of the individual "single" that no other
individual has are DeepLabCut's unique bodyparts: marks in the arena, not an animal. They are left out, and noted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv

from ethoray.readers.contents import ReadError, Tracks, decode, rows, separator

WHAT = "DeepLabCut tracks (csv, one animal or several)"
_HEADER = ("scorer", "individuals", "bodyparts", "coords")
_NULLS = ["", "nan", "NaN", "NAN", "NA", "N/A", "null", "None"]


def sniffs(head: bytes) -> bool:
    """Whether the first lines name bodyparts and coords."""
    return _header(decode(head)) is not None


def tracks(path: Path, ignore: Sequence[str] = (), min_confidence: float = 0.0) -> Tracks:
    """Read one file; keypoints in ``ignore`` are left out, those less confident than the minimum become NaN."""
    text = decode(path.read_bytes())
    header = _header(text)
    if header is None:
        raise ReadError(f"{path}: no header rows named bodyparts and coords")
    places = _places(path, header, ignore)
    individuals, names, notes = _animals(places)
    axes = "xyz" if any(p[2] == "z" for p in places) else "xy"
    for individual, name in {p[:2]: None for p in places}:
        missing = [a for a in axes if (individual, name, a) not in places]
        if individual in individuals and missing:
            raise ReadError(f"{path}, line {header.line}: keypoint {name!r} has no column {missing[0]!r}")
    values = _numbers(path, text, header)
    shape = (len(values), len(individuals), len(names))
    keypoints = np.full((*shape, len(axes)), np.nan, dtype=np.float32)
    confidence = np.full(shape, np.nan, dtype=np.float32)
    for (individual, name, coord), column in places.items():
        if individual in individuals:
            i, k = individuals.index(individual), names.index(name)
            target = confidence[:, i, k] if coord == "likelihood" else keypoints[:, i, k, axes.index(coord)]
            target[:] = values[:, column - header.first]
    notes += _mask(keypoints, confidence, min_confidence)
    measured = any(p[2] == "likelihood" for p in places)
    return Tracks(keypoints, confidence if measured else None, individuals, names, tuple(notes))


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
            return _Header(found, label + 1, number, sep) if "bodyparts" in found else None
    return None


def _places(path: Path, header: _Header, ignore: Sequence[str]) -> dict[tuple[str, str, str], int]:
    """Column of every (individual, keypoint, coordinate)."""
    places: dict[tuple[str, str, str], int] = {}
    names, coords = header.cells["bodyparts"], header.cells["coords"]
    animals = header.cells.get("individuals", ["individual_0"] * len(coords))
    if not len(names) == len(coords) == len(animals):
        raise ReadError(f"{path}: header rows of {len(names)}, {len(coords)} and {len(animals)} columns")
    dropped = {name.casefold() for name in ignore}
    for column in range(header.first, len(coords)):
        name, coord = names[column], coords[column].lower()
        if name.casefold() in dropped:
            continue
        if not name or coord not in ("x", "y", "z", "likelihood"):
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


def _animals(
    places: dict[tuple[str, str, str], int],
) -> tuple[tuple[str, ...], tuple[str, ...], list[str]]:
    """Individuals and keypoints in file order, and a note on what is not an animal."""
    individuals = tuple(dict.fromkeys(p[0] for p in places))
    others = {p[1] for p in places if p[0] != "single"}
    marks = list(dict.fromkeys(p[1] for p in places if p[0] == "single"))
    notes: list[str] = []
    if others and marks and not others & set(marks):
        individuals = tuple(i for i in individuals if i != "single")
        notes.append(f"{len(marks)} unique bodyparts left out, they are no animal: {', '.join(marks)}")
    return individuals, tuple(dict.fromkeys(p[1] for p in places if p[0] in individuals)), notes


def _numbers(path: Path, text: str, header: _Header) -> np.ndarray:
    width = len(header.cells["coords"])
    body = text.split("\n", header.line)[-1] if text.count("\n") >= header.line else ""
    if not body.strip():
        raise ReadError(f"{path}: the header is followed by no frame")
    comma = header.sep == ";" and "," in body[:10_000]
    names = [f"c{i}" for i in range(width)]
    wanted = names[header.first :]
    try:
        table = arrow_csv.read_csv(
            pa.py_buffer(body.encode()),
            arrow_csv.ReadOptions(column_names=names, use_threads=False),
            arrow_csv.ParseOptions(delimiter=header.sep),
            arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(wanted, pa.float64()),
                include_columns=wanted,
                null_values=_NULLS,
                decimal_point="," if comma else ".",
            ),
        )
    except pa.ArrowInvalid as error:
        raise ReadError(_culprit(path, body, header, comma) or f"{path}: {error}") from None
    return np.stack([column.to_numpy() for column in table.columns], axis=1)


def _culprit(path: Path, body: str, header: _Header, comma: bool) -> str | None:
    """Where the table is broken; slow, and only asked when it is."""
    width = len(header.cells["coords"])
    for line, cells in enumerate(rows(body, header.sep), start=header.line + 1):
        if cells and len(cells) != width:
            return f"{path}, line {line}: {len(cells)} cells, the header has {width}; is the file cut off?"
        for column, cell in enumerate(cells[header.first :], start=header.first):
            try:
                if cell not in _NULLS:
                    float(cell.replace(",", ".") if comma else cell)
            except ValueError:
                where = f"{header.cells['bodyparts'][column]!r} {header.cells['coords'][column]}"
                return f"{path}, line {line}, column {column + 1} ({where}): {cell!r} is not a number"
    return None


def _mask(keypoints: np.ndarray, confidence: np.ndarray, minimum: float) -> list[str]:
    notes: list[str] = []
    missing = np.isnan(keypoints)
    partly = missing.any(-1) & ~missing.all(-1)
    unsure = (confidence < minimum) & ~missing.all(-1)
    keypoints[partly | unsure] = np.nan
    if partly.any():
        notes.append(f"{int(partly.sum())} keypoints with some but not all coordinates masked")
    if minimum > 0:
        notes.append(f"{int(unsure.sum())} of {unsure.size} keypoints below confidence {minimum:g} masked")
    return notes
