"""Scores of many runs become one table: a row a method and its settings, a column a task and space.

A cell is the mean over seeds and a 95 % interval that holds both doubts: t from the spread between seeds, which
shrinks with more of them, and the bootstrap over test recordings, which all seeds share and which does not.
The two are added in quadrature. With one seed the interval is that of the recordings alone, and the row says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t

from ethoray.schema import Card

_PARTS = ("method", "data", "budget")
_RANGE = {"f1": (0.0, 1.0), "macro_recall": (0.0, 1.0), "mse": (0.0, np.inf)}
_ASIDE = ("data.dataset", "data.stream", "budget.log_every", "budget.save_every", "budget.device", "budget.compile")


def collect(folders: Iterable[str | Path], card: Card | None = None) -> pd.DataFrame:
    """Every score of every finished run folder, one row each; unfinished folders are left out.

    Columns: key, seed, method, settings (dotted: "method.kernel"), score ("task/space"), task, space, metric,
    level ("frame" or "recording" when the card is given), value, low, high, train_seconds, monitors, commit, dirty.
    """
    rows = [row for folder in folders for row in _rows(Path(folder), card)]
    return pd.DataFrame(rows)


def _rows(folder: Path, card: Card | None) -> Iterable[dict[str, Any]]:
    if not (folder / "scores.json").exists():
        return
    document, scores = _json(folder / "experiment.json"), _json(folder / "scores.json")
    origin = _json(folder / "provenance.json") if (folder / "provenance.json").exists() else {}
    levels = {task.name: task.level for task in card.tasks} if card else {}
    fixed = {
        "key": folder.name,
        "seed": document["seed"],
        "method": document["method"]["name"],
        "train_seconds": scores.get("cost", {}).get("train_seconds"),
        "monitors": scores.get("monitors", {}),
        "commit": origin.get("commit"),
        "dirty": origin.get("dirty"),
        **_settings(document),
    }
    for name, value in scores["scores"].items():
        what = scores.get("tasks", {}).get(name) or {"task": name.rpartition("/")[0], "space": name.rpartition("/")[2]}
        low, high = scores["intervals"].get(name, (np.nan, np.nan))
        yield {
            **fixed,
            "score": name,
            "task": what["task"],
            "space": what["space"],
            "metric": what.get("metric", "f1"),
            "level": levels.get(what["task"]),
            "value": float(value),
            "low": float(low),
            "high": float(high),
        }


def _settings(document: Mapping[str, Any]) -> dict[str, Any]:
    flat = {f"{part}.{k}": v for part in _PARTS for k, v in document.get(part, {}).items()}
    flat = {name: v for name, v in flat.items() if name != "method.name" and name not in _ASIDE}
    flat.setdefault("budget.precision", "float32")  # runs from before it was a choice
    return {name: tuple(v) if isinstance(v, list) else v for name, v in flat.items()}


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
    lowest, highest = _RANGE.get(metric, (-np.inf, np.inf))
    return Cell(mean, float(np.maximum(mean - half, lowest)), float(np.minimum(mean + half, highest)), seeds)


@dataclass(frozen=True)
class Leaderboard:
    """Rows ranked by their mean place over the scores that all of them have, best first.

    Attributes
    ----------
    settings: names of the settings that differ between rows.
    scores: names of the score columns, "task/space".
    rows: method, settings, rank, notes, a ``Cell`` a score, and the mean of each monitor ("short/rank").
    """

    settings: tuple[str, ...]
    scores: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]

    def frame(self) -> pd.DataFrame:
        """Numbers to compute with: the value, low and high of every score in columns of their own."""
        return pd.DataFrame([self._flat(row) for row in self.rows])

    def csv(self) -> str:
        """The frame as csv; text that a spreadsheet would run as a formula is quoted."""
        return self.frame().map(_inert).to_csv(index=False)

    def markdown(self) -> str:
        """A table to read: a column a candidate, best first, and a line a score, whose best value is bold."""
        best = {score: min((row["place"].get(score, np.inf) for row in self.rows), default=1) for score in self.scores}
        lines = [["", *(row["method"] for row in self.rows)]]
        lines.append(["---"] * len(lines[0]))
        for name in self.settings:
            lines.append([name.rpartition(".")[2], *(_listed(row["settings"].get(name, "")) for row in self.rows)])
        lines.append(["seeds", *(str(row["seeds"]) for row in self.rows)])
        lines.append(["mean place", *(f"{row['rank']:.1f}" for row in self.rows)])
        if any(row["notes"] for row in self.rows):
            lines.append(["note", *(row["notes"] for row in self.rows)])
        for kind in sorted({name.rpartition("/")[2] for row in self.rows for name in row["monitors"]}):
            lines.append([kind.replace("_", " "), *(_watched(row["monitors"], kind) for row in self.rows)])
        for score in sorted(self.scores, key=lambda score: score.rpartition("/")[2]):
            lines.append([score, *(_shown(row, score, best[score]) for row in self.rows)])
        widths = [max(len(line[column]) for line in lines if line[0] != "---") for column in range(len(lines[0]))]
        return "".join(
            "| " + " | ".join(_cell(c, w) for c, w in zip(line, widths, strict=True)) + " |\n" for line in lines
        )

    def _flat(self, row: dict[str, Any]) -> dict[str, Any]:
        flat = {"rank": row["rank"], "method": row["method"], **{n: row["settings"].get(n) for n in self.settings}}
        flat["seeds"] = row["seeds"]
        for score, cell in row["cells"].items():
            flat |= {score: cell.value, f"{score} low": cell.low, f"{score} high": cell.high}
        flat |= {f"monitor {name}": value for name, value in row["monitors"].items()}
        return {k: str(v) if isinstance(v, tuple) else v for k, v in flat.items()} | {"notes": row["notes"]}


def leaderboard(scores: pd.DataFrame) -> Leaderboard:
    """Rank what ``collect`` gave; runs that differ in nothing but the seed share a row.

    Where methods meet, the one space of a method that has no more stands beside "all" of the others.
    """
    if scores.empty:
        return Leaderboard((), (), ())
    if scores["method"].nunique() > 1:
        scores = _comparable(scores)
    settings = [name for name in scores.columns if name.partition(".")[0] in _PARTS and "." in name]
    worded = scores[["method", *settings]].map(str)  # a setting that a method does not have is "nan"
    identity = worded.agg("\x1f".join, axis=1)
    names = tuple(dict.fromkeys(scores["score"]))
    better = {n: -1 if m == "mse" else 1 for n, m in zip(scores["score"], scores["metric"], strict=True)}
    differing = tuple(name for name in settings if worded.groupby("method")[name].nunique().max() > 1)
    rows = [_row(group, settings, names) for _, group in scores.groupby(identity.to_numpy(), sort=False)]
    for name in names:
        worth = pd.Series({i: better[name] * r["cells"][name].value for i, r in enumerate(rows) if name in r["cells"]})
        for i, place in worth.rank(ascending=False).items():
            rows[int(str(i))]["place"][name] = place
    everybody = {name for name in names if all(name in row["cells"] for row in rows)}
    for row in rows:
        places = [place for name, place in row["place"].items() if name in everybody or not everybody]
        row["rank"] = float(np.mean(places)) if places else np.nan
    rows.sort(key=lambda row: (np.isnan(row["rank"]), row["rank"]))
    return Leaderboard(differing, names, tuple(rows))


def _comparable(scores: pd.DataFrame) -> pd.DataFrame:
    alone = scores.groupby("method")["space"].transform("nunique") == 1
    named = scores["score"].where(~alone, scores["task"] + "/all")
    return scores.assign(score=named, space=scores["space"].where(~alone, "all"))


def _row(group: pd.DataFrame, settings: list[str], names: tuple[str, ...]) -> dict[str, Any]:
    first, cells = group.iloc[0], {}
    for name in names:
        mine = group[(group["score"] == name) & np.isfinite(group["value"])].drop_duplicates("seed")
        if len(mine):
            cells[name] = combine(mine["value"], mine["low"], mine["high"], mine["metric"].iloc[0])
    seeds = int(group["seed"].nunique())
    doubts = []
    if seeds < 3:
        doubts.append(f"only {seeds} seed{'s' * (seeds > 1)}")
    if any(value is True or value == 1 for value in group["dirty"]):
        doubts.append("uncommitted changes")
    if group["commit"].isna().any():
        doubts.append("no commit")
    return {
        "method": str(first["method"]),
        "settings": {name: first[name] for name in settings},
        "seeds": seeds,
        "cells": cells,
        "place": {},
        "monitors": _means(group.drop_duplicates("seed")["monitors"]) if "monitors" in group else {},
        "notes": ", ".join(doubts),
    }


def _means(each: Iterable[Mapping[str, float]]) -> dict[str, float]:
    frame = pd.DataFrame(list(each))
    return {str(name): float(value) for name, value in frame.mean().items()}


def _watched(monitors: Mapping[str, float], kind: str) -> str:
    """The values of one kind, by space where there are several: "short 8.8, long 14"."""
    mine = {name.rpartition("/")[0]: value for name, value in monitors.items() if name.rpartition("/")[2] == kind}
    return ", ".join(f"{space} {value:.3g}".strip() for space, value in mine.items()) or "–"


def _shown(row: dict[str, Any], score: str, best: float) -> str:
    cell = row["cells"].get(score)
    if cell is None:
        return "–"
    return f"**{cell}**" if row["place"][score] == best else str(cell)


def _cell(text: str, width: int) -> str:
    return "-" * width if text == "---" else text.replace("|", "\\|").ljust(width)


def _listed(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return "" if isinstance(value, float) and np.isnan(value) else str(value)


def _inert(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))
