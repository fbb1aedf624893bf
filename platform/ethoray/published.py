"""Scores that papers and slides report, kept beside ours and never mixed with them.

published.csv holds them as printed: source, table, dataset, name (theirs), method and space (ours, where there is one),
task, metric, value and a note. F1 and shares are fractions. Rows of a paper may have been trained on other data than
ours; the note says so where the paper does.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import pandas as pd

from ethoray.tables import Leaderboard


@cache
def _everything() -> pd.DataFrame:
    with (files("ethoray") / "published.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, dtype={"table": str}, keep_default_na=False)


def figures(dataset: str) -> pd.DataFrame:
    """What is published on a dataset of this name; empty when nothing is."""
    everything = _everything()
    return everything[everything["dataset"] == dataset].reset_index(drop=True)


def beside(board: Leaderboard, dataset: str) -> pd.DataFrame:
    """Published scores of tasks that the leaderboard has, with ours of the same method and space and the difference.

    Columns of ``figures`` and ours, low, high, seeds (NaN where we have no such row) and difference, ours less
    theirs. Of several rows of a method the best placed one stands for it.
    """
    ours: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in board.rows:
        for name, cell in row["cells"].items():
            task, _, space = name.rpartition("/")
            found = {"ours": cell.value, "low": cell.low, "high": cell.high, "seeds": cell.seeds}
            ours.setdefault((row["method"], task, space), found)
    tasks = {task for _, task, _ in ours}
    theirs = figures(dataset)
    theirs = theirs[theirs["task"].isin(tasks)].reset_index(drop=True)
    keys = zip(theirs["method"], theirs["task"], theirs["space"], strict=True)
    mine = pd.DataFrame([ours.get(key, {}) for key in keys], columns=["ours", "low", "high", "seeds"], dtype=float)
    table = pd.concat([theirs, mine], axis=1)
    return table.assign(difference=table["ours"] - table["value"])


def markdown(table: pd.DataFrame) -> str:
    """``beside`` as a table to read: a row a published method, a column a task, "published" in every row's name."""
    if table.empty:
        return ""
    tasks = list(dict.fromkeys(table["task"]))
    lines = [["published", *tasks], ["---"] * (len(tasks) + 1)]
    for (source, name), group in table.groupby(["source", "name"], sort=False):
        cells = {row["task"]: _cell(row) for _, row in group.iterrows()}
        lines.append([f"{name} ({source}, published)", *(cells.get(task, "–") for task in tasks)])
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _cell(row: pd.Series) -> str:
    return f"{row['value']:g}" + ("" if pd.isna(row["difference"]) else f" (ours {row['difference']:+.3g})")
