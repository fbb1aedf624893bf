"""How often each label occurs: per split and task, in frames, bouts and recordings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ethoray.schema import Recording


class Balance:
    """Counts of labels by split.

    Attributes
    ----------
    labels: per split, per task: "unlabelled", "bouts", and "values" (times each class occurs; of a regression how
        many there are) with "low" and "high". The unit is frames, or recordings for tasks of whole recordings.
    overlap: per split, in how many frames 0, 1, 2 ... binary tasks are positive at once.
    """

    def __init__(self, labels: dict[str, Any], overlap: dict[str, list[int]]) -> None:
        self.labels, self.overlap = labels, overlap
        self._last: dict[str, float] = {}

    def add(self, recording: Recording, tasks: Sequence[Sequence[Any]], follows: bool) -> None:
        """Count a piece; ``follows`` says that it goes on where the last one ended."""
        if not follows:
            self._last = {}
        split = self.labels.setdefault(recording.split, {})
        together = np.zeros(recording.frames, dtype=np.int64)
        for name, kind, level, classes in tasks:
            empty = {"unlabelled": 0, "bouts": 0, "values": [0] * _width(kind, classes), "low": None, "high": None}
            mine = split.setdefault(name, empty)
            values = recording.labels.get(name, np.nan)
            if level == "recording":
                if recording.start == 0:
                    _count(mine, kind, np.array([values], dtype=np.float64))
                continue
            values = np.broadcast_to(np.asarray(values, dtype=np.float64), recording.frames)
            _count(mine, kind, values)
            if kind != "regression":
                mine["bouts"] += _bouts(kind, values, self._last.get(name, np.nan))
                self._last[name] = float(values[-1])
            if kind == "binary":
                together += values > 0.5
        if any(kind == "binary" and level == "frame" for _, kind, level, _ in tasks):
            counts = np.bincount(together).tolist()
            self.overlap[recording.split] = _longer_sum(self.overlap.get(recording.split, []), counts)

    def merge(self, other: Balance) -> None:
        """Take the counts of other recordings in."""
        for split, tasks in other.labels.items():
            mine = self.labels.setdefault(split, {})
            for name, counts in tasks.items():
                before = mine.get(name)
                mine[name] = dict(counts) if before is None else _both(before, counts)
        for split, counts in other.overlap.items():
            self.overlap[split] = _longer_sum(self.overlap.get(split, []), counts)


def _width(kind: str, classes: Sequence[str]) -> int:
    return {"binary": 2, "regression": 1}.get(kind, len(classes))


def _count(mine: dict[str, Any], kind: str, values: np.ndarray) -> None:
    known = values[~np.isnan(values)]
    mine["unlabelled"] += len(values) - len(known)
    if not len(known):
        return
    places = np.zeros(len(known), dtype=np.int64) if kind == "regression" else known.astype(np.int64)
    counts = np.bincount(places, minlength=len(mine["values"]))
    mine["values"] = _longer_sum(mine["values"], counts.tolist())
    ends = [mine["low"], mine["high"]] if mine["low"] is not None else []
    mine["low"], mine["high"] = float(min([known.min(), *ends])), float(max([known.max(), *ends]))


def _bouts(kind: str, values: np.ndarray, last: float) -> int:
    """Starts of a positive stretch, or of any stretch of one class."""
    before = np.concatenate([[last], values[:-1]])
    if kind == "binary":
        return int(((values > 0.5) & ~(before > 0.5)).sum())
    return int((~np.isnan(values) & (values != before)).sum())


def _longer_sum(one: Sequence[int], other: Sequence[int]) -> list[int]:
    length = max(len(one), len(other))
    return [a + b for a, b in zip(_padded(one, length), _padded(other, length), strict=True)]


def _padded(counts: Sequence[int], length: int) -> list[int]:
    return [*counts, *[0] * (length - len(counts))]


def _both(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {k: one[k] + other[k] for k in ("unlabelled", "bouts")}
    found["values"] = _longer_sum(one["values"], other["values"])
    for end, pick in (("low", min), ("high", max)):
        known = [side[end] for side in (one, other) if side[end] is not None]
        found[end] = pick(known) if known else None
    return found
