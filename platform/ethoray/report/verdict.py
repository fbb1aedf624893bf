"""What a leaderboard says in one sentence, from its paired tests and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ethoray.tables import Leaderboard

Row = Mapping[str, Any]


def shared_scores(board: Leaderboard) -> list[str]:
    """The scores that every row has; all of them when there is no such score."""
    shared = [score for score in board.scores if all(score in row["cells"] for row in board.rows)]
    return shared or list(board.scores)


def verdict(board: Leaderboard) -> str:
    """Who is best in how many scores, where it is beaten, and how that was tested.

    "Not worse" means that the paired difference from the best is not significant at 5 % after Holm's correction. Where
    recordings could not be paired, the sentence says that nothing was tested.
    """
    if not board.rows:
        return "No run has a score: none is finished, or the data has no labels."
    first, scores = board.rows[0], shared_scores(board)
    mine = board.name(first)
    if len(board.rows) == 1:
        return f"Only {mine} was run: its {_many(len(scores), 'score')} stand alone."
    best = [s for s in scores if first["place"].get(s) == min(_places(board, s), default=None)]
    rest = [s for s in scores if s not in best and s in first["place"]]
    tested = [s for s in scores if any(s in row["against"] for row in board.rows)]
    counted = f"{len(best)} of {_many(len(scores), 'score')}"
    if not tested:
        return (
            f"{mine} has the highest mean place and is best in {counted}; "
            "the runs were not judged on the same recordings, so no difference was tested."
        )
    even = [s for s in rest if s in first["ties"]]
    lost = [s for s in rest if s in first["against"] and s not in first["ties"]]
    clear = [s for s in best if all(s not in r["ties"] for r in board.rows[1:] if s in r["cells"])]
    parts = [f"{_how(board, tested)}, {mine} is best in {counted}"]
    if best and len(clear) < len(best):
        parts[0] += f", {len(clear) or 'none'} of them clearly,"
    parts[0] += f" and not worse than the best in {len(even)} more" if even else ""
    if lost:
        behind = ", ".join(f"{_task(s)} (by {board.name(_winner(board, s))})" for s in lost[:3])
        parts.append(f"it is beaten in {len(lost)}: {behind}{', …' if len(lost) > 3 else ''}")
    untested = len(rest) - len(even) - len(lost)
    if untested:
        parts.append(f"{untested} could not be paired")
    return "; ".join(part.rstrip(",") for part in parts) + "."


def doubts(board: Leaderboard) -> list[str]:
    """What a reader should hold against the verdict: rows of few seeds or from a tree that was not committed."""
    told: dict[str, list[str]] = {}
    for row in board.rows:
        for note in filter(None, row["notes"].split(", ")):
            told.setdefault(note, []).append(board.name(row))
    return [
        f"{note}: {'every row' if len(who) == len(board.rows) > 1 else ', '.join(who)}" for note, who in told.items()
    ]


def _how(board: Leaderboard, tested: Sequence[str]) -> str:
    seeds = sorted({row["seeds"] for row in board.rows})
    counts = set()
    for row in board.rows:
        for folder in row["folders"][:1]:
            path = Path(folder) / "scores.json"
            known = json.loads(path.read_text()).get("recordings", {}) if path.exists() else {}
            counts |= {int(known[s]) for s in (row["names"].get(t, t) for t in tested) if s in known}
    over = f"{_range(sorted(counts))} " if counts else ""
    return f"Paired over {over}test recordings ({_range(seeds)} seed{'s' * (seeds[-1] > 1)}, 5 % after Holm)"


def _winner(board: Leaderboard, score: str) -> Row:
    return min((r for r in board.rows if score in r["place"]), key=lambda r: r["place"][score])


def _places(board: Leaderboard, score: str) -> list[float]:
    return [row["place"][score] for row in board.rows if score in row["place"]]


def _task(score: str) -> str:
    return score.removesuffix("/all")


def _range(numbers: Sequence[int]) -> str:
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
