"""Trials an hour of an α sweep: as separate processes, in workers that are used again, as one cohort, in a bare loop.

python tests/bench/sweep.py --trials 24 --steps 60 --batch-size 8

All of them train, score and mirror into MLflow the same trials; the bare loop is one Optuna study in one process. Time
is CPU-seconds of all processes together, so that a busy machine says the same; each way is also run with a third of the
trials, and the difference is what a trial costs, without what a command costs once (Ray, MLflow, the page).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import optuna

from ethoray import testing
from ethoray.experiment import Experiment
from ethoray.experiment import run as run_experiment
from ethoray.methods.bams import BAMS
from ethoray.sweep import Flags, Sweep, usual
from ethoray.sweep.question import grid
from ethoray.tracking import Mirror

WAYS = ("bare", "reused", "cohort", "separate")
MARK = "ETHORAY_BENCH"


def candidate(trial: optuna.Trial, flags: Flags) -> Experiment:
    """Small BAMS with this weight of its bootstrap."""
    alpha = trial.suggest_categorical("alpha", [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4])
    return usual(BAMS(**{**BAMS.presets["small"], "alpha": alpha}), trial, flags)


def flags(place: Path, trials: int, steps: int, batch_size: int) -> Flags:
    """What every way is asked: ``trials`` of the grid of eight weights and three seeds."""
    return Flags(
        dataset=str(place.parent / "toy"), trials=trials, steps=steps, storage=str(place), sampler="grid", seconds=8.0,
        batch_size=batch_size,
    )  # fmt: skip


def bare(asked: Flags) -> None:
    """One process, one loop."""
    import torch

    torch.set_num_threads(1)
    study, mirror = optuna.create_study(), Mirror("alpha", asked.storage, parent="alpha")
    for point in grid(candidate, asked)[: asked.trials]:
        study.enqueue_trial(point.params)

    def objective(trial: optuna.Trial) -> float:
        folder = Path(asked.storage) / str(trial.number)
        scores = run_experiment(candidate(trial, asked), folder)
        mirror.follow([folder])
        return next(iter(scores.values()))

    study.optimize(objective, asked.trials)


def reused(asked: Flags) -> None:
    """The sweep."""
    Sweep("alpha", candidate, metric="running/long").run(asked)


def cohort(asked: Flags) -> None:
    """The sweep, with all trials in one process."""
    reused(replace(asked, together=asked.trials, at_once=1))


def separate(asked: Flags) -> None:
    """A process for every trial."""
    for number in range(asked.trials or 0):
        if work(["one", asked.storage, *map(str, (asked.trials, asked.steps, asked.batch_size, number))]).wait():
            raise SystemExit(f"trial {number} failed")


def one(asked: Flags, number: int) -> None:
    """A trial that has a process of its own."""
    import torch

    torch.set_num_threads(1)
    folder = Path(asked.storage) / str(number)
    run_experiment(candidate(optuna.trial.FixedTrial(grid(candidate, asked)[number].params), asked), folder)
    Mirror("alpha", asked.storage, parent="alpha").follow([folder])


def work(words: list[str], **environment: str) -> subprocess.Popen[bytes]:
    """Run this file with these words."""
    fixed = {"OMP_NUM_THREADS": "1", "ETHORAY_MODELS": "none", "PYTHONWARNINGS": "ignore", "RAY_worker_niceness": "0"}
    return subprocess.Popen(
        [sys.executable, __file__, *words], env={**os.environ, **fixed, **environment}, stdout=subprocess.DEVNULL
    )


def cpu(way: str, place: Path, *asked: int) -> tuple[float, float]:
    """CPU-seconds and seconds of one way; of every process it starts, read until it ends.

    Ray's processes are not waited for by whom they work for, so the system does not add them up by itself.
    """
    mark, seen, began = f"{MARK}={place}".encode(), dict[str, int](), time.perf_counter()
    command = work([way, str(place), *map(str, asked)], **{MARK: str(place)})
    while running := [process for process in os.listdir("/proc") if process.isdigit()]:
        for process in running:
            with suppress(OSError):
                folder = Path("/proc") / process
                if process in seen or mark in (folder / "environ").read_bytes().split(b"\0"):
                    seen[process] = sum(map(int, (folder / "stat").read_text().rpartition(")")[2].split()[11:13]))
        if command.poll() is not None:
            break
        time.sleep(0.1)
    if command.returncode:
        raise SystemExit(f"{way} ended with status {command.returncode}")
    return sum(seen.values()) / os.sysconf("SC_CLK_TCK"), time.perf_counter() - began


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--trials", type=int, default=24)
    words.add_argument("--steps", type=int, default=60)
    words.add_argument("--batch-size", type=int, default=8)
    asked = words.parse_args()
    few = max(1, asked.trials // 3)
    with tempfile.TemporaryDirectory(prefix="bench") as place:
        testing.toy_dataset(Path(place) / "toy")
        spent = {way: {} for way in WAYS}
        for trials in (few, asked.trials):
            for way in WAYS:
                spent[way][trials] = cpu(way, Path(place) / f"{way}{trials}", trials, asked.steps, asked.batch_size)
    each = {way: (many[asked.trials][0] - many[few][0]) / (asked.trials - few) for way, many in spent.items()}
    print(f"{asked.trials} trials of {asked.steps} steps, {asked.batch_size} windows each; ideal is the bare loop")
    for way in WAYS:
        whole, wall = spent[way][asked.trials]
        print(
            f"{way:9s} {each[way]:6.2f} CPU-s a trial, {3600 / each[way]:6.0f} trials a CPU-hour, "
            f"{each['bare'] / each[way]:.2f} of ideal; whole command {whole:.0f} CPU-s, {wall:.0f} s"
        )


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if len(sys.argv) > 3 and sys.argv[1] in (*WAYS, "one"):
        numbers = [int(word) for word in sys.argv[3:]]
        question = flags(Path(sys.argv[2]), *numbers[:3])
        one(question, numbers[3]) if sys.argv[1] == "one" else globals()[sys.argv[1]](question)
    else:
        main()
