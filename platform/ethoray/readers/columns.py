"""Tables with a column for every coordinate of every keypoint: their numbers, and how they become tracks.

A text table is read in blocks of whole lines, so that its length costs no memory.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv

from ethoray.readers.contents import Layout, ReadError, Tracks, decode, masked, rows, worth

CONFIDENCE = "likelihood"
_NULLS = ["", "nan", "NaN", "NAN", "NA", "N/A", "null", "None"]
_BLOCK = 1 << 22
_LONGEST_LINE = 1 << 22

Place = tuple[str, str, str]
"""Individual, keypoint and coordinate: x, y, z or likelihood."""


@dataclass(frozen=True)
class Sheet:
    """A text table of tracks, after its header was understood.

    Attributes
    ----------
    line: of the end of the header, counted from 1; data follows.
    names: of all columns, for messages.
    places: column of every coordinate that is wanted.
    counter: column that counts the frames, or None where none is checked.
    """

    path: Path
    sep: str
    line: int
    names: Sequence[str]
    places: Mapping[Place, int]
    counter: int | None = None

    def layout(self) -> Layout:
        """What it holds; its lines are counted, its numbers not read."""
        individuals, names, axes, notes = arrangement(self.path, self.places, f", line {self.line}")
        frames = sum(_filled_lines(block) for _, block in blocks(self.path, self.line))
        if not frames:
            raise ReadError(f"{self.path}: the header is followed by no frame")
        return Layout(frames, individuals, names, len(axes), None, notes)

    def pieces(self, min_confidence: float = 0.0, frames: int | None = None) -> Iterator[Tracks]:
        """Consecutive tracks of so many frames, None for 16 MB's worth; what is less confident is NaN."""
        wanted = [*self.places.values(), *([] if self.counter is None else [self.counter])]
        found = numbers(self.path, self.sep, self.line, self.names, wanted)
        if self.counter is not None:
            found = self._counted(found)
        places = {place: column for column, place in enumerate(self.places)}
        for values in _stacked(found, len(places), frames or worth(len(places))):
            yield assembled(self.path, places, values.T, min_confidence, f", line {self.line}")

    def _counted(self, found: Iterator[list[np.ndarray]]) -> Iterator[list[np.ndarray]]:
        """The columns but the last, which must count on from line to line."""
        expected, line = np.nan, self.line
        for columns in found:
            steps = np.diff(columns[-1], prepend=columns[-1][0] - 1 if np.isnan(expected) else expected)
            if (steps != 1).any():
                wrong = line + int(np.flatnonzero(steps != 1)[0]) + 1
                column = self.names[self.counter or 0]
                raise ReadError(f"{self.path}, line {wrong}, column {column}: frames do not follow one another")
            expected, line = columns[-1][-1], line + len(steps)
            yield columns[:-1]


def first_lines(path: Path, lines: int) -> str:
    """The first lines of a text file."""
    with path.open("rb") as file:
        return decode(b"".join(file.readline(_LONGEST_LINE) for _ in range(lines)))


def blocks(path: Path, line: int, size: int = _BLOCK) -> Iterator[tuple[int, bytes]]:
    """Whole lines of a text file after the first ``line``, as UTF-8, each time with how many lines came before."""
    with path.open("rb") as file:
        wide = file.read(2) in (b"\xff\xfe", b"\xfe\xff")
        file.seek(0)
        source: Any = io.TextIOWrapper(file, "utf-16", errors="replace", newline="\n") if wide else file
        for _ in range(line):
            source.readline()
        while block := source.read(size) + source.readline():
            block = block.encode() if wide else block
            yield line, block
            line += block.count(b"\n")


def _filled_lines(block: bytes) -> int:
    """Lines of a block that are not empty."""
    if block[:1] in (b"\n", b"\r") or b"\n\n" in block or b"\n\r" in block:
        return sum(1 for content in block.split(b"\n") if content.rstrip(b"\r"))
    return block.count(b"\n") + (not block.endswith(b"\n"))


def numbers(path: Path, sep: str, line: int, names: Sequence[str], wanted: Sequence[int]) -> Iterator[list[np.ndarray]]:
    """Block for block the wanted columns, float64 (time,), of a csv's lines after the first ``line``.

    ``names`` are of all columns. A broken cell raises ReadError with its line, column and name.
    """
    keys = [f"c{i}" for i in range(len(names))]
    included = [keys[i] for i in wanted]
    comma = filled = False
    for before, block in blocks(path, line):
        comma = comma or (sep == ";" and b"," in block)
        convert = arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(included, pa.float64()),
            include_columns=included,
            null_values=_NULLS,
            decimal_point="," if comma else ".",
        )
        read = arrow_csv.ReadOptions(column_names=keys, use_threads=False, block_size=len(block) + 1)
        try:
            table = arrow_csv.read_csv(pa.py_buffer(block), read, arrow_csv.ParseOptions(delimiter=sep), convert)
        except pa.ArrowInvalid as error:
            if not block.strip():
                continue
            raise ReadError(
                culprit(path, block.decode(errors="replace"), sep, before, names, wanted, comma) or f"{path}: {error}"
            ) from None
        if len(table):
            filled = True
            yield [column.to_numpy() for column in table.columns]
    if not filled:
        raise ReadError(f"{path}: the header is followed by no frame")


def _stacked(found: Iterator[list[np.ndarray]], columns: int, frames: int) -> Iterator[np.ndarray]:
    """Float32 (column, frames) out of blocks of any length; the last has fewer frames."""
    filled, held = 0, np.empty((columns, 0), dtype=np.float32)
    for block in found:
        at = 0
        while at < len(block[0]):
            if not filled:
                held = np.empty((columns, frames), dtype=np.float32)
            take = min(frames - filled, len(block[0]) - at)
            for row, column in zip(held, block, strict=True):
                row[filled : filled + take] = column[at : at + take]
            at, filled = at + take, filled + take
            if filled == frames:
                yield held
                filled = 0
    if filled:
        yield held[:, :filled]


def assembled(
    path: Path, places: Mapping[Place, int], values: np.ndarray, min_confidence: float, header: str = ""
) -> Tracks:
    """Tracks from the columns of ``values`` (time, column) at ``places``; ``header`` says where those are named.

    Keypoints of the individual "single" that no other has are marks in the arena, not an animal: left out, noted.
    """
    individuals, names, axes, notes = arrangement(path, places, header)
    shape = (len(values), len(individuals), len(names))
    keypoints = np.full((*shape, len(axes)), np.nan, dtype=np.float32)
    confidence = np.full(shape, np.nan, dtype=np.float32)
    for (individual, name, coord), column in places.items():
        if individual in individuals:
            i, k = individuals.index(individual), names.index(name)
            target = confidence[:, i, k] if coord == CONFIDENCE else keypoints[:, i, k, axes.index(coord)]
            target[:] = values[:, column]
    measured = confidence if any(p[2] == CONFIDENCE for p in places) else None
    return Tracks(keypoints, measured, individuals, names, (*notes, *masked(path, keypoints, measured, min_confidence)))


def arrangement(
    path: Path, places: Mapping[Place, int], header: str
) -> tuple[tuple[str, ...], tuple[str, ...], str, tuple[str, ...]]:
    """Individuals and keypoints in file order, the coordinates, and a note on what is not an animal."""
    individuals = tuple(dict.fromkeys(p[0] for p in places))
    others = {p[1] for p in places if p[0] != "single"}
    marks = list(dict.fromkeys(p[1] for p in places if p[0] == "single"))
    notes: tuple[str, ...] = ()
    if others and marks and not others & set(marks):
        individuals = tuple(i for i in individuals if i != "single")
        notes = (f"{len(marks)} unique bodyparts left out, they are no animal: {', '.join(marks)}",)
    axes = "xyz" if any(p[2] == "z" for p in places) else "xy"
    for individual, name in {p[:2]: None for p in places}:
        missing = [a for a in axes if (individual, name, a) not in places]
        if individual in individuals and missing:
            raise ReadError(f"{path}{header}: keypoint {name!r} has no column {missing[0]!r}")
    return individuals, tuple(dict.fromkeys(p[1] for p in places if p[0] in individuals)), axes, notes


def culprit(
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
