"""Egocentric alignment that can be undone, and the standardised columns that short windows are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ethoray import geometry
from ethoray.batch import Batch, Spec
from ethoray.nn.parallel import gather


class Aligned(NamedTuple):
    """Keypoints in the animal's own frame, and what undoes it.

    Attributes
    ----------
    points: (..., time, keypoint, space): the centre at the origin, the body axis along x; all NaN in a frame whose
        centre or axis is not known.
    centre: (..., time, space).
    heading: (..., time), radians; 0 without a body axis.
    """

    points: Tensor
    centre: Tensor
    heading: Tensor


def align(keypoints: Tensor, centre: int | None, front: int | None, back: int | None) -> Aligned:
    """Egocentric keypoints of (..., time, keypoint, space), turned by the body axis.

    The origin is a keypoint, or the middle of the axis when there is none, or the centroid without an axis.
    """
    if centre is not None:
        middle = keypoints[..., centre, :]
    elif front is not None and back is not None:
        middle = (keypoints[..., front, :] + keypoints[..., back, :]) / 2
    else:
        middle = geometry.centroid(keypoints)
    points = keypoints - middle[..., None, :]
    if front is None or back is None:
        return Aligned(points, middle, torch.zeros_like(middle[..., 0]))
    heading = geometry.angle(points[..., front, :] - points[..., back, :])
    # Rotating leaves a third coordinate as it is, so a frame without axis is blanked by hand.
    turned = torch.where(heading.isnan()[..., None, None], torch.nan, geometry.rotate(points, -heading))
    return Aligned(turned, middle, heading)


def restore(aligned: Aligned) -> Tensor:
    """The keypoints that ``align`` was given; NaN where it could not align."""
    restored: Tensor = geometry.rotate(aligned.points, aligned.heading) + aligned.centre[..., None, :]
    return restored


class Columns(nn.Module):
    """Aligned coordinates, and optionally movement and turning of the body, as standardised columns.

    Training and embedding share the means and deviations, which are kept in buffers.

    Parameters
    ----------
    axis: names of the centre, front and back keypoints; () takes "center" if there is one, and the skeleton's axis.
    motion: whether displacement in the body's frame and turn since the frame before are columns too.
    clip: bound on standardised values.

    Attributes
    ----------
    coordinates: number of columns that are keypoint coordinates, which come first.
    width: number of columns.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, spec: Spec, axis: Sequence[str] = (), motion: bool = False, clip: float = 10.0) -> None:
        super().__init__()
        skeleton = spec.skeleton
        named = "center" if "center" in skeleton.keypoints else None
        ends = tuple(axis) or (named, skeleton.front, skeleton.back)
        self.centre, self.front, self.back = (None if end is None else skeleton.index(end) for end in ends)
        self.coordinates = len(skeleton.keypoints) * spec.space
        self.width = self.coordinates + (spec.space + 1 if motion else 0)
        self.motion, self.clip = motion, clip
        self.register_buffer("mean", torch.zeros(self.width))
        self.register_buffer("deviation", torch.ones(self.width))

    def aligned(self, batch: Batch) -> Aligned:
        """Every animal as a sequence (batch * individual, time, keypoint, space), windows first."""
        keypoints = torch.where(batch.mask[..., None, None], batch.keypoints, torch.nan)
        return align(keypoints.transpose(1, 2).flatten(0, 1), self.centre, self.front, self.back)

    def tracks(self, batch: Batch) -> Tensor:
        """Aligned points, centre and heading side by side, (batch * individual, time, feature), to cut windows from."""
        points, centre, heading = self.aligned(batch)
        return torch.cat([points.flatten(2), centre, heading[..., None]], -1)

    def calibrate(self, tracks: Sequence[Tensor], together: bool) -> None:
        """Fit means and deviations; ``together`` gives all coordinates one deviation."""
        rows = torch.cat([gather(self._columns(track).flatten(0, 1)) for track in tracks]).double()
        known = ~rows.isnan()
        count = known.sum(0).clamp(min=1)
        mean = rows.nansum(0) / count
        squares = torch.where(known, rows - mean, 0.0).square().sum(0)
        if together:
            body = slice(None, self.coordinates)
            squares[body] = squares[body].sum() / count[body].sum() * count[body]
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(squares > 1e-12 * count, (squares / count).sqrt(), 1.0))

    def forward(self, tracks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Columns of windows (window, time, width), 0 where missing; which are known; and which windows count.

        ``tracks`` are windows of what ``tracks`` gave. A window counts when half of its frames are known.
        """
        columns = self._columns(tracks)
        known = ~columns.isnan()
        x = ((columns - self.mean) / self.deviation).nan_to_num(0.0).clamp(-self.clip, self.clip)
        return x, known, known[..., : self.coordinates].any(-1).float().mean(1) >= 0.5

    def points(self, columns: Tensor) -> Tensor:
        """Aligned coordinates (..., coordinates), in the recording's unit, of standardised columns (..., width)."""
        return (columns * self.deviation + self.mean)[..., : self.coordinates]

    def _columns(self, tracks: Tensor) -> Tensor:
        points, centre, heading = tracks.split([self.coordinates, tracks.shape[-1] - self.coordinates - 1, 1], -1)
        if not self.motion:
            return points
        moved = geometry.rotate(geometry.difference(centre, 1)[..., None, :], -heading[..., 0])[..., 0, :]
        turned = geometry.wrap(geometry.difference(heading, 1))
        return torch.cat([points, moved, turned], -1)
