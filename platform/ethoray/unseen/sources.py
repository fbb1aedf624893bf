"""Recordings that an encoder has not seen: pose files and prepared datasets, made like those it learned from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from ethoray import cleaning, readers
from ethoray.batch import Spec
from ethoray.cleaning import Confidence, Interpolate, Outliers, Resample, Scale, Smooth, Step
from ethoray.readers import Labels, Layout, ReadError, Tracks, stem
from ethoray.readers.matching import match
from ethoray.schema import SchemaError
from ethoray.store import Dataset, Entry

_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:e[-+]?\d+)?")
_KINDS: tuple[tuple[type[Step], tuple[int, ...]], ...] = (  # a step, and which numbers of its sentence it is made of
    (Confidence, (0,)),
    (Outliers, (0, 2)),
    (Interpolate, (0,)),
    (Smooth, (1, 0)),
    (Resample, (0,)),
    (Scale, (0,)),
)
_PIECE = 4096


@dataclass(frozen=True)
class Source:
    """One recording as an encoder will see it.

    Attributes
    ----------
    split: None for files.
    fps: frames per second of what ``pieces`` gives.
    pieces: makes consecutive Tracks, cleaned, their keypoints in the encoder's order.
    labels: by task float32 (time,), NaN where nobody labelled.
    """

    name: str
    fps: float
    individuals: tuple[str, ...]
    pieces: Callable[[], Iterator[Tracks]]
    split: str | None = None
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)


def recall(sentences: Sequence[str], places: str = "the training data") -> tuple[Step, ...]:
    """The cleaning steps that a card describes; ReadError for one that cannot be repeated on a file."""
    return tuple(_step(sentence, places) for sentence in sentences)


def _step(sentence: str, places: str) -> Step:
    numbers = [float(number) for number in _NUMBER.findall(sentence)]
    for kind, used in _KINDS:
        if len(numbers) > max(used):
            values = [int(numbers[i]) if kind is Smooth and i == 0 else numbers[i] for i in used]
            step = kind(*values)
            if step.describe() == sentence:
                return step
    raise ReadError(
        f"{places} were cleaned in a way that cannot be repeated here ({sentence!r}); prepare a dataset in the same "
        "way and embed that, or say that the files are clean as they are (--as-is)"
    )


def of_files(
    paths: Sequence[str | Path],
    spec: Spec,
    steps: Sequence[Step] = (),
    *,
    fps: float | None = None,
    resample: bool = False,
    labels: Sequence[str | Path] = (),
    names: Sequence[str] = (),
) -> list[Source]:
    """Pose files of any format the readers know, for an encoder built for ``spec``.

    Parameters
    ----------
    steps: of cleaning that the training data went through, in order.
    fps: of files that do not state it.
    resample: change another frame rate to the encoder's instead of refusing it.
    labels: label files; each belongs to the recording it names.
    names: of the recordings; by default those of the files.

    Raises ReadError naming the file when it lacks a keypoint, has too many animals, another number of coordinates
    or another frame rate. Keypoints are matched by name; those the encoder does not know are left out.
    """
    files = [Path(path) for path in paths]
    called = list(names) or [stem(path) for path in files]
    check_names(called)
    matched = match([Path(label) for label in labels], files)
    found = {path: readers.labels(label, path) for path, label in matched.items()}
    behaviours = tuple(dict.fromkeys(b for each in found.values() for b in each.behaviours))
    return [
        _file(path, name, spec, tuple(steps), fps, resample, found.get(path), behaviours)
        for path, name in zip(files, called, strict=True)
    ]


def check_names(names: Sequence[str]) -> None:
    """Raise ReadError unless every recording has a name of its own."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ReadError(f"two of the files are both recording {twice[0]!r}; rename one, or embed them apart")


def _file(
    path: Path, name: str, spec: Spec, steps: tuple[Step, ...], fps: float | None, resample: bool,
    labels: Labels | None, behaviours: Sequence[str],
) -> Source:  # fmt: skip
    layout = readers.layout(path)
    _check_layout(path, layout, spec)
    rate = _rate(path, layout, labels, fps)
    steps = _to_rate(f"{path}: it", rate, spec, steps, resample)
    foreign = tuple(k for k in layout.names if k not in spec.skeleton.keypoints)
    tracks = {}
    for behaviour in behaviours:
        track = np.full(layout.frames, np.nan, dtype=np.float32)
        if labels is not None:
            track = labels.frames(behaviour, layout.frames, rate)
        tracks[behaviour] = track[cleaning.places(layout.frames, steps, rate)]
    pieces = partial(_of_file, path, spec.skeleton.keypoints, foreign, steps, rate)
    return Source(name, cleaning.rate(rate, steps), layout.individuals, pieces, labels=tracks)


def _check_layout(path: Path, layout: Layout, spec: Spec) -> None:
    lacking = [k for k in spec.skeleton.keypoints if k not in layout.names]
    if lacking:
        raise ReadError(
            f"{path}: no keypoint {', '.join(map(repr, lacking))}, which the encoder learned from; "
            f"it has {', '.join(layout.names)}"
        )
    if layout.space != spec.space:
        raise ReadError(f"{path}: {layout.space} coordinates, the encoder learned from {spec.space}")
    if len(layout.individuals) > spec.individuals:
        raise ReadError(
            f"{path}: {len(layout.individuals)} animals ({', '.join(layout.individuals)}), the encoder learned from "
            f"at most {spec.individuals}; split the file"
        )


def _rate(path: Path, layout: Layout, labels: Labels | None, fps: float | None) -> float:
    rates = [rate for rate in (fps, layout.fps, labels.fps if labels else None) if rate]
    if not rates:
        raise ReadError(f"{path}: it does not state its frame rate; give it (--fps 30)")
    if not np.allclose(rates, rates[0], rtol=1e-3):
        raise ReadError(f"{path}: frame rates contradict: {' and '.join(f'{rate:g}' for rate in rates)}")
    return float(rates[0])


def _to_rate(what: str, rate: float, spec: Spec, steps: tuple[Step, ...], resample: bool) -> tuple[Step, ...]:
    """The steps, and one more when another frame rate may be changed to the encoder's."""
    made = cleaning.rate(rate, steps)
    if np.isclose(made, spec.fps, rtol=1e-3):
        return steps
    if not resample:
        raise ReadError(
            f"{what} has {made:g} frames per second, the encoder learned from {spec.fps:g}; change them (--resample)"
        )
    return (*steps, Resample(spec.fps))


def _of_file(
    path: Path, wanted: Sequence[str], foreign: Sequence[str], steps: Sequence[Step], rate: float
) -> Iterator[Tracks]:
    pieces = readers.pieces(path, ignore=foreign)
    for piece in cleaning.clean(pieces, steps, rate) if steps else pieces:
        yield _ordered(piece, wanted)


def _ordered(piece: Tracks, wanted: Sequence[str]) -> Tracks:
    if piece.names == tuple(wanted):
        return piece
    order = [piece.names.index(name) for name in wanted]
    confidence = None if piece.confidence is None else piece.confidence[:, :, order]
    return Tracks(piece.keypoints[:, :, order], confidence, piece.individuals, tuple(wanted), piece.notes, piece.fps)


def of_dataset(dataset: Dataset, spec: Spec, *, resample: bool = False) -> list[Source]:
    """The recordings of a prepared dataset, with its labels; cleaning was done when it was prepared.

    Raises SchemaError when a keypoint lacks, ReadError for another frame rate unless it may be changed.
    """
    card = dataset.card
    lacking = [k for k in spec.skeleton.keypoints if k not in card.skeleton.keypoints]
    if lacking:
        raise SchemaError(
            f"{card.name!r} has no keypoint {', '.join(map(repr, lacking))}, which the encoder learned from; "
            f"it has {', '.join(card.skeleton.keypoints)}"
        )
    spaces = {entry.space for entry in dataset.entries} - {spec.space}
    if spaces:
        raise SchemaError(f"{card.name!r} has {spaces.pop()} coordinates, the encoder learned from {spec.space}")
    steps = _to_rate(repr(card.name), card.fps, spec, (), resample)
    return [_entry(dataset, entry, spec, steps) for entry in dataset.entries]


def _entry(dataset: Dataset, entry: Entry, spec: Spec, steps: Sequence[Step]) -> Source:
    places = cleaning.places(entry.frames, steps, entry.fps)
    labels = {
        task: np.broadcast_to(np.asarray(values, dtype=np.float32), entry.frames)[places]
        for task, values in dataset.labels(entry).items()
    }
    pieces = partial(_of_entry, dataset, entry, spec.skeleton.keypoints, steps)
    return Source(entry.name, cleaning.rate(entry.fps, steps), entry.individuals, pieces, entry.split, labels)


def _of_entry(dataset: Dataset, entry: Entry, wanted: Sequence[str], steps: Sequence[Step]) -> Iterator[Tracks]:
    names = dataset.card.skeleton.keypoints

    def read() -> Iterator[Tracks]:
        for first in range(0, entry.frames, _PIECE):
            yield Tracks(dataset.keypoints(entry, first, first + _PIECE), None, entry.individuals, names)

    for piece in cleaning.clean(read(), steps, entry.fps) if steps else read():
        yield _ordered(piece, wanted)
