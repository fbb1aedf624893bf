"""The pose of every animal as numbers that a network can take: egocentric keypoints, place and heading."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ethoray import geometry
from ethoray.batch import Batch, Spec, Stream
from ethoray.nn.parallel import gather


class Pose(nn.Module):
    """Columns of (window, time, individual): scaled egocentric keypoints, heading, place, and what was missing.

    Order: egocentric coordinates (keypoint, space) in body lengths; with a body axis the cosine and sine of the
    heading; the centroid relative to the middle of all places, in units of their spread; one flag a keypoint that
    was not seen. Missing values are 0. Scales come from ``calibrate`` and are kept in buffers.

    Attributes
    ----------
    width: number of columns.
    coordinates: number of columns that are egocentric coordinates, which come first.
    """

    body: Tensor
    middle: Tensor
    spread: Tensor

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        skeleton = spec.skeleton
        self.front = skeleton.index(skeleton.front) if skeleton.front else None
        self.back = skeleton.index(skeleton.back) if skeleton.back else None
        points = len(skeleton.keypoints)
        self.coordinates = points * spec.space
        self.width = self.coordinates + (2 if self.front is not None else 0) + spec.space + points
        self.register_buffer("body", torch.ones(()))
        self.register_buffer("middle", torch.zeros(spec.space))
        self.register_buffer("spread", torch.ones(()))

    @torch.no_grad()
    def calibrate(self, stream: Stream, batches: int = 4) -> None:
        """Fit the body length (root mean square distance from the centroid) and the middle and spread of places."""
        sizes, places = [], []
        for step in range(batches):
            batch = stream(step).to(self.body.device)
            points, centre, _ = geometry.egocentric(_known(batch), None, None)
            apart = geometry.length(points).flatten()
            sizes.append(apart[~apart.isnan()])
            places.append(centre[~centre.isnan().any(-1)])
        size, place = gather(torch.cat(sizes)), gather(torch.cat(places))
        if len(size) and size.square().mean() > 0:
            self.body.copy_(size.square().mean().sqrt())
        if len(place):
            self.middle.copy_(place.mean(0))
            spread = (place - self.middle).square().sum(-1).mean().sqrt()
            self.spread.copy_(spread if spread > 0 else self.body)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Columns float32 (window, time, individual, width), and bool (window, time, individual).

        True where the animal is there with its body axis and half of its keypoints.
        """
        keypoints = _known(batch)
        seen = geometry.present(keypoints)
        points, centre, heading = geometry.egocentric(keypoints, self.front, self.back)
        valid = batch.mask & (seen.float().mean(-1) >= 0.5)
        columns = [(points / self.body).flatten(-2)]
        if self.front is not None and self.back is not None:
            valid = valid & seen[..., self.front] & seen[..., self.back]
            columns.append(torch.stack([heading.cos(), heading.sin()], -1))
        columns += [(centre - self.middle) / self.spread, (~seen).to(points.dtype)]
        return torch.cat(columns, -1).nan_to_num(0.0), valid


def _known(batch: Batch) -> Tensor:
    return torch.where(batch.mask[..., None, None], batch.keypoints, torch.nan)
