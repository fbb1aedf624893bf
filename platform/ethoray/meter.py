"""One calm line that tells how far a long piece of work is."""

from __future__ import annotations

import sys
import time
from typing import TextIO

_EVERY_TERMINAL, _EVERY_ELSEWHERE = 0.2, 5.0  # seconds between two lines


class Meter:
    """Frames and parts done, frames a second, and the time that is left when all frames are known.

    On a terminal one line is rewritten; elsewhere a plain line appears every five seconds.
    """

    def __init__(self, parts: int, frames: int, *, shown: bool = True, out: TextIO | None = None) -> None:
        self.parts, self.frames, self.out = parts, frames, out or sys.stderr
        self.done = self.finished = 0
        self._shown, self._terminal = shown, self.out.isatty()
        self._told = time.monotonic()
        self._begun: tuple[float, int] | None = None  # when the first frames were there, and how many
        self._wrote = False

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._wrote:
            self._write(self.line())
            self.out.write("\n" if self._terminal else "")

    def advance(self, frames: int, parts: int = 0) -> None:
        """Count what is done, and tell when it is time to."""
        self.done += frames
        self.finished += parts
        if self._begun is None and frames:
            self._begun = time.monotonic(), self.done
        every = _EVERY_TERMINAL if self._terminal else _EVERY_ELSEWHERE
        if self._shown and time.monotonic() - self._told >= every:
            self._told = time.monotonic()
            self._write(self.line())

    def line(self) -> str:
        """How far it is."""
        begun, first = self._begun or (time.monotonic(), 0)
        rate = (self.done - first) / max(time.monotonic() - begun, 1e-3)
        words = [f"{self.done / 1e6:.2f} million frames", f"{self.finished} of {self.parts} parts"]
        if self.frames:
            share = min(self.done / self.frames, 1)
            words[0] = f"{share:4.0%}  {self.done / 1e6:.2f} of {self.frames / 1e6:.2f} million frames"
        if rate:
            words.append(f"{rate:,.0f} frames/s")
        if self.frames and rate and self.done < self.frames:
            left = round((self.frames - self.done) / rate)
            words.append(f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left")
        return "prepare  " + "  ".join(words)

    def _write(self, line: str) -> None:
        self.out.write(f"\r{line:<110}" if self._terminal else f"{line}\n")
        self.out.flush()
        self._wrote = True
