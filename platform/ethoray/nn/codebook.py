"""Codes and how they are used: nearest code, k-means, perplexity, and statistics of codewords.

A codeword is what one vector becomes, the tuple of its codes in all groups.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

CHUNK = {"cpu": 2**18, "cuda": 2**26}
"""Most scores (row x group x code) that are in memory at once, by kind of device."""


def nearest(vectors: Tensor, codes: Tensor) -> Tensor:
    """Index of the nearest code, int64 (group, row), the lowest of equals.

    ``vectors`` (group, row, width), ``codes`` (group or 1, code, width). The score is |e|^2 - 2 z.e, in chunks of
    rows; nothing of size group x row x code x width ever exists.
    """
    groups, rows, _ = vectors.shape
    vectors, codes = vectors.detach(), codes.detach().to(vectors.dtype)
    squares = codes.square().sum(-1)[:, None].expand(groups, -1, -1)
    turned = (codes.transpose(1, 2) * -2).contiguous().expand(groups, -1, -1)
    found = torch.empty(groups, rows, dtype=torch.int64, device=vectors.device)
    step = max(1, CHUNK.get(vectors.device.type, 2**18) // (groups * codes.shape[1]))
    with torch.autocast(vectors.device.type, enabled=False):
        for first in range(0, rows, step):
            part = slice(first, first + step)
            found[:, part] = torch.baddbmm(squares, vectors[:, part], turned).min(-1).indices
    return found


def code_counts(indices: Tensor, codes: int, weights: Tensor | None = None) -> Tensor:
    """How often each code is chosen, float32 (group, code), from int64 (group, row) and weights (row,)."""
    groups = len(indices)
    flat = (indices + torch.arange(groups, device=indices.device)[:, None] * codes).flatten()
    if weights is not None:
        weights = weights.to(torch.float32).expand(groups, -1).flatten()
    return torch.bincount(flat, weights, minlength=groups * codes).view(groups, codes).to(torch.float32)


def perplexity(counts: Tensor) -> Tensor:
    """exp(-sum p ln(p + 1e-7)) of each row of counts (group, code); vq-wav2vec logs the sum over groups."""
    share = counts / counts.sum(-1, keepdim=True).clamp(min=1)
    return torch.exp(-(share * torch.log(share + 1e-7)).sum(-1))


def kmeans(vectors: Tensor, codes: int, seed: int, iterations: int = 10) -> tuple[Tensor, Tensor]:
    """Centres (group, code, width) and sizes (group, code) of Lloyd's algorithm on (group, row, width).

    Starts from k-means++ (Arthur & Vassilvitskii 2007); deterministic, in float32 on the CPU. A centre that nobody
    is nearest to stays where it was.
    """
    z = vectors.detach().float().cpu()
    groups, rows, width = z.shape
    if not rows:
        raise ValueError("k-means needs at least one vector")
    draw = torch.Generator().manual_seed(seed)
    every = torch.arange(groups)
    centres = torch.empty(groups, codes, width)
    distance = torch.ones(groups, rows)
    for index in range(codes):
        picked = torch.multinomial(distance + 1e-12, 1, generator=draw)[:, 0]
        centres[:, index] = z[every, picked]
        apart = (z - centres[:, index, None]).square().sum(-1)
        distance = torch.minimum(distance, apart) if index else apart
    sizes = torch.zeros(groups, codes)
    for _ in range(iterations):
        found = nearest(z, centres)
        sizes = code_counts(found, codes)
        sums = torch.zeros_like(centres).scatter_add_(1, found[..., None].expand(-1, -1, width), z)
        centres = torch.where(sizes[..., None] > 0, sums / sizes[..., None].clamp(min=1), centres)
    return centres.to(vectors.device), sizes.to(vectors.device)


@dataclass(frozen=True)
class Usage:
    """How a data set uses codewords.

    Attributes
    ----------
    vectors: how many were quantised.
    distinct: different codewords among them; ``once``: those that occur exactly once.
    share_possible: distinct / (codes ** groups).
    share_seen: distinct / min(codes ** groups, vectors), the denominator of vq-wav2vec.
    perplexity: of each group, (group,).
    used: share of the codes of each group that occur, (group,).
    entropy: of codewords, in nats.
    similarity: share of groups in which two different codewords agree, averaged over all pairs; NaN for one alone.
    """

    vectors: int
    distinct: int
    once: int
    share_possible: float
    share_seen: float
    perplexity: np.ndarray
    used: np.ndarray
    entropy: float
    similarity: float


def usage(indices: np.ndarray, codes: int) -> Usage:
    """Statistics of int (vector, group) indices, each in 0 .. codes - 1; exact, and never of size codes ** groups."""
    indices = np.asarray(indices)
    if indices.ndim != 2 or not indices.size or not np.issubdtype(indices.dtype, np.integer):
        raise ValueError(f"usage needs integers (vector, group), at least one, not {indices.dtype} {indices.shape}")
    if indices.min() < 0 or indices.max() >= codes:
        raise ValueError(f"codes are 0 to {codes - 1}, the array holds {indices.min()} to {indices.max()}")
    vectors, groups = indices.shape
    number = codeword_numbers(indices)
    _, first, count = np.unique(number, return_index=True, return_counts=True)
    distinct, possible = len(count), codes**groups
    share = count / vectors
    table = np.stack([np.bincount(column, minlength=codes) for column in indices.T]) / vectors
    words = np.stack([np.bincount(column, minlength=codes) for column in indices[first].T]).astype(np.float64)
    agreeing = (words * (words - 1)).sum() / groups
    return Usage(
        vectors=vectors,
        distinct=distinct,
        once=int((count == 1).sum()),
        share_possible=distinct / possible,
        share_seen=distinct / min(possible, vectors),
        perplexity=np.exp(-(table * np.log(table + 1e-7)).sum(1)),
        used=(table > 0).mean(1),
        entropy=float(-(share * np.log(share)).sum()),
        similarity=float(agreeing / (distinct * (distinct - 1))) if distinct > 1 else float("nan"),
    )


def codeword_numbers(indices: np.ndarray) -> np.ndarray:
    """Int64 (vector,): 0 .. distinct - 1, equal where all groups of (vector, group) are equal."""
    number = np.zeros(len(indices), dtype=np.int64)
    for column in indices.T:  # both factors are at most the number of vectors, or of codes: no overflow
        number = number * (int(column.max()) + 1) + column
        if int(number.max()) >= 2**31:
            number = np.unique(number, return_inverse=True)[1]
    return np.unique(number, return_inverse=True)[1]
