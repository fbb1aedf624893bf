"""How far apart two animals are, read from what their embeddings say of each (Azabou et al. 2023, section 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ethoray import geometry
from ethoray.batch import Batch, Spec
from ethoray.nn.convolution import PReLU
from ethoray.nn.features import sequences
from ethoray.nn.mlp import mlp
from ethoray.nn.parallel import shared_mean


class DistanceRegression(nn.ModuleList):
    """A symmetric regressor: one network on each animal, summed, then another (our choice)."""

    def __init__(self, width: int, hidden: int = 64) -> None:
        super().__init__()
        self.append(nn.Sequential(nn.Linear(width, hidden), PReLU()))
        self.append(mlp((hidden, hidden, 1)))

    def forward(self, both: Tensor, batch: Batch, spec: Spec, times: Tensor, unit: Tensor) -> Tensor:
        """Mean squared error of the distances of all pairs at the frames ``times``, in ``unit``.

        ``both`` (window * animal, frame of ``times``, width) are embeddings. Unknown distances do not count.
        """
        windows, _, animals = batch.mask.shape
        first, second = geometry.pairs(animals)
        hidden = self[0](both).view(windows, animals, len(times), -1)
        true = geometry.pair_distances(places(batch, spec)[:, :, times]) / unit
        predicted = self[1](hidden[:, first] + hidden[:, second])[..., 0].to(true.dtype)
        known = ~true.isnan()
        error = torch.where(known, predicted - true.nan_to_num(0.0), 0.0)
        return shared_mean(error.square().sum(), known.sum())


def places(batch: Batch, spec: Spec) -> Tensor:
    """One point for every animal, (window, individual, time, space): the "center" keypoint or the centroid."""
    keypoints = sequences(batch)
    names = spec.skeleton.keypoints
    points = keypoints[..., names.index("center"), :] if "center" in names else geometry.centroid(keypoints)
    return points.view(batch.mask.shape[0], batch.mask.shape[2], *points.shape[1:])
