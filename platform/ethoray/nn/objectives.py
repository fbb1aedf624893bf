"""What BAMS predicts at an anchor frame: the histogram of what follows, or the next values one by one (Table 3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ethoray.nn.histogram import emd2, streamed
from ethoray.nn.parallel import rand_rows, shared_mean


def anchors(frames: int, start: int, horizon: int, stride: int, device: torch.device) -> Tensor:
    """Every ``stride``-th frame from a random phase after ``start``, a full horizon before the end."""
    phase = int(torch.randint(stride, (1,))) if stride > 1 else 0
    first = min(start + phase, max(frames - horizon - 1, 0))
    return torch.arange(first, max(frames - horizon, 0), stride, device=device)


def alone(spaces: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Spaces (sequence, time, channel) of which, in a ``share`` of the sequences, all but a random one are zero."""
    if share == 0:
        return dict(spaces)
    first = next(iter(spaces.values()))
    u = rand_rows(len(first), 1, 1, device=first.device) / share
    chosen = (u * len(spaces)).long()
    return {space: z * ((u >= 1) | (chosen == index)) for index, (space, z) in enumerate(spaces.items())}


def tracked(valid: Tensor, times: Tensor, horizon: int, fraction: float) -> Tensor:
    """Bool (sequence, anchor): whether ``fraction`` of the ``horizon`` frames after each anchor is valid.

    ``valid`` is (sequence, time).
    """
    seen = F.pad(valid.to(torch.int32).cumsum(1), (1, 0))
    ahead = seen[:, times + 1 + horizon] - seen[:, times + 1]
    return ahead >= max(fraction * horizon, 1)


def histogram_loss(head: nn.Module, rows: Tensor, counts: Tensor) -> Tensor:
    """Mean over rows of the squared earth mover's distance, summed over quantities and bins.

    ``counts`` (row, quantity, bin) are those of ``future_counts``.
    """
    return _mean(head, rows, lambda out, part: emd2(out.unflatten(1, counts.shape[1:]), counts[part]))


def sequence_loss(head: nn.Module, rows: Tensor, values: Tensor) -> Tensor:
    """Mean over rows of the squared error, a mean over the frames that are known and a sum over quantities.

    ``values`` (row, quantity, horizon) are those of ``future_values``.
    """
    return _mean(head, rows, lambda out, part: sequence_error(out.unflatten(1, values.shape[1:]), values[part]))


def future_values(values: Tensor, horizon: int, times: Tensor) -> Tensor:
    """Frames t+1 .. t+horizon of (sequence, time, quantity) for each t: (sequence, anchor, quantity, horizon)."""
    if not len(times):
        return values.new_zeros((values.shape[0], 0, values.shape[2], horizon))
    if int(times[-1]) + horizon >= values.shape[1]:
        raise ValueError(f"the {horizon} frames after frame {int(times[-1])} leave {values.shape[1]} frames")
    return values.unfold(1, horizon, 1)[:, times + 1]


def sequence_error(predicted: Tensor, values: Tensor) -> Tensor:
    """Squared error over the last axis, averaged over the values that are known (not NaN), summed over the rest."""
    known = ~values.isnan()
    error = torch.where(known, predicted.to(values.dtype) - values.nan_to_num(0.0), 0.0)
    return (error.square().sum(-1) / known.sum(-1).clamp(min=1)).sum()


def _mean(head: nn.Module, rows: Tensor, score: Callable[[Tensor, slice], Tensor]) -> Tensor:
    total = streamed(head, score, rows) if head.training else score(head(rows), slice(None))
    return shared_mean(total, torch.tensor(len(rows), device=rows.device))
