"""How a codebook is used: statistics of codewords, exact, streamed over recordings.

A codeword is the tuple of codes that one window of one animal became. Different codewords are held, never all windows,
and never anything of the size codes ** groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ethoray.schema import Task

Array = np.ndarray


class Usage:
    """Counts codewords, and the labels of those that were seen once.

    Parameters
    ----------
    tasks: with classes; similarity is also told between once-used codewords of one class.
    """

    def __init__(self, tasks: Sequence[Task] = ()) -> None:
        self.tasks = tuple(tasks)
        self.groups = 0
        self._words: dict[bytes, tuple[int, tuple[float, ...]]] = {}

    def add(self, codes: Array, labels: Array) -> None:
        """Count codewords int (window, group) with labels (window, task), NaN unlabelled."""
        if not len(codes):
            return
        self.groups = codes.shape[1]
        codes = np.ascontiguousarray(codes, dtype=np.int32)
        packed = codes.view([("", np.int32)] * self.groups)[:, 0]
        _, first, counts = np.unique(packed, return_index=True, return_counts=True)
        for row, count in zip(first, counts, strict=True):
            key = codes[row].tobytes()
            before, of = self._words.get(key, (0, tuple(labels[row])))
            self._words[key] = before + int(count), of

    def counted(self) -> tuple[Array, Array, Array]:
        """Different codewords int32 (codeword, group), how often each was seen, and labels (codeword, task)."""
        words = np.frombuffer(b"".join(self._words), dtype=np.int32).reshape(-1, max(self.groups, 1))
        counts = np.array([count for count, _ in self._words.values()], dtype=np.int64)
        labels = np.array([of for _, of in self._words.values()], dtype=np.float64).reshape(len(words), len(self.tasks))
        return words, counts, labels

    def describe(self, variables: int) -> dict[str, Any]:
        """``statistics`` and, under "similarity", "once_in" task and class: between once-used codewords of a class."""
        words, counts, labels = self.counted()
        if not len(words):
            return {"vectors": 0}
        found = statistics(words, counts, variables)
        once_in: dict[str, dict[str, float | None]] = {}
        for column, task in enumerate(self.tasks):
            names = task.classes or ("0", "1")
            alone = (counts == 1, labels[:, column])
            once_in[task.name] = {name: similarity(words[alone[0] & (alone[1] == i)]) for i, name in enumerate(names)}
        found["similarity"]["once_in"] = once_in
        return found


def statistics(words: Array, counts: Array, variables: int) -> dict[str, Any]:
    """What is told of a codebook, from different codewords (codeword, group) and how often each occurs.

    vectors: windows that became codewords; ``codewords``: different ones; ``once`` and ``more``: of these, used
    exactly once and more often.
    possible: variables ** groups; ``share_possible``: codewords of these. ``share_seen``: codewords of min(possible,
    vectors), which is how Baevski et al. (2020, "vq-wav2vec") count; both are shares between 0 and 1.
    perplexity: of every group, exp of the entropy of its codes; ``used``: share of its codes that occur.
    entropy: of whole codewords, in nats; ``entropy_most``: what it could be, the logarithm of min(possible, vectors).
    skewness: third standardised moment of the counts of the codewords; 0 where all are used equally.
    similarity: share of groups in which two different codewords agree, over all pairs: of "all", of those used
    "once", of those used "more"; None where there is no pair. Codes drawn at random would give 1 / variables.
    """
    groups, vectors, distinct = words.shape[1], int(counts.sum()), len(words)
    if words.min() < 0 or words.max() >= variables:
        raise ValueError(f"codes are 0 to {variables - 1}, the codewords hold {words.min()} to {words.max()}")
    possible = variables**groups
    share = np.stack([np.bincount(column, counts, variables) for column in words.T]) / vectors
    whole = counts / vectors
    return {
        "vectors": vectors,
        "groups": groups,
        "variables": variables,
        "codewords": distinct,
        "once": int((counts == 1).sum()),
        "more": int((counts > 1).sum()),
        "log10_possible": groups * math.log10(variables),
        "share_possible": distinct / possible,
        "share_seen": distinct / min(possible, vectors),
        "perplexity": np.exp(_entropy(share)).tolist(),
        "used": (share > 0).mean(1).tolist(),
        "entropy": float(_entropy(whole)),
        "entropy_most": math.log(min(possible, vectors)),
        "skewness": skewness(counts),
        "similarity": {
            "all": similarity(words),
            "once": similarity(words[counts == 1]),
            "more": similarity(words[counts > 1]),
        },
    }


def skewness(counts: Array) -> float:
    """Third standardised moment (mean of cubes over the cube of the deviation); 0 where nothing varies."""
    apart = counts - counts.mean()
    deviation = np.sqrt(np.mean(apart**2))
    return float(np.mean(apart**3) / deviation**3) if deviation > 0 else 0.0


def similarity(words: Array) -> float | None:
    """Share of groups in which two of these different codewords (codeword, group) agree, over all pairs."""
    number, groups = words.shape
    if number < 2:
        return None
    agreeing = 0.0
    for column in words.T:
        same = np.bincount(column).astype(np.float64)
        agreeing += float((same * (same - 1)).sum())
    return agreeing / (groups * number * (number - 1))


def _entropy(share: Array) -> Array:
    """Entropy in nats over the last axis."""
    return -(share * np.log(np.where(share > 0, share, 1))).sum(-1)
