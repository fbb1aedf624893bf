"""Two-level masks of a skeleton sequence: hide frames, then joints in every frame that is left.

The spatio-temporal masking of SkeletonMAE (Wu et al. 2023, "SkeletonMAE: Spatial-Temporal Masked Autoencoders for
Self-supervised Skeleton Action Recognition") as MSAE uses it. A cell is one joint in one frame; arrays of cells are
(row, time, joint, ...). Every row keeps as many frames and joints as every other, so that tokens stay dense: a cell
that was never seen is hidden first, and where a row has too few, the surplus places are marked as not known.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ethoray.nn.parallel import rand_rows

_LAST = 2.0  # added to noise in [0, 1), so that what was not seen is chosen last


@dataclass(frozen=True)
class Cells:
    """The cells that stay visible, frames and joints in ascending order, those not known behind the others.

    Attributes
    ----------
    frames: int64 (row, kept frame), the times of the kept frames.
    joints: int64 (row, kept frame, kept joint).
    known: bool (row, kept frame, kept joint), False where a place holds nothing.
    time, joint: how many there are in all.
    """

    frames: Tensor
    joints: Tensor
    known: Tensor
    time: int
    joint: int

    @property
    def places(self) -> Tensor:
        """int64 (row, kept frame, kept joint): time * number of joints + joint."""
        return self.frames[..., None] * self.joint + self.joints

    def visible(self) -> Tensor:
        """Bool (row, time, joint): the cells that an encoder gets to see."""
        return unmask(self.known, self)


def kept_frames(frames: int, hidden: float, multiple: int) -> int:
    """How many of ``frames`` stay when this share is hidden: rounded to a multiple, at least one multiple."""
    whole = frames // multiple
    return max(1, min(whole, round((1 - hidden) * frames / multiple))) * multiple


def kept_joints(joints: int, hidden: float) -> int:
    """How many of ``joints`` stay when this share, rounded down, is hidden; at least one."""
    return max(1, joints - int(hidden * joints + 1e-9))


def draw(seen: Tensor, frames: int, joints: int, longest: int = 1) -> Cells:
    """Random visible cells: ``frames`` of each row, and in each of them ``joints`` of its own.

    ``seen`` is bool (row, time, joint). With ``longest`` > 1 half of the rows hide in runs: frames are hidden, and
    joints stay hidden, for up to that many frames together; else every frame is drawn afresh.
    """
    rows, time, joint = seen.shape
    device = seen.device
    noise = rand_rows(rows, time, device=device)
    each = rand_rows(rows, time, joint, device=device)
    if longest > 1:
        size, phase = rand_rows(rows, 2, device=device).unbind(1)
        run = ((2 * size - 1).clamp(min=0) * longest).long() + 1  # 1 for half of the rows
        start = (phase * run).long()
        block = (torch.arange(time, device=device) + start[:, None]) // run[:, None]
        block = block.clamp(max=time - 1)
        noise = noise.gather(1, block) + 1e-4 * noise
        each = each.gather(1, block[..., None].expand_as(each))
    chosen = (noise + _LAST * ~seen.any(-1)).argsort(dim=1, stable=True)[:, :frames]
    chosen = _ascending(chosen, seen.any(-1).gather(1, chosen), time)
    there = _rows(seen, chosen)
    picked = (_rows(each, chosen) + _LAST * ~there).argsort(dim=-1, stable=True)[..., :joints]
    picked = _ascending(picked, there.gather(2, picked), joint)
    return Cells(chosen, picked, there.gather(2, picked), time, joint)


def compact(visible: Tensor, multiple: int) -> Cells:
    """All visible cells of bool (row, time, joint), packed: frames of which nothing is visible come last.

    Keeps as many frames, a multiple of ``multiple``, and joints as the fullest row needs.
    """
    rows, time, joint = visible.shape
    anything = visible.any(-1)
    most = int(anything.sum(1).max()) if rows else 0
    frames = max(1, -(-most // multiple)) * multiple
    order = (~anything).to(torch.uint8).argsort(dim=1, stable=True)[:, : min(frames, time)]
    there = _rows(visible, order)
    width = max(1, int(there.sum(-1).max())) if rows else 1
    joints = (~there).to(torch.uint8).argsort(dim=-1, stable=True)[..., :width]
    return Cells(order, joints, there.gather(2, joints), time, joint)


def everything(visible: Tensor) -> Cells:
    """Every cell in its own place, known where visible."""
    rows, time, joint = visible.shape
    frames = torch.arange(time, device=visible.device).expand(rows, -1)
    joints = torch.arange(joint, device=visible.device).expand(rows, time, -1)
    return Cells(frames, joints, visible, time, joint)


def mask(x: Tensor, cells: Cells) -> Tensor:
    """The kept cells of (row, time, joint, ...): (row, kept frame, kept joint, ...)."""
    rows, rest = len(x), x.shape[3:]
    flat = x.reshape(rows, cells.time * cells.joint, -1)
    index = cells.places.flatten(1)[..., None].expand(-1, -1, flat.shape[-1])
    return flat.gather(1, index).view(*cells.joints.shape, *rest)


def unmask(tokens: Tensor, cells: Cells) -> Tensor:
    """Kept cells back to their places: (row, kept frame, kept joint, ...) -> (row, time, joint, ...), else zero."""
    rows, rest = len(tokens), tokens.shape[3:]
    flat = tokens.reshape(rows, cells.joints[0].numel(), -1)
    index = cells.places.flatten(1)[..., None].expand(-1, -1, flat.shape[-1])
    grid = flat.new_zeros(rows, cells.time * cells.joint, flat.shape[-1]).scatter(1, index, flat)
    return grid.view(rows, cells.time, cells.joint, *rest)


def interpolate(x: Tensor, visible: Tensor) -> Tensor:
    """Every joint's track through its visible cells, straight between them and level beyond the first and last.

    From (row, time, joint, space) and bool (row, time, joint); NaN for a joint that is never visible. What stands
    in hidden cells is not read.
    """
    time = x.shape[1]
    now, before, after = _around(visible)
    first, last = torch.where(before < 0, after, before), torch.where(after >= time, before, after)
    share = ((now - first) / (last - first).clamp(min=1)).clamp(0, 1)[..., None]
    inside = [t.clamp(0, time - 1)[..., None].expand_as(x) for t in (first, last)]
    left, right = (x.gather(1, index) for index in inside)
    return torch.where(visible.any(1, keepdim=True)[..., None], left + share.to(x.dtype) * (right - left), torch.nan)


def leave_one_out(x: Tensor, visible: Tensor) -> tuple[Tensor, Tensor]:
    """What each visible cell says about interpolation: its place minus the line between its joint's neighbours.

    Of (row, time, joint, space) and bool (row, time, joint): the residuals, and the product of the distances to the
    visible cells before and after, int64 (row, time, joint); both are zero where a cell is not visible or has no
    two neighbours. Under a constant acceleration a, a residual is -a / 2 times its product.
    """
    time = x.shape[1]
    now, before, after = _around(visible)
    before, after = F.pad(before[:, :-1], (0, 0, 1, 0), value=-1), F.pad(after[:, 1:], (0, 0, 0, 1), value=time)
    both = visible & (before >= 0) & (after < time)
    share = ((now - before) / (after - before))[..., None].to(x.dtype)
    left, right = (x.gather(1, t.clamp(0, time - 1)[..., None].expand_as(x)) for t in (before, after))
    residual = torch.where(both[..., None], x - left - share * (right - left), 0.0)
    return residual, torch.where(both, (now - before) * (after - now), 0)


def gaps(visible: Tensor, longest: int) -> Tensor:
    """How hard every cell is to interpolate, int64 classes (row, time, joint).

    0 is visible; 1 to ``longest`` (or more) the product of the distances, in frames, to the visible cells before and
    after it; ``longest`` + 1 to 2 * ``longest`` the distance to the first or last one, for a cell beyond it; and the
    last, 2 * longest + 1, a joint that is never visible.
    """
    now, before, after = _around(visible)
    early, late = before < 0, after >= visible.shape[1]
    far = torch.where(early, after - now, torch.where(late, now - before, (now - before) * (after - now)))
    kind = far.clamp(max=longest) + longest * (early | late)
    return torch.where(visible.any(1, keepdim=True), kind, 2 * longest + 1)


def _around(visible: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every frame, and for every cell the last visible frame up to it (-1) and the first from it on (time)."""
    time = visible.shape[1]
    now = torch.arange(time, device=visible.device)[None, :, None]
    before = torch.where(visible, now, -1).cummax(1).values
    after = torch.where(visible, now, time).flip(1).cummin(1).values.flip(1)
    return now, before, after


def _rows(x: Tensor, frames: Tensor) -> Tensor:
    """The chosen frames of (row, time, joint)."""
    return x.gather(1, frames[..., None].expand(-1, -1, x.shape[-1]))


def _ascending(index: Tensor, known: Tensor, size: int) -> Tensor:
    """Sorted indices, those not known behind the others."""
    return (index + size * ~known).sort(-1).values % size
