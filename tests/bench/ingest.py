"""Preparing datasets: frames and MB a second with one and with two processes, and peak memory against length.

Run by path: ``python tests/bench/ingest.py``; ``--day`` adds the recording of 24 hours. Recordings are noise of four
animals with twelve keypoints at 100 Hz, made piece by piece. Processes are timed by the wall, because Ray's are not
this one's, and interleaved so that a noisy machine is noisy for both; the ratio is the one to look at.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from ethoray.ingest import Part, ingest
from ethoray.schema import Card, Recording, Skeleton

FPS, ANIMALS, POINTS, PIECE = 100.0, 4, 12, 20_000
FRAME_BYTES = ANIMALS * POINTS * 2 * 4
SKELETON = Skeleton(tuple(f"point_{i}" for i in range(POINTS)))
CARD = Card("bench", "noise", FPS, SKELETON, simulated=True)
PARTS, MINUTES, ROUNDS = 4, 30, 3


def make(name: str, frames: int) -> Iterator[Recording]:
    """A random walk of every keypoint, in pieces."""
    rng = np.random.default_rng(len(name))
    walk = rng.normal(size=(PIECE, ANIMALS, POINTS, 2)).astype(np.float32).cumsum(0)
    for start in range(0, frames, PIECE):
        yield Recording(name, name, FPS, SKELETON, walk[: frames - start] + np.float32(start / PIECE), start=start)


def parts(count: int, seconds: float) -> list[Part]:
    frames = round(seconds * FPS)
    return [Part(f"r{i:0{i + 1}d}", partial(make, f"r{i:0{i + 1}d}", frames), frames) for i in range(count)]


def one(folder: str, hours: float) -> None:
    """Write one recording in this process; print seconds and the peak of memory in MB."""
    started = time.perf_counter()
    ingest(CARD, parts(1, 3600 * hours), folder, progress=False)
    print(time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def memory(place: Path, hours: tuple[float, ...]) -> None:
    for length in hours:
        command = [sys.executable, __file__, "--one", str(place / f"{length:g}h"), str(length)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds, peak = (float(word) for word in done.stdout.split()[-2:])
        frames = length * 3600 * FPS
        size = frames * FRAME_BYTES / 2**20
        print(
            f"{length:4g} h  {size:7.0f} MB  {seconds:6.1f} s  {frames / seconds:9,.0f} frames/s  "
            f"{size / seconds:5.0f} MB/s  peak {peak:5.0f} MB"
        )


def speed(place: Path) -> None:
    import ray

    from ethoray.stream import start_ray

    start_ray(num_cpus=2)
    made = parts(PARTS, 60 * MINUTES)
    frames = sum(part.frames for part in made)
    spent: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(ROUNDS + 1):  # the first does not count: workers start
        for workers, seconds in spent.items():
            started = time.perf_counter()
            ingest(CARD, made, place / str(workers), workers=workers, overwrite=True, progress=False)
            if turn:
                seconds.append(time.perf_counter() - started)
    ray.shutdown()
    for workers, seconds in spent.items():
        wall = median(seconds)
        print(
            f"{workers} process{'es' * (workers > 1):2}  {frames / wall:9,.0f} frames/s  "
            f"{frames * FRAME_BYTES / 2**20 / wall:5.0f} MB/s"
        )
    print(f"two processes / one: {median(np.divide(spent[1], spent[2]).tolist()):.2f} times the speed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--day", action="store_true", help="also a recording of 24 hours")
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "HOURS"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        one(asked.one[0], float(asked.one[1]))
        return
    with tempfile.TemporaryDirectory() as place:
        memory(Path(place), (1.0, 4.0, 24.0) if asked.day else (1.0, 4.0))
        speed(Path(place))


if __name__ == "__main__":
    main()
