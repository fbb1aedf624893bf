"""Whether a camera kept its frame rate: intervals between timestamps, in frames."""

from __future__ import annotations

from typing import Any

import numpy as np

from ethoray.schema import SchemaError

BINS = 4000
"""Bins of an interval, a thousandth of a frame each; the last holds all longer ones."""


def checked(recording: str, times: np.ndarray, frames: int) -> np.ndarray:
    """Timestamps as float64; SchemaError unless there is a finite one for every frame."""
    times = np.asarray(times, dtype=np.float64)
    if times.shape != (frames,) or not np.isfinite(times).all():
        raise SchemaError(f"recording {recording!r}: timestamps are {frames} finite numbers of seconds")
    return times


def ticked(clock: dict[str, Any] | None, times: np.ndarray, fps: float, counts: np.ndarray) -> dict[str, Any]:
    """What is known of a recording's clock after these timestamps (seconds); their intervals are added to ``counts``.

    Gives the first and last time, how many, the shortest and longest interval in frames, frames that are missing
    between timestamps ("dropped"), and intervals that do not go forward ("backwards").
    """
    found: dict[str, Any] = {"first": float(times[0]), "count": 0, "shortest": None, "longest": None}
    found |= {"dropped": 0, "backwards": 0} | (clock or {})
    before = [found["last"]] if clock else []
    frames = np.diff(np.concatenate([before, times])) * fps
    if len(frames):
        ends = [end for end in (found["shortest"], found["longest"]) if end is not None]
        found["shortest"] = float(min([frames.min(), *ends]))
        found["longest"] = float(max([frames.max(), *ends]))
        counts += np.bincount(np.clip((frames * 1000).round(), 0, BINS - 1).astype(np.int64), minlength=BINS)
    found["dropped"] += int((np.maximum(frames.round(), 1) - 1).sum())
    found["backwards"] += int((frames <= 0).sum())
    found["count"] += len(times)
    found["last"] = float(times[-1])
    return found
