"""How an NWB file is laid out: typed groups, links within the file, and the clock of a time series.

NWB is plain HDF5. Every object says its type in the attribute ``neurodata_type``; what several objects share is
stored once and linked softly; time is either ``timestamps`` or a ``starting_time`` with a rate (NWB schema 2).
Links are followed inside the file only, and schemas that the file brings along are not loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from ethoray.readers.contents import ReadError
from ethoray.readers.hdf5 import SIGNATURE, array, opened

_ROOTS = ("processing", "acquisition", "analysis")
_MOST_OBJECTS, _MOST_LINKS = 100_000, 40
_OFF_GRID = 0.5  # frames: further off, the nearest frame is no longer the one that was meant
_WORTH_A_NOTE = 0.1  # frames


@dataclass(frozen=True)
class Clock:
    """When samples were taken: sample ``n`` belongs to frame ``frame[n]``, taken ``start + frame / fps`` seconds in.

    Attributes
    ----------
    frame: int64, from 0, increasing; frames that no sample belongs to were dropped.
    off: how far the samples are from that grid at the most, in frames.
    """

    start: float
    fps: float
    frame: np.ndarray
    off: float = 0.0

    @property
    def frames(self) -> int:
        """Length of the grid."""
        return int(self.frame[-1]) + 1

    def notes(self) -> tuple[str, ...]:
        """What a reader should know of the grid: dropped frames, uneven timestamps."""
        lost = self.frames - len(self.frame)
        found = [f"{lost} of {self.frames} frames have no timestamp and are missing"] if lost else []
        if self.off > _WORTH_A_NOTE:
            found.append(f"timestamps are up to {self.off:.2f} frames off a regular {self.fps:g} Hz")
        return tuple(found)


def is_nwb(head: bytes, path: Path) -> bool:
    """Whether the file is HDF5 that calls itself NWB."""
    if not head.startswith(SIGNATURE):
        return False
    with opened(path) as file:
        return "nwb_version" in file.attrs


def kind(thing: object) -> str:
    """The neurodata type of a group or dataset, empty where it has none."""
    return attribute(thing, "neurodata_type")


def attribute(thing: object, name: str) -> str:
    """An attribute as text, empty where there is none."""
    if not isinstance(thing, h5py.Group | h5py.Dataset):
        return ""
    try:
        found = thing.attrs.get(name, "")
    except (OSError, TypeError, ValueError):
        return ""
    return found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)


def measure(path: Path, file: h5py.File, key: str, name: str, default: float) -> float:
    """A finite number out of an attribute; ReadError naming it otherwise."""
    found = file[key].attrs.get(name, default)
    try:
        value = float(found)
    except (TypeError, ValueError):
        value = float("nan")
    if not np.isfinite(value):
        raise ReadError(f"{path}: attribute {name} of {key} is {found!r}, not a number")
    return value


def located(path: Path, file: h5py.File, key: str) -> str | None:
    """Where a key really stands, once links inside the file are followed; None where nothing does.

    A link that leads to another file, and links that lead in a circle, are refused.
    """
    ahead = [part for part in key.split("/") if part][::-1]
    here: list[str] = []
    links = 0
    while ahead:
        name = ahead.pop()
        group = file["/" + "/".join(here)]
        link = group.get(name, getlink=True) if isinstance(group, h5py.Group) else None
        if link is None:
            return None
        if isinstance(link, h5py.HardLink):
            here.append(name)
            continue
        if not isinstance(link, h5py.SoftLink):
            target = getattr(link, "filename", "elsewhere")
            raise ReadError(f"{path}: {key} is a link to another file ({target!r}), which is not followed; copy it in")
        links += 1
        if links > _MOST_LINKS:
            raise ReadError(f"{path}: {key} is a link that leads in a circle")
        here = [] if link.path.startswith("/") else here
        ahead += [part for part in link.path.split("/") if part not in ("", ".")][::-1]
    return "/" + "/".join(here)


def typed(path: Path, file: h5py.File) -> Iterator[tuple[str, str]]:
    """Key and type of every typed group under processing, acquisition and analysis, outer ones first."""
    seen: set[tuple[int, int]] = set()
    ahead = [f"/{root}" for root in reversed(_ROOTS) if isinstance(file.get(root, getlink=True), h5py.HardLink)]
    while ahead:
        key = ahead.pop()
        group = file[key]
        if not isinstance(group, h5py.Group):
            continue
        info = h5py.h5o.get_info(group.id)
        if (info.fileno, info.addr) in seen:
            continue
        seen.add((info.fileno, info.addr))
        if len(seen) > _MOST_OBJECTS:
            raise ReadError(f"{path}: holds more than {_MOST_OBJECTS} groups; that is no recording of behaviour")
        if kind(group):
            yield key, kind(group)
        hard = [name for name in group if isinstance(group.get(name, getlink=True), h5py.HardLink)]
        ahead += [f"{key}/{name}" for name in reversed(hard)]


def numbers(path: Path, file: h5py.File, key: str, kinds: str = "fiub") -> np.ndarray:
    """The numbers at a key, links followed; ReadError names the key otherwise."""
    place = located(path, file, key)
    if place is None:
        raise ReadError(f"{path}: no {key}")
    return array(path, file, place.lstrip("/"), kinds)


def clock(path: Path, file: h5py.File, series: str, samples: int) -> Clock:
    """The clock of a time series of so many samples."""
    if located(path, file, f"{series}/timestamps") is not None:
        times = numbers(path, file, f"{series}/timestamps", "fiu").astype(np.float64)
        if times.shape != (samples,):
            raise ReadError(f"{path}: {series} has {samples} samples and timestamps of shape {times.shape}")
        return fitted(path, times, f"{series}/timestamps")
    place = located(path, file, f"{series}/starting_time")
    if place is None:
        raise ReadError(f"{path}: {series} has neither timestamps nor starting_time, so no frame rate")
    start = float(numbers(path, file, place, "fiu").reshape(-1)[0])
    rate = measure(path, file, place, "rate", float("nan"))
    if rate <= 0 or not np.isfinite(start):
        raise ReadError(f"{path}: {place} is {start:g} s at a rate of {rate:g} Hz")
    return Clock(start, rate, np.arange(samples))


def fitted(path: Path, times: np.ndarray, key: str) -> Clock:
    """The regular grid that timestamps (s) lie on, dropped frames included.

    ReadError naming numbers when they go back, and when they are half a frame or more off any regular grid.
    """
    if len(times) < 2 or not np.isfinite(times).all():
        raise ReadError(f"{path}: {key} has {len(times)} values, {np.isfinite(times).sum()} finite; two are needed")
    steps = np.diff(times)
    if (steps <= 0).any():
        n = int(np.argmax(steps <= 0))
        raise ReadError(
            f"{path}: {key} does not increase: {times[n]:.6f} s (sample {n}) is followed by "
            f"{times[n + 1]:.6f} s; sort the samples, or save each stretch as its own file"
        )
    single = steps < 1.5 * float(np.quantile(steps, 0.5, method="lower"))
    frame = np.concatenate([[0], np.cumsum(np.round(steps / steps[single].mean()))])
    middle = frame.mean()
    spread = float(((frame - middle) ** 2).sum())
    rate = spread / float(((frame - middle) * (times - times.mean())).sum()) if spread else float("nan")
    best = _off(times, frame, rate)[1]
    if not best < _OFF_GRID or frame[-1] < len(times) - 1 or (np.diff(frame) < 1).any():
        raise ReadError(
            f"{path}: {key} is not regular: steps of {1e3 * steps.min():.3f} to {1e3 * steps.max():.3f} ms around "
            f"{1e3 * np.median(steps):.3f} ms, off a grid by {best:.2f} frames where less than {_OFF_GRID:g} is read; "
            "resample the track to one rate"
        )
    for digits in range(7):  # the roundest rate that fits as well
        fps = round(rate, digits)
        start, off = _off(times, frame, fps) if fps > 0 else (0.0, np.inf)
        if off < min(best + 0.05, _OFF_GRID):
            return Clock(start, fps, frame.astype(np.int64), off)
    return Clock(_off(times, frame, rate)[0], rate, frame.astype(np.int64), best)


def _off(times: np.ndarray, frame: np.ndarray, fps: float) -> tuple[float, float]:
    """The best start of a grid of this rate, and how many frames the times are off it at the most."""
    rest = times - frame / fps
    start = float(rest.min() + rest.max()) / 2
    return start, float(np.abs(rest - start).max() * fps)
