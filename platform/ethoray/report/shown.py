"""What a page shows: pictures with their captions, and the run it looks into."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ethoray import moments, record
from ethoray.dataset import Dataset
from ethoray.embedding import ALL, EmbeddingError
from ethoray.files import StoreError
from ethoray.moments import Moments
from ethoray.report.verdict import Row
from ethoray.tables import Leaderboard

FORESEEN = (EmbeddingError, StoreError, record.RecordError)
"""What a page goes on without, saying so: embeddings, data or a checkpoint that are not there."""


@dataclass(frozen=True)
class Picture:
    """A figure with what it shows: its two files, a title and a caption."""

    title: str
    caption: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Shown:
    """The run that a page looks into: that of the best placed row whose embeddings are there."""

    row: Row
    title: str
    folder: Path
    moments: Moments
    space: str


def choose(board: Leaderboard, dataset: Dataset, notes: list[str], count: int = 1000) -> Shown | None:
    """The first row whose first run holds embeddings of the test recordings; what is missing goes to ``notes``."""
    for row in board.rows:
        title = board.name(row)
        for folder in map(Path, row["folders"][:1]):
            try:
                found = moments.sample(folder, dataset, count=count)
            except FORESEEN as error:
                notes.append(f"{title}: {brief(error)}")
                continue
            return Shown(row, title, folder, found, ALL if ALL in found.spaces else max(found.spaces))
    return None


def brief(error: Exception) -> str:
    """A message without the path it begins with: where a page was made is no part of it."""
    text = str(error)
    return text.partition(": ")[2] or text if text.startswith("/") else text
