"""The network of action segmentation: patches pooled by attention, differences in time, dilated convolutions.

As in Lightning Action's video pipeline: each frame's patches are pooled by one learned seed (Lee et al. 2019, "Set
Transformer"), the change since the frame before stands beside them, and residual blocks whose dilation doubles see
before and after (Blau et al. 2024).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm


@dataclass(frozen=True)
class Sizes:
    """Of the network: ``heads`` of the pooling, ``hidden`` channels, ``layers`` of dilation 2^i, ``lags`` a side."""

    hidden: int = 32
    layers: int = 4
    lags: int = 2
    dropout: float = 0.1
    heads: int = 8

    @property
    def reach(self) -> int:
        """Frames before, and as many after, that a frame's class depends on, differences not counted."""
        return sum(2 * 2**i * self.lags for i in range(self.layers))


class AttentionPooling(nn.Module):
    """(..., token, feature) -> (..., feature): what one learned query finds among the tokens."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        if features % heads:
            raise ValueError(f"{features} features do not divide among {heads} heads")
        self.heads = heads
        self.seed = nn.Parameter(torch.empty(features))
        nn.init.normal_(self.seed, std=features**-0.5)
        self.query, self.key, self.value = (nn.Linear(features, features) for _ in range(3))
        self.out = nn.Linear(features, features)

    def forward(self, x: Tensor) -> Tensor:
        """Scores are divided by the root of all features, not of a head's; no layer norm, as published."""
        width = x.shape[-1]
        query = self.query(self.seed).view(self.heads, -1)
        key, value = self.key(x).unflatten(-1, (self.heads, -1)), self.value(x).unflatten(-1, (self.heads, -1))
        weights = (torch.einsum("hd,...nhd->...hn", query, key) / width**0.5).softmax(-1)
        found = (query + torch.einsum("...hn,...nhd->...hd", weights, value)).flatten(-2)
        pooled: Tensor = found + F.relu(self.out(found))
        return pooled


class DilatedBlock(nn.Module):
    """Two convolutions over time and a shortcut, (batch, channel, time)."""

    def __init__(self, inputs: int, outputs: int, lags: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList()
        for width in (inputs, outputs):
            layer = nn.Conv1d(width, outputs, 2 * lags + 1, padding=lags * dilation, dilation=dilation)
            nn.init.normal_(layer.weight, std=0.01)
            self.convolutions.append(weight_norm(layer))
        self.shortcut = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        if isinstance(self.shortcut, nn.Conv1d):
            nn.init.normal_(self.shortcut.weight, std=0.01)
        self.dropout = nn.Dropout1d(dropout)

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        """``there`` (batch, 1, time) is 1 on frames of the recording; what lies outside of it is seen as zero."""
        y = x
        for layer in self.convolutions:
            y = self.dropout(F.leaky_relu(layer(y * there)))
        out: Tensor = F.leaky_relu(y + self.shortcut(x))
        return out


class Segmenter(nn.Module):
    """(batch, time, feature) or, with ``tokens``, (batch, time, token, feature) -> logits (batch, time, class)."""

    def __init__(self, features: int, classes: int, sizes: Sizes, *, tokens: bool) -> None:
        super().__init__()
        self.pool = AttentionPooling(features, sizes.heads) if tokens else nn.Identity()
        widths = [2 * features, *[sizes.hidden] * sizes.layers]
        self.blocks = nn.ModuleList(
            DilatedBlock(widths[i], widths[i + 1], sizes.lags, 2**i, sizes.dropout) for i in range(sizes.layers)
        )
        self.head = nn.Linear(sizes.hidden, classes)

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        """``there`` bool (batch, time); the first frame of a recording has no difference, it is zero."""
        pooled = self.pool(x)
        before = torch.cat([pooled[:, :1], pooled[:, :-1]], 1)
        known = there & torch.cat([there[:, :1], there[:, :-1]], 1)
        change = (pooled - before) * known[..., None]
        y, mask = torch.cat([pooled, change], -1).transpose(1, 2), there[:, None].to(pooled.dtype)
        for block in self.blocks:
            y = block(y, mask)
        logits: Tensor = self.head(y.transpose(1, 2))
        return logits
