"""The three layouts of neural sessions that ``neural_session.py`` prepares, each read into the same plain Session."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from neural_cuts import BESIDE, blocks, counted, directions, during, still

from ethoray.readers import ReadError, nwb, safe, spikes, trodes
from ethoray.readers.hdf5 import opened, texts
from ethoray.readers.nwb_layout import located, numbers

_KINEMATICS = {"hand": "position", "velocity": "velocity", "acceleration": "acceleration", "force": "force"}
_MOST_CLASSES = 50


@dataclass(frozen=True)
class Trial:
    """A stretch of a session: its name, its first frame, the frame after its last, and its class, if it has one."""

    name: str
    start: int
    stop: int
    label: str | None = None


@dataclass(frozen=True)
class Session:
    """One session on one grid of frames.

    Attributes
    ----------
    keypoints: float32 (time, individual, keypoint, space); names are of its keypoints.
    counts: float32 (time, unit), spikes in each frame.
    by_time: whether neighbours are alike, so that the split is spread over the session by tens of trials.
    """

    name: str
    subject: str
    fps: float
    unit: str
    names: tuple[str, ...]
    individuals: tuple[str, ...]
    keypoints: np.ndarray
    confidence: np.ndarray | None
    counts: np.ndarray
    trials: tuple[Trial, ...]
    notes: tuple[str, ...] = ()
    by_time: bool = False


@dataclass(frozen=True)
class Choices:
    """What a person may choose: seconds of a block and of a stuck tracker, NWB's pose, column of labels, alignment."""

    block: float = 15.0
    frozen: float = 10.0
    pose: str = ""
    label: str = ""
    align: str = ""
    before: float = 0.5
    after: float = 1.5


def found(raw: Path) -> tuple[str, list[Path]]:
    """The layout of a folder, by what its files hold, and the files that begin a session."""
    if not raw.is_dir():
        raise ReadError(f"{raw}: no such folder")
    kinds: dict[str, list[Path]] = {}
    for path in sorted(p for p in raw.rglob("*") if p.is_file()):
        kind = _kind(path)
        if kind:
            kinds.setdefault(kind, []).append(path)
    if len(kinds) != 1:
        held = " and ".join(f"{len(paths)} of {kind}" for kind, paths in kinds.items())
        raise ReadError(
            f"{raw}: {held or 'no npz with firing_rates, no Trodes position tracking, no NWB file'}; "
            "give a folder that holds sessions of one layout"
        )
    return next(iter(kinds.items()))


def _kind(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(b"PK\x03\x04") and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return "npz" if "firing_rates.npy" in archive.namelist() else ""
    if trodes.sniffs(head, path):
        return "trodes"
    return "nwb" if nwb.sniffs(head, path) else ""


def sources(kind: str, path: Path) -> list[Path]:
    """Every file that a session is read from."""
    return [path, path.with_name("spikes.mat")] if kind == "trodes" else [path]


def checked(path: Path, published: Mapping[str, str]) -> str:
    """The sha256 of an original and its name; ReadError when it is a published file and differs."""
    name = f"{path.parent.name}/{path.name}"
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ReadError(f"cannot read {path}: {error.strerror or error}") from error
    if published.get(name, digest) != digest:
        raise ReadError(
            f"{path}: sha256 {digest} is not that of the published file, {published[name]}; get it again, "
            "or rename its folder when it is another recording"
        )
    return f"{digest} {name}"


def session(kind: str, path: Path, choices: Choices) -> Session:
    """Read one session."""
    return {"npz": reaches, "trodes": tracked, "nwb": of_nwb}[kind](path, choices)


def reaches(path: Path, choices: Choices) -> Session:
    """Firing rates and kinematics in bins, trials one after the other (npz of the reaching monkeys)."""
    stored = safe.load(path)
    wanted = {"firing_rates": 2, "trial_offsets": 1, "labels": 2} | dict.fromkeys(_KINEMATICS.values(), 2)
    lacking = [key for key in wanted if key not in stored]
    if lacking:
        raise ReadError(f"{path}: no {', '.join(lacking)}; it holds {', '.join(stored)}")
    for key, axes in wanted.items():
        if getattr(stored[key], "ndim", 0) != axes or stored[key].dtype.kind not in "fiu":
            raise ReadError(f"{path}: {key} is not an array of numbers in {axes} axes")
    rates, offsets = stored["firing_rates"].astype(np.float64), stored["trial_offsets"].astype(np.int64)
    bins = len(rates)
    different = {key: len(stored[key]) for key in wanted if key != "trial_offsets" and len(stored[key]) != bins}
    if different or len(offsets) < 2 or (offsets[0], offsets[-1]) != (0, bins) or (np.diff(offsets) <= 0).any():
        raise ReadError(f"{path}: {bins} bins of firing_rates; other lengths: {different or 'trial_offsets'}")
    counts, seconds = counted(path, rates)
    starts, labels = offsets[:-1], stored["labels"][:, 0]
    if any(len(np.unique(labels[a:b])) > 1 for a, b in zip(starts, offsets[1:], strict=True)):
        raise ReadError(f"{path}: labels change within a trial of trial_offsets")
    moved = stored["position"][offsets[1:] - 1] - stored["position"][starts]
    named = directions(labels[starts], moved)
    trials = tuple(
        Trial(f"{path.stem}_trial_{n:04d}", int(a), int(b), named[labels[a]])
        for n, (a, b) in enumerate(zip(starts, offsets[1:], strict=True))
    )
    keypoints = np.stack([stored[key] for key in _KINEMATICS.values()], axis=1)[:, None].astype(np.float32)
    return Session(
        name=path.stem,
        subject=path.stem.split("_")[0],
        fps=1 / seconds,
        unit="position, velocity, acceleration and force, each in the unit it was published in (by its size cm, cm/s, "
        "cm/s2; force unknown)",
        names=tuple(_KINEMATICS),
        individuals=(),
        keypoints=keypoints,
        confidence=None,
        counts=counts,
        trials=trials,
        notes=(f"{path.stem}: {int((counts.sum(0) == 0).sum())} of {counts.shape[1]} units never fire",),
    )


def tracked(path: Path, choices: Choices) -> Session:
    """A position from Trodes beside spikes.mat: blocks of the time in which both were recorded and the animal seen."""
    place, start = trodes.regular(path)
    units = spikes.of_matlab(path.with_name("spikes.mat"))
    assert place.fps is not None
    keypoints, fps = place.keypoints, place.fps
    counts, outside = spikes.counts(units.trains, start, fps, len(keypoints))
    recorded = during(units.spans, start, fps, len(keypoints))
    stuck = still(keypoints, round(choices.frozen * fps)) if choices.frozen > 0 else np.zeros(len(keypoints), bool)
    keypoints = np.where(stuck[:, None, None, None], np.nan, keypoints)
    seen = ~np.isnan(keypoints[..., 0]).all((1, 2))
    cut, blind = blocks(recorded, seen, round(choices.block * fps), round(BESIDE * fps))
    name = path.parent.name
    notes = (
        *place.notes,
        *units.notes,
        f"{outside} spikes outside of the tracked time left out",
        f"{int((~recorded).sum())} frames before or after the spikes were recorded left out",
        f"{int(stuck.sum())} frames in which the position stood still for {choices.frozen:g} s or more are missing: "
        "no light was seen" if choices.frozen > 0 else "stuck positions kept",
        f"{blind} blocks left out, the animal is seen in less than half of each",
    )  # fmt: skip
    return Session(
        name, name, fps, "pixel", place.names, (), keypoints, None, counts,
        tuple(Trial(f"{name}_block_{n:04d}", a, b) for n, (a, b) in enumerate(cut)),
        tuple(f"{name}: {note}" for note in notes), by_time=True,
    )  # fmt: skip


def of_nwb(path: Path, choices: Choices) -> Session:
    """An NWB file with a pose or position, a units table and, where there is one, a table of trials."""
    place = nwb.timed(path, pose=choices.pose)
    units = spikes.of_nwb(path)
    keypoints, fps = place.tracks.keypoints, place.tracks.fps or 0.0
    counts, outside = spikes.counts(units.trains, place.start, fps, len(keypoints))
    recorded = during(units.spans, place.start, fps, len(keypoints))
    notes = [*place.tracks.notes, *units.notes, f"{outside} spikes outside of the tracked time left out"]
    with opened(path) as file:
        subject = located(path, file, "general/subject/subject_id")
        animal = "".join(texts(path, file, subject.lstrip("/"))) if subject else path.stem
        table = located(path, file, "intervals/trials")
        spans, labels = _trials(path, file, table, choices) if table else (np.empty((0, 2)), ())
    if table:
        first = np.ceil((spans[:, 0] - place.start) * fps - 1e-6)
        last = first + np.round((spans[:, 1] - spans[:, 0]) * fps)
        rows: list[tuple[int, int, int]] = []
        for n, (a, b) in enumerate(zip(first, last, strict=True)):
            inside = 0 <= a < b <= len(keypoints) and recorded[int(a) : int(b)].all()
            if inside and (not rows or a >= rows[-1][2]):
                rows.append((n, int(a), int(b)))
        notes.append(
            f"{len(spans) - len(rows)} of {len(spans)} trials left out, not wholly within the recorded time "
            "or begun before the one before ended"
        )
        trials = tuple(Trial(f"{path.stem}_trial_{n:04d}", a, b, labels[n]) for n, a, b in rows)
    else:
        seen = ~np.isnan(keypoints[..., 0]).all((1, 2))
        cut, blind = blocks(recorded, seen, round(choices.block * fps), round(BESIDE * fps))
        notes.append(f"no trials: blocks of {choices.block:g} s; {blind} left out, nothing is seen in half of each")
        trials = tuple(Trial(f"{path.stem}_block_{n:04d}", a, b) for n, (a, b) in enumerate(cut))
    return Session(
        path.stem, re.sub(r"""[/\\"\s]+""", "_", animal).strip("._") or path.stem, fps, place.unit, place.tracks.names,
        place.tracks.individuals, keypoints, place.tracks.confidence, counts, trials,
        tuple(f"{path.stem}: {note}" for note in notes), by_time=not table,
    )  # fmt: skip


def _trials(path: Path, file: h5py.File, table: str, choices: Choices) -> tuple[np.ndarray, tuple[str | None, ...]]:
    """Start and stop (s) of every trial, and its class."""
    held = ", ".join(file[table])
    keys = [choices.align] if choices.align else ["start_time", "stop_time"]
    for key in [*keys, *([choices.label] if choices.label else [])]:
        if located(path, file, f"{table}/{key}") is None:
            raise ReadError(f"{path}: trials have no column {key}; they have {held}")
    times = [numbers(path, file, f"{table}/{key}", "fiu").astype(np.float64) for key in keys]
    if choices.align:
        times = [times[0] - choices.before, times[0] + choices.after]
    if not choices.label:
        return np.stack(times, axis=1), (None,) * len(times[0])
    place = located(path, file, f"{table}/{choices.label}") or ""
    values: list[str | None]
    if file[place].dtype.kind in "SO":
        values = [text or None for text in texts(path, file, place.lstrip("/"))]
    else:
        values = [f"{v:g}" if np.isfinite(v) else None for v in numbers(path, file, place).astype(np.float64)]
    if len(values) != len(times[0]) or len(set(values)) > _MOST_CLASSES:
        raise ReadError(
            f"{path}: column {choices.label} has {len(values)} values, {len(set(values))} of them different"
        )
    return np.stack(times, axis=1), tuple(values)
