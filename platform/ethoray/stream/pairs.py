"""Pairs of images become batches by a plan that is data, as windows do: a pure function of (seed, step).

An anchor and a positive: another image of the same moment, at most some frames away (BEAST), or any other image of the
same recording (ViC-MAE, Hernandez et al. 2024; of a recording larger than a pool, any other one of the pool). The other
pairs of a batch are the negatives, so no image comes twice in an epoch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ethoray.schema import SchemaError


class Pairs:
    """Which images make batch n: the same for every stream, worker count and restart.

    An epoch walks over all stored images in random order, skipping those that are taken, and takes a free
    neighbour of each as its positive, drawn uniformly. The work is in proportion to the number of images. Clips are
    shuffled and their images mixed within pools of neighbouring clips, so that reading stays local. How many pairs
    such a walk finds is random; an epoch has the batches that any walk fills, and the next one draws again.

    Parameters
    ----------
    clips: of each recording, the first frame and the number of frames of every stretch that was stored, in order.
    batch_size: pairs (or, with "none", images) in a global batch.
    pairs: "near", "video" or "none", see ``Windows``.
    window: the most frames between the two images of a near pair.
    pool: images shuffled together, at least one batch.

    Raises SchemaError when an epoch may not fill one batch.
    """

    def __init__(
        self, clips: Sequence[Sequence[tuple[int, int]]], batch_size: int, seed: int,
        *, pairs: str = "near", window: int = 1, pool: int = 4096,
    ) -> None:  # fmt: skip
        sizes = np.array([frames for recording in clips for _, frames in recording], dtype=np.int64)
        if not sizes.sum():
            raise SchemaError("no images to make batches of")
        self.batch_size, self.seed, self.pairs, self.window = int(batch_size), int(seed), pairs, int(window)
        self.columns = ("recording", "first") if pairs == "none" else ("recording", "first", "second")
        self.pool = max(pool, 2 * self.batch_size)
        self._sizes, self._starts = sizes, np.cumsum(sizes) - sizes
        stored = np.array([sum(frames for _, frames in recording) for recording in clips], dtype=np.int64)
        self._recording = np.repeat(np.arange(len(clips)), stored)
        self._first = np.repeat(np.cumsum(stored) - stored, stored)  # of the recording, for every image
        self._lows, self._highs, lengths = _stretches(clips)
        self.steps_per_epoch = self._least(stored, lengths) // self.batch_size
        if not self.steps_per_epoch:
            raise SchemaError(self._too_few(self._least(stored, lengths), int(sizes.sum())))
        self._epoch: tuple[int, np.ndarray] | None = None

    def rows(self, step: int) -> np.ndarray:
        """Int64 (batch_size, columns): recording, and places among its stored images, of every pair of a batch."""
        epoch, place = divmod(int(step), self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, self._draw(epoch))
        return self._epoch[1][place * self.batch_size : (place + 1) * self.batch_size]

    def _least(self, stored: np.ndarray, lengths: np.ndarray) -> int:
        """The number of pairs that any epoch finds.

        A walk that cannot go on leaves no two free images within the window: of n consecutive images at least
        (n - 1) / 3 pairs are made when pairs are neighbours, (n - n / (window + 1)) / 2 in general.
        """
        if self.pairs == "none":
            return int(stored.sum())
        if self.pairs == "video":
            return int((stored // 2).sum())
        close = -(-(lengths - 1) // 3)
        wide = -(-(lengths + -lengths // (self.window + 1)) // 2)
        return int(np.maximum(close, wide).sum())

    def _too_few(self, least: int, images: int) -> str:
        what = {"none": "images", "near": f"pairs of images at most {self.window} apart", "video": "pairs of images"}
        advice = f"use a batch_size of at most {least}" if least else 'write frames with a context, or use pairs="none"'
        return (
            f"a batch holds {self.batch_size} {what[self.pairs]} and an epoch of these {images} images gives only "
            f"{least}, none of which may come twice; {advice}, or prepare more frames"
        )

    def _draw(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, epoch))
        needed = self.steps_per_epoch * self.batch_size
        order = self._order(rng)
        if self.pairs == "none":
            chosen = order[:needed, None]
        elif self.pairs == "video":
            chosen = self._anywhere(order, rng)[:needed]
        else:
            chosen = self._near(order, rng.random(len(order)), needed)
        recording = self._recording[chosen[:, 0]]
        return np.column_stack([recording, chosen - self._first[chosen]])

    def _order(self, rng: np.random.Generator) -> np.ndarray:
        """Every image once: clips in random order, their images mixed within pools."""
        clips = rng.permutation(len(self._sizes))
        sizes = self._sizes[clips]
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        order = np.repeat(self._starts[clips], sizes) + within
        for first in range(0, len(order), self.pool):
            order[first : first + self.pool] = rng.permutation(order[first : first + self.pool])
        return order

    def _near(self, order: np.ndarray, drawn: np.ndarray, needed: int) -> np.ndarray:
        taken = bytearray(len(order))
        lows, highs, window = self._lows, self._highs, self.window
        found: list[tuple[int, int]] = []
        for image, u in zip(order.tolist(), drawn.tolist(), strict=True):
            if taken[image]:
                continue
            around = range(max(lows[image], image - window), min(highs[image], image + window) + 1)
            free = [other for other in around if not taken[other] and other != image]
            if not free:
                continue
            other = free[int(u * len(free))]
            taken[image] = taken[other] = 1
            found.append((image, other))
            if len(found) == needed:
                break
        return np.array(found, dtype=np.int64)

    def _anywhere(self, order: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Images of one recording, two by two in the given order; the pairs mixed within pools."""
        place = np.argsort(self._recording[order], kind="stable")  # in the order, recording by recording
        recording = self._recording[order[place]]
        ordinal = np.arange(len(place)) - np.searchsorted(recording, recording)
        first = np.flatnonzero((ordinal % 2 == 0)[:-1] & (recording[:-1] == recording[1:]))
        pairs = np.stack([order[place[first]], order[place[first + 1]]], axis=1)
        mixed: np.ndarray = pairs[np.lexsort((rng.random(len(first)), place[first] // self.pool))]
        return mixed


def _stretches(clips: Sequence[Sequence[tuple[int, int]]]) -> tuple[list[int], list[int], np.ndarray]:
    """Of every image the first and the last one of its stretch of consecutive frames, and the stretches' lengths.

    Images are counted over all recordings. A clip that goes on where another ended continues its stretch.
    """
    begins: list[int] = []
    count = 0
    for recording in clips:
        end = None
        for start, frames in recording:
            if start != end:
                begins.append(count)
            end, count = start + frames, count + frames
    lengths = np.diff([*begins, count])
    first = np.repeat(np.array(begins, dtype=np.int64), lengths)
    last = first + np.repeat(lengths, lengths) - 1
    return first.tolist(), last.tolist(), lengths
