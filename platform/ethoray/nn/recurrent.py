"""Networks on short windows: one vector from a window, and the window back from the vector.

Luxem et al. 2022, "Identifying behavioral structure from deep variational embeddings of animal motion" (VAME).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ethoray.nn.parallel import total, world


class RecurrentEncoder(nn.Module):
    """A bidirectional GRU of several layers; the summary is the final state of every layer and direction.

    Attributes
    ----------
    width: of the summary, 2 * layers * hidden.
    """

    def __init__(self, inputs: int, hidden: int, layers: int = 2) -> None:
        super().__init__()
        self.gru = nn.GRU(inputs, hidden, layers, batch_first=True, bidirectional=True)
        self.width = 2 * layers * hidden

    def forward(self, x: Tensor) -> Tensor:
        """(window, time, inputs) -> (window, width)."""
        _, states = self.gru(x)
        summary: Tensor = states.transpose(0, 1).flatten(1)
        return summary


class ConvEncoder(nn.Module):
    """Strided convolutions that halve time until four moments are left; the summary is all of them.

    Attributes
    ----------
    width: of the summary.
    """

    def __init__(self, inputs: int, hidden: int, frames: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        while not layers or frames > 4:
            layers += [nn.Conv1d(inputs, hidden, 5, stride=2, padding=2), nn.GELU()]
            inputs, frames = hidden, (frames + 1) // 2
        self.layers = nn.Sequential(*layers)
        self.width = hidden * frames

    def forward(self, x: Tensor) -> Tensor:
        """(window, time, inputs) -> (window, width)."""
        summary: Tensor = self.layers(x.transpose(1, 2)).flatten(1)
        return summary


class RecurrentDecoder(nn.Module):
    """A bidirectional GRU that is fed the same vector at every step and starts from states made of it.

    Row b of the output depends on row b of the input only.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.states = nn.Linear(inputs, 2 * hidden)
        self.gru = nn.GRU(inputs, hidden, batch_first=True, bidirectional=True)
        self.readout = nn.Linear(2 * hidden, outputs)

    def forward(self, z: Tensor, frames: int) -> Tensor:
        """(window, inputs) -> (window, frames, outputs)."""
        start = self.states(z).unflatten(1, (2, -1)).transpose(0, 1).contiguous()
        states, _ = self.gru(z[:, None].expand(-1, frames, -1), start.to(z.dtype))
        frames_out: Tensor = self.readout(states)
        return frames_out


class _NuclearNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z: Tensor, count: Tensor, k: int) -> Tensor:  # type: ignore[no-untyped-def]
        rows = z.double()
        wide = 0 < len(z) < z.shape[1] and world()[1] == 1
        gram = rows @ rows.T if wide else total(rows.T @ rows)
        squares, directions = torch.linalg.eigh(gram)
        top = squares[-k:].clamp(min=0)
        singular, directions = top.sqrt(), directions[:, -k:]
        floor = singular.amax() * 1e-7
        inverse = torch.where(singular > floor, 1 / singular.clamp(min=1e-300), 0.0)
        root = count.double().clamp(min=1).sqrt()
        ctx.save_for_backward(z, (directions * inverse) @ directions.T / root)
        ctx.wide = wide
        return (singular.sum() / root).to(z.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
        z, shape = ctx.saved_tensors
        rows = z.double()
        direction = shape @ rows if ctx.wide else rows @ shape
        return (direction * (grad.double() * world()[1])).to(z.dtype), None, None


def nuclear_norm(z: Tensor, k: int, count: Tensor | None = None) -> Tensor:
    """VAME's clustering term of latents (row, feature): a tenth of the sum of the k largest sqrt(sv(Z Z^T / B)).

    Those roots are singular values of Z / sqrt(B), found in float64 from the smaller Gram matrix. ``count``
    replaces B, when some rows are zero because they do not count. All workers' rows together are Z. The gradient
    of singular values below 1e-7 of the largest is left out (a subgradient).
    """
    if z.ndim != 2 or k < 1:
        raise ValueError(f"the nuclear norm is of (row, feature) and at least one value, not {tuple(z.shape)}, k={k}")
    with torch.autocast(z.device.type, enabled=False):
        z = z if z.dtype == torch.float64 else z.float()
        count = torch.tensor(len(z), device=z.device) if count is None else count
        norm: Tensor = _NuclearNorm.apply(z, total(count), k)
    return 0.1 * norm


def gaussian(uniform: Tensor) -> Tensor:
    """Standard normal numbers from uniform ones in [0, 1)."""
    return torch.erfinv((2 * uniform - 1).clamp(-1 + 1e-6, 1 - 1e-6)) * 2**0.5


def annealed(spent: Tensor, start: float, over: float) -> Tensor:
    """Weight that rises linearly from 0 when ``start`` of the budget is spent to 1 when ``over`` more is."""
    return ((spent - start) / max(over, 1e-9)).clamp(0, 1)
