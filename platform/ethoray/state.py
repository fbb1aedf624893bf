"""The trained part of an encoder as named tensors."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

State = dict[str, Tensor]


class TrainingError(RuntimeError):
    """Training that cannot go on: a loss that is not finite, a checkpoint of another method."""


def encoder_state(encoder: nn.Module) -> State:
    """The encoder alone, under the keys a full training state uses for it."""
    return {f"encoder/{k}": v.detach().clone() for k, v in encoder.state_dict().items()}


def load_encoder(encoder: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put the encoder's part of a saved state into place; raises TrainingError when it is another's."""
    weights = {k.removeprefix("encoder/"): v for k, v in state.items() if k.startswith("encoder/")}
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        raise TrainingError(f"this checkpoint does not fit {type(encoder).__name__}: {error}") from None
