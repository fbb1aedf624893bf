"""The logistic probe: for data where the ridge classifier misleads.

Ridge asks for +1 and -1, so rows far on the right side of the boundary count as errors too: a class that is wide, or
has a few members far out, pulls the boundary away from the other. A logistic loss does not mind being right by a
large margin. Where the two probes disagree by much, believe this one. It is fitted by scikit-learn's
``LogisticRegression`` (multinomial for several classes) to standardised features of a bounded sample of the training.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ethoray.probes import Judge, Probe
from ethoray.probes._ridge import Unsolvable
from ethoray.probes._sampled import Answers, SampledJudge, chosen, labelled, refuse
from ethoray.schema import Card, Task

log = logging.getLogger(__name__)

Array = np.ndarray


@dataclass(frozen=True)
class Logistic(Probe):
    """Penalised logistic regression on frozen embeddings; scores are named "task/space@logistic".

    Attributes
    ----------
    tasks: names of the card's tasks; none means all that have classes.
    alpha: penalty on squared weights, 1 / C of scikit-learn; the intercept is free.
    balanced: whether rows weigh inversely to the size of their class.
    standardise: whether features are divided by their deviations in training first.
    rows: training rows that are held, as evenly over recordings as they allow.
    iterations: most steps of the solver; a fit that needs more is said in the log.
    recordings: how tasks with one label a recording are probed: "frames" (every frame carries the label) or "mean".
    """

    tasks: tuple[str, ...] = ()
    alpha: float = 1.0
    balanced: bool = True
    standardise: bool = True
    rows: int = 20_000
    iterations: int = 500
    recordings: Literal["frames", "mean"] = "frames"

    def __post_init__(self) -> None:
        refuse(
            {
                f"alpha is a positive number, not {self.alpha!r}": not 0 < self.alpha < np.inf,
                f"rows and iterations are at least 1, not {self.rows!r} and {self.iterations!r}": (
                    self.rows < 1 or self.iterations < 1
                ),
                f"unknown recordings {self.recordings!r}": self.recordings not in ("frames", "mean"),
            },
            "logistic",
        )

    def judge(self, card: Card, seed: int) -> Judge:
        """See ``Probe.judge``."""
        return _LogisticJudge(self, chosen(card, self.tasks, "logistic", discrete=True), seed)


class _LogisticJudge(SampledJudge):
    def __init__(self, probe: Logistic, tasks: tuple[Task, ...], seed: int) -> None:
        super().__init__(tasks, seed, probe.rows, mean=probe.recordings == "mean")
        self.probe = probe

    def fit(self, space: str, x: Array, truths: list[Array], tasks: tuple[Task, ...]) -> Answers:
        """One model a task, each of the rows that it is labelled in."""
        models = {}
        for index, (task, y) in enumerate(zip(tasks, truths, strict=True)):
            try:
                known = labelled(y, task)
            except Unsolvable as reason:
                self.leave_out(task, space, "logistic", reason)
                continue
            models[index] = self._model(f"task {task.name!r} in {space!r}", x[known], y[known].astype(int))

        def answers(rows: Array) -> Iterable[tuple[int, str, Array]]:
            for index, (seen, weights, intercepts) in models.items():
                height = rows @ weights.T + intercepts
                side = height[:, 0] > 0 if len(intercepts) == 1 else height.argmax(1)
                yield index, "logistic", seen[side.astype(int)]

        return answers

    def _model(self, what: str, x: Array, y: Array) -> tuple[Array, Array, Array]:
        """Classes that occur, and weights (column, feature) and intercepts (column,) for features as they come."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        mean, scale = standard(x) if self.probe.standardise else (np.zeros(x.shape[1]), np.ones(x.shape[1]))
        model = LogisticRegression(
            C=1 / self.probe.alpha,
            class_weight="balanced" if self.probe.balanced else None,
            max_iter=self.probe.iterations,
            tol=1e-6,
        )
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.fit((x - mean) / scale, y)
        if any(issubclass(w.category, ConvergenceWarning) for w in caught):
            log.warning("logistic probe: %s did not converge in %d steps", what, self.probe.iterations)
        weights = model.coef_ / scale
        return model.classes_, weights, model.intercept_ - weights @ mean


def standard(x: Array) -> tuple[Array, Array]:
    """Mean and deviation of every feature, (feature,) each in float64; 1 for one that does not vary."""
    mean = x.mean(0, dtype=np.float64)
    deviation = np.sqrt(np.square(x - mean).mean(0))
    return mean, np.where(deviation > 1e-12 * (1 + np.abs(mean)), deviation, 1.0)
