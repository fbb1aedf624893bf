"""BENTO behaviour labels (.annot): for every channel and behaviour a list of bouts.

Bouts are in frames, counted from 1 and with the last one inside, when every start and stop is a whole number and
the head states a start frame; else in seconds. Behaviours of several channels are joined: a frame is positive when
any of them shows it. What is before the annotation's start or after its stop is unlabelled.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ethoray.readers.contents import FrameLabels, ReadError, decode, kept, number

WHAT = "BENTO labels (.annot)"
_FRAMES = 1 << 28


def sniffs(head: bytes, path: Path) -> bool:
    """Whether the first line is that of a BENTO annotation."""
    return decode(head[:200]).lstrip().lower().startswith("bento annotation file")


def labels(path: Path, pose: str, ignore: Sequence[str] = ()) -> FrameLabels:
    """Read one file."""
    lines = decode(path.read_bytes()).splitlines()
    head = dict(_stated(path, lines))
    fps = head.get("framerate")
    bouts = _bouts(path, lines)
    if not bouts:
        raise ReadError(f"{path}: no behaviour (a line that begins with >)")
    whole = all(value == round(value) for spans in bouts.values() for _, *span in spans for value in span)
    framed = whole and "start frame" in head
    if fps is not None and fps <= 0:
        raise ReadError(f"{path}: an annotation framerate of {fps:g}")
    if not framed and fps is None:
        raise ReadError(f"{path}: bouts in seconds without an annotation framerate; add the line")
    rate = 1.0 if framed else float(fps or 1.0)
    before = 1 if framed else 0
    begin = head.get("start frame", 1.0) - 1 if framed else head.get("start time", 0.0) * rate
    last = max((span[2] for spans in bouts.values() for span in spans), default=0.0) * rate
    end = head.get("stop frame", last) if framed else head.get("stop time", last / rate) * rate
    first, length = round(begin), round(max(end, last))
    if not 0 <= first <= length < _FRAMES:
        raise ReadError(f"{path}: labels from frame {first + 1} to {length}; check start and stop in the head")
    values = {}
    for behaviour in kept(bouts, ignore):
        track = np.full(length, np.nan, dtype=np.float32)
        track[first:] = 0
        for line, start, stop in bouts[behaviour]:
            if stop < start or start < before:
                raise ReadError(f"{path}, line {line}: {behaviour!r} from {start:g} to {stop:g}")
            opening = round(start * rate) - before
            track[opening : max(round(stop * rate), opening + 1)] = 1
        values[behaviour] = track
    return FrameLabels(values, fps)


def _stated(path: Path, lines: Sequence[str]) -> list[tuple[str, float]]:
    found = []
    for line, text in enumerate(lines, start=1):
        match = re.match(r"Annotation (start frame|stop frame|start time|stop time|framerate):\s*(\S+)", text, re.I)
        if match:
            found.append((match[1].lower(), number(match[2], f"{path}, line {line}, {match[1]}")))
    return found


def _bouts(path: Path, lines: Sequence[str]) -> dict[str, list[tuple[int, float, float]]]:
    """Line, start and stop of every bout of every behaviour."""
    found: dict[str, list[tuple[int, float, float]]] = {}
    current: list[tuple[int, float, float]] | None = None
    for line, text in enumerate(lines, start=1):
        cells = text.split()
        if text.startswith(">"):
            current = found.setdefault(text[1:].strip(), [])
        elif not cells or text.rstrip().endswith("-----"):
            current = current if not cells else None
        elif current is not None and cells[0].lower() != "start":
            if len(cells) < 2:
                raise ReadError(f"{path}, line {line}: {text.strip()!r} is no start and stop; is the file cut off?")
            start, stop = (number(cell, f"{path}, line {line}") for cell in cells[:2])
            current.append((line, start, stop))
    return found
