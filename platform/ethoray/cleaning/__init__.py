"""Cleaning of tracks as declared steps: what is masked, filled, smoothed and rescaled, in seconds, pixels and mm.

A step looks only so far around a frame (its reach), so a recording of any length is cleaned in pieces, and pieces give
the same bits as the whole. Nothing is cleaned that was not asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from ethoray.cleaning import filters
from ethoray.cleaning.kinds import (
    CleaningError,
    Confidence,
    Interpolate,
    Outliers,
    Resample,
    Scale,
    Smooth,
    Step,
)
from ethoray.readers.contents import Counted, Tracks

__all__ = [
    "CleaningError", "Confidence", "Interpolate", "Outliers", "Resample", "Scale", "Smooth", "Step",
    "clean", "places", "rate", "reach", "steps", "unit",
]  # fmt: skip


def steps(
    *,
    min_confidence: float | None = None,
    outliers: float | None = None,
    interpolate: float | None = None,
    smooth: float | None = None,
    smooth_order: int = 3,
    resample: float | None = None,
    mm_per_pixel: float | None = None,
) -> tuple[Step, ...]:
    """The steps asked for, in the order that makes sense: mask, fill, smooth, resample, scale.

    Zero turns min_confidence, interpolate and smooth off. Raises CleaningError naming the option that is no use.
    """
    if min_confidence is not None and not 0 <= min_confidence <= 1:
        raise CleaningError(f"--min-confidence {min_confidence:g}: confidence lies between 0 and 1")
    for option, value, least in (("interpolate", interpolate, 0), ("smooth", smooth, 0)):
        if value is not None and not (math.isfinite(value) and value >= least):
            raise CleaningError(f"--{option} {value:g}: a time in seconds, not negative")
    positive = (("outliers", outliers), ("resample", resample), ("mm-per-pixel", mm_per_pixel))
    for option, value in positive:
        if value is not None and not (math.isfinite(value) and value > 0):
            raise CleaningError(f"--{option} {value:g}: a number above 0")
    if smooth_order < 0:
        raise CleaningError(f"--smooth-order {smooth_order}: the order of a polynomial is not negative")
    wanted: list[Step | None] = [
        Confidence(min_confidence) if min_confidence else None,
        Outliers(outliers) if outliers else None,
        Interpolate(interpolate) if interpolate else None,
        Smooth(smooth, smooth_order) if smooth else None,
        Resample(resample) if resample else None,
        Scale(mm_per_pixel) if mm_per_pixel else None,
    ]
    return tuple(step for step in wanted if step is not None)


def rate(fps: float, steps: Sequence[Step]) -> float:
    """Frames per second after the steps."""
    for step in steps:
        fps = step.fps if isinstance(step, Resample) else fps
    return fps


def unit(unit: str, steps: Sequence[Step]) -> str:
    """The unit of positions after the steps."""
    return "mm" if any(isinstance(step, Scale) for step in steps) else unit


def reach(steps: Sequence[Step], fps: float) -> int:
    """How many frames around a frame all steps together look at, in frames before the steps."""
    total, before = 0.0, fps
    for step in steps:
        total += step.reach(fps) * before / fps
        fps = rate(fps, (step,))
    return math.ceil(total)


def places(frames: int, steps: Sequence[Step], fps: float, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Which of a recording's ``frames`` stands nearest to each frame after the steps, int64.

    ``labels[places(len(labels), steps, fps)]`` are the labels that go with the cleaned track; ``start`` and ``stop``
    pick frames after the steps, for those who write in pieces.
    """
    for step in steps:
        if isinstance(step, Resample):
            ratio = step.ratio(fps)
            end = filters.length(frames, ratio)
            return filters.nearest(ratio, start, end if stop is None else min(stop, end))
    return np.arange(start, frames if stop is None else min(stop, frames))


def clean(pieces: Iterable[Tracks], steps: Sequence[Step], fps: float) -> Iterator[Tracks]:
    """Consecutive pieces of a recording after the steps, again as consecutive pieces.

    Whatever the pieces are, the results are those of the whole, bit for bit; they are cut elsewhere, because a step
    waits for what it looks at. In memory are a piece and three reaches of each step. Notes count what each did.
    Raises CleaningError, before anything is read, when a step makes no sense at ``fps``.
    """
    reach(steps, fps)
    return _chained(pieces, steps, fps)


def _chained(pieces: Iterable[Tracks], steps: Sequence[Step], fps: float) -> Iterator[Tracks]:
    stream = iter(pieces)
    for step in steps:
        stream = _resampled(stream, step, fps) if isinstance(step, Resample) else _applied(stream, step, fps)
        fps = rate(fps, (step,))
    return stream


def _applied(pieces: Iterator[Tracks], step: Step, fps: float) -> Iterator[Tracks]:
    """A step over a stream: each result is cut out of a window that holds its reach on both sides."""
    reach, done = step.reach(fps), 0  # done: frames at the window's beginning that are context only
    window: Tracks | None = None
    for piece in pieces:
        window = piece if window is None else _joined(window, piece)
        ready = len(window.keypoints) - reach
        if ready - done >= max(reach, 1):
            yield _result(window, step, fps, done, ready)
            window, done = _since(window, max(ready - reach, 0)), min(ready, reach)
    if window is not None and len(window.keypoints) > done:
        yield _result(window, step, fps, done, len(window.keypoints))


def _result(window: Tracks, step: Step, fps: float, start: int, stop: int) -> Tracks:
    before, after = window.keypoints[start:stop], step.apply(window, fps)[start:stop]
    notes = [*window.notes, step.note(before, after)]
    if isinstance(step, Confidence) and window.confidence is None:
        notes[-1] = f"no confidence in the file, so --min-confidence {step.minimum:g} masked nothing"
    confidence = None if window.confidence is None else window.confidence[start:stop]
    return replace(window, keypoints=after, confidence=confidence, notes=tuple(notes))


def _resampled(pieces: Iterator[Tracks], step: Resample, fps: float) -> Iterator[Tracks]:
    """Frames at the new rate as soon as all they are made of is there."""
    ratio, reach = step.ratio(fps), step.reach(fps)
    first = total = made = 0  # the window's first frame, frames so far, new frames so far
    window: Tracks | None = None
    for piece in pieces:
        window = piece if window is None else _joined(window, piece)
        total += len(piece.keypoints)
        ready = filters.length(total - reach, ratio)
        if ready > made:
            yield _between(window, step, ratio, first, made, ready)
            made, keep = ready, max(0, int(ready * ratio) - reach)
            window, first = _since(window, keep - first), keep
    if window is not None and (end := filters.length(total, ratio)) > made:
        yield _between(window, step, ratio, first, made, end)
    elif window is not None and window.notes:
        yield replace(_since(window, len(window.keypoints)), notes=window.notes, fps=step.fps)


def _between(window: Tracks, step: Resample, ratio: Fraction, first: int, start: int, stop: int) -> Tracks:
    keypoints = filters.resampled(window.keypoints, ratio, start, stop, first)
    scores = None
    if window.confidence is not None:
        scores = filters.resampled(window.confidence[..., None], ratio, start, stop, first)[..., 0]
    note = Counted(f"{{}} frames after resampling to {step.fps:g} frames per second", stop - start)
    return replace(window, keypoints=keypoints, confidence=scores, fps=step.fps, notes=(*window.notes, note))


def _joined(window: Tracks, piece: Tracks) -> Tracks:
    keypoints = np.concatenate([window.keypoints, piece.keypoints])
    confidence = None
    if window.confidence is not None and piece.confidence is not None:
        confidence = np.concatenate([window.confidence, piece.confidence])
    return replace(window, keypoints=keypoints, confidence=confidence, notes=(*window.notes, *piece.notes))


def _since(window: Tracks, frame: int) -> Tracks:
    """The window from a frame on, as a copy, so that what lies before it can be forgotten; its notes have been told."""
    confidence = None if window.confidence is None else window.confidence[frame:].copy()
    return replace(window, keypoints=window.keypoints[frame:].copy(), confidence=confidence, notes=())
