"""What an encoder expects of the next second, beside what came: the histograms of BAMS' figures 8 and 9."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from ethoray.batch import Batch, collate
from ethoray.nn.histogram import digitise, future_counts


@runtime_checkable
class Forecasts(Protocol):
    """An encoder that forecasts histograms of actions, as that of BAMS does."""

    features: Any
    edges: Tensor
    horizon: int
    head: nn.Module
    method: Any

    def normalise(self, movement: Any) -> Tensor:
        """Network input (sequence, time, feature)."""
        ...

    def encode(self, inputs: Tensor) -> Mapping[str, Tensor]:
        """Spaces (sequence, time, channel)."""
        ...


@torch.no_grad()
def histograms(
    encoder: Forecasts, window: np.ndarray, fps: float, times: list[int], individual: int = 0
) -> tuple[np.ndarray, np.ndarray] | None:
    """Forecast and true shares of what one animal does after each frame of ``times``, both (moment, quantity, bin).

    ``window`` is (time, individual, keypoint, space), ``times`` ascend and leave a horizon before its end. A true
    histogram of nothing tracked is NaN. None for an encoder whose head does not forecast histograms.
    """
    if getattr(encoder.method, "objective", "histogram") != "histogram":
        return None
    batch: Batch = collate([window], len(window), window.shape[1], fps)
    movement = encoder.features(batch)
    inputs = encoder.normalise(movement)
    seen = list(encoder.encode(inputs).values())
    if getattr(encoder.method, "head_sees_input", False):
        seen.append(inputs)
    at = torch.as_tensor(times)
    quantities, bins = encoder.edges.shape[0], encoder.edges.shape[1] + 1
    out = encoder.head(torch.cat([part[individual, at] for part in seen], -1)).unflatten(-1, (quantities, bins))
    counted = future_counts(digitise(movement.targets, encoder.edges), encoder.horizon, bins, at)[individual].double()
    total = counted[..., -1:]
    shares = torch.diff(counted, dim=-1, prepend=torch.zeros_like(total)) / torch.where(total > 0, total, torch.nan)
    return torch.softmax(out, -1).double().numpy(), shares.numpy()
