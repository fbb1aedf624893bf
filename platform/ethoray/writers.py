"""Tracks and embeddings written in formats that others read: a long table, DeepLabCut's csv, a MABe submission."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from ethoray.readers.contents import Tracks


class WriteError(ValueError):
    """Something that a format cannot hold; the message says what."""


def write_table(tracks: Tracks, path: str | Path, *, recording: str, fps: float) -> None:
    """A long table, Parquet or csv by the path's ending: recording, frame, time, individual, keypoint, x, y[, z].

    A column confidence follows when there is one. Missing positions are empty. Reading it gives the same float32.
    """
    path = Path(path)
    if path.suffix not in (".parquet", ".csv"):
        raise WriteError(f"{path}: a table ends in .parquet or .csv")
    if not fps > 0:
        raise WriteError(f"{path}: a frame rate of {fps!r}")
    if path.suffix == ".csv":
        _inert(path, (recording, *tracks.individuals, *tracks.names))
    frames, animals, points, space = tracks.keypoints.shape
    frame, animal, point = (index.reshape(-1) for index in np.indices((frames, animals, points)))
    columns = {
        "recording": pa.array([recording]).take(pa.array(np.zeros(len(frame), dtype=np.int64))),
        "frame": pa.array(frame),
        "time": pa.array(frame / fps),
        "individual": pa.array(tracks.individuals).take(pa.array(animal)),
        "keypoint": pa.array(tracks.names).take(pa.array(point)),
    }
    for axis, name in enumerate("xyz"[:space]):
        columns[name] = _floats(tracks.keypoints[..., axis])
    if tracks.confidence is not None:
        columns["confidence"] = _floats(tracks.confidence)
    buffer = io.BytesIO()
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), buffer, compression="zstd", store_schema=False, row_group_size=1 << 17)
    else:
        arrow_csv.write_csv(pa.table(columns), buffer)
    _whole(path, buffer.getvalue())


def write_deeplabcut(tracks: Tracks, path: str | Path, *, scorer: str = "ethoray") -> None:
    """DeepLabCut's csv: three header rows, or four with individuals when there are several animals."""
    _inert(Path(path), (scorer, *tracks.individuals, *tracks.names))
    frames, animals, points, space = tracks.keypoints.shape
    measured = tracks.confidence is not None
    coords = [*"xyz"[:space], *(["likelihood"] if measured else [])]
    places = [(i, k, c) for i in range(animals) for k in range(points) for c in coords]
    named = animals > 1 or tracks.individuals != ("individual_0",)
    head = [["scorer", *[scorer] * len(places)]]
    if named:
        head.append(["individuals", *[tracks.individuals[i] for i, _, _ in places]])
    head += [["bodyparts", *[tracks.names[k] for _, k, _ in places]], ["coords", *[c for _, _, c in places]]]
    values = tracks.keypoints
    if tracks.confidence is not None:
        values = np.concatenate([values, tracks.confidence[..., None]], axis=-1)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(head)
    for frame, row in enumerate(values.reshape(frames, -1)):
        writer.writerow([frame, *("" if np.isnan(v) else repr(float(v)) for v in row)])
    _whole(Path(path), text.getvalue().encode())


def write_submission(embeddings: Mapping[str, np.ndarray], path: str | Path, *, most: int = 128) -> None:
    """A MABe 2022 submission (.npy): ``embeddings`` (time, feature) of every clip, at most ``most`` features.

    The challenge allows 128 features a frame for mice and 256 for flies. The file is a pickled dictionary of
    frame_number_map (clip: first frame, last frame + 1) and embeddings (frame, feature), float32.
    """
    path = Path(path)
    if not embeddings:
        raise WriteError(f"{path}: no clip")
    width = next(iter(embeddings.values())).shape[-1]
    spans: dict[str, tuple[int, int]] = {}
    start = 0
    for clip, values in embeddings.items():
        if values.ndim != 2 or values.shape[1] != width or not 0 < width <= most:
            raise WriteError(
                f"{path}: clip {clip!r} has shape {values.shape}; expected (time, {width}), at most {most}"
            )
        if not np.isfinite(values).all():
            raise WriteError(f"{path}: clip {clip!r} has numbers that are not finite")
        spans[clip] = (start, start + len(values))
        start += len(values)
    joined = np.concatenate([np.asarray(values, dtype=np.float32) for values in embeddings.values()])
    buffer = io.BytesIO()
    document = np.empty((), dtype=object)
    document[()] = {"frame_number_map": spans, "embeddings": joined}
    np.save(buffer, document, allow_pickle=True)
    _whole(path, buffer.getvalue())


def _inert(path: Path, names: Sequence[str]) -> None:
    """Refuse names that a spreadsheet would run as a formula; quoted, they would not be read back as they are."""
    for name in names:
        if name[:1] in ("=", "+", "-", "@", "\t", "\r"):
            raise WriteError(
                f"{path}: a spreadsheet would run the name {name!r} as a formula; rename it, or use .parquet"
            )


def _floats(values: np.ndarray) -> pa.Array:
    return pa.array(np.ascontiguousarray(values, dtype=np.float32).reshape(-1), from_pandas=True)


def _whole(path: Path, data: bytes) -> None:
    """Write all of it or nothing under that name."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(data)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise WriteError(f"{path}: cannot be written ({error.strerror or error})") from error
