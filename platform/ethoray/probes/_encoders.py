"""One fit of one encoder of neural activity: plain data in, plain data out, so that it may run anywhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ethoray import metrics
from ethoray.probes import _rrr, _wavelets
from ethoray.probes._trials import Aligned, Session, smoothed_spikes, tally

Array = np.ndarray
RATES = {"rrr_lbfgs": (0.05, 2.0), "tcn": (1e-4, 3e-3)}
"""Learning rates are drawn between these."""


@dataclass(frozen=True)
class Job:
    """What is fitted.

    Attributes
    ----------
    sessions: fitted together.
    spikes: per session and validation trial, counts (time, unit) of all units.
    value: the penalty of "rrr", the learning rate of the others.
    """

    model: str
    space: str
    sessions: tuple[Aligned, ...]
    spikes: tuple[list[Array], ...]
    value: float
    rank: int
    training: _wavelets.Training
    l2: float
    seed: int


@dataclass(frozen=True)
class Result:
    """What came of a job.

    Attributes
    ----------
    sessions: their names.
    validation: bits per spike, mean over the units of all sessions; minus infinity when none fires there.
    predicted: per session and test trial, standardised activity (time, unit).
    """

    model: str
    space: str
    value: float
    sessions: tuple[str, ...]
    validation: float
    predicted: tuple[list[Array], ...]


def candidates(model: str, l2: Sequence[float], draws: int, seed: int) -> tuple[float, ...]:
    """The values among which validation chooses."""
    return tuple(l2) if model == "rrr" else _wavelets.rates(draws, seed, *RATES[model])


def fit(job: Job) -> Result:
    """Fit, predict, and score the validation trials; depends on nothing but the job."""
    if job.model == "tcn":
        network = _wavelets.trained(job.sessions, job.value, job.seed, job.training)
        sides = [
            [_wavelets.predict(network, side, i) for side in (s.validation, s.test)] for i, s in enumerate(job.sessions)
        ]
    else:
        stacked = [_rrr.stack(session) for session in job.sessions]
        if job.model == "rrr":
            readouts = _rrr.exact(stacked, job.rank, job.value)
        else:
            readouts = _rrr.descended(stacked, job.rank, job.l2, job.value, job.seed)
        sides = [
            [[readout.predict(x) for x in side] for side in (s.validation, s.test)]
            for readout, s in zip(readouts, job.sessions, strict=True)
        ]
    bits = np.concatenate([_bits(s, n, p) for s, n, (p, _) in zip(job.sessions, job.spikes, sides, strict=True)])
    fires = np.isfinite(bits)
    validation = float(bits[fires].mean()) if fires.any() else -math.inf
    names = tuple(session.name for session in job.sessions)
    return Result(job.model, job.space, job.value, names, validation, tuple(test for _, test in sides))


def explained(session: Session, aligned: Aligned, predicted: Sequence[Array], smooth: float) -> float:
    """R² of smoothed spikes of the test trials, mean over the units that vary there."""
    test = session.split("test")
    y = np.concatenate([smoothed_spikes(t.spikes[:, aligned.units], smooth * session.fps) for t in test])
    error = ((y - np.concatenate(aligned.rates(predicted))) ** 2).sum(0)
    about = ((y - y.mean(0)) ** 2).sum(0)
    varies = about > 0
    return float((1 - error[varies] / about[varies]).mean()) if varies.any() else 0.0


def _bits(session: Aligned, spikes: Sequence[Array], predicted: Sequence[Array]) -> Array:
    counts = [n[:, session.units] for n in spikes]
    return metrics.unit_bits_per_spike(tally(counts, session.rates(predicted)).sum(0))
