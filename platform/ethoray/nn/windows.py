"""Short windows out of long sequences: random ones to train on, regular ones to embed with.

Sequences are (row, time, ...). A regular window is responsible for the ``hop`` frames in its middle, so that
every frame of a recording is embedded once, with context on both sides.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ethoray.nn.parallel import rand_rows


def random_starts(rows: int, frames: int, length: int, count: int, device: torch.device) -> Tensor:
    """First frames of ``count`` windows in each row, int64 (row, count), uniform over all that fit.

    Raises ValueError when the rows are shorter than a window.
    """
    if length > frames:
        raise ValueError(f"a window of {length} frames does not fit into {frames}")
    return (rand_rows(rows, count, device=device) * (frames - length + 1)).long()


def cut(x: Tensor, starts: Tensor, length: int) -> Tensor:
    """The windows of (row, time, ...) that begin at ``starts`` (row, count): (row * count, length, ...)."""
    times = starts[..., None] + torch.arange(length, device=x.device)
    row = torch.arange(len(starts), device=x.device)[:, None, None]
    return x[row, times].flatten(0, 1)


def reach(length: int, hop: int) -> tuple[int, int]:
    """Frames of context (past, future) that regular windows need; past is a multiple of ``hop``."""
    before = length // 2 - hop // 2
    return max(-(-before // hop) * hop, 0), max(length - before - 1, 0)


def regular(x: Tensor, length: int, hop: int, fill: float = torch.nan) -> Tensor:
    """Windows of (row, time, ...) every ``hop`` frames, (row, window, length, ...), ``fill`` beyond the ends.

    Window k holds frames k * hop - (length // 2 - hop // 2) onwards; there are ceil(time / hop) of them. Needs
    ``hop <= length``.
    """
    if not 1 <= hop <= length:
        raise ValueError(f"windows of {length} frames cannot be {hop} frames apart")
    frames = x.shape[1]
    windows = -(-frames // hop)
    before = length // 2 - hop // 2
    after = (windows - 1) * hop + length - before - frames
    padded = F.pad(x, (0, 0) * (x.ndim - 2) + (before, max(after, 0)), value=fill)
    return padded.unfold(1, length, hop)[:, :windows].movedim(-1, 2)


def stitched(z: Tensor, length: int, hop: int, frames: int) -> Tensor:
    """The middle ``hop`` frames of each window: (row, window, length, ...) -> (row, frames, ...)."""
    before = length // 2 - hop // 2
    return z[:, :, before : before + hop].flatten(1, 2)[:, :frames]


def spread(z: Tensor, hop: int, frames: int) -> Tensor:
    """One vector a window, for each of its ``hop`` frames: (row, window, ...) -> (row, frames, ...)."""
    return z.repeat_interleave(hop, dim=1)[:, :frames]
