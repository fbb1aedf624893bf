"""How well a masked autoencoder fills in keypoints it did not see, beside what needs no learning.

Errors are distances between told and true keypoints of hidden cells, in percent of the body length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ethoray import geometry
from ethoray.batch import Batch
from ethoray.nn.masking import interpolate
from ethoray.schema import SchemaError, Skeleton

Hide = Callable[[int, int, torch.Generator], Tensor]
"""Bool (time, keypoint) for a recording of so many frames and keypoints: what to hide."""

RED, BLUE, GREY = "#D62728", "#0072B2", "0.75"
"""Reconstruction, visible keypoints, and the true place of hidden ones."""


class Reconstructs(Protocol):
    """An encoder that fills in what is hidden, as MSAE's does."""

    def reconstruct(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        """Keypoints like the batch's; ``hidden`` is bool (batch, time, individual, keypoint)."""
        ...


def joints(share: float) -> Hide:
    """Hide each keypoint of each frame with this probability."""
    return lambda time, points, generator: torch.rand(time, points, generator=generator) < share


def frames(share: float) -> Hide:
    """Hide whole frames with this probability."""
    return lambda time, points, generator: (torch.rand(time, 1, generator=generator) < share).expand(-1, points)


def gap(length: int) -> Hide:
    """Hide so many frames in a row, somewhere inside; a third of the recording at most."""

    def hide(time: int, points: int, generator: torch.Generator) -> Tensor:
        size = max(1, min(length, time // 3))
        first = int(torch.randint(1, max(time - size, 2), (1,), generator=generator))
        now = torch.arange(time)[:, None]
        return ((now >= first) & (now < first + size)).expand(-1, points)

    return hide


def linear(keypoints: Tensor, visible: Tensor) -> Tensor:
    """Linear interpolation in time of each keypoint, (row, time, keypoint, space); level beyond the ends."""
    return interpolate(keypoints, visible)


def nearest(keypoints: Tensor, visible: Tensor) -> Tensor:
    """Each keypoint where it was in the nearest frame in which it is visible, the earlier one of two."""
    now = torch.arange(keypoints.shape[1], device=keypoints.device)
    far = (now[:, None] - now).abs()[None, :, :, None].float()
    source = torch.where(visible[:, None], far, torch.inf).argmin(2)
    found = keypoints.gather(1, source[..., None].expand_as(keypoints))
    return torch.where(visible.any(1, keepdim=True)[..., None], found, torch.nan)


def average(keypoints: Tensor, visible: Tensor) -> Tensor:
    """Each keypoint at the mean of where it was visible."""
    return torch.where(visible[..., None], keypoints, torch.nan).nanmean(1, keepdim=True).expand_as(keypoints)


BASELINES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "linear interpolation": linear,
    "nearest visible frame": nearest,
    "keypoint mean": average,
}


def compare(
    encoder: Reconstructs, recordings: Sequence[np.ndarray], fps: float, hide: Hide, body: float, seed: int = 0
) -> dict[str, np.ndarray]:
    """Mean error on hidden cells of every recording (time, individual, keypoint, space), in percent of ``body``.

    By the encoder under "encoder" and by every baseline; NaN where a recording had nothing to compare. Only cells
    that were tracked, and that every contender fills, are compared.
    """
    if not body > 0:
        raise SchemaError(f"errors are in percent of a positive body length, not {body!r}")
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[float]] = {"encoder": [], **{name: [] for name in BASELINES}}
    for recording in recordings:
        x = torch.as_tensor(recording, dtype=torch.float32)[None]
        hidden = hide(x.shape[1], x.shape[3], generator)[None, :, None].expand(x.shape[:4])
        told = {"encoder": encoder.reconstruct(Batch(x, torch.ones(x.shape[:3], dtype=torch.bool), fps), hidden)}
        rows = x.transpose(1, 2).flatten(0, 1)
        visible = geometry.present(rows) & ~hidden.transpose(1, 2).flatten(0, 1)
        for name, fill in BASELINES.items():
            told[name] = fill(rows, visible).view(1, x.shape[2], *rows.shape[1:]).transpose(1, 2)
        errors = {name: geometry.length(y - x) for name, y in told.items()}
        known = hidden & torch.stack([error.isfinite() for error in errors.values()]).all(0)
        for name, error in errors.items():
            found[name].append(100 * float(error[known].mean()) / body if known.any() else float("nan"))
    return {name: np.array(values) for name, values in found.items()}


def interval(values: np.ndarray, draws: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Mean and its 95 % bootstrap interval over recordings; NaN do not count."""
    values = values[np.isfinite(values)]
    picked = np.random.default_rng(seed).integers(0, len(values), (draws, len(values)))
    low, high = np.percentile(values[picked].mean(1), [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


def draw(
    truth: np.ndarray,
    visible: np.ndarray,
    told: np.ndarray,
    skeleton: Skeleton,
    times: Sequence[int],
    path: str | Path,
    unit: str = "pixel",
) -> list[Path]:
    """Frames of one animal side by side: reconstruction red, visible keypoints blue, hidden ones grey; SVG and PNG.

    ``truth`` and ``told`` are (time, keypoint, 2), ``visible`` bool (time, keypoint); ``path`` has no suffix.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(1.75 * len(times), 3.0), layout="constrained")
    axes: Any = figure.subplots(1, len(times), squeeze=False)[0]
    reach = 0.55 * max(float(np.ptp(truth[t], axis=0).max()) for t in times)
    for ax, t in zip(axes, times, strict=True):
        for a, b in skeleton.bones:
            ax.plot(*truth[t, [a, b]].T, color=GREY, lw=1.5, zorder=1)
            ax.plot(*told[t, [a, b]].T, color=RED, lw=1.0, zorder=3)
        hidden = ~visible[t]
        ax.scatter(*truth[t, hidden].T, s=26, color=GREY, zorder=2, linewidths=0)
        ax.scatter(*told[t, hidden].T, s=16, color=RED, marker="x", linewidths=1.2, zorder=5)
        ax.scatter(*truth[t, visible[t]].T, s=14, color=BLUE, zorder=4, linewidths=0)
        middle = (truth[t].min(0) + truth[t].max(0)) / 2
        ax.set(xlim=(middle[0] - reach, middle[0] + reach), ylim=(middle[1] - reach, middle[1] + reach))
        ax.set_aspect("equal")
        ax.set_title(f"frame {t}", fontsize=8)
        ax.tick_params(labelsize=6)
    axes[0].set_ylabel(unit, fontsize=8)
    handles = [
        Line2D([], [], color=RED, marker="x", ms=5, lw=1),
        Line2D([], [], color=BLUE, marker="o", ms=4, lw=0),
        Line2D([], [], color=GREY, marker="o", ms=5, lw=1.5),
    ]
    figure.legend(handles, ["reconstruction", "visible", "hidden"], loc="outside lower center", ncols=3, fontsize=8)
    files = [Path(f"{path}.{kind}") for kind in ("svg", "png")]
    files[0].parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(files[0], metadata={"Date": None})
    figure.savefig(files[1], dpi=160)
    return files
