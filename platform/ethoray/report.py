"""One Markdown page a question: what was asked, the table, the figure, and the command that made them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ethoray.leaderboard import leaderboard
from ethoray.schema import Card


def page(
    folder: Path, title: str, question: str, scores: pd.DataFrame, card: Card, command: Sequence[str],
    pictures: Sequence[Path] = (),
) -> list[Path]:  # fmt: skip
    """Write leaderboard.md and leaderboard.csv under ``folder``; returns them. Pictures lie in the same folder."""
    table = leaderboard(scores)
    commits = sorted({str(c)[:10] for c in scores.get("commit", []) if c})
    lines = [
        f"# {title}\n",
        question.strip() + "\n",
        f"Data: {card.name} ({card.species}, {'simulated' if card.simulated else 'recorded'}; {card.split_rule}). "
        f"Commit: {', '.join(commits) or 'none'}.\n",
        *(f"![{picture.stem}]({picture.name})\n" for picture in pictures if picture.suffix == ".svg"),
        table.markdown(),
        "Mean over seeds with a 95 % interval over seeds and test recordings together; the place is averaged "
        "over the scores. mse: lower is better.\n",
        f"Made by `{shlex.join(command)}`.",
    ]
    folder.mkdir(parents=True, exist_ok=True)
    markdown, csv = folder / "leaderboard.md", folder / "leaderboard.csv"
    markdown.write_text("\n".join(lines) + "\n")
    csv.write_text(table.csv())
    return [markdown, csv]
