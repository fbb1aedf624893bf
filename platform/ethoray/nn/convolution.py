"""What training a causal network spends its time on: dilated convolution, and PReLU with one slope.

On a processor a library's convolution pads a copy of its input, multiplies with the zeros of taps that lie before the
first frame, and turns memory around. Here every tap is one product of matrices on a slice of the frames themselves:
time comes first in memory, so that frames so many earlier are a slice; and PReLU, which can be undone, takes no memory
of its own. ``torch.func.vmap`` stacks both. Values and gradients are those of ``F.conv1d`` and ``F.prelu``, but for
rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_INVERTIBLE = 1e-3  # slopes above it


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


def causal(x: Tensor, weight: Tensor, bias: Tensor, dilation: int, slope: Tensor | None = None) -> Tensor:
    """Convolution over the present frame and those before, zeros before the first; then PReLU, if there is a slope.

    From (batch, time, inputs) to (batch, time, outputs), with time first in memory; ``weight`` is (outputs, inputs,
    kernel), whose last tap sees the present frame, ``bias`` (outputs,), ``slope`` (1,).
    """
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
    if slope is not None and (x.device.type != "cpu" or slope.dtype != x.dtype):
        return prelu(causal(x, weight, bias, dilation), slope.to(x.dtype))
    x, weight = x.transpose(0, 1).contiguous(), weight.permute(2, 1, 0).contiguous()
    out: Tensor = _Causal.apply(x[None], weight[None], bias[None], slope, dilation)
    return out.squeeze(0).transpose(0, 1)


def prelu(x: Tensor, slope: Tensor, more: Tensor | None = None) -> Tensor:
    """``x``, or ``x + more``, where it is positive, ``slope`` (1,) times that elsewhere."""
    if not suits(x) or x.device.type != "cpu":
        return F.prelu(x if more is None else x + more, slope)
    out: Tensor = _PReLU.apply(x[None], slope, None if more is None else more[None])
    return out.squeeze(0)


class PReLU(nn.PReLU):
    """PReLU with one slope, as ``prelu`` computes it."""

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        return prelu(x, self.weight)


class _Causal(torch.autograd.Function):
    """(net, time, batch, inputs), weights (net, kernel, inputs, outputs), biases (net, outputs), also slopes (net,)."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, slope: Tensor | None, dilation: int) -> Tensor:
        out = _products(x.flatten(1, 2), weight, bias, dilation * x.shape[2])
        if slope is not None:
            for net, value in zip(out, slope.tolist(), strict=True):
                F.leaky_relu_(net, value)
        return out.view(*x.shape[:3], -1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor | None, int], output: Tensor) -> None:
        x, weight, bias, slope, ctx.dilation = inputs
        ctx.save_for_backward(x, weight, bias, slope, None if slope is None else output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor, Tensor | None, None]:
        x, weight, bias, slope, out = ctx.saved_tensors
        rows, grad, step = x.flatten(1, 2), grad.flatten(1, 2), ctx.dilation * x.shape[2]
        to_slope = None
        if slope is not None:
            grad, to_slope = _through_prelu(grad, slope, out.flatten(1, 2), lambda: _products(rows, weight, bias, step))
        to_x = grad @ weight[:, -1].mT if ctx.needs_input_grad[0] else None
        to_weight = torch.zeros_like(weight)
        to_weight[:, -1] = rows.mT @ grad
        for tap, late in _earlier(weight, rows.shape[1], step):
            to_weight[:, tap] = rows[:, :-late].mT @ grad[:, late:]
            if to_x is not None:
                to_x[:, :-late].baddbmm_(grad[:, late:], weight[:, tap].mT)
        return None if to_x is None else to_x.view_as(x), to_weight, grad.sum(1), to_slope, None

    @staticmethod
    def vmap(
        info: Any, dims: Sequence[int | None], x: Tensor, weight: Tensor, bias: Tensor, slope: Tensor | None, step: int
    ) -> tuple[Tensor, int]:
        given = [x, weight, bias] if slope is None else [x, weight, bias, slope]
        nets = [value.flatten(0, 1) for value in _stacked(info.batch_size, dims, *given)]
        out: Tensor = _Causal.apply(*nets, *[None] * (4 - len(nets)), step)
        return out.unflatten(0, (info.batch_size, -1)), 0


def _products(rows: Tensor, weight: Tensor, bias: Tensor, step: int) -> Tensor:
    """The convolution of (net, row, inputs); a tap sees rows ``step`` earlier than the one after it."""
    out = torch.baddbmm(bias[:, None], rows, weight[:, -1])
    for tap, late in _earlier(weight, rows.shape[1], step):
        out[:, late:].baddbmm_(rows[:, :-late], weight[:, tap])
    return out


def _earlier(weight: Tensor, rows: int, step: int) -> Iterator[tuple[int, int]]:
    """Taps before the last with how many rows earlier they see, but those that would only see what is before all."""
    last = weight.shape[1] - 1
    for tap in range(last):
        late = (last - tap) * step
        if late < rows:
            yield tap, late


class _PReLU(torch.autograd.Function):
    """(net, ...), or the sum of two, with a slope for each net (net,)."""

    @staticmethod
    def forward(x: Tensor, slope: Tensor, more: Tensor | None) -> Tensor:
        out = torch.empty_like(x) if more is None else x + more
        for net, value in enumerate(slope.tolist()):
            torch.ops.aten.leaky_relu.out((x if more is None else out)[net], value, out=out[net])
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        x, slope, more = inputs
        ctx.save_for_backward(slope, output, *((None, None) if _tells(slope) else (x, more)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        slope, out, x, more = ctx.saved_tensors
        to_x, to_slope = _through_prelu(grad, slope, out, lambda: x if more is None else x + more)
        return to_x, to_slope, to_x if ctx.needs_input_grad[2] else None

    @staticmethod
    def vmap(
        info: Any, dims: Sequence[int | None], x: Tensor, slope: Tensor, more: Tensor | None
    ) -> tuple[Tensor, int]:
        given = [x, slope] if more is None else [x, slope, more]
        nets = [value.flatten(0, 1) for value in _stacked(info.batch_size, dims, *given)]
        out: Tensor = _PReLU.apply(*nets, *[None] * (3 - len(nets)))
        return out.unflatten(0, (info.batch_size, -1)), 0


def _tells(slope: Tensor) -> bool:
    """Whether an output tells of which input it was made."""
    return bool((slope > _INVERTIBLE).all())


def _through_prelu(grad: Tensor, slope: Tensor, out: Tensor, x: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """Gradients of (net, ...) inputs and of slopes (net,), from the output; from the input where that does not tell."""
    told = _tells(slope)
    there = out if told else x()
    to_x, to_slope, below = torch.empty_like(there), torch.empty_like(slope), torch.empty_like(there[0])
    for net, value in enumerate(slope.tolist()):
        torch.ops.aten.leaky_relu_backward.grad_input(grad[net], there[net], value, False, grad_input=to_x[net])
        to_slope[net] = torch.clamp(there[net], max=0, out=below).mul_(grad[net]).sum()
    return to_x, to_slope / slope if told else to_slope


def _stacked(size: int, dims: Sequence[int | None], *values: Tensor) -> list[Tensor]:
    """Tensors with the dimension that ``vmap`` adds in front."""
    return [
        value.expand(size, *value.shape) if dim is None else value.movedim(dim, 0)
        for value, dim in zip(values, dims, strict=False)
    ]
