"""Histograms of future values, and the squared earth mover's distance to a predicted one.

For bins of equal width the squared 2-Wasserstein (Mallows) distance between two histograms is the squared
distance of their cumulative sums (Hou, Yu & Samaras 2016), so targets are kept as cumulative counts: small
integers, from which the loss and its gradient follow in closed form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ethoray.nn.convolution import stacking


def equal_edges(values: np.ndarray, bins: int, still: float) -> np.ndarray:
    """``bins - 1`` equally spaced edges between the 0.5 and 99.5 percentiles of the values that move.

    Values (n,) may hold NaN; those with ``|value| <= still`` are left out unless nothing else remains. Bin 0
    lies below the first edge, bin ``bins - 1`` from the last edge on.
    """
    values = values[np.isfinite(values)]
    moving = values[np.abs(values) > still]
    chosen = moving if moving.size else values
    low, high = np.percentile(chosen, [0.5, 99.5]) if chosen.size else (0.0, 0.0)
    if not high > low:
        low, high = low - 1.0, low + 1.0
    return np.linspace(low, high, bins - 1, dtype=np.float32)


def digitise(values: Tensor, edges: Tensor) -> Tensor:
    """Bin of each value: the number of edges at or below it; uint8 (..., quantity).

    ``edges`` is (quantity, bins - 1). NaN is in no bin: its number, ``bins``, is one more than the last bin's.
    """
    columns = [torch.bucketize(values[..., i].contiguous(), edges[i], right=True) for i in range(edges.shape[0])]
    bins = torch.stack(columns, -1).masked_fill(values.isnan(), edges.shape[1] + 1)
    return bins.to(torch.uint8)


def future_counts(bins: Tensor, horizon: int, classes: int, times: Tensor | None = None) -> Tensor:
    """How many of the frames t+1 .. t+horizon lie in bin k or below, never frame t itself.

    From uint8 bins (sequence, time, quantity) to (sequence, anchor, quantity, classes), uint8 (int16 for
    horizons over 255). Anchors are all t with a full window, t = 0 .. time-1-horizon, or ``times``, sorted.
    Frames in no bin are not counted, so the last count is how many were; dividing by it gives the cumulative
    histogram.
    """
    dtype = torch.uint8 if horizon <= 255 else torch.int16
    sequences, frames, quantities = bins.shape
    if times is None:
        times = torch.arange(max(frames - horizon, 0), device=bins.device)
    if not len(times):
        return torch.zeros((sequences, 0, quantities, classes), dtype=dtype, device=bins.device)
    first, last = int(times[0]), int(times[-1])
    if last + horizon >= frames:
        raise ValueError(f"the window of {horizon} frames after frame {last} leaves {frames} frames")
    level = torch.arange(classes, device=bins.device)
    # row q: the cumulative histogram of one frame in bin q; the last row is that of a frame in no bin
    at_or_below = torch.cat([(level[:, None] <= level), torch.zeros_like(level[None], dtype=torch.bool)]).to(dtype)
    out = torch.empty((sequences, len(times), quantities * classes), dtype=dtype, device=bins.device)
    share = 1 if bins.device.type == "cpu" else sequences  # one sequence at a time stays in the cache
    for row in range(0, sequences, share):
        ahead = bins[row : row + share, first + 1 : last + 1 + horizon].int()
        single = at_or_below.index_select(0, ahead.flatten()).view(*ahead.shape[:2], -1)
        sums = _window_sums(single, horizon)
        out[row : row + share] = sums if sums.shape[1] == len(times) else sums[:, times - first]
    return out.view(sequences, len(times), quantities, classes)


def _window_sums(x: Tensor, width: int) -> Tensor:
    """Sums of ``width`` consecutive frames of (sequence, time, ...), by doubling: log2(width) additions."""
    out: Tensor | None = None
    covered, span, power, frames = 0, 1, x, x.shape[1] - width + 1
    while True:
        if width & span:
            part = power[:, covered : covered + frames]
            out = part if out is None else out + part
            covered += span
        if 2 * span > width:
            assert out is not None
            return out
        power = power[:, :-span] + power[:, span:]
        span *= 2


def emd2(logits: Tensor, counts: Tensor) -> Tensor:
    """Squared earth mover's distance of softmax(logits) to cumulative counts, summed over everything.

    Both are (..., classes); ``sum_k (CDF_k(counts) - CDF_k(softmax))^2``, equation 1 of Azabou et al. 2023, where the
    last count is the number of frames; a histogram of no frame (last count 0) adds nothing. Logits may be of any
    floating type, ``counts`` of any type (those of ``future_counts``, or cumulative probabilities). The value and the
    gradient, a closed form computed with it, are in float32, or float64 for float64 logits, autocast or not.
    """
    value: Tensor = _EMD2.apply(logits, counts)[0]
    return value


class _EMD2(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        classes = logits.shape[-1]
        dtype = torch.promote_types(logits.dtype, torch.float32)
        with torch.autocast(logits.device.type, enabled=False):
            upper = torch.ones(classes, classes, device=logits.device, dtype=dtype).triu_()
            p = torch.softmax(logits, -1, dtype=dtype).reshape(-1, classes)
            target = counts.reshape(-1, classes).to(dtype, copy=True)
            frames = target[:, -1:].clone()
            some = frames > 0
            gap = torch.addmm(target.div_(frames.masked_fill_(~some, 1)), p, upper, beta=-1).mul_(some)
            # dL/dp_j = 2 sum_{k >= j} gap_k; through the softmax: p * (g - <p, g>)
            g = gap @ upper.T
            grad = (g - (p * g).sum(-1, keepdim=True)).mul_(p).mul_(2)
            return torch.linalg.vector_norm(gap).square(), grad.view(logits.shape).to(logits.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Tensor, None]:
        (grad,) = ctx.saved_tensors
        return grad * upstream.to(grad.dtype), None


def streamed(head: nn.Module, loss: Callable[[Tensor, slice], Tensor], rows: Tensor, chunk: int = 2048) -> Tensor:
    """``sum over chunks of loss(head(rows[chunk]), chunk)``, never holding the head's activations at once.

    The gradient of each chunk is taken while its activations are still in the cache; on the GPU one chunk is
    everything. ``loss`` must be a sum over rows. Networks that are stacked hold them all.
    """
    if stacking():
        return loss(head(rows), slice(None))
    parameters = [p for p in head.parameters() if p.requires_grad]
    if rows.device.type == "cuda":
        chunk = 1 << 18
    return _Streamed.apply(head, loss, chunk, rows, *parameters)


class _Streamed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, head, loss, chunk: int, rows: Tensor, *parameters: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        total = torch.zeros((), device=rows.device, dtype=torch.promote_types(rows.dtype, torch.float32))
        row_grad = torch.empty_like(rows)
        grads = [torch.zeros_like(p) for p in parameters]
        for first in range(0, len(rows), chunk):
            part = slice(first, first + chunk)
            with torch.enable_grad():
                x = rows[part].detach().requires_grad_()
                value = loss(head(x), part)
                found = torch.autograd.grad(value, (x, *parameters))
            row_grad[part] = found[0]
            torch._foreach_add_(grads, found[1:])
            total += value.detach()
        ctx.save_for_backward(row_grad, *grads)
        return total

    @staticmethod
    def backward(ctx, upstream: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        scaled = [grad * upstream for grad in ctx.saved_tensors]
        return None, None, None, *scaled
