"""Clips of recordings as rows of Parquet: what a shard holds, how a row is laid out, and what is refused on reading.

Columns: recording, subject, split, start, frames, fps, individuals, keypoints (flattened time, individual,
keypoint, space), confidence (flattened, or null) and label:<task> (one value a frame, or one; null unlabelled).
Shards of recordings that have them also hold neural (flattened time, unit) and images (the bytes of every frame:
height, width, channel).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ethoray.files import Folder, StoreError
from ethoray.schema import Card

_FLOATS = pa.list_(pa.float32())
_PICTURES = pa.list_(pa.binary())


@dataclass(frozen=True)
class Shard:
    """One Parquet file of a dataset, its SHA-256 and its size in bytes."""

    file: str
    sha256: str
    bytes: int

    def __post_init__(self) -> None:
        if not re.fullmatch(r"shards/[\w-]+\.parquet", self.file):
            raise StoreError(f"the manifest names a shard outside the dataset: {self.file!r}")


@dataclass(frozen=True)
class Clip:
    """Where ``frames`` frames of a recording, from frame ``start``, lie: one row group of one shard."""

    shard: str
    row_group: int
    start: int
    frames: int


_COLUMNS = (
    pa.field("recording", pa.string()),
    pa.field("subject", pa.string()),
    pa.field("split", pa.string()),
    pa.field("start", pa.int64()),
    pa.field("frames", pa.int64()),
    pa.field("fps", pa.float64()),
    pa.field("individuals", pa.list_(pa.string())),
    pa.field("keypoints", _FLOATS),
    pa.field("confidence", _FLOATS),
)


def columns(card: Card, neural: bool, images: bool) -> pa.Schema:
    """The columns of a shard whose recordings have neural activity, or images, or neither."""
    labels = [pa.field(f"label:{t.name}", _FLOATS) for t in card.tasks]
    more = [pa.field("neural", _FLOATS)] * neural + [pa.field("images", _PICTURES)] * images
    return pa.schema([*_COLUMNS, *labels, *more])


def row(values: Mapping[str, Any], schema: pa.Schema) -> pa.RecordBatch:
    """One clip as a row: arrays become lists, what is absent or None becomes null."""
    arrays = []
    for field in schema:
        value = values.get(field.name)
        if field.type == _PICTURES:
            arrays.append(_pictures(value))
        elif field.type == _FLOATS:
            arrays.append(_listed(value))
        else:
            arrays.append(pa.array([value], field.type))
    return pa.record_batch(arrays, schema=schema)


def _listed(values: np.ndarray | float | None) -> pa.Array:
    if values is None:
        return pa.nulls(1, _FLOATS)
    flat = np.ascontiguousarray(np.atleast_1d(values), dtype=np.float32).reshape(-1)
    return pa.ListArray.from_arrays(pa.array([0, len(flat)], pa.int32()), pa.array(flat))


def _pictures(values: np.ndarray | None) -> pa.Array:
    if values is None:
        return pa.nulls(1, _PICTURES)
    size = int(np.prod(values.shape[1:]))
    offsets = pa.py_buffer(np.arange(0, len(values) + 1, dtype=np.int32) * np.int32(size))
    data = pa.py_buffer(np.ascontiguousarray(values))
    frames = pa.BinaryArray.from_buffers(pa.binary(), len(values), [None, offsets, data])
    return pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), frames)


def floats(row: pa.Table, column: str, shape: tuple[int, ...], clip: Clip) -> np.ndarray:
    """One list column of a one-row table as float32 of this shape; StoreError when it is another's."""
    values = row[column].chunk(0).values if row.num_rows == 1 else None
    if values is None or values.type != pa.float32() or len(values) != np.prod(shape) or values.null_count:
        raise StoreError(f"{clip.shard}, row group {clip.row_group}: {column} does not hold {shape} numbers")
    return values.to_numpy().reshape(shape)


def pictures(row: pa.Table, shape: tuple[int, ...], clip: Clip) -> np.ndarray:
    """The images of a one-row table as uint8 (time, height, width, channel); StoreError when they are another's."""
    values = row["images"].chunk(0).values if row.num_rows == 1 else None
    size = int(np.prod(shape[1:]))
    if values is not None and values.type == pa.binary() and len(values) == shape[0] and not values.null_count:
        _, offsets, data = values.buffers()
        ends = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
        if data is not None and (np.diff(ends) == size).all():
            return np.frombuffer(data, np.uint8)[ends[0] : ends[-1]].reshape(shape)
    raise StoreError(f"{clip.shard}, row group {clip.row_group}: images does not hold {shape} bytes")


@contextmanager
def open_shard(folder: Folder, file: str) -> Iterator[pq.ParquetFile]:
    """A shard to read row groups from, refused before Arrow sees it when it carries Arrow types of its own."""
    with folder.stream(file) as handle:
        _refuse_foreign(handle, f"{folder.uri}/{file}")
        with pq.ParquetFile(handle) as parquet:
            yield parquet


def _refuse_foreign(handle: BinaryIO, where: str) -> None:
    """Arrow rebuilds extension types from a schema kept in the footer, and some run code when they are rebuilt.

    Ours are written without that schema, so its mere presence is enough to refuse (CVE-2026-41486).
    """
    size = handle.seek(0, 2)
    handle.seek(max(size - 8, 0))
    tail = handle.read(8)
    length = struct.unpack("<I", tail[:4])[0] if len(tail) == 8 and tail[4:] == b"PAR1" else size
    if length + 12 > size:
        raise StoreError(f"{where} is not a whole Parquet file; prepare the dataset again")
    handle.seek(size - 8 - length)
    if b"ARROW:" in handle.read(length):
        raise StoreError(f"{where} carries an Arrow schema of its own, which could run code; shards have none")
    handle.seek(0)
