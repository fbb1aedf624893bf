"""The temporal convolution network that tells spikes from movement, as in Facemap (Syeda et al. 2024).

Every feature passes through the same ten wavelets (kernel of 201 bins, Gabors at the start), then two hidden layers;
each session has its own last layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ethoray.probes._trials import Aligned

Array = np.ndarray


@dataclass(frozen=True)
class Training:
    """How the network is trained.

    Attributes
    ----------
    drops: epochs at which the learning rate falls to a tenth. The published code has (0, 50): already the first
        epoch runs at a tenth of the rate that was drawn.
    smoothness: weight of the squared differences between neighbouring taps of the wavelets.
    longest: longer trials are cut into pieces of so many bins while training.
    """

    epochs: int = 100
    batch: int = 8
    decay: float = 1e-4
    drops: tuple[int, ...] = (50,)
    smoothness: float = 0.5
    longest: int = 2000


def gabors(taps: int = 201, frequencies: int = 5) -> Tensor:
    """Gabor wavelets of unit length, float32 (2 x frequencies, taps): frequencies 1 to 10, phases 0 and a quarter."""
    place = np.linspace(-np.pi, np.pi, taps)
    waves = [
        np.exp(-(place**2) / 2) * np.cos(frequency * place + shift)
        for frequency in np.geomspace(1, 10, frequencies)
        for shift in (0.0, np.pi / 2)
    ]
    return torch.from_numpy(np.stack([wave / np.linalg.norm(wave) for wave in waves])).float()


class Wavelets(nn.Module):
    """(batch, time, feature) -> (batch, time, unit) for one of several sessions."""

    def __init__(self, features: int, units: Sequence[int], taps: int = 201) -> None:
        super().__init__()
        self.mix = nn.Linear(features, features)
        self.filters = nn.Parameter(gabors(taps))
        self.gather = nn.Linear(features * len(self.filters), 50)
        self.hidden = nn.Linear(50, 256)
        self.heads = nn.ModuleList(nn.Linear(256, number) for number in units)

    def forward(self, x: Tensor, session: int = 0, there: Tensor | None = None) -> Tensor:
        """Standardised activity of the units of a session; wavelets see zeros outside of a trial.

        ``there`` (batch, time, 1) is 1 where there is a bin; without it all are.
        """
        batch, time, features = x.shape
        taps, half = self.filters.shape[1], self.filters.shape[1] // 2
        reach = min(half, time - 1)  # taps beyond it only ever meet zeros
        filters = self.filters[:, half - reach : taps - half + reach]
        mixed = self.mix(x) if there is None else self.mix(x) * there
        mixed = mixed.transpose(1, 2).reshape(batch * features, 1, time)
        seen = F.relu(F.conv1d(mixed, filters[:, None], padding=reach))
        seen = seen.view(batch, -1, time).transpose(1, 2)
        told: Tensor = self.heads[session](F.relu(self.hidden(F.relu(self.gather(seen)))))
        return told

    def smoothness(self) -> Tensor:
        """Sum of squared differences between neighbouring taps."""
        return self.filters.diff(dim=1).square().sum()


def trained(sessions: Sequence[Aligned], rate: float, seed: int, how: Training) -> Wavelets:
    """The network after ``how.epochs`` over the training trials of all sessions; depends on rate and seed only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Wavelets(sessions[0].x[0].shape[1], [len(s.units) for s in sessions])
        batches = [_cut(session, how.longest) for session in sessions]
        _fit(network, batches, rate, how)
    return network.eval()


def _fit(network: Wavelets, sessions: Sequence[Sequence[tuple[Array, Array]]], rate: float, how: Training) -> None:
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=how.decay)
    for epoch in range(how.epochs):
        if epoch in how.drops:
            for group in optimiser.param_groups:
                group["lr"] /= 10
        for session, pieces in _order([len(p) for p in sessions], how.batch):
            x, y, there = _padded([sessions[session][piece] for piece in pieces])
            error = ((network(x, session, there) - y) ** 2 * there).sum() / (there.sum() * y.shape[2])
            loss = error + how.smoothness * network.smoothness()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


@torch.no_grad()
def predict(network: Wavelets, trials: Sequence[Array], session: int) -> list[Array]:
    """Standardised activity (time, unit) of trials (time, feature)."""
    return [network(torch.from_numpy(x)[None], session)[0].numpy() for x in trials]


def _cut(session: Aligned, longest: int) -> list[tuple[Array, Array]]:
    return [
        (x[first : first + longest], y[first : first + longest])
        for x, y in zip(session.x, session.y, strict=True)
        for first in range(0, len(x), longest)
    ]


def _order(counts: Sequence[int], batch: int) -> list[tuple[int, list[int]]]:
    """An epoch: batches of trials, each of one session, in random order."""
    batches = [
        (session, part.tolist()) for session, count in enumerate(counts) for part in torch.randperm(count).split(batch)
    ]
    return [batches[i] for i in torch.randperm(len(batches)).tolist()]


def _padded(trials: Sequence[tuple[Array, Array]]) -> tuple[Tensor, Tensor, Tensor]:
    """Trials of a batch with zeros behind, and float32 (batch, time, 1) that is 1 where there is a bin."""
    time = max(len(x) for x, _ in trials)
    x = torch.zeros(len(trials), time, trials[0][0].shape[1])
    y = torch.zeros(len(trials), time, trials[0][1].shape[1])
    there = torch.zeros(len(trials), time, 1)
    for row, (features, target) in enumerate(trials):
        x[row, : len(features)], y[row, : len(target)] = torch.from_numpy(features), torch.from_numpy(target)
        there[row, : len(features)] = 1
    return x, y, there


def rates(draws: int, seed: int, low: float, high: float) -> tuple[float, ...]:
    """Learning rates drawn evenly on a logarithmic scale."""
    drawn = np.random.default_rng((seed, draws)).uniform(math.log(low), math.log(high), draws)
    return tuple(float(rate) for rate in np.exp(drawn))
