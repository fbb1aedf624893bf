"""One worker and two: steps a second of data-parallel BAMS, and what starting workers and talking between them costs.

python tests/bench/scaling.py

Strong: the same global batch for both. Weak: twice the batch for two. A worker has one thread, so two use two cores;
windows come from memory for one process without Ray, and through Ray Data for workers, as `ethoray train` does it.
"""

import argparse
import tempfile
import time
from pathlib import Path

import ray
import torch

from ethoray import cluster, record, stream
from ethoray.batch import Windows
from ethoray.budget import Budget
from ethoray.experiment import Experiment, run
from ethoray.methods.bams import BAMS
from ethoray.testing import toy_dataset


def measured(experiment: Experiment, folder: Path, workers: int) -> tuple[float, float]:
    """Seconds of a step in the second half of training, and seconds of the rest of the run."""
    started = time.perf_counter()
    if workers:
        cluster.launch(experiment, folder, workers, cpus_per_worker=1)
    else:
        run(experiment, folder)
    wall = time.perf_counter() - started
    lines = record.read_metrics(folder)
    half = lines[len(lines) // 2 - 1]
    step = (lines[-1]["seconds"] - half["seconds"]) / (lines[-1]["step"] - half["step"])
    return step, wall - lines[-1]["seconds"]


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--steps", type=int, default=60)
    words.add_argument("--batch", type=int, default=8)
    asked = words.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        uri = toy_dataset(Path(place) / "mice", recordings=24, seconds=60.0, individuals=3, clip_seconds=60.0).uri
        stream.start_ray(num_cpus=4, object_store_memory=400 << 20, log_to_driver=False)  # Ray Data needs slots too
        rows = {
            "one process, no Ray": (0, asked.batch),
            "1 worker": (1, asked.batch),
            "2 workers, the same batch": (2, asked.batch),
            "2 workers, twice the batch": (2, 2 * asked.batch),
        }
        steps = {}
        print(
            f"{asked.steps} steps of windows of 20 s of 3 mice, BAMS small\n{'':28s}  s a step  windows/s  beside (s)"
        )
        for name, (workers, batch) in rows.items():
            data = Windows(uri, seconds=20.0, batch_size=batch)
            budget = Budget(asked.steps, log_every=5, device="cpu")
            experiment = Experiment(data, BAMS(**BAMS.presets["small"]), (), budget, 0)
            steps[name], beside = measured(experiment, Path(place) / name, workers)
            print(f"{name:28s} {steps[name]:9.3f} {batch / steps[name]:10.1f} {beside:11.1f}", flush=True)
        ray.shutdown()
    one = steps["1 worker"]
    print(f"efficiency of two workers: {one / (2 * steps['2 workers, the same batch']):.2f} with the same batch, "
          f"{one / steps['2 workers, twice the batch']:.2f} with twice the batch")  # fmt: skip


if __name__ == "__main__":
    main()
