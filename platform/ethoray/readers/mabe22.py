"""MABe22's clips of mouse triplets and of groups of flies: object arrays of dicts, and the labels of the test clips.

A clip file is {sequences: {clip: {keypoints (time, individual, keypoint, 2), annotations (task, time)}}, vocabulary};
test clips come without annotations. Their labels are a file of their own, one row a task over all clips end to end:
{frame_number_map: {clip: (start, stop)}, label_array (task, frame), vocabulary, task_type}.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ethoray.geometry import MOUSE_KEYPOINTS
from ethoray.readers import safe
from ethoray.readers.contents import ReadError, Tracks
from ethoray.schema import Recording, Skeleton, Task

WHAT = "MABe22 clips or labels (npy of many recordings)"

MICE = Skeleton(
    MOUSE_KEYPOINTS,
    ((0, 1), (0, 2), (1, 3), (2, 3), (0, 3), (3, 4), (3, 5), (3, 6), (6, 7), (6, 8), (6, 9), (9, 10), (10, 11)),
    front="nose",
    back="tail_base",
)
FLY_KEYPOINTS = (
    "wing_left", "wing_right", "antennae_midpoint", "right_eye", "left_eye", "left_front_thorax",
    "right_front_thorax", "base_thorax", "tip_abdomen", "right_middle_femur_base", "right_middle_femur_tibia_joint",
    "left_middle_femur_base", "left_middle_femur_tibia_joint", "right_front_leg_tip", "right_middle_leg_tip",
    "right_rear_leg_tip", "left_rear_leg_tip", "left_middle_leg_tip", "left_front_leg_tip", "position",
    "orientation_cos_sin", "major_minor_axis", "body_and_foreground_area", "contrast_and_foreground_distance",
)  # fmt: skip
"""The 24 pairs of a fly: 19 points, then position, orientation, axes and image measures, two numbers each.

Which wing comes first is told both ways; this is the order of the data's author."""
FLIES = Skeleton(FLY_KEYPOINTS, ((2, 7), (7, 8), (7, 0), (7, 1)), front="antennae_midpoint", back="tip_abdomen")

_SPECIES = {(3, 12, 2): ("mouse", MICE, 30.0), (11, 24, 2): ("fly", FLIES, 150.0)}


def sniffs(head: bytes, path: Path) -> bool:
    """Whether this is an object array whose dict begins with the clips, or with what the labels are made of."""
    form = safe.header(head)
    if form is None or form[1].kind != "O":
        return False
    clips = b"sequences" in head and b"keypoints" in head
    return clips or b"frame_number_map" in head or (b"label_array" in head and b"vocabulary" in head)


def tracks(path: Path, ignore: Sequence[str] = (), min_confidence: float = 0.0) -> Tracks:
    """Raise ReadError: such a file is no one recording, and a recipe prepares it."""
    raise ReadError(
        f"{path}: holds many clips; python datasets/mabe22_mice.py or mabe22_flies.py --raw {path.parent} --out NAME"
    )


def sequences(path: str | Path) -> Iterator[Recording]:
    """Every clip of a train or test file, one at a time, with the labels it brings; its subject is the clip.

    Mice: a keypoint at (0, 0) is missing. Flies: a pair with a NaN is missing. Missing is NaN.
    """
    found = safe.load(path)
    clips = found.get("sequences") if isinstance(found, dict) else None
    if not isinstance(clips, dict) or not clips:
        raise ReadError(f"{path}: no dict of sequences; it is not a file of MABe22 clips")
    vocabulary = _names(path, found.get("vocabulary", ()))
    for name in list(clips):
        yield _recording(path, name, clips.pop(name), vocabulary)  # popped: a clip that was read is let go


def _recording(path: str | Path, name: Any, clip: Any, vocabulary: Sequence[str]) -> Recording:
    where = f"{path}, clip {name!r}"
    points = clip.get("keypoints") if isinstance(clip, dict) else None
    if not isinstance(points, np.ndarray) or points.ndim != 4 or points.shape[1:] not in _SPECIES:
        shape = getattr(points, "shape", "missing")
        raise ReadError(f"{where}: keypoints {shape}; mice are (time, 3, 12, 2), flies (time, 11, 24, 2)")
    animal, skeleton, fps = _SPECIES[points.shape[1:]]
    if points.dtype.kind not in "iuf":
        raise ReadError(f"{where}: keypoints are {points.dtype}, not numbers")
    keypoints = points.astype(np.float32)
    missing = ~np.isfinite(keypoints).all(-1)
    if animal == "mouse":
        missing |= (keypoints == 0).all(-1)
    keypoints[missing] = np.nan
    return Recording(
        name=str(name),
        subject=str(name),
        fps=fps,
        skeleton=skeleton,
        keypoints=keypoints,
        individuals=tuple(f"{animal}_{i}" for i in range(keypoints.shape[1])),
        labels=_annotated(where, clip.get("annotations"), vocabulary, len(keypoints)),
    )


def _annotated(where: str, values: Any, vocabulary: Sequence[str], frames: int) -> dict[str, np.ndarray]:
    if values is None:
        return {}
    if not isinstance(values, np.ndarray) or values.shape != (len(vocabulary), frames):
        shape = getattr(values, "shape", "no array")
        raise ReadError(f"{where}: annotations are {shape}; {len(vocabulary)} names and {frames} frames need as many")
    return {task: values[row].astype(np.float32) for row, task in enumerate(vocabulary)}


@dataclass(frozen=True)
class Answers:
    """The labels of the test clips.

    Attributes
    ----------
    spans: per clip the first frame and the one after the last, as columns of ``values``.
    values: float (task, frame), NaN unlabelled.
    tasks: in the order of the rows. A task is of the recording when it is known to be and each clip has one value.
    """

    path: Path
    spans: Mapping[str, tuple[int, int]]
    values: np.ndarray
    tasks: tuple[Task, ...]

    def of(self, recording: Recording) -> Recording:
        """The recording with its labels; ReadError when it has none or as many as another clip's frames."""
        if recording.name not in self.spans:
            raise ReadError(f"{self.path}: no labels of clip {recording.name!r}; clips and labels are of two releases")
        start, stop = self.spans[recording.name]
        if stop - start != recording.frames:
            raise ReadError(
                f"{self.path}: clip {recording.name!r} has {recording.frames} frames, labels {stop - start}"
            )
        tracks = (self.values[row, start:stop].astype(np.float32) for row in range(len(self.tasks)))
        return replace(
            recording, labels=dict(fitted(self.tasks, {t.name: v for t, v in zip(self.tasks, tracks, strict=True)}))
        )

    def own(self, recording: Recording) -> Recording:
        """A train clip with the labels it brought, as the tasks here want them; others are left out."""
        tracks = {name: np.asarray(track) for name, track in recording.labels.items()}
        return replace(recording, labels=dict(fitted(self.tasks, tracks)))


def answers(path: str | Path) -> Answers:
    """The labels of the test clips, from the file that is published beside them."""
    path = Path(path)
    found = safe.load(path)
    keys = ("frame_number_map", "label_array", "vocabulary", "task_type")
    lacking = [k for k in keys if k not in found] if isinstance(found, dict) else list(keys)
    if lacking:
        raise ReadError(f"{path}: no {', '.join(lacking)}; it is not a file of MABe22 test labels")
    names = _names(path, found["vocabulary"])
    values, kinds = found["label_array"], list(found["task_type"])
    if not isinstance(values, np.ndarray) or values.ndim != 2 or not len(values) == len(names) == len(kinds):
        shape = getattr(values, "shape", "no array")
        raise ReadError(f"{path}: {len(names)} names and {len(kinds)} types of tasks, labels {shape}")
    spans = frame_map(path, found["frame_number_map"])
    if max(stop for _, stop in spans.values()) != values.shape[1]:
        raise ReadError(f"{path}: the frame map and the labels differ in frames ({values.shape[1]})")
    whole = [_one_value(row, spans) if of_recording(name) else False for name, row in zip(names, values, strict=True)]
    tasks = tuple(
        Task(
            name,
            "regression" if str(kind).lower().startswith("contin") else "binary",
            "recording" if alone else "frame",
            metric="mse" if str(kind).lower().startswith("contin") else "f1",
        )
        for name, kind, alone in zip(names, kinds, whole, strict=True)
    )
    return Answers(path, spans, values, tasks)


def frame_map(path: str | Path, found: Any) -> dict[str, tuple[int, int]]:
    """Per clip its first frame and the one after the last; consecutive, or ReadError names the clip."""
    spans, before = {}, 0
    for clip, span in found.items() if isinstance(found, dict) else ():
        start, stop = (int(n) for n in span)
        if start != before or stop <= start:
            raise ReadError(f"{path}: frame map: clip {clip!r} is ({start}, {stop}), the one before ends at {before}")
        spans[str(clip)], before = (start, stop), stop
    if not spans:
        raise ReadError(f"{path}: an empty frame map")
    return spans


def of_recording(task: str) -> bool:
    """Whether a task asks for one value a clip: mice's four, and of flies all but the per-frame behaviours."""
    mouse = ("approaches", "chases", "close", "contact", "huddles", "watching")
    return task not in mouse and not task.startswith(("perframe_", "oral_"))


def fitted(tasks: Sequence[Task], tracks: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray | float]]:
    """Labels as their tasks want them: a track, or a clip's one value; a task without labels is left out."""
    for task in tasks:
        track = tracks.get(task.name)
        if track is None or np.isnan(track).all():
            continue
        yield task.name, track if task.level == "frame" else float(track[np.isfinite(track)][0])


def _one_value(row: np.ndarray, spans: Mapping[str, tuple[int, int]]) -> bool:
    cuts = (row[start:stop] for start, stop in spans.values())
    return all((cut == cut[0]).all() or np.isnan(cut).all() for cut in cuts)


def _names(path: str | Path, vocabulary: Any) -> tuple[str, ...]:
    names = [str(name) for name in vocabulary]
    if len(names) > 1 and names.count("control") == 2:  # of flies: first the line, then any control
        names[len(names) - 1 - names[::-1].index("control")] = "control_any"
    if len(set(names)) < len(names):
        raise ReadError(f"{path}: a task is named twice in the vocabulary {', '.join(names)}")
    return tuple(names)
