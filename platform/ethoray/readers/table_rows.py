"""The rows of a long table of tracks, csv or Parquet, some at a time; its columns under one name each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from ethoray.readers.columns import blocks, culprit, first_lines
from ethoray.readers.contents import ReadError, numbered, rows, separator, stem

_NAMES = {
    "recording": ("recording", "video", "session"),
    "frame": ("frame", "frame_index", "frame_idx"),
    "time": ("time", "time (s)", "time_s", "seconds"),
    "individual": ("individual", "animal", "track", "mouse"),
    "keypoint": ("keypoint", "bodypart", "node"),
    "x": ("x",),
    "y": ("y",),
    "z": ("z",),
    "confidence": ("confidence", "likelihood", "score"),
}
_TEXT = ("recording", "individual", "keypoint")
_ROWS, _BUFFER = 1 << 16, 1 << 20  # rows of a Parquet file at once, bytes of a column


def columns(path: Path, names: Sequence[str]) -> dict[str, str]:
    """The file's name of every column that counts."""
    found: dict[str, str] = {}
    for name in names:
        for column, spellings in _NAMES.items():
            if name.strip().casefold() in spellings:
                if column in found:
                    raise ReadError(f"{path}: columns {found[column]!r} and {name!r} are both the {column}; remove one")
                found[column] = name
    return found


def header(path: Path) -> tuple[list[str], str]:
    """The names of all columns, and what separates them, nothing for Parquet."""
    with path.open("rb") as file:
        parquet = file.read(4) == b"PAR1"
    if parquet:
        return list(pq.read_schema(path).names), ""
    first = first_lines(path, 1)
    sep = separator(first)
    return rows(first, sep)[0], sep


def tables(
    path: Path, columns: Mapping[str, str], wanted: Sequence[str], recording: str | None = None
) -> Iterator[pa.Table]:
    """Some columns of consecutive rows, under the names they have here; none of them empty."""
    chosen = {column: columns[column] for column in wanted if column in columns}
    if recording is not None:
        chosen["recording"] = columns["recording"]
    names, sep = header(path)
    try:
        for table in _of_csv(path, names, sep, chosen) if sep else _of_parquet(path, chosen):
            table = table.select(list(chosen.values())).rename_columns(list(chosen))
            if recording is not None:
                table = table.filter(pc.equal(table["recording"].cast(pa.string()), recording))
            if len(table):
                yield table
    except (pa.ArrowException, OSError) as error:
        raise ReadError(f"{path}: {error}") from error


def _of_parquet(path: Path, chosen: Mapping[str, str]) -> Iterator[pa.Table]:
    """Row group by row group, each through a reader of its own: one that goes on keeps what it has decoded."""
    schema, known = pq.read_schema(path), pq.read_metadata(path)
    texts = [name for key, name in chosen.items() if key in _TEXT and pa.types.is_string(schema.field(name).type)]
    for group in range(known.num_row_groups):
        with pq.ParquetFile(path, metadata=known, read_dictionary=texts, buffer_size=_BUFFER) as file:
            for batch in file.iter_batches(_ROWS, [group], list(chosen.values()), use_threads=False):
                yield pa.Table.from_batches([batch])
        pa.default_memory_pool().release_unused()


def _of_csv(path: Path, names: Sequence[str], sep: str, chosen: Mapping[str, str]) -> Iterator[pa.Table]:
    text = pa.dictionary(pa.int32(), pa.string())
    types = {name: text if key in _TEXT else pa.float64() for key, name in chosen.items()}
    options = arrow_csv.ConvertOptions(column_types=types, include_columns=list(chosen.values()))
    numeric = [names.index(name) for key, name in chosen.items() if key not in _TEXT]
    for line, block in blocks(path, 1):
        read = arrow_csv.ReadOptions(column_names=list(names), use_threads=False, block_size=len(block) + 1)
        try:
            yield arrow_csv.read_csv(pa.py_buffer(block), read, arrow_csv.ParseOptions(delimiter=sep), options)
        except pa.ArrowInvalid as error:
            if block.strip():
                cause = culprit(path, block.decode(errors="replace"), sep, line, names, numeric, False)
                raise ReadError(cause or f"{path}: {error}") from None


def one_recording(path: Path, columns: Mapping[str, str]) -> str:
    """The recording of several whose rows count, the one that the file is named after; ReadError without it."""
    found: dict[str, None] = {}
    for table in tables(path, columns, ("recording",)):
        found |= dict.fromkeys(str(name) for name in pc.unique(table["recording"].cast(pa.string())).to_pylist())
    if stem(path) not in found:
        raise ReadError(f"{path}: holds {len(found)} recordings ({', '.join(list(found)[:5])}); save a file for each")
    return stem(path)


def counts(path: Path, table: pa.Table, key: str) -> np.ndarray:
    """Frames or times, which all rows must have."""
    values = numbers(path, table, key)
    if not np.isfinite(values).all():
        raise ReadError(f"{path}: column {key} has empty cells")
    if key == "frame" and ((values != np.round(values)).any() or values.min() < 0):
        raise ReadError(f"{path}: column frame holds other values than whole numbers from 0")
    return values


def numbers(path: Path, table: pa.Table, name: str) -> np.ndarray:
    """A column as float64, NaN where a cell is empty."""
    try:
        return np.asarray(table[name].cast(pa.float64()).to_numpy())
    except (pa.ArrowException, ValueError) as error:
        raise ReadError(f"{path}: column {name} holds no numbers ({error})") from error


def _coded(path: Path, table: pa.Table, name: str) -> tuple[list[str], np.ndarray]:
    """Names, and for every row the place in them."""
    column: Any = table[name].combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    if not pa.types.is_dictionary(column.type):
        column = column.cast(pa.string()).dictionary_encode()
    if column.null_count or column.dictionary.null_count:
        raise ReadError(f"{path}: column {name} has {max(column.null_count, 1)} empty cells")
    return column.dictionary.cast(pa.string()).to_pylist(), column.indices.to_numpy(zero_copy_only=False)


def appearing(path: Path, table: pa.Table, name: str) -> tuple[str, ...]:
    """Names in order of appearance."""
    if name not in table.column_names:
        return numbered(1)
    names, codes = _coded(path, table, name)
    first = np.full(len(names), -1, dtype=np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    return tuple(names[i] for i in np.argsort(first, kind="stable") if first[i] >= 0)


def places(path: Path, table: pa.Table, name: str, known: Sequence[str]) -> np.ndarray:
    """The place of every row among the names known."""
    if name not in table.column_names:
        return np.zeros(len(table), dtype=np.int64)
    names, codes = _coded(path, table, name)
    place = {known_name: i for i, known_name in enumerate(known)}
    return np.array([place.get(n, 0) for n in names], dtype=np.int64)[codes]
