"""Figures for pages: drawn without a screen, in colours that colour-blind readers tell apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from ethoray.tables import combine

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe & Ito (2008), the colours told apart with every common colour blindness; yellow is left out."""

_MARKERS = "osD^vPX"
_TITLES = {"frame": "frame-level", "recording": "recording-level", "": "all"}
_STYLE: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none"}


def score_against(
    scores: pd.DataFrame, factor: Callable[[pd.Series], float], label: str, path: str | Path, *, log: bool = True
) -> list[Path]:
    """Mean score against a factor, one panel a task level and metric, one line a space; SVG and PNG.

    Parameters
    ----------
    scores: what ``leaderboard.collect`` gave.
    factor: the horizontal position of a run, from its row.
    label: of the horizontal axis, with its unit.
    path: without a suffix.

    A point averages the panel's tasks within a seed, then seeds; its bar is the 95 % interval of the leaderboard.
    Thin dots are single seeds. Returns the two files.
    """
    table = scores.assign(factor=[factor(row) for _, row in scores.iterrows()], level=scores["level"].fillna(""))
    panels = list(table.groupby(["level", "metric"], sort=True))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.4 * max(len(panels), 1) + 0.6, 3.2), layout="constrained")
        axes = figure.subplots(1, max(len(panels), 1), squeeze=False)[0]
        for ax, ((level, metric), panel) in zip(axes, panels, strict=False):
            tasks = panel["task"].nunique()
            ax.set_title(f"{_TITLES[str(level)]}: {tasks} task{'s' * (tasks > 1)}", loc="left", fontsize=9)
            _draw(ax, panel, sorted(table["space"].unique()))
            _label(ax, sorted(table["factor"].unique()), label, _worded(str(metric)), log)
        handles, names = axes[0].get_legend_handles_labels()
        if len(names):
            figure.legend(handles, names, title="space", loc="outside right center", frameon=False)
        return _save(figure, Path(path))


def score_by(scores: pd.DataFrame, column: str, path: str | Path) -> list[Path]:
    """Mean score of the runs that share a column's value, one panel a task level and metric; SVG and PNG.

    Of a run with several spaces all of them together are shown. A point averages the panel's tasks within a seed, then
    seeds; its bar is the 95 % interval of the leaderboard, thin dots are single seeds. Best on top.
    """
    several = scores.groupby("key")["space"].transform("nunique") > 1
    table = scores[~several | (scores["space"] == "all")].assign(level=lambda t: t["level"].fillna(""))
    panels = list(table.groupby(["level", "metric"], sort=True))
    with mpl.rc_context(_STYLE):
        height = 0.9 + 0.26 * table[column].nunique()
        figure = Figure(figsize=(3.4 * max(len(panels), 1), height), layout="constrained")
        axes = figure.subplots(1, max(len(panels), 1), squeeze=False)[0]
        for ax, ((level, metric), panel) in zip(axes, panels, strict=False):
            tasks = panel["task"].nunique()
            ax.set_title(f"{_TITLES[str(level)]}: {tasks} task{'s' * (tasks > 1)}", loc="left", fontsize=9)
            seeds = panel.groupby([column, "seed"])[["value", "low", "high"]].mean().reset_index()
            cells = {x: combine(g["value"], g["low"], g["high"], str(metric)) for x, g in seeds.groupby(column)}
            order = sorted(cells, key=lambda x: cells[x].value, reverse=metric == "mse")
            for place, name in enumerate(order):
                cell, mine = cells[name], seeds[seeds[column] == name]
                bar = [[cell.value - cell.low], [cell.high - cell.value]]
                ax.errorbar(cell.value, place, xerr=bar, color=OKABE_ITO[0], marker="o", ms=5, lw=1.5, capsize=2)
                ax.scatter(mine["value"], [place] * len(mine), color=OKABE_ITO[0], s=7, alpha=0.45, linewidths=0)
            ax.set_yticks(range(len(order)), [str(name) for name in order])
            ax.set_xlabel(_worded(str(metric)))
            ax.grid(axis="x", color="0.9", linewidth=0.6)
            ax.set_axisbelow(True)
        return _save(figure, Path(path))


def _draw(ax: Axes, panel: pd.DataFrame, spaces: list[str]) -> None:
    for index, space in enumerate(spaces):
        mine = panel[panel["space"] == space]
        if mine.empty:
            continue
        seeds = mine.groupby(["factor", "seed"])[["value", "low", "high"]].mean().reset_index()
        metric = str(panel["metric"].iloc[0])
        cells = {x: combine(g["value"], g["low"], g["high"], metric) for x, g in seeds.groupby("factor")}
        colour, marker = OKABE_ITO[index % len(OKABE_ITO)], _MARKERS[index % len(_MARKERS)]
        places = [float(str(x)) * 1.03 ** (index - (len(spaces) - 1) / 2) for x in cells]
        means = [c.value for c in cells.values()]
        bars = [[c.value - c.low for c in cells.values()], [c.high - c.value for c in cells.values()]]
        ax.errorbar(places, means, yerr=bars, color=colour, marker=marker, ms=5, lw=1.5, capsize=2, label=space)
        ax.scatter(seeds["factor"], seeds["value"], color=colour, s=7, alpha=0.45, linewidths=0, zorder=3)


def _label(ax: Axes, ticks: list[float], label: str, metric: str, log: bool) -> None:
    if log and ticks and ticks[0] > 0:
        ax.set_xscale("log")
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.minorticks_off()
    ax.set_xticks(ticks, [f"{x:.3g}" for x in ticks])
    ax.set_xlabel(label)
    ax.set_ylabel(metric)
    ax.grid(axis="y", color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)


def _worded(metric: str) -> str:
    return {"mse": "mean squared error (lower is better)", "f1": "F1", "macro_recall": "macro recall"}.get(
        metric, metric
    )


def _save(figure: Figure, path: Path) -> list[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path.with_name(f"{path.name}.{kind}") for kind in ("svg", "png")]
    plain: dict[str, Any] = {"svg": {"metadata": {"Date": None}}, "png": {"dpi": 160}}
    for file in files:
        figure.savefig(file, **plain[file.suffix[1:]])
    return files
