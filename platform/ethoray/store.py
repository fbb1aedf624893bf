"""Prepared datasets: sharded Parquet, a card and a manifest that is written last.

One row of a shard is one clip: at most ``clip_seconds`` of one recording, in its own row group. Readers follow
the manifest only, so a dataset is complete or it is not there; the manifest holds the card, and card.json is
a copy for people.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ethoray.files import Folder, StoreError
from ethoray.schema import Card, Recording, SchemaError, Skeleton, Task
from ethoray.shards import Clip, Shard, Writer, floats, open_shard

__all__ = ["Clip", "Dataset", "Entry", "Shard", "StoreError", "open", "prepare"]

MANIFEST, CARD = "manifest.json", "card.json"
_FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """What the manifest says of one recording; ``space`` is 2 or 3 coordinates, clips are in time order."""

    name: str
    subject: str
    split: str
    fps: float
    frames: int
    individuals: tuple[str, ...]
    space: int
    clips: tuple[Clip, ...]


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset, opened: what it holds, and its arrays on demand. Can be pickled; holds no open file.

    Attributes
    ----------
    uri: absolute folder or fsspec URL.
    entries: the recordings, in the order they were prepared.
    key: SHA-256 over the shards' hashes and the card; names the data.
    """

    uri: str
    card: Card
    entries: tuple[Entry, ...]
    shards: tuple[Shard, ...]
    key: str

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that exist, in order of appearance."""
        return tuple(dict.fromkeys(e.split for e in self.entries))

    @property
    def bytes(self) -> int:
        """Size of all keypoints in memory."""
        points = len(self.card.skeleton.keypoints)
        return sum(4 * e.frames * len(e.individuals) * points * e.space for e in self.entries)

    def select(self, split: str) -> tuple[Entry, ...]:
        """The recordings of a split; "all" is every recording; raises StoreError naming the splits there are."""
        if split != "all" and split not in self.splits:
            raise StoreError(f"{self.uri} has no split {split!r}; it has {', '.join((*self.splits, 'all'))}")
        return tuple(e for e in self.entries if split in (e.split, "all"))

    def keypoints(self, entry: Entry, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Frames ``start`` to ``stop`` as float32 (time, individual, keypoint, space); reads only their clips."""
        start, stop, _ = slice(start, stop).indices(entry.frames)
        clips = [c for c in entry.clips if c.start < stop and start < c.start + c.frames]
        shape = (len(entry.individuals), len(self.card.skeleton.keypoints), entry.space)
        out = np.empty((max(stop - start, 0), *shape), dtype=np.float32)
        for clip, row in self._rows(entry, clips, ["keypoints"]):
            first, last = max(start, clip.start), min(stop, clip.start + clip.frames)
            values = floats(row, "keypoints", (clip.frames, *shape), clip)
            out[first - start : last - start] = values[first - clip.start : last - clip.start]
        return out

    def clip(self, clip: Clip, entry: Entry) -> np.ndarray:
        """The keypoints of one row group, float32 (time, individual, keypoint, space)."""
        return self.keypoints(entry, clip.start, clip.start + clip.frames)

    def labels(self, entry: Entry) -> dict[str, np.ndarray | float]:
        """Every task of the card: float32 (time,) at frame level, a number at recording level; NaN unlabelled."""
        columns = [f"label:{t.name}" for t in self.card.tasks]
        labels: dict[str, np.ndarray | float] = {
            t.name: np.full(entry.frames, np.nan, np.float32) if t.level == "frame" else float("nan")
            for t in self.card.tasks
        }
        for clip, row in self._rows(entry, entry.clips if columns else (), columns):
            for task in self.card.tasks:
                column = f"label:{task.name}"
                if not row[column][0].is_valid:
                    continue
                track = labels[task.name]
                if isinstance(track, np.ndarray):
                    track[clip.start : clip.start + clip.frames] = floats(row, column, (clip.frames,), clip)
                else:
                    labels[task.name] = float(floats(row, column, (1,), clip)[0])
        return labels

    def recording(self, entry: Entry) -> Recording:
        """One recording, whole, with confidence and labels."""
        shape = (len(entry.individuals), len(self.card.skeleton.keypoints))
        parts = [
            floats(row, "confidence", (clip.frames, *shape), clip)
            for clip, row in self._rows(entry, entry.clips, ["confidence"])
            if row["confidence"][0].is_valid
        ]
        return Recording(
            name=entry.name,
            subject=entry.subject,
            fps=entry.fps,
            skeleton=self.card.skeleton,
            keypoints=self.keypoints(entry),
            confidence=np.concatenate(parts) if parts else None,
            individuals=entry.individuals,
            split=entry.split,
            labels=self.labels(entry),
        )

    def verify(self) -> None:
        """Hash every shard again; raises StoreError naming one that differs or is gone."""
        folder = Folder(self.uri)
        for shard in self.shards:
            data = folder.read(shard.file)
            if data is None or hashlib.sha256(data).hexdigest() != shard.sha256:
                state = "is missing" if data is None else "is not the file that was prepared"
                raise StoreError(f"{self.uri}/{shard.file} {state}; prepare the dataset again")

    def _rows(self, entry: Entry, clips: Iterable[Clip], columns: list[str]) -> Iterator[tuple[Clip, pa.Table]]:
        folder = Folder(self.uri)
        grouped: dict[str, list[Clip]] = {}
        for clip in clips:
            grouped.setdefault(clip.shard, []).append(clip)
        for shard, inside in grouped.items():
            try:
                with open_shard(folder, shard) as parquet:
                    for clip in inside:
                        yield clip, parquet.read_row_group(clip.row_group, columns)
            except (OSError, pa.ArrowException, IndexError, KeyError) as error:
                raise StoreError(
                    f"{self.uri}/{shard}, recording {entry.name!r}: cannot be read ({error}); the shard is damaged, "
                    "or the dataset was prepared again meanwhile: open it again"
                ) from error


def open(name_or_uri: str | Path, root: str | Path | None = None) -> Dataset:
    """Open a dataset by name (under ``root``, $ETHORAY_STORE or "store"), by path or by fsspec URL.

    Text without a slash is a name. Raises StoreError naming the nearest match and what exists.
    """
    text = os.fspath(name_or_uri)
    shelf = os.fspath(root or os.environ.get("ETHORAY_STORE") or "store")
    named = isinstance(name_or_uri, str) and not re.search(r"[/\\]", text)
    folder = Folder(f"{shelf.rstrip('/')}/{text}" if named else name_or_uri)
    data = folder.read(MANIFEST)
    if data is None:
        raise StoreError(_unknown(text, shelf) if named else f"no prepared dataset at {folder.uri} (no {MANIFEST})")
    try:
        document = json.loads(data)
        if document["format"] != _FORMAT:
            raise StoreError(f"{folder.uri}: format {document['format']}; this version reads format {_FORMAT}")
        return _dataset(folder.uri, document)
    except (KeyError, TypeError, IndexError, json.JSONDecodeError, SchemaError) as error:
        raise StoreError(f"{folder.uri}/{MANIFEST} is not a manifest this version reads: {error!r}") from error


def prepare(
    card: Card,
    recordings: Iterable[Recording],
    root: str | Path,
    *,
    clip_seconds: float = 60.0,
    shard_mb: float = 64,
    overwrite: bool = False,
) -> Dataset:
    """Write a dataset into the folder or fsspec URL ``root``: shards, card.json, and the manifest last.

    One recording at a time is held in memory, and one shard. Raises StoreError and leaves what was there as
    it was when a recording does not fit the card, when a subject is in both train and test (unless the card's
    split rule says "block"), when the same track appears in two splits, and when anything cannot be written.
    """
    folder = Folder(root)
    before = folder.read(MANIFEST)
    if before is not None and not overwrite:
        raise StoreError(f"{folder.uri} already holds a dataset; say overwrite to replace it, or choose a name")
    if not clip_seconds > 0:
        raise StoreError(f"clip_seconds must be positive, not {clip_seconds!r}")
    writer = Writer(folder, card, max(1, round(clip_seconds * card.fps)), int(shard_mb * 2**20))
    manifest = b""
    try:
        for recording in recordings:
            writer.add(recording)
        manifest = _json({"format": _FORMAT} | writer.document())
        folder.expect(MANIFEST, before)
        folder.put(CARD, _json(asdict(card)))
        folder.commit(MANIFEST, manifest, before)
    except BaseException:
        if not manifest or folder.read(MANIFEST) != manifest:  # else interrupted just after the commit
            folder.remove(shard.file for shard in writer.shards)
        raise
    if before is not None:
        folder.remove(file for file, *_ in json.loads(before)["shards"])
    return open(Path(folder.uri) if folder.local else folder.uri)


def _dataset(uri: str, document: dict[str, Any]) -> Dataset:
    card = document["card"]
    tasks = tuple(Task(**(t | {"classes": tuple(t["classes"])})) for t in card["tasks"])
    shards = tuple(Shard(*row) for row in document["shards"])
    entries = tuple(
        Entry(
            name=name,
            **entry
            | {
                "individuals": tuple(entry["individuals"]),
                "clips": tuple(Clip(shards[shard].file, *place) for shard, *place in entry["clips"]),
            },
        )
        for name, entry in document["entries"].items()
    )
    digest = hashlib.sha256(_json(document["card"]))
    for shard in shards:
        digest.update(shard.sha256.encode())
    parts = {"skeleton": Skeleton.from_json(card["skeleton"]), "tasks": tasks, "notes": tuple(card["notes"])}
    return Dataset(uri, Card(**card | parts), entries, shards, digest.hexdigest())


def _json(document: Any) -> bytes:
    return json.dumps(document, indent=1, allow_nan=False).encode()


def _unknown(name: str, shelf: str) -> str:
    there = [n for n in Folder(shelf).names() if Folder(f"{shelf}/{n}").read(MANIFEST) is not None]
    near = difflib.get_close_matches(name, there, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"no dataset {name!r} in {shelf}{hint} It holds {', '.join(there) or 'none'}; make one with ethoray prepare"
