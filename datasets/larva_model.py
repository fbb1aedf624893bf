"""Bouts of a larval zebrafish: the kinematics behind simulated_larvae.py.

A bout is a wave of curvature that runs from behind the head to the tip of the tail, beats ever more slowly and dies
away; a turn begins with one bend to a side. Both bend a midline of fixed length, the heading turns with the bend and
recoils a little, and the beating pushes the fish, which glides on afterwards. Body length 1, times in seconds, angles
in radians; positive is left. That curvature rises gently along the trunk to at most 6, waves run at near-constant
speed and the head stays stiff is reported by Müller & van Leeuwen (J. Exp. Biol. 207:853, 2004). The numbers of
PROTOTYPES are our choice in the light of the literature and not fitted to any recording.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FPS, POINTS, PIVOT = 330.0, 41, 10
"""Frames per second, points along the midline, and the point (a quarter of the body) that the fish turns about."""
MIDLINE = np.linspace(0, 1, POINTS)
CURVED_MOST = 6.0
RISE, GLIDE, CONVERGED = 0.012, 0.070, np.radians(22)

SLOW_1, SLOW_2, ROUTINE_TURN, HIGH_ANGLE_TURN, BURST, J_TURN, O_BEND, C_START = range(8)
BOUTS = ("slow_1", "slow_2", "routine_turn", "high_angle_turn", "burst", "j_turn", "o_bend", "c_start")
COLUMNS = ("first_hz", "last_hz", "half_beats", "curvature", "wave", "stiff", "bend", "bend_time", "bend_from",
           "stride", "turn_mean", "turn_spread", "turn_at", "turn_width", "calmed")  # fmt: skip
_STRAIGHT, _DEGREE = (0.030, 0.012, 0.0), np.pi / 180


def _turning(*row: float) -> tuple[float, ...]:
    """A row of a class that turns: the heading follows the bend, and the wave is calmed by 0.8 while it lasts."""
    return (*row, 1.6 * row[7], 0.5 * row[7], 0.8)


PROTOTYPES = np.array([
    (24, 20, 5, 1.6, 1.15, 0.35, 0, 0.018, 0.20, 0.12, 0, 6 * _DEGREE, *_STRAIGHT),
    (32, 26, 6, 2.6, 1.15, 0.28, 0, 0.018, 0.20, 0.20, 0, 10 * _DEGREE, *_STRAIGHT),
    _turning(30, 24, 5, 2.2, 1.15, 0.25, 2.2, 0.018, 0.20, 0.16, 42 * _DEGREE, 12 * _DEGREE),
    _turning(34, 26, 6, 2.6, 1.15, 0.22, 3.6, 0.020, 0.18, 0.18, 85 * _DEGREE, 18 * _DEGREE),
    (62, 42, 12, 4.4, 1.05, 0.20, 0, 0.009, 0.10, 0.30, 0, 12 * _DEGREE, *_STRAIGHT),
    _turning(22, 20, 5, 1.0, 0.80, 0.60, 4.2, 0.030, 0.62, 0.03, 22 * _DEGREE, 8 * _DEGREE),
    _turning(34, 26, 6, 2.4, 1.15, 0.20, 4.3, 0.026, 0.12, 0.15, 150 * _DEGREE, 18 * _DEGREE),
    _turning(68, 42, 9, 4.2, 1.05, 0.18, 3.6, 0.009, 0.10, 0.30, 110 * _DEGREE, 25 * _DEGREE),
])  # fmt: skip
"""A row a class of bout, by COLUMNS. Where nothing bends, time and place of the bend serve mixtures only."""
SPREAD = {"wave": 0.08, "stiff": 0.08, "bend_from": 0.08, "curvature": 0.12, "bend": 0.12, "stride": 0.12}
"""Log-normal spread of the quantities where it is not 0.10."""
NEIGHBOUR = (SLOW_2, ROUTINE_TURN, HIGH_ANGLE_TURN, O_BEND, C_START, SLOW_1, HIGH_ANGLE_TURN, BURST)
"""The class towards which each may lean."""


@dataclass(frozen=True)
class Fish:
    """What one larva differs in: length (mm), factors on its movements, a resting angle of the eyes, its tastes.

    ``weights`` multiplies how often it takes up each class of bout, ``pause`` how long it waits in between.
    """

    length: float = 4.1
    beat: float = 1.0
    amplitude: float = 1.0
    stride: float = 1.0
    turn: float = 1.0
    pause: float = 1.0
    eyes: float = 0.0
    weights: Sequence[float] = (1.0,) * len(BOUTS)

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Fish:
        """A fish of the population: 4.1 mm (sd 0.1), movements 6 to 10 %, tastes and pauses 30 % around the others."""
        beat, amplitude, stride, turn, pause = np.exp(rng.normal(0, (0.06, 0.08, 0.08, 0.10, 0.30))).tolist()
        length, eyes = float(rng.normal(4.1, 0.1)), float(rng.normal(0, 3 * _DEGREE))
        return cls(length, beat, amplitude, stride, turn, pause, eyes, tuple(np.exp(rng.normal(0, 0.3, len(BOUTS)))))


@dataclass(frozen=True)
class Bouts:
    """Bouts to swim, every array (bout,): class, side (+1 left), numbers by COLUMNS, onset, turn and steepness."""

    kind: np.ndarray
    side: np.ndarray
    numbers: dict[str, np.ndarray]
    onset: np.ndarray
    turn: np.ndarray
    power: np.ndarray

    @property
    def hertz(self) -> np.ndarray:
        """Mean tail-beat frequency."""
        return np.asarray((self.numbers["first_hz"] + self.numbers["last_hz"]) / 2)

    @property
    def duration(self) -> np.ndarray:
        """Time from onset until all half-beats are done."""
        return np.asarray(self.numbers["half_beats"] / (2 * self.hertz))


def draw(kinds: np.ndarray, fish: Fish, rng: np.random.Generator, leaning: float = 0.0) -> Bouts:
    """Bouts of these classes by one fish; a share ``leaning`` of them leans up to 40 % towards the neighbour class."""
    leans = rng.random(len(kinds)) < leaning
    share = np.where(leans, rng.uniform(0, 0.4, len(kinds)), 0)[:, None]
    rows = (1 - share) * PROTOTYPES[kinds] + share * PROTOTYPES[np.array(NEIGHBOUR)[kinds]]
    numbers = dict(zip(COLUMNS, rows.T, strict=True))
    for name in COLUMNS[:10]:
        numbers[name] = numbers[name] * np.exp(rng.normal(0, SPREAD.get(name, 0.10), len(kinds)))
    for name in ("first_hz", "last_hz"):
        numbers[name] = numbers[name] * fish.beat
    for name in ("curvature", "bend"):
        numbers[name] = numbers[name] * fish.amplitude
    numbers["stride"] = numbers["stride"] * fish.stride
    side = rng.choice((-1.0, 1.0), len(kinds))
    turn = side * fish.turn * rng.normal(numbers["turn_mean"], numbers["turn_spread"])
    power = np.where(kinds == C_START, 2.5, 1.6)
    return Bouts(kinds, side, numbers, rng.uniform(0.020, 0.035, len(kinds)), turn, power)


@dataclass(frozen=True)
class Swim:
    """A fish in motion, every array beginning with (time,).

    Attributes
    ----------
    bout: number of the bout that a frame belongs to, its pause included.
    active: whether the tail beats, from the onset until a quarter of the duration after the last half-beat.
    curvature: (time, POINTS) along the midline, times body length; positive bends the tail to the left.
    bent: (time, POINTS) angle of the midline against the head, the integral of the curvature.
    heading, speed: direction of the head; body lengths a second of the point that the fish turns about.
    midline: (time, POINTS, 2) from nose to tail tip.
    """

    bout: np.ndarray
    active: np.ndarray
    curvature: np.ndarray
    bent: np.ndarray
    heading: np.ndarray
    speed: np.ndarray
    midline: np.ndarray


def smoothstep(x: np.ndarray) -> np.ndarray:
    """0 below 0, 1 above 1, smooth in between."""
    x = np.clip(x, 0, 1)
    return np.asarray(x * x * (3 - 2 * x))


def swim(bouts: Bouts, frames: np.ndarray, heading: float = 0.0) -> Swim:
    """Swim the bouts one after another, each for so many frames with its pause, from the origin and this heading."""
    row = np.repeat(np.arange(len(frames)), frames)
    since = np.arange(len(row)) - np.repeat(np.cumsum(frames) - frames, frames)
    here = {name: values[row] for name, values in bouts.numbers.items()}
    duration, side = bouts.duration[row], bouts.side[row]
    time = since / FPS - bouts.onset[row]
    x = np.clip(time / duration, 0, 1)
    hertz = here["first_hz"] + (here["last_hz"] - here["first_hz"]) * x
    change = (here["last_hz"] - here["first_hz"]) * (duration * x**2 / 2 + np.maximum(time - duration, 0))
    beats = here["first_hz"] * time + change
    vigour = np.clip(2 * here["first_hz"] * time, 0, 1) * np.exp(-1.6 * x**1.5)
    vigour = vigour * np.clip((1.25 * duration - time) / (0.25 * duration), 0, 1)
    after = np.maximum(time / here["bend_time"], 0)
    bend = (after * np.exp(1 - after)) ** bouts.power[row]

    def along(name: str, width: float) -> np.ndarray:
        return smoothstep((MIDLINE - here[name][:, None]) / width)

    wave = beats[:, None] - (MIDLINE - here["stiff"][:, None]) / here["wave"][:, None]
    swing = here["curvature"] * vigour * (1 - here["calmed"] * bend)
    growth = along("stiff", 0.25) * (0.75 + 0.25 * MIDLINE)
    curvature = swing[:, None] * growth * np.sin(2 * np.pi * side[:, None] * wave)
    curvature += (side * here["bend"] * bend)[:, None] * along("bend_from", 0.2)
    curvature = np.clip(curvature, -CURVED_MOST, CURVED_MOST)
    bent = _integral(curvature)
    share = _logistic((time - here["turn_at"]) / here["turn_width"])
    first = _logistic(-(bouts.onset[row] + here["turn_at"]) / here["turn_width"])
    turned = (np.cumsum(bouts.turn) - bouts.turn)[row] + bouts.turn[row] * (share - first) / (1 - first)
    course = heading + turned
    speed = _pushed(here["stride"] * hertz * np.minimum(1, 1.6 * vigour))
    direction = course - 0.12 * bent.mean(1)
    place = np.cumsum(speed[:, None] * np.stack([np.cos(course), np.sin(course)], -1), 0) / FPS
    active = (time >= 0) & (time < 1.25 * duration)
    return Swim(row, active, curvature, bent, direction, speed, _body(place, direction, bent))


def _integral(values: np.ndarray) -> np.ndarray:
    """Trapezoidal integral along the midline, zero at the nose."""
    steps = (values[:, 1:] + values[:, :-1]) / (2 * (POINTS - 1))
    return np.concatenate([np.zeros((len(values), 1)), np.cumsum(steps, 1)], 1)


def _logistic(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -60, 60))))


def _pushed(wanted: np.ndarray) -> np.ndarray:
    """Speed that follows what the tail pushes for: quickly upwards, slowly down into a glide."""
    rise, glide = (float(1 - np.exp(-1 / FPS / tau)) for tau in (RISE, GLIDE))
    speed, now = [], 0.0
    for target in wanted.tolist():
        now += (rise if target > now else glide) * (target - now)
        speed.append(now)
    return np.array(speed)


def _body(place: np.ndarray, direction: np.ndarray, bent: np.ndarray) -> np.ndarray:
    """Midline (time, POINTS, 2) whose PIVOT is at ``place`` and whose head points along ``direction``."""
    angle = direction[:, None] + np.pi - bent
    points = np.stack([_integral(np.cos(angle)), _integral(np.sin(angle))], -1)
    return np.asarray(points - points[:, PIVOT : PIVOT + 1] + place[:, None])


EYE_BEHIND, EYE_ASIDE, EYE_LONG, EYE_WIDE = 0.10, 0.048, 0.042, 0.026


def keypoints(motion: Swim, converged: np.ndarray) -> np.ndarray:
    """PoseR's 19 keypoints (time, 19, 2): nose, left and right eye (front, outer, back, inner), ten along the tail.

    ``converged`` (time,) is how far each eye is turned inwards. Unit: body lengths.
    """
    nose, cos, sin = motion.midline[:, 0], np.cos(motion.heading), np.sin(motion.heading)

    def head(ahead: np.ndarray, left: np.ndarray) -> np.ndarray:
        return np.asarray(nose + np.stack([cos * ahead - sin * left, sin * ahead + cos * left], -1))

    points = [nose]
    for side in (1, -1):
        c, s = np.cos(converged), -side * np.sin(converged)
        for ahead, left in ((EYE_LONG, 0), (0, side * EYE_WIDE), (-EYE_LONG, 0), (0, -side * EYE_WIDE)):
            points.append(head(c * ahead - s * left - EYE_BEHIND, s * ahead + c * left + side * EYE_ASIDE))
    step = (POINTS - 1) // 10
    return np.concatenate([np.stack(points, 1), motion.midline[:, step::step]], 1)


SWAPPED = [0, 5, 6, 7, 8, 1, 2, 3, 4, *range(9, 19)]
LOST = np.concatenate([np.full(9, 0.010), np.linspace(0.010, 0.030, 10)])
"""Share of frames in which the tracker has each keypoint wrong: most often the tip of the tail."""


def track(truth: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """What a tracker makes of true keypoints (time, 19, 2) in body lengths: keypoints and confidence (time, 19).

    Noise of 0.004 everywhere. Runs of about three frames, twice as often where a keypoint is fast, are missed by 0.05
    to 0.3 or lost altogether (NaN, confidence 0): confidence there is below 0.8, elsewhere about 0.98. Eyes are swapped
    in 0.2 % of the frames, which the tracker does not notice; rarely the whole fish is lost for some frames.
    """
    frames = len(truth)
    seen = truth + rng.normal(0, 0.004, truth.shape)
    confidence = 1 - np.minimum(np.abs(rng.normal(0, 0.025, truth.shape[:2])), 0.15)
    swaps = rng.random(frames) < 0.002
    seen[swaps] = seen[swaps][:, SWAPPED]
    step = np.linalg.norm(np.diff(truth, axis=0, prepend=truth[:1]), axis=-1)
    begins = rng.random(truth.shape[:2]) < LOST / 3 * (1 + (step > 0.02))
    for t, k in np.argwhere(begins):
        run = slice(t, t + rng.integers(1, 6))
        angle, gone = rng.uniform(0, 2 * np.pi), rng.random() < 0.3
        seen[run, k] += np.nan if gone else rng.uniform(0.05, 0.3) * np.array([np.cos(angle), np.sin(angle)])
        confidence[run, k] = 0 if gone else rng.uniform(0.1, 0.79)
    for t in rng.integers(0, frames, rng.poisson(frames / FPS / 20)):
        run = slice(t, t + rng.integers(5, 40))
        seen[run] = np.nan
    confidence[np.isnan(seen[..., 0])] = 0
    return seen.astype(np.float32), confidence.astype(np.float32)
