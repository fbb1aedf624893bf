"""Videos are recognised here only to say where they are read: they hold pictures, neither tracks nor labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ethoray.readers.contents import ReadError

WHAT = "video (mp4, mov, avi, mkv, webm), which datasets/beast_video.py turns into frames"


def sniffs(head: bytes, path: Path) -> bool:
    """Whether the file begins as MP4 or QuickTime, AVI, Matroska or WebM do."""
    quicktime = head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide")
    return quicktime or (head.startswith(b"RIFF") and head[8:12] == b"AVI ") or head.startswith(b"\x1a\x45\xdf\xa3")


def tracks(path: Path, ignore: Sequence[str] = (), min_confidence: float = 0.0) -> NoReturn:
    """Raise ReadError: there are no tracks in a video."""
    raise ReadError(_where(path))


def labels(path: Path, pose: str, ignore: Sequence[str] = ()) -> NoReturn:
    """Raise ReadError: there are no labels in a video."""
    raise ReadError(_where(path))


def _where(path: Path) -> str:
    return (
        f"{path}: is a video, which holds no tracks and no labels. Give the file that a tracker made of it, or make "
        f"frames to learn from with: python datasets/beast_video.py --raw {path.parent} --out NAME"
    )
