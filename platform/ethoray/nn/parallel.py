"""Randomness and averages that do not depend on how many workers share a batch.

Every worker draws the noise of the whole global batch and keeps the rows it computes; every average divides
by the global count. So two workers and one worker of double batch compute the same loss, to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce as _differentiable_sum


def world() -> tuple[int, int]:
    """(rank, number of workers) of this process; (0, 1) outside of distributed training."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def total(value: Tensor) -> Tensor:
    """The sum of a tensor over all workers, without a gradient."""
    if world()[1] == 1:
        return value.detach()
    value = value.detach().clone()
    torch.distributed.all_reduce(value)
    return value


def gather(value: Tensor) -> Tensor:
    """The tensors of all workers, one below the other in rank order; their lengths may differ."""
    if world()[1] == 1:
        return value
    parts: list[Tensor | None] = [None] * world()[1]
    torch.distributed.all_gather_object(parts, value.cpu())
    return torch.cat([part for part in parts if part is not None]).to(value.device)


def shared_mean(sums: Tensor, count: Tensor) -> Tensor:
    """``sums / count`` over all workers, scaled so that averaging the workers' gradients is exact.

    Zero when nothing was counted anywhere.
    """
    return sums * world()[1] / total(count).clamp(min=1)


def rand_rows(rows: int, *shape: int, device: torch.device) -> Tensor:
    """Uniform numbers in [0, 1), shape (rows, *shape): this worker's rows of the global draw."""
    rank, workers = world()
    return torch.rand((rows * workers, *shape), device=device)[rank * rows : (rank + 1) * rows]


def random_bytes(rows: int, *shape: int, device: torch.device) -> Tensor:
    """Uniform uint8, shape (rows, *shape): this worker's rows of the global draw, eight from every 64 bits."""
    rank, workers = world()
    per_row = 1
    for size in shape:
        per_row *= size
    words = -(-per_row * rows * workers // 8)
    drawn = torch.empty(words, dtype=torch.int64, device=device).random_(-(2**63), 2**63 - 1)
    mine = drawn.view(torch.uint8)[rank * rows * per_row : (rank + 1) * rows * per_row]
    return mine.view(rows, *shape)


class WeightedBatchNorm(nn.Module):
    """Batch normalisation over the weighted rows of all workers; rows of weight zero do not count.

    It has no running statistics: it serves heads that are thrown away after training.
    """

    def __init__(self, features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.eps = eps

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Normalise ``x`` (rows, features) with ``weights`` (rows,)."""
        w = weights[:, None]
        moments = torch.cat([(w * x).sum(0), (w * x * x).sum(0)])
        if world()[1] > 1:
            moments = _differentiable_sum(moments)
        mean, square = (moments / total(weights.sum()).clamp(min=1)).chunk(2)
        variance = (square - mean * mean).clamp(min=0)
        return (x - mean) * torch.rsqrt(variance + self.eps) * self.weight + self.bias
