"""A user's own files become a card and recordings: poses, labels, frame rate, and an honest split."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ethoray import readers
from ethoray.parts import Part
from ethoray.readers import splits
from ethoray.readers.contents import Labels, Layout, ReadError, stem
from ethoray.readers.matching import match
from ethoray.readers.splits import Stretch
from ethoray.readers.streamed import File, Reading
from ethoray.schema import Card, SchemaError, Skeleton, Task

if TYPE_CHECKING:
    from ethoray.cleaning import Step

_FRONT = ("nose", "snout", "nosetip", "snouttip", "tipofnose", "muzzle", "head", "headcentre", "headcenter", "neck")
_BACK = ("tailbase", "basetail", "baseoftail", "tailroot", "tailstart", "tailhead", "rump", "tail", "tailbegin")
_TOLERANCE_SECONDS = 1.0
_PART_BYTES = 64 << 20  # keypoints of short files that are read together


@dataclass(frozen=True)
class _Source:
    name: str
    subject: str
    pose: Path
    layout: Layout
    label: Path | None
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
    cleaning: Sequence[Step] = (),
    test: float = 0.33,
    blocks: int | None = None,
    gap: float = 1.0,
    seed: int = 0,
    labels_beyond: Literal["error", "cut"] = "error",
    species: str = "unstated",
) -> tuple[Card, list[Part]]:
    """Pose and label files as a card and the parts to read them by; times in seconds.

    Only what the files hold is looked at here, and the labels; ``ingest`` reads them piece by piece, and
    ``parts.gather`` into memory.

    Parameters
    ----------
    poses, labels: files of any format the readers know. A label file belongs to the recordings it mentions, else
        to the one whose name its own begins with or shares most of; without labels the dataset has no tasks.
    fps: frames per second; may be left out when the label files state it.
    subjects: the animal of every pose file; by default each file is another animal.
    ignore: keypoints to leave out, such as corners of the arena, or those that a file lacks.
    ignore_behaviours: labels that are no behaviour; names starting with an underscore are always left out.
    front, back: keypoints of the body axis; guessed from the names by default.
    cleaning: declared steps that change the tracks, as ``cleaning.steps`` makes them; the card names them, and
        its notes count what they did.
    test: fraction of recordings or blocks on the test side.
    blocks, gap: with fewer than three recordings or two subjects, or when blocks is given, every recording is
        cut in so many contiguous blocks with ``gap`` seconds between them (split "gap").
    labels_beyond: what to do with labels more than a second longer than the track.

    Raises ReadError naming the file and what to do about it.
    """
    sources = _sources(poses, labels, subjects, ignore, ignore_behaviours)
    rate = _fps(sources, fps)
    keypoints = _keypoints(sources, ignore)
    skeleton = Skeleton(keypoints, (), *_axis(keypoints, front, back))
    behaviours = tuple(dict.fromkeys(b for s in sources if s.labels for b in s.labels.behaviours))
    notes = [f"{s.name}: {note}" for s in sources for note in s.layout.notes]
    if skeleton.front is None:
        notes.append("no body axis: no keypoint is called nose or tail base; name them with front and back")
    for source in sources:
        notes += _check_length(source, rate, behaviours, labels_beyond)
    reading = Reading(skeleton, behaviours, rate, tuple(cleaning), tuple(ignore), tuple(ignore_behaviours))
    files, counts, rule = _split(sources, reading, test, blocks, gap, seed)
    notes += _balance(files, counts, behaviours)
    card = Card(
        name=name,
        species=species,
        fps=reading.fps,
        skeleton=skeleton,
        tasks=tuple(_task(b, sources) for b in behaviours),
        split_rule=rule,
        unit=reading.unit,
        source=", ".join(s.pose.name for s in sources),
        notes=tuple(notes),
        cleaning=tuple(step.describe() for step in cleaning),
    )
    return card, _parts(sources, files, reading)


def _sources(
    poses: Sequence[str | Path],
    labels: Sequence[str | Path],
    subjects: Sequence[str],
    ignore: Sequence[str],
    ignore_behaviours: Sequence[str],
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
            layout=readers.layout(path, ignore=ignore),
            label=matched.get(path),
            labels=readers.labels(matched[path], path, ignore=ignore_behaviours) if path in matched else None,
        )
        for i, (name, path) in enumerate(names.items())
    ]


def _fps(sources: Sequence[_Source], fps: float | None) -> float:
    if fps is not None and not (np.isfinite(fps) and fps > 0):
        raise ReadError(f"the frame rate is a positive number (--fps 30), not {fps!r}")
    stated = {s.name: s.labels.fps for s in sources if s.labels and s.labels.fps}
    given = {"the one given": fps} if fps else {}
    timed = {f"the track of {s.name}": s.layout.fps for s in sources if s.layout.fps}
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
    everything = dict.fromkeys(k for s in sources for k in s.layout.names)
    for source in sources:
        for keypoint in everything:
            if keypoint not in source.layout.names:
                raise ReadError(
                    f"{source.pose}: no keypoint {keypoint!r}, which other files have; leave it out of all "
                    f"(--ignore {keypoint!r})"
                )
        if source.layout.space != first.layout.space:
            raise ReadError(f"{source.pose} and {first.pose} differ in their number of coordinates, 2 and 3")
    return first.layout.names


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


def _check_length(source: _Source, fps: float, behaviours: Sequence[str], beyond: Literal["error", "cut"]) -> list[str]:
    """What is to be noted about the labels of a recording; ReadError when they outlast it."""
    found, frames = source.labels, source.layout.frames
    if found is None:
        return [f"{source.name}: unlabelled"] if behaviours else []
    over = found.seconds(fps) - frames / fps
    if over <= _TOLERANCE_SECONDS:
        return []
    if beyond == "error":
        raise ReadError(
            f"{source.pose}: the labels last {found.seconds(fps):.1f} s, the track {frames / fps:.1f} s "
            f"({frames} frames at {fps:g} fps); check the frame rate, or cut them (--labels-beyond cut)"
        )
    return [f"{source.name}: labels cut at the track's end, {over:.1f} s of them lost"]


def _task(behaviour: str, sources: Sequence[_Source]) -> Task:
    try:
        return Task(behaviour)
    except SchemaError as error:
        files = ", ".join(s.name for s in sources if s.labels and behaviour in s.labels.behaviours)
        raise ReadError(f"labels of {files}: {error}; or leave it out (--ignore-behaviours {behaviour!r})") from None


def _split(
    sources: Sequence[_Source], reading: Reading, test: float, blocks: int | None, gap: float, seed: int
) -> tuple[list[File], np.ndarray, str]:
    """Every file with its stretches, positives and negatives (stretch, task, 2), and the rule in words."""
    if not 0 < test < 1 or gap < 0:
        raise ReadError(f"test is a fraction between 0 and 1 and gap is not negative, not {test!r} and {gap!r}")
    chosen = "; sides chosen so that every task has positives on both where possible"
    fps = reading.fps
    whole = [Stretch(s.name, s.subject, 0, reading.frames(s.layout.frames)) for s in sources]
    apart = blocks is None and len(whole) >= 3 and len({s.subject for s in whole}) >= 2
    cut = [[w] if apart else splits.blocks_of(w, fps, blocks, gap) for w in whole]
    files = [
        File(s.name, s.pose, s.label, s.layout.frames, w.frames, tuple(c))
        for s, w, c in zip(sources, whole, cut, strict=True)
    ]
    counts = np.concatenate([_counts(s, f, reading) for s, f in zip(sources, files, strict=True)])
    stretches = [stretch for pieces in cut for stretch in pieces]
    if apart:
        sided, rule = splits.by_subject(stretches, counts, test, seed), "by subject" + chosen
    else:
        sided = splits.by_block(stretches, counts, test, seed)
        mean = np.mean([s.frames / fps for s in stretches if s.split != "gap"])
        count = "one recording" if len(whole) == 1 else f"{len(whole)} recordings"
        rule = (
            f"contiguous blocks of {mean:.1f} s with a gap of {gap:g} s: {count}, so scores are "
            f"within-recording{chosen}"
        )
    left = iter(sided)
    return [replace(f, stretches=tuple(next(left) for _ in f.stretches)) for f in files], counts, rule


def _counts(source: _Source, file: File, reading: Reading) -> np.ndarray:
    """Positive and negative frames of every task in every stretch, (stretch, task, 2); one task at a time."""
    counts = np.zeros((len(file.stretches), len(reading.behaviours), 2), dtype=np.int64)
    for place, behaviour in enumerate(reading.behaviours if source.labels else ()):
        assert source.labels is not None
        track = reading.track(source.labels, behaviour, file)
        for row, stretch in zip(counts, file.stretches, strict=True):
            values = track[stretch.start : stretch.stop]
            row[place] = (values == 1).sum(), (values == 0).sum()
    return counts


def _balance(files: Sequence[File], counts: np.ndarray, behaviours: Sequence[str]) -> list[str]:
    """How many positive frames each side has of each task."""
    sides = np.asarray([stretch.split for file in files for stretch in file.stretches])
    notes = []
    for place, behaviour in enumerate(behaviours):
        train, test = (int(counts[sides == side, place, 0].sum()) for side in ("train", "test"))
        lack = "" if train and test else ": cannot be scored"
        notes.append(f"{behaviour}: {train} positive frames in train, {test} in test{lack}")
    return notes


def _parts(sources: Sequence[_Source], files: Sequence[File], reading: Reading) -> list[Part]:
    """Files that are read together: short ones up to about a shard's size, a long one alone."""
    groups: list[list[File]] = []
    held = 0
    for source, file in zip(sources, files, strict=True):
        layout = source.layout
        size = 4 * layout.frames * len(layout.individuals) * len(layout.names) * (layout.space + 1)
        if not groups or held + size > _PART_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(file)
        held += size
    return [
        Part(
            name=g[0].name if len(g) == 1 else f"{g[0].name} to {g[-1].name}",
            make=partial(reading.read, tuple(g)),
            frames=sum(file.frames for file in g),
            stamp="; ".join(file.stamp for file in g),
        )
        for g in groups
    ]
