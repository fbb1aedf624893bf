"""Latent bootstrapping without a moving-average teacher (Grill et al. 2020, with a faster predictor instead)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ethoray.nn.parallel import WeightedBatchNorm, shared_mean


class Predictor(nn.Module):
    """From one moment's embedding to another's: linear, batch norm, ReLU, linear, four times as wide."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.widen = nn.Linear(width, 4 * width, bias=False)
        self.norm = WeightedBatchNorm(4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, z: Tensor, weights: Tensor) -> Tensor:
        """(rows, width) -> (rows, width); rows of weight 0 do not enter the statistics."""
        out: Tensor = self.narrow(F.relu(self.norm(self.widen(z), weights)))
        return out


def bootstrap_distance(online: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of ``||u/|u| - sg(v/|v|)||^2 = 2 (1 - cosine)`` over rows; no gradient into the target."""
    apart = 2 - 2 * F.cosine_similarity(online, target.detach(), dim=-1)
    return shared_mean((apart * weights).sum(), weights.sum())
