"""Pure functions on keypoints, for numpy arrays and torch tensors alike.

Arrays are (..., time, keypoint, space); missing keypoints are NaN and stay NaN until a function says
otherwise. Angles are radians; a difference at frame t is between t and t-1, and frame 0 has none (NaN).
"""

from __future__ import annotations

import math
import sys
from itertools import combinations
from typing import Any

import numpy as np

Array = Any
"""A numpy array or a torch tensor."""

MOUSE_KEYPOINTS = (
    "nose", "ear_left", "ear_right", "neck", "forepaw_left", "forepaw_right", "center", "hindpaw_left",
    "hindpaw_right", "tail_base", "tail_middle", "tail_tip",
)  # fmt: skip
"""The 12 keypoints of the MABe 2022 mice, in their order."""

MOUSE_ACTIONS = (
    "head_speed", "head_heading", "head_heading_change", "head_turn", "forepaw_left_dr",
    "forepaw_left_dtheta", "forepaw_right_dr", "forepaw_right_dtheta", "forepaws_change", "body_speed",
    "body_heading", "body_heading_change", "body_turn", "hindpaw_left_dr", "hindpaw_left_dtheta",
    "hindpaw_right_dr", "hindpaw_right_dtheta", "tail_1_change", "tail_2_change", "tail_dr", "spine_dr",
    "spine_dtheta",
)  # fmt: skip
"""The action quantities of BAMS for mice, in the order of its features."""

_RADIAL = {"head_speed", "body_speed", "tail_dr", "spine_dr"} | {
    f"{paw}_{side}_dr" for paw in ("forepaw", "hindpaw") for side in ("left", "right")
}


def namespace(array: Array) -> Any:
    """The module whose functions fit this array: torch for tensors, numpy otherwise."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and isinstance(array, torch.Tensor) else np


def wrap(angle: Array) -> Array:
    """Angles brought into [-pi, pi)."""
    return namespace(angle).remainder(angle + math.pi, 2 * math.pi) - math.pi


def angle(vector: Array) -> Array:
    """Direction of (..., 2) vectors, in [-pi, pi]."""
    return namespace(vector).arctan2(vector[..., 1], vector[..., 0])


def length(vector: Array) -> Array:
    """Euclidean length over the last axis."""
    return (vector * vector).sum(-1) ** 0.5


def rotate(points: Array, theta: Array) -> Array:
    """Turn (..., keypoint, 2 or 3) points by ``theta`` (...) in the plane of the first two coordinates."""
    xp = namespace(points)
    cos, sin = xp.cos(theta)[..., None], xp.sin(theta)[..., None]
    x, y = points[..., 0], points[..., 1]
    turned = xp.stack([cos * x - sin * y, sin * x + cos * y], -1)
    return turned if points.shape[-1] == 2 else xp.concatenate([turned, points[..., 2:]], -1)


def difference(values: Array, axis: int) -> Array:
    """Change from the frame before along a time axis, as long as the input; NaN at frame 0."""
    xp = namespace(values)
    moved = xp.moveaxis(values, axis, 0)
    first = xp.full_like(moved[:1], math.nan)
    return xp.moveaxis(xp.concatenate([first, moved[1:] - moved[:-1]], 0), 0, axis)


def present(keypoints: Array) -> Array:
    """Bool (..., time, keypoint): whether a keypoint was seen."""
    return ~namespace(keypoints).isnan(keypoints).any(-1)


def and_before(valid: Array) -> Array:
    """Bool (..., time): valid in this frame and in the one before; False at frame 0."""
    xp = namespace(valid)
    before = xp.concatenate([xp.zeros_like(valid[..., :1]), valid[..., :-1]], -1)
    return valid & before


def mouse_actions(keypoints: Array) -> Array:
    """The 22 action quantities of BAMS, (..., time, 22) in the order of ``MOUSE_ACTIONS``.

    From (..., time, 12, 2) keypoints in MABe's order; speeds and radii in units per frame, angles in radians
    per frame (headings in radians). NaN where a keypoint that is needed is missing. Azabou et al. 2023,
    appendix B; the two slips of the released features (head velocity from x twice, right paw from the left)
    are not repeated.
    """
    xp = namespace(keypoints)
    p = [keypoints[..., k, :] for k in range(12)]
    columns: list[Array] = []

    def mover(centre: Array, orientation: Array) -> None:
        velocity = difference(centre, -2)
        speed, heading = length(velocity), angle(velocity)
        still = speed < 3e-3
        speed, heading = (xp.where(still, xp.zeros_like(speed), v) for v in (speed, heading))
        columns.extend([speed, heading, wrap(difference(heading, -1)), wrap(difference(orientation, -1))])

    def limb(vector: Array) -> None:
        columns.extend([difference(length(vector), -1), wrap(difference(angle(vector), -1))])

    mover(p[3], angle(p[0] - p[3]))
    left, right = p[4] - p[3], p[5] - p[3]
    limb(left)
    limb(right)
    columns.append(wrap(difference(wrap(angle(right) - angle(left)), -1)))
    body = angle(p[6] - p[9])
    mover(p[6], body)
    q = rotate(keypoints[..., 7:12, :] - p[6][..., None, :], -body)
    limb(q[..., 0, :])
    limb(q[..., 1, :])
    base, middle, tip = (q[..., k, :] for k in (2, 3, 4))
    columns.append(wrap(difference(angle(middle - base), -1)))
    columns.append(wrap(difference(angle(tip - middle), -1)))
    columns.append(difference(length(base), -1))
    limb(p[6] - p[3])
    return xp.stack(columns, -1)


def mouse_features(actions: Array) -> Array:
    """The 36 velocity features of BAMS, (..., time, 36): radii as they are, angles as cosine and sine."""
    xp = namespace(actions)
    columns: list[Array] = []
    for index, name in enumerate(MOUSE_ACTIONS):
        value = actions[..., index]
        columns.extend([value] if name in _RADIAL else [xp.cos(value), xp.sin(value)])
    return xp.stack(columns, -1)


def centroid(keypoints: Array) -> Array:
    """Mean of the keypoints that are seen, (..., time, space); NaN when none is."""
    xp = namespace(keypoints)
    seen = present(keypoints)[..., None]
    count = seen.sum(-2)
    total = xp.where(seen, keypoints, xp.zeros_like(keypoints)).sum(-2)
    return xp.where(count > 0, total / xp.where(count > 0, count, xp.ones_like(count)), math.nan * total)


def egocentric(keypoints: Array, front: int | None, back: int | None) -> tuple[Array, Array, Array]:
    """Keypoints in the animal's own frame: centred on the centroid, the body axis along x.

    Returns (points (..., time, keypoint, space), centroid (..., time, space), heading (..., time)). Without a
    body axis nothing is turned and the heading is 0.
    """
    xp = namespace(keypoints)
    centre = centroid(keypoints)
    if front is None or back is None:
        return keypoints - centre[..., None, :], centre, xp.zeros_like(centre[..., 0])
    heading = angle(keypoints[..., front, :] - keypoints[..., back, :])
    return rotate(keypoints - centre[..., None, :], -heading), centre, heading


def pairs(individuals: int) -> tuple[list[int], list[int]]:
    """The unordered pairs of animals, as two lists of indices."""
    found = list(combinations(range(individuals), 2))
    return [i for i, _ in found], [j for _, j in found]


def pair_distances(points: Array) -> Array:
    """Distances between all pairs of animals: (batch, individual, time, space) -> (batch, pair, time)."""
    first, second = pairs(points.shape[1])
    return length(points[:, first] - points[:, second])
