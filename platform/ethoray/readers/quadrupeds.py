"""robot_dataset.npy of BAMS: walking robots as joint angles and angular velocities, with what they walk on.

One object array that wraps a dict of arrays over robots: ``dof_pos`` and ``dof_vel`` (robot, 12, time) as the script
writes them or (robot, time, 12) as its README says, told apart by the labels' length; ``robot_type`` and
``command_vel`` (robot,), ``terrain_type``, ``terrain_slope`` and ``terrain_difficulty`` (robot, time), ``names``.
A joint is a keypoint whose two coordinates are its angle and its angular velocity.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ethoray.readers import safe
from ethoray.readers.contents import ReadError, Tracks
from ethoray.schema import Recording, Skeleton, Task

WHAT = "BAMS quadrupeds (npy of many recordings)"

FPS = 50.0
JOINTS = tuple(f"{leg}_{joint}" for leg in ("LF", "LH", "RF", "RH") for joint in ("HAA", "HFE", "KFE"))
"""Left and right, fore and hind; hip sideways, hip forwards, knee."""
TERRAIN = ("flat", "pyramid_slope", "inverted_pyramid_slope", "pyramid_stairs", "inverted_pyramid_stairs")
ROBOTS = ("anymal_b", "anymal_c")
TASKS = (
    Task("robot_type", "binary", "recording", ROBOTS),
    Task("linear_velocity", "regression", "recording", metric="mse"),
    Task("terrain_type", "multiclass", "frame", TERRAIN),
    Task("terrain_slope", "regression", "frame", metric="mse"),
    Task("terrain_difficulty", "regression", "frame", metric="mse"),
)
_LABELS = ("robot_type", "command_vel", "terrain_type", "terrain_slope", "terrain_difficulty")


def sniffs(head: bytes, path: Path) -> bool:
    """Whether this is an object array whose dict begins with a robot's pose."""
    form = safe.header(head)
    return form is not None and form[1].kind == "O" and (b"base_pos" in head or b"dof_pos" in head)


def tracks(path: Path, ignore: Sequence[str] = (), min_confidence: float = 0.0) -> Tracks:
    """Raise ReadError: such a file is no one recording, and a recipe prepares it."""
    raise ReadError(f"{path}: holds many recordings; python datasets/quadrupeds.py --raw {path.parent} --out NAME")


def sequences(path: str | Path, most: int | None = None) -> Iterator[Recording]:
    """Every robot, or at most so many spread evenly, one at a time, with its five labels."""
    data = safe.load(path)
    if not isinstance(data, dict):
        raise ReadError(f"{path}: no dict of arrays; it is not robot_dataset.npy")
    names = data.get("names") if isinstance(data.get("names"), dict) else {}
    joints = tuple(str(n) for n in names.get("dof_names", JOINTS)) if isinstance(names, dict) else JOINTS
    angles, velocities, labels = _arrays(path, data, len(joints))
    digits = len(str(max(len(angles) - 1, 1)))
    skeleton = Skeleton(joints)
    for row in np.linspace(0, len(angles) - 1, min(len(angles), most or len(angles))).astype(int).tolist():
        keypoints = np.stack([angles[row], velocities[row]], -1).astype(np.float32)[:, None]
        keypoints[~np.isfinite(keypoints).all(-1)] = np.nan
        yield Recording(
            name=f"robot_{row:0{digits}d}",
            subject=f"robot_{row:0{digits}d}",
            fps=FPS,
            skeleton=skeleton,
            keypoints=keypoints,
            individuals=("robot",),
            labels={
                task.name: float(labels[key][row]) if task.level == "recording" else labels[key][row]
                for task, key in zip(TASKS, _LABELS, strict=True)
            },
        )


def _arrays(
    path: str | Path, data: Mapping[str, Any], joints: int
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Angles and velocities, both (robot, time, joint), and labels, all of as many robots and as long."""
    lacking = [key for key in ("dof_pos", "dof_vel", *_LABELS) if not isinstance(data.get(key), np.ndarray)]
    if lacking:
        raise ReadError(f"{path}: no array {', '.join(lacking)}; it is not robot_dataset.npy")
    robots, frames = np.shape(data["terrain_type"]) if data["terrain_type"].ndim == 2 else (0, 0)
    if not robots or not frames:
        raise ReadError(f"{path}: terrain_type is {data['terrain_type'].shape}, not (robot, time)")
    for key in _LABELS:
        wanted = (robots,) if key in ("robot_type", "command_vel") else (robots, frames)
        if data[key].shape != wanted or data[key].dtype.kind not in "fiub":
            raise ReadError(f"{path}: {key} is {data[key].dtype} {data[key].shape}, not numbers {wanted}")
    shape = (robots, frames, joints)
    poses = [_poses(path, key, data[key], shape) for key in ("dof_pos", "dof_vel")]
    return poses[0], poses[1], {key: data[key] for key in _LABELS}


def _poses(path: str | Path, key: str, values: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    robots, frames, joints = shape
    if values.dtype.kind not in "fiu":
        raise ReadError(f"{path}: {key} is {values.dtype}, not numbers")
    if values.shape == (robots, joints, frames):  # as the script writes it; also when both lengths agree
        return values.transpose(0, 2, 1)
    if values.shape == shape:
        return values
    raise ReadError(
        f"{path}: {key} is {values.shape}; {robots} robots of {joints} joints and {frames} frames of labels need "
        f"{(robots, joints, frames)} or {shape}"
    )
