"""Support vector machines with a Gaussian kernel, asked by products of matrices instead of row by row."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

Array = np.ndarray


def pairwise(model: Any, rows: Array, total: int) -> tuple[Array, Array]:
    """What a fitted machine asks of a kernel: weights (total, pair), intercepts (pair,); positive is a pair's first.

    ``rows`` are those of the ``total`` training rows that it was fitted to. Two classes have one pair, the second and
    the first; more are paired in order: 0 and 1, 0 and 2, ... as in LIBSVM (Chang & Lin 2011).
    """
    number = len(model.classes_)
    dual, support = model.dual_coef_, rows[model.support_]
    if number == 2:
        weights = np.zeros((total, 1))
        weights[support, 0] = dual[0]
        return weights, model.intercept_
    of = np.repeat(np.arange(number), model.n_support_)
    weights = np.zeros((total, number * (number - 1) // 2))
    for pair, (one, other) in enumerate(combinations(range(number), 2)):
        weights[support[of == one], pair] = dual[other - 1, of == one]
        weights[support[of == other], pair] = dual[one, of == other]
    return weights, model.intercept_


def winners(sides: Array, number: int) -> Array:
    """The class with the most votes of its pairs, the first of equals, from bool (row, pair): the first of a pair."""
    if number == 2:
        return sides[:, 0].astype(np.intp)
    votes = np.zeros((len(sides), number), dtype=np.intp)
    for pair, (one, other) in enumerate(combinations(range(number), 2)):
        votes[:, one] += sides[:, pair]
        votes[:, other] += ~sides[:, pair]
    return votes.argmax(1)


def gaussian(one: Array, other: Array, gamma: float) -> Array:
    """exp(-gamma |a - b|^2) of all pairs of rows, by one product of matrices."""
    squares = np.square(one).sum(1)[:, None] + np.square(other).sum(1) - 2 * (one @ other.T)
    return np.exp(-gamma * np.maximum(squares, 0))
