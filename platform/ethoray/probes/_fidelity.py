"""How well a codebook remembers movement: reconstructed keypoints against tracked ones, in the data's own unit."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ethoray import metrics
from ethoray.batch import Batch, collate
from ethoray.learning import Encoder
from ethoray.probes import Score
from ethoray.store import Dataset, Entry

Array = np.ndarray


@runtime_checkable
class Rebuilds(Protocol):
    """An encoder that can tell the keypoints back."""

    def reconstruct(self, batch: Batch) -> Tensor:
        """Keypoints like the batch's, in its unit, NaN where they cannot be told."""
        ...


class Fidelity:
    """Gathers errors of reconstructed keypoints of test recordings; R2 and RMSE are its scores.

    R2 is 1 - SSE / SST over keypoint coordinates, each about its own mean. It counts where the animal is, which
    alignment removes and de-alignment gives back, so it is near 1 for any arena that is large beside the animal. RMSE
    is the root of the mean squared distance of keypoints in the data's unit, and tells more.
    """

    def __init__(self, encoder: Encoder, dataset: Dataset, chunk: int = 4096) -> None:
        self.encoder, self.dataset = encoder, dataset
        self.chunk = -(-chunk // encoder.hop) * encoder.hop
        self.animals = max((len(entry.individuals) for entry in dataset.entries), default=1)
        self.origin: Array | None = None
        self.names: list[str] = []
        self.variance: list[Array] = []
        self.distance: list[Array] = []

    def examine(self, entry: Entry) -> None:
        """Reconstruct a test recording, in chunks with the context that the encoder needs."""
        points = len(self.dataset.card.skeleton.keypoints) * entry.space
        if not points or not isinstance(self.encoder, Rebuilds):
            return
        sums = np.zeros((points, 4))
        cells = np.zeros(2)
        for first in range(0, entry.frames, self.chunk):
            truth, told = self._piece(entry, first, min(first + self.chunk, entry.frames))
            known = np.isfinite(truth).all(-1) & np.isfinite(told).all(-1)
            if not known.any():
                continue
            if self.origin is None:
                self.origin = np.nanmean(truth, axis=(0, 1))
            error = np.where(known[..., None], told - truth, 0.0) ** 2
            y = np.where(known[..., None], truth - self.origin, 0.0)
            count = np.broadcast_to(known[..., None], y.shape)
            added = np.stack([v.reshape(-1, points).sum(0) for v in (count, y, y**2, error)], axis=1)
            sums += added
            cells += error.sum(), known.sum()
        if cells[1]:
            self.names.append(entry.name)
            self.variance.append(sums)
            self.distance.append(cells)

    def scores(self, space: str, seed: int) -> tuple[Score, ...]:
        """Named "reconstruction/space@r2" and "@rmse"; none when nothing was reconstructed."""
        found = []
        for name, sums in (("r2", self.variance), ("rmse", self.distance)):
            if sums:
                tallies, rule = np.stack(sums), metrics.RULES[name]
                low, high = metrics.interval(rule, tallies, seed)
                numbers = float(rule(tallies.sum(0))), float(low), float(high)
                where = f"{space}@{name}"
                found.append(
                    Score("reconstruction", where, name, *numbers, len(tallies), name, tuple(self.names), tallies)
                )
        return tuple(found)

    @torch.no_grad()
    def _piece(self, entry: Entry, first: int, last: int) -> tuple[Array, Array]:
        """Tracked and told keypoints of frames first..last, float64 (time, individual, keypoint, space)."""
        assert isinstance(self.encoder, Rebuilds)
        start, stop = max(first - self.encoder.past, 0), min(last + self.encoder.future, entry.frames)
        window = self.dataset.keypoints(entry, start, stop)
        batch = collate([window], stop - start, self.animals, entry.fps).to(self.encoder.device())
        keep, there = slice(first - start, last - start), slice(len(entry.individuals))
        told = self.encoder.reconstruct(batch)[0, keep, there].float().cpu().numpy()
        return window[keep].astype(np.float64), told.astype(np.float64)
