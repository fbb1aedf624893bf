"""Latent bootstrapping (Grill et al. 2020), without a moving-average teacher when the predictor learns faster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ethoray.nn.momentum import Teacher
from ethoray.nn.parallel import WeightedBatchNorm, rand_rows, shared_mean


class Predictor(nn.Module):
    """From one moment's embedding to another's: linear, batch norm, ReLU, linear, four times as wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.widen = nn.Linear(width, 4 * width, bias=False)
        self.norm = WeightedBatchNorm(4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, z: Tensor, weights: Tensor) -> Tensor:
        """(rows, width) -> (rows, width); rows of weight 0 do not enter the statistics, kept in float32 or more."""
        out: Tensor = self.narrow(F.relu(self.norm(precise(self.widen(z)), weights)))
        return out


class Teachers(nn.ModuleDict):
    """Moving averages of some networks, by name; without dropout."""

    def __init__(self, students: Mapping[str, nn.Module]) -> None:
        super().__init__({name: Teacher(student) for name, student in students.items()})

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> dict[str, Tensor]:
        """What each of them makes of the inputs."""
        return {name: teacher.eval().get_submodule("copy")(inputs) for name, teacher in self.items()}

    def follow(self, students: Mapping[str, nn.Module], momentum: float) -> None:
        """Move every teacher towards its student."""
        for name, teacher in self.items():
            assert isinstance(teacher, Teacher)
            teacher.follow(students[name], momentum)


def two_speeds(learner: nn.Module, fast: nn.Module, lr: float, factor: float) -> list[dict[str, Any]]:
    """Parameter groups: those of ``fast`` with ``factor`` times the learning rate of the learner's others."""
    chosen = list(fast.parameters())
    known = {id(p) for p in chosen}
    others = [p for p in learner.parameters() if p.requires_grad and id(p) not in known]
    groups = [{"params": others, "lr": lr}, {"params": chosen, "lr": lr * factor}]
    return [group for group in groups if group["params"]]


def bootstrap_distance(online: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of ``||u/|u| - sg(v/|v|)||^2 = 2 (1 - cosine)`` over rows; no gradient into the target."""
    apart = 2 - 2 * F.cosine_similarity(precise(online), precise(target.detach()), dim=-1)
    return shared_mean((apart * weights).sum(), weights.sum())


def bootstrap_loss(
    predictor: nn.Module, z: Tensor, targets: Tensor, valid: Tensor, moments: tuple[Tensor, Tensor]
) -> Tensor:
    """Distance between a prediction from one moment of ``z`` and another moment of ``targets``.

    Both are (sequence, time, channel); the ``moments`` are pairs of frames (sequence, pair), of which those count
    that are both ``valid`` (sequence, time).
    """
    now, then = moments
    row = torch.arange(len(valid), device=valid.device)[:, None]
    weights = (valid[row, now] & valid[row, then]).flatten().to(precise(z).dtype)
    return bootstrap_distance(predictor(z[row, now].flatten(0, 1), weights), targets[row, then].flatten(0, 1), weights)


def anywhere(rows: int, frames: int, first: int, pairs: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pairs of frames (row, pair), both anywhere from ``first`` to the end."""
    u = rand_rows(rows, 2, pairs, device=device)
    return first + (u[:, 0] * (frames - first)).long(), first + (u[:, 1] * (frames - first)).long()


def neighbours(
    rows: int, frames: int, first: int, pairs: int, device: torch.device, reach: int, past: bool = True
) -> tuple[Tensor, Tensor]:
    """Pairs of frames (row, pair) at most ``reach`` apart, the first of them anywhere from ``first`` to the end.

    With ``past`` the second lies before or after the first, turned round at the ends of the row; without it 0 to
    ``reach`` frames later.
    """
    u = rand_rows(rows, 2, pairs, device=device)
    if not past:
        first = min(first, max(frames - 1 - reach, 0))
        now = first + (u[:, 0] * max(frames - reach - first, 1)).long()
        return now, (now + (u[:, 1] * (reach + 1)).long()).clamp(max=frames - 1)
    now = first + (u[:, 0] * (frames - first)).long()
    step = (u[:, 1] * 2 * reach).long() - reach
    step = step + (step >= 0)  # -reach..-1 and 1..reach
    outside = (now + step > frames - 1) | (now + step < 0)
    return now, (now + torch.where(outside, -step, step)).clamp(0, frames - 1)


def precise(x: Tensor) -> Tensor:
    """The same numbers in float32 at least, for sums that bfloat16 is too coarse for."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
