"""Trials of a session as encoders of neural activity see them: aligned bins, standardised features, smoothed spikes.

A bin of a trial belongs to a *phase*. Where trials are locked to an event the phase is the number of the bin, and
statistics and coefficients are those of the phase (trial-averaged activity is subtracted); otherwise there is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from ethoray.embedding import Embedding
from ethoray.probes import ProbeError
from ethoray.probes._rows import priority
from ethoray.store import Entry

Array = np.ndarray
FLOOR = 1e-8
"""A standard deviation up to this counts as no variation."""
LEAST_RATE = 1e-3
"""Spikes a bin: no prediction is below."""
_NUMBER = re.compile(r"[\W_]*(trial|block)?[\W_]*\d+$")


@dataclass(frozen=True)
class Trial:
    """One recording: spike counts float32 (time, unit) and, by space, features float32 (time, feature)."""

    name: str
    split: str
    spikes: Array
    spaces: dict[str, Array]

    @property
    def shape(self) -> str:
        """How many units and features, in words."""
        spaces = ", ".join(f"{space} of {x.shape[1]}" for space, x in sorted(self.spaces.items()))
        return f"{self.spikes.shape[1]} units and {spaces or 'no space'}"


@dataclass(frozen=True)
class Session:
    """Trials of the same units, and bins per second."""

    name: str
    fps: float
    trials: tuple[Trial, ...]

    def split(self, name: str) -> tuple[Trial, ...]:
        """The trials of one side."""
        return tuple(trial for trial in self.trials if trial.split == name)


def seen(embedding: Embedding, spikes: Array | float | None) -> Trial:
    """The trial of an embedded recording and its spike counts; raises ProbeError naming it when they do not fit."""
    entry = embedding.entry
    where, counts = f"recording {entry.name!r}", np.asarray([] if spikes is None else spikes, dtype=np.float32)
    if counts.ndim != 2 or len(counts) != entry.frames:
        raise ProbeError(f"{where}: no spike counts ({entry.frames}, unit) came with it, but {counts.shape}")
    if not (np.isfinite(counts).all() and (counts >= 0).all()):
        raise ProbeError(f"{where}: spike counts are finite and not negative")
    wrong = {space: x.shape for space, x in embedding.spaces.items() if len(x) != entry.frames}
    if wrong:
        raise ProbeError(f"{where}: {entry.frames} frames, but spaces are {wrong}")
    return Trial(entry.name, entry.split, counts, {space: np.asarray(x) for space, x in embedding.spaces.items()})


def session_name(entry: Entry) -> str:
    """Recordings of one session have one subject, and names that differ in the number at their end only."""
    stem = _NUMBER.sub("", entry.name)
    return entry.subject if stem in ("", entry.subject) else f"{entry.subject} {stem}"


def with_validation(session: Session, seed: int, share: float = 0.125) -> Session:
    """The session as it is when it has validation trials; otherwise training lends some, drawn by name.

    A session of one training trial is validated on that trial.
    """
    if session.split("validation") or not session.split("train"):
        return session
    names = sorted((t.name for t in session.split("train")), key=lambda name: priority(seed, "validation", name))
    drawn = set(names[: max(1, round(share * len(names)))])
    trials = tuple(
        Trial(t.name, "validation" if t.name in drawn else t.split, t.spikes, t.spaces) for t in session.trials
    )
    if len(names) == 1:
        trials = (*session.split("train"), *trials)
    return Session(session.name, session.fps, trials)


def narrowed(sessions: Sequence[Session], space: str, width: int, rows: int = 4096) -> list[Session]:
    """The sessions with at most ``width`` features in a space: principal components of their training bins.

    The axes come from ``rows`` bins evenly spread over the training trials of all sessions, about their mean; a missing
    value counts as that. A space that is narrow enough is left as it is.
    """
    train = [t.spaces[space] for s in sessions for t in s.split("train")]
    if train[0].shape[1] <= width:
        return list(sessions)
    stride = max(1, sum(map(len, train)) // rows)
    bins = np.concatenate([x[i % stride :: stride] for i, x in enumerate(train)]).astype(np.float64)
    known = np.isfinite(bins)
    mean = np.where(known, bins, 0).sum(0) / np.maximum(known.sum(0), 1)
    centred = np.where(known, bins - mean, 0)
    values, vectors = np.linalg.eigh(centred @ centred.T)
    keep = np.flatnonzero(values > values[-1] * 1e-9)[::-1][:width]
    axes = centred.T @ (vectors[:, keep] / np.sqrt(values[keep]))

    def of(trial: Trial) -> Trial:
        x = np.nan_to_num(trial.spaces[space] - mean, nan=0.0) @ axes
        return Trial(trial.name, trial.split, trial.spikes, {**trial.spaces, space: x.astype(np.float32)})

    return [Session(s.name, s.fps, tuple(of(t) for t in s.trials)) for s in sessions]


def active(session: Session, rate: float) -> Array:
    """Indices of the units whose mean rate over the training trials, in spikes a second, is above ``rate``.

    With a rate of 0 these are the units that fire in training at all.
    """
    trials = session.split("train")
    bins = sum(len(t.spikes) for t in trials)
    spikes = np.sum([t.spikes.sum(0, dtype=np.float64) for t in trials], axis=0)
    return np.flatnonzero(spikes * session.fps > rate * bins)


def phases(lengths: Iterable[int], locked: bool, least: int) -> int:
    """How many phases there are: the bins that ``least`` training trials reach; 1 where trials are not locked.

    Later bins of longer trials belong to the last phase. Too few trials for an average of each bin have one phase.
    """
    ordered = sorted(lengths, reverse=True)
    return ordered[least - 1] if locked and len(ordered) >= least else 1


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of every column in every phase, float64 (phase, column); 0 where nothing varies."""

    mean: Array
    deviation: Array

    @classmethod
    def fit(cls, values: Sequence[Array], count: int) -> Scale:
        """Of training trials (time, column); NaN does not count, and a column that is never known has mean 0."""
        width = values[0].shape[1]
        mean, deviation = np.zeros((count, width)), np.zeros((count, width))
        place = np.concatenate([phase(len(v), count) for v in values])
        joined = np.concatenate(values).astype(np.float64)
        for p in range(count):
            rows = joined[place == p]
            known = ~np.isnan(rows)
            number = np.maximum(known.sum(0), 1)
            mean[p] = np.where(known, rows, 0).sum(0) / number
            deviation[p] = np.sqrt((np.where(known, rows - mean[p], 0) ** 2).sum(0) / number)
        return cls(mean, np.where(deviation > FLOOR, deviation, 0))

    def forward(self, values: Array) -> Array:
        """(time, column) in standard deviations, float32: 0 where a value is NaN or the column did not vary."""
        place = phase(len(values), len(self.mean))
        scale = self.deviation[place]
        z = (values - self.mean[place]) / np.where(scale > 0, scale, np.inf)
        return np.nan_to_num(z, nan=0.0).astype(np.float32)

    def back(self, z: Array) -> Array:
        """Rates in spikes a bin, float64 (time, unit), at least LEAST_RATE also where a prediction is NaN."""
        place = phase(len(z), len(self.mean))
        rates = z.astype(np.float64) * self.deviation[place] + self.mean[place]
        return np.maximum(np.where(np.isfinite(rates), rates, LEAST_RATE), LEAST_RATE)


def phase(length: int, count: int) -> Array:
    """The phase of every bin of a trial."""
    return np.minimum(np.arange(length), count - 1)


@dataclass(frozen=True)
class Aligned:
    """A session in one space, ready to be fitted.

    Attributes
    ----------
    x, y: per training trial float32 (time, feature) and (time, unit), standardised; y from smoothed spikes.
    validation, test: features of those trials, standardised with what training had.
    units: indices of the units that are predicted.
    scale: of smoothed training spikes; its ``back`` turns predictions into rates.
    count: phases.
    missing: share of feature values that were NaN.
    """

    name: str
    x: tuple[Array, ...]
    y: tuple[Array, ...]
    validation: tuple[Array, ...]
    test: tuple[Array, ...]
    units: Array
    scale: Scale
    count: int
    missing: float

    def rates(self, predicted: Sequence[Array]) -> list[Array]:
        """Rates of trials from their standardised predictions."""
        return [self.scale.back(z) for z in predicted]


def align(session: Session, space: str, units: Array, *, smooth: float, locked: bool, least: int) -> Aligned:
    """Prepare a session for encoders of this space; ``smooth`` is the kernel's standard deviation in seconds.

    Raises ProbeError naming the trial where a feature is infinite.
    """
    for trial in session.trials:
        if np.isinf(trial.spaces[space]).any():
            raise ProbeError(f"recording {trial.name!r}: space {space!r} is infinite; write NaN for a missing value")
    train = session.split("train")
    count = phases((len(t.spikes) for t in train), locked, least)
    features = Scale.fit([t.spaces[space] for t in train], count)
    smoothed = [smoothed_spikes(t.spikes[:, units], smooth * session.fps) for t in train]
    scale = Scale.fit(smoothed, count)

    def of(name: str) -> tuple[Array, ...]:
        return tuple(features.forward(t.spaces[space]) for t in session.split(name))

    values = sum(t.spaces[space].size for t in session.trials)
    lacking = sum(int(np.isnan(t.spaces[space]).sum()) for t in session.trials)
    return Aligned(
        session.name, of("train"), tuple(scale.forward(s) for s in smoothed), of("validation"), of("test"), units,
        scale, count, lacking / max(values, 1),
    )  # fmt: skip


def smoothed_spikes(spikes: Array, sigma: float) -> Array:
    """Spike counts (time, unit) under a Gaussian of ``sigma`` bins, reflected at the ends; as they are for 0."""
    values = spikes.astype(np.float64)
    return gaussian_filter1d(values, sigma, axis=0) if sigma > 0 else values


def tally(spikes: Sequence[Array], rates: Sequence[Array]) -> Array:
    """What each trial adds to bits per spike, float64 (trial, unit, 4): bins, spikes, rates, spikes times log rate."""
    return np.stack(
        [
            np.stack([np.full(n.shape[1], float(len(n))), n.sum(0), r.sum(0), (n * np.log(r)).sum(0)], axis=-1)
            for n, r in zip((n.astype(np.float64) for n in spikes), rates, strict=True)
        ]
    )
