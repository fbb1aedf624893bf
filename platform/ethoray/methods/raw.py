"""Raw movement features, unlearned: the floor that any embedding has to beat."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ethoray.batch import Batch, Spec, Stream
from ethoray.learning import Budget, Encoder, Method, Progress, State
from ethoray.nn.features import features
from ethoray.state import encoder_state


@dataclass(frozen=True)
class Raw(Method):
    """The features that BAMS sees, handed on as they are ("velocity", "generic" or "auto")."""

    features: str = "auto"

    def build(self, spec: Spec) -> RawEncoder:
        """Nothing to learn."""
        return RawEncoder(self, spec)


class RawEncoder(Encoder):
    """Space "raw": features of every animal with the validity, (batch, time, individual, feature + 1)."""

    def __init__(self, method: Raw, spec: Spec) -> None:
        super().__init__()
        self.features = features(method.features, spec)
        self.past = self.features.past
        self.register_buffer("ready", torch.ones(()))

    def fit(self, stream: Stream, budget: Budget, resume: State | None = None) -> Iterator[Progress]:
        """One pause, so that the run is recorded like any other."""
        self.to(budget.torch_device())
        state = {**encoder_state(self), "step": torch.tensor(budget.steps)}
        if resume is None:
            yield Progress(budget.steps, budget.steps, {"loss": 0.0}, 0.0, True, lambda: state)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """The features themselves."""
        movement = self.features(batch)
        both = torch.cat([movement.inputs, movement.valid[..., None].to(movement.inputs.dtype)], -1)
        windows, frames, animals = batch.mask.shape
        return {"raw": both.view(windows, animals, frames, -1).transpose(1, 2)}
