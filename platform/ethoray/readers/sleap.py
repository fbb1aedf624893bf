"""SLEAP tracks: the analysis export (.analysis.h5) and the project itself (.slp), both HDF5.

The analysis export keeps ``tracks`` as (track, space, node, frame). A project keeps a table of frames, of
instances and of points; a person's instance wins over a prediction of the same track and frame. Instances
without a track become individuals in the order of the frame when the project tracks nobody, else are left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ethoray.readers.contents import ReadError, Tracks, masked, numbered, without
from ethoray.readers.hdf5 import array, holds, opened, texts

WHAT = "SLEAP tracks (.analysis.h5 or .slp)"
_PROJECT = ("metadata", "frames", "instances", "points", "pred_points")
_MOST_POSITIONS = 1 << 30
_CORNER = 0.5  # projects before format 1.1 count pixels from the corner of the first, not from its centre


def sniffs(head: bytes, path: Path) -> bool:
    """Whether it has the tracks of an analysis export or the tables of a project."""
    return holds(head, path, "tracks", "node_names") or holds(head, path, *_PROJECT)


def tracks(path: Path, ignore: Sequence[str] = (), min_confidence: float = 0.0) -> Tracks:
    """Read one file; keypoints in ``ignore`` are left out, those less confident than the minimum become NaN."""
    with opened(path) as file:
        found = _project(path, file) if "instances" in file else _analysis(path, file)
    places = without(path, found.names, ignore)
    keypoints = found.keypoints[:, :, places]
    confidence = None if found.confidence is None else found.confidence[:, :, places]
    notes = (*found.notes, *masked(path, keypoints, confidence, min_confidence))
    return Tracks(keypoints, confidence, found.individuals, tuple(found.names[i] for i in places), notes)


def _analysis(path: Path, file: h5py.File) -> Tracks:
    names, stored = texts(path, file, "node_names"), array(path, file, "tracks", "f")
    if not names:
        raise ReadError(f"{path}: node_names names no node; export the analysis again from SLEAP")
    if stored.ndim != 4:
        raise ReadError(f"{path}: tracks has shape {stored.shape}, expected (track, 2, node, frame)")
    if stored.shape[1:3] == (2, len(names)):
        keypoints = stored.transpose(3, 0, 2, 1)
    elif stored.shape[1:3] == (len(names), 2):  # saved without being turned: (frame, node, space, track)
        keypoints = stored.transpose(0, 3, 1, 2)
    else:
        raise ReadError(
            f"{path}: tracks has shape {stored.shape}, expected (track, 2, node, frame) with {len(names)} node_names"
        )
    frames, animals = keypoints.shape[:2]
    if not frames or not animals:
        raise ReadError(f"{path}: tracks has shape {stored.shape}: {animals} tracks of {frames} frames")
    confidence = None
    if "point_scores" in file:
        scores = array(path, file, "point_scores", "f")
        if stored.shape[1] != 2 or scores.shape != (animals, len(names), frames):
            raise ReadError(f"{path}: point_scores has shape {scores.shape}, tracks {stored.shape}")
        confidence = _scores(path, "point_scores", scores.transpose(2, 0, 1))
    individuals = texts(path, file, "track_names") or numbered(animals)
    if len(individuals) != animals:
        raise ReadError(f"{path}: {len(individuals)} track_names for {animals} tracks")
    return Tracks(np.array(keypoints, np.float32, order="C"), confidence, individuals, names)


def _scores(path: Path, key: str, values: np.ndarray) -> np.ndarray:
    if (values < 0).any():
        raise ReadError(f"{path}: {key} is negative, {np.nanmin(values):g} at the least; confidence begins at 0")
    return np.array(values, dtype=np.float32, order="C")


def _project(path: Path, file: h5py.File) -> Tracks:
    names = _nodes(path, file)
    frames = _table(path, file, "frames", ("frame_id", "video", "frame_idx"))
    instances = _table(
        path, file, "instances", ("instance_type", "frame_id", "track", "point_id_start", "point_id_end")
    )
    if len(np.unique(frames["video"])) > 1:
        raise ReadError(f"{path}: frames of {len(np.unique(frames['video']))} videos; save a project for each")
    if not len(instances):
        raise ReadError(f"{path}: instances is empty: nothing is labelled or predicted")
    order = np.argsort(frames["frame_id"], kind="stable")
    row = np.searchsorted(frames["frame_id"][order], instances["frame_id"]).clip(0, len(frames) - 1)
    if not len(frames) or (frames["frame_id"][order][row] != instances["frame_id"]).any():
        raise ReadError(f"{path}: instances name a frame_id that frames does not have")
    time = frames["frame_idx"][order][row].astype(np.int64)
    individuals, track, notes = _identities(texts(path, file, "tracks_json"), instances, time)
    length = int(time.max()) + 1
    shape = (length, len(individuals), len(names))
    if time.min() < 0 or np.prod(np.array(shape, dtype=float)) > _MOST_POSITIONS:
        raise ReadError(f"{path}: frames has frame_idx up to {time.max()}, more than can be read at once")
    if track.max() >= len(individuals):
        raise ReadError(f"{path}: instances has track {track.max()}, tracks_json names {len(individuals)}")
    keypoints = np.full((*shape, 2), np.nan, dtype=np.float32)
    confidence = np.full(shape, np.nan, dtype=np.float32)
    shift = _CORNER if float(file["metadata"].attrs.get("format_id", 1.1)) < 1.1 else 0.0
    for kind, key in ((1, "pred_points"), (0, "points")):  # a person's instances last, so that they win
        chosen = (instances["instance_type"] == kind) & (track >= 0)
        if not chosen.any():
            continue
        points = _table(path, file, key, ("x", "y", "visible"))
        first, last = (instances[f"point_id_{end}"][chosen].astype(np.int64) for end in ("start", "end"))
        if (last - first != len(names)).any() or last.max() > len(points) or first.min() < 0:
            raise ReadError(f"{path}: instances do not have the {len(names)} points of their nodes in {key}")
        found = points[first[:, None] + np.arange(len(names))]
        place = np.stack([found["x"], found["y"]], axis=-1) - shift
        keypoints[time[chosen], track[chosen]] = np.where(found["visible"][..., None], place, np.nan)
        scored = "score" in (found.dtype.names or ())
        scores = _scores(path, f"{key} score", found["score"]) if scored else np.ones(found.shape, np.float32)
        confidence[time[chosen], track[chosen]] = np.where(found["visible"], scores, np.nan)
    return Tracks(keypoints, confidence, individuals, names, notes)


def _table(path: Path, file: h5py.File, key: str, columns: Sequence[str]) -> np.ndarray:
    table = array(path, file, key, "V")
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
    stored: Sequence[str], instances: np.ndarray, time: np.ndarray
) -> tuple[tuple[str, ...], np.ndarray, tuple[str, ...]]:
    """Individuals, the individual of every instance (-1 is nobody), and what was left out."""
    track = instances["track"].astype(np.int64)
    if (track >= 0).any():
        lost = int((track < 0).sum())
        notes = (f"{lost} instances without a track left out",) if lost else ()
        return tuple(_track_name(text) for text in stored), track, notes
    place = np.zeros(len(time), dtype=np.int64)
    for kind in (0, 1):  # a person's instances and predictions are counted apart: they are of the same animals
        chosen = np.flatnonzero(instances["instance_type"] == kind)
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
