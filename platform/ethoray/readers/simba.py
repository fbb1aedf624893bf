"""SimBA tables: keypoints as columns <part>_x, <part>_y, <part>_p, then features, then behaviours of 0 and 1.

When every part ends in a number and each number has the same parts, the numbers are the individuals. Behaviours
are the last columns, as long as they hold 0 and 1; SimBA's Probability_ columns between them are passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ethoray.readers.columns import CONFIDENCE, Place, Sheet, first_lines, numbers
from ethoray.readers.contents import FrameLabels, Layout, ReadError, Tracks, decode, kept, rows, separator

WHAT = "SimBA tracks or labels (csv with columns <part>_x, <part>_y, <part>_p)"
_LINES = 4  # of which one is the header
_FEATURE = re.compile(r"low_prob_detections|probability_", re.IGNORECASE)


def sniffs(head: bytes, path: Path) -> bool:
    """Whether one of the first lines names parts with x, y and p, and none with z."""
    return _header(decode(head)) is not None


def layout(path: Path, ignore: Sequence[str] = ()) -> Layout:
    """What the file holds."""
    return _sheet(path, ignore).layout()


def pieces(
    path: Path, ignore: Sequence[str] = (), min_confidence: float = 0.0, frames: int | None = None
) -> Iterator[Tracks]:
    """Consecutive tracks; keypoints in ``ignore`` are left out, those less confident than the minimum become NaN."""
    return _sheet(path, ignore).pieces(min_confidence, frames)


def _sheet(path: Path, ignore: Sequence[str]) -> Sheet:
    header = _known(path, first_lines(path, _LINES))
    animals = _animals(header.parts)
    dropped = {name.casefold() for name in ignore}
    places: dict[Place, int] = {}
    for part, first in header.parts.items():
        individual, name = animals[part]
        if name.casefold() not in dropped:
            for offset, coord in enumerate(("x", "y", CONFIDENCE)):
                places[individual, name, coord] = first + offset
    if not places:
        raise ReadError(f"{path}: no keypoint is left")
    return Sheet(path, header.sep, header.line, header.names, places)


def labels(path: Path, pose: str, ignore: Sequence[str] = ()) -> FrameLabels:
    """Read one file."""
    text = first_lines(path, _LINES + 1)
    header = _known(path, text)
    after = max(header.parts.values()) + 3
    first = text.split("\n", header.line)[-1].split("\n", 1)[0]
    cells = rows(first, header.sep)[0] if first.strip() else []
    candidates: list[int] = []
    for column in range(min(len(header.names), len(cells)) - 1, after - 1, -1):
        name = header.names[column].casefold()
        if name.startswith("probability_"):
            continue
        if _FEATURE.match(name) or cells[column] not in ("0", "1", "0.0", "1.0", ""):
            break
        candidates.insert(0, column)
    if not candidates:
        raise ReadError(f"{path}: its last column, {header.names[-1]!r}, is no behaviour of 0 and 1")
    found = zip(*numbers(path, header.sep, header.line, header.names, candidates), strict=True)
    values = [np.concatenate(column) for column in found]
    good = [bool(np.isin(v[~np.isnan(v)], (0, 1)).all()) for v in values]
    begin = max((i + 1 for i, fine in enumerate(good) if not fine), default=0)
    if begin == len(good):
        raise ReadError(f"{path}: column {header.names[-1]!r} holds other numbers than 0 and 1")
    places = {header.names[c].removesuffix("_prediction"): i for i, c in enumerate(candidates) if i >= begin}
    return FrameLabels({name: values[places[name]].astype(np.float32) for name in kept(places, ignore)})


@dataclass(frozen=True)
class _Header:
    names: list[str]
    parts: dict[str, int]  # column of x; y and p follow
    line: int  # counted from 1; data follows
    sep: str


def _header(text: str) -> _Header | None:
    for line, content in enumerate(text.splitlines()[:_LINES], start=1):
        sep = separator(content)
        names = rows(content, sep)[0] if content.strip() else []
        plain = [name.lower() for name in names]
        starts = [i for i, name in enumerate(plain[:-2]) if len(name) > 2 and name.endswith("_x")]
        parts = {names[i][:-2]: i for i in starts if plain[i + 1 : i + 3] == [plain[i][:-1] + "y", plain[i][:-1] + "p"]}
        if parts and not any(name.endswith("_z") for name in plain):
            return _Header(names, parts, line, sep)
    return None


def _known(path: Path, text: str) -> _Header:
    header = _header(text)
    if header is None:
        raise ReadError(f"{path}: no line with columns <part>_x, <part>_y, <part>_p")
    for part, first in header.parts.items():
        for column in range(first, first + 3):
            if header.names.count(header.names[column]) > 1:
                raise ReadError(f"{path}, line {header.line}: column {header.names[column]!r} of {part!r} stands twice")
    return header


def _animals(parts: Sequence[str] | dict[str, int]) -> dict[str, tuple[str, str]]:
    """Individual and keypoint of every part."""
    found = {part: re.fullmatch(r"(.+)_(\d+)", part) for part in parts}
    groups: dict[str, set[str]] = {}
    for match in found.values():
        if match is not None:
            groups.setdefault(match[2], set()).add(match[1])
    alike = len({frozenset(names) for names in groups.values()}) == 1
    if alike and all(found.values()):
        return {part: (f"individual_{m[2]}", m[1]) for part, m in found.items() if m is not None}
    return {part: ("individual_0", part) for part in parts}
