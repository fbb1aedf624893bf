"""Scores as figures: against a factor, by method, against cost, against the number of labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from ethoray.figures.style import MARKERS, OKABE_ITO, colour, logarithmic, save, sheet, shown, style, worded
from ethoray.metrics import LOWER_IS_BETTER
from ethoray.tables import combine

_TITLES = {"frame": "frame-level", "recording": "recording-level", "": "all"}


def whole(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores of each run's space "all", all its spaces together, or of its only one."""
    own = scores["space"].str.partition("@")[0]  # "all@knn" is "all", read by another probe
    several = own.groupby(scores["key"]).transform("nunique") > 1
    return scores[~several | (own == "all")]


def score_against(
    scores: pd.DataFrame, factor: Callable[[pd.Series], float], label: str, path: str | Path, *, log: bool = True,
    line: str = "space",
) -> list[Path]:  # fmt: skip
    """Mean score against a factor, one panel a task level and metric, one line a space; SVG and PNG.

    Parameters
    ----------
    scores: what ``leaderboard.collect`` gave.
    factor: the horizontal position of a run, from its row.
    label: of the horizontal axis, with its unit.
    path: without a suffix.
    line: the column whose values have lines of their own; where spaces of methods meet, "method" of ``whole`` scores.

    A point averages the panel's tasks within a seed, then seeds; its bar is the 95 % interval of the leaderboard.
    Thin dots are single seeds. Returns the two files.
    """
    placed = [factor(row) for _, row in scores.iterrows()]
    table = scores.assign(factor=placed, level=scores["level"].fillna(""), space=scores[line])
    panels = list(table.groupby(["level", "metric"], sort=True))
    with style():
        figure = Figure(figsize=(3.4 * max(len(panels), 1) + 0.6, 3.2), layout="constrained")
        axes = figure.subplots(1, max(len(panels), 1), squeeze=False)[0]
        for ax, ((level, metric), panel) in zip(axes, panels, strict=False):
            tasks = panel["task"].nunique()
            ax.set_title(f"{_TITLES[str(level)]}: {tasks} task{'s' * (tasks > 1)}", loc="left", fontsize=9)
            _draw(ax, panel, sorted(table["space"].unique()))
            _label(ax, sorted(table["factor"].unique()), label, worded(str(metric)), log)
        handles, names = axes[0].get_legend_handles_labels()
        if len(names):
            figure.legend(handles, names, title=line, loc="outside right center", frameon=False)
        return save(figure, Path(path))


def score_by(scores: pd.DataFrame, column: str, path: str | Path) -> list[Path]:
    """Mean score of the runs that share a column's value, one panel a task level and metric; SVG and PNG.

    Of a run with several spaces all of them together are shown. A point averages the panel's tasks within a seed, then
    seeds; its bar is the 95 % interval of the leaderboard, thin dots are single seeds. Best on top, in the
    order of the first panel.
    """
    table = whole(scores[~scores["space"].str.contains("@")]).assign(level=lambda t: t["level"].fillna(""))
    panels, places = list(table.groupby(["level", "metric"], sort=True)), dict[object, int]()
    with style():
        height = 0.9 + 0.26 * table[column].nunique()
        names = 0.08 * max(len(shown(name)) for name in table[column])
        figure = Figure(figsize=(2.6 * max(len(panels), 1) + names, height), layout="constrained")
        axes = figure.subplots(1, max(len(panels), 1), squeeze=False, sharey=True)[0]
        for ax, ((level, metric), panel) in zip(axes, panels, strict=False):
            tasks = panel["task"].nunique()
            ax.set_title(f"{_TITLES[str(level)]}: {tasks} task{'s' * (tasks > 1)}", loc="left", fontsize=9)
            seeds = panel.groupby([column, "seed"])[["value", "low", "high"]].mean().reset_index()
            cells = {x: combine(g["value"], g["low"], g["high"], str(metric)) for x, g in seeds.groupby(column)}
            for name in sorted(cells, key=lambda x: cells[x].value, reverse=metric not in LOWER_IS_BETTER):
                place = places.setdefault(name, -len(places))
                cell, mine = cells[name], seeds[seeds[column] == name]
                bar = [[cell.value - cell.low], [cell.high - cell.value]]
                ax.errorbar(cell.value, place, xerr=bar, color=OKABE_ITO[0], marker="o", ms=5, lw=1.5, capsize=2)
                ax.scatter(mine["value"], [place] * len(mine), color=OKABE_ITO[0], s=7, alpha=0.45, linewidths=0)
            ax.set_xlabel(worded(str(metric)))
            ax.grid(axis="x", color="0.9", linewidth=0.6)
            ax.set_axisbelow(True)
        axes[0].set_yticks([*places.values()], [shown(name) for name in places])
        return save(figure, Path(path))


def _draw(ax: Axes, panel: pd.DataFrame, spaces: list[str]) -> None:
    for index, space in enumerate(spaces):
        mine = panel[panel["space"] == space]
        if mine.empty:
            continue
        seeds = mine.groupby(["factor", "seed"])[["value", "low", "high"]].mean().reset_index()
        metric = str(panel["metric"].iloc[0])
        cells = {x: combine(g["value"], g["low"], g["high"], metric) for x, g in seeds.groupby("factor")}
        colour, marker = OKABE_ITO[index % len(OKABE_ITO)], MARKERS[index % len(MARKERS)]
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


def pareto(
    names: Sequence[str], costs: Sequence[float], places: Sequence[float], label: str, path: str | Path
) -> list[Path]:
    """Mean place on the leaderboard (1 is best, on top) against cost, on a logarithmic axis; SVG and PNG.

    Those that nobody beats in both are joined by a line and filled; the others are hollow. Rows without a finite
    place, or without a cost above zero, are left out and counted in the title.
    """
    known = [i for i in range(len(names)) if np.isfinite(places[i]) and np.isfinite(costs[i]) and costs[i] > 0]
    best = [i for i in known if not any(_beats(costs, places, j, i) for j in known)]
    with style():
        figure, axes = sheet(5.2, 3.4)
        ax = axes[0, 0]
        for i in known:
            face = colour(0) if i in best else "white"
            ax.plot(costs[i], places[i], "o", ms=7, mfc=face, mec=colour(0))
            ax.annotate(shown(names[i]), (costs[i], places[i]), (6, 3), textcoords="offset points", fontsize=8)
        front = sorted(best, key=lambda i: costs[i])
        ax.plot([costs[i] for i in front], [places[i] for i in front], lw=1, color=colour(0), zorder=0)
        left_out = len(names) - len(known)
        ax.set_title(f"{left_out} without a known cost left out" if left_out else "", loc="left", fontsize=8)
        ax.invert_yaxis()
        ax.margins(x=0.15, y=0.12)
        if known:
            logarithmic(ax.xaxis)
        ax.set(xlabel=label, ylabel="mean place (1 is best)")
        ax.grid(color="0.92", linewidth=0.6)
        return save(figure, path)


def label_budget(scores: pd.DataFrame, path: str | Path, line: str = "method") -> list[Path]:
    """Score against how many labelled recordings the probe was given, a line a method; SVG and PNG.

    ``scores`` has the columns budget (labelled recordings), seed, task, metric, value, low, high and ``line``. One
    panel a metric; points and bars are those of ``score_against``.
    """
    panels = list(scores.groupby("metric", sort=True))
    with style():
        figure, axes = sheet(3.6 * max(len(panels), 1) + 1.0, 3.2, columns=max(len(panels), 1))
        for ax, (metric, panel) in zip(axes[0], panels, strict=False):
            spaced = panel.assign(space=panel[line], factor=panel["budget"].astype(float))
            _draw(ax, spaced, sorted(scores[line].unique()))
            _label(ax, sorted(spaced["factor"].unique()), "labelled recordings", worded(str(metric)), True)
        names = sorted(scores[line].unique())
        handles = [Line2D([], [], color=colour(i), marker=MARKERS[i % len(MARKERS)], ms=5) for i in range(len(names))]
        figure.legend(handles, [shown(name) for name in names], loc="outside right center", frameon=False)
        return save(figure, path)


def _beats(costs: Sequence[float], places: Sequence[float], one: int, other: int) -> bool:
    a, b = (costs[one], places[one]), (costs[other], places[other])
    return a[0] <= b[0] and a[1] <= b[1] and a != b
