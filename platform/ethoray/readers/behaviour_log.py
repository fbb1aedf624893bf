"""Behaviour logs of Stytra (and of Bouter, which reads them): larval zebrafish as angles over time, in HDF5.

The log is a data frame ``data`` with the time ``t`` (s) and one of three sets of columns. They become keypoints so
that every number can be had back:

- freely swimming, f<i>_x, f<i>_y, f<i>_theta, f<i>_theta_00...: every fish is an individual. ``head`` is at (x, y).
  From it a chain of segments, each one unit of the picture long, goes down the body: the first, to ``tail_base``, in
  the direction theta, the one after theta_j, to ``tail_<j+1>``, in the direction theta + theta_j. Fish swim against
  theta: it points backwards.
- head fixed, theta_00...: ``tail_base`` is at (0, 0), ``head`` at (-1, 0), and the chain's segments have the
  directions theta_j. tail_sum is a sum of those and is left out.
- eyes, pos_x_e<k>, pos_y_e<k>, dim_x_e<k>, th_e<k> (degrees): ``eye_<k>`` is the centre of the ellipse and
  ``eye_<k>_end`` lies dim_x / 2 away in the direction th.

Directions are counted from the x axis towards the y axis. Angles and their order are true, lengths of tails are not.

Rows are the frames, at the mean rate, as long as no row is further than 0.05 s from that regular clock. Otherwise (the
camera paused) each tick of the clock takes the row nearest in time, none where the nearest is more than a frame away.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from ethoray.readers import blosc
from ethoray.readers.contents import ReadError, Tracks, masked, without
from ethoray.readers.hdf5 import SIGNATURE, opened

WHAT = "Stytra behaviour log of zebrafish (h5)"

_OFF_CLOCK = 0.05  # seconds
_FISH = re.compile(r"f(\d+)_x")
_EYE = re.compile(r"pos_x_e(\d+)")


def sniffs(head: bytes, path: Path) -> bool:
    """Whether the data frame ``data`` has one level of columns, the time among them."""
    if not head.startswith(SIGNATURE):
        return False
    with opened(path) as file:
        group = file.get("data") if isinstance(file.get("data", getlink=True), h5py.HardLink) else None
        if not isinstance(group, h5py.Group) or group.attrs.get("pandas_type") not in (b"frame", "frame"):
            return False
        return "axis0" in group and "t" in blosc.texts(path, group, "axis0")


def tracks(path: Path, ignore: Sequence[str] = (), min_confidence: float = 0.0) -> Tracks:
    """Read one file; keypoints in ``ignore`` are left out. Such logs state no confidence."""
    columns = _columns(path)
    time = columns.pop("t")
    if len(time) < 2 or not np.isfinite(time).all() or (np.diff(time) <= 0).any():
        raise ReadError(f"{path}: its times t do not rise from row to row; is the log damaged?")
    fish = sorted(int(m[1]) for m in map(_FISH.fullmatch, columns) if m)
    eyes = sorted(int(m[1]) for m in map(_EYE.fullmatch, columns) if m)
    if fish:
        individuals = tuple(f"f{i}" for i in fish)
        bodies = [_swimming(path, columns, name) for name in individuals]
        if len({names for names, _ in bodies}) > 1:
            raise ReadError(f"{path}: its fish have different numbers of tail angles")
        names, points = bodies[0][0], np.stack([body for _, body in bodies], 1)
    elif "theta_00" in columns:
        individuals, (names, body) = ("fish",), _fixed(columns)
        points = body[:, None]
    elif eyes:
        individuals, (names, body) = ("fish",), _eyes(path, columns, eyes)
        points = body[:, None]
    else:
        raise ReadError(
            f"{path}: a log without a fish, a tail or eyes (its columns: {', '.join(list(columns)[:6])}); give the "
            "behaviour log, whose name ends in behavior_log"
        )
    points, fps, notes = _on_the_clock(points, time)
    places = without(path, names, ignore)
    keypoints = np.ascontiguousarray(points[:, :, places], dtype=np.float32)
    notes += masked(path, keypoints, None, min_confidence)
    return Tracks(keypoints, None, individuals, tuple(names[i] for i in places), notes, fps)


def chain(start: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Ends of segments of length one that begin at ``start`` (time, 2); directions (time, segment) in radians."""
    steps = np.stack([np.cos(directions), np.sin(directions)], -1)
    return np.asarray(start[:, None] + np.cumsum(steps, 1))


def _columns(path: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    with opened(path) as file:
        group = file["data"]
        for block in range(len(group)):
            if f"block{block}_values" not in group:
                break
            values = blosc.array(path, group, f"block{block}_values", "fiub").astype(np.float64)
            names = blosc.texts(path, group, f"block{block}_items")
            if np.isinf(values).any():
                raise ReadError(f"{path}: data/block{block}_values holds infinite numbers")
            if values.ndim != 2 or values.shape[1] != len(names) or set(names) & set(found):
                raise ReadError(f"{path}: data/block{block}_values {values.shape} has no names of columns that fit")
            found.update(zip(names, values.T, strict=True))
    if "t" not in found or len({len(values) for values in found.values()}) != 1:
        raise ReadError(f"{path}: data names a column t and does not hold it")
    return found


def _angles(columns: Mapping[str, np.ndarray], before: str) -> np.ndarray:
    names = sorted(name for name in columns if re.fullmatch(re.escape(before) + r"theta_\d+", name))
    frames = len(next(iter(columns.values())))
    return np.stack([columns[name] for name in names], 1) if names else np.empty((frames, 0))


def _swimming(path: Path, columns: Mapping[str, np.ndarray], fish: str) -> tuple[tuple[str, ...], np.ndarray]:
    for name in ("y", "theta"):
        if f"{fish}_{name}" not in columns:
            raise ReadError(f"{path}: {fish} has no column {fish}_{name}")
    head = np.stack([columns[f"{fish}_x"], columns[f"{fish}_y"]], -1)
    heading = columns[f"{fish}_theta"][:, None]
    tail = _angles(columns, f"{fish}_")
    names = ("head", "tail_base", *(f"tail_{j + 1:02d}" for j in range(tail.shape[1])))
    body = chain(head, heading + np.concatenate([np.zeros_like(heading), tail], 1))
    return names, np.concatenate([head[:, None], body], 1)


def _fixed(columns: Mapping[str, np.ndarray]) -> tuple[tuple[str, ...], np.ndarray]:
    angles = _angles(columns, "")
    start = np.zeros((len(angles), 1, 2))
    names = ("head", "tail_base", *(f"tail_{j + 1:02d}" for j in range(angles.shape[1])))
    return names, np.concatenate([start - [1.0, 0.0], start, chain(start[:, 0], angles)], 1)


def _eyes(path: Path, columns: Mapping[str, np.ndarray], eyes: Sequence[int]) -> tuple[tuple[str, ...], np.ndarray]:
    names: list[str] = []
    points: list[np.ndarray] = []
    for eye in eyes:
        for name in (f"pos_y_e{eye}", f"dim_x_e{eye}", f"th_e{eye}"):
            if name not in columns:
                raise ReadError(f"{path}: eye {eye} has no column {name}")
        centre = np.stack([columns[f"pos_x_e{eye}"], columns[f"pos_y_e{eye}"]], -1)
        angle = np.radians(columns[f"th_e{eye}"])
        reach = columns[f"dim_x_e{eye}"][:, None] / 2 * np.stack([np.cos(angle), np.sin(angle)], -1)
        names += [f"eye_{eye}", f"eye_{eye}_end"]
        points += [centre, centre + reach]
    return tuple(names), np.stack(points, 1)


def _on_the_clock(points: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, float, tuple[str, ...]]:
    """The rows of a regular clock, its rate, and what was measured of the one in the file."""
    fps = (len(time) - 1) / float(time[-1] - time[0])
    steps, ticks = np.diff(time), time[0] + np.arange(len(time)) / fps
    drift = float(np.abs(time - ticks).max())
    uneven = (
        f"times are {1000 * steps.min():.1f} to {1000 * steps.max():.1f} ms apart (median "
        f"{1000 * np.median(steps):.1f}), up to {1000 * drift:.0f} ms off a regular clock of {fps:.6g} frames a second"
    )
    if drift <= _OFF_CLOCK:
        return points, round(fps, 6), (uneven,)
    after = np.clip(np.searchsorted(time, ticks), 1, len(time) - 1)
    nearest = np.where(ticks - time[after - 1] <= time[after] - ticks, after - 1, after)
    near = np.abs(time[nearest] - ticks) <= 1 / fps
    resampled = np.where(near[:, None, None, None], points[nearest], np.nan)
    lost = len(time) - len(np.unique(nearest[near]))
    put = f"each frame is the row nearest in time: {lost} rows fall away, {int((~near).sum())} frames have none"
    return resampled, round(fps, 6), (f"{uneven}; {put}",)
