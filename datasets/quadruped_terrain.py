"""What the simulated quadrupeds walk over: a row of square cells, each with its ground, as BAMS's data have it.

Cells are 12 m long. Kinds and their shares: slopes .15 (half of them hills, half pits), rough slopes .15, stairs down
.15, stairs up .15, boxes .2, flat .1, rough flat .1; difficulty is .5, .75 or .9 and gives the slope (.4 d), the height
of steps (.05 + .18 d, treads of .31 m), of boxes (.05 + .2 d); roughness is +-.05 m. A hill and ascending stairs
rise to a platform of 3 m in the cell's middle and fall behind it; pits and descending stairs are those upside down.
Labels are those of the cell under the trunk's middle: a slope of at most .21 counts as flat; flat ground has
difficulty .1, rough flat .2; the slope is negative where the ground falls, and for stairs is the height of a step.
Only a lane around the cells' middle line is made, on which slopes and stairs run along x alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CELL, PLATFORM, TREAD = 12.0, 3.0, 0.31
ALONG, ACROSS, ROWS = 0.03, 0.3, 8
"""Spacing of the height grid along and across the lane, m, and its rows."""
HALF_WIDTH = ACROSS * ROWS / 2
LEAD = 6.0
"""Flat ground before the first cell and behind the last, m."""
THICK = 0.6
FLAT, HILL, PIT, STAIRS_UP, STAIRS_DOWN = range(5)
DIFFICULTIES = (0.5, 0.75, 0.9)
KINDS = ("slope", "rough slope", "stairs down", "stairs up", "boxes", "flat", "rough flat")
SHARES = (0.15, 0.15, 0.15, 0.15, 0.2, 0.1, 0.1)
ROUGHNESS, GENTLE = 0.05, 0.21


@dataclass(frozen=True)
class Tile:
    """A flat piece of ground between x and ``end``, ``right`` and ``left``, that runs from height ``z`` to ``far``."""

    x: float
    end: float
    right: float
    left: float
    z: float
    far: float

    def at(self, x: np.ndarray) -> np.ndarray:
        """Height above places along it."""
        return self.z + (self.far - self.z) * (x - self.x) / (self.end - self.x)

    def broken(self, rng: np.random.Generator) -> list[Tile]:
        """Ramps of about 0.4 m in its place, on the left and on the right, whose ends are lifted at random."""
        count = round((self.end - self.x) / 0.4)
        cuts = np.linspace(self.x, self.end, count + 1)
        heights = self.at(cuts) + rng.uniform(-ROUGHNESS, ROUGHNESS, (2, count + 1))
        heights[:, [0, -1]] = self.z, self.far
        sides = ((self.right, 0.0), (0.0, self.left))
        return [
            Tile(float(cuts[i]), float(cuts[i + 1]), right, left, float(z[i]), float(z[i + 1]))
            for (right, left), z in zip(sides, heights, strict=True)
            for i in range(count)
        ]

    def xml(self, shift: float) -> str:
        """A box below it as MJCF, moved along x."""
        rise, run = self.far - self.z, self.end - self.x
        angle = -math.atan2(rise, run)
        x = (self.x + self.end) / 2 + shift - THICK * math.sin(angle)
        z = (self.z + self.far) / 2 - THICK * math.cos(angle)
        y, width = (self.right + self.left) / 2, (self.left - self.right) / 2
        turn = f' euler="0 {angle:.6f} 0"' if rise else ""
        return (
            f'<geom class="ground" type="box" size="{math.hypot(rise, run) / 2:.5f} {width:.4f} {THICK}" '
            f'pos="{x:.5f} {y:.4f} {z:.5f}"{turn}/>'
        )


@dataclass(frozen=True)
class Cell:
    """One cell: its kind, whether a slope is a hill, its difficulty, and the labels that follow."""

    kind: str
    hill: bool
    difficulty: float

    @property
    def rough(self) -> bool:
        """Whether noise lies on the ground."""
        return self.kind.startswith("rough")

    @property
    def steepness(self) -> float:
        """Of the first half: rise over run of slopes, height of a step of stairs, negative where it falls."""
        if self.kind.endswith("slope"):
            return (0.4 if self.hill else -0.4) * self.difficulty
        if self.kind.startswith("stairs"):
            return (1 if self.kind == "stairs up" else -1) * (0.05 + 0.18 * self.difficulty)
        return 0.0

    @property
    def terrain(self) -> int:
        """The class: FLAT, HILL, PIT, STAIRS_UP or STAIRS_DOWN."""
        if self.kind.startswith("stairs"):
            return STAIRS_UP if self.kind == "stairs up" else STAIRS_DOWN
        if not self.kind.endswith("slope") or abs(self.steepness) <= GENTLE:
            return FLAT
        return HILL if self.hill else PIT

    @property
    def graded(self) -> float:
        """The label of difficulty."""
        return {"flat": 0.1, "rough flat": 0.2}.get(self.kind, self.difficulty)

    def tiles(self, rng: np.random.Generator) -> list[Tile]:
        """The ground of this cell's lane, from x = 0 to 12 m."""
        if self.kind.startswith("stairs"):
            return self._stairs()
        if self.kind == "boxes":
            return self._boxes(rng)
        side = (CELL - PLATFORM) / 2
        top = self.steepness * side
        parts = [
            Tile(0, side, -HALF_WIDTH, HALF_WIDTH, 0, top),
            Tile(side, side + PLATFORM, -HALF_WIDTH, HALF_WIDTH, top, top),
            Tile(side + PLATFORM, CELL, -HALF_WIDTH, HALF_WIDTH, top, 0),
        ]
        return [piece for part in parts for piece in part.broken(rng)] if self.rough else parts

    def _stairs(self) -> list[Tile]:
        steps = int((CELL - PLATFORM) / 2 / TREAD)
        edges = TREAD * np.arange(steps + 1)
        starts = [*edges, *(CELL - edges[:0:-1])]
        ends = [*edges[1:], CELL - edges[-1], *(CELL - edges[-2::-1])]
        level = [*range(steps + 1), *range(steps - 1, -1, -1)]
        heights = [self.steepness * n for n in level]  # the first riser is one tread from the edge
        return [
            Tile(float(a), float(b), -HALF_WIDTH, HALF_WIDTH, z, z)
            for a, b, z in zip(starts, ends, heights, strict=True)
        ]

    def _boxes(self, rng: np.random.Generator) -> list[Tile]:
        columns = round(CELL / ACROSS)
        ground = np.zeros((ROWS, columns))
        x, y = ACROSS * (np.arange(columns) + 0.5), ACROSS * (np.arange(ROWS) + 0.5) - HALF_WIDTH
        for _ in range(20):  # in the whole cell; few reach the lane
            size = rng.uniform(1, 2, 2)
            left, bottom = rng.uniform(0, CELL - size[0]), rng.uniform(-CELL / 2, CELL / 2 - size[1])
            inside = np.ix_((y >= bottom) & (y < bottom + size[1]), (x >= left) & (x < left + size[0]))
            ground[inside] = (0.05 + 0.2 * self.difficulty) * rng.choice([-1, -0.5, 0.5, 1])
        ground[:, np.abs(x - CELL / 2) < PLATFORM / 2] = 0
        tiles = []
        for row, line in enumerate(ground):
            cuts = [0, *(np.flatnonzero(np.diff(line)) + 1).tolist(), columns]
            bottom = float(y[row]) - ACROSS / 2
            tiles += [
                Tile(ACROSS * a, ACROSS * b, bottom, bottom + ACROSS, float(line[a]), float(line[a]))
                for a, b in itertools.pairwise(cuts)
            ]
        return tiles


def draw(rng: np.random.Generator) -> Cell:
    """A cell by the shares above."""
    kind = KINDS[int(rng.choice(len(KINDS), p=SHARES))]
    return Cell(kind, bool(rng.integers(2)), DIFFICULTIES[int(rng.integers(len(DIFFICULTIES)))])


class Lane:
    """Cells in a row; x = 0 is the first cell's edge, flat ground lies before and behind.

    Attributes
    ----------
    cells: in walking order, each with a seed for its noise and boxes.
    tiles: their ground and how far along x each is moved.
    heights: (y, x) on the grid of ``ALONG`` and ``ACROSS``, m; ``origin`` is the x of its first column.
    smooth: mean height around each column over ``span`` m, and ``lean`` its slope: what a trunk should follow.
    unfit: how near a point is to an edge, as the difference of heights around it beyond a slope's, m.
    """

    def __init__(self, cells: Sequence[Cell], seeds: Sequence[Sequence[int]], span: float = 0.7) -> None:
        self.cells = tuple(cells)
        self.origin = -LEAD
        end = CELL * len(cells)
        lead = Tile(0, LEAD, -HALF_WIDTH, HALF_WIDTH, 0, 0)
        self.tiles = [(lead, -LEAD), (lead, end)]
        for number, (cell, seed) in enumerate(zip(cells, seeds, strict=True)):
            rng = np.random.default_rng(np.random.SeedSequence(seed))
            self.tiles += [(tile, CELL * number) for tile in cell.tiles(rng)]
        self.columns = round((2 * LEAD + end) / ALONG)
        self.heights = np.zeros((ROWS, self.columns))
        x = self.origin + ALONG * (np.arange(self.columns) + 0.5)
        for tile, shift in self.tiles:
            along = slice(*np.searchsorted(x, (tile.x + shift, tile.end + shift)).tolist())
            rows = slice(round((tile.right + HALF_WIDTH) / ACROSS), round((tile.left + HALF_WIDTH) / ACROSS))
            self.heights[rows, along] = tile.at(x[along] - shift)
        self.smooth = _average(self.heights[ROWS // 2 - 1 : ROWS // 2 + 1].mean(0), round(span / ALONG / 2))
        self.lean = _average(np.gradient(self.smooth, ALONG), 4)
        padded = np.pad(self.heights, ((0, 0), (2, 2)), "edge")
        around = np.stack([padded[:, k : k + self.columns] for k in range(5)])
        edges = _average(np.abs(np.diff(self.heights, axis=1, append=self.heights[:, -1:])).mean(0), round(0.6 / ALONG))
        climb = np.maximum(edges / ALONG - 0.12, 0) * 1.9
        self.hard = np.clip(climb, 0, 1)
        self.unfit = np.maximum(np.ptp(around, 0) - 0.055, 0)

    def column(self, x: float) -> int:
        """The column of the grid at x."""
        return min(max(int((x - self.origin) / ALONG), 0), self.columns - 1)

    def index(self, x: np.ndarray) -> np.ndarray:
        """The columns of the grid at x."""
        return np.minimum(np.maximum((x - self.origin) / ALONG, 0), self.columns - 1).astype(np.intp)

    def row(self, y: np.ndarray) -> np.ndarray:
        """The rows of the grid at y."""
        return np.minimum(np.maximum((y + HALF_WIDTH) / ACROSS, 0), ROWS - 1).astype(np.intp)

    def labels(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Terrain class, slope and difficulty, float32, where the trunk's middle is at ``x``."""
        number = np.clip(np.floor(x / CELL).astype(int), 0, len(self.cells) - 1)
        sign = np.where(x - CELL * number < CELL / 2, 1, -1)
        table = np.array([(c.terrain, c.steepness, c.graded) for c in self.cells])[number]
        columns = (table[:, 0], sign * table[:, 1], table[:, 2])
        names = ("terrain_type", "terrain_slope", "terrain_difficulty")
        return {n: c.astype(np.float32) for n, c in zip(names, columns, strict=True)}

    def xml(self) -> str:
        """The ground as MJCF geoms."""
        return "".join(tile.xml(shift) for tile, shift in self.tiles)


def _average(line: np.ndarray, half: int) -> np.ndarray:
    """Moving average over 2 half + 1 columns, the ends repeated."""
    window = np.ones(2 * half + 1) / (2 * half + 1)
    return np.convolve(np.pad(line, half, "edge"), window, "valid")
