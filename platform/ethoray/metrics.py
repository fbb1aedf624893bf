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


def r2(sums: Array) -> Array:
    """Share of variance that is told, from (..., column, 4): count, sum of y, sum of y squared, sum of squared errors.

    1 - SSE / SST, both added up over columns, SST about each column's own mean; 0 where nothing varies. Sums lose
    digits when y is far from zero compared with its spread: shift it by the same constant everywhere first.
    """
    count, total, squares, error = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
    about = (squares - _ratio(total**2, count)).sum(-1)
    return np.where(about > 0, 1 - _ratio(error.sum(-1), about), 0.0)


def rmse(sums: Array) -> Array:
    """Root of the mean squared distance, from (..., 2): the sum of squared distances and how many there are."""
    return np.sqrt(mse(sums))


def homogeneity(table: Array) -> Array:
    """How far each cluster holds one class only, 1 - H(class | cluster) / H(class), from (..., cluster, class).

    1 where there is one class. Rosenberg & Hirschberg 2007, "V-measure".
    """
    of_cluster, of_class, both = _entropies(table)
    return np.where(of_class > 0, 1 - _ratio(both - of_cluster, of_class), 1.0)


def completeness(table: Array) -> Array:
    """How far each class is in one cluster only; ``homogeneity`` with the two exchanged."""
    return homogeneity(np.swapaxes(table, -1, -2))


def v_measure(table: Array) -> Array:
    """Harmonic mean of homogeneity and completeness, from contingencies (..., cluster, class)."""
    one, other = homogeneity(table), completeness(table)
    return _ratio(2 * one * other, one + other)


def nmi(table: Array) -> Array:
    """Mutual information of clusters and classes over the mean of their entropies, from (..., cluster, class).

    The same number as ``v_measure``; 1 where there is one cluster and one class.
    """
    of_cluster, of_class, both = _entropies(table)
    whole = of_cluster + of_class
    return np.where(whole > 0, np.clip(_ratio(2 * (whole - both), whole), 0, 1), 1.0)


def ari(table: Array) -> Array:
    """Rand index over pairs of frames, corrected for chance (Hubert & Arabie 1985), from (..., cluster, class)."""
    table = np.asarray(table, dtype=np.float64)
    total = table.sum((-1, -2))
    together, rows, columns = (_pairs(c).sum(-1) for c in (_flat(table), table.sum(-1), table.sum(-2)))
    expected = _ratio(rows * columns, _pairs(total))
    highest = (rows + columns) / 2
    return np.where(highest > expected, _ratio(together - expected, highest - expected), 1.0)


def unit_bits_per_spike(sums: ArrayLike) -> Array:
    """Bits per spike of every unit, from (..., unit, 4); NaN for a unit that never fires there.

    The four sums run over bins: bins, spikes n, predicted rates r, and n ln r. The gain in Poisson log-likelihood over
    the unit's own mean rate in the same bins, per spike, in bits (Pei et al. 2021, "Neural Latents Benchmark '21").
    """
    bins, spikes, rates, logs = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
    fires = spikes > 0
    mean = np.where(fires, _ratio(spikes, bins), 1.0)
    gain = (logs - rates) - (spikes * np.log(mean) - spikes)
    return np.where(fires, _ratio(gain, spikes * np.log(2)), np.nan)


def bits_per_spike(sums: ArrayLike) -> Array:
    """Mean over the units that fire of ``unit_bits_per_spike``, from (..., unit, 4); 0 where none does."""
    bits = unit_bits_per_spike(sums)
    fires = ~np.isnan(bits)
    return _ratio(np.where(fires, bits, 0).sum(-1), fires.sum(-1))


def pixel_error(sums: ArrayLike) -> Array:
    """Mean distance over all keypoints together, from (..., keypoint, 2): sum of distances and how many there are."""
    distances, number = np.moveaxis(np.asarray(sums, dtype=np.float64).sum(-2), -1, 0)
    return _ratio(distances, number)


def foreground_f1(table: Array) -> Array:
    """``macro_f1`` without the first class, the background, whose mistakes count in the others."""
    hit, true, called = (margin[..., 1:] for margin in _margins(table))
    return _ratio(f1(hit, called - hit, true - hit).sum(-1), (true + called > 0).sum(-1))


RULES: dict[str, Callable[[Array], Array]] = {
    "binary_f1": binary_f1,
    "macro_f1": macro_f1,
    "macro_recall": macro_recall,
    "mse": mse,
    "rmse": rmse,
    "r2": r2,
    "nmi": nmi,
    "ari": ari,
    "v_measure": v_measure,
    "homogeneity": homogeneity,
    "completeness": completeness,
    "bits_per_spike": bits_per_spike,
    "pixel_error": pixel_error,
    "foreground_f1": foreground_f1,
}
"""Scores by name: what a recording's sums, once added up, are turned into."""
LOWER_IS_BETTER = frozenset({"mse", "rmse", "pixel_error"})
"""Metrics of which the smaller value is the better one."""
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("f1", "macro_recall", "nmi", "v_measure", "homogeneity", "completeness"), (0.0, 1.0)),
    **dict.fromkeys(("mse", "rmse"), (0.0, np.inf)),
    **dict.fromkeys(("r2", "ari"), (-np.inf, 1.0)),
}
"""What a metric can be; intervals of means are cut there."""


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


def _entropies(table: Array) -> tuple[Array, Array, Array]:
    """Entropy in nats of clusters, of classes and of both together, from counts (..., cluster, class)."""
    table = np.asarray(table, dtype=np.float64)
    total = table.sum((-1, -2))[..., None]
    shares = [_ratio(counts, total) for counts in (table.sum(-1), table.sum(-2), _flat(table))]
    of_cluster, of_class, both = (-(p * np.log(np.where(p > 0, p, 1))).sum(-1) for p in shares)
    # Rounding may leave a mixture of one part, or of independent parts, a hair outside what is possible.
    return of_cluster, of_class, np.clip(both, np.maximum(of_cluster, of_class), of_cluster + of_class)


def _flat(table: Array) -> Array:
    return table.reshape(*table.shape[:-2], -1)


def _pairs(count: Array) -> Array:
    return count * (count - 1) / 2


def _ratio(over: ArrayLike, under: ArrayLike) -> Array:
    over, under = np.asarray(over, dtype=np.float64), np.asarray(under, dtype=np.float64)
    return np.divide(over, under, out=np.zeros(np.broadcast(over, under).shape), where=under > 0)
