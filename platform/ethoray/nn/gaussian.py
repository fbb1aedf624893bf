"""Diagonal Gaussians as mean and log-variance: sampling, likelihood, and the divergence of a variational code."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ethoray.nn.parallel import world


def randn_rows(rows: int, *shape: int, device: torch.device) -> Tensor:
    """Standard normal numbers, shape (rows, *shape): this worker's rows of the global draw."""
    rank, workers = world()
    return torch.randn((rows * workers, *shape), device=device)[rank * rows : (rank + 1) * rows]


def reparametrised(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """A sample through which gradients reach mean and log-variance (Kingma & Welling 2014)."""
    return mean + (0.5 * logvar).exp() * noise


def negative_log_likelihood(x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """``-log N(x; mean, exp(logvar))`` of every element, in nats."""
    return 0.5 * (math.log(2 * math.pi) + logvar + (x - mean).square() * (-logvar).exp())


def divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """``KL(N(mean, exp(logvar)) || N(0, 1))`` of every element, in nats."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar)


def free_bits(kl: Tensor, least: float) -> Tensor:
    """The sum over the last axis of what each dimension costs, ``least`` nats of which are free of gradient.

    Below ``least`` a dimension costs ``least``, so that nothing drives it to carry nothing (Kingma et al. 2016,
    "Improved variational inference with inverse autoregressive flow").
    """
    return kl.clamp(min=least).sum(-1)
