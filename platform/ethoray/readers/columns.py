"""Tables with a column for every coordinate of every keypoint: their numbers, and how they become tracks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv

from ethoray.readers.contents import ReadError, Tracks, masked, rows

CONFIDENCE = "likelihood"
_NULLS = ["", "nan", "NaN", "NAN", "NA", "N/A", "null", "None"]

Place = tuple[str, str, str]
"""Individual, keypoint and coordinate: x, y, z or likelihood."""


def assembled(
    path: Path, places: Mapping[Place, int], values: np.ndarray, min_confidence: float, header: str = ""
) -> Tracks:
    """Tracks from the columns of ``values`` (time, column) at ``places``; ``header`` says where those are named.

    Keypoints of the individual "single" that no other has are marks in the arena, not an animal: left out, noted.
    """
    individuals, names, notes = _animals(places)
    axes = "xyz" if any(p[2] == "z" for p in places) else "xy"
    for individual, name in {p[:2]: None for p in places}:
        missing = [a for a in axes if (individual, name, a) not in places]
        if individual in individuals and missing:
            raise ReadError(f"{path}{header}: keypoint {name!r} has no column {missing[0]!r}")
    shape = (len(values), len(individuals), len(names))
    keypoints = np.full((*shape, len(axes)), np.nan, dtype=np.float32)
    confidence = np.full(shape, np.nan, dtype=np.float32)
    for (individual, name, coord), column in places.items():
        if individual in individuals:
            i, k = individuals.index(individual), names.index(name)
            target = confidence[:, i, k] if coord == CONFIDENCE else keypoints[:, i, k, axes.index(coord)]
            target[:] = values[:, column]
    measured = confidence if any(p[2] == CONFIDENCE for p in places) else None
    notes += masked(path, keypoints, measured, min_confidence)
    return Tracks(keypoints, measured, individuals, names, tuple(notes))


def _animals(places: Mapping[Place, int]) -> tuple[tuple[str, ...], tuple[str, ...], list[str]]:
    """Individuals and keypoints in file order, and a note on what is not an animal."""
    individuals = tuple(dict.fromkeys(p[0] for p in places))
    others = {p[1] for p in places if p[0] != "single"}
    marks = list(dict.fromkeys(p[1] for p in places if p[0] == "single"))
    notes: list[str] = []
    if others and marks and not others & set(marks):
        individuals = tuple(i for i in individuals if i != "single")
        notes.append(f"{len(marks)} unique bodyparts left out, they are no animal: {', '.join(marks)}")
    return individuals, tuple(dict.fromkeys(p[1] for p in places if p[0] in individuals)), notes


def numbers(path: Path, text: str, sep: str, line: int, names: Sequence[str], wanted: Sequence[int]) -> np.ndarray:
    """Float64 (time, wanted) from the lines of a csv after the first ``line``; ``names`` are of all columns.

    A broken cell raises ReadError with its line, column and name.
    """
    body = text.split("\n", line)[-1] if text.count("\n") >= line else ""
    if not body.strip():
        raise ReadError(f"{path}: the header is followed by no frame")
    comma = sep == ";" and "," in body[:10_000]
    keys = [f"c{i}" for i in range(len(names))]
    included = [keys[i] for i in wanted]
    try:
        table = arrow_csv.read_csv(
            pa.py_buffer(body.encode()),
            arrow_csv.ReadOptions(column_names=keys, use_threads=False),
            arrow_csv.ParseOptions(delimiter=sep),
            arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(included, pa.float64()),
                include_columns=included,
                null_values=_NULLS,
                decimal_point="," if comma else ".",
            ),
        )
    except pa.ArrowInvalid as error:
        raise ReadError(_culprit(path, body, sep, line, names, wanted, comma) or f"{path}: {error}") from None
    return np.stack([column.to_numpy() for column in table.columns], axis=1)


def _culprit(
    path: Path, body: str, sep: str, line: int, names: Sequence[str], wanted: Sequence[int], comma: bool
) -> str | None:
    """Where the table is broken; slow, and only asked when it is."""
    for number, cells in enumerate(rows(body, sep), start=line + 1):
        if cells and len(cells) != len(names):
            return f"{path}, line {number}: {len(cells)} cells, the header has {len(names)}; is the file cut off?"
        for column in wanted if cells else ():
            try:
                if cells[column] not in _NULLS:
                    float(cells[column].replace(",", ".") if comma else cells[column])
            except ValueError:
                return (
                    f"{path}, line {number}, column {column + 1} ({names[column]}): {cells[column]!r} is not a number"
                )
    return None
