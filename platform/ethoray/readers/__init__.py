"""Pose files and label files, recognised by what is inside them; one format a file of this folder."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType

from ethoray.readers.contents import Bouts, FrameLabels, Labels, ReadError, Tracks, stem

__all__ = [
    "Bouts",
    "FrameLabels",
    "Labels",
    "ReadError",
    "Tracks",
    "formats",
    "labels",
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
    reader = sniff(path)
    if not hasattr(reader, "tracks"):
        raise ReadError(f"{path}: holds labels ({reader.WHAT}), not tracks; give it as labels")
    found: Tracks = reader.tracks(Path(path), ignore, min_confidence)
    return found


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
