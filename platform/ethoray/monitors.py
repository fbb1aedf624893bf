"""Numbers that tell a healthy embedding from a collapsed one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

ROWS = 4096
"""Rows that are looked at, spread evenly over the batch."""


def collapse(z: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Whether an embedding uses its dimensions, from (batch, time, individual, feature) and the batch's mask.

    "deviation": standard deviation of each dimension of the embeddings divided by their length, averaged, times
    the root of the width: 1 when they point everywhere, 0 when all are the same (Chen & He 2021, "Exploring
    simple siamese representation learning"). "rank": the exponential of the entropy of the covariance's
    eigenvalues, between 1 and the width (Roy & Vetterli 2007, "The effective rank"). 0 when no row is known.
    """
    there = mask.any(2, keepdim=True) if z.shape[2] != mask.shape[2] else mask
    rows = z[there].float()
    rows = rows[:: max(1, -(-len(rows) // ROWS))]
    if len(rows) < 2:
        zero = torch.zeros((), device=z.device)
        return {"deviation": zero, "rank": zero}
    deviation = F.normalize(rows, dim=1).std(0).mean() * rows.shape[1] ** 0.5
    centred = (rows - rows.mean(0)).double()
    share = torch.linalg.eigvalsh(centred.T @ centred).clamp(min=0)
    share = share / share.sum().clamp(min=1e-30)
    return {"deviation": deviation, "rank": torch.special.entr(share).sum().exp().float()}
