"""Training of a segmenter on chunks of recordings with context, and its class probabilities on whole ones."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ethoray import metrics
from ethoray.probes._segments import Segmenter, Sizes

Array = np.ndarray
UNLABELLED = -100


@dataclass(frozen=True)
class Track:
    """A recording: features (time, feature) or (time, token, feature), and int64 (time,) classes, -100 unlabelled."""

    name: str
    x: Array
    y: Array


@dataclass(frozen=True)
class Training:
    """How a segmenter is trained; see ``action.Action``. ``weights``: of the classes in the loss."""

    sizes: Sizes
    epochs: int
    batch: int
    chunk: int
    lr: float
    decay: float
    patience: int
    weights: tuple[float, ...]
    background: bool
    mean: Array | None = field(default=None, repr=False)
    deviation: Array | None = field(default=None, repr=False)

    def scaled(self, x: Array) -> Array:
        """Features in standard deviations of training frames, 0 where one is NaN; tokens as they are."""
        values = x.astype(np.float32)
        if self.mean is None or self.deviation is None:
            return values
        scale = np.where(self.deviation > 1e-8, self.deviation, np.inf)
        return np.nan_to_num((values - self.mean) / scale, nan=0.0).astype(np.float32)


def class_weights(tracks: Sequence[Track], classes: int) -> tuple[float, ...]:
    """Root of the inverse frequency among labelled frames, 1 for a class of average size; 0 where it is absent."""
    counts = np.sum([np.bincount(t.y[t.y >= 0], minlength=classes) for t in tracks], axis=0).astype(np.float64)
    there = counts > 0
    share = counts.sum() / max(there.sum(), 1)
    return tuple(float(np.sqrt(share / c)) if c else 0.0 for c in counts)


def moments(tracks: Sequence[Track]) -> tuple[Array, Array]:
    """Mean and standard deviation of every feature over the frames of all tracks, NaN left out, float32 (feature,)."""
    width = tracks[0].x.shape[1]
    number = np.maximum(sum((np.isfinite(t.x).sum(0) for t in tracks), np.zeros(width)), 1)
    mean = sum((np.nansum(t.x, 0, dtype=np.float64) for t in tracks), np.zeros(width)) / number
    square = sum((np.nansum((t.x - mean) ** 2, 0) for t in tracks), np.zeros(width)) / number
    return mean.astype(np.float32), np.sqrt(square).astype(np.float32)


def trained(tracks: Sequence[Track], validation: Sequence[Track], how: Training, seed: int) -> Segmenter:
    """The network after ``epochs``, or with validation tracks at its best epoch; depends on the seed only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        first = tracks[0].x
        network = Segmenter(first.shape[-1], len(how.weights), how.sizes, tokens=first.ndim == 3)
        optimiser = torch.optim.Adam(network.parameters(), lr=how.lr, weight_decay=how.decay)
        best, state, since = -1.0, network.state_dict(), 0
        for _ in range(how.epochs):
            _epoch(network, optimiser, tracks, how)
            if not validation:
                continue
            value = _quality(network, validation, how)
            since = 0 if value > best else since + 1
            if value > best:
                best, state = value, copy.deepcopy(network.state_dict())
            if since >= how.patience:
                break
        if validation:
            network.load_state_dict(state)
    return network.eval()


def _epoch(network: Segmenter, optimiser: torch.optim.Optimizer, tracks: Sequence[Track], how: Training) -> None:
    """Every labelled frame once: chunks from a random offset, in random order."""
    network.train()
    places = []
    for number, track in enumerate(tracks):
        offset = int(torch.randint(min(how.chunk, len(track.x)), ()))
        starts = range(-offset, len(track.x), how.chunk)
        spans = ((max(s, 0), min(s + how.chunk, len(track.x))) for s in starts)
        places += [(number, a, b) for a, b in spans if b > a and (track.y[a:b] >= 0).any()]
    weights = torch.tensor(how.weights)
    for rows in torch.randperm(len(places)).split(how.batch):
        chosen = [places[i] for i in rows.tolist()]
        chunks = [_chunk(tracks[number], first, last, how) for number, first, last in chosen]
        x, there, y = _together(chunks)
        logits = network(x, there)
        loss = F.cross_entropy(logits.flatten(0, 1), y.flatten(), weights, ignore_index=UNLABELLED)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def _chunk(track: Track, first: int, last: int, how: Training) -> tuple[Array, Array]:
    """Features of frames first..last with all the context they depend on, and labels, -100 in the context."""
    reach = how.sizes.reach
    start, stop = max(first - reach - 1, 0), min(last + reach, len(track.x))
    y = np.full(stop - start, UNLABELLED, np.int64)
    y[first - start : last - start] = track.y[first:last]
    return how.scaled(track.x[start:stop]), y


def _together(chunks: Sequence[tuple[Array, Array]]) -> tuple[Tensor, Tensor, Tensor]:
    length = max(len(y) for _, y in chunks)
    x = torch.zeros(len(chunks), length, *chunks[0][0].shape[1:])
    y = torch.full((len(chunks), length), UNLABELLED, dtype=torch.long)
    there = torch.zeros(len(chunks), length, dtype=torch.bool)
    for row, (features, labels) in enumerate(chunks):
        x[row, : len(labels)], y[row, : len(labels)] = torch.from_numpy(features), torch.from_numpy(labels)
        there[row, : len(labels)] = True
    return x, there, y


@torch.no_grad()
def probabilities(network: Segmenter, track: Track, how: Training) -> Array:
    """Class probabilities float64 (time, class) of a recording, chunk by chunk; the chunks do not change them."""
    network.eval()
    parts = []
    for first, start, x in _pieces(track, how):
        there = torch.ones(1, len(x), dtype=torch.bool)
        logits = network(torch.from_numpy(x)[None], there)[0, first - start :]
        parts.append(logits.double().softmax(-1).numpy()[: how.chunk])
    return np.concatenate(parts)


def _pieces(track: Track, how: Training) -> Iterator[tuple[int, int, Array]]:
    for first in range(0, len(track.x), how.chunk):
        start = max(first - how.sizes.reach - 1, 0)
        yield first, start, how.scaled(track.x[start : first + how.chunk + how.sizes.reach])


def rule(background: bool) -> Callable[[Array], Array]:
    """Macro-F1, over the foreground alone where the first class is background."""
    return metrics.foreground_f1 if background else metrics.macro_f1


def table(track: Track, chances: Array) -> Array:
    """Confusion of the labelled frames, (class, class)."""
    known = track.y >= 0
    return metrics.confusion(track.y[known], chances[known].argmax(-1), chances.shape[-1])


def _quality(network: Segmenter, tracks: Sequence[Track], how: Training) -> float:
    counts = sum(table(t, probabilities(network, t, how)) for t in tracks)
    return float(rule(how.background)(np.asarray(counts)))
