"""What visible cells say about hidden ones, and long tracks filled window by window."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ethoray import geometry
from ethoray.nn.masking import gaps, interpolate, leave_one_out
from ethoray.nn.windows import cut
from ethoray.schema import Skeleton

AROUND = 7
"""Frames over which it is judged how lively an animal is."""
REACH = 0.7
"""Bones over which the weight of a neighbour falls to 1/e."""


class Evidence(nn.Module):
    """How far visible cells are from interpolation between their own neighbours, which hidden ones near them share.

    Where a body accelerates, all its joints leave the straight line together: what a hidden joint needs is close to
    a mean of the residuals of the visible joints of the same frame. In a hidden frame there is nothing of the kind.
    """

    near: Tensor

    def __init__(self, skeleton: Skeleton) -> None:
        super().__init__()
        self.register_buffer("near", torch.exp(-_bones_between(skeleton) / REACH), persistent=False)

    def forward(self, track: Tensor, visible: Tensor, unit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of interpolated tracks (row, time, joint, space): evidence, three flags, and the scale (row, time, 1, 1).

        Residuals are in ``unit`` of their class of gap and in the scale, which is their root mean square in the
        frames ``AROUND``. Evidence is the residual of the joint itself, straight between the times that have one,
        and the mean over the joints of the frame, weighted by the bones between. Flags: whether the residual is the
        cell's own, whether the cell is beyond its joint's last visible ones, and the logarithm of the scale.
        """
        track = track.float()
        residual, product = leave_one_out(track, visible)
        own, classes = product > 0, len(unit) // 2 - 1
        there = own[..., None].to(track.dtype)
        residual = residual / unit[product.clamp(max=classes)][..., None]
        power = torch.stack([residual.square().mean(-1).sum(2), there.sum((2, 3))], 1)
        around = F.avg_pool1d(power, AROUND, 1, AROUND // 2) * AROUND
        whole = power.sum(2, keepdim=True) + 1
        scale = ((around[:, :1] + whole[:, :1] / whole[:, 1:]) / (around[:, 1:] + 1)).sqrt()[:, 0, :, None, None]
        residual = residual / scale
        frame = (self.near @ residual) / (self.near @ there + 0.1)
        flags = torch.stack([own, gaps(visible, classes) > classes, scale[..., 0].log().expand_as(own)], -1)
        return torch.cat([interpolate(residual, own).nan_to_num(0.0), frame], -1), flags, scale


def filled(x: Tensor, visible: Tensor, length: int, tell: Callable[[Tensor], Tensor], together: int = 128) -> Tensor:
    """The track (row, time, keypoint, space) with cells that are not visible (row, time, keypoint) told.

    ``tell`` answers windows (row, length, keypoint, space), NaN where not visible, with all their cells; windows
    are half a length apart and lie inside the track, which NaN prolong when it is shorter than one. A gap that
    reaches out of its window is interpolated instead. Visible cells are returned as they came.
    """
    rows, time = x.shape[:2]
    known = torch.where(visible[..., None], x, torch.nan)
    lacking = max(length - time, 0)
    known = torch.cat([known, known.new_full((rows, lacking, *x.shape[2:]), torch.nan)], 1)
    last = known.shape[1] - length
    starts = torch.tensor([*range(0, last, max(length // 2, 1)), last], device=x.device)
    windows = cut(known, starts.expand(rows, -1), length)
    told = torch.cat([tell(part) for part in windows.split(together)]).unflatten(0, (rows, len(starts)))
    kind = gaps(geometry.present(windows), 1).unflatten(0, (rows, len(starts)))
    now = torch.arange(time, device=x.device)
    middle = (now[:, None] - starts - (length - 1) / 2).abs().argmin(1)
    here = middle, now - starts[middle]
    bridged = (kind[:, *here] >= 2) & (gaps(visible, 1) == 1)
    out = torch.where(bridged[..., None], interpolate(known[:, :time], visible), told[:, *here])
    return torch.where(visible[..., None], x, out)


def _bones_between(skeleton: Skeleton) -> Tensor:
    """Bones on the shortest way between two keypoints, (keypoint, keypoint); as many as keypoints where none leads."""
    count = len(skeleton.keypoints)
    far = torch.full((count, count), float(count)).fill_diagonal_(0.0)
    for a, b in skeleton.bones:
        far[a, b] = far[b, a] = 1.0
    for via in range(count):
        far = torch.minimum(far, far[:, via, None] + far[via])
    return far
