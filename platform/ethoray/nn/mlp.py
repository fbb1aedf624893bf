"""Fully connected heads."""

from __future__ import annotations

import itertools

from torch import nn

from ethoray.nn.convolution import PReLU


def mlp(widths: tuple[int, ...]) -> nn.Sequential:
    """Linear layers with PReLU between them."""
    layers: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        layers += [PReLU()] if index else []
        layers.append(nn.Linear(inputs, outputs))
    return nn.Sequential(*layers)
