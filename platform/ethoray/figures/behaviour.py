"""Labels as figures: ethograms of people and probes, and confusion matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline

from ethoray.figures.style import GREY, FigureError, bare, colour, save, sheet, shown, style

_COLUMNS = 5


def bouts(values: np.ndarray) -> list[tuple[int, int, int]]:
    """Runs of equal values as (first, one past the last, value), in order; NaN and what is negative are gaps."""
    values = np.asarray(values, dtype=np.float64)
    if not len(values):
        return []
    whole = np.where(np.isfinite(values), values, -1).astype(int)
    edges = np.flatnonzero(np.diff(whole)) + 1
    starts, stops = [0, *edges.tolist()], [*edges.tolist(), len(whole)]
    return [(a, b, int(whole[a])) for a, b in zip(starts, stops, strict=True) if whole[a] >= 0]


def _bars(ax: Axes, spans: Sequence[tuple[float, float]], y: float, **how: Any) -> None:
    """Bars from a time to a time at a height, all of them one outline: a file with a thousand bouts stays small."""
    corners = [[(a, y - 0.4), (a, y + 0.4), (b, y + 0.4), (b, y - 0.4), (a, y - 0.4)] for a, b in spans]
    if corners:
        outline = Outline.make_compound_path(*(Outline(c, closed=True) for c in corners))
        ax.add_patch(PathPatch(outline, **how))


def ethogram(
    tracks: Mapping[str, Mapping[str, np.ndarray]],
    fps: float,
    path: str | Path,
    classes: Mapping[str, Sequence[str]] | None = None,
) -> list[Path]:
    """Who saw which behaviour when: for every task a line an observer, people and probes; SVG and PNG.

    Parameters
    ----------
    tracks: by task, by observer ("labelled", "predicted"), class indices (time,), NaN unlabelled. Class 0 of a task
        without ``classes``, or with two, is its absence and is not drawn; where nobody labelled is hatched.
    fps: frames a second.
    classes: names by task, for the legend.
    """
    lines = [(task, who, np.asarray(v)) for task, seen in tracks.items() for who, v in seen.items()]
    if not lines:
        raise FigureError("an ethogram needs at least one track of labels")
    named: dict[str, str] = {}
    with style():
        figure, axes = sheet(8.0, 0.7 + 0.2 * len(lines) + 0.12 * len(tracks))
        ax, y, ticks = axes[0, 0], 0.0, []
        for task, seen in tracks.items():
            names = (classes or {}).get(task) or ("", "")
            for shift, (who, values) in enumerate(seen.items()):
                seen_as: dict[str, list[tuple[float, float]]] = {}
                for first, last, value in bouts(values):
                    if len(names) == 2 and value == 0:
                        continue
                    mine = colour(shift) if len(names) == 2 else colour(value)
                    seen_as.setdefault(mine, []).append((first / fps, last / fps))
                    if len(names) > 2:
                        named[shown(names[value])] = mine
                gaps = np.where(np.isfinite(np.asarray(values, dtype=float)), np.nan, 1)
                unseen = [(a / fps, b / fps) for a, b, _ in bouts(gaps)]
                for mine, spans in seen_as.items():
                    _bars(ax, spans, y, color=mine, linewidth=0)
                _bars(ax, unseen, y, facecolor="none", edgecolor=GREY, hatch="////", linewidth=0)
                ticks.append((y, f"{shown(task) if shift == 0 else ''}  {shown(who)}"))
                y += 1
            y += 0.5
        ax.set_yticks([at for at, _ in ticks], [text for _, text in ticks], fontsize=7)
        ax.set(ylim=(y - 0.4, -0.8), xlim=(0, max(len(v) for *_, v in lines) / fps), xlabel="time (s)")
        ax.spines["left"].set_visible(False)
        ax.tick_params(axis="y", length=0)
        for name, mine in named.items():
            ax.plot([], [], lw=5, color=mine, label=name)
        if named:
            figure.legend(fontsize=7, frameon=False, loc="outside right upper")
        return save(figure, path)


def confusions(tables: Mapping[str, tuple[np.ndarray, Sequence[str]]], path: str | Path) -> list[Path]:
    """Confusion matrices (true class, predicted class), counts, a panel a task: shares of each true class; SVG and PNG.

    A row without a single frame is left white: the class did not occur.
    """
    columns = max(1, min(_COLUMNS, len(tables)))
    rows = -(-max(len(tables), 1) // columns)
    most = max((len(names) for _, names in tables.values()), default=2)
    side = 1.45 if most <= 2 else 2.0 + 0.16 * most
    with style():
        figure, axes = sheet(side * columns + 0.4, (side + 0.35) * rows, rows, columns)
        for ax in axes.flat:
            bare(ax)
        for ax, (task, (table, names)) in zip(axes.flat, tables.items(), strict=False):
            share = shares(table)
            ax.imshow(np.ma.masked_invalid(share), cmap="Blues", vmin=0, vmax=1)
            for i, j in np.argwhere(np.isfinite(share)) if len(names) <= 8 else ():
                ax.text(j, i, f"{share[i, j]:.2f}".lstrip("0") if share[i, j] < 1 else "1", ha="center", va="center",
                        fontsize=7, color="white" if share[i, j] > 0.55 else "black")  # fmt: skip
            words = [shown(name) for name in names]
            ax.set_xticks(range(len(words)), words, fontsize=6, rotation=0 if most <= 2 else 90)
            ax.set_yticks(range(len(words)), words, fontsize=6)
            ax.tick_params(length=0)
            ax.set_title(shown(task), fontsize=8)
        figure.supxlabel("predicted", fontsize=8)
        figure.supylabel("true", fontsize=8)
        return save(figure, path)


def shares(table: np.ndarray) -> np.ndarray:
    """Rows of counts as shares of their sum, NaN where there is nothing."""
    table = np.asarray(table, dtype=np.float64)
    total = table.sum(1, keepdims=True)
    return np.divide(table, total, out=np.full_like(table, np.nan), where=total > 0)
