"""CalMS21's pairs of mice, as published (JSON) and as its converter writes them (an npy that wraps the same dict).

{group: {sequence: {keypoints (time, mouse, 2, keypoint), scores (time, mouse, keypoint), annotations (time,),
metadata {vocab}}}}; a group is an annotator (tasks 1 and 2) or a behaviour (task 3), unlabelled videos bring no
annotations.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ethoray.readers import safe
from ethoray.readers.contents import ReadError, Tracks
from ethoray.schema import Recording, Skeleton

WHAT = "CalMS21 (json or npy of many recordings)"

KEYPOINTS = ("nose", "ear_left", "ear_right", "neck", "hip_left", "hip_right", "tail_base")
MOUSE = Skeleton(
    KEYPOINTS, ((0, 1), (0, 2), (1, 3), (2, 3), (3, 4), (3, 5), (4, 6), (5, 6)), front="nose", back="tail_base"
)
INDIVIDUALS = ("resident", "intruder")
FPS = 30.0
CLASSES = ("attack", "investigation", "mount", "other")
"""Behaviours of tasks 1 and 2, by the number that stands for them."""

_GROUP = re.compile(rb'annotator-id_\d|"?(task\d|unlabel\w*)/|unlabel\w*_videos')


def sniffs(head: bytes, path: Path) -> bool:
    """Whether the first sequences of a dict are CalMS21's."""
    form = safe.header(head)
    inside = form is not None and form[1].kind == "O" and b"sequences" not in head
    if not inside and not head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{"):
        return False
    return bool(_GROUP.search(head)) and (b"keypoints" in head or b"annotations" in head)


def tracks(path: Path, ignore: Sequence[str] = (), min_confidence: float = 0.0) -> Tracks:
    """Raise ReadError: such a file is no one recording, and a recipe prepares it."""
    raise ReadError(f"{path}: holds many recordings; python datasets/calms21.py --raw {path.parent} --out NAME")


def sequences(path: str | Path) -> Iterator[tuple[str, Recording]]:
    """Every sequence with the group it is in, one at a time; labels {"behaviour": class indices by ``vocabulary``}.

    The subject is the mouse that the sequence's name tells, else the sequence itself.
    """
    for group, name, sequence in _entries(path):
        yield group, _recording(path, group, name, sequence)


def vocabulary(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Per group of a labelled file, the behaviours in the order of the numbers that stand for them."""
    found: dict[str, tuple[str, ...]] = {}
    for group, name, sequence in _entries(path):
        if "annotations" not in sequence:
            continue
        words = _vocabulary(f"{path}, {group}, {name}", sequence)
        if found.setdefault(group, words) != words:
            raise ReadError(f"{path}, {group}, {name}: vocabulary {words}, sequences before it have {found[group]}")
    return found


def _entries(path: str | Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    document = _document(Path(path))
    if not isinstance(document, dict) or not document:
        raise ReadError(f"{path}: no dict of groups; it is not a CalMS21 file")
    for group in list(document):
        members = document.pop(group)
        if not isinstance(members, dict):
            raise ReadError(f"{path}: group {group!r} is not a dict of sequences")
        for name in list(members):
            sequence = members.pop(name)
            if not isinstance(sequence, dict) or "keypoints" not in sequence:
                raise ReadError(f"{path}, {group}, {name}: no keypoints; taskprog_features files hold features only")
            yield str(group), str(name), sequence


def _document(path: Path) -> Any:
    with path.open("rb") as file:
        binary = file.read(6) == safe.MAGIC
    if binary:
        return safe.load(path)
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ReadError(f"{path}: not readable JSON ({error}); download it again") from error


def _recording(path: str | Path, group: str, name: str, sequence: Mapping[str, Any]) -> Recording:
    where = f"{path}, {group}, {name}"
    points = _numbers(where, "keypoints", sequence["keypoints"])
    if points.ndim != 4 or points.shape[1:] != (2, 2, 7) or not len(points):
        raise ReadError(f"{where}: keypoints are {points.shape}, not (time, 2 mice, 2 coordinates, 7 keypoints)")
    keypoints = np.ascontiguousarray(points.transpose(0, 1, 3, 2))
    keypoints[~np.isfinite(keypoints).all(-1)] = np.nan
    confidence = None
    if sequence.get("scores") is not None:
        confidence = _numbers(where, "scores", sequence["scores"])
        if confidence.shape != keypoints.shape[:3]:
            raise ReadError(f"{where}: scores are {confidence.shape}, keypoints {points.shape}")
    labels = {}
    if sequence.get("annotations") is not None:
        track = _numbers(where, "annotations", sequence["annotations"])
        known = len(_vocabulary(where, sequence))
        if track.shape != (len(points),):
            raise ReadError(f"{where}: annotations are {track.shape}, the track has {len(points)} frames")
        if not np.isin(track, np.arange(known)).all():
            raise ReadError(f"{where}: annotations hold numbers that none of the {known} behaviours has")
        labels["behaviour"] = track
    return Recording(
        name=re.sub(r"[/\\]+", ".", name).strip(". "),
        subject=_subject(name),
        fps=FPS,
        skeleton=MOUSE,
        keypoints=keypoints,
        confidence=confidence,
        individuals=INDIVIDUALS,
        labels=labels,
    )


def _subject(name: str) -> str:
    """The mouse of a sequence's name; mice are numbered within a task, and within train and test."""
    mouse = re.search(r"mouse_?\d+", name)
    prefix = "_".join(re.split(r"[/\\]", name)[:-1])
    return f"{prefix}_{mouse[0]}" if mouse and prefix else re.sub(r"[/\\]+", ".", name).strip(". ")


def _vocabulary(where: str, sequence: Mapping[str, Any]) -> tuple[str, ...]:
    metadata = sequence.get("metadata")
    words = metadata.get("vocab") if isinstance(metadata, dict) else None
    if isinstance(words, str):
        try:
            words = json.loads(words.replace("'", '"'))
        except ValueError as error:
            raise ReadError(f"{where}: metadata.vocab is text that is no dict") from error
    if not isinstance(words, dict) or sorted(words.values()) != list(range(len(words))) or len(words) < 2:
        raise ReadError(f"{where}: metadata.vocab is {words!r:.80}, not behaviours numbered from 0")
    return tuple(sorted((str(w) for w in words), key=lambda w: int(words[w])))


def _numbers(where: str, key: str, values: Any) -> np.ndarray:
    try:
        return np.array(values, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise ReadError(f"{where}: {key} is not an array of numbers ({error})") from error
