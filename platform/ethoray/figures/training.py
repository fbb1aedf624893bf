"""Training and search as figures: learning curves, parallel coordinates, importances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from ethoray.figures.style import SEQUENTIAL, FigureError, colour, logarithmic, save, sheet, shown, style, worded

_COLUMNS = 3


def learning_curves(runs: Mapping[str, Sequence[Mapping[str, float]]], path: str | Path, terms: int = 5) -> list[Path]:
    """Every term of the loss over steps, a panel a term and a line a run, on its own scale; SVG and PNG.

    ``runs`` are the lines of ``record.read_metrics``; the name before a slash is shared by seeds and chooses the
    colour. The loss comes first, then so many other terms, in the order in which they first appear.
    """
    seen = {name for lines in runs.values() for line in lines for name in line if "monitor/" not in name}
    order = [name for lines in runs.values() for line in lines for name in line if name in seen]
    names = [name for name in dict.fromkeys(["loss", *order]) if name in seen and name not in ("step", "seconds")]
    names = names[: terms + 1]
    if not names:
        raise FigureError("learning curves need runs that wrote metrics")
    groups = list(dict.fromkeys(name.partition("/")[0] for name in runs))
    columns = min(_COLUMNS, len(names))
    rows = -(-len(names) // columns)
    with style():
        figure, axes = sheet(2.7 * columns, 2.1 * rows + 0.4, rows, columns)
        for ax in axes.flat[len(names) :]:
            ax.set_visible(False)
        for ax, name in zip(axes.flat, names, strict=False):
            for run, lines in runs.items():
                mine = [(line["step"], line[name]) for line in lines if name in line]
                if mine:
                    ax.plot(*zip(*mine, strict=True), color=colour(groups.index(run.partition("/")[0])), lw=1.2)
            positive = [line[name] for lines in runs.values() for line in lines if name in line]
            if min(positive, default=0) > 0 and max(positive) > 20 * min(positive):
                logarithmic(ax.yaxis)
            ax.set_title(shown(name), loc="left", fontsize=8)
            ax.grid(axis="y", color="0.92", linewidth=0.6)
        for ax in axes[-1]:
            ax.set_xlabel("step")
        handles = [Line2D([], [], color=colour(i), lw=1.5) for i in range(len(groups))]
        figure.legend(handles, [shown(g) for g in groups], loc="outside lower center", ncols=6, frameon=False)
        return save(figure, path)


def parallel(trials: pd.DataFrame, factors: Sequence[str], value: str, path: str | Path) -> list[Path]:
    """Every trial as a line through its settings to its score, coloured by the score; SVG and PNG.

    Numbers stand in proportion, logarithmically where all are positive and span a hundredfold; everything else in the
    order of its mean score. The best trials are drawn last.
    """
    table = trials.dropna(subset=[value])
    if table.empty or not factors:
        raise FigureError("parallel coordinates need trials with a score and at least one setting")
    places, ticks = {}, {}
    for name in (*factors, value):
        places[name], ticks[name] = _axis(table[name], table[value])
    low, high = float(table[value].min()), float(table[value].max())
    norm = mpl.colors.Normalize(low, high if high > low else low + 1)
    with style():
        figure, axes = sheet(1.5 * (len(factors) + 1) + 1.4, 3.4)
        ax = axes[0, 0]
        columns = np.column_stack([places[name] for name in (*factors, value)])
        for i in np.argsort(table[value].to_numpy(dtype=float), kind="stable"):
            shade = mpl.colormaps[SEQUENTIAL](norm(float(table[value].iloc[i])))
            ax.plot(range(columns.shape[1]), columns[i], color=shade, lw=1.1, alpha=0.8)
        for x, name in enumerate((*factors, value)):
            ax.axvline(x, color="0.3", lw=0.8, zorder=3)
            for y, text in ticks[name]:
                ax.annotate(text, (x, y), (3, 0), textcoords="offset points", fontsize=6.5, va="center", zorder=4,
                            bbox={"fc": "white", "ec": "none", "pad": 0.5, "alpha": 0.8})  # fmt: skip
        words = [shown(name.rpartition(".")[2]) for name in factors]
        ax.set_xticks(range(len(words) + 1), [*words, shown(worded(value))], fontsize=8)
        ax.set_yticks([])
        ax.margins(x=0.08)
        for spine in ax.spines.values():
            spine.set_visible(False)
        figure.colorbar(mpl.cm.ScalarMappable(norm, SEQUENTIAL), ax=ax, shrink=0.7, label=shown(worded(value)))
        return save(figure, path)


def _axis(values: pd.Series, score: pd.Series) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Places between 0 and 1 and the ticks that name them."""
    numbers = pd.to_numeric(values, errors="coerce") if not values.map(lambda v: isinstance(v, bool)).any() else None
    if numbers is None or numbers.isna().any() or numbers.nunique() < 2:
        means = score.groupby(values.map(str)).mean().sort_values(kind="stable")
        where = {name: (i + 0.5) / len(means) for i, name in enumerate(means.index)}
        return values.map(str).map(where).to_numpy(dtype=float), [(y, shown(name)) for name, y in where.items()]
    x = numbers.to_numpy(dtype=float)
    log = bool(x.min() > 0 and x.max() >= 100 * x.min())
    flat = np.log(x) if log else x
    low, high = flat.min(), flat.max()
    marks = np.unique(flat) if len(np.unique(flat)) <= 6 else np.linspace(low, high, 5)
    named = [(float((m - low) / (high - low)), f"{np.exp(m) if log else m:.3g}") for m in marks]
    return (flat - low) / (high - low), named


def importances(
    trials: pd.DataFrame, factors: Sequence[str], value: str, path: str | Path, seed: int = 0
) -> list[Path]:
    """How much of the score's spread each factor explains alone, beside what chance would; SVG and PNG."""
    found = explained(trials, factors, value, seed)
    order = sorted(found, key=lambda name: found[name][0])
    with style():
        figure, axes = sheet(5.0, 0.9 + 0.28 * len(order))
        ax = axes[0, 0]
        ax.barh(range(len(order)), [found[n][0] for n in order], color=colour(0), height=0.6)
        for y, name in enumerate(order):
            ax.plot([found[name][1]] * 2, [y - 0.42, y + 0.42], color=colour(1), lw=2)
        ax.set_yticks(range(len(order)), [shown(n.rpartition(".")[2]) for n in order])
        ax.set(xlim=(0, 1), xlabel=f"share of the spread of {shown(worded(value))} that the setting explains alone")
        ax.plot([], [], color=colour(1), lw=2, label="19 of 20 shuffles stay below")
        ax.legend(fontsize=7, frameon=False, loc="lower right")
        return save(figure, path)


def explained(
    trials: pd.DataFrame, factors: Sequence[str], value: str, seed: int = 0, shuffles: int = 200
) -> dict[str, tuple[float, float]]:
    """By factor: the share of variance between its groups (eta squared) and the 95 % level of shuffled scores.

    Numbers with more than six values are cut into five groups of equal size.
    """
    table = trials.dropna(subset=[value])
    score, rng = table[value].to_numpy(dtype=float), np.random.default_rng(seed)
    found = {}
    for name in factors:
        groups = _groups(table[name])
        chance = [_eta(groups, rng.permutation(score)) for _ in range(shuffles)]
        found[name] = _eta(groups, score), float(np.percentile(chance, 95))
    return found


def _groups(values: pd.Series) -> np.ndarray:
    if pd.api.types.is_numeric_dtype(values) and values.nunique() > 6:
        values = values.rank(pct=True).mul(5).map(np.ceil)
    return np.unique(values.map(str).to_numpy(), return_inverse=True)[1]


def _eta(groups: np.ndarray, score: np.ndarray) -> float:
    total = float(((score - score.mean()) ** 2).sum()) if len(score) else 0.0
    if not total > 0:
        return 0.0
    counts = np.bincount(groups)
    means = np.bincount(groups, score) / counts
    return float((counts * (means - score.mean()) ** 2).sum() / total)
