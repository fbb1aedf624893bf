"""A user's own files become a card and recordings: poses, labels, frame rate, and an honest split."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ethoray import readers
from ethoray.readers import splits
from ethoray.readers.contents import Labels, ReadError, Tracks, stem
from ethoray.schema import Card, Recording, SchemaError, Skeleton, Task

_FRONT = ("nose", "snout", "nosetip", "snouttip", "tipofnose", "muzzle", "head", "headcentre", "headcenter", "neck")
_BACK = ("tailbase", "basetail", "baseoftail", "tailroot", "tailstart", "tailhead", "rump", "tail", "tailbegin")
_TOLERANCE_SECONDS = 1.0


@dataclass(frozen=True)
class _Source:
    name: str
    subject: str
    pose: Path
    tracks: Tracks
    labels: Labels | None


def own(
    poses: Sequence[str | Path],
    labels: Sequence[str | Path] = (),
    fps: float | None = None,
    name: str = "own",
    *,
    subjects: Sequence[str] = (),
    ignore: Sequence[str] = (),
    ignore_behaviours: Sequence[str] = (),
    front: str | None = None,
    back: str | None = None,
    min_confidence: float = 0.0,
    test: float = 0.33,
    blocks: int | None = None,
    gap: float = 1.0,
    seed: int = 0,
    labels_beyond: Literal["error", "cut"] = "error",
    species: str = "unstated",
) -> tuple[Card, list[Recording]]:
    """Read pose and label files; times in seconds.

    Parameters
    ----------
    poses, labels: files of any format the readers know. A label file belongs to the recordings it mentions, else
        to the one whose name its own begins with or shares most of; without labels the dataset has no tasks.
    fps: frames per second; may be left out when the label files state it.
    subjects: the animal of every pose file; by default each file is another animal.
    ignore: keypoints to leave out, such as corners of the arena, or those that a file lacks.
    ignore_behaviours: labels that are no behaviour; names starting with an underscore are always left out.
    front, back: keypoints of the body axis; guessed from the names by default.
    min_confidence: keypoints below it are masked, and counted in the card's notes.
    test: fraction of recordings or blocks on the test side.
    blocks, gap: with fewer than three recordings or two subjects, or when blocks is given, every recording is
        cut in so many contiguous blocks with ``gap`` seconds between them (split "gap").
    labels_beyond: what to do with labels more than a second longer than the track.

    Raises ReadError naming the file and what to do about it.
    """
    sources = _sources(poses, labels, subjects, ignore, ignore_behaviours, min_confidence)
    rate = _fps(sources, fps)
    keypoints = _keypoints(sources, ignore)
    skeleton = Skeleton(keypoints, (), *_axis(keypoints, front, back))
    behaviours = tuple(dict.fromkeys(b for s in sources if s.labels for b in s.labels.behaviours))
    notes = [f"{s.name}: {note}" for s in sources for note in s.tracks.notes]
    if skeleton.front is None:
        notes.append("no body axis: no keypoint is called nose or tail base; name them with front and back")
    whole = [_recording(s, rate, skeleton, behaviours, labels_beyond, notes) for s in sources]
    recordings, rule = _split(whole, test, blocks, gap, seed)
    notes += _balance(recordings, behaviours)
    card = Card(
        name=name,
        species=species,
        fps=rate,
        skeleton=skeleton,
        tasks=tuple(_task(b, sources) for b in behaviours),
        split_rule=rule,
        source=", ".join(s.pose.name for s in sources),
        notes=tuple(notes),
    )
    return card, recordings


def _sources(
    poses: Sequence[str | Path],
    labels: Sequence[str | Path],
    subjects: Sequence[str],
    ignore: Sequence[str],
    ignore_behaviours: Sequence[str],
    min_confidence: float,
) -> list[_Source]:
    paths = [Path(p) for p in poses]
    if not paths:
        raise ReadError("no pose file is given")
    if subjects and len(subjects) != len(paths):
        raise ReadError(f"{len(subjects)} subjects for {len(paths)} pose files; give one for each")
    names: dict[str, Path] = {}
    for path in paths:
        if stem(path) in names:
            raise ReadError(f"{names[stem(path)]} and {path} would both be recording {stem(path)!r}; rename one")
        names[stem(path)] = path
    matched = match([Path(p) for p in labels], paths)
    return [
        _Source(
            name=name,
            subject=subjects[i] if subjects else name,
            pose=path,
            tracks=readers.tracks(path, ignore=ignore, min_confidence=min_confidence),
            labels=readers.labels(matched[path], path, ignore=ignore_behaviours) if path in matched else None,
        )
        for i, (name, path) in enumerate(names.items())
    ]


def match(labels: Sequence[Path], poses: Sequence[Path]) -> dict[Path, Path]:
    """The label file of every pose file that has one; raises ReadError naming both when it is not certain."""
    matched: dict[Path, Path] = {}
    for label in labels:
        mentioned = readers.recordings(label)
        owners = [p for p in poses if stem(p) in mentioned]
        if not owners:
            owners = list(poses) if len(labels) == len(poses) == 1 else [_owner(label, poses)]
        for pose in owners:
            if pose in matched:
                raise ReadError(f"{matched[pose]} and {label} both label {pose.name}; give one, or join them")
            matched[pose] = label
    return matched


def _owner(label: Path, poses: Sequence[Path]) -> Path:
    likeness = [_likeness(stem(label), stem(p)) for p in poses]
    best = [p for p, words in zip(poses, likeness, strict=True) if words == max(likeness)]
    if max(likeness) == 0:
        raise ReadError(
            f"{label} belongs to none of the pose files ({', '.join(p.name for p in poses[:3])}); leave it out, "
            "or rename it to begin like its pose file"
        )
    if len(best) > 1:
        raise ReadError(f"{label} could belong to {best[0].name} or {best[1].name}; rename it to begin like one")
    return best[0]


def _likeness(one: str, other: str) -> int:
    """How many words two names begin with in common; none when they go on with different numbers."""
    words = [re.findall(r"[a-z0-9]+", name.casefold()) for name in (one, other)]
    common = next((i for i, (a, b) in enumerate(zip(*words, strict=False)) if a != b), min(map(len, words)))
    ahead = [rest[common] for rest in words if len(rest) > common]
    apart = len(ahead) == 2 and all(re.search(r"\d", word) for word in ahead)
    return 0 if apart else common


def _fps(sources: Sequence[_Source], fps: float | None) -> float:
    stated = {s.name: s.labels.fps for s in sources if s.labels and s.labels.fps}
    given = {"the one given": fps} if fps else {}
    timed = {f"the track of {s.name}": s.tracks.fps for s in sources if s.tracks.fps}
    rates = {**given, **timed, **{f"the labels of {name}": value for name, value in stated.items()}}
    if not rates:
        raise ReadError("the frame rate is in none of the files; give it (--fps 30)")
    (first, rate), *others = rates.items()
    for other, value in others:
        if not np.isclose(rate, value, rtol=1e-3):
            raise ReadError(f"frame rates contradict: {first} is {rate:g}, {other} say {value:g}")
    return float(rate)


def _keypoints(sources: Sequence[_Source], ignore: Sequence[str]) -> tuple[str, ...]:
    first = sources[0]
    everything = dict.fromkeys(k for s in sources for k in s.tracks.names)
    for source in sources:
        for keypoint in everything:
            if keypoint not in source.tracks.names:
                raise ReadError(
                    f"{source.pose}: no keypoint {keypoint!r}, which other files have; leave it out of all "
                    f"(--ignore {keypoint!r})"
                )
        if source.tracks.keypoints.shape[-1] != first.tracks.keypoints.shape[-1]:
            raise ReadError(f"{source.pose} and {first.pose} differ in their number of coordinates, 2 and 3")
    return first.tracks.names


def _axis(keypoints: Sequence[str], front: str | None, back: str | None) -> tuple[str, str] | tuple[None, None]:
    """Front and back: those named, else guessed; two or none."""
    plain = {"".join(c for c in k.casefold() if c.isalnum()): k for k in keypoints}
    for told in (front, back):
        if told is not None and told not in keypoints:
            near = difflib.get_close_matches(told, keypoints, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(keypoints)}"
            raise ReadError(f"no keypoint {told!r} for the body axis{hint}")
    ahead = front or next((plain[n] for n in _FRONT if n in plain), None)
    behind = back or next((plain[n] for n in _BACK if n in plain), None)
    if ahead and behind:
        return ahead, behind
    if front or back:
        raise ReadError(f"a body axis has two ends; name the {'back' if front else 'front'} too")
    return None, None


def _recording(
    source: _Source,
    fps: float,
    skeleton: Skeleton,
    behaviours: Sequence[str],
    beyond: Literal["error", "cut"],
    notes: list[str],
) -> Recording:
    tracks = source.tracks
    order = [tracks.names.index(k) for k in skeleton.keypoints]
    frames = len(tracks.keypoints)
    found = source.labels
    if found is None and behaviours:
        notes.append(f"{source.name}: unlabelled")
    if found is not None:
        over = found.seconds(fps) - frames / fps
        if over > _TOLERANCE_SECONDS and beyond == "error":
            raise ReadError(
                f"{source.pose}: the labels last {found.seconds(fps):.1f} s, the track {frames / fps:.1f} s "
                f"({frames} frames at {fps:g} fps); check the frame rate, or cut them (--labels-beyond cut)"
            )
        if over > _TOLERANCE_SECONDS:
            notes.append(f"{source.name}: labels cut at the track's end, {over:.1f} s of them lost")
    missing = np.isnan(tracks.keypoints).all(axis=(0, 2, 3))
    notes += [
        f"{source.name}: individual {tracks.individuals[i]!r} has no position in any frame; kept, masked"
        for i in np.flatnonzero(missing)
    ]
    return Recording(
        name=source.name,
        subject=source.subject,
        fps=fps,
        skeleton=skeleton,
        keypoints=tracks.keypoints[:, :, order],
        confidence=None if tracks.confidence is None else tracks.confidence[:, :, order],
        individuals=tracks.individuals,
        labels={b: found.frames(b, frames, fps) if found else np.full(frames, np.nan) for b in behaviours},
    )


def _task(behaviour: str, sources: Sequence[_Source]) -> Task:
    try:
        return Task(behaviour)
    except SchemaError as error:
        files = ", ".join(s.name for s in sources if s.labels and behaviour in s.labels.behaviours)
        raise ReadError(f"labels of {files}: {error}; or leave it out (--ignore-behaviours {behaviour!r})") from None


def _split(
    whole: list[Recording], test: float, blocks: int | None, gap: float, seed: int
) -> tuple[list[Recording], str]:
    if not 0 < test < 1 or gap < 0:
        raise ReadError(f"test is a fraction between 0 and 1 and gap is not negative, not {test!r} and {gap!r}")
    chosen = "; sides chosen so that every task has positives on both where possible"
    if blocks is None and len(whole) >= 3 and len({r.subject for r in whole}) >= 2:
        return splits.by_subject(whole, test, seed), "by subject" + chosen
    pieces = splits.by_block(whole, test, seed, blocks, gap)
    lengths = [p.frames / p.fps for p in pieces if p.split != "gap"]
    count = "one recording" if len(whole) == 1 else f"{len(whole)} recordings"
    return pieces, (
        f"contiguous blocks of {np.mean(lengths):.1f} s with a gap of {gap:g} s: {count}, so scores are "
        f"within-recording{chosen}"
    )


def _balance(recordings: Sequence[Recording], behaviours: Sequence[str]) -> list[str]:
    """How many positive frames each side has of each task."""
    notes = []
    for behaviour in behaviours:
        counts = {
            side: sum(int((np.asarray(r.labels[behaviour]) == 1).sum()) for r in recordings if r.split == side)
            for side in ("train", "test")
        }
        lack = "" if all(counts.values()) else ": cannot be scored"
        notes.append(f"{behaviour}: {counts['train']} positive frames in train, {counts['test']} in test{lack}")
    return notes
