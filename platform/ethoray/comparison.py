"""Is one method better than another? Paired over test recordings, unpaired over seeds, corrected for many questions.

Both methods are judged on the same resampled recordings (paired bootstrap), because a hard recording is hard for
both; the spread of the difference is one part of the doubt. Seeds are the other: the variance of each method's mean
over seeds, few as they are, has that many degrees of freedom less one. The parts are added in quadrature, the degrees
of freedom after Welch and Satterthwaite, and p is two-sided from t. Over a table p is corrected after Holm (1979).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy.stats import t

from ethoray import metrics
from ethoray.tallies import Tallies

Array = np.ndarray
Key = TypeVar("Key", bound=Hashable)
RESAMPLES = 2000


class ComparisonError(ValueError):
    """Scores that cannot be paired; the message names them."""


@dataclass(frozen=True)
class Difference:
    """How far one method is ahead of another, in the metric's own unit, its 95 % interval, and p.

    Where one seed is all there is of a method, its spread is unknown and counts as none: such a p is too small.
    """

    value: float
    low: float
    high: float
    p: float


def difference(one: Sequence[Tallies], other: Sequence[Tallies], seed: int = 0) -> Difference:
    """One method less another, each with the tallies of its seeds, in any order of recordings.

    Raises ComparisonError when they were judged on different recordings or by different rules.
    """
    names, rule = one[0].names, one[0].rule
    for tallies in (*one, *other):
        if tallies.rule != rule or set(tallies.names) != set(names):
            raise ComparisonError(
                f"judged on {len(names)} and {len(tallies.names)} recordings by {rule} and {tallies.rule}: "
                "only scores of the same recordings by the same rule can be paired"
            )
    drawn = np.vstack([_draws(len(names), seed), np.ones(len(names))])
    mine, theirs = (np.stack([_under(drawn, _ordered(s, names)) for s in seeds]) for seeds in (one, other))
    apart = mine.mean(0) - theirs.mean(0)
    value = float(apart[-1])
    parts = [(float(apart[:-1].var()), len(names) - 1)]
    parts += [(float(s[:, -1].var(ddof=1)) / len(s), len(s) - 1) for s in (mine, theirs) if len(s) > 1]
    variance = sum(v for v, _ in parts)
    if variance <= 0:
        return Difference(value, value, value, 1.0 if value == 0 else 0.0)
    freedom = variance**2 / sum(v**2 / max(n, 1) for v, n in parts if v > 0)
    error = float(np.sqrt(variance))
    half = float(t.ppf(0.975, freedom)) * error
    return Difference(value, value - half, value + half, float(2 * t.sf(abs(value) / error, freedom)))


def holm(p: Mapping[Key, float]) -> dict[Key, float]:
    """Corrected p values: the k-th smallest of m times m - k + 1, never below an earlier one (Holm 1979)."""
    order = sorted(p, key=lambda key: p[key])
    corrected: dict[Key, float] = {}
    highest = 0.0
    for k, key in enumerate(order):
        highest = max(highest, min(1.0, p[key] * (len(order) - k)))
        corrected[key] = highest
    return corrected


def _under(drawn: Array, found: Tallies) -> Array:
    """The score of one seed under each resample of recordings; the last is the score as it is."""
    sums = drawn @ found.values.reshape(len(found.names), -1)
    return metrics.RULES[found.rule](sums.reshape(-1, *found.values.shape[1:]))


def _draws(recordings: int, seed: int) -> Array:
    """How often each recording is in each resample: float64 (resample, recording)."""
    picked = np.random.default_rng(seed).integers(recordings, size=(RESAMPLES, recordings))
    cells = picked + recordings * np.arange(RESAMPLES)[:, None]
    counts = np.bincount(cells.ravel(), minlength=RESAMPLES * recordings)
    return counts.reshape(RESAMPLES, recordings).astype(np.float64)


def _ordered(found: Tallies, names: tuple[str, ...]) -> Tallies:
    place = {name: i for i, name in enumerate(found.names)}
    return Tallies(found.rule, names, found.values[[place[name] for name in names]])
