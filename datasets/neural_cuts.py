"""What a neural session is cut by: bins out of rates, recorded time, a stuck tracker, blocks; pure functions."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ethoray.readers import ReadError

BESIDE = 1.0
"""Seconds left out between two blocks, so that neighbours in time are not on two sides of the split."""


def counted(path: Path, rates: np.ndarray) -> tuple[np.ndarray, float]:
    """Spike counts and seconds of a bin out of rates (spikes/s), which are all multiples of one spike in a bin.

    ReadError when they are not, and when the file's name says another bin ("bin100ms").
    """
    levels = np.unique(rates)
    if not np.isfinite(rates).all() or levels[0] < 0 or levels[-1] == 0:
        raise ReadError(f"{path}: firing_rates has values that are no rates, or no spike at all")
    one = float(np.diff(np.union1d(0, levels)).min())
    counts = rates / one
    if np.abs(counts - np.round(counts)).max() > 1e-3:
        raise ReadError(
            f"{path}: firing_rates are not multiples of {one:g} spikes/s, so no counts; were they smoothed?"
        )
    seconds = round(1 / one, 9)
    said = re.search(r"bin(\d+)ms", path.name)
    if said and abs(int(said[1]) / 1000 - seconds) > 1e-6:
        raise ReadError(f"{path}: its name says bins of {said[1]} ms, its rates say {1000 * seconds:g} ms")
    return np.round(counts).astype(np.float32), seconds


def directions(labels: np.ndarray, moved: np.ndarray) -> dict[float, str]:
    """A name for every label: the angle of its mean movement, to 45 degrees, or its number when two would be alike."""
    names = {}
    for label in np.unique(labels):
        x, y = moved[labels == label].mean(0)
        names[float(label)] = f"{round(float(np.degrees(np.arctan2(y, x))) / 45) % 8 * 45} degrees"
    alike = len(set(names.values())) < len(names)
    return {label: f"reach {label:g}" if alike else name for label, name in names.items()}


def during(spans: np.ndarray, start: float, fps: float, frames: int) -> np.ndarray:
    """Bool (frames,): the whole frame lies in one of the stretches (s); all of them when there are none."""
    if not len(spans):
        return np.ones(frames, dtype=bool)
    left = start + np.arange(frames) / fps
    return np.any([(left >= a - 1e-9) & (left + 1 / fps <= b + 1e-9) for a, b in spans], axis=0)


def still(keypoints: np.ndarray, least: int) -> np.ndarray:
    """Bool (time,): part of a run of at least so many frames in which no coordinate changes at all."""
    flat = np.nan_to_num(keypoints.reshape(len(keypoints), -1), nan=-1.0)
    begins = np.flatnonzero(np.concatenate([[True], (np.diff(flat, axis=0) != 0).any(1)]))
    lengths = np.diff(np.append(begins, len(flat)))
    return np.repeat(lengths >= least, lengths)


def blocks(recorded: np.ndarray, seen: np.ndarray, length: int, gap: int) -> tuple[list[tuple[int, int]], int]:
    """First and last-plus-one frames of blocks with gaps between, and how many were left out as unseen."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], recorded.astype(np.int8), [0]])))
    whole = [(n, n + length) for a, b in edges.reshape(-1, 2) for n in range(a, b - length + 1, length + gap)]
    kept = [(int(a), int(b)) for a, b in whole if 2 * seen[a:b].sum() >= length]
    return kept, len(whole) - len(kept)
