"""Position of one or two LEDs on an animal, tracked by SpikeGadgets' Trodes (.videoPositionTracking).

A text header, then records of a clock tick (uint32, 30000 a second unless the header says otherwise) and x, y of each
LED in pixels. Ticks are those of the neural recording, so spikes in seconds are on the same clock. Frames arrive
unevenly; they are read onto a regular grid at the camera's whole rate, each grid time taking the nearest frame that
is no further than one and a half intervals, else NaN.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ethoray.readers.contents import ReadError, Tracks, masked, numbered, without

WHAT = "Trodes position tracking (.videoPositionTracking)"
_BEGIN, _END = b"<Start settings>", b"<End settings>\n"
_TYPES = {f"{kind}{bits}": f"<{kind[0]}{bits // 8}" for kind in ("uint", "int") for bits in (8, 16, 32, 64)} | {
    "float": "<f4",
    "double": "<f8",
}
_FIELD = re.compile(r"<(\w+) (\w+)>")
_REACH = 1.5  # frames
_MOST_FRAMES = 1 << 28


@dataclass(frozen=True)
class Samples:
    """What the camera gave: seconds float64 (sample,), pixels float64 (sample, LED, 2), names of LEDs, notes."""

    seconds: np.ndarray
    pixels: np.ndarray
    names: tuple[str, ...]
    notes: tuple[str, ...]


def sniffs(head: bytes, path: Path) -> bool:
    """Whether it begins with Trodes' settings and has the fields of positions."""
    return head.startswith(_BEGIN) and b"<xloc " in head.partition(_END)[0]


def tracks(path: Path, ignore: Sequence[str] = (), min_confidence: float = 0.0) -> Tracks:
    """Read one file onto a regular grid; LEDs in ``ignore`` are left out."""
    return regular(path, ignore, min_confidence)[0]


def regular(path: Path, ignore: Sequence[str] = (), min_confidence: float = 0.0) -> tuple[Tracks, float]:
    """The tracks, and the second of the recording's clock at which frame 0 was taken."""
    found = samples(path)
    fps = rate(path, found.seconds)
    start = float(found.seconds[0])
    frames = int(np.floor((found.seconds[-1] - start) * fps + 1e-6)) + 1
    if frames > _MOST_FRAMES:
        raise ReadError(f"{path}: the clock runs for {found.seconds[-1] - start:g} s, more than can be read at once")
    grid = start + np.arange(frames) / fps
    after = np.searchsorted(found.seconds, grid).clip(1, len(found.seconds) - 1)
    nearest = np.where(grid - found.seconds[after - 1] <= found.seconds[after] - grid, after - 1, after)
    away = np.abs(found.seconds[nearest] - grid) * fps
    places = without(path, found.names, ignore)
    keypoints = found.pixels[nearest][:, None, places].astype(np.float32)
    keypoints[away > _REACH] = np.nan
    notes = [
        *found.notes,
        f"{len(found.seconds)} samples put on {frames} frames of {fps:g} Hz, the nearest in time to each",
        f"{int((away > _REACH).sum())} frames without a sample within {_REACH:g} intervals are missing",
        *masked(path, keypoints, None, min_confidence),
    ]
    return Tracks(keypoints, None, numbered(1), tuple(found.names[i] for i in places), tuple(notes), fps), start


def rate(path: Path, seconds: np.ndarray) -> float:
    """Frames per second: one over the median interval, as a whole number where that is within 1 %."""
    step = float(np.median(np.diff(seconds)))
    if step <= 0:
        raise ReadError(f"{path}: half of the samples share their clock tick; it gives no frame rate")
    exact = 1 / step
    return float(round(exact)) if abs(exact - round(exact)) < 0.01 * exact else round(exact, 3)


def samples(path: Path) -> Samples:
    """Every record of the file; ReadError names a field that is missing and a clock that goes back."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ReadError(f"cannot read {path}: {error.strerror or error}") from error
    header, end, body = data.partition(_END)
    if not end or not header.startswith(_BEGIN):
        raise ReadError(f"{path}: the settings at its head do not end; is the file cut off?")
    settings = dict(line.split(": ", 1) for line in header.decode("latin-1").splitlines() if ": " in line)
    fields = _FIELD.findall(settings.get("Fields", ""))
    unknown = [kind for _, kind in fields if kind not in _TYPES]
    lacking = [name for name in ("time", "xloc", "yloc") if name not in dict(fields)]
    if unknown or lacking:
        raise ReadError(
            f"{path}: Fields names no {', '.join(lacking)}{' and unknown ' if unknown else ''}{unknown or ''}"
        )
    kinds = np.dtype([(name, _TYPES[kind]) for name, kind in fields])
    whole = len(body) // kinds.itemsize
    if whole < 2:
        raise ReadError(f"{path}: {whole} records after the settings; at least two are needed")
    rows = np.frombuffer(body, kinds, whole)
    notes = [f"{len(body) % kinds.itemsize} bytes after the last whole record left out"] * bool(
        len(body) % kinds.itemsize
    )
    hertz = settings.get("clockrate", "30000")
    if not hertz.isdigit() or not int(hertz):
        raise ReadError(f"{path}: clockrate {hertz!r} is not a number of ticks a second")
    ticks = rows["time"].astype(np.int64)
    steps = np.diff(ticks)
    steps[steps < -(1 << 31)] += 1 << 32  # a uint32 clock begins anew after 40 hours
    if (steps < 0).any():
        n = int(np.argmax(steps < 0))
        raise ReadError(f"{path}: the clock goes back from {ticks[n]} to {ticks[n + 1]} at record {n + 1}")
    seconds = np.concatenate([ticks[:1], ticks[0] + np.cumsum(steps)]) / int(hertz)
    lights = [("led", "xloc", "yloc")]
    if {"xloc2", "yloc2"} <= set(dict(fields)) and (rows["xloc2"].any() or rows["yloc2"].any()):
        lights.append(("led2", "xloc2", "yloc2"))
    pixels = np.stack([np.stack([rows[x], rows[y]], -1) for _, x, y in lights], 1).astype(np.float64)
    return Samples(seconds, pixels, tuple(name for name, *_ in lights), tuple(notes))
