"""The hierarchical contrastive loss of TS2Vec (Yue et al. 2022, "TS2Vec: Towards universal representation of time
series"), in memory that grows with the length of the series and not with its square.

``first`` and ``second`` are embeddings (series, time, width) of the same frames of the same series, each seen in
another context. Similarity is the dot product: no temperature, no normalisation. ``weights`` (series,), where
given, weigh the mean over series; a series of weight 0 is nobody's negative either.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ethoray.nn.contrastive import everyone, others_logsumexp
from ethoray.nn.parallel import shared_mean


def hierarchical_loss(
    first: Tensor, second: Tensor, alpha: float = 0.5, temporal_unit: int = 0,
    *, weights: Tensor | None = None, limit: int | None = None
) -> Tensor:  # fmt: skip
    """``alpha * instance_loss + (1 - alpha) * temporal_loss``, averaged over levels of max-pooling, a scalar.

    Level 0 is (series, time, width) as given; each further level halves time by the maximum of two neighbours (an
    odd last frame is dropped) until one is left, where there are no other times and only instances contrast. The
    temporal loss begins at level ``temporal_unit``. At most about ``limit`` similarities are held at once (by default
    what suits the device).
    """
    if first.shape != second.shape or first.ndim != 3 or first.shape[1] < 1:
        raise ValueError(
            f"both views are (series, time, width) of equal shape, not {tuple(first.shape)} and {tuple(second.shape)}"
        )
    first, second = _precise(first), _precise(second)
    total, level = first.new_zeros(()), 0
    while True:
        length = first.shape[1]
        if alpha != 0:
            total = total + alpha * instance_loss(first, second, weights, limit=limit)
        if alpha != 1 and length > 1 and level >= temporal_unit:
            total = total + (1 - alpha) * temporal_loss(first, second, weights, limit=limit)
        level += 1
        if length == 1:
            return total / level
        first, second = halved(first), halved(second)


def instance_loss(first: Tensor, second: Tensor, weights: Tensor | None = None, *, limit: int | None = None) -> Tensor:
    """At every time, each of the 2B embeddings picks the other view of its series out of the other 2B - 1.

    (series, time, width) twice -> scalar; series of all workers count.
    """
    first, second = everyone(_precise(first)), everyone(_precise(second))
    series = len(first)
    keep = None
    if weights is None:
        weights = first.new_ones(series)
    else:
        weights = everyone(weights.to(first.dtype))
        keep = (weights > 0).repeat(2)
    spread = others_logsumexp(torch.cat([first, second]).transpose(0, 1), keep, limit).mean(0)
    positive = (first * second).sum(-1).mean(1)
    each = (spread[:series] + spread[series:]) / 2 - positive
    return (weights * each).sum() / weights.sum().clamp(min=1e-12)


def temporal_loss(first: Tensor, second: Tensor, weights: Tensor | None = None, *, limit: int | None = None) -> Tensor:
    """In every series, each of the 2T embeddings picks the other view of its time out of the other 2T - 1.

    (series, time, width) twice -> scalar.
    """
    first, second = _precise(first), _precise(second)
    weights = first.new_ones(len(first)) if weights is None else weights.to(first.dtype)
    spread = others_logsumexp(torch.cat([first, second], 1), None, limit).mean(1)
    each = spread - (first * second).sum(-1).mean(1)
    return shared_mean((weights * each).sum(), weights.sum())


def halved(z: Tensor) -> Tensor:
    """The maximum of neighbours: (series, time, width) -> (series, time // 2, width); ties go to the earlier one."""
    end = z.shape[1] // 2 * 2
    early, late = z[:, 0:end:2], z[:, 1:end:2]
    return torch.where(early >= late, early, late)


def _precise(z: Tensor) -> Tensor:
    return z.to(torch.promote_types(z.dtype, torch.float32))
