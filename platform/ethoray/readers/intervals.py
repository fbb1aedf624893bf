"""Behaviour labels as a table of intervals in seconds, one row a bout, by one rater or several.

The columns are known by their names (start, stop, behaviour and what people call them). When a column holds
names of recordings, only the rows of the one in question count. Several raters are joined frame by frame by
strict majority; a rater who labels a recording is taken to have looked for every behaviour.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ethoray.readers.contents import Bouts, ReadError, decode, kept, number, rows, separator, stem

WHAT = "intervals in seconds (csv with columns start, stop, behaviour)"
_NAMES = {
    "start": ("start", "from", "onset", "begin", "start (s)", "start_s", "start_time", "start time", "t_start"),
    "stop": ("stop", "to", "offset", "end", "stop (s)", "stop_s", "end (s)", "end_s", "stop_time", "stop time",
             "end_time", "end time", "t_stop", "t_end"),
    "behaviour": ("behaviour", "behavior", "type", "label", "category", "class", "action", "event"),
    "rater": ("rater", "experimenter", "annotator", "coder", "observer", "scorer"),
    "recording": ("dlcfile", "pose", "pose_file", "recording", "video", "media", "movie", "session"),
}  # fmt: skip


def sniffs(head: bytes, path: Path) -> bool:
    """Whether the first line names a start, a stop and a behaviour."""
    first = next(iter(decode(head).splitlines()), "")
    columns = _columns(rows(first, separator(first))[0] if first.strip() else [])
    return {"start", "stop", "behaviour"} <= set(columns)


def recordings(path: Path) -> frozenset[str]:
    """Names of recordings that any column holds, as ``contents.stem`` writes them."""
    names, known, table = _table(path)
    numeric = {known["start"], known["stop"], known["behaviour"]}
    return frozenset(stem(row[i]) for _, row in table for i in range(len(names)) if i not in numeric and row[i])


def labels(path: Path, pose: str, ignore: Sequence[str] = ()) -> Bouts:
    """Read one file; of several recordings, only the one that ``pose`` names."""
    names, known, table = _table(path)
    table = _of_recording(path, names, known, table, stem(pose))
    wanted = kept(dict.fromkeys(row[known["behaviour"]] for _, row in table), ignore)
    raters: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for line, row in table:
        behaviour = row[known["behaviour"]]
        rater = raters.setdefault(row[known["rater"]] if "rater" in known else "", {})
        if behaviour not in wanted:
            continue
        start, stop = (number(row[known[end]], f"{path}, line {line}, column {end}") for end in ("start", "stop"))
        if stop < start or start < 0:
            raise ReadError(f"{path}, line {line}: {behaviour!r} from {start:g} s to {stop:g} s")
        rater.setdefault(behaviour, []).append((start, stop))
    return Bouts({r: {b: np.array(sorted(v)) for b, v in seen.items()} for r, seen in raters.items()})


def _columns(cells: list[str]) -> dict[str, int]:
    lower = [cell.lower() for cell in cells]
    found = {role: [lower.index(n) for n in names if n in lower] for role, names in _NAMES.items()}
    return {role: places[0] for role, places in found.items() if places}


def _table(path: Path) -> tuple[list[str], dict[str, int], list[tuple[int, list[str]]]]:
    text = decode(path.read_bytes())
    names, *body = rows(text, separator(text.splitlines()[0]))
    table = [(line, cells) for line, cells in enumerate(body, start=2) if any(cells)]
    for line, cells in table:
        if len(cells) != len(names):
            raise ReadError(f"{path}, line {line}: {len(cells)} cells, the header has {len(names)}")
    return names, _columns(names), table


def _of_recording(
    path: Path, names: list[str], known: dict[str, int], table: list[tuple[int, list[str]]], wanted: str
) -> list[tuple[int, list[str]]]:
    for column in range(len(names)):
        rows_of = [(line, row) for line, row in table if stem(row[column]) == wanted]
        if rows_of:
            return rows_of
    if "recording" in known:
        held = sorted({stem(row[known["recording"]]) for _, row in table})
        raise ReadError(
            f"{path}: column {names[known['recording']]!r} has no row of {wanted!r}; it holds {', '.join(held[:10])}"
        )
    lower = [name.lower() for name in names]
    for name in ("id", "file"):
        if name in lower:
            held = sorted({row[lower.index(name)] for _, row in table})
            raters = len({row[known["rater"]] for _, row in table}) if "rater" in known and name == "file" else 1
            if len(held) > raters:
                raise ReadError(
                    f"{path}: column {name!r} tells {len(held)} recordings ({', '.join(held[:5])}), none of them "
                    f"{wanted!r}; add a column recording with the pose files' names, or keep one recording's rows"
                )
    return table
