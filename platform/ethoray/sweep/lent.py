"""Keypoints that all trials of a sweep train on: read once, by the driver, and lent to every worker.

They enter Ray's object store with the first trial of a node, once a node. A worker's arrays are views of that
shared memory (the store is a file under /dev/shm that every process of the node maps), so they are not copied,
however many trials run side by side; they cannot be written to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import ray

from ethoray import stream
from ethoray.experiment import Experiment
from ethoray.store import Dataset

_SHARE = 0.5  # of the free object store


@dataclass(frozen=True)
class Lent:
    """The keypoints of one split (time, individual, keypoint, space), one array a recording, by their content's key."""

    key: str
    split: str
    recordings: list[np.ndarray]


def lend(dataset: Dataset, experiment: Experiment, workers: int) -> Lent | None:
    """What trials like this one would each read for themselves; None where Ray Data feeds them, or without room.

    Images are not lent: a trial of images reads its own.
    """
    windows = experiment.data
    if workers > 1 or windows.stream == "ray" or stream.spec(windows, dataset, experiment.seed).picture:
        return None
    points = len(dataset.card.skeleton.keypoints)
    size = sum(4 * e.frames * len(e.individuals) * points * e.space for e in dataset.select(windows.split))
    if size > min(stream.RESIDENT_BYTES, _SHARE * ray.available_resources().get("object_store_memory", 0)):
        return None
    return Lent(dataset.key, windows.split, stream.load(dataset, windows.split))


def adopt(lent: Lent | None) -> None:
    """Let every stream of this process read what was lent."""
    if lent is not None:
        stream.lend(lent.key, lent.split, lent.recordings)
