"""Pairs of a few chosen images of every recording and those around them, as if nothing else had been stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.nn import functional as F

from ethoray.store import Dataset, Entry
from ethoray.stream.pairs import Pairs
from ethoray.video import Frame, anchors


class Chosen:
    """A plan like ``Pairs``, over some of the stored images.

    Parameters
    ----------
    frames: of each recording the frame number of every stored image.
    kept: of each recording the places of the images to use, ascending.
    how: further settings of ``Pairs``.
    """

    def __init__(
        self, frames: Sequence[np.ndarray], kept: Sequence[np.ndarray], batch_size: int, seed: int,
        *, pairs: str = "near", window: int = 1, pool: int = 4096,
    ) -> None:  # fmt: skip
        self.kept = kept
        clips = [_runs(numbers[places]) for numbers, places in zip(frames, kept, strict=True)]
        self.inside = Pairs(clips, batch_size, seed, pairs=pairs, window=window, pool=pool)
        self.batch_size, self.columns = self.inside.batch_size, self.inside.columns
        self.steps_per_epoch = self.inside.steps_per_epoch

    def rows(self, step: int) -> np.ndarray:
        """See ``Pairs.rows``."""
        rows = self.inside.rows(step).copy()
        for row in rows:
            row[1:] = self.kept[row[0]][row[1:]]
        return rows


def numbers(entry: Entry) -> np.ndarray:
    """The frame number of every stored image of a recording."""
    return np.concatenate([np.arange(clip.start, clip.start + clip.frames) for clip in entry.clips])


def choose(
    dataset: Dataset, entry: Entry, policy: anchors.Policy, count: int, around: int, seed: int
) -> np.ndarray:  # fmt: skip
    """Places of the anchors of a recording, and of the images at most ``around`` frames from one.

    All stored images are read once, as thumbnails. Raises VideoError when there are too few of them.
    """
    found = anchors.choose(anchors.survey(_thumbnails(dataset, entry), seed=seed), count, policy=policy, seed=seed)
    where = numbers(entry)
    near = np.zeros(len(where), dtype=bool)
    for anchor in found:
        near |= np.abs(where - where[anchor]) <= around
    return np.flatnonzero(near)


def _thumbnails(dataset: Dataset, entry: Entry) -> Iterator[Frame]:
    place = 0
    for clip in entry.clips:
        images = torch.from_numpy(dataset.images(entry, clip)).permute(0, 3, 1, 2).float()
        small = F.interpolate(images, (anchors.SIDE, anchors.SIDE), mode="area").round().byte()
        for image in small.permute(0, 2, 3, 1).numpy():
            yield Frame(place, place / entry.fps, image)
            place += 1


def _runs(frames: np.ndarray) -> list[tuple[int, int]]:
    """First frame and length of every run of consecutive frame numbers."""
    begins = np.flatnonzero(np.diff(frames, prepend=-2) != 1)
    lengths = np.diff([*begins, len(frames)])
    return [(int(frames[begin]), int(length)) for begin, length in zip(begins, lengths, strict=True)]
