"""A prepared dataset, opened: what it holds, and its arrays on demand."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ethoray.files import Folder, StoreError
from ethoray.schema import Card, Recording
from ethoray.shards import Clip, Shard, floats, open_shard, pictures


@dataclass(frozen=True)
class Entry:
    """What the manifest says of one recording.

    Attributes
    ----------
    space: 2 or 3 coordinates.
    clips: in time order; those with images may leave frames out between them.
    units: how many neural units every frame has.
    picture: height, width and channels of its images, or None.
    """

    name: str
    subject: str
    split: str
    fps: float
    frames: int
    individuals: tuple[str, ...]
    space: int
    clips: tuple[Clip, ...]
    units: int = 0
    picture: tuple[int, int, int] | None = None


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
        """Frames ``start`` to ``stop`` as float32 (time, individual, keypoint, space); reads only their clips.

        Frames that a recording of images left out are NaN.
        """
        shape = (len(entry.individuals), len(self.card.skeleton.keypoints), entry.space)
        return self._frames(entry, "keypoints", shape, start, stop)

    def neural(self, entry: Entry, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Frames ``start`` to ``stop`` as float32 (time, unit); StoreError when nothing neural was recorded."""
        if not entry.units:
            raise StoreError(f"{self.uri}: recording {entry.name!r} holds no neural activity")
        return self._frames(entry, "neural", (entry.units,), start, stop)

    def images(self, entry: Entry, clip: Clip) -> np.ndarray:
        """The images of one clip, uint8 (time, height, width, channel); StoreError when there are none."""
        if entry.picture is None:
            raise StoreError(f"{self.uri}: recording {entry.name!r} holds no images")
        ((_, row),) = self._rows(entry, [clip], ["images"])
        return pictures(row, (clip.frames, *entry.picture), clip)

    def _frames(self, entry: Entry, column: str, shape: tuple[int, ...], start: int, stop: int | None) -> np.ndarray:
        start, stop, _ = slice(start, stop).indices(entry.frames)
        clips = [c for c in entry.clips if c.start < stop and start < c.start + c.frames]
        out = np.full((max(stop - start, 0), *shape), np.nan, dtype=np.float32)
        for clip, row in self._rows(entry, clips, [column]):
            first, last = max(start, clip.start), min(stop, clip.start + clip.frames)
            values = floats(row, column, (clip.frames, *shape), clip)
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
        """One recording, whole, with confidence, labels, neural activity, and images unless frames were left out."""
        complete = sum(c.frames for c in entry.clips) == entry.frames
        if not complete and not self.card.skeleton.keypoints:
            raise StoreError(f"{self.uri}: recording {entry.name!r} leaves frames out; read its images clip by clip")
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
            confidence=np.concatenate(parts) if parts and complete else None,
            individuals=entry.individuals,
            split=entry.split,
            labels=self.labels(entry),
            neural=self.neural(entry) if entry.units else None,
            images=np.concatenate([self.images(entry, c) for c in entry.clips]) if entry.picture and complete else None,
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
