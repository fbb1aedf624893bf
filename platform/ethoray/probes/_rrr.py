"""Reduced-rank regression from movement to spikes: coefficients that change within a trial along few shared courses.

Unit n has coefficients B_n = U_n V over phases of a trial, U_n (feature, rank), V (rank, phase) the same for all units
and, fitted jointly, for all sessions. The loss is the squared error plus ``l2`` times the squares of coefficients and
biases. Two ways down: the published recipe, a few steps of L-BFGS from a random start, whose learning rate has to be
searched; and an exact one, which alternates between the two factors from a singular value decomposition that is
already the solution where the Gram matrix of the features is the same in every phase.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import LinAlgError, cho_factor, cho_solve, lstsq
from torch import Tensor

from ethoray.probes._trials import Aligned, phase

Array = np.ndarray
TOLERANCE = 1e-10
"""The exact solution stops when a round lowers the loss by less, relatively."""


@dataclass(frozen=True)
class Readout:
    """The coefficients of one session: left (feature, unit, rank), right (rank, phase), bias (phase, unit)."""

    left: Array
    right: Array
    bias: Array

    def predict(self, x: Array) -> Array:
        """Standardised activity (time, unit) of a trial (time, feature)."""
        place = phase(len(x), len(self.bias))
        features, units, rank = self.left.shape
        courses = (x @ self.left.reshape(features, -1).astype(x.dtype)).reshape(len(x), units, rank)
        told: Array = np.einsum("tnj,jt->tn", courses, self.right[:, place]) + self.bias[place]
        return told


@dataclass(frozen=True)
class Stacked:
    """A session by phase: x (phase, row, feature), y (phase, row, unit), there (phase, row); 0 where no row is."""

    x: Array
    y: Array
    there: Array


def stack(session: Aligned) -> Stacked:
    """The bins of all training trials, gathered by phase."""
    place = np.concatenate([phase(len(x), session.count) for x in session.x])
    rows = [np.flatnonzero(place == p) for p in range(session.count)]
    shape = (session.count, max(map(len, rows)))
    joined, target = np.concatenate(session.x), np.concatenate(session.y)
    x, y = np.zeros((*shape, joined.shape[1]), np.float32), np.zeros((*shape, target.shape[1]), np.float32)
    there = np.zeros(shape, bool)
    for p, of in enumerate(rows):
        x[p, : len(of)], y[p, : len(of)], there[p, : len(of)] = joined[of], target[of], True
    return Stacked(x, y, there)


def exact(sessions: Sequence[Stacked], rank: int, l2: float, rounds: int = 100) -> list[Readout]:
    """The exact fit by alternating least squares; deterministic, float64 inside.

    ``l2`` must be positive: with fewer trials than features nothing else makes the solution unique.
    """
    grams = [_Gram(session, l2) for session in sessions]
    right = _begin(grams, rank)
    before, lefts = np.inf, list[Array]()
    for turn in range(rounds):
        right = _right(grams, lefts, right) if turn else right
        solved = [gram.left(right[:, : gram.count]) for gram in grams]
        lefts, loss = [left for left, _ in solved], sum(loss for _, loss in solved)
        if before - loss <= TOLERANCE * abs(loss):
            break
        before = loss
    return [gram.readout(left, right[:, : gram.count]) for gram, left in zip(grams, lefts, strict=True)]


class _Gram:
    """Second moments of a session by phase, with the bias solved for: x'x + l2, x'y."""

    def __init__(self, session: Stacked, l2: float) -> None:
        x, y = session.x.astype(np.float64), session.y.astype(np.float64)
        self.count, self.features, self.units = len(x), x.shape[2], y.shape[2]
        self.sums, self.targets = x.sum(1), y.sum(1)
        self.weight = session.there.sum(1) + l2
        self.second = np.matmul(x.transpose(0, 2, 1), x) - _outer(self.sums, self.sums, self.weight)
        self.second += l2 * np.eye(self.features)
        self.cross = np.matmul(x.transpose(0, 2, 1), y) - _outer(self.sums, self.targets, self.weight)
        self.square = float((y**2).sum() - ((self.targets**2).sum(1) / self.weight).sum())

    def left(self, right: Array) -> tuple[Array, float]:
        """The best left factor (feature, unit, rank) for a right one (rank, phase), and the loss of both."""
        rank, size = len(right), len(right) * self.features
        normal = np.einsum("ip,jp,pab->iajb", right, right, self.second, optimize=True).reshape(size, size)
        aim = np.einsum("ip,pan->ian", right, self.cross, optimize=True).reshape(size, self.units)
        try:
            solution = cho_solve(cho_factor(normal), aim)
        except LinAlgError:  # courses that this session's phases cannot tell apart
            solution = lstsq(normal, aim)[0]
        loss = self.square - float((solution * aim).sum())
        return solution.reshape(rank, self.features, self.units).transpose(1, 2, 0), loss

    def readout(self, left: Array, right: Array) -> Readout:
        """Coefficients with the bias that belongs to them."""
        shown = np.einsum("pa,anj,jp->pn", self.sums, left, right, optimize=True)
        return Readout(left, right, (self.targets - shown) / self.weight[:, None])


def _begin(grams: Sequence[_Gram], rank: int) -> Array:
    """The leading courses over phases of the ridge solutions, weighed by the mean Gram matrix: (rank, phase)."""
    count = max(gram.count for gram in grams)
    overlap = np.zeros((count, count))
    for gram in grams:
        ridge = np.linalg.solve(gram.second, gram.cross)
        root = np.linalg.cholesky(gram.second.mean(0))
        weighed = np.einsum("ba,pbn->pan", root, ridge, optimize=True).reshape(gram.count, -1)
        overlap[: gram.count, : gram.count] += weighed @ weighed.T
    _, vectors = np.linalg.eigh(overlap)
    return vectors[:, ::-1][:, : min(rank, min(gram.count for gram in grams))].T.copy()


def _right(grams: Sequence[_Gram], lefts: Sequence[Array], before: Array) -> Array:
    """The best right factor for left ones, made orthonormal, which the next left factor does not notice."""
    rank, count = before.shape
    normal, aim = np.zeros((count, rank, rank)), np.zeros((count, rank))
    for gram, left in zip(grams, lefts, strict=True):
        flat = left.reshape(gram.features, -1)
        through = np.matmul(gram.second, flat).reshape(gram.count, gram.features, gram.units, rank)
        normal[: gram.count] += np.einsum("ani,panj->pij", left, through, optimize=True)
        aim[: gram.count] += np.einsum("ani,pan->pi", left, gram.cross, optimize=True)
    right = np.einsum("pij,pj->ip", np.linalg.pinv(normal, hermitian=True), aim)
    return np.linalg.qr(right.T)[0].T


def _outer(a: Array, b: Array, weight: Array) -> Array:
    return a[:, :, None] * b[:, None, :] / weight[:, None, None]


def descended(
    sessions: Sequence[Stacked],
    rank: int,
    l2: float,
    rate: float,
    seed: int,
    iterations: int = 20,
    search: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> list[Readout]:
    """The published recipe: one call of L-BFGS with at most ``iterations`` inner steps of learning rate ``rate``.

    Factors begin as normal noise over the root of (phases x rank), biases as the mean of each phase. ``search`` is
    torch's line search ("strong_wolfe"), for those who want the optimum. A fit that diverges has NaN coefficients.
    """
    generator = torch.Generator().manual_seed(seed)
    count = max(len(session.x) for session in sessions)
    scale = 1 / np.sqrt(count * rank)

    def noise(*shape: int) -> Tensor:
        drawn = torch.randn(*shape, generator=generator, dtype=torch.float64) * scale
        return drawn.to(dtype).requires_grad_()

    right = noise(rank, count)
    lefts = [noise(s.x.shape[2], s.y.shape[2], rank) for s in sessions]
    data = [(torch.from_numpy(s.x).to(dtype), torch.from_numpy(s.y).to(dtype)) for s in sessions]
    there = [torch.from_numpy(s.there).to(dtype)[..., None] for s in sessions]
    means = [y.sum(1) / mask.sum(1) for (_, y), mask in zip(data, there, strict=True)]
    biases = [mean.clone().requires_grad_() for mean in means]
    optimiser = torch.optim.LBFGS([right, *lefts, *biases], lr=rate, max_iter=iterations, line_search_fn=search)

    def loss() -> Tensor:
        optimiser.zero_grad()
        total = torch.zeros((), dtype=dtype)
        for (x, y), mask, left, bias in zip(data, there, lefts, biases, strict=True):
            coefficients = torch.einsum("anj,jp->pan", left, right[:, : len(x)])
            error = (torch.bmm(x, coefficients) + bias[:, None]) * mask - y
            total = total + (error**2).sum() + l2 * ((coefficients**2).sum() + (bias**2).sum())
        total.backward()
        return total

    optimiser.step(loss)
    course = right.detach().numpy()
    return [
        Readout(left.detach().numpy(), course[:, : len(bias)], bias.detach().numpy())
        for left, bias in zip(lefts, biases, strict=True)
    ]
