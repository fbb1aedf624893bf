"""A page that says what it was made of, so that one that was edited, or left behind, is found without the runs.

The last line of a page is a comment: the version of what writes pages, a hash of the scores that went in, and a hash of
the page itself. The scores lie beside it in scores.csv, or in a csv of its own name. A page is stale when it was edited
by hand, when its scores are others or gone, or when pages are written differently now. What it cannot know is that
newer runs exist somewhere: ``make report`` takes them in. ``python -m ethoray.report.check FOLDER`` looks.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

VERSION = 1
"""Raised by whoever changes what pages show; every page written before is stale then."""
SCORES = "scores.csv"
_COLUMNS = ("key", "method", "seed", "score", "task", "space", "metric", "level", "value", "low", "high", "commit")
_MARK = re.compile(r"<!-- ethoray page (\d+) scores ([0-9a-f]{64}) page ([0-9a-f]{64}) -->\n\Z")


def csv(scores: pd.DataFrame) -> str:
    """What ``leaderboard.collect`` gave as a table of plain numbers, in an order that does not depend on the disk."""
    table = scores.reindex(columns=[*_COLUMNS]).sort_values(["method", "key", "seed", "score"], kind="stable")
    return table.to_csv(index=False, lineterminator="\n")


def stamped(text: str, scores: str) -> str:
    """The page with its last line; ``scores`` is the content of scores.csv."""
    text = text if text.endswith("\n") else text + "\n"
    return f"{text}<!-- ethoray page {VERSION} scores {_hash(scores)} page {_hash(text)} -->\n"


def stale(page: Path) -> str | None:
    """Why a page is stale, or None when it is as it was written."""
    text = page.read_bytes().decode()
    found = _MARK.search(text)
    if found is None:
        return "has no stamp at its end: it was not written by ethoray report, or cut short"
    version, scores, body = found.groups()
    if int(version) != VERSION:
        return f"was written by version {version} of the pages, this is version {VERSION}"
    if _hash(text[: found.start()]) != body:
        return "was edited after it was written"
    own = page.with_suffix(".csv")  # a page over several datasets is not called leaderboard
    beside = own if page.stem != "leaderboard" and own.exists() else page.with_name(SCORES)
    if not beside.exists():
        return f"has no {beside.name} beside it, from which it was made"
    if _hash(beside.read_bytes().decode()) != scores:
        return f"was made from other scores than the {beside.name} beside it"
    return None


def check(folder: Path) -> Iterator[str]:
    """A sentence for every stale page under a folder, with what to do."""
    for page in sorted(folder.rglob("*.html")):
        reason = stale(page)
        if reason:
            yield f"{page}: {reason}; run make report"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
