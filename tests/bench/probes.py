"""How much faster the linear probe is than a loop of scikit-learn fits, with equal scores.

    python tests/bench/probes.py            # a stated sample of the scikit-learn fits, multiplied
    python tests/bench/probes.py --full     # every fit
    python tests/bench/probes.py --small    # a quick look

13 tasks (two regressions, strain and light by recording; nine behaviours by frame) x 3 splits x 5 penalties on
1,000,800 x 128 float32: 556 training recordings of 1800 frames; 139 more are the test. CPU-seconds of one process.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.metrics import f1_score, mean_squared_error
from threadpoolctl import threadpool_limits

from ethoray.embedding import Embedding
from ethoray.probes.linear import Linear, drawn
from ethoray.schema import Card, Skeleton, Task
from ethoray.store import Entry

FRAMES, FEATURES = 1800, 128
RATES = (0.002, 0.005, 0.3, 0.2, 0.1, 0.01, 0.005, 0.01, 0.05)
TASKS = (
    *(Task(name, "regression", "recording", (), "mse") for name in ("day", "time")),
    *(Task(name, "binary", "recording") for name in ("strain", "light")),
    *(Task(f"behaviour_{i}") for i in range(len(RATES))),
)
PROBE = Linear(**Linear.presets["mabe22"])
CARD = Card("bench", "mouse", 30.0, Skeleton(("nose",)), TASKS)
SAMPLE = ((0, 0, 0), (1, 1, 1), (2, 2, 2), (3, 0, 3), (4, 0, 0), (6, 1, 2), (12, 2, 4))
"""Which (task, split, penalty) are timed: both regressions, both recording tasks, rare and common behaviours."""

Shown = tuple[Embedding, dict[str, np.ndarray | float]]


def simulate(train: int, test: int) -> list[Shown]:
    """Recordings with an offset of their own, features of unequal size, labels that a line half explains."""
    rng = np.random.default_rng(0)
    readout = rng.normal(size=(len(TASKS), FEATURES)) / np.sqrt(FEATURES)
    scale = np.geomspace(3, 0.1, FEATURES)
    shown: list[Shown] = []
    for i in range(train + test):
        own = rng.normal(size=FEATURES)
        x = (own + rng.normal(size=(FRAMES, FEATURES))) * scale + 2
        labels: dict[str, np.ndarray | float] = {}
        for t, task in enumerate(TASKS):
            if task.level == "recording":
                value = own @ readout[t] + 0.3 * rng.normal()
                labels[task.name] = float(value > 0 if task.kind == "binary" else value)
                continue
            drive = (x - 2) / scale @ readout[t] / np.sqrt(2) + 0.5 * rng.normal(size=FRAMES)
            labels[task.name] = (drive > 1.12 * _quantile(RATES[t - 4])).astype(np.float32)
        entry = Entry(f"r{i}", f"m{i}", "train" if i < train else "test", 30.0, FRAMES, ("a",), 2, ())
        shown.append((Embedding(entry, {"z": x.astype(np.float32)}), labels))
    return shown


def ours(shown: list[Shown]) -> dict[str, float]:
    """Every score from one pass."""
    judge = PROBE.judge(CARD, seed=0)
    for embedding, labels in shown:
        judge.see(embedding, labels)
    return {score.name: score.value for score in judge.scores()}


class Loop:
    """The evaluator as one writes it: fit and predict per task, split and penalty; positive when a split says so."""

    def __init__(self, shown: list[Shown]) -> None:
        self.train = [(e.entry.name, e.spaces["z"], y) for e, y in shown if e.entry.split == "train"]
        self.test = [(e.entry.name, e.spaces["z"], y) for e, y in shown if e.entry.split == "test"]
        self.x = np.concatenate([x for _, x, _ in self.train])
        self.x_test = np.concatenate([x for _, x, _ in self.test])
        self.predicted: dict[tuple[int, int, int], np.ndarray] = {}

    def fit(self, task: int, split: int, alpha: int, dtype: type = np.float32) -> None:
        """One fit and its predictions of the test frames."""
        keep = np.repeat([drawn(0, split, name, PROBE.fraction) for name, _, _ in self.train], FRAMES)
        penalty = PROBE.alphas[alpha]
        binary = TASKS[task].kind == "binary"
        model = RidgeClassifier(alpha=penalty, class_weight="balanced") if binary else Ridge(alpha=penalty)
        model.fit(self.x[keep].astype(dtype, copy=False), self.labels(self.train, task)[keep])
        self.predicted[task, split, alpha] = model.predict(self.x_test.astype(dtype, copy=False))

    def labels(self, recordings: list[tuple[str, np.ndarray, dict]], task: int) -> np.ndarray:
        return np.concatenate([np.broadcast_to(y[TASKS[task].name], FRAMES) for _, _, y in recordings])

    def score(self, task: int, alpha: int) -> float:
        """The score of a task whose three splits have been fitted."""
        votes = [self.predicted[task, split, alpha] for split in range(PROBE.splits)]
        truth = self.labels(self.test, task)
        if TASKS[task].kind == "regression":
            return float(mean_squared_error(truth, np.mean(votes, axis=0)))
        return float(f1_score(truth, np.max(votes, axis=0)))


def fits(full: bool) -> Iterator[tuple[int, int, int]]:
    """The (task, split, penalty) to time."""
    if full:
        yield from np.ndindex(len(TASKS), PROBE.splits, len(PROBE.alphas))
    else:
        yield from SAMPLE


def seconds(work: Callable[[], object]) -> float:
    """CPU-seconds of this process, all threads."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Time both, interleaved, and compare every score that the loop has computed."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--full", action="store_true", help="run all 195 scikit-learn fits")
    options.add_argument("--small", action="store_true", help="a tenth of the recordings")
    options.add_argument("--threads", type=int, default=1)
    chosen = options.parse_args()
    train, test = (56, 14) if chosen.small else (556, 139)
    torch.set_num_threads(chosen.threads)
    with threadpool_limits(chosen.threads):
        compare(simulate(train, test), chosen.full, chosen.threads)


def compare(shown: list[Shown], full: bool, threads: int) -> None:
    """Time the loop in float32, as the features are; compare scores with the loop in float64, which is exact."""
    loop, todo = Loop(shown), list(fits(full))
    mine: list[float] = []
    theirs: dict[str, list[float]] = {}
    for place, which in enumerate(todo):
        if place % -(-len(todo) // 3) == 0:
            mine.append(seconds(lambda: ours(shown)))
        spent = seconds(lambda which=which: loop.fit(*which))
        theirs.setdefault(TASKS[which[0]].kind, []).append(spent)
    count = {kind: sum(t.kind == kind for t in TASKS) * PROBE.splits * len(PROBE.alphas) for kind in theirs}
    whole = sum(np.mean(spent) * count[kind] for kind, spent in theirs.items())
    scale = " and ".join(f"{len(spent)} of {count[kind]} {kind}" for kind, spent in theirs.items())
    scores, differences = ours(shown), []
    for task in range(len(TASKS)):
        for split in range(PROBE.splits):
            loop.fit(task, split, 0, np.float64)
        differences.append(abs(loop.score(task, 0) - scores[f"{TASKS[task].name}/z"]))
    rows = sum(len(e.spaces["z"]) for e, _ in shown if e.entry.split == "train")
    print(f"linear probe, {rows:,} x {FEATURES} float32, {sum(count.values())} fits, {threads} thread(s)")
    print(f"  one pass      {np.median(mine):8.2f} CPU-s, intervals included (median of {len(mine)})")
    print(f"  scikit-learn  {whole:8.2f} CPU-s, from {scale} fits timed" + ("" if full else " and multiplied"))
    print(f"  ratio         {whole / np.median(mine):8.1f}")
    print(f"  largest difference of {len(differences)} scores from scikit-learn in float64: {max(differences):.1e}")


def _quantile(rate: float) -> float:
    """The standard normal value that a share ``rate`` exceeds."""
    return float(torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(1 - rate)))


if __name__ == "__main__":
    main()
