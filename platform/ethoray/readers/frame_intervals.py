"""Behaviours between animals as intervals of frames: csv with group, actor, recipient, category, start and stop.

So vassi writes annotations. ``group`` names the recording; start and stop are frames counted from 0, stop included. A
category is present in a frame when any actor shows it to any recipient. The category "none" says that a pair does
nothing: it is left out, and makes its frames labelled. Frames that no row of the group covers are unlabelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ethoray.readers.contents import FrameLabels, ReadError, decode, kept, rows, separator, stem

WHAT = "intervals in frames (csv with columns group, actor, recipient, category, start, stop)"

_COLUMNS = ("group", "actor", "recipient", "category", "start", "stop")
_NOTHING = "none"
_MOST_FRAMES = 1 << 28


def sniffs(head: bytes, path: Path) -> bool:
    """Whether the first line has every column."""
    first = next(iter(decode(head).splitlines()), "")
    return bool(first.strip()) and set(_COLUMNS) <= {cell.lower() for cell in rows(first, separator(first))[0]}


def recordings(path: Path) -> frozenset[str]:
    """The groups."""
    return frozenset(row["group"] for _, row in _table(path))


def labels(path: Path, pose: str, ignore: Sequence[str] = ()) -> FrameLabels:
    """The behaviours of the group that ``pose`` is named after."""
    table = _table(path)
    group = stem(pose)
    chosen = [(line, row) for line, row in table if row["group"] == group]
    if not chosen:
        held = list(dict.fromkeys(row["group"] for _, row in table))
        raise ReadError(
            f"{path}: column group has no row of {group!r}; it holds {', '.join(held[:10])}. Name the pose file like "
            "its group"
        )
    spans = [(row["category"], *_span(path, line, row)) for line, row in chosen]
    frames = max(stop for _, _, stop in spans) + 1
    covered = np.zeros(frames, dtype=bool)
    found = {name: np.zeros(frames, np.float32) for name in dict.fromkeys(row["category"] for _, row in table)}
    for name, start, stop in spans:
        covered[start : stop + 1] = True
        found[name][start : stop + 1] = 1
    found.pop(_NOTHING, None)
    if not found:
        raise ReadError(f"{path}: every row is {_NOTHING!r}; there is no behaviour")
    return FrameLabels({name: np.where(covered, found[name], np.float32(np.nan)) for name in kept(found, ignore)})


def _span(path: Path, line: int, row: dict[str, str]) -> tuple[int, int]:
    try:
        start, stop = int(row["start"]), int(row["stop"])
    except ValueError:
        raise ReadError(
            f"{path}, line {line}: start {row['start']!r} and stop {row['stop']!r} are not whole frames; for seconds "
            "rename column group to recording"
        ) from None
    if not 0 <= start <= stop < _MOST_FRAMES:
        raise ReadError(f"{path}, line {line}: {row['category']!r} from frame {start} to {stop}")
    return start, stop


def _table(path: Path) -> list[tuple[int, dict[str, str]]]:
    text = decode(path.read_bytes())
    names, *body = rows(text, separator(text.split("\n", 1)[0]))
    lower = [name.lower() for name in names]
    found = []
    for line, cells in enumerate(body, start=2):
        if not any(cells):
            continue
        if len(cells) != len(names):
            raise ReadError(f"{path}, line {line}: {len(cells)} cells, the header has {len(names)}")
        found.append((line, {name: cells[lower.index(name)] for name in _COLUMNS}))
    if not found:
        raise ReadError(f"{path}: the header is followed by no row")
    return found
