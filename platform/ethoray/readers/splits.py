"""Train and test sides of a user's own recordings: by subject, or by contiguous blocks when there are too few."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from ethoray.readers.contents import ReadError
from ethoray.schema import Recording

_BLOCK_SECONDS, _MOST_BLOCKS, _DRAWS = 10.0, 20, 256


def by_subject(recordings: Sequence[Recording], test: float, seed: int) -> list[Recording]:
    """Whole subjects go to the test side, about the fraction ``test`` of them, at least one on each side."""
    subjects = list(dict.fromkeys(r.subject for r in recordings))
    members = [[r for r in recordings if r.subject == s] for s in subjects]
    sides = assign(np.stack([_counts(m) for m in members]), test, seed)
    chosen = {s for s, tested in zip(subjects, sides, strict=True) if tested}
    return [replace(r, split="test" if r.subject in chosen else "train") for r in recordings]


def by_block(
    recordings: Sequence[Recording], test: float, seed: int, blocks: int | None, gap: float
) -> list[Recording]:
    """Each recording is cut in contiguous blocks, in train or test; the frames between them go to split "gap"."""
    pieces = [p for r in recordings for p in _cut(r, _default_blocks(r, gap) if blocks is None else blocks, gap)]
    cut = [p for p in pieces if p.split != "gap"]
    sides = iter(assign(np.stack([_counts([p]) for p in cut]), test, seed))
    return [p if p.split == "gap" else replace(p, split="test" if next(sides) else "train") for p in pieces]


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


def _counts(recordings: Sequence[Recording]) -> np.ndarray:
    """Positive and negative frames of every task, (task, 2)."""
    tracks = [[np.asarray(v) for v in r.labels.values()] for r in recordings]
    counts = [[[(t == 1).sum(), (t == 0).sum()] for t in labels] for labels in tracks]
    return np.asarray(counts, dtype=np.int64).reshape(len(recordings), -1, 2).sum(0)


def _default_blocks(recording: Recording, gap: float) -> int:
    seconds = recording.frames / recording.fps
    return min(max(int((seconds + gap) // (_BLOCK_SECONDS + gap)), 2), _MOST_BLOCKS)


def _cut(recording: Recording, blocks: int, gap: float) -> list[Recording]:
    fps, frames = recording.fps, recording.frames
    space = round(gap * fps)
    usable = frames - (blocks - 1) * space
    if blocks < 2 or usable < blocks * fps:
        raise ReadError(
            f"recording {recording.name!r}: {frames / fps:.1f} s do not give {blocks} blocks of a second or more "
            f"with gaps of {gap:g} s; give more recordings, fewer blocks or a smaller gap"
        )
    edges = np.round(np.linspace(0, usable, blocks + 1)).astype(int)
    pieces = []
    for block, (first, last) in enumerate(pairwise(edges)):
        start, stop = first + block * space, last + block * space
        pieces.append(_piece(recording, start, stop, "train"))
        if space and block < blocks - 1:
            pieces.append(_piece(recording, stop, stop + space, "gap"))
    return pieces


def _piece(recording: Recording, start: int, stop: int, split: str) -> Recording:
    confidence = recording.confidence
    return replace(
        recording,
        name=f"{recording.name}@{start / recording.fps:06.2f}-{stop / recording.fps:06.2f}s",
        keypoints=recording.keypoints[start:stop],
        confidence=None if confidence is None else confidence[start:stop],
        labels={k: v[start:stop] if isinstance(v, np.ndarray) else v for k, v in recording.labels.items()},
        split=split,
    )
