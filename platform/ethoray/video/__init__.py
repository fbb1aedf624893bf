"""Video as numbers: one pass over a file from its first frame to its last, in a process of its own.

PyAV (extra ``video``) brings FFmpeg and is imported in that process alone. Frames come in the order they are shown,
turned as the file says, each with its own time; nothing is ever sought. Some decoders crash or hang on damaged files:
the process is ended when it says nothing for too long, so that a file can end a pass and never a job. A file is read
as the container its first bytes say; playlists, which name other files, are refused.
"""

from __future__ import annotations

import importlib.util
import json
import os
import select
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ethoray.video.answer import HEAD
from ethoray.video.watch import Silence

_SOURCE = os.fspath(Path(__file__).parents[2])
_PLACES: dict[str, tuple[tuple[int, bytes], ...]] = {
    "mov": tuple((4, name) for name in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")),
    "avi": ((8, b"AVI "),),
    "matroska": ((0, b"\x1a\x45\xdf\xa3"),),
    "asf": ((0, b"\x30\x26\xb2\x75"),),
    "mpeg": ((0, b"\x00\x00\x01\xba"),),
    "h5": ((0, b"\x89HDF\r\n\x1a\n"),),
}


class VideoError(ValueError):
    """A video that cannot be read as it should; the message names the file, what is wrong and what to do."""


@dataclass(frozen=True)
class Frame:
    """One frame: its index in the order shown, its time in seconds, uint8 (height, width, 1 or 3)."""

    index: int
    time: float
    image: np.ndarray


@dataclass(frozen=True)
class View:
    """What is wanted of a video: which frames, which part of the picture, how large.

    Attributes
    ----------
    size: (width, height) in pixels after resizing, without keeping proportions; None keeps the part's own size.
    grey: one channel instead of three (RGB).
    region: (x, y, width, height) in pixels of the picture as it is shown, after turning; None is all of it.
    start, stop, stride: frames, as in a slice.
    """

    size: tuple[int, int] | None = None
    grey: bool = True
    region: tuple[int, int, int, int] | None = None
    start: int = 0
    stop: int | None = None
    stride: int = 1

    def __post_init__(self) -> None:
        if self.size is not None and not all(1 <= side <= 16384 for side in self.size):
            raise VideoError(f"a frame cannot be resized to {self.size} pixels")
        if self.region is not None and (min(self.region[:2]) < 0 or min(self.region[2:]) < 1):
            raise VideoError(f"region {self.region}: x and y are not negative, width and height are positive")
        if self.start < 0 or self.stride < 1 or (self.stop is not None and self.stop <= self.start):
            raise VideoError(f"frames {self.start} to {self.stop} by {self.stride} are none")


@dataclass(frozen=True)
class Probe:
    """What a file says of itself, without decoding more than one frame.

    Attributes
    ----------
    width, height: in pixels as shown, after turning by ``rotation`` (degrees clockwise).
    fps: frames per second, from the times of all frames; NaN where a file has no times (HDF5) or one frame.
    frames: counted in the file, not taken from its header.
    promised: frames the header states, 0 where it states none.
    uneven: how far a frame's time is from where a constant rate would put it, at most, in seconds.
    """

    width: int
    height: int
    fps: float
    frames: int
    promised: int
    uneven: float
    rotation: int
    codec: str
    pixels: str

    @property
    def varies(self) -> bool:
        """Whether the rate varies by so much that index / fps is wrong by more than half a frame."""
        return bool(self.uneven * self.fps > 0.5)


def container(path: str | Path) -> str | None:
    """FFmpeg's name of the container a file begins like ("h5" for HDF5), or None; raises VideoError if unreadable."""
    try:
        with Path(path).open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise VideoError(f"cannot read {path}: {error.strerror or error}") from error
    for name, places in _PLACES.items():
        if any(head[at:].startswith(word) for at, word in places):
            return name
    return None


def probe(path: str | Path, *, patience: float = 60.0) -> Probe:
    """Size, rate, count and rotation of a video; raises VideoError naming the file and what is wrong."""
    for kind, _, _, payload in _messages(Path(path), {"probe": True, "skip": True}, patience):
        if kind == b"P":
            return Probe(**json.loads(payload))
    raise VideoError(f"{path}: nothing was said of it")  # pragma: no cover


def frames(
    path: str | Path,
    view: View | None = None,
    *,
    only: Sequence[int] | None = None,
    damage: list[str] | None = None,
    threads: int = 1,
    patience: float = 60.0,
) -> Iterator[Frame]:
    """The frames of a video in the order they are shown, in one pass.

    Parameters
    ----------
    only: indices of the frames wanted among those of the view; the others are decoded where they must be, never
        converted, and the pass ends at the last one.
    damage: None stops at the first damage with VideoError. A list lets the pass go on at the next key frame and
        receives a sentence for everything that was left out.
    threads: of the decoder.
    patience: seconds without a sign of life after which the decoder is killed and VideoError raised; time in which it
        only waits for a processor does not count.

    An h5 file holds ``video``, uint8 (frame, height, width) or (frame, height, width, 3); its times are NaN.
    Raises VideoError also for a file without frames, and for one that ends before its header says.
    """
    view = view or View()
    wanted = None if only is None else sorted({int(i) for i in only})
    request = asdict(view) | {"only": wanted, "skip": damage is not None, "threads": max(1, threads)}
    for kind, index, time, payload in _messages(Path(path), request, patience):
        if kind == b"F":
            height, width, channels = struct.unpack_from("<III", payload)
            yield Frame(index, time, np.frombuffer(payload, np.uint8, offset=12).reshape(height, width, channels))
        elif kind == b"D" and damage is not None:
            damage.append(payload.decode())


def _messages(path: Path, request: dict[str, Any], patience: float) -> Iterator[tuple[bytes, int, float, bytes]]:
    """What the child says, until it says that it is done."""
    kind = container(path)
    if kind is None:
        raise VideoError(f"{path}: not a video that is read here (mp4, mov, avi, mkv, webm, wmv, mpg, h5)")
    if kind != "h5" and importlib.util.find_spec("av") is None:
        raise ModuleNotFoundError("videos need PyAV: pip install 'ethoray[video]'", name="av")
    request = request | {"path": os.path.abspath(path), "container": kind}
    command = [sys.executable, "-P", "-m", "ethoray.video.decoder"]
    paths = os.pathsep.join(filter(None, (_SOURCE, os.environ.get("PYTHONPATH"))))
    ends: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths}, **ends) as child:
        assert child.stdin and child.stdout
        try:
            with suppress(BrokenPipeError), child.stdin:
                child.stdin.write(json.dumps(request).encode())
            read = partial(_read, child, path, patience)
            while True:
                name, index, time, count = HEAD.unpack(read(HEAD.size))
                payload = read(count)
                if name == b"Z":
                    return
                if name == b"E":
                    raise VideoError(f"{path}: {payload.decode()}")
                yield name, index, time, payload
        finally:
            child.kill()


def _read(child: subprocess.Popen[bytes], path: Path, patience: float, count: int) -> bytes:
    assert child.stdout
    out = bytearray()
    descriptor, step, silence = child.stdout.fileno(), min(1.0, patience / 4), Silence(child.pid)
    while len(out) < count:
        if not select.select([descriptor], [], [], step)[0]:
            if silence.lasted(step) >= patience:
                raise VideoError(f"{path}: the decoder said nothing for {patience:g} s and was ended; is it damaged?")
            continue
        silence = Silence(child.pid)
        part = os.read(descriptor, min(count - len(out), 1 << 20))
        if not part:
            raise VideoError(f"{path}: the decoder died (exit status {child.wait()}); the file is damaged")
        out += part
    return bytes(out)
