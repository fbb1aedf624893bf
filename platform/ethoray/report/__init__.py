"""One question, one page: what was asked, the verdict, the table, the figures, and the command that made them.

As Markdown and csv, and as one HTML file that needs no network: open it anywhere, print it, click on a moment.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ethoray import published, store
from ethoray.dataset import Dataset
from ethoray.files import StoreError
from ethoray.leaderboard import leaderboard
from ethoray.report import stamp
from ethoray.report.verdict import doubts, verdict
from ethoray.schema import Card
from ethoray.tables import Leaderboard

__all__ = ["page"]

FIGURES = "figures"
"""The folder beside a page that holds its figures as SVG and PNG."""


def page(
    folder: Path, title: str, question: str, scores: pd.DataFrame, card: Card, command: Sequence[str],
    pictures: Sequence[Path] = (), *, look: bool = True, board: Leaderboard | None = None,
) -> list[Path]:  # fmt: skip
    """Write leaderboard.md, .csv and .html, scores.csv and figures/ under ``folder``; returns the files.

    Parameters
    ----------
    title, question: head the page; the question may have paragraphs.
    scores: what ``leaderboard.collect`` gave.
    card: of the dataset that all runs were judged on.
    command: makes the page again.
    pictures: already drawn, in the same folder; they come first.
    look: whether to look into runs and dataset for figures and moments; False takes what the scores tell alone.
    board: the leaderboard of the scores, from whoever has it already.

    What is not there any more (a dataset, embeddings, a checkpoint) is left out, and the page says so.
    """
    board = leaderboard(scores) if board is None else board
    commits = sorted({str(c)[:10] for c in scores.get("commit", []) if c})
    lines = [
        f"# {title}\n",
        question.strip() + "\n",
        f"**{verdict(board)}**\n",
        *(f"Read with care: {doubt}.\n" for doubt in doubts(board)),
        f"Data: {card.name} ({card.species}, {'simulated' if card.simulated else 'recorded'}; {card.split_rule}). "
        f"Commit: {', '.join(commits) or 'none'}.\n",
        *(f"![{picture.stem}]({picture.name})\n" for picture in pictures if picture.suffix == ".svg"),
        board.markdown(),
        "Mean over seeds with a 95 % interval over seeds and test recordings together; the place is averaged "
        "over the scores. mse: lower is better.\n",
        f"Made by `{shlex.join(command)}`.",
    ]
    folder.mkdir(parents=True, exist_ok=True)
    raw = stamp.csv(scores)
    html, drawn = _html(folder, title, question, scores, board, card, command, pictures, look)
    written = {
        "leaderboard.md": "\n".join(lines) + "\n",
        "leaderboard.csv": board.csv(),
        stamp.SCORES: raw,
        "leaderboard.html": stamp.stamped(html, raw),
    }
    for file, text in written.items():
        (folder / file).write_bytes(text.encode())
    return [*(folder / file for file in written), *drawn]


def _html(
    folder: Path, title: str, question: str, scores: pd.DataFrame, board: Leaderboard, card: Card,
    command: Sequence[str], pictures: Sequence[Path], look: bool,
) -> tuple[str, list[Path]]:  # fmt: skip
    from ethoray.report import gallery
    from ethoray.report.explorer import explorer
    from ethoray.report.html import Content, html
    from ethoray.report.shown import Picture, choose

    shown, found, notes = None, None, list[str]()
    figures = [Picture(p.stem.replace("_", " "), "", (p,)) for p in pictures if p.suffix == ".svg"]
    drawn: list[Picture] = list(gallery.of_scores(board, folder / FIGURES)) if look else []
    dataset = _dataset(board, notes) if look and board.rows else None
    if dataset is not None:
        shown = choose(board, dataset, notes)
    if dataset is not None and shown is not None:
        drawn += gallery.of_runs(board, dataset, shown, folder / FIGURES, notes)
        found = explorer(dataset, shown)
    runs = [
        [(seed, Path(path).name) for path, seed in zip(row["folders"], _seeds(scores, row["folders"]), strict=True)]
        for row in board.rows
    ]
    content = Content(
        title=title,
        question=question,
        board=board,
        card=card,
        command=command,
        pictures=[*figures, *drawn],
        notes=notes,
        origin=_origin(board),
        runs=runs,
        explorer=found,
        shown=f"{shown.title}, space {shown.space}" if shown is not None else "",
        published=published.beside(board, card.name),
    )
    return html(content), [file for picture in drawn for file in picture.files]


def _dataset(board: Leaderboard, notes: list[str]) -> Dataset | None:
    """The dataset that the best row was judged on, as its first run knows it."""
    for folder in (folder for row in board.rows for folder in row["folders"][:1]):
        told = _origin_of(Path(folder)).get("dataset", {})
        if "uri" not in told:
            continue
        try:
            dataset = store.reopen(told["uri"])
        except StoreError:
            notes.append(
                f"the dataset {told.get('name', '')} is not where the runs found it: no moments, no recordings"
            )
            return None
        if dataset.key != told.get("key"):
            notes.append(
                f"the dataset {dataset.card.name} was prepared again after the runs: no moments, no recordings"
            )
            return None
        return dataset
    notes.append("the runs do not say where their dataset is: no moments, no recordings")
    return None


def _origin(board: Leaderboard) -> list[tuple[str, str]]:
    """Code, packages and data of all runs; where they differ each variant is told."""
    found: dict[str, list[str]] = {}
    for folder in (folder for row in board.rows for folder in row["folders"]):
        told = _origin_of(Path(folder))
        packages: dict[str, Any] = told.get("packages", {})
        state = {True: " with uncommitted changes", False: "", None: ""}[told.get("dirty")]
        words = {
            "code": f"commit {told['commit']}{state}" if told.get("commit") else "",
            "packages": ", ".join(f"{p} {v}" for p, v in packages.items() if v),
            "python": str(told.get("python") or ""),
            "GPU": str(told.get("gpu") or ""),
            "data": f"{told['dataset']['name']}, key {told['dataset']['key']}" if "dataset" in told else "",
        }
        for what, text in words.items():
            if text and text not in found.setdefault(what, []):
                found[what].append(text)
    return [(what, text) for what, texts in found.items() for text in texts]


def _origin_of(folder: Path) -> dict[str, Any]:
    path = folder / "provenance.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _seeds(scores: pd.DataFrame, folders: Sequence[str]) -> list[int]:
    by = scores.drop_duplicates("folder").set_index("folder")["seed"]
    return [int(by[folder]) for folder in folders]
