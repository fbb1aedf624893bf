"""Behaviour labels as a table with a row a frame and a column a behaviour: 1 present, 0 absent, empty unlabelled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ethoray.readers.contents import FrameLabels, ReadError, decode, kept, rows, separator

WHAT = "a row a frame, a column a behaviour (csv of 0 and 1)"
_INDEX = ("", "frame", "frames", "index", "time", "time (s)", "unnamed: 0")
_VALUES = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "true": 1.0, "false": 0.0, "": np.nan, "nan": np.nan}


def sniffs(head: bytes, path: Path) -> bool:
    """Whether every behaviour cell of the first whole lines is 0, 1 or empty."""
    lines = decode(head).splitlines()[:20]
    names, *body = rows("\n".join(lines), separator(lines[0])) if lines else [[]]
    used = [i for i, name in enumerate(names) if name.lower() not in _INDEX]
    whole = [cells for cells in body if len(cells) == len(names)]
    words = all(not name.replace(".", "").isdigit() for name in names)
    return bool(used and whole and words) and all(c[i].lower() in _VALUES for c in whole for i in used)


def labels(path: Path, pose: str, ignore: Sequence[str] = ()) -> FrameLabels:
    """Read one file."""
    text = decode(path.read_bytes())
    names, *body = rows(text, separator(text.splitlines()[0]))
    used = [i for i, name in enumerate(names) if name.lower() not in _INDEX]
    wanted = set(kept((names[i] for i in used), ignore))
    if len({names[i] for i in used}) != len(used):
        raise ReadError(f"{path}, line 1: a behaviour is named twice")
    values = np.empty((len(body), len(names)), dtype=np.float32)
    for line, cells in enumerate(body, start=2):
        for i in used:
            cell = cells[i].lower() if i < len(cells) else "end of line"
            if cell not in _VALUES:
                raise ReadError(f"{path}, line {line}, column {names[i]!r}: {cell!r} is not 0 or 1")
            values[line - 2, i] = _VALUES[cell]
    return FrameLabels({names[i]: values[:, i] for i in used if names[i] in wanted})
