"""Scores of many runs become one table: a row a method and its settings, a column a task and space.

A cell is the mean over seeds and a 95 % interval that holds both doubts: t from the spread between seeds, which
shrinks with more of them, and the bootstrap over test recordings, which all seeds share and which does not.
The two are added in quadrature. With one seed the interval is that of the recordings alone, and the row says so.
The best of a column and all that are not worse at 5 %, corrected for every comparison in the table, are bold.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ethoray import metrics, tallies
from ethoray.comparison import ComparisonError, Difference, difference, holm
from ethoray.schema import Card
from ethoray.tables import COSTS, Leaderboard, combine

_PARTS = ("method", "data", "budget")
_ASIDE = ("data.dataset", "data.stream", "budget.log_every", "budget.save_every", "budget.device", "budget.compile")


def collect(
    folders: Iterable[str | Path], card: Card | None = None, called: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Every score of every finished run folder, one row each; unfinished folders are left out.

    ``called`` are words for runs by their key, such as what a sweep drew for them: rows of a leaderboard are named so.

    Columns: key, seed, method, called, settings (dotted: "method.kernel"), score ("task/space"), task, space, metric,
    level ("frame" or "recording" when the card is given), value, low, high, train_seconds, cost, monitors, commit,
    dirty, folder.
    """
    rows = [row for folder in folders for row in _rows(Path(folder), card, called or {})]
    return pd.DataFrame(rows)


def _rows(folder: Path, card: Card | None, called: Mapping[str, str]) -> Iterable[dict[str, Any]]:
    if not (folder / "scores.json").exists():
        return
    document, scores = _json(folder / "experiment.json"), _json(folder / "scores.json")
    origin = _json(folder / "provenance.json") if (folder / "provenance.json").exists() else {}
    levels = {task.name: task.level for task in card.tasks} if card else {}
    fixed = {
        "key": folder.name,
        "seed": document["seed"],
        "method": document["method"]["name"],
        "called": called.get(folder.name, ""),
        "folder": str(folder),
        "train_seconds": scores.get("cost", {}).get("train_seconds"),
        "cost": {name: v for name, v in scores.get("cost", {}).items() if name in COSTS},
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
    lower = metrics.LOWER_IS_BETTER
    better = {n: -1 if m in lower else 1 for n, m in zip(scores["score"], scores["metric"], strict=True)}
    differing = tuple(name for name in settings if worded.groupby("method")[name].nunique().max() > 1)
    rows = [_row(group, settings, names) for _, group in scores.groupby(identity.to_numpy(), sort=False)]
    shared = Counter((row["method"], row["called"]) for row in rows)
    for row in rows:
        if shared[row["method"], row["called"]] > 1:
            row["called"] = ""  # numbers that differ in their last digits only: the settings tell them apart
    for name in names:
        worth = pd.Series({i: better[name] * r["cells"][name].value for i, r in enumerate(rows) if name in r["cells"]})
        for i, place in worth.rank(ascending=False).items():
            rows[int(str(i))]["place"][name] = place
    everybody = {name for name in names if all(name in row["cells"] for row in rows)}
    for row in rows:
        places = [place for name, place in row["place"].items() if name in everybody or not everybody]
        row["rank"] = float(np.mean(places)) if places else np.nan
    rows.sort(key=lambda row: (np.isnan(row["rank"]), row["rank"]))
    _compare(rows, names)
    for row in rows:
        row["pareto"] = not any(_dominates(other, row) for other in rows)
    return Leaderboard(differing, names, tuple(rows))


def _compare(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    """Every row against the best of each score; rows whose recordings cannot be paired are not compared."""
    held = [[tallies.read(folder) for folder in row["folders"]] for row in rows]
    found: dict[tuple[int, str], Difference] = {}
    for name in names:
        placed = [i for i, row in enumerate(rows) if name in row["place"]]
        if len(placed) < 2:  # nobody to be better than
            continue
        best = min(placed, key=lambda i: rows[i]["place"][name])
        for i in placed:
            mine, theirs = ([seed.get(rows[k]["names"].get(name, name)) for seed in held[k]] for k in (i, best))
            if i != best and mine and theirs and None not in (*mine, *theirs):
                with suppress(ComparisonError):
                    found[i, name] = difference(mine, theirs)  # type: ignore[arg-type]
        rows[best]["ties"].add(name)
    corrected = holm({key: apart.p for key, apart in found.items()})
    for (i, name), apart in found.items():
        rows[i]["against"][name] = apart, corrected[i, name]
        if corrected[i, name] >= 0.05:
            rows[i]["ties"].add(name)


def _dominates(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Cheaper to train and better placed, or as good in one of the two."""
    (a, b), (c, d) = ((r["cost"].get("train_seconds", np.nan), r["rank"]) for r in (one, other))
    return bool(a <= c and b <= d and (a, b) != (c, d))


def _comparable(scores: pd.DataFrame) -> pd.DataFrame:
    parts = scores["space"].str.partition("@")  # "zq@knn" is the space "zq", read by another probe
    alone = parts[0].groupby(scores["method"]).transform("nunique") == 1
    space = scores["space"].where(~alone, "all" + parts[1] + parts[2])
    return scores.assign(own=scores["score"], score=scores["task"] + "/" + space, space=space)


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
        "called": str(first.get("called", "")),
        "settings": {name: first[name] for name in settings},
        "seeds": seeds,
        "cells": cells,
        "place": {},
        "names": dict(zip(group["score"], group["own"], strict=True)) if "own" in group else {},
        "folders": list(group.drop_duplicates("seed")["folder"]) if "folder" in group else [],
        "against": {},
        "ties": set(),
        "cost": _means(group.drop_duplicates("seed")["cost"]) if "cost" in group else {},
        "monitors": _means(group.drop_duplicates("seed")["monitors"]) if "monitors" in group else {},
        "notes": ", ".join(doubts),
    }


def _means(each: Iterable[Mapping[str, float]]) -> dict[str, float]:
    frame = pd.DataFrame(list(each))
    return {str(name): float(value) for name, value in frame.mean().items()}


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))
