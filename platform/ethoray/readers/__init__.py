"""Pose files and label files, recognised by what is inside them; one format a file of this folder."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType

from ethoray.readers.contents import Bouts, FrameLabels, Labels, Layout, ReadError, Tracks, added, cut, joined, stem

__all__ = [
    "Bouts",
    "FrameLabels",
    "Labels",
    "Layout",
    "ReadError",
    "Tracks",
    "added",
    "formats",
    "joined",
    "labels",
    "layout",
    "pieces",
    "recordings",
    "sniff",
    "stem",
    "tracks",
]

_HEAD = 1 << 18


@cache
def formats() -> tuple[ModuleType, ...]:
    """The files of this folder that recognise a format, by name: the folder is the registry."""
    names = (module.name for module in pkgutil.iter_modules(__path__))
    modules = (importlib.import_module(f"{__name__}.{name}") for name in sorted(names))
    return tuple(module for module in modules if hasattr(module, "sniffs"))


def sniff(path: str | Path) -> ModuleType:
    """The reader of a file, by its first bytes; raises ReadError listing what is read when there is none."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise ReadError(f"cannot read {path}: {error.strerror or error}") from error
    for reader in formats():
        if reader.sniffs(head, path):
            return reader
    known = "; ".join(reader.WHAT for reader in formats())
    begins = f"it begins {head[:60]!r}" if head else "it is empty"
    raise ReadError(f"{path}: unknown format, {begins}. Formats that are read: {known}")


def tracks(path: str | Path, *, ignore: Sequence[str] = (), min_confidence: float = 0.0) -> Tracks:
    """The tracks in a pose file, without the keypoints to ignore."""
    reader = _of_tracks(path)
    if hasattr(reader, "pieces"):
        return joined(Path(path), reader.pieces(Path(path), ignore, min_confidence, None))
    found: Tracks = reader.tracks(Path(path), ignore, min_confidence)
    return found


def layout(path: str | Path, *, ignore: Sequence[str] = ()) -> Layout:
    """What a pose file holds, without the keypoints to ignore; formats that are not read in pieces are read whole."""
    reader = _of_tracks(path)
    if hasattr(reader, "layout"):
        known: Layout = reader.layout(Path(path), ignore)
        return known
    found = tracks(path, ignore=ignore)
    length, _, _, space = found.keypoints.shape
    return Layout(length, found.individuals, found.names, space, found.fps, found.notes)


def pieces(
    path: str | Path, *, ignore: Sequence[str] = (), min_confidence: float = 0.0, frames: int | None = None
) -> Iterator[Tracks]:
    """The same tracks as consecutive pieces of so many frames, the last shorter; None for 16 MB's worth.

    Joined (``joined``) they are what ``tracks`` gives, notes included: those of a piece count its own frames, and
    ``added`` sums them. Most formats hold one piece in memory at a time; others are read whole, then cut.
    """
    if frames is not None and frames < 1:
        raise ReadError(f"{path}: pieces of {frames} frames; at least 1")
    reader = _of_tracks(path)
    if hasattr(reader, "pieces"):
        found: Iterator[Tracks] = reader.pieces(Path(path), ignore, min_confidence, frames)
        return found
    return cut(tracks(path, ignore=ignore, min_confidence=min_confidence), frames)


def _of_tracks(path: str | Path) -> ModuleType:
    reader = sniff(path)
    if not hasattr(reader, "tracks") and not hasattr(reader, "pieces"):
        raise ReadError(f"{path}: holds labels ({reader.WHAT}), not tracks; give it as labels")
    return reader


def labels(path: str | Path, pose: str | Path, *, ignore: Sequence[str] = ()) -> Labels:
    """The labels in a label file for the recording whose pose file is called ``pose``."""
    reader = sniff(path)
    if not hasattr(reader, "labels"):
        raise ReadError(f"{path}: holds tracks ({reader.WHAT}), not labels; give it as poses")
    found: Labels = reader.labels(Path(path), Path(pose).name, ignore)
    return found


def recordings(path: str | Path) -> frozenset[str]:
    """Names of recordings that a label file itself mentions; empty for formats that mention none."""
    reader = sniff(path)
    found: frozenset[str] = reader.recordings(Path(path)) if hasattr(reader, "recordings") else frozenset()
    return found
