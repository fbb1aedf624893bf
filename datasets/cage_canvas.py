"""Pictures in the making for simulated_video.py: round cones with soft edges, and which part is in front where."""

from __future__ import annotations

import numpy as np
from cage_mouse import HEIGHT, KEYPOINTS, WIDTH

PARTS = ("scene", "tail", "far_hindpaw", "far_forepaw", "body", "eye", "ear", "near_hindpaw", "near_forepaw", "nose")
PINK, FUR, DARK = (-6.0, 12.0), (-5.0, 4.0), (0.0, 0.0)
"""Chroma (Cb, Cr) of skin, fur and eyes."""


class Sheet:
    """A picture in the making: ``luma``, ``cb`` and ``cr`` as float32, and which of PARTS is seen at each pixel."""

    def __init__(self, luma: np.ndarray) -> None:
        self.luma = luma
        half = (HEIGHT // 2, WIDTH // 2)
        self.cb, self.cr = np.full(half, 2.0, np.float32), np.full(half, -2.0, np.float32)
        self.parts = np.zeros((HEIGHT, WIDTH), np.uint8)

    def window(self, points: np.ndarray, margin: float) -> tuple[slice, slice]:
        """Rows and columns around points, from even numbers; empty outside the picture."""
        low, high = points.min(0) - margin, points.max(0) + margin + 2
        x0, y0 = (max(0, int(v) // 2 * 2) for v in low)
        x1, y1 = (int(min(most, max(v, 0))) for most, v in zip((WIDTH, HEIGHT), high, strict=True))
        return slice(y0, max(y1, y0)), slice(x0, max(x1, x0))

    def lay(self, box: tuple[slice, slice], cover: np.ndarray, tone: np.ndarray | float, chroma: tuple[float, float],
            part: str | None) -> None:  # fmt: skip
        """Cover a window, where ``cover`` is 1, with a tone and a colour; a part owns what it covers by half."""
        if not cover.size:
            return
        rows, columns = box
        here = self.luma[box]
        here += cover * (tone - here)
        some = cover[::2, ::2]
        top, left = rows.start // 2, columns.start // 2
        half = (slice(top, top + some.shape[0]), slice(left, left + some.shape[1]))
        for plane, value in zip((self.cb, self.cr), chroma, strict=True):
            plane[half] += some * (value - plane[half])
        if part is not None:
            self.parts[box][cover > 0.5] = PARTS.index(part)

    def limb(self, points: np.ndarray, radii: tuple[float, ...], tone: float, chroma: tuple[float, float],
             part: str | None, cover: float = 1.0, fur: np.ndarray | None = None) -> None:  # fmt: skip
        """A chain of round cones through points (n, 2), lit from above; fur is a texture that goes along."""
        box = self.window(points, max(radii) + 1)
        x, y = pixels(box)
        distance, height = None, None
        for a, b, ra, rb in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True):
            d, up = cone(x, y, a, b, ra, rb)
            if distance is None or height is None:
                distance, height = d, up
            else:
                height = np.where(d < distance, up, height)
                distance = np.minimum(d, distance)
        assert distance is not None and height is not None
        shade = 1 + 0.3 * np.clip(height, -1, 1)
        if fur is not None:
            u, v = ((p * 1.6).astype(np.int32) & 255 for p in (y - points[0, 1] + 90, x - points[0, 0]))
            shade, distance = shade * (1 + 0.11 * fur[u, v]), distance - 0.35 * fur[u, v]
        self.lay(box, cover * np.clip(0.5 - distance, 0, 1), tone * shade, chroma, part)


def pixels(box: tuple[slice, slice]) -> tuple[np.ndarray, np.ndarray]:
    """The x (1, width) and y (height, 1) of a window's pixels."""
    rows, columns = box
    x = np.arange(columns.start, columns.stop, dtype=np.float32)[None]
    return x, np.arange(rows.start, rows.stop, dtype=np.float32)[:, None]


def cone(
    x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray, ra: float, rb: float
) -> tuple[np.ndarray, np.ndarray]:
    """Distance of pixels from a round cone (negative inside), and how far above its axis they are, in radii."""
    px, py, bx, by = x - np.float32(a[0]), y - np.float32(a[1]), float(b[0] - a[0]), float(b[1] - a[1])
    t = np.clip((px * bx + py * by) / max(bx * bx + by * by, 1e-6), 0, 1)
    radius = np.float32(ra) + np.float32(rb - ra) * t
    dx, dy = px - t * bx, py - t * by
    return np.sqrt(dx * dx + dy * dy) - radius, -dy / radius


def joined(one: np.ndarray, other: np.ndarray, soft: float) -> np.ndarray:
    """Union of two distances with a rounded corner of about ``soft`` pixels (polynomial smooth minimum)."""
    near = np.maximum(soft - np.abs(one - other), 0)
    return np.asarray(np.minimum(one, other) - near * near / (4 * soft))


def seen(sheet: Sheet, points: np.ndarray) -> np.ndarray:
    """Whether the part that a keypoint (keypoint, 2) is of is in front at its pixel; not so outside the picture."""
    x, y = np.round(points).astype(int).T
    inside = (x >= 0) & (x < WIDTH) & (y >= 0) & (y < HEIGHT)
    there = sheet.parts[np.clip(y, 0, HEIGHT - 1), np.clip(x, 0, WIDTH - 1)]
    return np.asarray(
        inside & (there == [PARTS.index(name.split("_")[0] if "tail" in name else name) for name in KEYPOINTS])
    )
