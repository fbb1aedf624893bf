"""SLEAP tracks: the analysis export (.analysis.h5) and the project itself (.slp), both HDF5.

The analysis export keeps ``tracks`` as (track, space, node, frame). A project keeps a table of frames, of
instances and of points; a person's instance wins over a prediction of the same track and frame. Instances
without a track become individuals in the order of the frame when the project tracks nobody, else are left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ethoray.readers.contents import Layout, ReadError, Tracks, numbered
from ethoray.readers.hdf5 import Sliced, dataset, holds, opened, read, texts

WHAT = "SLEAP tracks (.analysis.h5 or .slp)"
_PROJECT = ("metadata", "frames", "instances", "points", "pred_points")
_FRAME = ("frame_id", "video", "frame_idx")
_INSTANCE = ("instance_type", "frame_id", "track", "point_id_start", "point_id_end")
_KINDS = {1: "pred_points", 0: "points"}
_SCAN = 1 << 16  # rows
_MOST_POSITIONS, _MOST_EMPTY = 1 << 30, 64  # beyond both, a frame number is taken for nonsense
_CORNER = 0.5  # projects before format 1.1 count pixels from the corner of the first, not from its centre


def sniffs(head: bytes, path: Path) -> bool:
    """Whether it has the tracks of an analysis export or the tables of a project."""
    return holds(head, path, "tracks", "node_names") or holds(head, path, *_PROJECT)


def layout(path: Path, ignore: Sequence[str] = ()) -> Layout:
    """What the file holds."""
    with opened(path) as file:
        return _sliced(path, file).without(path, ignore)[0]


def pieces(
    path: Path, ignore: Sequence[str] = (), min_confidence: float = 0.0, frames: int | None = None
) -> Iterator[Tracks]:
    """Consecutive tracks; keypoints in ``ignore`` are left out, those less confident than the minimum become NaN."""
    with opened(path) as file:
        yield from _sliced(path, file).pieces(path, ignore, min_confidence, frames)


def _sliced(path: Path, file: h5py.File) -> Sliced:
    return _project(path, file) if "instances" in file else _analysis(path, file)


def _analysis(path: Path, file: h5py.File) -> Sliced:
    names, tracks = texts(path, file, "node_names"), dataset(path, file, "tracks", "f")
    known, points = texts(path, file, "track_names"), len(names)
    if not names:
        raise ReadError(f"{path}: node_names names no node; export the analysis again from SLEAP")
    if tracks.ndim != 4 or (2, points) not in (tracks.shape[1:3], tracks.shape[2:0:-1]):
        expected = f"expected (track, 2, node, frame) with {points} node_names"
        raise ReadError(f"{path}: tracks has shape {tracks.shape}, {expected}")
    # an export may not be turned yet, (frame, node, space, track); with two nodes the names of the tracks tell
    otherwise = points == 2 and len(known) == tracks.shape[3] != tracks.shape[0]
    turned = tracks.shape[1:3] == (2, points) and not otherwise
    animals, frames = tracks.shape[:: 3 if turned else -3]
    if not frames or not animals:
        raise ReadError(f"{path}: tracks has shape {tracks.shape}: {animals} tracks of {frames} frames")
    if known and len(known) != animals:
        raise ReadError(f"{path}: {len(known)} track_names for {animals} tracks")
    scores = dataset(path, file, "point_scores", "f") if "point_scores" in file else None
    if scores is not None and scores.shape != ((animals, points, frames) if turned else (frames, points, animals)):
        raise ReadError(f"{path}: point_scores has shape {scores.shape}, tracks {tracks.shape}")

    def part(start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        inside = (..., slice(start, stop)) if turned else slice(start, stop)
        place = read(path, tracks, inside).transpose((3, 0, 2, 1) if turned else (0, 3, 1, 2))
        keypoints = np.array(place, dtype=np.float32, order="C")
        if scores is None:
            return keypoints, None
        seen = read(path, scores, inside).transpose((2, 0, 1) if turned else (0, 2, 1))
        return keypoints, _scores(path, "point_scores", seen)

    return Sliced(Layout(frames, known or numbered(animals), names, 2), part)


def _scores(path: Path, key: str, values: np.ndarray) -> np.ndarray:
    if (values < 0).any():
        raise ReadError(f"{path}: {key} is negative, {np.nanmin(values):g} at the least; confidence begins at 0")
    return np.array(values, dtype=np.float32, order="C")


def _project(path: Path, file: h5py.File) -> Sliced:
    names = _nodes(path, file)
    index, frames, individuals, notes = _index(path, file, len(names))
    shift = _CORNER if float(file["metadata"].attrs.get("format_id", 1.1)) < 1.1 else 0.0

    def part(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        keypoints = np.full((stop - start, len(individuals), len(names), 2), np.nan, dtype=np.float32)
        confidence = np.full(keypoints.shape[:3], np.nan, dtype=np.float32)
        inside = index[slice(*np.searchsorted(index["time"], (start, stop)))]
        for kind, key in _KINDS.items():  # a person's instances last, so that they win
            chosen = inside[inside["kind"] == kind]
            if not len(chosen):
                continue
            first, last = int(chosen["point"].min()), int(chosen["point"].max()) + len(names)
            stored = read(path, _table(path, file, key, ("x", "y", "visible")), slice(first, last))
            found = stored[chosen["point"][:, None] - first + np.arange(len(names))]
            place = np.stack([found["x"], found["y"]], axis=-1) - shift
            moment, track = chosen["time"] - start, chosen["track"]
            keypoints[moment, track] = np.where(found["visible"][..., None], place, np.nan)
            scored = "score" in (found.dtype.names or ())
            scores = _scores(path, f"{key} score", found["score"]) if scored else np.ones(found.shape, np.float32)
            confidence[moment, track] = np.where(found["visible"], scores, np.nan)
        return keypoints, confidence

    return Sliced(Layout(frames, individuals, names, 2, None, notes), part)


def _index(path: Path, file: h5py.File, points: int) -> tuple[np.ndarray, int, tuple[str, ...], tuple[str, ...]]:
    """Time, kind, individual and first point of every instance, in order of time; frames, individuals and notes.

    This is the one table that is held whole, 17 bytes an instance.
    """
    frames, instances = _table(path, file, "frames", _FRAME), _table(path, file, "instances", _INSTANCE)
    videos = np.unique(_column(path, frames, "video"))
    if len(videos) > 1:
        raise ReadError(f"{path}: frames of {len(videos)} videos; save a project for each")
    if not len(instances):
        raise ReadError(f"{path}: instances is empty: nothing is labelled or predicted")
    time = _times(path, frames, _column(path, instances, "frame_id"))
    kind, track = (_column(path, instances, key) for key in ("instance_type", "track"))
    individuals, track, notes = _identities(texts(path, file, "tracks_json"), kind, track.astype(np.int32), time)
    length = int(time.max()) + 1
    positions = length * len(individuals) * points
    if time.min() < 0 or positions > max(_MOST_POSITIONS, _MOST_EMPTY * points * len(instances)):
        raise ReadError(f"{path}: frames has frame_idx up to {time.max()}, far more than there are instances")
    if track.max() >= len(individuals):
        raise ReadError(f"{path}: instances has track {track.max()}, tracks_json names {len(individuals)}")
    first, last = (_column(path, instances, f"point_id_{end}").astype(np.int64) for end in ("start", "end"))
    for number, key in _KINDS.items():
        chosen = (kind == number) & (track >= 0)
        if chosen.any():
            wrong = (last[chosen] - first[chosen] != points).any() or first[chosen].min() < 0
            if wrong or last[chosen].max() > len(_table(path, file, key, ("x", "y", "visible"))):
                raise ReadError(f"{path}: instances do not have the {points} points of their nodes in {key}")
    index = np.empty(len(time), dtype=[("time", "i8"), ("kind", "u1"), ("track", "i4"), ("point", "i8")])
    index["time"], index["kind"], index["track"], index["point"] = time, kind, track, first
    index = index[track >= 0]
    if (index["time"][1:] < index["time"][:-1]).any():
        index = index[np.argsort(index["time"], kind="stable")]
    return index, length, individuals, notes


def _times(path: Path, frames: h5py.Dataset, named: np.ndarray) -> np.ndarray:
    """The frame in the video of every instance, by the frame_id that it names."""
    known, moment = (_column(path, frames, key) for key in ("frame_id", "frame_idx"))
    order = np.argsort(known, kind="stable")
    row = np.searchsorted(known[order], named).clip(0, len(known) - 1)
    if not len(known) or (known[order][row] != named).any():
        raise ReadError(f"{path}: instances name a frame_id that frames does not have")
    return np.asarray(moment[order][row].astype(np.int64))


def _column(path: Path, table: h5py.Dataset, key: str) -> np.ndarray:
    """One column of a table, read in parts so that the others are never in memory at once."""
    parts = [read(path, table, slice(at, at + _SCAN))[key] for at in range(0, len(table), _SCAN)]
    return np.concatenate(parts) if parts else np.empty(0, dtype=table.dtype[key])


def _table(path: Path, file: h5py.File, key: str, columns: Sequence[str]) -> h5py.Dataset:
    table = dataset(path, file, key, "V")
    lacking = [c for c in columns if c not in (table.dtype.names or ())]
    if lacking or table.ndim != 1:
        raise ReadError(f"{path}: {key} has no column {', '.join(lacking) or 'of its own'}; is this a SLEAP project?")
    return table


def _nodes(path: Path, file: h5py.File) -> tuple[str, ...]:
    """Keypoints in the order of the skeleton's nodes, out of the JSON that stands in metadata."""
    try:
        stored = file["metadata"].attrs["json"]
        document: dict[str, Any] = json.loads(stored.decode() if isinstance(stored, bytes) else str(stored))
        skeletons = document["skeletons"]
        names = tuple(str(document["nodes"][int(node["id"])]["name"]) for node in skeletons[0]["nodes"])
    except (KeyError, IndexError, TypeError, ValueError, RecursionError) as error:
        raise ReadError(f"{path}: metadata json names no skeleton with nodes ({error!r})") from None
    if len(skeletons) > 1:
        raise ReadError(f"{path}: metadata json has {len(skeletons)} skeletons; save a project with one")
    return names


def _identities(
    stored: Sequence[str], kinds: np.ndarray, track: np.ndarray, time: np.ndarray
) -> tuple[tuple[str, ...], np.ndarray, tuple[str, ...]]:
    """Individuals, the individual of every instance (-1 is nobody), and what was left out."""
    if (track >= 0).any():
        lost = int((track < 0).sum())
        notes = (f"{lost} instances without a track left out",) if lost else ()
        return tuple(_track_name(text) for text in stored), track, notes
    place = np.zeros(len(time), dtype=np.int32)
    for kind in (0, 1):  # a person's instances and predictions are counted apart: they are of the same animals
        chosen = np.flatnonzero(kinds == kind)
        order = chosen[np.argsort(time[chosen], kind="stable")]
        starts = np.searchsorted(time[order], time[order], side="left")
        place[order] = np.arange(len(order)) - starts
    animals = int(place.max()) + 1
    note = "no instance has a track: individuals are in the order of each frame, identities may swap"
    return numbered(animals), place, (note,) if animals > 1 else ()


def _track_name(text: str) -> str:
    try:
        document = json.loads(text)
        return str(document[1] if isinstance(document, list) else document["name"])
    except (ValueError, LookupError, TypeError):
        return text
