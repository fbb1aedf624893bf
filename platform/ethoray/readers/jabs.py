"""JABS tracks of mice: pose_est files of version 2 to 6 (HDF5), with the twelve keypoints of that pipeline.

Points are stored as row and column, so y before x; here they are x, y. A keypoint of confidence 0 is missing.
Versions 4 and later know every mouse for the whole recording. Version 3 only has tracklets: each takes the place
of the animal that was lost longest ago, so an individual may change; the note counts them. The file does not
tell its frame rate (30 in this pipeline).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from ethoray.readers.contents import ReadError, Tracks, masked, numbered, without
from ethoray.readers.hdf5 import array, holds, opened

WHAT = "JABS tracks (pose_est h5, versions 2 to 6)"
KEYPOINTS = (
    "nose", "left ear", "right ear", "base neck", "left front paw", "right front paw", "centre spine",
    "left rear paw", "right rear paw", "base tail", "mid tail", "tip tail",
)  # fmt: skip


def sniffs(head: bytes, path: Path) -> bool:
    """Whether it has poseest/points and their confidence."""
    return holds(head, path, "poseest/points", "poseest/confidence")


def tracks(path: Path, ignore: Sequence[str] = (), min_confidence: float = 0.0) -> Tracks:
    """Read one file; keypoints in ``ignore`` are left out, those less confident than the minimum become NaN."""
    with opened(path) as file:
        points = array(path, file, "poseest/points", "fiu").astype(np.float32)
        scores = array(path, file, "poseest/confidence", "f").astype(np.float32)
        if points.ndim == 3 and scores.ndim == 2:
            points, scores = points[:, None], scores[:, None]
        if points.ndim != 4 or points.shape[2:] != (len(KEYPOINTS), 2) or not points.size:
            raise ReadError(f"{path}: poseest/points has shape {points.shape}, expected (frame, mouse, 12, 2)")
        if scores.shape != points.shape[:3]:
            raise ReadError(f"{path}: poseest/confidence has shape {scores.shape}, poseest/points {points.shape}")
        if (scores < 0).any():
            raise ReadError(f"{path}: poseest/confidence is negative, {scores.min():g} at the least; it begins at 0")
        identity, notes = _identity(path, file, points.shape[:2])
    animals = int(identity.max()) + 1
    if animals < 1:
        raise ReadError(f"{path}: poseest has no mouse in any frame")
    frame, slot = np.nonzero(identity >= 0)
    keypoints = np.full((len(points), animals, *points.shape[2:]), np.nan, dtype=np.float32)
    confidence = np.full(keypoints.shape[:3], np.nan, dtype=np.float32)
    seen = scores[frame, slot]
    keypoints[frame, identity[frame, slot]] = np.where(seen[..., None] > 0, points[frame, slot][..., ::-1], np.nan)
    confidence[frame, identity[frame, slot]] = seen
    places = without(path, KEYPOINTS, ignore)
    keypoints, confidence = keypoints[:, :, places], confidence[:, :, places]
    notes += masked(path, keypoints, confidence, min_confidence)
    return Tracks(keypoints, confidence, numbered(animals), tuple(KEYPOINTS[i] for i in places), notes)


def _identity(path: Path, file: h5py.File, shape: tuple[int, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The individual in every slot of every frame, int (frame, slot), -1 where there is none; and notes."""
    pose = file["poseest"]
    if "instance_count" in pose:
        count = _same(path, file, "instance_count", shape[:1])
        present = np.arange(shape[1]) < count[:, None]
    else:
        present = np.ones(shape, dtype=bool)
    if "instance_embed_id" in pose:
        stored = _same(path, file, "instance_embed_id", shape)
        if "id_mask" in pose:
            present = present & (_same(path, file, "id_mask", shape) == 0)
        identity = np.where(present, stored - 1, -1)
    elif "instance_track_id" in pose:
        tracklets = np.where(present, _same(path, file, "instance_track_id", shape), -1)
        identity, number = _joined(tracklets)
        notes = (f"{number} tracklets joined to {identity.max() + 1} individuals, who may change",)
        return identity, notes if number > identity.max() + 1 else ()
    else:
        identity = np.where(present, np.arange(shape[1]), -1)
    if identity.max() >= 1000:
        raise ReadError(f"{path}: poseest/instance_embed_id is up to {identity.max() + 1}; that many mice?")
    for animal in range(int(identity.max()) + 1):
        twice = np.flatnonzero((identity == animal).sum(1) > 1)
        if len(twice):
            raise ReadError(f"{path}: poseest/instance_embed_id has mouse {animal + 1} twice in frame {twice[0]}")
    return identity, ()


def _same(path: Path, file: h5py.File, key: str, shape: tuple[int, ...]) -> np.ndarray:
    values = array(path, file, f"poseest/{key}", "iub").astype(np.int64)
    if values.shape != shape:
        raise ReadError(f"{path}: poseest/{key} has shape {values.shape}, expected {shape}")
    return values


def _joined(tracklets: np.ndarray) -> tuple[np.ndarray, int]:
    """Individuals out of tracklets: each takes the place that has been free longest."""
    spans = {}
    for tracklet in np.unique(tracklets[tracklets >= 0]):
        frames = np.flatnonzero((tracklets == tracklet).any(1))
        spans[int(tracklet)] = (int(frames[0]), int(frames[-1]))
    ends: list[int] = []
    identity = np.full(tracklets.shape, -1, dtype=np.int64)
    for tracklet, (first, last) in sorted(spans.items(), key=lambda item: item[1]):
        free = [place for place, end in enumerate(ends) if end < first]
        place = min(free, key=lambda p: ends[p]) if free else len(ends)
        ends[place : place + 1] = [last]
        identity[tracklets == tracklet] = place
    return identity, len(spans)
