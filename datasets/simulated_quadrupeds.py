# /// script
# requires-python = ">=3.11"
# dependencies = ["ethoray", "mujoco==4.0.0"]
#
# [tool.uv.sources]
# ethoray = { path = "..", editable = true }
# ///
"""Simulated quadruped robots that trot over changing ground, in the layout of BAMS's quadrupeds; needs MuJoCo.

    python datasets/simulated_quadrupeds.py --out robots --size small

Animals: none. Two robots near ANYmal B and C in size (quadruped_model.py) trot under a closed-loop controller
(quadruped_gait.py) along a lane of 12 m cells (quadruped_terrain.py): flat, hills, pits, stairs up, stairs down, with
noise or boxes on some. Rigid-body physics by MuJoCo in steps of 5 ms, control at 100 Hz, recorded at 50 Hz: 12 joints,
angle (rad) and angular velocity (rad/s) as the two coordinates of a keypoint, the input of BAMS's preset "quadruped".
Recording tasks: robot_type, linear_velocity (the commanded one, .5 to 1.5 m/s). Frame tasks: terrain_type,
terrain_slope, terrain_difficulty, as in quadrupeds.py but of the cell under the trunk's middle, not half a cell late.
Drawn for each walk: command, +-5 kg in the trunk, friction, cells, and a way to walk; stride frequency grows with the
command but differs by 5 % between walks, so that one look at the legs does not tell the command. The larger robot
stands wider, so that one look does tell the robot, as in BAMS's data (where a linear readout of PCA has 99.7 %).
Falls are discarded: a robot that falls is put back to where it entered the cell and tries it again at another stride
frequency, after four falls over newly drawn ground. So cells where many fall are rarer than drawn, and no stumble
that ends in a fall is seen; reports/quadrupeds/walking.md counts falls by ground. On steep or stepped ground robots
go slower than commanded and step faster.
Splits: by walk; every fifth pair of walks is for test. Two sizes: 120 walks of 40 s, 5,182 of three minutes.
What it is not: BAMS's data, whose controller was learned, nor a model of those robots' motors and meshes.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import quadruped_gait
import quadruped_model
import quadruped_terrain
import quadruped_walk
from quadruped_walk import FPS, Walk, walk

from ethoray import store
from ethoray.readers import quadrupeds
from ethoray.schema import Card, Recording, Skeleton

SIZES = {"small": (120, 40.0), "full": (5182, 180.0)}
BLOCK = 4
SKELETON = Skeleton(quadrupeds.JOINTS)


def split(index: int) -> str:
    """Which side of the split a walk is on: pairs of both robots stay together."""
    return "test" if index // 2 % 5 == 4 else "train"


def recording(index: int, done: Walk) -> Recording:
    """A walk as a recording, with its five labels."""
    return Recording(
        name=f"robot_{index:04d}",
        subject=f"robot_{index:04d}",
        split=split(index),
        fps=FPS,
        skeleton=SKELETON,
        keypoints=np.stack([done.joints, done.rates], -1).astype(np.float32)[:, None],
        individuals=("robot",),
        labels={
            "robot_type": float(done.plan.robot),
            "linear_velocity": done.plan.how.speed,
            **done.lane.labels(done.trunk[:, 0]),
        },
    )


def block(seed: int, start: int, stop: int, seconds: float) -> Iterator[Recording]:
    """Walks ``start`` to ``stop`` as recordings."""
    for index in range(start, stop):
        yield recording(index, walk(seed, index, seconds))


def card(walks: int, seconds: float, seed: int) -> Card:
    """The card of a simulation of so many walks."""
    return Card(
        name="simulated_quadrupeds",
        species="quadruped robot (simulated)",
        fps=FPS,
        skeleton=SKELETON,
        tasks=quadrupeds.TASKS,
        split_rule="by walk: every fifth pair of walks is for test",
        unit="rad and rad/s",
        licence="Apache-2.0",
        source=f"datasets/simulated_quadrupeds.py, seed {seed}, with MuJoCo",
        simulated=True,
        description=(__doc__ or "").partition("\n\n")[0],
        notes=(f"{walks} walks of {seconds:g} s; falls are not among them",),
    )


def main() -> None:
    """Write the dataset."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", metavar="NAME", help="the dataset's name in the store")
    parser.add_argument(
        "--report", type=Path, metavar="FOLDER", help="write a picture and a table of the walks there instead"
    )
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--root", help="folder or URL of the store (default: $ETHORAY_STORE or store)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--walks", type=int, help="instead of the size's number")
    parser.add_argument("--seconds", type=float, help="of a walk, instead of the size's")
    parser.add_argument("--workers", type=int, help="processes (default: one a core)")
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset of that name")
    args = parser.parse_args()
    walks, seconds = SIZES[args.size]
    walks = walks if args.walks is None else args.walks
    seconds = seconds if args.seconds is None else args.seconds
    if walks < 1 or seconds <= 0 or args.seed < 0:
        parser.error(
            f"{walks} walks of {seconds:g} s from seed {args.seed}: simulate something, from a seed of 0 or more"
        )
    if importlib.util.find_spec("mujoco") is None:
        parser.error("needs MuJoCo: pip install mujoco==4.0.0")
    if args.report is not None:
        import quadruped_sheet

        quadruped_sheet.report(args.report, walks, seconds, args.seed)
        return
    if args.out is None:
        parser.error("--out NAME, or --report FOLDER")
    import ray

    from ethoray.ingest import Part, ingest

    for module in (sys.modules[__name__], quadruped_model, quadruped_terrain, quadruped_gait, quadruped_walk):
        ray.cloudpickle.register_pickle_by_value(module)  # workers elsewhere do not have this folder
    starts = range(0, walks, BLOCK)
    parts = [
        Part(
            f"walks from {start}",
            functools.partial(block, args.seed, start, min(start + BLOCK, walks), seconds),
            frames=round(seconds * FPS) * (min(start + BLOCK, walks) - start),
        )
        for start in starts
    ]
    dataset = ingest(
        card(walks, seconds, args.seed),
        parts,
        store.place(args.out, args.root),
        workers=args.workers,
        overwrite=args.overwrite,
    )
    print(f"{len(dataset.entries)} walks of simulated quadrupeds in {dataset.uri}")


if __name__ == "__main__":
    main()
