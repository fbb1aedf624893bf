"""What the simulated quadrupeds look like and how well they walk: a picture and a table for reports/quadrupeds.

    python datasets/simulated_quadrupeds.py --report reports/quadrupeds

Pictures are drawn by MuJoCo without a screen (MUJOCO_GL=egl, or osmesa where that is installed).
"""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from quadruped_gait import rotation, style
from quadruped_model import FOOT, JOINTS, ROBOTS
from quadruped_terrain import CELL, Cell
from quadruped_walk import FPS, Course, Plan, Walk, walk

SHOWN = {
    "flat": Cell("flat", True, 0.5),
    "hill, slope .36": Cell("slope", True, 0.9),
    "pit, slope .36": Cell("slope", False, 0.9),
    "stairs up, steps of .19 m": Cell("stairs up", True, 0.75),
    "stairs down, steps of .19 m": Cell("stairs down", True, 0.75),
}
SECONDS, SPEED = 20.0, 0.8


def feet(done: Walk) -> np.ndarray:
    """Where the feet were, (time, leg, 3), m."""
    robot = done.plan.morphology
    legs = (
        robot.feet(frame.reshape(4, 3)) @ rotation(pose[3:]).T
        for frame, pose in zip(done.joints, done.trunk, strict=True)
    )
    found: np.ndarray = np.array(list(legs)) + done.trunk[:, None, :3]
    return found


def shown(robot: int, cell: Cell) -> tuple[Course, Walk]:
    """A walk over such cells."""
    todo = Plan(robot, style(SPEED, ROBOTS[robot], np.random.default_rng(3)), 0.0, 0.9)
    course = Course(todo, SECONDS, (1, robot), lambda number: cell if number else Cell("flat", True, 0.5))
    return course, course.walk()


def photograph(course: Course, done: Walk, frame: int) -> np.ndarray:
    """The robot in its place at a frame, (height, width, 3)."""
    mujoco = course.mujoco
    course.data.qpos[:7], course.data.qpos[7:] = done.trunk[frame], done.joints[frame]
    mujoco.mj_forward(course.model, course.data)
    camera = mujoco.MjvCamera()
    camera.lookat[:] = done.trunk[frame, :3] - (0, 0, 0.15)
    camera.distance, camera.azimuth, camera.elevation = 2.3, 62, -10
    with mujoco.Renderer(course.model, 360, 480) as renderer:
        renderer.update_scene(course.data, camera)
        return np.array(renderer.render())


def sheet(path: Path) -> None:
    """Both robots on each terrain; for the smaller one also foot traces and joint angles there."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(5, len(SHOWN), figsize=(18, 12), height_ratios=(2.6, 2.4, 2, 1.5, 1.5))
    for column, (name, cell) in enumerate(SHOWN.items()):
        for robot in (0, 1):
            course, done = shown(robot, cell)
            frame = int(np.argmax(done.trunk[:, 0] > CELL + 3))
            axes[robot, column].imshow(photograph(course, done, frame))
            axes[robot, column].set_axis_off()
            axes[robot, column].set_title(
                f"{name}\n{ROBOTS[robot].name}" if not robot else ROBOTS[robot].name, fontsize=10
            )
            if not robot:
                strips(axes[2:, column], done, slice(frame - 75, frame + 75))
    for row, label in enumerate(("height (m)", "LF angle (rad)", "LF velocity (rad/s)"), 2):
        axes[row, 0].set_ylabel(label)
    figure.tight_layout()
    figure.savefig(path, dpi=70)


def strips(axes: Any, done: Walk, when: slice) -> None:
    """Side view with the trunk's and two feet's traces, then angles and velocities of one leg."""
    traces, trunk = feet(done)[when], done.trunk[when]
    ground = np.arange(trunk[0, 0] - 0.5, trunk[-1, 0] + 0.5, 0.01)
    middle = done.lane.heights[len(done.lane.heights) // 2]
    axes[0].fill_between(
        ground, middle[done.lane.index(ground)], middle[done.lane.index(ground)].min() - 0.3, color=".8"
    )
    axes[0].plot(trunk[:, 0], trunk[:, 2], color="k", lw=1, label="trunk")
    for leg, colour in ((0, "C3"), (3, "C0")):
        axes[0].plot(traces[:, leg, 0], traces[:, leg, 2] - FOOT, color=colour, lw=1, label=JOINTS[3 * leg][:2])
    draw_legs(axes[0], done, traces, when)
    axes[0].set_aspect("equal", adjustable="datalim")
    axes[0].set_xlabel("along the lane (m)")
    axes[0].legend(fontsize=7, loc="lower right")
    seconds = np.arange(len(trunk)) / FPS
    for joint in range(3):
        axes[1].plot(seconds, done.joints[when, joint], lw=1, label=JOINTS[joint][3:])
        axes[2].plot(seconds, done.rates[when, joint], lw=0.7)
    axes[1].legend(fontsize=7, loc="upper right")
    axes[2].set_xlabel("time (s)")


def draw_legs(axis: Any, done: Walk, traces: np.ndarray, when: slice) -> None:
    """The left legs as sticks at a few moments."""
    robot = done.plan.morphology
    for frame in range(0, len(traces), 25):
        pose, joints = done.trunk[when][frame], done.joints[when][frame].reshape(4, 3)
        turn = rotation(pose[3:])
        for leg in (0, 1):
            hip = robot.hips[leg] + (0, robot.offset, 0)
            knee = hip - robot.thigh * np.array([np.sin(joints[leg, 1]), 0, np.cos(joints[leg, 1])])
            line = np.array([pose[:3] + turn @ hip, pose[:3] + turn @ knee, traces[frame, leg]])
            axis.plot(line[:, 0], line[:, 2] - FOOT * (np.arange(3) == 2), color="C2", lw=0.8)
        ends = pose[:3] + robot.hips[:2] @ turn.T
        axis.plot(ends[:, 0], ends[:, 2], color="C2", lw=1.5)


def numbers(walks: int, seconds: float, seed: int) -> str:
    """Speed, duty factor, stride frequency, falls and time of so many walks, as Markdown."""
    rows, redrawn, spent = [], 0, 0.0
    falls: Counter[str] = Counter()
    passed: Counter[str] = Counter()
    for index in range(walks):
        start = time.process_time()
        done = walk(seed, index, seconds)
        spent += time.process_time() - start
        falls, passed, redrawn = falls + done.falls, passed + done.passed, redrawn + done.redrawn
        even = done.lane.hard[done.lane.index(done.trunk[:, 0] + np.linspace(-1, 2, 7)[:, None])].max(0) == 0
        strides = (np.diff(done.down.astype(int), axis=0) == 1)[even[1:]].sum() / 4
        pace = done.speed[even].mean() if even.any() else np.nan
        hertz = strides * FPS / even.sum() if even.any() else np.nan
        rows.append([done.plan.robot, done.plan.how.speed, pace, done.down.mean(), hertz, done.speed.mean()])
    table = np.array(rows)
    heads = (
        "command, m/s",
        "walks",
        "speed on even ground",
        "error",
        "speed over all",
        "feet down",
        "strides a second, even",
    )
    text = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for low, high in ((0.5, 0.75), (0.75, 1.0), (1.0, 1.25), (1.25, 1.5)):
        some = table[(table[:, 1] >= low) & (table[:, 1] < high)]
        if len(some):
            error = np.nanmean(np.abs(some[:, 2] / some[:, 1] - 1))
            pace = f"{np.nanmean(some[:, 2]):.2f} of {some[:, 1].mean():.2f}"
            text.append(
                f"| {low:g} to {high:g} | {len(some)} | {pace} | {error:.1%} | "
                f"{some[:, 5].mean():.2f} | {some[:, 3].mean():.2f} | {np.nanmean(some[:, 4]):.2f} |"
            )
    text += ["", "| ground | crossed | falls | falls an attempt |", "|---|---|---|---|"]
    for kind in sorted(falls | passed):
        share = falls[kind] / (falls[kind] + passed[kind])
        text.append(f"| {kind} | {passed[kind]} | {falls[kind]} | {share:.0%} |")
    total, crossed, rate = falls.total(), passed.total(), walks * seconds / spent
    last = (
        f"{walks} walks of {seconds:g} s, seed {seed}: {total} falls in {total + crossed} attempts at a cell, "
        f"{redrawn} cells drawn anew; {spent / walks:.1f} CPU-seconds a walk, "
        f"{rate:.0f} times real time on one core."
    )
    return "\n".join([*text, "", last]) + "\n"


def report(folder: Path, walks: int, seconds: float, seed: int) -> None:
    """Write walking.md, from so many walks, and walking.png."""
    os.environ.setdefault("MUJOCO_GL", "egl")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "walking.md").write_text(numbers(walks, seconds, seed), encoding="utf-8")
    sheet(folder / "walking.png")
