"""Seconds from a typed command to its first training step: `ethoray train` on a small dataset.

python tests/bench/start.py
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ethoray.record import read_metrics
from ethoray.testing import toy_dataset


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        toy_dataset(folder / "store" / "toy")
        settings = ["--seconds", "8", "--steps", "50", "--set", "warmup=1", "--preset", "small"]
        command = [Path(sys.executable).parent / "ethoray", "train", "toy", "bams", *settings]
        places = {"ETHORAY_STORE": str(folder / "store"), "ETHORAY_RUNS": str(folder / "runs")}
        started = time.time()
        process = subprocess.Popen(command, env={**os.environ, **places}, stdout=subprocess.DEVNULL)
        lines: list[dict[str, float]] = []
        while not lines and process.poll() is None:
            time.sleep(0.02)
            lines = [line for path in (folder / "runs").glob("*/metrics.jsonl") for line in read_metrics(path.parent)]
        waited = time.time() - started
        process.kill()
        process.wait()
        if not lines:
            raise SystemExit("the run ended before its first pause")
        steps, spent = lines[0]["step"], lines[0]["seconds"]
        print(f"ethoray train: first pause, step {steps:.0f}, after {waited:.1f} s")
        print(f"  {spent:.1f} s of it are steps of {spent / steps:.2f} s; start-up {waited - spent:.1f} s")


if __name__ == "__main__":
    main()
