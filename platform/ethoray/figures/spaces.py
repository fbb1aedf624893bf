"""Embeddings as figures: maps of moments in a plane, and strips of features over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

import matplotlib as mpl
import numpy as np

from ethoray.figures.style import (
    DIVERGING,
    GREY,
    SEQUENTIAL,
    FigureError,
    bare,
    colour,
    key,
    marker,
    save,
    sheet,
    shown,
    style,
)  # fmt: skip

Colouring = tuple[np.ndarray, Sequence[object] | None]
"""Values (moment,) and the names of classes; without names the values are amounts. NaN is grey."""

_COLUMNS = 3


def plane(x: np.ndarray, how: str = "pca", seed: int = 0) -> np.ndarray:
    """Rows (moment, feature) as float64 (moment, 2).

    "pca" are the two directions of largest variance, each turned so that its largest loading is positive. "umap" needs
    the package umap-learn; FigureError says so when it is not there. Features that never change do not matter.
    """
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2 or not np.isfinite(x).all():
        raise FigureError(f"a map needs finite rows (moment, feature), not {x.shape} with missing values")
    if how == "umap":
        try:
            umap = import_module("umap")
        except ImportError:
            raise FigureError("this map needs the package umap-learn: pip install umap-learn") from None
        return np.asarray(umap.UMAP(random_state=seed, n_jobs=1).fit_transform(x), dtype=np.float64)
    if how != "pca":
        raise FigureError(f"a map is pca or umap, not {how!r}")
    centred = x - x.mean(0) if len(x) else x
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2]
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None] if len(x) else axes
    flat = centred @ axes.T
    return np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))


def scatter(xy: np.ndarray, colourings: Mapping[str, Colouring], path: str | Path) -> list[Path]:
    """The same map (moment, 2) once a colouring: by label, by time, by individual; SVG and PNG.

    Moments are drawn in an order of their own, so that the last class does not hide the others; those without a
    value lie below, grey.
    """
    order = np.random.default_rng(0).permutation(len(xy))
    rows = -(-max(len(colourings), 1) // _COLUMNS)
    columns = min(_COLUMNS, max(len(colourings), 1))
    with style():
        figure, axes = sheet(3.3 * columns, 3.0 * rows, rows, columns)
        for ax in axes.flat:
            bare(ax)
        for ax, (title, (values, names)) in zip(axes.flat, colourings.items(), strict=False):
            values = np.asarray(values, dtype=np.float64)
            known = order[np.isfinite(values[order])]
            rest = order[~np.isfinite(values[order])]
            ax.scatter(*xy[rest].T, s=4, color=GREY, linewidths=0, rasterized=True)
            ax.set_title(shown(title), loc="left", fontsize=9)
            if names is None:
                dots = ax.scatter(
                    *xy[known].T, c=values[known], s=4, cmap=SEQUENTIAL, linewidths=0, alpha=0.8, rasterized=True
                )
                figure.colorbar(dots, ax=ax, shrink=0.6, aspect=15, pad=0.01).outline.set_visible(False)
            else:
                _classes(ax, xy, known, values, names)
        return save(figure, path)


def _classes(ax, xy: np.ndarray, known: np.ndarray, values: np.ndarray, names: Sequence[object]) -> None:  # type: ignore[no-untyped-def]
    faint = 0.45 if len(names) == 2 else 0.8
    for i in range(len(names)):
        mine = known[values[known] == i]
        grey = len(names) == 2 and i == 0  # of two, the first is "not": what matters is the other
        ax.scatter(
            *xy[mine].T,
            s=4 if grey else 7,
            color=GREY if grey else colour(i - (len(names) == 2)),
            marker=marker(0 if len(names) <= 2 else i),
            linewidths=0,
            alpha=faint if grey else 0.8,
            rasterized=True,
        )
    handles, words = key(names if len(names) != 2 else names[1:])
    if len(names) != 2 or words[0].strip() != ax.get_title("left").strip():
        few = slice(0, 12)
        ax.legend(handles[few], words[few], fontsize=6, loc="best", framealpha=0.7, handletextpad=0.1)


def strips(
    spaces: Mapping[str, np.ndarray], fps: float, path: str | Path, bouts: np.ndarray | None = None
) -> list[Path]:
    """What each space tells over a recording, as figure 7 of BAMS (Azabou et al. 2023): a band a space; SVG and PNG.

    Each of the spaces (time, feature) is standardised over the recording and its features are sorted from quickest to
    slowest, by the mean size of their steps. Short spaces flicker, long ones hold. ``bouts`` (time,), true where a
    behaviour is seen, is a band on top.
    """
    if not spaces:
        raise FigureError("strips need at least one space")
    with style():
        extra = bouts is not None
        figure, axes = sheet(
            8.0, 0.5 * extra + 1.25 * len(spaces) + 0.4, len(spaces) + extra, 1, sharex=True,
            height_ratios=[0.15] * extra + [1.0] * len(spaces),
        )  # fmt: skip
        bands = list(axes[:, 0])
        if bouts is not None:
            top = bands.pop(0)
            top.set_yticks([])
            top.tick_params(axis="x", bottom=False, labelbottom=False)
            top.spines[:].set_visible(False)
            length = len(bouts) / fps
            top.imshow(np.asarray(bouts, dtype=float)[None], aspect="auto", cmap="Greys", vmin=0, vmax=1,
                      extent=(0, length, 0, 1), interpolation="nearest")  # fmt: skip
        few = mpl.colormaps[DIVERGING].resampled(15)  # as many as an eye tells apart: a third of the bytes
        for ax, (name, z) in zip(bands, spaces.items(), strict=True):
            values = ordered(z)
            ax.imshow(values.T, aspect="auto", cmap=few, vmin=-2.5, vmax=2.5, interpolation="nearest",
                                extent=(0, len(z) / fps, values.shape[1], 0))  # fmt: skip
            ax.set_ylabel(f"{shown(name)}\n{values.shape[1]} features", fontsize=8)
            ax.set_yticks([])
        bands[-1].set_xlabel("time (s)")
        figure.colorbar(bands[0].images[0], ax=bands, shrink=0.5, aspect=25, pad=0.01, label="standard deviations")
        return save(figure, path)


def ordered(z: np.ndarray) -> np.ndarray:
    """(time, feature) with mean 0 and variance 1 over time, quickest feature first; what never changes is 0."""
    z = np.asarray(z, dtype=np.float64)
    spread = z.std(0)
    scaled = np.where(spread > 1e-9, (z - z.mean(0)) / np.where(spread > 1e-9, spread, 1), 0.0)
    quick = np.abs(np.diff(scaled, axis=0)).mean(0) if len(z) > 1 else np.zeros(z.shape[1])
    return scaled[:, np.argsort(-quick, kind="stable")]
