# /// script
# requires-python = ">=3.11"
# dependencies = ["ethoray"]
#
# [tool.uv.sources]
# ethoray = { path = "..", editable = true }
# ///
"""BAMS's simulated quadrupeds: 5,182 walks of two robots over changing terrain, three minutes each.

    python datasets/quadrupeds.py --raw FOLDER --out quadrupeds

Animals: none; ANYmal B (2,756 walks) and ANYmal C (2,426) in a physics simulator, 12 joints (four legs of hip, thigh
and shank), angle and angular velocity, 50 frames per second, 8,999 frames a walk, 259 hours. A joint is a keypoint
whose two coordinates are angle (rad) and angular velocity (rad/s): the input of BAMS's preset "quadruped".
Recording tasks: robot_type, linear_velocity (the commanded one, m/s). Frame tasks: terrain_type (flat, hill, pit,
stairs up, stairs down), terrain_slope, terrain_difficulty.
What to know: the script that labelled the walks measures cells of 12 m from the middle of the first one, so terrain
labels lag behind the robot by half a cell, 6 m. They are kept as published, for scores that can be compared.
Splits: by walk, a fixed random 80 % for train and 20 % for test, as the paper says (the code's README has it the
other way round, which --train .2 gives; the draw itself is ours).
Get robot_dataset.npy from https://github.com/nerdslab/bams_simulated_quadrupeds (many GB, all read into memory).
It is read without running anything in it.
Licence: see the repository. Citation: Azabou et al., Relax, it doesn't matter how you get there: a new
self-supervised approach for multi-timescale behavior analysis, NeurIPS 2023.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ethoray import store
from ethoray.ingest import Part, ingest
from ethoray.readers import ReadError, quadrupeds
from ethoray.schema import Card, Recording, Skeleton

SIZES = {"small": 200, "full": None}
FILE = "robot_dataset.npy"


def card(skeleton: Skeleton, share: float) -> Card:
    """The card of these walks."""
    return Card(
        name="quadrupeds",
        species="quadruped robot (simulated)",
        fps=quadrupeds.FPS,
        skeleton=skeleton,
        tasks=quadrupeds.TASKS,
        split_rule=f"by walk, {100 * share:g} % for train, drawn by the walk's number",
        unit="rad and rad/s",
        licence="see the repository",
        citation="Azabou et al., Relax, it doesn't matter how you get there, NeurIPS 2023",
        source="https://github.com/nerdslab/bams_simulated_quadrupeds",
        simulated=True,
        description=(__doc__ or "").partition("\n\n")[0],
        notes=("terrain labels lag behind the robot by half a cell (6 m), as published",),
    )


def side(name: str, share: float) -> str:
    """Which side of the split a walk is on: decided by its name alone."""
    return "train" if int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) < share * 2**32 else "test"


def recordings(path: Path, share: float, most: int | None) -> Iterator[Recording]:
    """The walks, or so many spread over the whole file, which is sorted by robot and velocity."""
    for walk in quadrupeds.sequences(path, most):
        yield replace(walk, split=side(walk.name, share))


def main() -> None:
    """Write the dataset."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--raw", required=True, type=Path, metavar="FOLDER", help="holds robot_dataset.npy")
    parser.add_argument("--out", required=True, metavar="NAME", help="the dataset's name in the store")
    parser.add_argument("--size", choices=SIZES, default="full", help=f"small: {SIZES['small']} walks")
    parser.add_argument("--root", help="folder or URL of the store (default: $ETHORAY_STORE or store)")
    parser.add_argument("--train", type=float, default=0.8, help="share of walks for training")
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset of that name")
    args = parser.parse_args()
    if not (args.raw / FILE).is_file():
        parser.error(f"{args.raw} lacks {FILE}; the recipe's first lines say where to get it")
    if not 0 < args.train < 1:
        parser.error(f"--train {args.train}: a share is between 0 and 1")
    try:
        walks = recordings(args.raw / FILE, args.train, SIZES[args.size])
        first = next(walks)
        dataset = ingest(
            card(first.skeleton, args.train),
            [Part("walks", lambda: itertools.chain([first], walks))],
            store.place(args.out, args.root),
            overwrite=args.overwrite,
        )
    except (ReadError, store.StoreError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    print(f"{len(dataset.entries)} recordings in {dataset.uri}")


if __name__ == "__main__":
    main()
