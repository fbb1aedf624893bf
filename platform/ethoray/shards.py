"""Clips of recordings as rows of Parquet: what a shard holds, how it is written, and what is refused on reading.

Columns: recording, subject, split, start, frames, fps, individuals, keypoints (flattened time, individual,
keypoint, space), confidence (flattened, or null) and label:<task> (one value a frame, or one; null unlabelled).
"""

from __future__ import annotations

import hashlib
import re
import struct
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ethoray.files import Folder, StoreError
from ethoray.schema import Card, Recording, check_labels

_FLOATS = pa.list_(pa.float32())


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


class Writer:
    """Cuts recordings into clips, packs clips into shards, and keeps the account that the manifest becomes."""

    def __init__(self, folder: Folder, card: Card, clip_frames: int, shard_bytes: int) -> None:
        self.folder, self.card, self.clip_frames, self.shard_bytes = folder, card, clip_frames, shard_bytes
        self.shards: list[Shard] = []
        self.entries: dict[str, dict[str, Any]] = {}
        self._sides: dict[str, tuple[str, str]] = {}
        self._seen: dict[str, tuple[str, str]] = {}
        self._version = uuid.uuid4().hex[:12]
        labels = [pa.field(f"label:{t.name}", _FLOATS) for t in card.tasks]
        self._schema = pa.schema([*_COLUMNS, *labels])
        self._rows: list[pa.RecordBatch] = []
        self._size = 0

    def add(self, recording: Recording) -> None:
        """Check one recording and write its clips."""
        _check(recording, self.card, self.entries)
        self._check_leak(recording)
        clips: list[list[int]] = []
        for start in range(0, recording.frames, self.clip_frames):
            frames = min(self.clip_frames, recording.frames - start)
            row = _row(recording, start, frames, self._schema)
            if self._rows and self._size + row.nbytes > self.shard_bytes:
                self._flush()
            clips.append([len(self.shards), len(self._rows), start, frames])
            self._rows.append(row)
            self._size += row.nbytes
        self.entries[recording.name] = {
            "subject": recording.subject,
            "split": recording.split,
            "fps": recording.fps,
            "frames": recording.frames,
            "individuals": recording.individuals,
            "space": recording.keypoints.shape[-1],
            "clips": clips,
        }

    def document(self) -> dict[str, Any]:
        """Write what is left; the card, shards and entries of the manifest."""
        if not self.entries:
            raise StoreError(f"{self.folder.uri}: no recordings to prepare")
        self._flush()
        return {
            "card": asdict(self.card),
            "shards": [[s.file, s.sha256, s.bytes] for s in self.shards],
            "entries": self.entries,
        }

    def _flush(self) -> None:
        sink = pa.BufferOutputStream()
        options = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}
        with pq.ParquetWriter(sink, self._schema, store_schema=False, **options) as parquet:
            for row in self._rows:
                parquet.write_batch(row)
        data = sink.getvalue().to_pybytes()
        file = f"shards/{self._version}-part-{len(self.shards):05d}.parquet"
        self.folder.put(file, data)
        self.shards.append(Shard(file, hashlib.sha256(data).hexdigest(), len(data)))
        self._rows, self._size = [], 0

    def _check_leak(self, recording: Recording) -> None:
        """The same animal, or the same track under two names, on both sides makes every score a lie."""
        name, subject, split = recording.name, recording.subject, recording.split
        if split in ("train", "test") and "block" not in self.card.split_rule:
            side, other = self._sides.setdefault(subject, (split, name))
            if side != split:
                raise StoreError(
                    f"subject {subject!r} is in {side} ({other!r}) and in {split} ({name!r}); put all its "
                    "recordings on one side, or cut contiguous blocks and say so in the card's split_rule"
                )
        if np.isnan(recording.keypoints).all():
            return
        digest = hashlib.sha256(repr(recording.keypoints.shape).encode() + recording.keypoints.tobytes()).hexdigest()
        side, other = self._seen.setdefault(digest, (split, name))
        if side != split:
            raise StoreError(f"recordings {other!r} ({side}) and {name!r} ({split}) are the same track; drop one")


def _check(recording: Recording, card: Card, entries: dict[str, dict[str, Any]]) -> None:
    where = f"recording {recording.name!r}"
    if recording.name in entries:
        raise StoreError(f"{where} is given twice; names are unique within a dataset")
    if not np.isclose(recording.fps, card.fps):
        raise StoreError(f"{where} has {recording.fps} frames per second, the card says {card.fps}; resample one")
    if recording.skeleton.keypoints != card.skeleton.keypoints:
        odd = sorted(set(recording.skeleton.keypoints) ^ set(card.skeleton.keypoints)) or ["their order"]
        raise StoreError(f"{where}: its keypoints differ from the card's in {', '.join(odd)}")
    space = recording.keypoints.shape[-1]
    for name, entry in entries.items():
        if entry["space"] != space:
            raise StoreError(f"{where} has {space} coordinates, {name!r} has {entry['space']}")
        break  # every earlier one was compared with the first
    check_labels(card.tasks, recording)


def _row(recording: Recording, start: int, frames: int, schema: pa.Schema) -> pa.RecordBatch:
    cut = slice(start, start + frames)
    values: dict[str, Any] = {
        "recording": [recording.name],
        "subject": [recording.subject],
        "split": [recording.split],
        "start": [start],
        "frames": [frames],
        "fps": [recording.fps],
        "individuals": [list(recording.individuals)],
        "keypoints": _listed(recording.keypoints[cut]),
        "confidence": _listed(None if recording.confidence is None else recording.confidence[cut]),
    }
    for column in schema.names[len(_COLUMNS) :]:
        track = recording.labels.get(column.removeprefix("label:"))
        values[column] = _listed(track[cut] if isinstance(track, np.ndarray) else track)
    return pa.record_batch([pa.array(values[f.name], f.type) for f in schema], schema=schema)


def _listed(values: np.ndarray | float | None) -> pa.Array:
    if values is None:
        return pa.nulls(1, _FLOATS)
    flat = np.ascontiguousarray(np.atleast_1d(values), dtype=np.float32).reshape(-1)
    return pa.ListArray.from_arrays(pa.array([0, len(flat)], pa.int32()), pa.array(flat))


def floats(row: pa.Table, column: str, shape: tuple[int, ...], clip: Clip) -> np.ndarray:
    """One list column of a one-row table as float32 of this shape; StoreError when it is another's."""
    values = row[column].chunk(0).values if row.num_rows == 1 else None
    if values is None or values.type != pa.float32() or len(values) != np.prod(shape) or values.null_count:
        raise StoreError(f"{clip.shard}, row group {clip.row_group}: {column} does not hold {shape} numbers")
    return values.to_numpy().reshape(shape)


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
