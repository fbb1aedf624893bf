"""Transformer blocks with pre-normalisation (Vaswani et al. 2017; Xiong et al. 2020), on (batch, token, feature).

Also the tokens that transformers over several animals read, and who is whom among them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ethoray.batch import Batch, Spec, Stream
from ethoray.nn import pairs
from ethoray.nn.features import features
from ethoray.nn.parallel import gather
from ethoray.nn.pose import Pose
from ethoray.nn.tcn import Dropout


class Attention(nn.Module):
    """Multi-head attention; queries may come from elsewhere than keys and values."""

    def __init__(self, width: int, heads: int, source: int | None = None) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} does not divide among {heads} heads")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(source or width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, source: Tensor | None = None, allowed: Tensor | None = None) -> Tensor:
        """(batch, token, width) attends to ``source`` (itself by default).

        ``allowed`` broadcasts to (batch, head, token, source token): bool, True where attention may go, or floats
        that are added to the scores. Every token needs one it may attend to.
        """
        source = x if source is None else source
        q = self._split(self.query(x))
        k, v = (self._split(part) for part in self.key_value(source).chunk(2, -1))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, allowed: Tensor | None = None) -> Tensor:
        """(batch, token, width) -> the same shape; see ``Attention`` for ``allowed``."""
        x = x + self.dropout(self.attention(self.first(x), allowed=allowed))
        out: Tensor = x + self.dropout(self.mlp(self.second(x)))
        return out


def sinusoid(positions: Tensor, width: int, longest: float = 10_000.0) -> Tensor:
    """Sine and cosine position codes (..., width) of real-valued positions; the width is even."""
    if width % 2:
        raise ValueError(f"position codes need an even width, not {width}")
    rates = torch.exp(torch.arange(0, width, 2, device=positions.device) * (-math.log(longest) / width))
    phase = positions[..., None].float() * rates
    return torch.stack([phase.sin(), phase.cos()], -1).flatten(-2)


def relations(first: Tensor, second: Tensor, special: int = -1) -> Tensor:
    """How tokens are related, int64 (first, second): 0 of the same animal, 1 of another, 2 when one is of none.

    ``first`` and ``second`` are the animals of the tokens, ``special`` standing for none. An attention that sees
    animals through this alone cannot tell in which order they are named.
    """
    none = (first[:, None] == special) | (second == special)
    other = (first[:, None] != second).long()
    return other.masked_fill(none, 2)


def relation_bias(weights: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Learned weights (head, relation) of the three ``relations`` as a bias of scores, (head, first, second).

    A product instead of an index, whose gradient would be added up number by number.
    """
    kinds = F.one_hot(relations(first, second), 3).to(weights.dtype).flatten(0, 1)
    return (weights @ kinds.T).unflatten(-1, (len(first), len(second)))


@dataclass(frozen=True)
class Scene:
    """Everything about the animals of a window, standardised, 0 where not known.

    Attributes
    ----------
    own: (window, time, individual, column), the pose and the movement of each animal.
    known: bool, as ``own``: what may be a target; flags of what is missing never are.
    pairs: (window, time, individual, other individual, feature), see ``nn.pairs``.
    pairs_known: bool, as ``pairs``; never an animal with itself.
    there: bool (window, time, individual): the animal is tracked.
    """

    own: Tensor
    known: Tensor
    pairs: Tensor
    pairs_known: Tensor
    there: Tensor

    def social(self) -> Tensor:
        """What the others are to each animal, (window, time, individual, feature + 1): sums, and how many there are.

        A linear map of it equals the sum over the others of a linear map of each.
        """
        count = self.pairs_known.any(-1).sum(-1, keepdim=True)
        return torch.cat([self.pairs.sum(3), count.to(self.pairs.dtype)], -1)

    def nearest(self) -> tuple[Tensor, Tensor]:
        """Pair features towards the nearest other, (window, time, individual, feature), and what is known of them."""
        distance = self.pairs[..., 0].masked_fill(~self.pairs_known[..., 0], math.inf)
        other = distance.argmin(3)[..., None, None].expand(*distance.shape[:3], 1, self.pairs.shape[-1])
        return self.pairs.gather(3, other)[:, :, :, 0], self.pairs_known.gather(3, other)[:, :, :, 0]


class Tokens(nn.Module):
    """Pose, movement and pairs of animals as columns of mean 0 and variance 1 (our choice), bounded by ``clip``.

    Lengths between animals are compressed: log(1 + length / body length), speeds likewise with their sign.

    Attributes
    ----------
    width, pair_width: columns of an animal and of an ordered pair.
    """

    angular: Tensor
    middle: Tensor
    scale: Tensor
    pair_middle: Tensor
    pair_scale: Tensor

    def __init__(self, spec: Spec, kind: str = "auto", clip: float = 5.0) -> None:
        super().__init__()
        self.spec, self.clip = spec, clip
        self.pose = Pose(spec)
        self.movement = features(kind, spec)
        self.points = len(spec.skeleton.keypoints)
        self.width = self.pose.width + self.movement.width + 1
        self.pair_width = len(pairs.NAMES)
        angular = [name.endswith(("_cos", "_sin")) for name in pairs.NAMES]
        self.register_buffer("angular", torch.tensor(angular), persistent=False)
        for name, width in (("", self.width), ("pair_", self.pair_width)):
            self.register_buffer(f"{name}middle", torch.zeros(width))
            self.register_buffer(f"{name}scale", torch.ones(width))

    @torch.no_grad()
    def calibrate(self, stream: Stream, batches: int = 4) -> None:
        """Fit the pose's scales and the mean and deviation of every column, where known."""
        self.pose.calibrate(stream, batches)
        own, between = [], []
        for step in range(batches):
            columns, known, there, apart = self._raw(stream(step).to(self.middle.device))
            own.append(torch.where(known | self._flags(known), columns, torch.nan)[there])
            between.append(apart.flatten(0, 3))
        for name, rows in (("", own), ("pair_", between)):
            values = gather(torch.cat(rows)).double().cpu().numpy()
            seen = np.isfinite(values)
            count = seen.sum(0).clip(1)
            middle = np.where(seen, values, 0).sum(0) / count
            scale = np.sqrt((np.where(seen, values - middle, 0) ** 2).sum(0) / count)
            getattr(self, f"{name}middle").copy_(torch.as_tensor(middle))
            getattr(self, f"{name}scale").copy_(torch.as_tensor(np.where(scale > 1e-4, scale, 1.0)))

    def forward(self, batch: Batch) -> Scene:
        """The scene of every window of a batch."""
        columns, known, there, apart = self._raw(batch)
        used = (known | self._flags(known)) & there[..., None]
        own = ((columns - self.middle) / self.scale).clamp(-self.clip, self.clip)
        between = ((apart - self.pair_middle) / self.pair_scale).clamp(-self.clip, self.clip)
        both = ~apart.isnan()
        return Scene(
            torch.where(used, own, 0.0), known & there[..., None], torch.where(both, between, 0.0), both, there
        )

    def _raw(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Columns with what is known of them, who is there, and compressed features of pairs that are (else NaN)."""
        pose, there = self.pose(batch)
        windows, _, animals = there.shape
        movement = self.movement(batch)
        moved = movement.inputs.unflatten(0, (windows, animals)).transpose(1, 2)
        valid = movement.valid.unflatten(0, (windows, animals)).transpose(1, 2)[..., None]
        seen = pose[..., -self.points :] == 0
        coordinates = seen.repeat_interleave(self.pose.coordinates // self.points, -1)
        place = torch.ones_like(pose[..., self.pose.coordinates : -self.points], dtype=torch.bool)
        flags = torch.zeros_like(seen)
        known = torch.cat([coordinates, place, flags, valid.expand(moved.shape), torch.zeros_like(valid)], -1)
        both = there[:, :, :, None] & there[:, :, None]
        apart = torch.where(both[..., None], pairs.pair_features(batch, self.spec), torch.nan)
        compressed = apart.sign() * (apart.abs() / self.pose.body).log1p()
        columns = torch.cat([pose, moved, valid.to(pose.dtype)], -1)
        return columns, known, there, torch.where(self.angular, apart, compressed)

    def _flags(self, known: Tensor) -> Tensor:
        """True at the columns that say what is missing, (column,)."""
        flags = torch.zeros(self.width, dtype=torch.bool, device=known.device)
        flags[self.pose.width - self.points : self.pose.width] = True
        flags[-1] = True
        return flags
