"""Windows of recordings become batches by a plan that is data: a pure function of (seed, step).

The plan names, for every step, which recording and which first frame each window of the global batch has.
The resident stream gathers those windows from memory, the streamed one hands the same rows to Ray Data; so
both give the same batches, for any number of workers, from any step on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from ethoray.schema import SchemaError, Skeleton


@dataclass(frozen=True)
class Batch:
    """What a method trains on and embeds. It has no field for labels, on purpose.

    Attributes
    ----------
    keypoints: float32 (batch, time, individual, keypoint, space), NaN where missing; the recording's unit.
    mask: bool (batch, time, individual), False where padding stands for a frame or an animal that is not there.
    fps: frames per second.
    """

    keypoints: torch.Tensor
    mask: torch.Tensor
    fps: float

    def __post_init__(self) -> None:
        if self.keypoints.ndim != 5 or self.mask.shape != self.keypoints.shape[:3]:
            raise SchemaError(
                "a batch holds keypoints (batch, time, individual, keypoint, space) and a mask of its first "
                f"three axes, not {tuple(self.keypoints.shape)} and {tuple(self.mask.shape)}"
            )

    def __len__(self) -> int:
        return int(self.keypoints.shape[0])

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return replace(
            self,
            keypoints=self.keypoints.to(device, non_blocking=True),
            mask=self.mask.to(device, non_blocking=True),
        )


Stream = Callable[[int], Batch]
"""Batch n of a run: a pure function of (seed, n, rank, world)."""


@dataclass(frozen=True)
class Spec:
    """What a method is told about its input before it builds an encoder.

    Attributes
    ----------
    individuals: the most animals any recording has.
    space: 2 or 3 coordinates.
    frames: length of a training window.
    seed: of the initial weights and of everything random in training.
    """

    skeleton: Skeleton
    individuals: int
    space: int
    fps: float
    frames: int
    seed: int = 0


@dataclass(frozen=True)
class Windows:
    """Which windows of which dataset make a training batch. Times in seconds.

    Attributes
    ----------
    dataset: a prepared dataset's name, folder or fsspec URL.
    seconds: length of a window; a shorter recording gives one padded window whose padding is masked.
    batch_size: windows in one step over all workers together; a window holds every individual.
    split: the split to train on; "all" is every split (transductive, as the MABe challenge allows).
    stream: "resident" loads the split once, "ray" streams it with Ray Data, "auto" chooses by size.
    """

    dataset: str
    seconds: float = 60.0
    batch_size: int = 8
    split: str = "train"
    stream: Literal["auto", "resident", "ray"] = "auto"

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise SchemaError(f"windows need a positive length in seconds, not {self.seconds!r}")
        if self.batch_size < 1:
            raise SchemaError(f"batch_size must be at least 1, not {self.batch_size!r}")
        if self.stream not in ("auto", "resident", "ray"):
            raise SchemaError(f"stream is auto, resident or ray, not {self.stream!r}")

    def frames(self, fps: float) -> int:
        """Window length in frames at this frame rate, at least 2."""
        return max(2, round(self.seconds * fps))


class Plan:
    """Which windows make batch n: the same for every stream, worker count and restart.

    An epoch cuts every recording into as many whole windows as fit, from a random offset, so that each frame
    is read about once. Windows are shuffled within pools of neighbouring recordings (whose order is shuffled
    too): reading stays local while batches stay mixed. The last incomplete batch of an epoch is dropped;
    another seed of the next epoch draws those windows again.

    Parameters
    ----------
    frames: length of each recording, in frames.
    length: window length in frames.
    batch_size: windows in a global batch.
    pool: windows shuffled together, at least one batch.
    """

    def __init__(self, frames: Sequence[int], length: int, batch_size: int, seed: int, pool: int = 4096) -> None:
        if not len(frames):
            raise SchemaError("no recordings to cut windows from")
        self.lengths = np.asarray(frames, dtype=np.int64)
        self.length, self.batch_size, self.seed = int(length), int(batch_size), int(seed)
        self.pool = max(pool, batch_size)
        self.counts = np.maximum(self.lengths // self.length, 1)
        self._epoch: tuple[int, np.ndarray] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the recordings, at least 1."""
        return max(1, int(self.counts.sum()) // self.batch_size)

    def rows(self, step: int) -> np.ndarray:
        """Int64 (batch_size, 2): recording index and first frame of every window of batch ``step``."""
        epoch, place = divmod(int(step), self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, self._draw(epoch))
        return self._epoch[1][place * self.batch_size : (place + 1) * self.batch_size]

    def _draw(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, epoch))
        needed = self.steps_per_epoch * self.batch_size
        drawn: list[np.ndarray] = []
        total = 0
        while total < needed:  # more than one round only when the split holds fewer windows than a batch
            drawn.append(self._round(rng))
            total += len(drawn[-1])
        return np.concatenate(drawn)[:needed]

    def _round(self, rng: np.random.Generator) -> np.ndarray:
        order = rng.permutation(len(self.lengths))
        counts = self.counts[order]
        slack = np.maximum(self.lengths[order] - counts * self.length, 0)
        offset = rng.integers(0, slack + 1)
        recording = np.repeat(order, counts)
        ordinal = np.arange(len(recording)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = np.stack([recording, np.repeat(offset, counts) + ordinal * self.length], axis=1)
        for first in range(0, len(rows), self.pool):
            rows[first : first + self.pool] = rng.permutation(rows[first : first + self.pool])
        return rows


def rank_rows(rows: np.ndarray, rank: int, world: int) -> np.ndarray:
    """The contiguous slice of a global batch that worker ``rank`` of ``world`` computes."""
    if len(rows) % world:
        raise SchemaError(
            f"a batch of {len(rows)} windows does not divide among {world} workers; "
            f"choose a batch_size that is a multiple of {world}"
        )
    share = len(rows) // world
    return rows[rank * share : (rank + 1) * share]


def collate(windows: Sequence[np.ndarray], length: int, individuals: int, fps: float) -> Batch:
    """Windows (time, individual, keypoint, space) of at most ``length`` frames become one padded batch."""
    points, space = windows[0].shape[2:]
    keypoints = np.full((len(windows), length, individuals, points, space), np.nan, dtype=np.float32)
    mask = np.zeros((len(windows), length, individuals), dtype=bool)
    for row, window in enumerate(windows):
        time, animals = window.shape[:2]
        keypoints[row, :time, :animals] = window
        mask[row, :time, :animals] = True
    return Batch(torch.from_numpy(keypoints), torch.from_numpy(mask), fps)
