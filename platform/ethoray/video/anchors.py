"""Which frames of a video are worth learning from: few, moving, and unlike each other.

One pass over thumbnails (``survey``) keeps the motion energy of every frame and at most ``most`` thumbnails, drawn
evenly from all frames, so that memory does not grow with the video. ``choose`` then follows BEAST: frames that
move more than a percentile, their principal components, k-means, and of each cluster the frame nearest its centre.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ethoray.video import Frame, VideoError

Policy = Literal["distinct", "uniform"]

SIDE, COMPONENTS, MOST = 32, 32, 65_536
_CHUNK = 4096


@dataclass(frozen=True)
class Survey:
    """What one pass over a video's thumbnails found.

    Attributes
    ----------
    index: int64 (frame,), of every frame seen.
    time: float64 (frame,) seconds.
    energy: float32 (frame,): summed absolute difference of a thumbnail to the one seen before it; the first frame
        has the energy of the second.
    rows: int64 (thumbnail,): places in ``index`` of the thumbnails kept, in no order.
    thumbnails: uint8 (thumbnail, pixel).
    """

    index: np.ndarray
    time: np.ndarray
    energy: np.ndarray
    rows: np.ndarray
    thumbnails: np.ndarray


def survey(frames: Iterable[Frame], *, most: int = MOST, seed: int = 0) -> Survey:
    """Energy of every frame and an even draw of at most ``most`` thumbnails, in one pass.

    The draw is a reservoir: every frame has the same chance, whatever the video's length. Up to ``most`` frames all
    of them are kept.
    """
    rng = np.random.default_rng(seed)
    index, time, energy = Column(np.int64), Column(np.float64), Column(np.float32)
    kept, places, before = np.empty((0, 0), np.uint8), Column(np.int64), None
    for count, frame in enumerate(frames):
        thumbnail = frame.image.reshape(-1)
        index.append(frame.index)
        time.append(frame.time)
        energy.append(0.0 if before is None else float(np.abs(np.subtract(thumbnail, before, dtype=np.int16)).sum()))
        before = thumbnail
        if count < most:
            if count >= len(kept):
                larger = np.empty((min(most, max(256, 2 * len(kept))), thumbnail.size), np.uint8)
                larger[:count] = kept[:count].reshape(count, thumbnail.size)
                kept = larger
            kept[count] = thumbnail
            places.append(count)
        elif (place := int(rng.integers(count + 1))) < most:
            kept[place] = thumbnail
            places.array[place] = count
    if not len(index.array):
        raise VideoError("no frames to choose from")
    if len(energy.array) > 1:
        energy.array[0] = energy.array[1]
    return Survey(index.array, time.array, energy.array, places.array, kept[: len(places.array)])


class Column:
    """A one-dimensional array that grows."""

    def __init__(self, kind: type) -> None:
        self._room: np.ndarray = np.empty(1024, kind)
        self._used = 0

    @property
    def array(self) -> np.ndarray:
        """What was appended; a view that may be written to."""
        return self._room[: self._used]

    def append(self, value: float) -> None:
        """One more number."""
        if self._used == len(self._room):
            self._room = np.resize(self._room, 2 * self._used)
        self._room[self._used] = value
        self._used += 1


def choose(
    found: Survey,
    count: int,
    *,
    policy: Policy = "distinct",
    allowed: np.ndarray | None = None,
    percentile: float | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Indices of ``count`` anchors, ascending and all different.

    Parameters
    ----------
    policy: "distinct": of the frames whose energy lies above the percentile, one of each of ``count`` clusters.
        "uniform": one frame drawn from each of ``count`` stretches of equal length.
    allowed: bool (frame,), False where no anchor may lie; as long as ``found.index``.
    percentile: of the energy; None is BEAST's: 50 below 100,000 frames, 75 from there on. When fewer frames move
        enough than anchors are asked for, all frames are candidates.

    Raises VideoError when fewer than ``count + 2`` frames are allowed, as BEAST does.
    """
    mask = np.ones(len(found.index), bool) if allowed is None else np.asarray(allowed, bool)
    if mask.shape != found.index.shape:
        raise VideoError(f"allowed is {mask.shape}, the survey saw {len(found.index)} frames")
    if policy not in ("distinct", "uniform"):
        raise VideoError(f"no policy {policy!r} for anchors; there are distinct and uniform")
    free = np.flatnonzero(mask)
    if count < 1 or len(free) - 2 < count:
        raise VideoError(
            f"{len(free)} frames may be anchors, which is too few for {count}: two more than that are needed"
        )
    if policy == "uniform":
        edges = np.linspace(0, len(free), count + 1).astype(int)
        drawn = np.random.default_rng(seed).integers(edges[:-1], np.maximum(edges[1:], edges[:-1] + 1))
        return found.index[free[drawn]]
    cut = percentile if percentile is not None else (50.0 if len(free) < 100_000 else 75.0)
    moving = mask & (found.energy > np.percentile(found.energy[mask], cut))
    candidates = np.flatnonzero(moving[found.rows])
    if len(candidates) < count:
        candidates = np.flatnonzero(mask[found.rows])
    if len(candidates) < count:
        raise VideoError(f"{len(candidates)} thumbnails were kept of the allowed frames, too few for {count} anchors")
    places = spread(found.thumbnails, candidates, count, seed)
    return np.sort(found.index[found.rows[places]])


def spread(thumbnails: np.ndarray, candidates: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Rows of ``thumbnails`` among the candidates: of each of ``count`` k-means clusters the one nearest its centre.

    Clusters are found among principal components; distances are only ever held for one chunk of candidates.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):  # sums in one order: the same anchors on every machine of a kind
        points = components(thumbnails, candidates, min(COMPONENTS, len(candidates), thumbnails.shape[1]), seed)
        different = np.unique(points, axis=0)
        if len(different) <= count:  # a still picture: nothing to cluster
            _, first = np.unique(points, axis=0, return_index=True)
            rest = np.setdiff1d(np.arange(len(points)), first)
            even = (
                rest[np.linspace(0, len(rest) - 1, count - len(first)).astype(int)] if count > len(first) else rest[:0]
            )
            return candidates[np.sort(np.concatenate([first, even]))]
        starts = 4 if len(points) * count < 1 << 20 else 1
        fitted = KMeans(count, n_init=starts, random_state=seed, algorithm="lloyd").fit(points)
    far = np.concatenate(
        [
            np.square(points[i : i + _CHUNK] - fitted.cluster_centers_[fitted.labels_[i : i + _CHUNK]]).sum(1)
            for i in range(0, len(points), _CHUNK)
        ]
    )
    order = np.lexsort((np.arange(len(points)), far, fitted.labels_))
    _, first = np.unique(fitted.labels_[order], return_index=True)
    return candidates[order[first]]


def components(thumbnails: np.ndarray, rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The first principal components of some rows, float32 (row, component), centred and not whitened.

    A random start that is multiplied by the covariance a few times (Halko, Martinsson and Tropp 2011), chunk by
    chunk: neither the rows as floats nor their covariance is ever held.
    """
    rng = np.random.default_rng(seed)
    mean = sum(thumbnails[part].sum(0, dtype=np.float64) for part in _chunks(rows)) / len(rows)
    width = min(count + 10, thumbnails.shape[1], len(rows))
    basis = np.linalg.qr(rng.normal(size=(thumbnails.shape[1], width)))[0].astype(np.float32)
    centre = np.asarray(mean, np.float32)
    for _ in range(5):
        image = np.zeros(basis.shape)
        for part in _chunks(rows):
            block = thumbnails[part] - centre
            image += block.T @ (block @ basis)
        basis = np.linalg.qr(image)[0].astype(np.float32)
    scores = np.concatenate([(thumbnails[part] - centre) @ basis for part in _chunks(rows)])
    values, turned = np.linalg.eigh(scores.T.astype(np.float64) @ scores)
    largest = turned[:, np.argsort(values)[::-1][:count]]
    return (scores @ largest).astype(np.float32)


def _chunks(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[i : i + _CHUNK] for i in range(0, len(rows), _CHUNK)]


def context(anchors: Sequence[int] | np.ndarray, around: int, first: int, last: int) -> list[range]:
    """The anchors with ``around`` frames before and behind, clipped to [first, last), as stretches that are apart.

    Stretches that overlap or touch become one, so that no frame is written twice.
    """
    stretches: list[range] = []
    for anchor in sorted(int(a) for a in anchors):
        begin, end = max(first, anchor - around), min(last, anchor + around + 1)
        if stretches and begin <= stretches[-1].stop:
            stretches[-1] = range(stretches[-1].start, max(end, stretches[-1].stop))
        else:
            stretches.append(range(begin, end))
    return stretches
