"""How every figure looks: colours that colour-blind readers tell apart, text that stays text, files that repeat."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe & Ito (2008), the colours told apart with every common colour blindness; yellow is left out."""
GREY = "#BBBBBB"
"""Of what has no label, and of what stands for everything else."""
MARKERS = "osD^vPX"
SEQUENTIAL, DIVERGING = "cividis", "RdBu_r"
"""Colour maps of amounts, and of values around zero."""

_LETTERS = 32
_METRICS = {
    "f1": "F1",
    "mse": "mean squared error (lower is better)",
    "rmse": "root mean squared error (lower is better)",
    "pixel_error": "pixel error (lower is better)",
    "r2": "R²",
    "nmi": "normalised mutual information",
    "ari": "adjusted Rand index",
    "v_measure": "V-measure",
}
_STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "ethoray",
    "text.parse_math": False,  # a dollar in a label is a dollar
}


class FigureError(ValueError):
    """Something that cannot be drawn; the message says what was expected."""


@contextmanager
def style() -> Iterator[None]:
    """Everything drawn and saved inside looks the same; glyphs that a font lacks are boxes, not warnings."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        yield


def sheet(width: float, height: float, rows: int = 1, columns: int = 1, **how: Any) -> tuple[Figure, np.ndarray]:
    """A figure of so many inches and its axes (row, column)."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **how)


def save(figure: Figure, path: str | Path) -> list[Path]:
    """Write SVG and PNG, whose bytes depend on the figure alone; ``path`` has no suffix. Returns the two files."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _settle(figure)
    files = [path.with_name(f"{path.name}.{kind}") for kind in ("svg", "png")]
    for file in files:
        plain = {"Date": None, "Creator": None} if file.suffix == ".svg" else {"Software": None}
        figure.savefig(file, dpi=100 if file.suffix == ".svg" else 160, metadata=plain)  # an SVG holds pixels of clouds
    return files


def _settle(figure: Figure) -> None:
    """Lay out once, to six digits: the solver's last ones are not the same every time, and would reach the file."""
    engine = figure.get_layout_engine()
    if engine is None:
        return
    engine.execute(figure)
    figure.set_layout_engine("none")
    for ax in figure.axes:
        ax.set_position(np.round(ax.get_position(original=True).bounds, 6).tolist(), which="original")


def shown(name: object) -> str:
    """A name as a figure shows it: one line, not endless, and visible to a legend whatever it begins with."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(name))
    text = text if len(text) <= _LETTERS else text[: _LETTERS - 1] + "…"
    return f" {text}" if text.startswith("_") else text


def colour(index: int) -> str:
    """Of the n-th of several things; after seven they repeat, and shapes have to tell them apart."""
    return OKABE_ITO[index % len(OKABE_ITO)]


def marker(index: int) -> str:
    """The shape of the n-th of several things; with the colour, 49 of them differ."""
    return MARKERS[(index + index // len(OKABE_ITO)) % len(MARKERS)]


def worded(metric: str) -> str:
    """A metric's name for an axis."""
    return _METRICS.get(metric, metric.replace("_", " "))


def key(names: Sequence[object], *, dots: bool = True) -> tuple[list[Line2D], list[str]]:
    """Handles and names of a legend, one a name in the order of ``colour`` and ``marker``."""
    how: list[dict[str, Any]] = [{"marker": marker(i), "lw": 0} if dots else {"lw": 1.5} for i in range(len(names))]
    return [Line2D([], [], color=colour(i), ms=4, **h) for i, h in enumerate(how)], [shown(name) for name in names]


def logarithmic(axis: Axis) -> None:
    """A logarithmic axis whose ticks are plain numbers, at powers of ten and, on short axes, between them."""
    axis.axes.set(**{"xscale" if axis is axis.axes.xaxis else "yscale": "log"})
    low, high = sorted(axis.get_view_interval())
    wide = high > 30 * low
    axis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}" if 1e-3 <= x < 1e6 else f"{x:.0e}"))
    axis.set_minor_formatter(NullFormatter())


def bare(ax: Axes) -> None:
    """Neither ticks nor frame: positions on these axes have no unit."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
