"""How the decoder's process speaks: heads and payloads on a pipe.

An answer is a head (kind, frame index, seconds, bytes that follow) and those bytes. Kinds: P what the file is (JSON),
F a frame (height, width, channels, pixels), T a sign of life, D damage that was left out, E an error that ends it, Z
the end.
"""

from __future__ import annotations

import struct
from functools import cached_property
from math import inf
from time import monotonic
from typing import IO, Any

import numpy as np

HEAD = struct.Struct("<cqdI")
MOST_PIXELS = 1 << 27
BEAT = 1.0  # seconds in which nothing left this process before a sign of life


class Damage(ValueError):
    """Something in a file that is not as it should be."""


class Answer:
    """The way back to who asked."""

    def __init__(self, request: dict[str, Any], out: IO[bytes]) -> None:
        self.request, self.out = request, out
        self.path: str = request["path"]
        self.sent = 0
        self.heard = monotonic()  # when something last left this process; frames wait in the buffer of ``out``

    @cached_property
    def only(self) -> frozenset[int] | None:
        """The frames wanted, or None for all of the range."""
        return None if self.request["only"] is None else frozenset(self.request["only"])

    @cached_property
    def end(self) -> float:
        """The index from which on nothing is wanted."""
        stop = inf if self.request["stop"] is None else self.request["stop"]
        return float(stop if self.only is None else min(stop, max(self.only, default=-1) + 1))

    def wants(self, index: int) -> bool:
        """Whether a frame is to be converted and sent."""
        first, stride = self.request["start"], self.request["stride"]
        inside = first <= index < self.end and (index - first) % stride == 0
        return inside and (self.only is None or index in self.only)

    def say(self, kind: bytes, payload: bytes = b"", index: int = 0, time: float = 0.0) -> None:
        """Write one answer."""
        self.out.write(HEAD.pack(kind, index, time, len(payload)) + payload)
        if kind != b"F":
            self.out.flush()
            self.heard = monotonic()

    def alive(self) -> None:
        """A sign of life, now and then; frames that wait go with it."""
        if monotonic() - self.heard >= BEAT:
            self.say(b"T")

    def damaged(self, text: str) -> None:
        """Say what was left out, or end here when nothing may be."""
        if not self.request["skip"]:
            raise Damage(text)
        self.say(b"D", text.encode())

    def send(self, index: int, time: float, image: np.ndarray) -> None:
        """One frame as it will be seen, (height, width) or (height, width, 3)."""
        image = np.ascontiguousarray(image if image.ndim == 3 else image[..., None])
        self.say(b"F", struct.pack("<III", *image.shape) + image.tobytes(), index, time)
        self.sent += 1

    def over(self, frames: int) -> None:
        """The video is over; frames that were asked for by number and do not exist are damage."""
        beyond = sorted(i for i in self.only or () if i >= frames)
        if beyond:
            self.damaged(f"{len(beyond)} frames asked for do not exist, {beyond[0]} is the first; it has {frames}")
