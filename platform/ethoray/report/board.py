"""A leaderboard as HTML: a column a row of it, best first, with what it cost, its scores and its runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from ethoray.report.verdict import shared_scores
from ethoray.tables import COSTS, Leaderboard, number


def board_table(board: Leaderboard) -> str:
    """A column a row of the leaderboard, best first; scores that all rows have before the others."""
    lines = [
        _line("mean place", [f"{row['rank']:.1f}" for row in board.rows]),
        _line("seeds", [str(row["seeds"]) for row in board.rows]),
    ]
    for cost, words in COSTS.items():
        if any(cost in row["cost"] for row in board.rows):
            lines.append(_line(words, [number(row["cost"].get(cost)) for row in board.rows]))
    shared = shared_scores(board)
    lines += [_line(s, [_cell(row, s, len(board.rows)) for row in board.rows]) for s in _sorted(shared)]
    return _grid([_head(board, place) for place in range(len(board.rows))], lines) + _spaces(board, shared)


def _spaces(board: Leaderboard, shared: Sequence[str]) -> str:
    """Scores that not every row has: a line a task, a column a row and space."""
    rest = [score for score in board.scores if score not in shared]
    tasks = list(dict.fromkeys(score.rpartition("/")[0] for score in rest))
    spaces = list(dict.fromkeys(score.rpartition("/")[2] for score in rest))
    columns = [
        (place, space)
        for place, row in enumerate(board.rows)
        for space in spaces
        if any(f"{task}/{space}" in row["cells"] for task in tasks)
    ]
    if not columns:
        return ""
    many = {score: sum(score in row["cells"] for row in board.rows) for score in rest}
    lines = [
        _line(task, [_cell(board.rows[at], f"{task}/{space}", many.get(f"{task}/{space}", 0)) for at, space in columns])
        for task in tasks
    ]
    heads = [f"{_head(board, place)}: {_foldable(space)}" for place, space in columns]
    return "<h3>Single spaces</h3>" + _grid(heads, lines)


def runs_of(board: Leaderboard, runs: Sequence[Sequence[tuple[int, str]]]) -> str:
    """The runs (seed, key) of every row, to which the heads of the table lead."""
    told = []
    for place, (row, mine) in enumerate(zip(board.rows, runs, strict=True)):
        keys = ", ".join(f"seed {seed}: <code>{escape(key)}</code>" for seed, key in mine)
        told.append(f'<dt id="row-{place}">{_foldable(board.name(row))}</dt><dd>{keys}</dd>')
    return f"<dl>{''.join(told)}</dl>"


def _head(board: Leaderboard, place: int) -> str:
    """The name of the row at a place, which leads to its runs."""
    return f'<a href="#row-{place}">{_foldable(board.name(board.rows[place]))}</a>'


def _grid(heads: Sequence[str], lines: Sequence[str]) -> str:
    """A table whose heads and lines are HTML already."""
    top = "".join(f"<th>{head}</th>" for head in ("", *heads))
    body = "\n".join(lines)
    return (
        f'<div class="wide"><table class="board"><thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    )


def _foldable(text: str) -> str:
    """A name that may go on in the next line where it has a slash or an underscore."""
    return re.sub("([_/])", r"\1<wbr>", escape(text))


def _sorted(scores: Iterable[str]) -> list[str]:
    return sorted(scores, key=lambda score: score.rpartition("/")[2])


def _cell(row: Mapping[str, Any], score: str, rivals: int) -> str:
    """HTML of a score and its interval; bold among the best of several."""
    cell = row["cells"].get(score)
    if cell is None:
        return "–"
    value = f"{cell.value:.3f}"
    value = f"<b>{value}</b>" if score in row["ties"] and rivals > 1 else value
    behind = row["against"].get(score)
    told = f' title="behind the best by {abs(behind[0].value):.3f}, p = {behind[1]:.3g}"' if behind else ""
    return f"<span{told}>{value}</span>" + (
        f"<small>{cell.low:.3f} to {cell.high:.3f}</small>" if cell.low == cell.low else ""
    )


def _line(head: str, cells: Iterable[str]) -> str:
    """A line of a table; its cells are HTML already."""
    return f"<tr><th>{_foldable(head)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
