"""Positions as they were recorded, and nothing else, in the form that probes judge."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ethoray.embedding import Embedding
from ethoray.store import Dataset, Entry


def keypoints(dataset: Dataset, entries: Iterable[Entry] | None = None) -> Iterator[Embedding]:
    """Recordings in the space "keypoints": coordinates of every individual side by side, (time, feature).

    A missing keypoint is NaN, which an encoder's embedding never is; only probes that say so can be shown them.
    """
    for entry in dataset.entries if entries is None else entries:
        positions = dataset.keypoints(entry)
        yield Embedding(entry, {"keypoints": positions.reshape(len(positions), -1)})
