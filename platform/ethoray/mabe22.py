"""The evaluator of MABe 2022 (Sun et al. 2023), exactly, from one pass over the embeddings.

Three times, nine tenths of the clips of SubmissionTrain are drawn (scikit-learn's train_test_split, seeds 42, 43
and 44) and ridge classifiers, balanced, or regressors are fitted to their frames for every penalty; alpha 1 is
reported. A discrete task is positive where one of the three says so, a continuous one is their mean. The "public"
score is that of publicTest; the one that papers quote and the evaluator calls private is that of publicTest and
privateTest together. Frames without a label are left out; F1 is of the positive class.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from ethoray import metrics
from ethoray.probes.linear import Linear, Panel, truth
from ethoray.schema import Task
from ethoray.store import Dataset, Entry
from ethoray.submission import Submission, SubmissionError

Array = np.ndarray

CAPS = {"mabe22_mice": 128, "mabe22_flies": 256}
"""Features a frame that the challenge allows."""
FIT = ("train", "submission_train")
PUBLIC, PRIVATE = ("public_test",), ("test", "public_test", "private_test")
_ONE_FLY = re.compile(r"_fly_?\d+$")


@dataclass(frozen=True)
class MABe22:
    """What the evaluator may do otherwise; the defaults are the official ones.

    Attributes
    ----------
    alphas: penalties; the first is reported.
    seeds: one draw of the training clips each.
    held_out: share of them that a draw leaves out.
    vote: "any" is what published scores have; "majority" of the draws is the honest one.
    standardise: z-score every feature at every frame index over all clips first, as BAMS's release does to its
        embeddings; a feature that does not vary stays 0.
    limit: refuse wider embeddings; None is the challenge's limit for the dataset's name, 0 is no limit.
    """

    alphas: tuple[float, ...] = (1.0, 0.1, 0.5, 2.0, 5.0)
    seeds: tuple[int, ...] = (42, 43, 44)
    held_out: float = 0.1
    vote: Literal["any", "majority"] = "any"
    standardise: bool = False
    limit: int | None = None

    def score(self, submission: Submission, dataset: Dataset) -> pd.DataFrame:
        """A row a task: what the evaluator's table has, with a 95 % bootstrap interval over test clips.

        Columns: task, metric, score (public and private clips together), low, high, clips, public (NaN when the
        dataset was prepared without its four parts), no_ensemble (mean over the draws alone), pooled (every clip
        answers once, tasks of whole clips only) and alpha_<penalty> for each. The per-fly tasks of one behaviour
        are one row, their mean. A task that cannot be fitted has NaN and a reason in "note".
        Raises SubmissionError for embeddings that the challenge would refuse.
        """
        fit = [e for e in dataset.entries if e.split in FIT]
        test = [e for e in dataset.entries if e.split in PRIVATE]
        self._check(submission, dataset, [*fit, *test])
        z = _Standard(submission, [*fit, *test]) if self.standardise else None
        splits = len(self.seeds)
        probe = Linear(
            alphas=self.alphas, splits=splits, fraction=1 - self.held_out if splits > 1 else 1.0, vote=self.vote
        )
        panel = Panel(probe, dataset.card.tasks, submission.width, mean=False)
        drawn = [self._drawn([e.name for e in fit], seed) for seed in self.seeds]
        with threadpool_limits(1, user_api="blas"):
            for entry, x, labels in _clips(fit, submission, dataset, z):
                panel.learn(x, labels, tuple(i for i, names in enumerate(drawn) if entry.name in names))
            tallies = [_Tally(task, splits, self.vote) for task in dataset.card.tasks]
            for entry, x, labels in _clips(test, submission, dataset, z):
                for task, answers, known in panel.answers(x, labels):
                    tallies[task].add(answers, known)
                for tally in tallies:
                    tally.close(public=entry.split in PUBLIC)
        rows = [tally.row(self.alphas, panel.unfit.get(i, "")) for i, tally in enumerate(tallies)]
        return _by_behaviour(pd.DataFrame(rows))

    def _drawn(self, names: Sequence[str], seed: int) -> frozenset[str]:
        from sklearn.model_selection import train_test_split

        kept, _ = train_test_split(list(names), test_size=self.held_out, random_state=seed)
        return frozenset(kept)

    def _check(self, submission: Submission, dataset: Dataset, entries: Sequence[Entry]) -> None:
        name = dataset.card.name
        if not any(e.split in FIT for e in entries) or not any(e.split in PRIVATE for e in entries):
            raise SubmissionError(f"{name} has splits {', '.join(dataset.splits)}; the evaluator needs train and test")
        limit = CAPS.get(name, 0) if self.limit is None else self.limit
        if limit and submission.width > limit:
            raise SubmissionError(
                f"{submission.where}: {submission.width} features a frame; the challenge allows {limit} for {name}"
            )
        many = [t.name for t in dataset.card.tasks if t.kind == "multiclass"]
        if many:
            raise SubmissionError(f"{name}: the evaluator knows no tasks of several classes ({', '.join(many)})")
        for entry in entries:
            frames = submission.frames.get(entry.name)
            if frames is None:
                lacking = [e.name for e in entries if e.name not in submission.frames]
                raise SubmissionError(
                    f"{submission.where}: no embedding of clip {entry.name!r} ({len(lacking)} of {len(entries)} lack)"
                )
            if frames != entry.frames:
                raise SubmissionError(
                    f"{submission.where}: clip {entry.name!r} has {frames} rows, {name} has {entry.frames} frames"
                )


class _Standard:
    """Mean and deviation of every feature at every frame index, over clips."""

    def __init__(self, submission: Submission, entries: Sequence[Entry]) -> None:
        longest = max(e.frames for e in entries)
        count = np.zeros((longest, 1))
        total, square = np.zeros((2, longest, submission.width))
        for entry in entries:
            x = submission.clip(entry.name).astype(np.float64)
            count[: len(x)] += 1
            total[: len(x)] += x
            square[: len(x)] += x**2
        self.mean = total / count
        spread = np.sqrt(np.maximum(square / count - self.mean**2, 0))
        self.scale = np.where(spread > 1e-7 * np.abs(self.mean), spread, np.inf)

    def __call__(self, x: Array) -> Array:
        return ((x - self.mean[: len(x)]) / self.scale[: len(x)]).astype(np.float32)


def _clips(
    entries: Sequence[Entry], submission: Submission, dataset: Dataset, z: _Standard | None
) -> Iterator[tuple[Entry, Array, list[Array]]]:
    for entry in entries:
        x, labels = submission.clip(entry.name), dataset.labels(entry)
        yield (
            entry,
            x if z is None else z(x),
            [np.broadcast_to(truth(entry.name, entry.frames, t, labels), len(x)) for t in dataset.card.tasks],
        )


class _Tally:
    """What the scores of one task sum over test clips: together, every draw alone, and one answer a clip."""

    def __init__(self, task: Task, splits: int, vote: str) -> None:
        self.task, self.splits, self.vote = task, splits, vote
        self.regression = task.kind == "regression"
        self.rule = metrics.mse if self.regression else metrics.binary_f1
        self.clips: list[tuple[bool, Array, Array, Array]] = []
        self._open: list[tuple[Array, Array]] = []

    def add(self, answers: Array, known: Array) -> None:
        """Answers (split, alpha, column, row) to labels (row,) of the clip at hand."""
        self._open.append((answers[:, :, 0], known))

    def close(self, *, public: bool) -> None:
        """The clip at hand is whole."""
        if not self._open:
            return
        said = np.concatenate([answers for answers, _ in self._open], axis=2)
        known = np.concatenate([labels for _, labels in self._open])
        self._open = []
        if self.regression:
            together, alone = said.mean(0, dtype=np.float64), said
            pooled = np.broadcast_to(together.mean(1, keepdims=True), together.shape)
        else:
            alone = said > 0
            votes = alone.sum(0)
            together = votes > 0 if self.vote == "any" else 2 * votes > self.splits
            pooled = np.broadcast_to(together.mean(1, keepdims=True) >= 0.5, together.shape)
        self.clips.append((public, self._count(together, known), self._count(alone, known), self._count(pooled, known)))

    def _count(self, said: Array, known: Array) -> Array:
        if not self.regression:
            return metrics.confusion(known, said, 2)
        error = said - known
        return np.stack([(error**2).sum(-1), np.full(error.shape[:-1], error.shape[-1])], axis=-1)

    def row(self, alphas: Sequence[float], unfit: str) -> dict[str, Any]:
        """The task's line of the table."""
        row: dict[str, Any] = {"task": self.task.name, "metric": "mse" if self.regression else "f1"}
        if unfit or not self.clips:
            return row | {"clips": len(self.clips), "note": unfit or "no test clip has a label"}
        public = np.array([p for p, *_ in self.clips])
        together, alone, pooled = (np.stack(counts) for counts in list(zip(*self.clips, strict=True))[1:])
        low, high = metrics.interval(lambda sums: self.rule(sums), together[:, 0], 0)
        row |= {"score": float(self.rule(together.sum(0))[0]), "low": float(low), "high": float(high)}
        row |= {"clips": len(self.clips), "public": float("nan"), "note": ""}
        if public.any():
            row["public"] = float(self.rule(together[public].sum(0))[0])
        row["no_ensemble"] = float(self.rule(alone.sum(0))[:, 0].mean())
        if self.task.level == "recording":
            row["pooled"] = float(self.rule(pooled.sum(0))[0])
        values = self.rule(together.sum(0))
        return row | {f"alpha_{alpha:g}": float(v) for alpha, v in zip(alphas, values, strict=True)}


def _by_behaviour(table: pd.DataFrame) -> pd.DataFrame:
    """Per-fly tasks become one row a behaviour: the mean over the flies that have it."""
    if not table["task"].map(lambda name: bool(_ONE_FLY.search(name))).any():
        return table
    rows: dict[str, Mapping[str, Any]] = {}
    behaviours = table["task"].map(lambda name: _ONE_FLY.sub("", name))
    for name in dict.fromkeys(behaviours):
        group = table[behaviours == name]
        if len(group) == 1 and group["task"].iloc[0] == name:
            rows[name] = group.iloc[0].to_dict()
            continue
        numbers = group.select_dtypes("number").mean()
        rows[name] = {**group.iloc[0].to_dict(), **numbers.to_dict(), "task": name}
        rows[name] = {**rows[name], "note": f"mean over {int(group['score'].notna().sum())} flies"}
    return pd.DataFrame(list(rows.values()), columns=table.columns)
