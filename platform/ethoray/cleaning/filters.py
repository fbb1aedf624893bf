"""Filters along time over tracks with gaps: running medians, interpolation, polynomials, resampling.

Arrays are (time, individual, keypoint, space) with NaN where a keypoint is missing. Every number is made from a fixed
set of frames around it by the same operations in the same order wherever the array begins, so that the inner part of a
piece has the bits of the whole; that is why sums are loops over frames and not convolutions or running sums.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

_BLOCK = 1 << 22  # numbers sorted at a time
_LEAST = 3  # frames that a median is taken of
_BODY = 0.01  # of the body is the least robust deviation
_NORMAL = 1.4826  # median absolute deviations to standard deviations of a normal distribution


def seen(keypoints: np.ndarray) -> np.ndarray:
    """Where a keypoint is not missing, bool (time, individual, keypoint)."""
    return np.logical_and.reduce([~np.isnan(keypoints[..., axis]) for axis in range(keypoints.shape[-1])])


def medians(values: np.ndarray, half: int) -> np.ndarray:
    """Running median of what is not NaN over 2 half + 1 frames, float64 of the same shape; NaN below three values."""
    flat = values.reshape(len(values), -1)
    width = 2 * half + 1
    padded = np.full((len(flat) + 2 * half, flat.shape[1]), np.nan, dtype=flat.dtype)
    padded[half : half + len(flat)] = flat
    result = np.empty(flat.shape, dtype=np.float64)
    step = max(1, _BLOCK // (width * max(flat.shape[1], 1)))
    for start in range(0, len(flat), step):
        stop = min(start + step, len(flat))
        windows = np.lib.stride_tricks.sliding_window_view(padded[start : stop + 2 * half], width, axis=0)
        result[start:stop] = _middle(np.sort(windows, axis=-1))
    return result.reshape(values.shape)


def _middle(ordered: np.ndarray) -> np.ndarray:
    """Median along the last axis, sorted with NaN behind."""
    count = (~np.isnan(ordered)).sum(-1)
    upper = np.minimum(count // 2, ordered.shape[-1] - 1)[..., None]
    lower = np.maximum((count - 1) // 2, 0)[..., None]
    pair = [np.take_along_axis(ordered, at, -1)[..., 0].astype(np.float64) for at in (lower, upper)]
    return np.where(count >= _LEAST, (pair[0] + pair[1]) / 2, np.nan)


def outliers(keypoints: np.ndarray, half: int, times: float) -> np.ndarray:
    """Keypoints that the Hampel rule of ``cleaning.Outliers`` calls outliers, bool (time, individual, keypoint)."""
    frames, animals, points, space = keypoints.shape
    centre = medians(keypoints, half)
    away = _distance(keypoints, centre)
    least = _BODY * np.nan_to_num(medians(_extent(keypoints), half))[:, :, None]
    found = np.zeros(away.shape, dtype=bool)
    # Only where the least deviation is exceeded does the deviation itself have to be known.
    t, i, k = np.nonzero(away > times * least)
    padded = np.full((frames + 2 * half, animals, points, space), np.nan, dtype=keypoints.dtype)
    padded[half : half + frames] = keypoints
    step = max(1, _BLOCK // ((2 * half + 1) * space))
    for start in range(0, len(t), step):
        at = tuple(axis[start : start + step] for axis in (t, i, k))
        windows = padded[at[0][:, None] + np.arange(2 * half + 1), at[1][:, None], at[2][:, None]]
        spread = _NORMAL * _middle(np.sort(_distance(windows, centre[at][:, None]), axis=-1))
        found[at] = away[at] > times * np.maximum(spread, least[at[0], at[1], 0])
    return found


def _distance(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    total = np.zeros(np.broadcast_shapes(one.shape, other.shape)[:-1])
    for axis in range(one.shape[-1]):
        total += (one[..., axis] - other[..., axis]) ** 2
    return np.sqrt(total)


def _extent(keypoints: np.ndarray) -> np.ndarray:
    """Diagonal of the box around each animal, (time, individual)."""
    box = np.fmax.reduce(keypoints, axis=2) - np.fmin.reduce(keypoints, axis=2)
    return _distance(box, np.zeros_like(box))


def interpolated(keypoints: np.ndarray, longest: int) -> np.ndarray:
    """Gaps of at most so many frames filled linearly."""
    frames = len(keypoints)
    there = seen(keypoints)
    index = np.arange(frames).reshape(-1, 1, 1)
    before = np.maximum.accumulate(np.where(there, index, -1), axis=0)
    after = np.minimum.accumulate(np.where(there, index, frames)[::-1], axis=0)[::-1]
    t, i, k = np.nonzero(~there & (before >= 0) & (after < frames) & (after - before - 1 <= longest))
    result = keypoints.copy()
    start, stop = before[t, i, k], after[t, i, k]
    share = ((t - start) / (stop - start))[:, None]
    left, right = keypoints[start, i, k].astype(np.float64), keypoints[stop, i, k].astype(np.float64)
    result[t, i, k] = (left + (right - left) * share).astype(keypoints.dtype)
    return result


def smoothed(keypoints: np.ndarray, width: int, order: int) -> np.ndarray:
    """Savitzky-Golay over an odd number of frames within every seen stretch, as ``cleaning.Smooth`` says."""
    frames, half = len(keypoints), width // 2
    result = keypoints.copy()
    if frames < width:
        return result
    fit = _fit(width, order)
    inner = np.zeros((frames - width + 1, *keypoints.shape[1:]))
    for tap in range(width):
        inner += fit[half, tap] * keypoints[tap : tap + len(inner)]
    whole = ~np.isnan(inner).any(-1)  # one NaN in the window makes NaN
    result[half : frames - half][whole] = inner[whole]
    there = seen(keypoints)
    index = np.arange(frames).reshape(-1, 1, 1)
    since = index - np.maximum.accumulate(np.where(there, -1, index), axis=0)  # 1 at a stretch's first frame
    until = (np.minimum.accumulate(np.where(there, frames, index)[::-1], axis=0)[::-1]) - index
    edge = there & ((since <= half) | (until <= half)) & (since + until - 1 >= width)
    t, i, k = np.nonzero(edge)
    row = np.where(since[t, i, k] <= half, since[t, i, k] - 1, width - until[t, i, k])
    value = np.zeros((len(t), keypoints.shape[-1]))
    for tap in range(width):
        value += fit[row, tap][:, None] * keypoints[t - row + tap, i, k]
    result[t, i, k] = value
    return result


def _fit(width: int, order: int) -> np.ndarray:
    """Row r: weights of a window's frames in the value at its frame r of the polynomial fitted to it."""
    places = np.linspace(-1, 1, width)
    basis, _ = np.linalg.qr(np.polynomial.legendre.legvander(places, order))
    return np.asarray(basis @ basis.T)


def length(frames: int, ratio: Fraction) -> int:
    """How many new frames, ``ratio`` old ones apart, lie within so many old ones."""
    return (frames - 1) * ratio.denominator // ratio.numerator + 1 if frames > 0 else 0


def nearest(ratio: Fraction, start: int, stop: int) -> np.ndarray:
    """The old frame nearest to each new one from start to stop, the earlier of two, int64."""
    twice = 2 * np.arange(start, stop, dtype=np.int64) * ratio.numerator
    return (twice + ratio.denominator - 1) // (2 * ratio.denominator)


def resampled(values: np.ndarray, ratio: Fraction, start: int, stop: int, first: int = 0) -> np.ndarray:
    """New frames start to stop of float32 (time, ...) values, of which old frame ``first`` is the first row.

    A triangle as wide as the larger of an old and a new frame weighs what is seen; NaN where the nearest frame is.
    """
    above = np.arange(start, stop, dtype=np.int64) * ratio.numerator
    below = above // ratio.denominator
    part = (above % ratio.denominator) / ratio.denominator
    wide = max(float(ratio), 1.0)
    shape = (-1,) + (1,) * (values.ndim - 1)
    total = np.zeros((stop - start, *values.shape[1:]))
    weights = np.zeros_like(total)
    for offset in range(-int(wide), int(wide) + 2):
        weight = np.maximum(0.0, 1 - np.abs(offset - part) / wide)
        rows = below + offset - first
        inside = (rows >= 0) & (rows < len(values)) & (weight > 0)
        value = values[np.where(inside, rows, 0)].astype(np.float64)
        there = ~np.isnan(value) & inside.reshape(shape)
        share = np.where(there, weight.reshape(shape), 0.0)
        weights += share
        total += share * np.where(there, value, 0.0)
    middle = values[np.clip(nearest(ratio, start, stop) - first, 0, len(values) - 1)]
    known = ~np.isnan(middle)
    return np.where(known, total / np.where(weights > 0, weights, 1), np.nan).astype(np.float32)
