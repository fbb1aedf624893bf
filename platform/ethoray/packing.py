"""Recordings are cut into clips and packed into shards, piece by piece; the account of it becomes the manifest.

A recording may arrive whole or in consecutive pieces: the clips, and the bytes of the shards, are the same. At
most one clip and one shard, compressed, are held in memory.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ethoray.files import Folder, StoreError
from ethoray.parts import Fragment, Ledger
from ethoray.schema import Card, Recording, check_labels
from ethoray.shards import Shard, columns, row

_OPTIONS = {"compression": "zstd", "use_dictionary": False, "write_statistics": False, "store_schema": False}
_PICTURE_BYTES = 1 << 30  # images of one clip: Arrow counts their bytes with 32 bits


@dataclass
class _Open:
    """The recording that is being written: what its pieces must agree on, and the frames that fill no clip yet."""

    first: Recording
    frames: int = 0
    clips: list[list[int]] = field(default_factory=list)
    left: list[dict[str, np.ndarray]] = field(default_factory=list)
    seen: bool = False

    def __post_init__(self) -> None:
        self._points, self._images = hashlib.sha256(), hashlib.sha256()

    def hash(self, piece: Recording) -> None:
        self._points.update(np.ascontiguousarray(piece.keypoints).data.cast("B") if piece.keypoints.size else b"")
        self.seen = self.seen or bool(np.isfinite(piece.keypoints).any())
        if piece.images is not None:
            self._images.update(np.ascontiguousarray(piece.images).data.cast("B"))
            self.seen = True

    def digest(self) -> str | None:
        shape = f"{self.frames} {self.first.keypoints.shape[1:]} {self._images.hexdigest()}"
        return hashlib.sha256(shape.encode() + self._points.digest()).hexdigest() if self.seen else None


class Writer:
    """Cuts recordings into clips, packs clips into shards, and keeps the account that the manifest becomes."""

    def __init__(self, folder: Folder, card: Card, clip_frames: int, shard_bytes: int, *, force: bool = False) -> None:
        self.folder, self.card, self.clip_frames, self.shard_bytes = folder, card, clip_frames, shard_bytes
        self.shards: list[Shard] = []
        self.entries: dict[str, dict[str, Any]] = {}
        self.digests: dict[str, str | None] = {}
        self._ledger = Ledger(card, force)
        self._version = uuid.uuid4().hex[:12]
        self._open: _Open | None = None
        self._parquet: pq.ParquetWriter | None = None
        self._sink: pa.BufferOutputStream | None = None
        self._schema: pa.Schema | None = None
        self._rows = self._size = 0

    def add(self, piece: Recording) -> None:
        """Check a recording, or its next piece, and write the clips that are full."""
        check_labels(self.card.tasks, piece)
        track = self._open
        if track is None or track.first.name != piece.name or piece.start == 0:
            self._close()
            track = self._begin(piece)
        else:
            _check_next(track, piece)
        track.hash(piece)
        arrays = _arrays(piece)
        if piece.images is not None:
            most = max(1, min(self.shard_bytes, _PICTURE_BYTES) // piece.images[0].nbytes)
            self._cut(track, arrays, piece.start, min(self.clip_frames, most))
        else:
            self._fill(track, arrays, piece)
        track.frames = piece.start + piece.frames

    def fragment(self, notes: Iterable[str] = (), quality: dict[str, Any] | None = None) -> Fragment:
        """Write what is left; the account of everything written."""
        self._close()
        self._flush()
        return Fragment(tuple(self.shards), self.entries, self.digests, tuple(notes), quality)

    def _begin(self, piece: Recording) -> _Open:
        where = f"recording {piece.name!r}"
        if piece.start and piece.name in self.entries:
            raise StoreError(f"{where}: a piece from frame {piece.start} comes after other recordings; hand over all "
                             "pieces of a recording one after the other")  # fmt: skip
        self._ledger.enter(piece.name, piece.subject, piece.split, piece.keypoints.shape[-1])
        if piece.start and piece.images is None:
            raise StoreError(f"{where} begins at frame {piece.start}; frames 0 to {piece.start} are missing")
        if not np.isclose(piece.fps, self.card.fps):
            raise StoreError(f"{where} has {piece.fps} frames per second, the card says {self.card.fps}; resample one")
        if piece.skeleton.keypoints != self.card.skeleton.keypoints:
            odd = sorted(set(piece.skeleton.keypoints) ^ set(self.card.skeleton.keypoints)) or ["their order"]
            raise StoreError(f"{where}: its keypoints differ from the card's in {', '.join(odd)}")
        self._open = _Open(_without_arrays(piece))
        return self._open

    def _fill(self, track: _Open, arrays: dict[str, np.ndarray], piece: Recording) -> None:
        begun = track.clips[-1][2] + track.clips[-1][3] if track.clips else 0
        held = piece.start + piece.frames - begun
        if held < self.clip_frames:
            track.left.append({name: values.copy() for name, values in arrays.items()})
            return
        if track.left:
            arrays = {name: np.concatenate([*(p[name] for p in track.left), arrays[name]]) for name in arrays}
            track.left.clear()
        full = held - held % self.clip_frames
        self._cut(track, {name: values[:full] for name, values in arrays.items()}, begun, self.clip_frames)
        if held > full:
            track.left.append({name: values[full:].copy() for name, values in arrays.items()})

    def _cut(self, track: _Open, arrays: dict[str, np.ndarray], start: int, length: int) -> None:
        total = len(arrays["keypoints"])
        for first in range(0, total, length):
            frames = min(length, total - first)
            cut = {name: values[first : first + frames] for name, values in arrays.items()}
            self._write(track, cut, start + first, frames)

    def _write(self, track: _Open, arrays: dict[str, np.ndarray], start: int, frames: int) -> None:
        piece = track.first
        about = {name: getattr(piece, name) for name in ("subject", "split", "fps")}
        numbers = {f"label:{t}": v for t, v in piece.labels.items() if not isinstance(v, np.ndarray)}
        about |= {"recording": piece.name, "individuals": list(piece.individuals), "start": start, "frames": frames}
        schema = columns(self.card, "neural" in arrays, "images" in arrays)
        made = row(about | numbers | arrays, schema)
        if self._rows and (self._size + made.nbytes > self.shard_bytes or schema != self._schema):
            self._flush()
        if self._parquet is None:
            self._sink, self._schema = pa.BufferOutputStream(), schema
            self._parquet = pq.ParquetWriter(self._sink, schema, **_OPTIONS)
        track.clips.append([len(self.shards), self._rows, start, frames])
        self._parquet.write_batch(made)
        self._rows += 1
        self._size += made.nbytes

    def _close(self) -> None:
        track = self._open
        if track is None:
            return
        if track.left:
            arrays = {name: np.concatenate([p[name] for p in track.left]) for name in track.left[0]}
            begun = track.clips[-1][2] + track.clips[-1][3] if track.clips else 0
            self._cut(track, arrays, begun, self.clip_frames)
        piece, digest = track.first, track.digest()
        self._ledger.compare(piece.name, piece.split, digest)
        self.digests[piece.name] = digest
        more: dict[str, Any] = {} if piece.neural is None else {"units": piece.neural.shape[1]}
        more |= {} if piece.images is None else {"picture": list(piece.images.shape[1:])}
        self.entries[piece.name] = {
            "subject": piece.subject,
            "split": piece.split,
            "fps": piece.fps,
            "frames": track.frames,
            "individuals": piece.individuals,
            "space": piece.keypoints.shape[-1],
            "clips": track.clips,
        } | more
        self._open = None

    def _flush(self) -> None:
        if self._parquet is None or self._sink is None:
            return
        self._parquet.close()
        data = self._sink.getvalue()
        file = f"shards/{self._version}-part-{len(self.shards):05d}.parquet"
        self.folder.put(file, memoryview(data))
        self.shards.append(Shard(file, hashlib.sha256(data).hexdigest(), len(data)))
        self._parquet = self._sink = None
        self._rows = self._size = 0


def _arrays(piece: Recording) -> dict[str, np.ndarray]:
    """What a piece holds frame by frame, by column."""
    found: dict[str, object] = {name: getattr(piece, name) for name in ("keypoints", "confidence", "neural", "images")}
    found |= {f"label:{task}": values for task, values in piece.labels.items()}
    return {name: values for name, values in found.items() if isinstance(values, np.ndarray)}


def _without_arrays(piece: Recording) -> Recording:
    """The same piece with one frame, so that a long recording does not hold its first piece in memory."""
    labels = {t: v[:1].copy() if isinstance(v, np.ndarray) else v for t, v in piece.labels.items()}
    short = {n: v[:1].copy() for n, v in _arrays(piece).items() if n in ("keypoints", "confidence", "neural", "images")}
    return replace(piece, labels=labels, **short)  # type: ignore[arg-type]


def _check_next(track: _Open, piece: Recording) -> None:
    """Raise StoreError unless a piece continues the recording that is being written."""
    where, first = f"recording {piece.name!r}", track.first
    if piece.start < track.frames:
        raise StoreError(
            f"{where}: a piece from frame {piece.start} overlaps the one before, which ends at {track.frames}"
        )
    if piece.start > track.frames and piece.images is None:
        raise StoreError(
            f"{where}: frames {track.frames} to {piece.start} are missing between two pieces; hand over consecutive "
            "pieces, missing keypoints as NaN"
        )
    for what in ("subject", "split", "fps", "individuals", "skeleton"):
        if getattr(piece, what) != getattr(first, what):
            raise StoreError(f"{where}: {what} changes at frame {piece.start}")
    shapes = [{name: a.shape[1:] for name, a in _arrays(p).items()} for p in (first, piece)]
    odd = sorted(n for n in shapes[0].keys() | shapes[1].keys() if shapes[0].get(n) != shapes[1].get(n))
    numbers = [{t: repr(v) for t, v in p.labels.items() if not isinstance(v, np.ndarray)} for p in (first, piece)]
    if odd or numbers[0] != numbers[1]:
        raise StoreError(f"{where}: {', '.join(odd) or 'a label'} changes its shape or value at frame {piece.start}")
