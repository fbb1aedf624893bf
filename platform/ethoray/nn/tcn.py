"""Causal dilated temporal convolutions (Bai, Kolter & Koltun 2018, "An empirical evaluation of generic
convolutional and recurrent networks for sequence modeling"), on (batch, time, feature) tensors.

Time-major features are what a convolution library calls channels-last: no transposes, and every frame is a
row that linear heads can use as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ethoray.nn.parallel import random_bytes


class Dropout(nn.Module):
    """Dropout whose mask for a row does not depend on the number of workers.

    The probability is rounded to 1/256, so that one random byte decides a feature; the scale is that of the
    rounded probability, hence the expectation is exact.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.level = round(probability * 256)

    def forward(self, x: Tensor) -> Tensor:
        """Zero features of ``x`` at random while training."""
        if not self.training or self.level == 0:
            return x
        keep = random_bytes(*x.shape, device=x.device) >= self.level
        return _Masked.apply(x, keep, 256 / (256 - self.level))


class _Masked(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, keep: Tensor, scale: float) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return (x * keep).mul_(scale)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        (keep,) = ctx.saved_tensors
        return (grad * keep).mul_(ctx.scale), None, None


class CausalConv(nn.Module):
    """A convolution over time that sees the present and the past only, weight-normalised unless told otherwise.

    Attributes
    ----------
    span: frames before the present one that it sees, (kernel - 1) * dilation.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int, normed: bool = True) -> None:
        super().__init__()
        plain = nn.Conv1d(inputs, outputs, kernel)  # for its initialisation
        assert plain.bias is not None
        self.direction = nn.Parameter(plain.weight.detach().clone())
        self.length = nn.Parameter(plain.weight.detach().flatten(1).norm(dim=1)) if normed else None
        self.bias = nn.Parameter(plain.bias.detach().clone())
        self.dilation, self.span = dilation, (kernel - 1) * dilation

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, inputs) -> (batch, time, outputs); zeros before the first frame."""
        return self._convolve(F.pad(x, (0, 0, self.span, 0)))

    def step(self, x: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """The same for the next frames of a stream: their outputs, and the ``span`` frames the next step needs."""
        if before is None:
            before = x.new_zeros(x.shape[0], self.span, x.shape[2])
        joined = torch.cat([before, x], 1)
        return self._convolve(joined), joined[:, joined.shape[1] - self.span :].clone()

    def _convolve(self, padded: Tensor) -> Tensor:
        weight: Tensor = self.direction
        if self.length is not None:
            scale = self.length / self.direction.flatten(1).norm(dim=1).clamp(min=1e-12)
            weight = self.direction * scale[:, None, None]
        weight = weight.unsqueeze(2)
        image = padded.unsqueeze(1).permute(0, 3, 1, 2)  # (batch, inputs, 1, time), channels last in memory
        out = F.conv2d(
            image,
            weight.contiguous(memory_format=torch.channels_last),
            self.bias,
            dilation=(1, self.dilation),
        )
        return out.permute(0, 2, 3, 1).squeeze(1)


class Block(nn.Module):
    """Two causal convolutions with PReLU and dropout, and a shortcut."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, dilation: int, dropout: float, normed_first: bool = True
    ) -> None:
        super().__init__()
        self.first = CausalConv(inputs, outputs, kernel, dilation, normed_first)
        self.second = CausalConv(outputs, outputs, kernel, dilation)
        self.shortcut = nn.Linear(inputs, outputs) if inputs != outputs else None
        self.slopes = nn.ParameterList(nn.Parameter(torch.full((1,), 0.1)) for _ in range(3))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, inputs) -> (batch, time, outputs)."""
        y = self.dropout(F.prelu(self.first(x), self.slopes[0]))
        y = self.dropout(F.prelu(self.second(y), self.slopes[1]))
        straight = x if self.shortcut is None else self.shortcut(x)
        return F.prelu(y + straight, self.slopes[2])

    def step(self, x: Tensor, first: Tensor | None, second: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The next frames of a stream without dropout, and what both convolutions keep of them."""
        y, first = self.first.step(x, first)
        y, second = self.second.step(F.prelu(y, self.slopes[0]), second)
        straight = x if self.shortcut is None else self.shortcut(x)
        return F.prelu(F.prelu(y, self.slopes[1]) + straight, self.slopes[2]), first, second


class TCN(nn.Module):
    """A stack of blocks whose dilation grows as ``growth ** block``.

    Without ``normed_first`` only the second convolution of a block is weight-normalised, as in the released BAMS.

    Attributes
    ----------
    reach: receptive field in frames, the present one included: 1 + 2 (kernel - 1) sum of dilations.
    """

    def __init__(
        self,
        inputs: int,
        channels: Sequence[int],
        growth: int,
        kernel: int = 3,
        dropout: float = 0.2,
        normed_first: bool = True,
    ) -> None:
        super().__init__()
        widths = (inputs, *channels)
        self.blocks = nn.ModuleList(
            Block(widths[i], widths[i + 1], kernel, growth**i, dropout, normed_first) for i in range(len(channels))
        )
        self.reach = receptive_field(len(channels), growth, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, inputs) -> (batch, time, channels[-1])."""
        for block in self.blocks:
            x = block(x)
        return x

    def step(self, x: Tensor, state: Sequence[Tensor] | None = None) -> tuple[Tensor, list[Tensor]]:
        """The next frames (batch, time, inputs) of a stream, in evaluation: what ``forward`` gives for the whole.

        ``state`` is what the step before gave, None at the beginning: of the input of every convolution the last
        (kernel - 1) * dilation frames, however long the stream.
        """
        kept: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            first, second = (None, None) if state is None else state[2 * index : 2 * index + 2]
            x, first, second = block.step(x, first, second)
            kept += [first, second]
        return x, kept


def receptive_field(blocks: int, growth: int, kernel: int = 3) -> int:
    """Frames that an output of a TCN depends on, its own included."""
    return 1 + 2 * (kernel - 1) * sum(growth**i for i in range(blocks))
