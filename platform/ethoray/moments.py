"""Moments worth a look: frames of test recordings with what a run says of them, and the movement around each.

What is chosen depends on the stored embeddings and the seed alone, so the same runs give the same page.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from ethoray import embedding
from ethoray.dataset import Dataset, Entry
from ethoray.schema import Task

Array = np.ndarray
Item = TypeVar("Item")
Place = tuple[int, int]
"""A recording, by its index among the entries of ``Moments``, and a frame."""

MISSING = 65535
"""A keypoint that is not there, in ``Clips``."""
_RECORDINGS = 40
_FINEST = 4095  # positions of a clip: fine enough for any screen, few digits


@dataclass(frozen=True)
class Moments:
    """Frames of some recordings.

    Attributes
    ----------
    entries: the recordings they come from.
    recording, frame: int64 (moment,), an index into ``entries`` and a frame, in that order.
    spaces: by name, float32 (moment, feature), as the run stored them.
    codes: int32 (moment, individual, group), or None without a codebook.
    labels: by task, float32 (moment,), NaN unlabelled.
    tracks: by task, of every entry its labels, (time,) or a number.
    """

    entries: tuple[Entry, ...]
    recording: Array
    frame: Array
    spaces: Mapping[str, Array]
    codes: Array | None
    labels: Mapping[str, Array]
    tracks: Mapping[str, Sequence[Array | float]]

    def __len__(self) -> int:
        return len(self.frame)

    def places(self) -> list[Place]:
        """Every moment as a pair."""
        return list(zip(self.recording.tolist(), self.frame.tolist(), strict=True))


def sample(folder: Path, dataset: Dataset, *, count: int = 1000, split: str = "test") -> Moments:
    """At most about ``count`` of the moments whose embeddings a run folder holds, evenly over recordings and time.

    At most 40 recordings, evenly over those that have embeddings. Raises EmbeddingError when the folder holds none of
    this dataset's ``split``.
    """
    known = {entry.name: entry for entry in dataset.entries if entry.split == split}
    rows = list(_rows(folder, known, _evenly(list(known), _RECORDINGS)))
    if not rows:
        raise embedding.EmbeddingError(f"{folder}: holds no embeddings of the {split} recordings of {dataset.uri}")
    entries = tuple(known[name] for name in dict.fromkeys(name for name, *_ in rows))
    place = {entry.name: i for i, entry in enumerate(entries)}
    each = max(1, count // len(entries))
    kept: list[tuple[int, int, Mapping[str, list[float]]]] = []
    for entry in entries:
        mine = [(place[name], frame, values) for name, frame, values in rows if name == entry.name]
        kept += _evenly(mine, each)
    recording, frame = (np.array([row[i] for row in kept], dtype=np.int64) for i in (0, 1))
    names = [name for name in kept[0][2] if name != embedding.CODES]
    spaces = {name: np.array([row[2][name] for row in kept], dtype=np.float32) for name in names}
    codes = _codes([row[2].get(embedding.CODES) for row in kept], [entries[i] for i in recording])
    found = [dataset.labels(entry) for entry in entries]
    tracks = {task.name: [labels[task.name] for labels in found] for task in dataset.card.tasks}
    labels = {name: _at(track, recording, frame) for name, track in tracks.items()}
    return Moments(entries, recording, frame, spaces, codes, labels, tracks)


def _rows(
    folder: Path, known: Mapping[str, Entry], wanted: Sequence[str]
) -> Iterator[tuple[str, int, dict[str, list[float]]]]:
    names = set(wanted)
    for path in embedding.parts(folder / "embeddings"):
        table = embedding.read_part(path)
        recordings = np.asarray(table["recording"].to_pylist(), dtype=object)
        rows = np.flatnonzero([name in names for name in recordings])
        part = table.take(rows)
        columns = [name for name in table.schema.names if name not in ("recording", "split", "frame", "time")]
        frames, values = part["frame"].to_pylist(), {name: part[name].to_pylist() for name in columns}
        for i, row in enumerate(rows):
            if frames[i] < known[recordings[row]].frames:
                yield recordings[row], frames[i], {name: values[name][i] for name in columns}


def _codes(rows: Sequence[list[float] | None], entries: Sequence[Entry]) -> Array | None:
    """int32 (moment, individual, group), -1 where there is no such animal."""
    parts = [
        np.asarray(row, dtype=np.int32).reshape(len(entry.individuals), -1)
        for row, entry in zip(rows, entries, strict=True)
        if row is not None
    ]
    if not parts:
        return None
    out = np.full((len(parts), max(map(len, parts)), parts[0].shape[1]), -1, dtype=np.int32)
    for i, part in enumerate(parts):
        out[i, : len(part)] = part
    return out


def _evenly(items: Sequence[Item], count: int) -> list[Item]:
    if len(items) <= count:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, count).round().astype(int)]


def _at(track: Sequence[Array | float], recording: Array, frame: Array) -> Array:
    found = np.empty(len(frame), dtype=np.float32)
    for i, (at, now) in enumerate(zip(recording, frame, strict=True)):
        values = track[at]
        found[i] = values[now] if isinstance(values, np.ndarray) else values
    return found


def clusters(x: Array, count: int = 7, seed: int = 0) -> tuple[Array, Array]:
    """k-means of standardised rows (moment, feature): a cluster each, 0 the largest, and how far its centre is.

    With fewer distinct rows than clusters there are as many clusters as rows.
    """
    from sklearn.cluster import KMeans

    x = np.asarray(x, dtype=np.float64)
    spread = x.std(0)
    x = (x - x.mean(0)) / np.where(spread > 1e-9, spread, 1)
    count = max(1, min(count, len(np.unique(x.round(9), axis=0))))
    fitted = KMeans(count, n_init=4, random_state=seed).fit(x)
    order = np.argsort(-np.bincount(fitted.labels_, minlength=count), kind="stable")
    renamed = np.empty(count, dtype=np.int64)
    renamed[order] = np.arange(count)
    return renamed[fitted.labels_], np.linalg.norm(x - fitted.cluster_centers_[fitted.labels_], axis=1)


def nearest(moments: Moments, mine: Array, distance: Array, count: int = 5) -> list[Place]:
    """The moments of a bool mask ``mine`` that are nearest to their centre, of different recordings while they last."""
    order = [int(i) for i in np.argsort(distance, kind="stable") if mine[i]]
    return _varied([(int(moments.recording[i]), int(moments.frame[i])) for i in order], count)


def longest(moments: Moments, task: Task, value: int, count: int = 5) -> list[Place]:
    """The middles of the longest bouts of a frame-level class, of different recordings while they last."""
    found = []
    for recording, track in enumerate(moments.tracks[task.name]):
        there = np.concatenate([[0], np.asarray(track) == value, [0]]).astype(int)
        starts, stops = np.flatnonzero(np.diff(there) == 1), np.flatnonzero(np.diff(there) == -1)
        found += [(int(b - a), recording, int(a + b) // 2) for a, b in zip(starts, stops, strict=True)]
    found.sort(key=lambda bout: (-bout[0], bout[1:]))
    return _varied([(recording, frame) for _, recording, frame in found], count)


def _varied(places: Sequence[Place], count: int) -> list[Place]:
    """The first ones, no recording twice before every recording was there once."""
    turn: dict[int, int] = {}
    ranked = []
    for i, place in enumerate(places):
        turn[place[0]] = turn.get(place[0], 0) + 1
        ranked.append((turn[place[0]], i, place))
    return [place for *_, place in sorted(ranked)[:count]]


@dataclass(frozen=True)
class Clips:
    """Movements around moments, small enough for a page.

    Attributes
    ----------
    values: uint16 (moment, time, individual, keypoint, 2), 0 to 4095 within a square around all that moves there;
        65535 is missing. The second axis points down, as on a screen.
    middle: int64 (moment,), the step of ``values`` that shows the moment itself.
    fps: steps a second, about; steps beyond the ends of a recording are missing.
    """

    values: Array
    middle: Array
    fps: float


def clips(dataset: Dataset, entries: Sequence[Entry], places: Sequence[Place], reach: float = 1.0) -> Clips:
    """The second before and after each place, at no more than ten steps a second."""
    stride = max(1, round(dataset.card.fps / 10))
    steps = max(1, round(reach * dataset.card.fps / stride))
    animals = max((len(entry.individuals) for entry in entries), default=1)
    points = len(dataset.card.skeleton.keypoints)
    shown = np.full((len(places), 2 * steps + 1, animals, points, 2), MISSING, dtype=np.uint16)
    for i, entry in enumerate(entries):
        mine = [row for row, (recording, _) in enumerate(places) if recording == i]
        if not mine:
            continue
        track = dataset.keypoints(entry)
        axes = view(track, dataset.card.unit)
        for row in mine:
            frames = places[row][1] + stride * np.arange(-steps, steps + 1)
            inside = (frames >= 0) & (frames < entry.frames)
            piece = np.full((len(frames), *track.shape[1:]), np.nan, dtype=np.float32)
            piece[inside] = track[frames[inside]]
            shown[row, :, : track.shape[1]] = quantised(piece @ axes)
    return Clips(shown, np.full(len(places), steps), dataset.card.fps / stride)


def view(track: Array, unit: str) -> Array:
    """How (time, individual, keypoint, space) is projected on a screen: float32 (space, 2).

    Image coordinates, in pixels, are as they are. Others point up and are turned. Of three axes the two are taken
    along which poses are widest.
    """
    space = track.shape[-1]
    few = track[:: max(1, len(track) // 200)]
    known = np.isfinite(few).any((0, 1, 2))
    wide = np.where(known, np.nanstd(np.where(known, few, 0.0) - _centre(few), (0, 1, 2)), 0.0)
    chosen = sorted(np.argsort(-wide, kind="stable")[:2].tolist()) if space > 2 else [0, 1]
    axes = np.zeros((space, 2), dtype=np.float32)
    axes[chosen, [0, 1]] = 1, 1 if unit == "pixel" and space == 2 else -1
    return axes


def _centre(track: Array) -> Array:
    there = np.isfinite(track).all(-1, keepdims=True)
    total = np.where(there, track, 0.0).sum(2, keepdims=True)
    return total / np.maximum(there.sum(2, keepdims=True), 1)


def quantised(piece: Array) -> Array:
    """Positions (time, individual, keypoint, 2) as uint16 within their common square, which keeps proportions."""
    there = np.isfinite(piece).all(-1)
    out = np.full(piece.shape, MISSING, dtype=np.uint16)
    if there.any():
        low, high = piece[there].min(0), piece[there].max(0)
        side = max(float((high - low).max()), 1e-6) * 1.08
        corner = (low + high) / 2 - side / 2
        out[there] = np.clip(np.round((piece[there] - corner) / side * _FINEST), 0, _FINEST).astype(np.uint16)
    return out
