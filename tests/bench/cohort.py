"""A sweep of BAMS's alpha as one cohort, against the same trials one after the other in one process.

    python tests/bench/cohort.py                      # 8 candidates of 2 and of 20 steps, windows of 60 s
    python tests/bench/cohort.py --candidates 24 --steps 2 20 100

CPU-seconds of one thread for whole trials: training, embedding every recording, probing, writing the run folder,
on 12 toy recordings of three mice for a minute. Trials alone are the ideal of a sweep: one process, data loaded
already, no Ray. Candidates are eight alphas of each seed; only some are timed alone, as they all do the same. Then
one training step alone and stacked (torch.func.vmap), which decides what ``way="auto"`` takes.
"""

import argparse
import logging
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median

import torch

from ethoray import cohort
from ethoray.batch import Windows
from ethoray.budget import Budget
from ethoray.cohort.lockstep import costs
from ethoray.cohort.stacking import Stack, StackError
from ethoray.experiment import Experiment, run
from ethoray.methods.bams import BAMS
from ethoray.methods.pointnet import PointNet
from ethoray.methods.ts2vec import TS2Vec
from ethoray.probes.linear import Linear
from ethoray.testing import toy_dataset, toy_spec, toy_stream

ALPHAS = (0.05, 0.15, 0.3, 0.5, 1.0, 2.0, 4.0, 8.0)


def experiments(uri: str, steps: int, candidates: int) -> list[Experiment]:
    """Eight alphas of a seed, then those of the next."""
    data, budget = Windows(uri, seconds=60.0), Budget(steps, device="cpu")
    return [
        Experiment(data, BAMS(**{**BAMS.presets["small"], "alpha": alpha}), (Linear(),), budget, seed)
        for seed in range(-(-candidates // len(ALPHAS)))
        for alpha in ALPHAS
    ][:candidates]


def sweep(uri: str, steps: int, candidates: int, alone: int) -> None:
    made = experiments(uri, steps, candidates)
    with tempfile.TemporaryDirectory() as place:
        run(experiments(uri, 1, 1)[0], Path(place) / "first")  # loads data and libraries
        apart = []
        for index, experiment in enumerate(made[:alone]):
            started = time.process_time()
            run(experiment, Path(place) / "alone" / str(index))
            apart.append(time.process_time() - started)
        started = time.process_time()
        outcomes = cohort.train([(e, Path(place) / "cohort" / str(i)) for i, e in enumerate(made)])
        together = (time.process_time() - started) / candidates
    if any(o.error for o in outcomes):
        raise SystemExit(f"a candidate failed: {next(o.error for o in outcomes if o.error)}")
    each, ways = median(apart), ", ".join(sorted({o.way for o in outcomes}))
    print(f"  {steps:5d} steps  {each:8.2f} s {together:8.2f} s   {each / together:5.2f} x   ({ways})", flush=True)


def stacked(name: str, methods: list, seconds: float) -> None:
    """One step of eight learners apart and together."""
    spec = toy_spec(seconds=seconds, fps=30.0, individuals=3)
    learners = []
    for method in methods:
        torch.manual_seed(0)
        learners.append(method.build(spec))
    try:
        together, apart = costs(Stack(learners), toy_stream(spec, 4), Budget(device="cpu"), 0)
    except StackError as error:
        print(f"  {name:9s} {seconds:3g} s   {error!s:.90}", flush=True)
        return
    print(f"  {name:9s} {seconds:3g} s {1e3 * apart / len(methods):8.1f} ms {1e3 * together / len(methods):8.1f} ms"
          f"   {apart / together:5.2f} x", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--alone", type=int, default=2, help="candidates that are timed alone")
    parser.add_argument("--steps", type=int, nargs="+", default=[2, 20])
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    print(f"{chosen.candidates} candidates of an alpha sweep, CPU-seconds a trial: alone, in a cohort, ratio")
    with tempfile.TemporaryDirectory() as place:
        uri = toy_dataset(Path(place) / "mice", recordings=12, seconds=60.0, individuals=3, clip_seconds=60.0).uri
        for steps in chosen.steps:
            sweep(uri, steps, chosen.candidates, chosen.alone)
    print("One step of eight learners, 4 windows of 3 mice: alone, stacked, ratio")
    for seconds in (8.0, 16.0):
        stacked("pointnet", [PointNet(lr=10.0**-i) for i in range(1, 9)], seconds)
        stacked("ts2vec", [TS2Vec(**{**TS2Vec.presets["small"], "lr": 10.0**-i}) for i in range(1, 9)], seconds)
        stacked("bams", [BAMS(**{**BAMS.presets["small"], "warmup": 1.0, "alpha": a}) for a in ALPHAS], seconds)


if __name__ == "__main__":
    main()
