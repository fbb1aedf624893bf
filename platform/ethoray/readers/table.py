"""A long table of tracks, csv or Parquet: a row for every frame, individual and keypoint.

Columns: frame or time (s), keypoint, x, y, and where there are such things recording, individual, z and confidence.
With both frame and time, or with time alone, the frame rate is that of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from ethoray.readers.contents import ReadError, Tracks, decode, masked, numbered, rows, separator, stem, without

WHAT = "a long table (csv or Parquet with columns frame or time, individual, keypoint, x, y)"
_NAMES = {
    "recording": ("recording", "video", "session"),
    "frame": ("frame", "frame_index", "frame_idx"),
    "time": ("time", "time (s)", "time_s", "seconds"),
    "individual": ("individual", "animal", "track", "mouse"),
    "keypoint": ("keypoint", "bodypart", "node"),
    "x": ("x",),
    "y": ("y",),
    "z": ("z",),
    "confidence": ("confidence", "likelihood", "score"),
}
_TEXT = ("recording", "individual", "keypoint")
_MOST_POSITIONS = 1 << 30
_OFF_GRID = 0.1  # frames


def sniffs(head: bytes, path: Path) -> bool:
    """Whether the columns are those of a long table."""
    if head.startswith(b"PAR1"):
        try:
            names = pq.read_schema(path).names
        except (pa.ArrowException, OSError) as error:
            raise ReadError(f"{path}: not a whole Parquet file, is it cut off? ({error})") from error
    else:
        first = next(iter(decode(head).splitlines()), "")
        names = rows(first, separator(first))[0] if first.strip() else []
    known = _columns(path, names)
    return {"keypoint", "x", "y"} <= set(known) and bool({"frame", "time"} & set(known))


def tracks(path: Path, ignore: Sequence[str] = (), min_confidence: float = 0.0) -> Tracks:
    """Read one file; keypoints in ``ignore`` are left out, those less confident than the minimum become NaN."""
    table = _one_recording(path, _read(path))
    if not len(table):
        raise ReadError(f"{path}: the header is followed by no row")
    frame, fps = _frames(path, table)
    names, point = _codes(path, table, "keypoint")
    animals, animal = _codes(path, table, "individual")
    axes = [axis for axis in "xyz" if axis in table.column_names]
    shape = (int(frame.max()) + 1, len(animals), len(names))
    if np.prod(np.array(shape, dtype=float)) > _MOST_POSITIONS:
        raise ReadError(f"{path}: column frame goes up to {frame.max()}, more than can be read at once")
    order = np.ravel_multi_index((frame, animal, point), shape)
    _, first, times = np.unique(order, return_index=True, return_counts=True)
    if (times > 1).any():
        row = int(first[times > 1][0])
        raise ReadError(
            f"{path}: keypoint {names[point[row]]!r} of {animals[animal[row]]!r} stands twice in frame {frame[row]}"
        )
    keypoints = np.full((*shape, len(axes)), np.nan, dtype=np.float32)
    for axis, name in enumerate(axes):
        keypoints[frame, animal, point, axis] = _numbers(path, table, name)
    confidence = None
    if "confidence" in table.column_names:
        confidence = np.full(shape, np.nan, dtype=np.float32)
        confidence[frame, animal, point] = _numbers(path, table, "confidence")
    places = without(path, names, ignore)
    keypoints = keypoints[:, :, places]
    confidence = None if confidence is None else confidence[:, :, places]
    notes = masked(path, keypoints, confidence, min_confidence)
    return Tracks(keypoints, confidence, animals, tuple(names[i] for i in places), notes, fps)


def _columns(path: Path, names: Sequence[str]) -> dict[str, str]:
    """The file's name of every column that counts."""
    found: dict[str, str] = {}
    for name in names:
        for column, spellings in _NAMES.items():
            if name.strip().casefold() in spellings:
                if column in found:
                    raise ReadError(f"{path}: columns {found[column]!r} and {name!r} are both the {column}; remove one")
                found[column] = name
    return found


def _read(path: Path) -> pa.Table:
    try:
        if path.open("rb").read(4) == b"PAR1":
            known = _columns(path, pq.read_schema(path).names)
            table = pq.read_table(path, columns=list(known.values()), partitioning=None)
        else:
            text = decode(path.read_bytes())
            sep = separator(text.split("\n", 1)[0])
            names = rows(text.split("\n", 1)[0], sep)[0]
            known = _columns(path, names)
            types = {known[c]: pa.string() if c in _TEXT else pa.float64() for c in known}
            options = arrow_csv.ConvertOptions(column_types=types, include_columns=list(known.values()))
            body = pa.py_buffer(text.split("\n", 1)[-1].encode())
            table = arrow_csv.read_csv(
                body, arrow_csv.ReadOptions(column_names=names, use_threads=False),
                arrow_csv.ParseOptions(delimiter=sep), options,
            )  # fmt: skip
    except (pa.ArrowException, OSError) as error:
        raise ReadError(f"{path}: {error}") from error
    return table.select(list(known.values())).rename_columns(list(known))


def _one_recording(path: Path, table: pa.Table) -> pa.Table:
    if "recording" not in table.column_names:
        return table
    names = [str(name) for name in pc.unique(table["recording"]).to_pylist()]
    chosen = [name for name in names if name == stem(path)]
    if len(names) > 1 and not chosen:
        raise ReadError(f"{path}: holds {len(names)} recordings ({', '.join(names[:5])}); save a file for each")
    return table.filter(pc.equal(table["recording"], chosen[0])) if len(names) > 1 else table


def _frames(path: Path, table: pa.Table) -> tuple[np.ndarray, float | None]:
    """Frame of every row, counted from the first, and the frame rate."""
    time = _numbers(path, table, "time") if "time" in table.column_names else None
    if time is not None and not np.isfinite(time).all():
        raise ReadError(f"{path}: column time has empty cells")
    steps = None if time is None else np.unique(time)
    if "frame" not in table.column_names:
        assert time is not None and steps is not None
        if len(steps) < 2:
            raise ReadError(f"{path}: column time has one value, which gives no frame rate; add a column frame")
        fps = 1 / float(np.quantile(np.diff(steps), 0.5, method="lower"))
        exact = (time - steps[0]) * fps
        # the median of neighbours is coarse in long recordings: the whole length says it better
        fps *= round(float(exact.max())) / float(exact.max())
        exact = (time - steps[0]) * fps
        if np.abs(exact - np.round(exact)).max() > _OFF_GRID:
            raise ReadError(f"{path}: column time is not regular at {fps:.6g} Hz; resample it, or add a column frame")
        return np.round(exact).astype(np.int64), round(fps, 6)
    exact = _numbers(path, table, "frame")
    if not np.isfinite(exact).all() or (exact != np.round(exact)).any() or exact.min() < 0:
        raise ReadError(f"{path}: column frame holds other values than whole numbers from 0")
    frame = exact.astype(np.int64)
    if steps is None or time is None or len(steps) < 2 or frame.max() == frame.min():
        return frame, None
    return frame, round(float((frame.max() - frame.min()) / (steps[-1] - steps[0])), 6)


def _numbers(path: Path, table: pa.Table, name: str) -> np.ndarray:
    try:
        return np.asarray(table[name].cast(pa.float64()).to_numpy())
    except (pa.ArrowException, ValueError) as error:
        raise ReadError(f"{path}: column {name} holds no numbers ({error})") from error


def _codes(path: Path, table: pa.Table, name: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Names in order of appearance and the place of every row in them."""
    if name not in table.column_names:
        return numbered(1), np.zeros(len(table), dtype=np.int64)
    found: Any = table[name].cast(pa.string()).combine_chunks().dictionary_encode()
    found = found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
    if found.null_count:
        raise ReadError(f"{path}: column {name} has {found.null_count} empty cells")
    return tuple(found.dictionary.to_pylist()), found.indices.to_numpy(zero_copy_only=False).astype(np.int64)
