"""What the mouse of simulated_video.py does and feels: a semi-Markov machine of five states and what follows from it.

A mouse on a treadmill stands still, walks, grooms, rears or sniffs. States last for gamma-distributed times, the next
one is drawn from a table weighted by the animal's tastes. Every trial has a cue, which nothing in the picture shows: it
rouses the animal (the pupil widens half a second later) and often makes it start something else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import convolve1d, gaussian_filter1d

FPS = 30
STILL, WALK, GROOM, REAR, SNIFF = range(5)
STATES = ("still", "walk", "groom", "rear", "sniff")
LASTS, STEADY = np.array([1.4, 2.0, 2.2, 1.3, 1.2]), 5.0
"""Mean time in each state (s) and the shape of its gamma distribution."""
NEXT = np.array([
    [0.00, 0.30, 0.25, 0.15, 0.30],
    [0.25, 0.00, 0.15, 0.25, 0.35],
    [0.45, 0.20, 0.00, 0.10, 0.25],
    [0.20, 0.30, 0.15, 0.00, 0.35],
    [0.25, 0.35, 0.15, 0.25, 0.00],
])  # fmt: skip
"""How often each state (column) follows each (row), before tastes."""
STARTLED, AFTER_CUE = 0.5, np.array([0.0, 0.45, 0.0, 0.25, 0.3])
"""Chance that a cue ends what the mouse is doing, and what it then does."""
TRIAL, CUE, GAP = 2.0, 0.5, (0.5, 1.0)
"""Length of a trial, when in it the cue comes, and the time between trials at least and at most (s)."""
BLEND = 9
"""Frames in which one posture becomes the next."""


@dataclass(frozen=True)
class Animal:
    """What one mouse and its film differ in.

    Attributes
    ----------
    size: body length in pixels from rump to nose.
    tone: brightness of the fur, 0 to 1.
    ear, tail: factors on their size.
    speed: body lengths a second when walking.
    tempo: factor on the rhythms of walking, grooming and sniffing.
    camera: pixels by which the picture is shifted.
    tastes: factors on how often each state is taken up.
    """

    size: float = 118.0
    tone: float = 0.36
    ear: float = 1.0
    tail: float = 1.0
    speed: float = 0.9
    tempo: float = 1.0
    camera: tuple[float, float] = (0.0, 0.0)
    tastes: tuple[float, ...] = (1.0,) * len(STATES)

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Animal:
        """One of the population."""
        ear, tail, speed, tempo = np.exp(rng.normal(0, (0.08, 0.06, 0.15, 0.07))).tolist()
        return cls(
            size=float(rng.uniform(106, 122)),
            tone=float(rng.uniform(0.24, 0.5)),
            ear=ear,
            tail=tail,
            speed=0.9 * speed,
            tempo=tempo,
            camera=(float(rng.uniform(-8, 8)), float(rng.uniform(-6, 6))),
            tastes=tuple(np.exp(rng.normal(0, 0.25, len(STATES))).tolist()),
        )

    @property
    def expected(self) -> np.ndarray:
        """Share of time in each state if there were no cues: the table's fixed point, weighted by the times."""
        table = NEXT * np.array(self.tastes)
        table = table / table.sum(1, keepdims=True)
        share = np.full(len(STATES), 1 / len(STATES))
        for _ in range(200):  # averaged with the step before, as two states may alternate for ever
            share = (share + share @ table) / 2
        return np.asarray(share * LASTS / (share * LASTS).sum())


@dataclass(frozen=True)
class Life:
    """What happened in a film, frame by frame; every array begins with (time,), phases are in radians.

    Attributes
    ----------
    state: index into STATES; the label.
    share: (time, state) how much of each state's posture is seen; posture changes over BLEND frames.
    speed: body lengths a second. way: body lengths gone so far.
    gait, groom, whisk: phases of walking, grooming and sniffing.
    arousal: slow, of unit variance about, raised by cues. pupil: radius as a share of the eye's, follows arousal.
    scan: slow movement of the head, of unit variance. sway: where on the belt the mouse is, in body lengths.
    cue: response to the cue, at most 1, 0.15 s after it.
    trials: the first frame of every trial.
    """

    state: np.ndarray
    share: np.ndarray
    speed: np.ndarray
    way: np.ndarray
    gait: np.ndarray
    groom: np.ndarray
    whisk: np.ndarray
    arousal: np.ndarray
    pupil: np.ndarray
    scan: np.ndarray
    sway: np.ndarray
    cue: np.ndarray
    trials: np.ndarray


def wander(frames: int, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise of unit variance that changes within so many seconds."""
    step = max(1, int(seconds * FPS / 10))  # slow noise is made at fewer points
    sigma = seconds * FPS / step
    margin = int(4 * sigma)
    noise = gaussian_filter1d(rng.normal(size=frames // step + 2 + 2 * margin), sigma)[margin:-margin]
    between = np.interp(np.arange(frames) / step, np.arange(len(noise)), noise)
    return np.asarray(between * np.sqrt(2 * np.sqrt(np.pi) * sigma))


def states(animal: Animal, frames: int, cues: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Index into STATES of every frame; a cue (bool a frame) may end a state early."""
    found = np.empty(frames, dtype=int)
    startling = np.flatnonzero(cues)
    startling = startling[rng.random(len(startling)) < STARTLED] + round(0.2 * FPS)
    tastes, now, at = np.array(animal.tastes), int(rng.integers(len(STATES))), 0
    while at < frames:
        stop = at + max(BLEND, round(rng.gamma(STEADY, LASTS[now] / STEADY) * FPS))
        ahead = startling[(startling > at) & (startling < stop)]
        chances = AFTER_CUE if len(ahead) else NEXT[now]
        stop = int(ahead[0]) if len(ahead) else stop
        found[at:stop] = now
        weights = chances * tastes * (np.arange(len(STATES)) != now)
        now, at = int(rng.choice(len(STATES), p=weights / weights.sum())), stop
    return found


def live(animal: Animal, frames: int, rng: np.random.Generator, cued: bool = True) -> Life:
    """The life of an animal for so many frames."""
    trials, at = [], round(rng.uniform(*GAP) * FPS)
    while at + round(TRIAL * FPS) <= frames:
        trials.append(at)
        at += round((TRIAL + rng.uniform(*GAP)) * FPS)
    cues = np.zeros(frames, dtype=bool)
    if cued:
        cues[np.array(trials, dtype=int) + round(CUE * FPS)] = True
    state = states(animal, frames, cues, rng)
    hann = np.hanning(BLEND + 2)[1:-1]
    share = convolve1d(np.eye(len(STATES))[state], hann / hann.sum(), axis=0, mode="nearest")
    speed = animal.speed * share[:, WALK] * np.exp(0.3 * wander(frames, 0.7, rng))
    after = np.arange(6 * FPS) / FPS
    cue = np.convolve(cues, after / 0.15 * np.exp(1 - after / 0.15))[:frames]
    widening = np.convolve(cues, (after / 0.5) ** 2 * np.exp(2 - 2 * after / 0.5))[:frames]
    active = gaussian_filter1d(share[:, [WALK, REAR]].sum(1), 0.5 * FPS)
    arousal = 0.7 * wander(frames, 3.0, rng) + 0.9 * widening + 0.7 * (active - 0.4)

    def phase(hertz: np.ndarray | float, waver: float) -> np.ndarray:
        pace = animal.tempo * hertz * np.exp(waver * wander(frames, 0.5, rng))
        return np.asarray(rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.cumsum(pace) / FPS)

    return Life(
        state=state,
        share=share,
        speed=speed,
        way=np.cumsum(speed) / FPS,
        gait=phase(1.2 * (speed > 0.02) + 1.6 * speed, 0.0),
        groom=phase(4.0, 0.1),
        whisk=phase(6.5, 0.1),
        arousal=arousal,
        pupil=0.5 + 0.3 * np.tanh(0.8 * arousal),
        scan=wander(frames, 0.35, rng),
        sway=0.08 * wander(frames, 2.0, rng),
        cue=cue,
        trials=np.array(trials, dtype=int),
    )
