"""The body of a simulated mouse: twelve keypoints from the trace of mouse_model.py, and how a tracker errs on them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from mouse_model import ARENA, BREATH, FPS, GROOM, INVESTIGATE, MICE, REAR, SCAN, SCAN_HZ

PAWS = {4: (20.0, 11.0, 0), 5: (20.0, -11.0, 1), 7: (-24.0, 15.0, 1), 8: (-24.0, -15.0, 0)}
"""Keypoint: its place along and across the body at rest, and its half of the trot."""
MIRRORED = [0, 2, 1, 3, 5, 4, 6, 8, 7, 9, 10, 11]
Points = tuple[np.ndarray, np.ndarray]


def smooth(values: np.ndarray, frames: int) -> np.ndarray:
    """Moving average over an odd number of frames of the first axis."""
    half = frames // 2
    padded = np.concatenate([np.repeat(values[:1], half + 1, 0), values, np.repeat(values[-1:], half, 0)])
    total = padded.cumsum(0, dtype=np.float64)
    return ((total[frames:] - total[:-frames]) / frames).astype(np.float32)


def _phase(hertz: np.ndarray) -> np.ndarray:
    return np.remainder((hertz / FPS).cumsum(0, dtype=np.float64), 1).astype(np.float32) * np.float32(2 * np.pi)


def _polar(radius: np.ndarray | float, angle: np.ndarray) -> Points:
    return radius * np.cos(angle), radius * np.sin(angle)


def _place(origin: Points, angle: np.ndarray, along: np.ndarray, across: np.ndarray) -> Points:
    cos, sin = np.cos(angle), np.sin(angle)
    return origin[0] + cos * along - sin * across, origin[1] + sin * along + cos * across


def pose(trace: Mapping[str, np.ndarray], size: np.ndarray) -> np.ndarray:
    """True keypoints, float32 (time, recording, mouse, 12, 2), of a block's trace; size is (recording, mouse)."""
    state, speed = trace["state"].astype(np.int64), trace["speed"]
    size = size.astype(np.float32)
    brisk = abs(speed)
    stride = _phase(trace["gait"] * np.minimum(1.2 + 0.55 * brisk, 9) * (brisk > 0.3))
    swing = np.minimum(2.2 * brisk, 11)
    groom, rear = (smooth((state == s).astype(np.float32), 9) for s in (GROOM, REAR))
    sniff = smooth((state == INVESTIGATE).astype(np.float32), 5)
    lick = _phase(np.full_like(speed, 5.5))
    breath = smooth(BREATH[state].astype(np.float32), 15) * np.sin(_phase(np.full_like(speed, 2.6)))
    nod = smooth(SCAN[state].astype(np.float32), 7) * np.sin(_phase(trace["scan"] * SCAN_HZ[state]))
    front = trace["heading"] + np.float32(0.02) * np.sin(stride) * (brisk > 0.3)
    gaze = front + trace["head"] + nod
    reach = 26 * (1 - 0.28 * rear - 0.12 * groom) + breath
    centre = trace["x"], trace["y"]
    neck = _place(centre, front, size * reach, size * 0.4 * groom * np.sin(lick))
    snout = size * (24 - 5 * groom + 1.6 * groom * np.sin(lick) + 1.3 * sniff * np.sin(6.3 * np.sin(lick)))
    points: dict[int, Points] = {6: centre, 3: neck}
    points[0] = _place(neck, gaze, snout, 0 * snout)
    for ear, side in ((1, 10), (2, -10)):
        points[ear] = _place(neck, gaze, 9 * size, side * size)
    back = trace["rear"]
    for paw, (along, across, half) in PAWS.items():
        step = swing * np.sin(stride + np.float32(np.pi * half))
        if paw in (4, 5):
            step = step + groom * (22 + 7 * np.sin(lick + half)) - 4 * rear
            points[paw] = _place(centre, front, size * (along + step), size * across * (1 - 0.6 * groom))
        else:
            points[paw] = _place(centre, back, size * (along + step), size * across)
    wag = np.float32(0.12) * np.sin(stride) * np.minimum(brisk / 4, 1)
    joints = ((9, 6, 40, back), (10, 9, 35, trace["tail_1"] + wag), (11, 10, 35, trace["tail_2"] + 2 * wag))
    for joint, before, bone, angle in joints:
        dx, dy = _polar(-bone * size, angle)
        points[joint] = points[before][0] + dx, points[before][1] + dy
    keypoints = np.stack([np.stack(points[k], -1) for k in range(12)], -2)
    return np.clip(keypoints, 1, ARENA - 1).astype(np.float32)


def track(truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a tracker makes of true keypoints (time, mouse, 12, 2): jitter, swaps, and NaN where it lost them."""
    frames = len(truth)
    jitter = rng.standard_normal(truth.shape, np.float32) * np.float32(0.3)
    jitter *= np.where(rng.random(truth.shape[:3], np.float32) < 0.01, np.float32(6), np.float32(1))[..., None]
    seen = truth + jitter

    def bursts(per_minute: float, longest: int) -> list[slice]:
        starts = rng.integers(0, frames, rng.poisson(per_minute * frames / FPS / 60))
        return [slice(s, s + n) for s, n in zip(starts, rng.integers(2, longest + 1, starts.size), strict=True)]

    for when in bursts(0.7, 5):
        mouse = rng.integers(MICE)
        seen[when, mouse] = seen[when, mouse][:, MIRRORED]
    for when in bursts(0.4, 5):
        mouse = rng.integers(MICE)
        one, other = mouse, (mouse + 1) % MICE
        seen[when, [one, other]] = seen[when, [other, one]]
    for mouse in range(MICE):
        for when in bursts(0.6, 24):
            seen[when, mouse] = np.nan
        for when in bursts(6.0, 8):
            seen[when, mouse, rng.integers(12)] = np.nan
    return seen
