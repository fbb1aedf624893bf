"""Spike times of sorted units, and how they become counts in the frames of a recording.

Read from the units table of NWB files and from MATLAB cells of units (epoch, tetrode, unit) whose ``time`` is in
seconds, the form of the Frank and Kemere laboratories. Nothing in the files is run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ethoray.readers.contents import ReadError
from ethoray.readers.hdf5 import array, opened
from ethoray.readers.nwb_layout import located, numbers

_DEEPEST, _MOST_CELLS = 8, 1_000_000
_ROUNDING = 1e-9  # seconds


@dataclass(frozen=True)
class Spikes:
    """Sorted units and when each of them fired.

    Attributes
    ----------
    trains: per unit the spike times in seconds, float64, ascending.
    names: of the units.
    spans: float64 (stretch, 2), when spikes were recorded; empty where the file does not say.
    """

    trains: tuple[np.ndarray, ...]
    names: tuple[str, ...]
    spans: np.ndarray
    notes: tuple[str, ...] = ()


def counts(trains: Sequence[np.ndarray], start: float, fps: float, frames: int) -> tuple[np.ndarray, int]:
    """Spikes in each frame, float32 (frames, unit), and how many fall before the first or after the last frame.

    Frame n is the time from ``start + n / fps`` up to, but not including, ``start + (n + 1) / fps``. A spike that
    precedes an edge by less than float64 resolves there (at least 1 ns) is at the edge. The order of spikes does
    not matter. Raises ReadError for times that are not finite and for rates and lengths that are no such thing.
    """
    if frames < 1 or not (np.isfinite(fps) and fps > 0 and np.isfinite(start)):
        raise ReadError(f"spikes cannot be counted in {frames} frames of {fps:g} Hz from {start:g} s")
    edges = start + np.arange(frames + 1) / fps
    edges -= max(_ROUNDING, 4 * float(np.spacing(np.abs(edges).max())))
    found = np.zeros((frames, len(trains)), dtype=np.float32)
    outside = 0
    for unit, train in enumerate(trains):
        times = np.asarray(train, dtype=np.float64).reshape(-1)
        if not np.isfinite(times).all():
            raise ReadError(f"unit {unit} has {int((~np.isfinite(times)).sum())} spike times that are not finite")
        frame = np.searchsorted(edges, times, side="right") - 1
        inside = (frame >= 0) & (frame < frames)
        outside += int((~inside).sum())
        found[:, unit] = np.bincount(frame[inside], minlength=frames)
    return found, outside


def factor(fps: float, seconds: float) -> int:
    """How many frames make a bin of so many seconds; ReadError naming the nearest bins when it is no whole number."""
    exact = seconds * fps
    whole = max(1, round(exact))
    if not (np.isfinite(exact) and exact > 0) or abs(exact - whole) > 0.01 * whole:
        raise ReadError(
            f"a bin of {seconds:g} s is {exact:g} frames of {fps:g} Hz; choose a whole number of frames, "
            f"such as {whole / fps:.6g} or {(whole + 1) / fps:.6g} s"
        )
    return whole


def pooled(values: np.ndarray, size: int, how: str) -> np.ndarray:
    """Bins of ``size`` frames along the first axis: their "sum", or the "mean" of what is not NaN.

    Frames after the last full bin are left out; a bin in which everything is NaN is NaN.
    """
    bins = len(values) // size
    grouped = np.asarray(values, dtype=np.float64)[: bins * size].reshape(bins, size, *values.shape[1:])
    if how == "sum":
        return grouped.sum(1).astype(np.float32)
    seen = ~np.isnan(grouped)
    many = seen.sum(1)
    total = np.where(seen, grouped, 0).sum(1)
    return np.where(many > 0, total / np.maximum(many, 1), np.nan).astype(np.float32)


def of_nwb(path: Path) -> Spikes:
    """The units table of an NWB file; ReadError when there is none or its index does not fit its times."""
    with opened(path) as file:
        if located(path, file, "units/spike_times") is None:
            raise ReadError(f"{path}: no units/spike_times; it is a file without sorted units")
        times = numbers(path, file, "units/spike_times", "fiu").astype(np.float64)
        parts = _ragged(path, file, "units/spike_times_index", times)
        if located(path, file, "units/id") is not None:
            ids = tuple(str(i) for i in numbers(path, file, "units/id", "iu"))
        else:
            ids = tuple(str(i) for i in range(len(parts)))
        spans = np.empty((0, 2))
        if located(path, file, "units/obs_intervals") is not None:
            spans = _stretches(numbers(path, file, "units/obs_intervals", "fiu").astype(np.float64).reshape(-1, 2))
    if len(ids) != len(parts):
        raise ReadError(f"{path}: units has {len(ids)} ids and {len(parts)} units in spike_times_index")
    return _sorted(path, dict(zip(ids, parts, strict=True)), spans)


def of_matlab(path: Path) -> Spikes:
    """Units in the cells of a MATLAB file's variable ``spikes`` (version 5, or 7.3 through HDF5).

    A unit is named by its tetrode and its place there, from 1; the same unit in several epochs is one unit.
    """
    units: dict[str, list[np.ndarray]] = {}
    spans: list[np.ndarray] = []
    days = set()
    for place, train, span in _matlab(path):
        days |= {place[0]} if len(place) > 3 else set()
        units.setdefault("-".join(str(n + 1) for n in place[-2:]), []).append(train)
        spans += [span] if span.size == 2 else []
    if not units:
        raise ReadError(f"{path}: spikes holds no unit with a field time")
    if len(days) > 1:
        raise ReadError(f"{path}: units of {len(days)} days, which are not the same neurons; save a file for each")
    joined = {name: np.concatenate(parts) for name, parts in units.items()}
    return _sorted(path, joined, _stretches(np.array(spans).reshape(-1, 2)))


def _sorted(path: Path, units: dict[str, np.ndarray], spans: np.ndarray) -> Spikes:
    """Units that fired, their times in order; notes on those that did not, and on what was out of order."""
    silent = [name for name, train in units.items() if not len(train)]
    fired = {name: train for name, train in units.items() if len(train)}
    if not fired:
        raise ReadError(f"{path}: {len(units)} units, none of which has a spike")
    for name, train in fired.items():
        if not np.isfinite(train).all():
            raise ReadError(
                f"{path}: unit {name} has {int((~np.isfinite(train)).sum())} spike times that are not finite"
            )
    mixed = sum(bool((np.diff(train) < 0).any()) for train in fired.values())
    notes = [f"{len(silent)} units without a spike left out"] if silent else []
    notes += [f"spike times of {mixed} units were not in order and are sorted"] if mixed else []
    return Spikes(tuple(np.sort(train) for train in fired.values()), tuple(fired), spans, tuple(notes))


def _stretches(spans: np.ndarray) -> np.ndarray:
    """The union of stretches, in order."""
    merged: list[list[float]] = []
    for start, stop in sorted(spans.tolist()):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], stop)
        elif stop > start:
            merged.append([start, stop])
    return np.array(merged, dtype=np.float64).reshape(-1, 2)


def _ragged(path: Path, file: h5py.File, key: str, values: np.ndarray) -> list[np.ndarray]:
    ends = numbers(path, file, key, "iu").astype(np.int64)
    starts = np.concatenate([[0], ends[:-1]])
    if values.ndim != 1 or ends.ndim != 1 or not len(ends) or (ends < starts).any() or ends[-1] != len(values):
        raise ReadError(f"{path}: {key} does not divide spike_times of shape {values.shape}; is the file cut off?")
    return [values[a:b] for a, b in zip(starts, ends, strict=True)]


def _matlab(path: Path) -> Iterator[tuple[tuple[int, ...], np.ndarray, np.ndarray]]:
    """Place among the cells, spike times and recorded span of every unit."""
    try:
        with path.open("rb") as file:
            newer = file.read(520)[512:] == b"\x89HDF\r\n\x1a\n"
    except OSError as error:
        raise ReadError(f"cannot read {path}: {error.strerror or error}") from error
    if newer:
        with opened(path) as document:
            if not isinstance(document.get("spikes", getlink=True), h5py.HardLink):
                raise ReadError(f"{path}: no variable spikes; it holds {', '.join(list(document)[:20])}")
            yield from _cells_of_hdf5(path, document, document["spikes"], (), count())
        return
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        document = loadmat(str(path), variable_names=["spikes"])
    except (MatReadError, ValueError, TypeError, NotImplementedError, OSError, IndexError) as error:
        raise ReadError(f"{path}: not a readable MATLAB file ({error})") from error
    if "spikes" not in document:
        raise ReadError(f"{path}: no variable spikes; save the cells of units under that name")
    yield from _cells(path, document["spikes"], ())


def _cells(path: Path, cell: Any, place: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], np.ndarray, np.ndarray]]:
    if len(place) > _DEEPEST or not isinstance(cell, np.ndarray):
        return
    depth = len(place)
    if cell.dtype.names:
        if "time" not in cell.dtype.names:
            raise ReadError(f"{path}: unit {place} has fields {', '.join(cell.dtype.names)}, none is time")
        for n, unit in enumerate(cell.ravel(order="F")):
            place = (*place[:depth], n) if cell.size > 1 else place
            span = unit["timerange"] if "timerange" in cell.dtype.names else np.empty(0)
            yield place, _times(path, place, unit["time"]), np.asarray(span, dtype=np.float64).ravel()
    elif cell.dtype == object:
        for n, inner in enumerate(cell.ravel(order="F")):
            yield from _cells(path, inner, (*place, n))


def _cells_of_hdf5(
    path: Path, file: h5py.File, thing: Any, place: tuple[int, ...], visits: Iterator[int]
) -> Iterator[tuple[tuple[int, ...], np.ndarray, np.ndarray]]:
    """The same in version 7.3, where cells are references to objects of the file and axes are turned."""
    if len(place) > _DEEPEST or next(visits) > _MOST_CELLS:
        raise ReadError(f"{path}: spikes is nested more than {_DEEPEST} deep or holds more than {_MOST_CELLS} cells")
    if isinstance(thing, h5py.Group):
        key = located(path, file, f"{thing.name}/time")
        if key is None:
            raise ReadError(f"{path}: unit {place} has fields {', '.join(thing)}, none is time")
        times = np.empty(0) if "MATLAB_empty" in file[key].attrs else numbers(path, file, key)
        ranged = located(path, file, f"{thing.name}/timerange") is not None
        span = numbers(path, file, f"{thing.name}/timerange", "fiu") if ranged else np.empty(0)
        yield place, _times(path, place, times), np.asarray(span, dtype=np.float64).ravel()
    elif isinstance(thing, h5py.Dataset) and h5py.check_ref_dtype(thing.dtype) is h5py.Reference:
        for n, reference in enumerate(array(path, file, str(thing.name).lstrip("/"), "O").ravel()):
            if not reference:
                raise ReadError(f"{path}: cell {(*place, n)} of spikes refers to nothing; save the file again")
            yield from _cells_of_hdf5(path, file, file[reference], (*place, n), visits)


def _times(path: Path, place: tuple[int, ...], found: Any) -> np.ndarray:
    times = np.asarray(found)
    if times.dtype.kind not in "fiu":
        raise ReadError(f"{path}: time of unit {place} is {times.dtype}, not numbers")
    return times.astype(np.float64).ravel()
