"""Train and test sides of a user's own recordings: by subject, or by contiguous blocks when there are too few."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ethoray.readers.contents import ReadError

_BLOCK_SECONDS, _MOST_BLOCKS, _DRAWS = 10.0, 20, 256


@dataclass(frozen=True)
class Stretch:
    """Frames ``start`` to ``stop`` of a file, which become one recording of the dataset."""

    name: str
    subject: str
    start: int
    stop: int
    split: str = "train"

    @property
    def frames(self) -> int:
        """How many frames it has."""
        return self.stop - self.start


def by_subject(stretches: Sequence[Stretch], counts: np.ndarray, test: float, seed: int) -> list[Stretch]:
    """Whole subjects go to the test side, about the fraction ``test`` of them, at least one on each side.

    ``counts`` (stretch, task, 2) are the positive and negative frames of every stretch.
    """
    subjects = np.asarray([s.subject for s in stretches])
    known = list(dict.fromkeys(subjects.tolist()))
    sides = assign(np.stack([counts[subjects == subject].sum(0) for subject in known]), test, seed)
    chosen = {s for s, tested in zip(known, sides, strict=True) if tested}
    return [replace(s, split="test" if s.subject in chosen else "train") for s in stretches]


def by_block(stretches: Sequence[Stretch], counts: np.ndarray, test: float, seed: int) -> list[Stretch]:
    """Blocks go to train or test; what is in split "gap" stays there. ``counts`` as for ``by_subject``."""
    cut = [i for i, s in enumerate(stretches) if s.split != "gap"]
    sides = dict(zip(cut, assign(counts[cut], test, seed), strict=True))
    return [
        s if s.split == "gap" else replace(s, split="test" if sides[i] else "train") for i, s in enumerate(stretches)
    ]


def blocks_of(whole: Stretch, fps: float, blocks: int | None, gap: float) -> list[Stretch]:
    """A recording cut in contiguous blocks; the ``gap`` seconds between two of them are in split "gap".

    ``blocks`` None makes blocks of about ten seconds, 2 to 20 of them. Raises ReadError when a block would be
    shorter than a second.
    """
    frames = whole.frames
    if blocks is None:
        blocks = min(max(int((frames / fps + gap) // (_BLOCK_SECONDS + gap)), 2), _MOST_BLOCKS)
    space = round(gap * fps)
    usable = frames - (blocks - 1) * space
    if blocks < 2 or usable < blocks * fps:
        raise ReadError(
            f"recording {whole.name!r}: {frames / fps:.1f} s do not give {blocks} blocks of a second or more "
            f"with gaps of {gap:g} s; give more recordings, fewer blocks or a smaller gap"
        )
    edges = np.round(np.linspace(0, usable, blocks + 1)).astype(int).tolist()
    pieces = []
    for block, (first, last) in enumerate(pairwise(edges)):
        start, stop = first + block * space, last + block * space
        pieces.append(_part(whole, start, stop, fps, "train"))
        if space and block < blocks - 1:
            pieces.append(_part(whole, stop, stop + space, fps, "gap"))
    return pieces


def assign(counts: np.ndarray, test: float, seed: int) -> np.ndarray:
    """Which groups are tested: bool (group,), about the fraction ``test`` of them, evenly spread.

    ``counts`` (group, task, 2) are the positive and negative frames of every group. Of the even spreads (one a
    phase) and seeded random draws, the one is taken that puts positives and negatives of most tasks on both
    sides; then the one whose shares of positives are, to a tenth, nearest to ``test``; then the first.
    """
    groups = len(counts)
    if groups < 2:
        raise ReadError("a train and a test side need two recordings or blocks at least")
    number = min(max(round(test * groups), 1), groups - 1)
    best: tuple[tuple[int, float], np.ndarray] | None = None
    total = counts.sum(0)
    seen = total[:, 0] > 0
    for sides in _candidates(groups, number, np.random.default_rng(seed)):
        tested = counts[sides].sum(0)
        covered = int(((tested > 0) & (tested < total)).sum())
        imbalance = np.abs(tested[seen, 0] / total[seen, 0] - test)
        value = (covered, -round(float(imbalance.max(initial=0.0)), 1))
        if best is None or value > best[0]:
            best = (value, sides)
    assert best is not None
    return best[1]


def _candidates(groups: int, number: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    spread = np.floor(np.arange(number) * groups / number).astype(int)
    for phase in rng.permutation(-(-groups // number)):
        sides = np.zeros(groups, dtype=bool)
        sides[(spread + phase) % groups] = True
        yield sides
    for _ in range(_DRAWS):
        sides = np.zeros(groups, dtype=bool)
        sides[rng.choice(groups, number, replace=False)] = True
        yield sides


def _part(whole: Stretch, start: int, stop: int, fps: float, split: str) -> Stretch:
    name = f"{whole.name}@{start / fps:06.2f}-{stop / fps:06.2f}s"
    return Stretch(name, whole.subject, whole.start + start, whole.start + stop, split)
