"""One rise and one fall of the learning rate, the momentum the other way round (Smith & Topin 2018).

With AdamW and the settings of BEAST: the peak after 15 % of the training, a tenth of it at the start and at the end,
the first momentum from 0.95 down to 0.85 and back, the peak in proportion to the images in a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ethoray.batch import Batch, Stream
from ethoray.learning import Learner

HIGH, LOW, SECOND = 0.95, 0.85, 0.999
"""First momentum at the ends and at the peak, and the second one."""


@dataclass(frozen=True)
class Cycle:
    """Settings of the optimiser.

    Attributes
    ----------
    lr: at the peak, for steps of ``images`` images; for steps of any size when that is 0.
    warmup: share of the training until the peak.
    start, end: of the peak.
    layer_decay: factor on the learning rate of each block of an encoder towards its input; 1 is none.
    decay_all: whether biases, normalisations and tokens are decayed too.
    frozen: learn nothing.
    """

    lr: float
    images: int
    weight_decay: float
    warmup: float
    start: float
    end: float
    layer_decay: float = 1.0
    decay_all: bool = True
    frozen: bool = False

    def factor(self, fraction: float) -> float:
        """Of the peak learning rate when this fraction of the training is done: two half cosines."""
        if fraction < self.warmup:
            return _between(self.start, 1.0, fraction / self.warmup)
        return _between(1.0, self.end, (fraction - self.warmup) / max(1 - self.warmup, 1e-9))

    def momentum(self, fraction: float) -> float:
        """The first momentum at that time."""
        if fraction < self.warmup:
            return _between(HIGH, LOW, fraction / self.warmup)
        return _between(LOW, HIGH, (fraction - self.warmup) / max(1 - self.warmup, 1e-9))


def _between(first: float, last: float, share: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


class CycleLearner(Learner):
    """A learner of images whose optimiser goes through one cycle; what it learns is up to the method."""

    needs = "images"
    images: Tensor

    def __init__(self, cycle: Cycle) -> None:
        super().__init__()
        self.cycle, self.lr = cycle, cycle.lr
        self._stepped: torch.optim.Optimizer | None = None
        self.register_buffer("images", torch.zeros((), dtype=torch.int64))

    def calibrate(self, stream: Stream) -> None:
        """Count the images of a step, over all workers."""
        workers = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        self.images.fill_(stream(0).mask[..., 0].numel() * workers)

    def watch(self, batch: Batch) -> dict[str, Tensor]:
        """Whether an embedding has collapsed, from the first 64 windows."""
        return super().watch(batch.part(slice(64)))

    def groups(self, lr: float) -> list[dict[str, Any]]:
        """One group for each learning rate and decay."""
        found: dict[tuple[float, float], list[nn.Parameter]] = {}
        depth = 1 + max((_layer(name, -1) for name, _ in self.named_parameters()), default=0)
        for name, parameter in self.named_parameters():
            factor = self.cycle.layer_decay ** (depth - _layer(name, depth))
            decayed = self.cycle.decay_all or (parameter.ndim > 1)
            found.setdefault((lr * factor, self.cycle.weight_decay * decayed), []).append(parameter)
        return [{"params": p, "lr": rate, "weight_decay": decay} for (rate, decay), p in found.items()]

    def optimiser(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """AdamW, its steps fused; without decay it is Adam."""
        self._stepped = torch.optim.AdamW(groups, betas=(HIGH, SECOND), fused=True)
        return self._stepped

    def rate(self, fraction: float) -> float:
        """Factor on every learning rate at this time; turns the momentum too."""
        for group in self._stepped.param_groups if self._stepped is not None else ():
            group["betas"] = (self.cycle.momentum(fraction), SECOND)
        scale = int(self.images) / self.cycle.images if self.cycle.images else 1.0
        return 0.0 if self.cycle.frozen else scale * self.cycle.factor(fraction)


def _layer(name: str, otherwise: int) -> int:
    """How far from the input a parameter of an encoder is: 0 for what comes before the first block."""
    parts = name.split(".")
    if parts[0] == "vit" and parts[1] in ("cls", "patch"):
        return 0
    return int(parts[2]) + 1 if parts[:2] == ["vit", "blocks"] else otherwise
