"""How long to train and how often to pause, and what a pause tells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from ethoray.state import State, TrainingError


@dataclass(frozen=True)
class Budget:
    """How long to train and how often to pause.

    Attributes
    ----------
    steps: optimiser steps; a method that fits in closed form uses them as the number of batches it may see.
    log_every: steps between two pauses, at which metrics are averaged and yielded.
    save_every: steps between two checkpoints, rounded up to a pause.
    device: "cpu", "cuda", or "auto": a GPU when there is one.
    precision: "float32", or "bfloat16" for automatic mixed precision (weights and optimiser stay in float32).
    compile: whether torch.compile makes one program of the loss.
    """

    steps: int = 400
    log_every: int = 10
    save_every: int = 50
    device: str = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"budget: precision is float32 or bfloat16, not {self.precision!r}")
        for name in ("steps", "log_every", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"budget: {name} must be at least 1, not {getattr(self, name)!r}")

    def torch_device(self) -> torch.device:
        """The device to train on; asking for CUDA where there is none raises, nothing falls back silently."""
        name = self.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        if name.startswith("cuda") and not torch.cuda.is_available():
            raise TrainingError("budget asks for cuda and this process sees no GPU; use device='auto' or 'cpu'")
        return torch.device(name)

    def pauses(self, step: int) -> bool:
        """Whether fit yields after this many steps."""
        return step % self.log_every == 0 or step == self.steps

    def saves(self, step: int) -> bool:
        """Whether the pause after this many steps should write a checkpoint."""
        crossed = step // self.save_every > (step - self.log_every) // self.save_every
        return self.pauses(step) and (crossed or step == self.steps)


@dataclass(frozen=True)
class Progress:
    """A pause in training: what the caller may log, save or stop at.

    Attributes
    ----------
    step: steps done so far, over all restarts.
    metrics: loss terms averaged since the last pause, and monitors.
    seconds: spent training in this process.
    save: whether the budget asks for a checkpoint now.
    state: everything needed to go on from here, as named tensors (call it only to save).
    """

    step: int
    steps: int
    metrics: Mapping[str, float]
    seconds: float
    save: bool
    state: Callable[[], State]
