"""Rows of embeddings as probes see them: checked, and a bounded sample that every recording has a fair part in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from ethoray.embedding import Embedding
from ethoray.probes import ProbeError

Array = np.ndarray
SLACK = 1.25
"""By how much a sample may outgrow its size before it is cut back."""


def check(embedding: Embedding, widths: Mapping[str, int]) -> None:
    """Raise ProbeError naming the recording unless its spaces are (time, width), as in the first, and finite."""
    name, frames = embedding.entry.name, embedding.entry.frames
    shapes = {space: x.shape for space, x in embedding.spaces.items()}
    expected = {space: (frames, width) for space, width in widths.items()}
    if shapes != expected:
        raise ProbeError(
            f"recording {name!r}: spaces are {shapes}, expected {expected} as in the first recording; "
            "an encoder gives every recording the same spaces, and every frame a row"
        )
    for space, x in embedding.spaces.items():
        broken = ~np.isfinite(x).all(1)
        if broken.any():
            raise ProbeError(
                f"recording {name!r}: space {space!r} is not finite in {broken.sum()} of {frames} frames, first in "
                f"frame {broken.argmax()}; an embedding is a finite number wherever there is a frame"
            )


def priority(*words: object) -> int:
    """A number of 64 bits that these words decide alone: the same in any order of recordings and on any machine."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, words)).encode()).digest()[:8], "big")


class Sample:
    """At most ``size`` rows, drawn at random within each recording and as evenly over recordings as these allow.

    Which rows are held depends on the seed, the names and the lengths of the recordings, not on their order. With
    more recordings than rows, as many recordings are drawn as there are rows.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed = size, seed
        self._held: dict[str, dict[str, Array]] = {}
        self._counts: dict[str, int] = {}
        self._number = 0

    def add(self, name: str, columns: Mapping[str, Array]) -> None:
        """Take in the rows of a recording: arrays of one length, each under its own name."""
        rows = len(next(iter(columns.values())))
        if not rows:
            return
        self._counts[name] = rows
        share = self._level() if len(self._counts) <= self.size else 1
        order = np.random.default_rng(priority(self.seed, name)).permutation(rows)[:share]
        self._held[name] = {key: values[order] for key, values in columns.items()}
        self._number += len(order)
        if self._number > SLACK * self.size:
            self._cut()

    def rows(self) -> dict[str, Array]:
        """The columns of all held rows, in a random order; empty when nothing was added."""
        self._cut()
        names = sorted(self._held)
        order = np.random.default_rng(priority(self.seed)).permutation(self._number)
        return {
            key: np.concatenate([self._held[name][key] for name in names])[order]
            for key in (self._held[names[0]] if names else ())
        }

    def _level(self) -> int:
        """The most rows that every recording may have."""
        counts = np.sort(list(self._counts.values()))
        before = np.concatenate([[0], np.cumsum(counts)[:-1]])
        share = (self.size - before) // np.arange(len(counts), 0, -1)
        short = np.flatnonzero(share < counts)
        return int(share[short[0]]) if len(short) else int(counts[-1])

    def _cut(self) -> None:
        if len(self._held) > self.size:
            kept = sorted(self._held, key=lambda name: priority(self.seed, name))[: self.size]
            self._held = {name: self._held[name] for name in kept}
            self._counts = {name: self._counts[name] for name in kept}
        level, self._number = self._level() if self._held else 0, 0
        for name, columns in self._held.items():
            length = min(self._counts[name], level)
            self._number += length
            if len(next(iter(columns.values()))) > length:
                self._held[name] = {key: values[:length].copy() for key, values in columns.items()}
