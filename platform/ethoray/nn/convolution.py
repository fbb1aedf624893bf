"""What training a causal network spends its time on: dilated convolution, and PReLU with one slope.

On a processor a library's convolution pads a copy of its input, multiplies with the zeros of taps that lie before the
first frame, and turns memory around. Here every tap is one product of matrices on a slice of the frames themselves:
time comes first in memory, so that frames so many earlier are a slice. For networks that ``torch.func.vmap`` stacks
it is one product for all of them. Values and gradients are those of ``F.conv1d`` and ``F.prelu``, to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def suits(x: Tensor) -> bool:
    """Whether these functions are the faster ones for a tensor, or the only ones: when networks are stacked."""
    if stacking():
        return True
    full = x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")
    return x.device.type == "cpu" and full and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def stacking() -> bool:
    """Whether networks are being stacked by ``torch.func.vmap``."""
    return bool(torch._C._are_functorch_transforms_active())


def time_first(x: Tensor) -> Tensor:
    """The same (batch, time, feature), time first in memory, where ``causal`` need not copy it."""
    return x.transpose(0, 1).contiguous().transpose(0, 1)


def causal(x: Tensor, weight: Tensor, bias: Tensor, dilation: int) -> Tensor:
    """Convolution over the present frame and those before; zeros before the first.

    From (batch, time, inputs) to (batch, time, outputs), with time first in memory; ``weight`` is (outputs, inputs,
    kernel), whose last tap sees the present frame, ``bias`` (outputs,).
    """
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    x, weight = x.transpose(0, 1).contiguous(), weight.permute(2, 1, 0).contiguous()
    out: Tensor = _Causal.apply(x[None], weight[None], bias[None], dilation)
    return out.squeeze(0).transpose(0, 1)


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    """``x`` where it is positive, ``slope * x`` elsewhere; ``slope`` (1,)."""
    if not suits(x) or x.device.type != "cpu":
        return F.prelu(x, slope)
    out: Tensor = _PReLU.apply(x[None], slope.to(x.dtype))
    return out.squeeze(0)


class PReLU(nn.PReLU):
    """PReLU with one slope, as ``prelu`` computes it."""

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        return prelu(x, self.weight)


class _Causal(torch.autograd.Function):
    """(net, time, batch, inputs), weights (net, kernel, inputs, outputs), biases (net, outputs)."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, dilation: int) -> Tensor:
        nets, frames, batch, _ = x.shape
        rows = x.flatten(1, 2)
        out = torch.baddbmm(bias[:, None], rows, weight[:, -1])
        for tap, late in _earlier(weight, frames, dilation):
            out[:, late * batch :].baddbmm_(rows[:, : (frames - late) * batch], weight[:, tap])
        return out.view(nets, frames, batch, -1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, int], output: Tensor) -> None:
        x, weight, _, ctx.dilation = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        _, frames, batch, _ = x.shape
        rows, above = x.flatten(1, 2), grad.flatten(1, 2)
        to_x = above @ weight[:, -1].mT if ctx.needs_input_grad[0] else None
        to_weight = torch.zeros_like(weight)
        to_weight[:, -1] = rows.mT @ above
        for tap, late in _earlier(weight, frames, ctx.dilation):
            seen, where = slice((frames - late) * batch), slice(late * batch, None)
            to_weight[:, tap] = rows[:, seen].mT @ above[:, where]
            if to_x is not None:
                to_x[:, seen].baddbmm_(above[:, where], weight[:, tap].mT)
        return None if to_x is None else to_x.view_as(x), to_weight, above.sum(1), None

    @staticmethod
    def vmap(
        info: Any, dims: Sequence[int | None], x: Tensor, weight: Tensor, bias: Tensor, dilation: int
    ) -> tuple[Tensor, int]:
        stacked = _stacked(info.batch_size, dims, x, weight, bias)
        out: Tensor = _Causal.apply(*(value.flatten(0, 1) for value in stacked), dilation)
        return out.unflatten(0, (info.batch_size, -1)), 0


def _earlier(weight: Tensor, frames: int, dilation: int) -> Iterator[tuple[int, int]]:
    """Taps that see earlier frames with how many, without those that would only see what is before the first."""
    present = weight.shape[1] - 1
    for tap in range(present):
        late = (present - tap) * dilation
        if late < frames:
            yield tap, late


class _PReLU(torch.autograd.Function):
    """(net, ...) with a slope for each net (net,)."""

    @staticmethod
    def forward(x: Tensor, slope: Tensor) -> Tensor:
        out = torch.empty_like(x)
        for net, value in enumerate(slope.tolist()):
            torch.ops.aten.leaky_relu.out(x[net], value, out=out[net])
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, slope = ctx.saved_tensors
        to_x, to_slope, below = torch.empty_like(x), torch.empty_like(slope), torch.empty_like(x[0])
        for net, value in enumerate(slope.tolist()):
            torch.ops.aten.leaky_relu_backward.grad_input(grad[net], x[net], value, False, grad_input=to_x[net])
            to_slope[net] = torch.clamp(x[net], max=0, out=below).mul_(grad[net]).sum()
        return to_x, to_slope

    @staticmethod
    def vmap(info: Any, dims: Sequence[int | None], x: Tensor, slope: Tensor) -> tuple[Tensor, int]:
        x, slope = _stacked(info.batch_size, dims, x, slope)
        out: Tensor = _PReLU.apply(x.flatten(0, 1), slope.flatten(0, 1))
        return out.unflatten(0, (info.batch_size, -1)), 0


def _stacked(size: int, dims: Sequence[int | None], *values: Tensor) -> list[Tensor]:
    """Tensors with the dimension that ``vmap`` adds in front."""
    return [
        value.expand(size, *value.shape) if dim is None else value.movedim(dim, 0)
        for value, dim in zip(values, dims, strict=False)
    ]
