"""Pictures of the mouse of simulated_video.py: parts with soft edges over a cage, under a lamp that flickers.

A picture is brightness (luma) at full and colour (chroma) at half resolution, as films store them. What moves besides
the mouse is meant to mislead: a screen behind it with drifting bars, a lamp that blinks, a reflection that wanders.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from cage_canvas import DARK, FUR, PINK, Sheet, cone, joined, pixels
from cage_life import FPS, Animal, Life, wander
from cage_mouse import BELT, HEIGHT, WIDTH, Body
from scipy.ndimage import gaussian_filter, gaussian_filter1d

SCREEN = (slice(18, 112), slice(30, 214))
THICK = (0.165, 0.175, 0.125, 0.085, 0.020)
"""Radius of the body at each point of the spine, in body lengths."""


@dataclass(frozen=True)
class Scene:
    """What is in the picture besides the mouse, drawn once a film; time courses are (time,).

    Attributes
    ----------
    wall: (HEIGHT, WIDTH) brightness, 0 to 255. fur: (256, 256) texture of unit variance. belt: (length,) texture.
    bars: phase of the bars on the screen, and ``contrast`` how strong they are.
    light: factor on everything. reflection: (time, 2) where it is. blink: whether the lamp on the wall is on.
    """

    wall: np.ndarray
    fur: np.ndarray
    belt: np.ndarray
    bars: np.ndarray
    contrast: np.ndarray
    light: np.ndarray
    reflection: np.ndarray
    blink: np.ndarray

    @classmethod
    def drawn(cls, frames: int, rng: np.random.Generator) -> Scene:
        """A cage with things in it."""
        y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
        wall = 118 - 0.18 * y + 7 * gaussian_filter(rng.normal(size=y.shape), 9) * 18
        for _ in range(9):  # things on the wall, outside the screen
            cx, cy, r = rng.uniform(0, WIDTH), rng.choice((8.0, 128.0)) + rng.uniform(-10, 10), rng.uniform(4, 13)
            inside = np.clip(r - np.maximum(np.abs(x - cx), np.abs(y - cy) * rng.uniform(0.8, 2)), 0, 1)
            wall += inside * rng.uniform(-45, 45)
        wall[:, :8] *= 0.72
        wall[:, -6:] *= 0.8
        fur = gaussian_filter(rng.normal(size=(256, 256)), (0.7, 2.6), mode="wrap")
        fur += 1.5 * gaussian_filter(rng.normal(size=(256, 256)), (5, 9), mode="wrap") * 3
        belt = gaussian_filter1d(rng.normal(size=1024), 2.5, mode="wrap") * 3 + 0.6 * np.sign(
            np.sin(np.arange(1024) / 163 * 2 * np.pi * 8)
        )
        speed = 3.0 * wander(frames, 1.5, rng)
        spots = np.stack([wander(frames, 4.0, rng) * 50 + WIDTH / 2, wander(frames, 4.0, rng) * 30 + 70], -1)
        dim = 1 + 0.06 * wander(frames, 5.0, rng) + 0.012 * rng.normal(size=frames)
        return cls(
            wall=wall.astype(np.float32),
            fur=(fur / fur.std()).astype(np.float32),
            belt=belt.astype(np.float32),
            bars=2 * np.pi * np.cumsum(speed) / FPS,
            contrast=20 * (0.5 + 0.5 * np.tanh(wander(frames, 2.0, rng))),
            light=np.maximum(dim, 0.6),
            reflection=spots,
            blink=wander(frames, 0.4, rng) > 0.8,
        )


def paint(scene: Scene, body: Body, life: Life, animal: Animal, t: int) -> Sheet:
    """Frame ``t`` without the camera's noise."""
    sheet, unit, tone = Sheet(_backdrop(scene, life, animal, t)), body.size, 255 * animal.tone
    _shadow(sheet, body, t)
    rings = np.linspace(0.026, 0.008, len(body.tail[t])) * unit * animal.tail
    skin = 0.35 * tone + 105
    for leg in (3, 1):  # the far ones
        _leg(sheet, scene, body, t, leg, 0.62 * tone, 0.7 * skin)
    sheet.limb(body.tail[t], tuple(rings), 0.85 * skin, PINK, "tail")
    _ear(sheet, body, animal, t, 0.7 * tone, 0.6 * skin, far=True)
    _trunk(sheet, scene, body, t, tone)
    for leg in (2, 0):
        _leg(sheet, scene, body, t, leg, 0.95 * tone, skin)
    _ear(sheet, body, animal, t, 1.1 * tone, 0.95 * skin, far=False)
    _face(sheet, body, life, t, skin)
    _glass(sheet, scene, t)
    return sheet


def _backdrop(scene: Scene, life: Life, animal: Animal, t: int) -> np.ndarray:
    """Wall, screen and belt."""
    luma = scene.wall.copy()
    rows, columns = SCREEN
    x = np.arange(columns.start, columns.stop, dtype=np.float32)
    luma[rows, columns] += 14 + np.float32(scene.contrast[t]) * np.sin(x * 0.21 - np.float32(scene.bars[t]))
    if scene.blink[t]:
        luma[6:14, 228:238] = 235
    top = round(BELT + animal.camera[1]) - 4
    moved = animal.size * life.way[t]
    along = scene.belt[(np.arange(WIDTH) + round(moved)) % len(scene.belt)]
    deep = np.linspace(1.0, 0.5, HEIGHT - top, dtype=np.float32)[:, None]
    luma[top:] = (92 + 16 * along) * deep
    luma[top : top + 2] *= 1.25
    return luma


def _shadow(sheet: Sheet, body: Body, t: int) -> None:
    ground = body.legs[t, :, 2, 1].max()
    x0, x1 = body.spine[t, 0, 0] - 0.12 * body.size, body.spine[t, 2, 0] + 0.10 * body.size
    points = np.array([[x0, ground + 1], [x1, ground + 1]])
    box = sheet.window(points, 14)
    x, y = pixels(box)
    away = np.maximum(np.maximum(x0 - x, x - x1), 0) / 14
    dark = np.exp(-(away**2) - ((y - ground - 1) / 4) ** 2)
    sheet.luma[box] *= 1 - 0.55 * dark


def _leg(sheet: Sheet, scene: Scene, body: Body, t: int, leg: int, tone: float, skin: float) -> None:
    """Upper and lower leg in fur, then a paw with its toes."""
    unit, points, fore = body.size, body.legs[t, leg], leg < 2
    radii = (0.058, 0.042, 0.024) if fore else (0.095, 0.062, 0.026)
    sheet.limb(points, tuple(r * unit for r in radii), tone, FUR, "body", fur=scene.fur)
    paw = points[2]
    reach = (0.030, 0.006) if fore else (0.062, 0.0)
    toes = paw + np.array([reach[0], reach[1]]) * unit
    heel = paw - np.array([0.008 if fore else 0.040, 0.0]) * unit
    name = ("near_forepaw", "far_forepaw", "near_hindpaw", "far_hindpaw")[leg]
    sheet.limb(np.array([heel, paw, toes]), (0.020 * unit, 0.024 * unit, 0.014 * unit), skin, PINK, name)


def _trunk(sheet: Sheet, scene: Scene, body: Body, t: int, tone: float) -> None:
    """Haunch, back, chest, neck, head and snout as one rounded shape in fur, lit from above."""
    unit, points = body.size, body.spine[t]
    box = sheet.window(points, 0.2 * unit)
    x, y = pixels(box)
    shape: np.ndarray | None = None
    for i in range(4):
        d, _ = cone(x, y, points[i], points[i + 1], THICK[i] * unit, THICK[i + 1] * unit)
        shape = d if shape is None else joined(shape, d, 0.10 * unit)
    assert shape is not None
    depth = np.clip(1 + shape / (0.15 * unit), 0, 1)
    round_ = np.sqrt(np.maximum(1 - depth * depth, 0))
    slope_y, slope_x = np.gradient(shape)
    light = 0.34 + 0.66 * np.clip(0.62 * round_ - 0.72 * slope_y * depth + 0.22 * slope_x * depth, 0, 1)
    c, s = np.cos(body.trunk[t]), np.sin(body.trunk[t])
    px, py = x - points[1, 0], y - points[1, 1]
    u = ((c * px - s * py) * 1.6).astype(np.int32) & 255
    v = ((s * px + c * py) * 1.6).astype(np.int32) & 255
    belly = 1 + 0.25 * np.clip((s * px + c * py) / (0.16 * unit), 0, 1)
    cover = np.clip(0.5 - shape + 0.35 * scene.fur[v, u], 0, 1)
    sheet.lay(box, cover, 1.5 * tone * light * belly * (1 + 0.11 * scene.fur[v, u]), FUR, "body")


def _ear(sheet: Sheet, body: Body, animal: Animal, t: int, tone: float, skin: float, *, far: bool) -> None:
    """A round ear with its inside; the far one looks out behind the head."""
    unit, turn = body.size, body.snout[t]
    axis = np.array([np.cos(turn + 1.9), -np.sin(turn + 1.9)])
    ear = body.face[t, 1] + (np.array([np.cos(turn), -np.sin(turn)]) * 0.055 * unit if far else 0)
    size = animal.ear * unit
    ends = np.stack([ear - 0.020 * size * axis, ear + 0.012 * size * axis])
    sheet.limb(ends, (0.044 * size, 0.052 * size), tone, FUR, "body" if far else "ear")
    sheet.limb(ends, (0.028 * size, 0.036 * size), skin, PINK, "body" if far else "ear", cover=0.85)


def _face(sheet: Sheet, body: Body, life: Life, t: int, skin: float) -> None:
    """Eye with a pupil of its size and a glint, nose, whiskers that sweep."""
    unit, eye, nose, turn = body.size, body.face[t, 0], body.spine[t, 4], float(body.snout[t])
    dot = np.stack([eye, eye + 1e-3])
    for radius, tone in ((0.046, 18.0), (0.038, 120.0), (0.038 * float(life.pupil[t]), 6.0)):
        sheet.limb(dot, (radius * unit,) * 2, tone, DARK, "eye")
    sheet.limb(dot + np.array([0.014, -0.016]) * unit, (0.009 * unit,) * 2, 235.0, DARK, "eye")
    sheet.limb(np.stack([nose - 1e-3, nose]), (0.022 * unit,) * 2, 0.8 * skin, PINK, "nose")
    ahead = np.array([np.cos(turn), -np.sin(turn)])
    pad = nose - 0.045 * unit * ahead
    sweep = np.sin(life.whisk[t]) * (0.12 + 0.45 * life.share[t, 4] + 0.3 * life.share[t, 3])
    for k in (-1, 0, 1):
        angle = turn + 0.9 + 0.45 * k - 1.3 + sweep
        tip = pad + 0.15 * unit * np.array([np.cos(angle), -np.sin(angle)])
        sheet.limb(np.stack([pad, tip]), (0.6, 0.35), 205.0, DARK, None, cover=0.45)


def _glass(sheet: Sheet, scene: Scene, t: int) -> None:
    """A reflection on the front glass, and the lamp."""
    x0, y0 = scene.reflection[t]
    x, y = pixels((slice(0, HEIGHT), slice(0, WIDTH)))
    band = (x - np.float32(x0) + 0.6 * (y - np.float32(y0))) / 9
    sheet.luma += 16 * np.exp(-band * band) * np.exp(-(((y - np.float32(y0)) / 45) ** 2))
    sheet.luma *= np.float32(scene.light[t])


def planes(sheet: Sheet, rng: np.random.Generator) -> np.ndarray:
    """The picture with the camera's noise as uint8 planes (HEIGHT * 3 / 2, WIDTH) of yuv420p."""
    noise = rng.standard_normal(sheet.luma.shape, dtype=np.float32)
    luma = sheet.luma + (1.5 + 0.006 * sheet.luma) * noise
    chroma = [128 + plane.reshape(-1, WIDTH) for plane in (sheet.cb, sheet.cr)]
    return np.clip(np.concatenate([16 + luma * np.float32(219 / 255), *chroma]) + 0.5, 0, 255).astype(np.uint8)


def encode(path: Path, pictures: Iterator[np.ndarray]) -> None:
    """Write pictures (planes of yuv420p) as H.264 with B-frames and a key frame a second."""
    import av

    with av.open(str(path), "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"crf": "20", "preset": "veryfast", "g": str(FPS), "threads": "1"}
        for i, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
