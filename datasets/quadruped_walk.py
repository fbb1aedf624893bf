"""One walk of a simulated quadruped: physics, controller and ground together, and what happens when it falls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from quadruped_gait import TICK, Style, Trot, style
from quadruped_model import ROBOTS, SUBSTEPS, Morphology, xml
from quadruped_terrain import CELL, Cell, Lane, draw

FPS, EVERY = 50.0, round(1 / (50.0 * TICK))
"""Frames per second, and ticks of control per frame."""
SETTLE, AFTER, START, EDGE = 2.5, 1.0, CELL / 2, 1.0
"""Seconds that are not recorded, since a robot starts from rest, and that it must walk on behind the end, so that no
fall has begun there; where it starts, and how far before a cell's edge the cell begins for it, m."""
TRIES, LIMIT, PATIENCE = 4, 60, round(6 / TICK)
"""Falls in a cell before another is drawn, and before giving up; ticks within which a robot must get on."""


@dataclass(frozen=True)
class Plan:
    """What is drawn for one walk before it starts; mass in kg beyond the robot's own."""

    robot: int
    how: Style
    extra: float
    friction: float

    @property
    def morphology(self) -> Morphology:
        """The robot's."""
        return ROBOTS[self.robot]


@dataclass
class Walk:
    """One walk at 50 Hz.

    Attributes
    ----------
    joints, rates: angles and angular velocities (time, 12). trunk: its place and quaternion (time, 7).
    speed: ahead, m/s. down: which feet touch the ground (time, leg). lane: what it walked over.
    falls: how often it fell on what; passed: cells that it crossed, by the same words; redrawn: cells given up.
    """

    plan: Plan
    lane: Lane
    joints: np.ndarray
    rates: np.ndarray
    trunk: np.ndarray
    speed: np.ndarray
    down: np.ndarray
    falls: Counter[str]
    passed: Counter[str]
    redrawn: int


def plan(seed: int, index: int) -> Plan:
    """Robots alternate; all else is drawn from (seed, index)."""
    rng = np.random.default_rng(np.random.SeedSequence((seed, index)))
    robot = index % 2
    how = style(float(rng.uniform(0.5, 1.5)), ROBOTS[robot], rng)
    return Plan(robot, how, float(rng.uniform(-5, 5)), float(rng.uniform(0.8, 1.0)))


def words(cell: Cell) -> str:
    """A cell in a few words, to count falls by."""
    kind = cell.kind.replace("slope", "hill" if cell.hill else "pit")
    return kind if "flat" in kind else f"{kind} {cell.difficulty:g}"


class Course:
    """A robot on its way: physics, controller and what is recorded; goes back to its last cell's edge when it falls."""

    def __init__(
        self, todo: Plan, seconds: float, seed: tuple[int, int], cells: Callable[[int], Cell] | None = None
    ) -> None:
        import mujoco  # the recipe says what it does without

        self.mujoco, self.todo, self.seed = mujoco, todo, seed
        self.frames, self.skip = round(seconds * FPS), round(SETTLE * FPS)
        length = START + todo.how.speed * (SETTLE + seconds + AFTER)
        self.tries = [0] * (int(np.ceil(length / CELL)) + 2)
        self.cells = [(cells or self.drawn)(number) for number in range(len(self.tries))]
        self.falls: Counter[str] = Counter()
        self.rows: list[np.ndarray] = []
        self.kept: list[tuple[int, int, np.ndarray, np.ndarray, dict[str, Any]]] = []
        self.build()
        robot = todo.morphology
        self.data.qpos[:3] = START, 0, robot.height + 0.01 + self.lane.smooth[self.lane.column(START)]
        self.data.qpos[7:] = robot.rest.ravel()
        self.trot = Trot(robot, robot.mass + todo.extra, self.lane, todo.how, todo.friction)
        self.tick = 0
        self.keep()

    def drawn(self, number: int) -> Cell:
        """The cell of that number; another one once it was tried in vain too often."""
        return draw(np.random.default_rng(np.random.SeedSequence((*self.seed, number, self.tries[number] // TRIES, 0))))

    def build(self) -> None:
        """Lane and physics for the present cells."""
        seeds = [(*self.seed, n, tries // TRIES, 1) for n, tries in enumerate(self.tries)]
        self.lane = Lane(self.cells, seeds)
        todo = self.todo
        self.model = self.mujoco.MjModel.from_xml_string(
            xml(todo.morphology, todo.extra, todo.friction, self.lane.xml())
        )
        self.data = self.mujoco.MjData(self.model)

    @property
    def number(self) -> int:
        """Of the cell that it walks in."""
        return len(self.kept) - 1

    def keep(self) -> None:
        """Enter the next cell, and remember this moment, to come back to it after a fall."""
        kind = self.mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.empty(self.mujoco.mj_stateSize(self.model, kind))
        self.mujoco.mj_getState(self.model, self.data, state, kind)
        trot = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in vars(self.trot).items()}
        self.kept.append((self.tick, len(self.rows), state, self.data.sensordata.copy(), trot))
        self.best, self.since = float(self.data.qpos[0]), self.tick

    def back(self) -> None:
        """Return to where the cell began and try it at another stride frequency; or a cell further back, then anew."""
        number = self.number
        self.falls[words(self.cells[number])] += 1
        self.tries[number] += 1
        if self.tries[number] >= LIMIT:
            raise RuntimeError(f"walk {self.seed}: fell {LIMIT} times at cell {number}; use another seed")
        if self.tries[number] % TRIES == 0:
            self.cells[number] = self.drawn(number)
            self.build()
            del self.kept[max(number, 1) :]
        self.tick, rows, state, touch, trot = self.kept[-1]
        del self.rows[rows:]
        self.mujoco.mj_setState(self.model, self.data, state, self.mujoco.mjtState.mjSTATE_INTEGRATION)
        self.data.sensordata[:] = touch
        vars(self.trot).update({k: v.copy() if isinstance(v, np.ndarray) else v for k, v in trot.items()})
        self.trot.lane = self.lane
        rng = np.random.default_rng(np.random.SeedSequence((*self.seed, number, self.tries[number], 2)))
        self.trot.trim = float(rng.uniform(0.3, 1.7))
        self.best, self.since = float(self.data.qpos[0]), self.tick

    def step(self) -> None:
        """One tick of control and physics."""
        data = self.data
        place = data.qpos[:3].copy()
        angles, torques = self.trot.targets(
            place, data.qpos[3:7], data.qvel[:6].copy(), data.qpos[7:].copy(), data.sensordata
        )
        data.ctrl[:12], data.ctrl[12:] = angles, torques
        self.mujoco.mj_step(self.model, data, SUBSTEPS)
        self.tick += 1
        if self.tick % EVERY == 0:
            self.rows.append(np.concatenate([data.qpos, data.qvel, data.sensordata]))

    def fallen(self) -> bool:
        """Whether it lies, left the lane, or does not get on."""
        x, y, z = self.data.qpos[:3].tolist()
        if x > self.best + 0.3:
            self.best, self.since = x, self.tick
        _, a, b, _ = self.data.qpos[3:7].tolist()
        high = z - self.lane.smooth[self.lane.column(x)] if np.isfinite(x) else 0.0
        upright = 1 - 2 * (a * a + b * b) > 0.6
        return not (upright and high > 0.5 * self.trot.height and abs(y) < 0.9 and self.tick - self.since < PATIENCE)

    def walk(self) -> Walk:
        """Go until enough is recorded."""
        end = self.skip + self.frames
        while len(self.rows) < end + round(AFTER * FPS):
            self.step()
            if self.fallen():
                self.back()
            elif self.data.qpos[0] > CELL * (self.number + 1) - EDGE:
                self.trot.trim = 1.0
                self.keep()
        rows = np.array(self.rows[self.skip : end])
        columns = (rows[:, 7:19], rows[:, 25:37], rows[:, :7], rows[:, 19], rows[:, 37:41] > 5)
        crossed = Counter(words(cell) for cell in self.cells[: self.number])
        return Walk(self.todo, self.lane, *columns, self.falls, crossed, sum(n // TRIES for n in self.tries))


def walk(seed: int, index: int, seconds: float) -> Walk:
    """Walk number ``index``: it depends on (seed, index, seconds) alone."""
    return Course(plan(seed, index), seconds, (seed, index)).walk()
