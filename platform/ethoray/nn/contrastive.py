"""Contrastive losses over rows that all repel each other, without keeping their similarities in memory.

The partition function of a row runs over all other rows of its group. Similarities are computed in chunks, and
again in the backward pass, so that memory grows with the number of rows and not with its square.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional as F

from ethoray.nn.parallel import world

ON_CPU, ON_GPU = 2**18, 2**26
"""Similarities held in memory at once: what a cache holds, and what keeps a large device busy."""


def nt_xent(first: Tensor, second: Tensor, temperature: float, weights: Tensor | None = None) -> Tensor:
    """The normalised-temperature cross-entropy of pairs (Chen et al. 2020, "SimCLR"), a scalar.

    Row i of ``first`` and of ``second``, both (rows, width), are two views of one thing. Each of the 2N rows has to
    pick its partner out of the other 2N - 1 by cosine similarity over ``temperature``; the mean is over all rows.
    Pairs of weight 0 neither count nor repel; other ``weights`` (rows,) weigh the mean. Negatives come from all
    workers.
    """
    views = torch.stack([first, second], 1).to(torch.promote_types(first.dtype, torch.float32))
    views = everyone(F.normalize(views, dim=-1)) / temperature**0.5
    weights = everyone(torch.ones_like(first[:, 0]) if weights is None else weights).to(views.dtype)
    keep = (weights > 0).repeat(2)
    spread = others_logsumexp(views.transpose(0, 1).flatten(0, 1)[None], keep)[0].view(2, -1).sum(0)
    positive = (views[:, 0] * views[:, 1]).sum(-1)
    return (weights * (spread - 2 * positive)).sum() / (2 * weights.sum()).clamp(min=1e-12)


def everyone(x: Tensor) -> Tensor:
    """The equally many rows of all workers, in rank order, with the gradient back to those who gave them.

    A loss that every worker computes on all rows then has, averaged over workers, the gradient of one worker that
    holds them all.
    """
    rank, workers = world()
    if workers == 1:
        return x
    before, after = rank * len(x), (workers - 1 - rank) * len(x)
    return all_reduce(F.pad(x, (0, 0) * (x.ndim - 1) + (before, after)))


def others_logsumexp(x: Tensor, keep: Tensor | None = None, limit: int | None = None) -> Tensor:
    """``log sum_j exp(x_i . x_j)`` over the other rows j of i's group: (group, row, width) -> (group, row).

    Rows j with ``keep`` (row,) False are left out of the sums; a row that has nobody else gets 0. At most about
    ``limit`` similarities exist at a time (by default what suits the device), in float32 or better also under
    autocast.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    limit = limit or (ON_GPU if x.is_cuda else ON_CPU)
    return _OthersLogSumExp.apply(x, keep, limit)


class _OthersLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, keep: Tensor | None, limit: int) -> Tensor:  # type: ignore[no-untyped-def]
        out = x.new_empty(x.shape[:2])
        for groups, rows in _chunks(x, limit):
            out[groups, rows] = _similarities(x, keep, groups, rows).logsumexp(-1)
        out.masked_fill_(out == -torch.inf, 0.0)
        ctx.save_for_backward(x, keep, out)
        ctx.limit = limit
        return out

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        x, keep, out = ctx.saved_tensors
        back = torch.zeros_like(x)
        for groups, rows in _chunks(x, ctx.limit):
            share = _similarities(x, keep, groups, rows).sub_(out[groups, rows, None]).exp_()
            share.mul_(grad[groups, rows, None])
            with torch.autocast(x.device.type, enabled=False):
                back[groups, rows] += share @ x[groups]
                back[groups] += share.mT @ x[groups, rows]
        return back, None, None


def _similarities(x: Tensor, keep: Tensor | None, groups: slice, rows: slice) -> Tensor:
    """Dot products of some rows with all of their group, -inf with themselves and with rows that are left out."""
    with torch.autocast(x.device.type, enabled=False):
        similar = x[groups, rows] @ x[groups].mT
    similar.diagonal(rows.start, 1, 2).fill_(-torch.inf)
    return similar if keep is None else similar.masked_fill_(~keep, -torch.inf)


def _chunks(x: Tensor, limit: int) -> Iterator[tuple[slice, slice]]:
    """Slices of groups and of rows: several small groups at once, or a large one in parts."""
    count, rows, _ = x.shape
    groups, part = max(1, limit // rows**2), min(rows, max(1, limit // rows))
    for group in range(0, count, groups):
        for row in range(0, rows, part):
            yield slice(group, group + groups), slice(row, row + part)
