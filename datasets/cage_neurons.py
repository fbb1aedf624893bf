"""The neurons of simulated_video.py: Poisson units whose log rate is linear in what the mouse does and feels.

Rates are log-linear in the latent variables of a life, with a slow drift of each unit; some units follow nothing that
is seen, and those of the cue follow what the picture never shows. What a predictor can reach is therefore known: the
true rates, and the trial average (PSTH) alone, as bits per spike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from cage_life import FPS, GROOM, SNIFF, STATES, WALK, Animal, Life, wander
from scipy.ndimage import gaussian_filter1d

KINDS = ("state", "movement", "arousal", "cue", "unrelated")
OFTEN = (0.32, 0.30, 0.12, 0.11, 0.15)
"""Share of units of each kind."""
FEWEST, MOST, SLOWEST, FASTEST, LIMIT = 40, 80, 1.0, 20.0, 120.0
"""Units of a session; mean rates (spikes/s) are log-uniform between two, and no rate is above the last."""
LATENTS = (*STATES, "speed", "gait_cos", "gait_sin", "groom_cos", "groom_sin", "sniffing", "scan", "arousal", "cue")
SMOOTH = 2.0
"""Bins by which a trial average is smoothed, as in BEAST's protocol."""


@dataclass(frozen=True)
class Units:
    """A population: ``kind`` (unit,) index into KINDS, ``rates`` (time, unit) in spikes/s, ``counts`` per frame."""

    kind: np.ndarray
    rates: np.ndarray
    counts: np.ndarray


def latents(life: Life, animal: Animal) -> np.ndarray:
    """The columns LATENTS of a life, (time, latent); phases count only while the mouse does what they are of."""
    walk, groom, sniff = (life.share[:, s] for s in (WALK, GROOM, SNIFF))
    columns = [life.speed / animal.speed, walk * np.cos(life.gait), walk * np.sin(life.gait)]
    columns += [groom * np.cos(life.groom), groom * np.sin(life.groom), sniff * np.sin(life.whisk)]
    return np.column_stack([life.share, *columns, life.scan, life.arousal, life.cue])


def weights(kind: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Weights (latent, unit) of units of these kinds; only those of the cue have any on it."""
    spread = {
        "state": {**dict.fromkeys(STATES, 0.9), "arousal": 0.15},
        "movement": {**dict.fromkeys(STATES, 0.3), "speed": 0.6, "scan": 0.35, "sniffing": 0.6}
        | dict.fromkeys(("gait_cos", "gait_sin", "groom_cos", "groom_sin"), 0.7),
        "arousal": {"arousal": 0.7, "speed": 0.2},
        "cue": {"cue": 1.3, "arousal": 0.15},
        "unrelated": {},
    }
    table = np.array([[spread[k].get(name, 0.0) for k in KINDS] for name in LATENTS])
    drawn = table[:, kind] * rng.normal(size=(len(LATENTS), len(kind)))
    drawn[LATENTS.index("cue")] = np.abs(drawn[LATENTS.index("cue")]) + 0.5 * (kind == KINDS.index("cue"))
    return np.asarray(drawn)


def record(life: Life, animal: Animal, rng: np.random.Generator) -> Units:
    """The units of a session and their spikes."""
    kind = rng.choice(len(KINDS), int(rng.integers(FEWEST, MOST + 1)), p=OFTEN)
    drift = np.stack([wander(len(life.state), 40.0, rng) for _ in kind], 1)
    log = latents(life, animal) @ weights(kind, rng) + 0.15 * drift
    mean = np.exp(rng.uniform(np.log(SLOWEST), np.log(FASTEST), len(kind)))
    rates = np.exp(log - log.max(0))
    rates = np.minimum(rates * mean / rates.mean(0), LIMIT)
    return Units(kind, rates, rng.poisson(rates / FPS))


def bits_per_spike(predicted: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """By unit, how much better (bits a spike) predicted counts (..., unit) tell counts than their mean; NaN if none.

    Poisson log likelihood against the unit's mean over the same bins (Pei et al. 2021, Neural Latents Benchmark).
    """
    counts = np.asarray(counts, dtype=np.float64).reshape(-1, counts.shape[-1])
    predicted = np.maximum(np.asarray(predicted, dtype=np.float64).reshape(counts.shape), 1e-9)
    mean = np.maximum(counts.mean(0), 1e-9)
    gain = (counts * np.log(predicted / mean) - (predicted - mean)).sum(0)
    spikes = counts.sum(0)
    return np.asarray(np.divide(gain, spikes * np.log(2), out=np.full(len(spikes), np.nan), where=spikes > 0))


def cut(values: np.ndarray, trials: np.ndarray, every: int, frames: int) -> np.ndarray:
    """Sums over ``every`` frames within trials, (trial, bin, unit)."""
    found = values[trials[:, None] + np.arange(frames)]
    return np.asarray(found.reshape(len(trials), frames // every, every, -1).sum(2))


def limits(rates: np.ndarray, counts: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bits per spike by unit, over the trials that are not ``train``, of the true rates and of the train trials' PSTH.

    ``rates`` are expected counts, (trial, bin, unit) as ``counts``; ``train`` is bool (trial,).
    """
    psth = gaussian_filter1d(counts[train].astype(np.float64), SMOOTH, axis=1).mean(0)
    guess = np.broadcast_to(np.maximum(psth, 1e-3), counts[~train].shape)
    return bits_per_spike(rates[~train], counts[~train]), bits_per_spike(guess, counts[~train])
