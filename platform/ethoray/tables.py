"""A leaderboard as people read it and as programs do: Markdown, csv, LaTeX, a data frame."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t

from ethoray import metrics

COSTS = {
    "train_seconds": "training (s)",
    "embed_seconds": "embedding and probing (s)",
    "parameters": "parameters",
    "peak_mb": "peak memory (MB)",
}
"""What a run costs, and how tables call it."""


@dataclass(frozen=True)
class Cell:
    """Mean over seeds and its 95 % interval."""

    value: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        if not np.isfinite(self.low):
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def combine(values: Iterable[float], lows: Iterable[float], highs: Iterable[float], metric: str = "") -> Cell:
    """One cell from the scores of several seeds and their intervals over recordings, within the metric's range."""
    value = np.asarray(list(values), dtype=float)
    within = (np.asarray(list(highs), dtype=float) - np.asarray(list(lows), dtype=float)) / 2
    seeds, mean = len(value), float(value.mean())
    recordings = float(np.sqrt(np.mean(within**2)))
    between = float(t.ppf(0.975, seeds - 1) * value.std(ddof=1) / np.sqrt(seeds)) if seeds > 1 else 0.0
    half = float(np.hypot(between, recordings)) if np.isfinite(recordings) else (between if seeds > 1 else np.nan)
    lowest, highest = metrics.RANGES.get(metric, (-np.inf, np.inf))
    return Cell(mean, float(np.maximum(mean - half, lowest)), float(np.minimum(mean + half, highest)), seeds)


@dataclass(frozen=True)
class Leaderboard:
    """Rows ranked by their mean place over the scores that all of them have, best first.

    Attributes
    ----------
    settings: names of the settings that differ between rows.
    scores: names of the score columns, "task/space".
    rows: method, called (what its sweep drew, in words, or nothing), settings, rank, notes, a ``Cell`` a score, the
        mean of each monitor ("short/rank") and of each cost, against: how far a row is behind the best of a score (a
        ``Difference`` and p after Holm), ties: the scores in which it is best or not worse, and pareto: nobody is
        cheaper to train and better placed.
    """

    settings: tuple[str, ...]
    scores: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]

    def name(self, row: Mapping[str, Any]) -> str:
        """A row's method with what tells it from others: how its sweep calls it, or the settings that differ."""
        told = row.get("called") or ", ".join(
            f"{key.rpartition('.')[2]} {_listed(value)}"
            for key in self.settings
            if (value := row["settings"].get(key)) is not None and value == value
        )
        return f"{row['method']} ({told})" if told else str(row["method"])

    def frame(self) -> pd.DataFrame:
        """Numbers to compute with: the value, low and high of every score in columns of their own."""
        return pd.DataFrame([self._flat(row) for row in self.rows])

    def csv(self) -> str:
        """The frame as csv; text that a spreadsheet would run as a formula is quoted."""
        return self.frame().map(_inert).to_csv(index=False)

    def markdown(self) -> str:
        """A table to read: a column a candidate, best first, and a line a score, whose best value is bold."""
        lines = [["", *(self.name(row) if row.get("called") else row["method"] for row in self.rows)]]
        lines.append(["---"] * len(lines[0]))
        for name in self.settings:
            lines.append([name.rpartition(".")[2], *(_listed(row["settings"].get(name, "")) for row in self.rows)])
        lines.append(["seeds", *(str(row["seeds"]) for row in self.rows)])
        lines.append(["mean place", *(f"{row['rank']:.1f}" for row in self.rows)])
        if any(row["notes"] for row in self.rows):
            lines.append(["note", *(row["notes"] for row in self.rows)])
        for name, words in COSTS.items():
            if any(name in row["cost"] for row in self.rows):
                lines.append([words, *(number(row["cost"].get(name)) for row in self.rows)])
        if len(self.rows) > 2 and any(row["cost"] for row in self.rows):
            lines.append(["cheapest at its place", *("yes" if row["pareto"] else "" for row in self.rows)])
        for kind in sorted({name.rpartition("/")[2] for row in self.rows for name in row["monitors"]}):
            lines.append([kind.replace("_", " "), *(_watched(row["monitors"], kind) for row in self.rows)])
        for score in sorted(self.scores, key=lambda score: score.rpartition("/")[2]):
            lines.append([score, *(_shown(row, score) for row in self.rows)])
        widths = [max(len(line[column]) for line in lines if line[0] != "---") for column in range(len(lines[0]))]
        return "".join(
            "| " + " | ".join(_cell(c, w) for c, w in zip(line, widths, strict=True)) + " |\n" for line in lines
        )

    def latex(self) -> str:
        """The table of ``markdown`` without its notes, for a paper: booktabs, best and ties in bold."""
        lines = [[_tex(self.name(row)) for row in self.rows]]
        body = []
        for name in sorted(self.scores, key=lambda score: score.rpartition("/")[2]):
            cells = [_shown(row, name) for row in self.rows]
            body.append([_tex(name), *(re.sub(r"^\*\*(.*)\*\*$", r"\\textbf{\1}", cell) for cell in cells)])
        rows = [" & ".join(line) + r" \\" for line in ([["", *lines[0]], *body])]
        columns = "l" + "r" * len(self.rows)
        top = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", rows[0], r"\midrule"]
        return "\n".join([*top, *rows[1:], r"\bottomrule", r"\end{tabular}", ""])

    def _flat(self, row: dict[str, Any]) -> dict[str, Any]:
        flat = {"rank": row["rank"], "method": row["method"], **{n: row["settings"].get(n) for n in self.settings}}
        flat["seeds"] = row["seeds"]
        for score, cell in row["cells"].items():
            flat |= {score: cell.value, f"{score} low": cell.low, f"{score} high": cell.high}
            if score in row["against"]:
                flat[f"{score} p"] = row["against"][score][1]
        flat |= {f"cost {name}": value for name, value in row["cost"].items()} | {"pareto": row["pareto"]}
        flat |= {f"monitor {name}": value for name, value in row["monitors"].items()}
        return {k: str(v) if isinstance(v, tuple) else v for k, v in flat.items()} | {"notes": row["notes"]}


def _watched(monitors: Mapping[str, float], kind: str) -> str:
    """The values of one kind, by space where there are several: "short 8.8, long 14"."""
    mine = {name.rpartition("/")[0]: value for name, value in monitors.items() if name.rpartition("/")[2] == kind}
    return ", ".join(f"{space} {value:.3g}".strip() for space, value in mine.items()) or "–"


def _shown(row: dict[str, Any], score: str) -> str:
    cell = row["cells"].get(score)
    if cell is None:
        return "–"
    return f"**{cell}**" if score in row["ties"] else str(cell)


def _tex(text: str) -> str:
    """Text in which TeX finds nothing to do."""
    return (
        re.sub(r"([#$%&_{}])", r"\\\1", text.replace("\\", "/"))
        .replace("~", r"\textasciitilde{}")
        .replace("^", r"\^{}")
    )


def number(value: float | None) -> str:
    """A cost as tables show it: three digits, all of them from a hundred on, a dash where it is not known."""
    return "–" if value is None or value != value else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _cell(text: str, width: int) -> str:
    return "-" * width if text == "---" else text.replace("|", "\\|").ljust(width)


def _listed(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "" if isinstance(value, float) and np.isnan(value) else str(value)


def _inert(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
