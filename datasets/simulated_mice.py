# /// script
# requires-python = ">=3.11"
# dependencies = ["ethoray"]
#
# [tool.uv.sources]
# ethoray = { path = "..", editable = true }
# ///
"""Simulated triplets of mice in MABe's layout, with its thirteen tasks.

    python datasets/simulated_mice.py --out mice --size small

Animals: none. Three simulated mice share an 850 x 850 px arena, twelve keypoints each, 30 frames per second, one
minute a recording. Each mouse is a semi-Markov machine (rest, groom, walk, run, rear, approach, chase, watch,
investigate, huddle, flee; see mouse_model.py) whose body follows as a chain (mouse_body.py).
Groups: three mice are one subject and give four recordings; every third group is for test.
Recording tasks: strain (by group), lights, experiment_day (0, 1/4 ... 1) and time_of_day (0 to 1) shift habits:
how often and how long a mouse grooms, rests or runs, how fast bouts are, how quick are steps and scans. Each bout
varies about as much as the factors shift it: a second tells something, a minute far more. Body size tells nothing.
Frame tasks: the nine rules of ethoray.social on the true pose, before tracking errors.
Tracking errors: jitter, lost keypoints, lost mice, left-right and identity swaps for a few frames; lost is NaN.
What it is not: evidence about mice. The factors are not biology and the numbers are not MABe's; it serves to test
methods, timescales and the platform.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import mouse_body
import mouse_model
import numpy as np

from ethoray import store
from ethoray.geometry import MOUSE_KEYPOINTS
from ethoray.ingest import Part, ingest
from ethoray.schema import Card, Recording, Skeleton, Task
from ethoray.social import RULES, behaviours

FRAMES, CLIPS_A_GROUP, BLOCK = 1800, 4, 40
SIZES = {"small": 480, "full": 5336}

SKELETON = Skeleton(
    keypoints=MOUSE_KEYPOINTS,
    bones=((0, 1), (0, 2), (1, 3), (2, 3), (0, 3), (3, 4), (3, 5), (3, 6), (6, 7), (6, 8), (6, 9), (9, 10), (10, 11)),
    front="nose",
    back="tail_base",
)
TASKS = (
    Task("experiment_day", "regression", "recording", metric="mse"),
    Task("time_of_day", "regression", "recording", metric="mse"),
    Task("strain", "binary", "recording"),
    *(Task(name) for name in RULES),
    Task("lights", "binary", "recording"),
)


def card(recordings: int, seed: int) -> Card:
    """The card of a simulation of so many recordings."""
    return Card(
        name="simulated_mice",
        species="mouse (simulated)",
        fps=mouse_model.FPS,
        skeleton=SKELETON,
        tasks=TASKS,
        split_rule="by group of three mice: every third group is for test",
        licence="Apache-2.0",
        source=f"datasets/simulated_mice.py, seed {seed}",
        simulated=True,
        description=(__doc__ or "").partition("\n\n")[0]
        + " No animal was recorded: behaviour is a semi-Markov model, frame labels are rules on the true pose, and "
        "recording labels are factors that shift slow habits. It tests methods and is no evidence about mice.",
        notes=(f"{recordings} recordings of {FRAMES} frames", "about 2 % of mouse-frames miss a keypoint (NaN)"),
    )


def group(index: int) -> int:
    """The group of three mice that recording ``index`` shows."""
    return index // CLIPS_A_GROUP


def split(index: int) -> str:
    """Which side of the split a recording is on, with its whole group."""
    return "test" if group(index) % 3 == 2 else "train"


def factors(index: int, rng: np.random.Generator) -> mouse_model.Factors:
    """Strain alternates between groups and lights within one, on both sides of the split; day and time are drawn."""
    return mouse_model.Factors(
        strain=group(index) % 2,
        lights=(index + group(index) // 2) % 2,
        day=float(rng.integers(5)) / 4,
        time=float(np.float32(rng.random())),
    )


def simulate(indices: Sequence[int], seed: int, frames: int = FRAMES) -> list[Recording]:
    """Recordings by their index; each depends on (seed, index) alone, whatever it is simulated together with."""
    streams = [np.random.default_rng(np.random.SeedSequence((seed, index))) for index in indices]
    hidden = [factors(index, rng) for index, rng in zip(indices, streams, strict=True)]
    habits = [mouse_model.traits(f, rng) for f, rng in zip(hidden, streams, strict=True)]
    triplets = mouse_model.Triplets(habits, [mouse_model.chance(frames, rng) for rng in streams])
    truth = mouse_body.pose(triplets.run(), triplets.habit["size"])
    return [
        recording(index, f, truth[:, row], rng)
        for row, (index, f, rng) in enumerate(zip(indices, hidden, streams, strict=True))
    ]


def recording(index: int, hidden: mouse_model.Factors, truth: np.ndarray, rng: np.random.Generator) -> Recording:
    """One recording: the true pose (time, mouse, 12, 2) labelled, then seen by a tracker."""
    return Recording(
        name=f"group_{group(index):04d}_clip_{index % CLIPS_A_GROUP}",
        subject=f"group_{group(index):04d}",
        split=split(index),
        fps=mouse_model.FPS,
        skeleton=SKELETON,
        keypoints=mouse_body.track(truth, rng),
        individuals=("mouse_0", "mouse_1", "mouse_2"),
        labels={
            "experiment_day": hidden.day,
            "time_of_day": hidden.time,
            "strain": float(hidden.strain),
            "lights": float(hidden.lights),
            **{name: found.astype(np.float32) for name, found in behaviours(truth, mouse_model.FPS).items()},
        },
    )


def parts(recordings: int, seed: int) -> list[Part]:
    """All recordings in order, a block a part; changed code makes them again."""
    code = b"".join(Path(str(path)).read_bytes() for path in (__file__, mouse_model.__file__, mouse_body.__file__))
    stamp = hashlib.sha256(code).hexdigest()
    blocks = [range(start, min(start + BLOCK, recordings)) for start in range(0, recordings, BLOCK)]
    return [Part(f"recordings {b[0]} to {b[-1]}", partial(simulate, b, seed), len(b) * FRAMES, stamp) for b in blocks]


def main() -> None:
    """Write the dataset."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", required=True, metavar="NAME", help="the dataset's name in the store")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--root", help="folder or URL of the store (default: $ETHORAY_STORE or store)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recordings", type=int, help="instead of the size's number")
    parser.add_argument("--workers", type=int, help="processes (default: one a core where it pays)")
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset of that name")
    args = parser.parse_args()
    recordings = SIZES[args.size] if args.recordings is None else args.recordings
    if recordings < 1:
        parser.error(f"--recordings {recordings}: simulate at least one")
    if args.seed < 0:
        parser.error(f"--seed {args.seed}: a seed is not negative")
    if args.workers != 1:
        import ray

        for module in (mouse_model, mouse_body):  # processes elsewhere do not have this folder
            ray.cloudpickle.register_pickle_by_value(module)
    try:
        dataset = ingest(
            card(recordings, args.seed),
            parts(recordings, args.seed),
            store.place(args.out, args.root),
            workers=args.workers,
            overwrite=args.overwrite,
        )
    except store.StoreError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    print(f"{len(dataset.entries)} recordings of simulated mice in {dataset.uri}")


if __name__ == "__main__":
    main()
