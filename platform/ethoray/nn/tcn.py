"""Causal dilated temporal convolutions (Bai, Kolter & Koltun 2018, "An empirical evaluation of generic
convolutional and recurrent networks for sequence modeling"), on (batch, time, feature) tensors.

Features last is what a convolution library calls channels-last: no transposes, and every frame is a row that
linear heads can use as it is. On a processor ``nn.convolution`` does without the library.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ethoray.nn.convolution import causal, prelu, suits, time_first
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
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, keep: Tensor, scale: float) -> Tensor:
        return (x * keep).mul_(scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
        _, keep, ctx.scale = inputs
        ctx.save_for_backward(keep)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
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

    def forward(self, x: Tensor, slope: Tensor | None = None) -> Tensor:
        """(batch, time, inputs) -> (batch, time, outputs); zeros before the first frame. With a slope, then PReLU."""
        if suits(x):
            return causal(x, self.weight(), self.bias, self.dilation, slope)
        out = self._convolve(F.pad(x, (0, 0, self.span, 0)))
        return out if slope is None else prelu(out, slope)

    def step(self, x: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """The same for the next frames of a stream: their outputs, and the ``span`` frames the next step needs."""
        if before is None:
            before = x.new_zeros(x.shape[0], self.span, x.shape[2])
        joined = torch.cat([before, x], 1)
        return self._convolve(joined), joined[:, joined.shape[1] - self.span :].clone()

    def weight(self) -> Tensor:
        """The weights (outputs, inputs, kernel)."""
        if self.length is None:
            return self.direction
        scale = self.length / self.direction.flatten(1).norm(dim=1).clamp(min=1e-12)
        return self.direction * scale[:, None, None]

    def _convolve(self, padded: Tensor) -> Tensor:
        weight = self.weight().unsqueeze(2)
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
        y = self.dropout(self.first(x, self.slopes[0]))
        y = self.dropout(self.second(y, self.slopes[1]))
        return prelu(y, self.slopes[2], self._straight(x))

    def step(self, x: Tensor, first: Tensor | None, second: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The next frames of a stream without dropout, and what both convolutions keep of them."""
        y, first = self.first.step(x, first)
        y, second = self.second.step(prelu(y, self.slopes[0]), second)
        return prelu(prelu(y, self.slopes[1]), self.slopes[2], self._straight(x)), first, second

    def _straight(self, x: Tensor) -> Tensor:
        if self.shortcut is None:
            return x
        if suits(x):
            return causal(x, self.shortcut.weight[..., None], self.shortcut.bias, 1)
        out: Tensor = self.shortcut(x)
        return out


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
        x = time_first(x) if suits(x) else x
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
