"""A long table of tracks, csv or Parquet: a row for every frame, individual and keypoint.

Columns: frame or time (s), keypoint, x, y, and where there are such things recording, individual, z and confidence.
With both frame and time, or with time alone, the frame rate is that of the table. A first pass over the rows finds
who is in it and for how long, a second one reads the positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ethoray.readers.contents import Layout, ReadError, Tracks, decode, masked, rows, separator, without, worth
from ethoray.readers.table_rows import appearing, columns, counts, header, numbers, one_recording, places, tables

WHAT = "a long table (csv or Parquet with columns frame or time, individual, keypoint, x, y)"
_MOST_POSITIONS, _MOST_EMPTY = 1 << 30, 64  # beyond both, a frame number is taken for nonsense
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
    known = columns(path, names)
    return {"keypoint", "x", "y"} <= set(known) and bool({"frame", "time"} & set(known))


def layout(path: Path, ignore: Sequence[str] = ()) -> Layout:
    """What the file holds; its frames, individuals and keypoints are read, not its positions."""
    return _survey(path).layout(ignore)


def pieces(
    path: Path, ignore: Sequence[str] = (), min_confidence: float = 0.0, frames: int | None = None
) -> Iterator[Tracks]:
    """Consecutive tracks; keypoints in ``ignore`` are left out, those less confident than the minimum become NaN.

    A table whose rows are not in the order of its frames is held in memory whole.
    """
    survey = _survey(path)
    known, kept = survey.layout(ignore), without(path, survey.names, ignore)
    step = frames or worth(len(survey.animals) * len(survey.names) * (known.space + 1))
    for keypoints, confidence in _filled(survey, step):
        if len(kept) < len(survey.names):
            keypoints = keypoints[:, :, kept]
            confidence = None if confidence is None else confidence[:, :, kept]
        notes = masked(path, keypoints, confidence, min_confidence)
        yield Tracks(keypoints, confidence, known.individuals, known.names, notes, known.fps)


@dataclass(frozen=True)
class _Survey:
    """What the first pass over the rows finds.

    Attributes
    ----------
    columns: the file's name of every column that counts.
    recording: the one whose rows count, None for all.
    names, animals: in order of appearance.
    grid: the first time (s) and the frame rate when times say the frame, else None.
    ordered: whether no row is of an earlier frame than the row before.
    """

    path: Path
    columns: Mapping[str, str]
    recording: str | None
    names: tuple[str, ...]
    animals: tuple[str, ...]
    frames: int
    fps: float | None
    grid: tuple[float, float] | None
    ordered: bool

    def layout(self, ignore: Sequence[str]) -> Layout:
        """As others see it, without the keypoints to ignore."""
        names = tuple(self.names[i] for i in without(self.path, self.names, ignore))
        return Layout(self.frames, self.animals, names, len(self.axes), self.fps)

    @property
    def axes(self) -> str:
        """The coordinates."""
        return "xyz" if "z" in self.columns else "xy"

    def frame(self, table: pa.Table) -> np.ndarray:
        """Frame of every row."""
        if self.grid is None:
            return numbers(self.path, table, "frame").astype(np.int64)
        return np.round((numbers(self.path, table, "time") - self.grid[0]) * self.grid[1]).astype(np.int64)


def _survey(path: Path, recording: str | None = None) -> _Survey:
    known = columns(path, header(path)[0])
    found: dict[str, None] = {}
    names: dict[str, None] = {}
    animals: dict[str, None] = {}
    key = "frame" if "frame" in known else "time"
    last, lowest, highest, count, ordered = -np.inf, np.inf, -np.inf, 0, True
    steps = [np.empty(0)]
    for table in tables(path, known, ("recording", "frame", "time", "individual", "keypoint"), recording):
        found |= dict.fromkeys(appearing(path, table, "recording"))
        if len(found) > 1:  # seldom, and then the pass starts again with the rows of one
            return _survey(path, one_recording(path, known))
        values = counts(path, table, key)
        ordered = bool(ordered and values[0] >= last and (values[1:] >= values[:-1]).all())
        last, count = values[-1], count + len(values)
        lowest, highest = min(lowest, values.min()), max(highest, values.max())
        if "time" in known:
            time = counts(path, table, "time")
            steps.append(np.array([time.min(), time.max()]) if key == "frame" else np.unique(time))
        names |= dict.fromkeys(appearing(path, table, "keypoint"))
        animals |= dict.fromkeys(appearing(path, table, "individual"))
    if not count:
        raise ReadError(f"{path}: the header is followed by no row")
    times = np.unique(np.concatenate(steps))
    if key == "time":
        frames, fps, grid = _regular(path, times)
    else:
        timed = len(times) > 1 and highest > lowest
        frames, grid = int(highest) + 1, None
        fps = round(float((highest - lowest) / (times[-1] - times[0])), 6) if timed else None
    if frames * len(animals) * len(names) > max(_MOST_POSITIONS, _MOST_EMPTY * count):
        raise ReadError(f"{path}: column {key} makes {frames} frames, far more than there are rows")
    return _Survey(path, known, recording, tuple(names), tuple(animals), frames, fps, grid, ordered)


def _regular(path: Path, steps: np.ndarray) -> tuple[int, float | None, tuple[float, float] | None]:
    """Frames, frame rate, and the grid of times that are regular; ReadError where they are not."""
    if len(steps) < 2:
        raise ReadError(f"{path}: column time has one value, which gives no frame rate; add a column frame")
    fps = 1 / float(np.quantile(np.diff(steps), 0.5, method="lower"))
    exact = (steps - steps[0]) * fps
    # the median of neighbours is coarse in long recordings: the whole length says it better
    fps *= round(float(exact[-1])) / float(exact[-1])
    exact = (steps - steps[0]) * fps
    if np.abs(exact - np.round(exact)).max() > _OFF_GRID:
        raise ReadError(f"{path}: column time is not regular at {fps:.6g} Hz; resample it, or add a column frame")
    return round(float(exact[-1])) + 1, round(fps, 6), (float(steps[0]), fps)


def _filled(survey: _Survey, step: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Keypoints and confidence of ``step`` frames after another, NaN where the table has no row."""
    path, start = survey.path, 0
    piece = _Piece(survey, start, min(step, survey.frames))
    parts = tables(path, survey.columns, tuple(survey.columns), survey.recording)
    if not survey.ordered:
        whole = pa.concat_tables(parts).unify_dictionaries()
        parts = iter([whole.take(pa.array(np.argsort(survey.frame(whole), kind="stable")))])
    for table in parts:
        frame = survey.frame(table)
        animal = places(path, table, "individual", survey.animals)
        point = places(path, table, "keypoint", survey.names)
        values = {key: numbers(path, table, key) for key in (*survey.axes, "confidence") if key in survey.columns}
        at = 0
        while at < len(frame):
            while frame[at] >= start + step:
                yield piece.keypoints, piece.confidence
                start += step
                piece = _Piece(survey, start, min(step, survey.frames - start))
            part = slice(at, int(np.searchsorted(frame, start + step)))
            piece.put(frame[part], animal[part], point[part], {key: value[part] for key, value in values.items()})
            at = part.stop
    yield piece.keypoints, piece.confidence


class _Piece:
    """Some consecutive frames while they are filled row by row."""

    def __init__(self, survey: _Survey, start: int, length: int) -> None:
        self.survey, self.start = survey, start
        shape = (length, len(survey.animals), len(survey.names))
        self.keypoints = np.full((*shape, len(survey.axes)), np.nan, dtype=np.float32)
        self.confidence = np.full(shape, np.nan, dtype=np.float32) if "confidence" in survey.columns else None
        self.seen = np.zeros(shape, dtype=bool)

    def put(self, frame: np.ndarray, animal: np.ndarray, point: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
        """Fill in rows; ReadError where one position comes twice."""
        survey, seen = self.survey, self.seen.reshape(-1)
        order = ((frame - self.start) * len(survey.animals) + animal) * len(survey.names) + point
        before = int(np.count_nonzero(seen))
        twice = seen[order]
        seen[order] = True
        if np.count_nonzero(seen) < before + len(order):
            if not twice.any():
                twice[np.setdiff1d(np.arange(len(order)), np.unique(order, return_index=True)[1])] = True
            row = int(np.flatnonzero(twice)[0])
            who = f"{survey.names[point[row]]!r} of {survey.animals[animal[row]]!r}"
            raise ReadError(f"{survey.path}: keypoint {who} stands twice in frame {frame[row]}")
        for axis, key in enumerate(survey.axes):
            self.keypoints.reshape(-1, len(survey.axes))[order, axis] = values[key]
        if self.confidence is not None:
            self.confidence.reshape(-1)[order] = values["confidence"]
