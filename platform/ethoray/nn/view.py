"""A window of a track in the animal's own coordinates, and back again, exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ethoray import geometry
from ethoray.nn.parallel import rand_rows
from ethoray.schema import Skeleton


@dataclass(frozen=True)
class View:
    """Where a row's coordinates begin, which way they point and what their unit is.

    Attributes
    ----------
    centre: (row, time or 1, space), in the recording's coordinates.
    heading: (row, time or 1), radians; along x in the view.
    size: (row, 1, 1, 1), the length that is 1 in the view.
    """

    centre: Tensor
    heading: Tensor
    size: Tensor

    @classmethod
    def of(cls, x: Tensor, skeleton: Skeleton, body: Tensor, each: bool) -> View:
        """The view of (row, time, keypoint, space): centroid and body axis of ``each`` frame, or of the first one.

        NaN where they are not known; heading 0 for a skeleton without a body axis.
        """
        x = x if each else x[:, :1]
        front = skeleton.index(skeleton.front) if skeleton.front else None
        back = skeleton.index(skeleton.back) if skeleton.back else None
        _, centre, heading = geometry.egocentric(x, front, back)
        return cls(centre, heading, body.expand(len(x))[:, None, None, None])

    def known(self) -> View:
        """The same view with 0 for what is not known."""
        return View(self.centre.nan_to_num(0.0), self.heading.nan_to_num(0.0), self.size)

    def shaken(self, turn: float, scale: float) -> View:
        """Turned by up to ``turn`` radians and resized by up to a share of ``scale``, each row by itself."""
        by = 2 * rand_rows(len(self.size), 2, device=self.size.device) - 1
        return View(self.centre, self.heading + turn * by[:, :1], self.size / (1 + scale * by[:, 1, None, None, None]))

    def to(self, x: Tensor) -> Tensor:
        """(row, time, keypoint, space) in the view's coordinates."""
        turned: Tensor = geometry.rotate(x - self.centre[:, :, None], -self.heading) / self.size
        return turned

    def back(self, y: Tensor) -> Tensor:
        """The inverse of ``to``."""
        moved: Tensor = geometry.rotate(y * self.size, self.heading) + self.centre[:, :, None]
        return moved


class Sight(NamedTuple):
    """The cells of windows (row, time, joint, ...) as they follow from the visible ones.

    Attributes
    ----------
    view: the coordinates of the rest.
    base: what an answer is added to, in ``unit``.
    scale: how lively the animal is; squares of its errors in units weigh this much.
    features: what the network sees.
    evidence: the part of it that is close to the answer.
    """

    view: View
    base: Tensor
    unit: Tensor
    scale: Tensor
    features: Tensor
    evidence: Tensor


def body_length(points: Tensor, skeleton: Skeleton) -> Tensor:
    """Median length from front to back along the bones, from (frame, keypoint, space); 1 when nothing is known.

    Without bones that lead there it is the straight distance; without a body axis, the median over frames of the
    largest distance between two keypoints.
    """
    if skeleton.front is None or skeleton.back is None:
        apart = geometry.length(points[:, :, None] - points[:, None]).nan_to_num(0.0).flatten(1)
        found = apart.amax(1)
        length = found[found > 0].median() if (found > 0).any() else apart.new_ones(())
        return length
    path = _path(skeleton, skeleton.index(skeleton.front), skeleton.index(skeleton.back))
    steps = geometry.length(points[:, path[1:]] - points[:, path[:-1]])
    length = steps.nanmedian(0).values.sum()
    return length if bool(length > 0) else length.new_ones(())


def completed(track: Tensor, pose: Tensor, skeleton: Skeleton, body: Tensor) -> Tensor:
    """Tracks (row, time, keypoint, space) whose missing keypoints stand where the mean pose has them.

    ``pose`` is (keypoint, space) in the view of each frame; it is laid over the keypoints that are there.
    """
    gone = track.isnan()
    if not bool(gone.any()):
        return track
    own = View.of(track, skeleton, body, each=True).known()
    there = (~gone).to(track.dtype)
    middle = (pose * there).sum(2, keepdim=True) / there.sum(2, keepdim=True).clamp(min=1)
    return torch.where(gone, own.back(pose - middle), track)


def mirrored(skeleton: Skeleton) -> list[int] | None:
    """For each keypoint the one on the other side, by "left" and "right" in their names; None when no name has them."""
    sides = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}

    def other(name: str) -> str:
        found = [side for side in sides if side in name]
        return name.replace(found[0], sides[found[0]]) if found else name

    twins = [other(name) for name in skeleton.keypoints]
    if twins == list(skeleton.keypoints) or not set(twins) <= set(skeleton.keypoints):
        return None
    return [skeleton.index(twin) for twin in twins]


def reflected(x: Tensor, sides: list[int] | None, probability: float) -> Tensor:
    """Rows (row, time, keypoint, space), some of them as in a mirror: y turned round, left and right exchanged."""
    if sides is None or not probability:
        return x
    other = x[:, :, sides] * x.new_tensor([1.0, -1.0, 1.0])[: x.shape[-1]]
    return torch.where((rand_rows(len(x), device=x.device) < probability)[:, None, None, None], other, x)


def _path(skeleton: Skeleton, front: int, back: int) -> list[int]:
    """The fewest bones from front to back; the two alone when no bones lead there."""
    ways = [[front]]
    seen = {front}
    for way in ways:
        if way[-1] == back:
            return way
        for a, b in (*skeleton.bones, *((b, a) for a, b in skeleton.bones)):
            if a == way[-1] and b not in seen:
                seen.add(b)
                ways.append([*way, b])
    return [front, back]
