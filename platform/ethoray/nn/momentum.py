"""Copies of a network that follow it: a teacher, slowly (exponential moving average; Grill et al. 2020, "BYOL"),
and the mean of all its weights so far (Izmailov et al. 2018, "Averaging weights leads to wider optima").
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn


class Teacher(nn.Module):
    """A copy of a module without gradients; ``follow`` moves it towards the student.

    The copy is saved with the encoder, so that an interrupted training continues exactly.
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.copy = copy.deepcopy(student).requires_grad_(False)

    @torch.no_grad()
    def follow(self, student: nn.Module, momentum: float) -> None:
        """Set the copy to ``momentum * copy + (1 - momentum) * student``; buffers are taken over as they are."""
        for mine, theirs in zip(self.copy.parameters(), student.parameters(), strict=True):
            mine.data.lerp_(theirs.data, 1 - momentum)
        for kept, given in zip(self.copy.buffers(), student.buffers(), strict=True):
            kept.copy_(given)


class Average(Teacher):
    """The mean of the weights of all the students it was shown, each counting the same."""

    seen: Tensor

    def __init__(self, student: nn.Module) -> None:
        super().__init__(student)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def add(self, student: nn.Module) -> None:
        """Count one more student; the first replaces the copy. Buffers are taken over as they are."""
        self.seen += 1
        for mine, theirs in zip(self.copy.parameters(), student.parameters(), strict=True):
            mine.data.lerp_(theirs.data, 1 / self.seen.to(mine.dtype))
        for kept, given in zip(self.copy.buffers(), student.buffers(), strict=True):
            kept.copy_(given)


def momentum(start: float, fraction: float) -> float:
    """BYOL's schedule: ``start`` at the beginning of training, rising to 1 at its end along a cosine."""
    return 1 - (1 - start) * (1 + math.cos(math.pi * min(max(fraction, 0.0), 1.0))) / 2
