"""What two animals are to each other: distances, bearings and relative speeds, for every ordered pair.

The frame tasks of MABe 2022 are functions of these (Sun et al. 2023); methods take them as input or as target.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ethoray import geometry
from ethoray.batch import Batch, Spec

NAMES = (
    "distance", "bearing_cos", "bearing_sin", "facing_cos", "facing_sin", "closing", "relative_speed", "front_front",
    "front_back",
)  # fmt: skip
"""Columns: distance of the centroids; direction to the other in my frame; its heading in my frame; how fast the
distance falls and how fast we move against each other (units a frame); my front to its front and to its back."""


def pair_features(batch: Batch, spec: Spec) -> Tensor:
    """(window, time, individual, other individual, feature), columns ``NAMES``, NaN where not known.

    Lengths are in the recording's unit, speeds in units per frame. The pair of an animal with itself is NaN.
    Without a body axis bearings are those of the image, and front and back are the centroid.
    """
    keypoints = torch.where(batch.mask[..., None, None], batch.keypoints, torch.nan)
    skeleton = spec.skeleton
    front = skeleton.index(skeleton.front) if skeleton.front else None
    back = skeleton.index(skeleton.back) if skeleton.back else None
    _, centre, heading = geometry.egocentric(keypoints, front, back)
    nose = centre if front is None else keypoints[..., front, :]
    tail = centre if back is None else keypoints[..., back, :]
    away = centre[:, :, None] - centre[:, :, :, None]  # from me to the other
    bearing = geometry.angle(away) - heading[..., None]
    facing = heading[:, :, None] - heading[..., None]
    distance = geometry.length(away)
    moved = geometry.difference(centre, 1)
    columns = [
        distance, bearing.cos(), bearing.sin(), facing.cos(), facing.sin(), -geometry.difference(distance, 1),
        geometry.length(moved[:, :, None] - moved[:, :, :, None]),
        geometry.length(nose[:, :, None] - nose[:, :, :, None]),
        geometry.length(tail[:, :, None] - nose[:, :, :, None]),
    ]  # fmt: skip
    out = torch.stack(columns, -1)
    animals = torch.eye(out.shape[2], dtype=torch.bool, device=out.device)
    return out.masked_fill(animals[..., None], torch.nan)
