"""Ray Data against the resident stream: windows a second, and seconds from command to first batch.

Run by path: ``python tests/bench/stream.py``. Both streams give the same batches of a dataset made for this.
CPU seconds are those of this process; what Ray's own processes spend shows in the wall time only.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ethoray import store, stream
from ethoray.batch import Windows
from ethoray.schema import Card, Recording, Skeleton

RECORDINGS, FRAMES, FPS, STEPS, BATCH = 48, 3600, 30.0, 120, 16
SKELETON = Skeleton(tuple(f"point_{i}" for i in range(12)))


def make(folder: Path) -> store.Dataset:
    rng = np.random.default_rng(0)
    card = Card("bench", "noise", FPS, SKELETON, simulated=True)
    shape = (FRAMES, 3, 12, 2)
    recordings = (Recording(f"r{i}", f"s{i}", FPS, SKELETON, rng.normal(size=shape)) for i in range(RECORDINGS))
    return store.prepare(card, recordings, folder)


def measure(folder: str, kind: str, started: float) -> None:
    """Print seconds to the first batch, then windows a second by wall and by CPU time."""
    windows = Windows(folder, seconds=30.0, batch_size=BATCH, stream=kind)
    batches = stream.open_stream(windows, store.open(folder), seed=0, steps=STEPS + 1)
    batches(0)
    first = time.time() - started
    wall, cpu = time.perf_counter(), time.process_time()
    for step in range(1, STEPS + 1):
        batches(step)
    count = STEPS * BATCH
    print(first, count / (time.perf_counter() - wall), count / (time.process_time() - cpu))


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = str(make(Path(place) / "bench").uri)
        found = {}
        for kind in ("resident", "ray"):
            command = [sys.executable, __file__, folder, kind, str(time.time())]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[kind] = [float(word) for word in done.stdout.split()[-3:]]
            first, wall, cpu = found[kind]
            print(f"{kind:9} first batch after {first:5.1f} s, {wall:8.0f} windows/s, {cpu:8.0f} per CPU second here")
        first, wall, cpu = np.divide(found["ray"], found["resident"])
        print(f"ray / resident: first batch {first:.2f}, windows/s {wall:.3f}, windows per CPU second here {cpu:.3f}")


if __name__ == "__main__":
    if len(sys.argv) == 4:
        measure(sys.argv[1], sys.argv[2], float(sys.argv[3]))
    else:
        main()
