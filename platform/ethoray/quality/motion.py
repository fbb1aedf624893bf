"""How tracked animals move from frame to frame: steps, body sizes and exchanged identities, counted in fixed bins.

Arrays are (time, individual, keypoint, space) with NaN where a keypoint is missing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BINS = 2040
"""Bins of a length: eight to every doubling of its square, from zero to the largest float32."""

CLOSER = 0.5
"""An exchange is likely when it brings both animals this many times closer to where they were."""


def binned(squares: np.ndarray) -> np.ndarray:
    """The bin of every squared length (float32, no NaN): its exponent and the first three bits after."""
    return np.minimum(np.ascontiguousarray(squares, dtype=np.float32).view(np.int32) >> 20, BINS - 1)


def edges() -> np.ndarray:
    """The smallest length in each bin, float64 (BINS,)."""
    return np.sqrt((np.arange(BINS, dtype=np.int32) << 20).view(np.float32).astype(np.float64))


def quantile(counts: np.ndarray, share: float) -> float:
    """The lower edge of the bin in which that share of the counted lengths is reached; NaN of nothing."""
    total = counts.sum()
    if not total:
        return float("nan")
    return float(edges()[np.searchsorted(counts.cumsum(), share * total)])


def packed(counts: np.ndarray) -> list[int]:
    """Counts without the zeros at both ends, behind the place of the first."""
    there = np.flatnonzero(counts)
    return [int(there[0]), *counts[there[0] : there[-1] + 1].tolist()] if len(there) else [0]


def unpacked(counts: Sequence[int], bins: int) -> np.ndarray:
    """So many bins out of what ``packed`` gave."""
    found = np.zeros(bins, dtype=np.int64)
    found[counts[0] : counts[0] + len(counts) - 1] = counts[1:]
    return found


def squared(keypoints: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Squared distances between keypoints, without the last axis."""
    total = (keypoints[..., 0] - others[..., 0]) ** 2
    for axis in range(1, keypoints.shape[-1]):
        total += (keypoints[..., axis] - others[..., axis]) ** 2
    return np.asarray(total)


def bodies(keypoints: np.ndarray) -> np.ndarray:
    """Squared diagonal of the box around each animal with two keypoints or more, float32 (animals seen,)."""
    several = (~np.isnan(keypoints[..., 0])).sum(-1) > 1
    found = keypoints[several]
    return squared(found_max(found), -found_max(-found))


def found_max(keypoints: np.ndarray) -> np.ndarray:
    """Largest coordinates over an animal's keypoints, NaN left aside."""
    return np.asarray(np.fmax.reduce(keypoints, axis=-2))


def centroids(keypoints: np.ndarray) -> np.ndarray:
    """Mean of the keypoints that are seen, float64 (time, individual, space)."""
    there = ~np.isnan(keypoints[..., 0])
    total = np.zeros((*keypoints.shape[:2], keypoints.shape[-1]))
    for k in range(keypoints.shape[2]):
        total += np.where(there[:, :, k, None], keypoints[:, :, k], 0)
    with np.errstate(invalid="ignore"):
        return np.asarray(total / there.sum(-1)[..., None])


def exchanges(keypoints: np.ndarray, first: int, longest: int) -> list[tuple[int, int, int]]:
    """Likely identity swaps: (frame, individual, individual) from frame ``first`` on, in order.

    Two animals are compared with where each was last seen, at most ``longest`` frames ago. When their centroids are
    closer to each other's place than to their own, the mean distance over keypoints decides: less than half as far
    after an exchange is a likely swap. A swap that is undone later counts twice, once each way.
    """
    frames, animals = keypoints.shape[:2]
    if animals < 2 or not keypoints.shape[2]:
        return []
    middle = centroids(keypoints)
    there = ~np.isnan(middle[..., 0])
    index = np.arange(frames)[:, None]
    last = np.full((frames, animals), -1)
    last[1:] = np.maximum.accumulate(np.where(there, index, -1), axis=0)[:-1]
    known = there & (last >= 0) & (index - last <= longest)
    known[:first] = False
    own = np.take_along_axis(middle, np.maximum(last, 0)[..., None], axis=0)
    found = []
    for a in range(animals):
        for b in range(a + 1, animals):
            t = np.flatnonzero(known[:, a] & known[:, b])
            kept = _far(middle[t, a], own[t, a]) + _far(middle[t, b], own[t, b])
            t = t[_far(middle[t, a], own[t, b]) + _far(middle[t, b], own[t, a]) < kept]
            here, before = (keypoints[t, a], keypoints[t, b]), (keypoints[last[t, a], a], keypoints[last[t, b], b])
            kept = _apart(here[0], before[0]) + _apart(here[1], before[1])
            swapped = _apart(here[0], before[1]) + _apart(here[1], before[0])
            found += [(int(frame), a, b) for frame in t[swapped < CLOSER * kept]]
    return sorted(found)


def _far(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.asarray(np.sqrt(squared(one, other)))


def _apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Mean distance over the keypoints that both have, (pair,); NaN when there is none."""
    total, count = np.zeros(len(one)), np.zeros(len(one))
    for k in range(one.shape[1]):
        away = _far(one[:, k].astype(np.float64), other[:, k])
        there = ~np.isnan(away)
        total += np.where(there, away, 0)
        count += there
    with np.errstate(invalid="ignore"):
        return np.asarray(total / count)
