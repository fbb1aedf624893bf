"""The body of the mouse of simulated_video.py seen from its right side: where its parts are, from what it does.

The mouse faces right on a belt. Lengths are in body lengths with y upwards until ``posed`` puts them into pixels of
the film, where y points downwards and (0, 0) is the centre of the first pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from cage_life import GROOM, REAR, SNIFF, WALK, Animal, Life

WIDTH, HEIGHT, BELT = 256, 192, 158
"""Pixels of a film, and the line in which the paws stand on the belt."""
KEYPOINTS = ("nose", "eye", "ear", "tail_base", "tail_mid", "tail_tip",
             "near_forepaw", "far_forepaw", "near_hindpaw", "far_hindpaw")  # fmt: skip
BONES = ((0, 1), (1, 2), (2, 3), (3, 4), (4, 5))
RINGS = 13
"""Points along the tail."""
FORE, HIND = slice(0, 2), slice(2, 4)
"""Of four legs; the first of two is the near one."""

#           trunk  arch   hip   neck snout
POSTURES = np.array([
    [4.0, 0.060, 0.200, 14.0, -24.0],
    [3.0, 0.040, 0.215, 10.0, -20.0],
    [48.0, 0.110, 0.195, -8.0, -72.0],
    [60.0, 0.045, 0.235, 56.0, 8.0],
    [-3.0, 0.045, 0.215, -8.0, -36.0],
])  # fmt: skip
"""By state: angle of the trunk (degrees), height of its arch, of the hip, direction of the neck and of the snout."""
SCANS = np.array([2.0, 3.0, 3.0, 11.0, 10.0])
"""By state: degrees by which the head sweeps."""
TRUNK, NECK, SNOUT, LEG = 0.40, 0.15, 0.165, 0.24


@dataclass(frozen=True)
class Body:
    """Where the parts of a mouse are, in pixels (time, ..., 2), and its size.

    Attributes
    ----------
    size: body length in pixels.
    spine: (time, 5, 2): haunch, middle of the back, shoulder, head, nose.
    face: (time, 2, 2): eye and ear. snout: its direction (rad, upwards positive). trunk: that of the trunk.
    tail: (time, RINGS, 2) from base to tip.
    legs: (time, 4, 3, 2): root, joint and paw of near and far foreleg, near and far hindleg.
    """

    size: float
    spine: np.ndarray
    face: np.ndarray
    snout: np.ndarray
    trunk: np.ndarray
    tail: np.ndarray
    legs: np.ndarray

    @property
    def keypoints(self) -> np.ndarray:
        """(time, keypoint, 2) in the order of KEYPOINTS."""
        tail = self.tail[:, [0, RINGS // 2, RINGS - 1]]
        return np.concatenate([self.spine[:, 4:], self.face, tail, self.legs[:, :, 2]], 1)


def towards(angle: np.ndarray, length: float | np.ndarray = 1.0) -> np.ndarray:
    """The vector of this direction (rad) and length, (..., 2)."""
    return np.asarray(np.stack([np.cos(angle), np.sin(angle)], -1) * np.asarray(length)[..., None])


def posed(life: Life, animal: Animal) -> Body:
    """The body in every frame of a life."""
    trunk, arch, height, neck, snout = (life.share @ POSTURES).T
    breath = 0.004 * np.sin(0.6 * life.whisk)
    step = life.share[:, WALK]
    scan = (life.share @ SCANS) * life.scan
    sniffs = 3.0 * np.sin(life.whisk) * (life.share[:, SNIFF] + 0.5 * life.share[:, REAR])
    nods = 2.0 * np.sin(2 * life.gait) * step + 5 * np.sin(2 * life.groom) * life.share[:, GROOM]
    trunk, neck, snout = (np.radians(a) for a in (trunk, neck + 0.6 * scan, snout + scan + sniffs + nods))

    hip = np.stack([life.sway - 0.02 * step, height + 0.008 * np.sin(2 * life.gait) * step], -1)
    shoulder = hip + towards(trunk, TRUNK)
    back = (hip + shoulder) / 2 + towards(trunk + np.pi / 2, arch + breath)
    head = shoulder + towards(neck, NECK)
    nose = head + towards(snout, SNOUT)
    eye = head + towards(snout, 0.055) + towards(snout + np.pi / 2, 0.030)
    ear = head + towards(snout, -0.050) + towards(snout + np.pi / 2, 0.095 + 0.01 * animal.ear)
    legs = _legs(life, hip, shoulder, nose, trunk)

    def pixels(points: np.ndarray) -> np.ndarray:
        x = 0.455 * WIDTH + animal.camera[0] + animal.size * points[..., 0]
        return np.asarray(np.stack([x, BELT + animal.camera[1] - animal.size * points[..., 1]], -1))

    return Body(
        size=animal.size,
        spine=pixels(np.stack([hip, back, shoulder, head, nose], 1)),
        face=pixels(np.stack([eye, ear], 1)),
        snout=snout,
        trunk=trunk,
        tail=pixels(_tail(life, hip, trunk, animal)),
        legs=pixels(legs),
    )


def _tail(life: Life, hip: np.ndarray, trunk: np.ndarray, animal: Animal) -> np.ndarray:
    """Points along the tail, which waves as the mouse walks and is carried higher when it is aroused."""
    along = np.arange(RINGS - 1)
    lift = 3.0 + 2.2 * np.tanh(life.arousal) + 2.0 * life.share[:, WALK] - 1.5 * life.share[:, GROOM]
    waves = (3 + 7 * life.share[:, WALK])[:, None] * np.sin(life.gait[:, None] - 0.55 * along)
    slow = 5 * np.tanh(life.scan)[:, None] * np.sin(0.35 * along + 1)
    angles = np.radians(207 - lift[:, None] * along + waves + slow)
    base = hip + towards(np.pi + 0.6 * trunk + 0.15, 0.185)
    steps = towards(angles, np.full(angles.shape, 0.72 * animal.tail / (RINGS - 1)))
    points = np.concatenate([base[:, None], base[:, None] + np.cumsum(steps, 1)], 1)
    points[..., 1] = np.maximum(points[..., 1], 0.015 + 0.012 * np.exp(points[..., 1] / 0.02 - 1).clip(0, 1))
    return np.asarray(points)


def _legs(life: Life, hip: np.ndarray, shoulder: np.ndarray, nose: np.ndarray, trunk: np.ndarray) -> np.ndarray:
    """Roots, joints and paws (time, 4, 3, 2): stepping, washing the face, or hanging before the chest."""
    step, groom, rear = life.share[:, WALK], life.share[:, GROOM], life.share[:, REAR]
    low = towards(trunk - np.pi / 2, 0.05)
    legs = []
    for leg in range(4):
        far, fore = leg % 2, leg < 2
        phase = life.gait + np.pi * (far + (not fore))
        aside = 0.05 * far
        root = (shoulder if fore else hip) + low + np.stack([np.full(len(step), 0.6 * aside), 0 * step], -1)
        stand = np.stack([
            (shoulder if fore else hip)[:, 0] + aside + (0.0 if fore else 0.04) + 0.10 * step * np.cos(phase),
            0.018 + 0.022 * far + 0.055 * step * np.clip(-np.sin(phase), 0, None),
        ], -1)  # fmt: skip
        if fore:
            turn = life.groom + 0.9 * far
            wash = nose + np.stack([0.035 * np.cos(turn) + 0.4 * aside - 0.03, 0.045 * np.sin(turn) - 0.01], -1)
            hang = shoulder + towards(trunk - 1.25 - 0.25 * far + 0.12 * life.scan, 0.17)
            ground = 1 - groom - rear
            stand = ground[:, None] * stand + groom[:, None] * wash + rear[:, None] * hang
        legs.append(_bent(root, stand, 1 - 2 * groom if fore else np.full(len(step), -1.0)))
    return np.stack(legs, 1)


def _bent(root: np.ndarray, paw: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Root, joint and paw of a leg of two equal bones, bent to a side; a paw out of reach is pulled nearer."""
    way = paw - root
    long = np.maximum(np.linalg.norm(way, axis=-1, keepdims=True), 1e-6)
    paw = root + way * np.minimum(1, 0.99 * LEG / long)
    way = paw - root
    out = np.sqrt(np.maximum((LEG / 2) ** 2 - (way**2).sum(-1, keepdims=True) / 4, 0))
    across = np.stack([way[..., 1], -way[..., 0]], -1) / np.maximum(np.linalg.norm(way, axis=-1, keepdims=True), 1e-6)
    return np.stack([root, (root + paw) / 2 - side[:, None] * out * across, paw], 1)
