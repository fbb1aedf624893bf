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
    images: uint8 (batch, time, height, width, channel) or None. Then there are no keypoints, one individual stands
        for the picture, and the frames of a window are a pair (or one alone), not consecutive.
    """

    keypoints: torch.Tensor
    mask: torch.Tensor
    fps: float
    images: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if self.keypoints.ndim != 5 or self.mask.shape != self.keypoints.shape[:3]:
            raise SchemaError(
                "a batch holds keypoints (batch, time, individual, keypoint, space) and a mask of its first "
                f"three axes, not {tuple(self.keypoints.shape)} and {tuple(self.mask.shape)}"
            )
        if self.images is not None and (self.images.ndim != 5 or self.images.shape[:2] != self.keypoints.shape[:2]):
            raise SchemaError(
                "a batch holds images (batch, time, height, width, channel) with the first two axes of its mask "
                f"{tuple(self.mask.shape)}, not {tuple(self.images.shape)}"
            )

    def __len__(self) -> int:
        return int(self.keypoints.shape[0])

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return replace(
            self,
            keypoints=self.keypoints.to(device, non_blocking=True),
            mask=self.mask.to(device, non_blocking=True),
            images=None if self.images is None else self.images.to(device, non_blocking=True),
        )

    def part(self, windows: slice, frames: slice = slice(None)) -> Batch:
        """Some of the windows, and of their frames."""
        return replace(
            self,
            keypoints=self.keypoints[windows, frames],
            mask=self.mask[windows, frames],
            images=None if self.images is None else self.images[windows, frames],
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
    frames: length of a training window; of images 2 for pairs, else 1.
    seed: of the initial weights and of everything random in training.
    picture: height, width and channels of the images; None where batches hold keypoints.
    """

    skeleton: Skeleton
    individuals: int
    space: int
    fps: float
    frames: int
    seed: int = 0
    picture: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        if self.picture is not None:  # JSON knows no tuples
            height, width, channels = self.picture
            object.__setattr__(self, "picture", (int(height), int(width), int(channels)))


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
    inputs: what batches hold: "keypoints" or "images"; "auto" is images where a dataset has no keypoints.
    pairs: of images. "near" ones are at most ``window`` frames apart (BEAST), "video" ones anywhere in one recording
        (ViC-MAE), "none" are single images. ``batch_size`` counts pairs.
    window: the most frames between the two images of a near pair.
    anchors: which of the stored images: "all", or of each recording ``count`` "distinct" ones, as BEAST chooses them,
        or "uniform" ones drawn evenly, and those at most ``window`` frames from one.
    """

    dataset: str
    seconds: float = 60.0
    batch_size: int = 8
    split: str = "train"
    stream: Literal["auto", "resident", "ray"] = "auto"
    inputs: Literal["auto", "keypoints", "images"] = "auto"
    pairs: Literal["near", "video", "none"] = "near"
    window: int = 1
    anchors: Literal["all", "distinct", "uniform"] = "all"
    count: int = 100

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise SchemaError(f"windows need a positive length in seconds, not {self.seconds!r}")
        if self.batch_size < 1:
            raise SchemaError(f"batch_size must be at least 1, not {self.batch_size!r}")
        if self.stream not in ("auto", "resident", "ray"):
            raise SchemaError(f"stream is auto, resident or ray, not {self.stream!r}")
        if self.inputs not in ("auto", "keypoints", "images"):
            raise SchemaError(f"inputs are auto, keypoints or images, not {self.inputs!r}")
        if self.pairs not in ("near", "video", "none"):
            raise SchemaError(f"pairs are near, video or none, not {self.pairs!r}")
        if self.window < 1:
            raise SchemaError(f"the window of a near pair is at least 1 frame, not {self.window!r}")
        if self.anchors not in ("all", "distinct", "uniform") or self.count < 1:
            raise SchemaError(
                f"anchors are all, or at least one distinct or uniform, not {self.count!r} {self.anchors!r}"
            )

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

    columns = ("recording", "start")
    """What the numbers of a row are."""

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


def picture_batch(images: np.ndarray | torch.Tensor, fps: float) -> Batch:
    """Images uint8 (batch, time, height, width, channel) as a batch without keypoints."""
    held = torch.as_tensor(images)
    mask = torch.ones((*held.shape[:2], 1), dtype=torch.bool, device=held.device)
    return Batch(torch.zeros((*mask.shape, 0, 2), device=held.device), mask, fps, held)
