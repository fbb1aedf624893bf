"""Scores as pure functions of counts, and how sure they are: intervals over recordings.

Every score here is a function of sums over recordings (a confusion matrix, a sum of squared errors), so a
bootstrap over recordings is one product of how often each was drawn with what each contributes. Leading axes
are free: many tasks, penalties or resamples are scored in one call.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

Array = np.ndarray


def confusion(truth: ArrayLike, predicted: ArrayLike, classes: int) -> Array:
    """How often class i was called class j: float64 (..., classes, classes).

    ``truth`` is (time,) class indices, unlabelled frames left out beforehand; ``predicted`` is (..., time).
    """
    truth, predicted = np.asarray(truth, dtype=np.intp), np.asarray(predicted)
    actual = (truth[:, None] == np.arange(classes)).astype(np.float64)
    called = [(predicted == c).astype(np.float64) @ actual for c in range(1, classes)]
    rest = actual.sum(0) - sum(called, np.zeros((*predicted.shape[:-1], classes)))
    return np.stack([rest, *called], axis=-1)


def f1(tp: ArrayLike, fp: ArrayLike, fn: ArrayLike) -> Array:
    """Harmonic mean of precision and recall; 0 where nothing is positive in labels and predictions alike."""
    tp, fp, fn = (np.asarray(count, dtype=np.float64) for count in (tp, fp, fn))
    return _ratio(2 * tp, 2 * tp + fp + fn)


def binary_f1(table: Array) -> Array:
    """F1 of class 1 from confusion (..., 2, 2)."""
    return f1(table[..., 1, 1], table[..., 0, 1], table[..., 1, 0])


def macro_f1(table: Array) -> Array:
    """Mean F1 over the classes that occur in labels or predictions, from confusion (..., class, class)."""
    hit, true, called = _margins(table)
    return _ratio(f1(hit, called - hit, true - hit).sum(-1), (true + called > 0).sum(-1))


def macro_recall(table: Array) -> Array:
    """Mean recall over the classes that occur in the labels (balanced accuracy), from confusion."""
    hit, true, _ = _margins(table)
    return _ratio(_ratio(hit, true).sum(-1), (true > 0).sum(-1))


def mse(sums: Array) -> Array:
    """Mean squared error from (..., 2): the sum of squared errors and how many there are."""
    return _ratio(sums[..., 0], sums[..., 1])


RULES: dict[str, Callable[[Array], Array]] = {
    "binary_f1": binary_f1,
    "macro_f1": macro_f1,
    "macro_recall": macro_recall,
    "mse": mse,
}
"""Scores by name: what a recording's sums, once added up, are turned into."""


def interval(
    score: Callable[[Array], Array],
    contributions: ArrayLike,
    seed: int,
    *,
    resamples: int = 1000,
    level: float = 0.95,
) -> tuple[Array, Array]:
    """A percentile bootstrap interval of a score over recordings: what other recordings might have given.

    ``contributions`` is (recording, ...): what each recording adds to the sums that ``score`` reads. Frames of
    one recording stay together, because they are not independent. The same seed draws the same recordings
    for every task, so differences between tasks are paired. One recording alone gives an interval of no width.
    """
    values = np.asarray(contributions, dtype=np.float64)
    drawn = _draws(len(values), resamples, seed) @ values.reshape(len(values), -1)
    scores = score(drawn.reshape(resamples, *values.shape[1:]))
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


@lru_cache(maxsize=8)
def _draws(recordings: int, resamples: int, seed: int) -> Array:
    """How often each recording is in each resample: float64 (resample, recording), rows sum to the number."""
    drawn = np.random.default_rng(seed).integers(recordings, size=(resamples, recordings))
    cells = drawn + recordings * np.arange(resamples)[:, None]
    counts = np.bincount(cells.ravel(), minlength=resamples * recordings).astype(np.float64)
    counts.flags.writeable = False
    return counts.reshape(resamples, recordings)


def _margins(table: Array) -> tuple[Array, Array, Array]:
    return np.diagonal(table, axis1=-2, axis2=-1), table.sum(-1), table.sum(-2)


def _ratio(over: ArrayLike, under: ArrayLike) -> Array:
    over, under = np.asarray(over, dtype=np.float64), np.asarray(under, dtype=np.float64)
    return np.divide(over, under, out=np.zeros(np.broadcast(over, under).shape), where=under > 0)
