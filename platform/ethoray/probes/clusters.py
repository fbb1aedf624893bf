"""The clustering view: do motifs that nobody named agree with the behaviours that people named?

Training frames are clustered without labels; every test frame gets the motif it falls into, and motifs are held
against labels: normalised mutual information, adjusted Rand index, V-measure. A score of 1 means that motif and label
say the same; more motifs than labels cost ``ari`` and ``completeness``, not ``homogeneity``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from ethoray.probes import Judge, Probe, Score
from ethoray.probes._ridge import Unsolvable
from ethoray.probes._sampled import Answers, Examined, SampledJudge, chosen, classes, measured, refuse
from ethoray.probes.knn import Neighbours
from ethoray.probes.logistic import standard
from ethoray.schema import Card, Task

Array = np.ndarray
MEASURES = ("nmi", "ari", "v_measure", "homogeneity", "completeness")


@dataclass(frozen=True)
class Clusters(Probe):
    """Motifs of test frames against their labels; scores are named "task/space@kmeans_nmi" and so on.

    Attributes
    ----------
    tasks: names of the card's tasks; none means all that have classes.
    method: "kmeans" (mini-batches) or "hdbscan"; the latter leaves sparse frames out while it clusters, and each test
        frame then joins the motif of the nearest training frame that has one.
    motifs: how many clusters k-means makes.
    smallest: fewest frames of a cluster of HDBSCAN.
    measures: of nmi, ari, v_measure, homogeneity, completeness. With equal weights, which these have, v_measure and
        nmi (over the mean of the entropies) are the same number.
    standardise: whether features are divided by their deviations in training first; what the embedding spreads out
        counts for more otherwise.
    rows: training rows that are clustered, as evenly over recordings as they allow; labels are not asked for.
    every: seconds between test frames that are counted; 0 counts all.
    """

    tasks: tuple[str, ...] = ()
    method: Literal["kmeans", "hdbscan"] = "kmeans"
    motifs: int = 20
    smallest: int = 50
    measures: tuple[str, ...] = ("nmi", "ari")
    standardise: bool = False
    rows: int = 20_000
    every: float = 0.0

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"hdbscan": {"method": "hdbscan", "rows": 5_000}}

    def __post_init__(self) -> None:
        unknown = [m for m in self.measures if m not in MEASURES]
        refuse(
            {
                f"unknown method {self.method!r}": self.method not in ("kmeans", "hdbscan"),
                f"motifs and smallest are at least 2, rows at least 1, not {self.motifs!r}, {self.smallest!r} and "
                f"{self.rows!r}": min(self.motifs, self.smallest) < 2 or self.rows < 1,
                f"measures are some of {', '.join(MEASURES)}, not {self.measures!r}": bool(unknown)
                or not self.measures,
                f"every is a number of seconds, not {self.every!r}": not 0 <= self.every < np.inf,
            },
            "clusters",
        )

    def judge(self, card: Card, seed: int) -> Judge:
        """See ``Probe.judge``."""
        return _ClustersJudge(self, chosen(card, self.tasks, "clusters", discrete=True), seed)


class _ClustersJudge(SampledJudge):
    unlabelled = True

    def __init__(self, probe: Clusters, tasks: tuple[Task, ...], seed: int) -> None:
        super().__init__(tasks, seed, probe.rows, every=probe.every)
        self.probe, self.motifs = probe, 0

    def fit(self, space: str, x: Array, truths: list[Array], tasks: tuple[Task, ...]) -> Answers:
        """Cluster once; every task is held against the same motifs."""
        mean, scale = standard(x) if self.probe.standardise else (x.mean(0, dtype=np.float64), np.ones(x.shape[1]))
        centres, motif = self._cluster((x - mean) / scale)
        self.motifs = max(self.motifs, int(motif.max()) + 1)
        nearest = Neighbours(centres, 1, "euclidean")

        def answers(rows: Array) -> Iterable[tuple[int, str, Array]]:
            said = motif[nearest((rows - mean) / scale)[:, 0]]
            for index in range(len(tasks)):
                yield index, self.probe.method, said

        return answers

    def tally(self, task: Task, answer: str, said: Array, y: Array) -> Array:
        """How often each motif meets each class: float64 (motif, class)."""
        return contingency(said, y, self.motifs, classes(task))

    def score(self, task: Task, space: str, answer: str, seen: Examined) -> Iterator[Score]:
        """One score a measure."""
        if seen.tallies and (np.stack(seen.tallies).sum((0, 1)) > 0).sum() < 2:
            raise Unsolvable("the labels of the test recordings are all of one class")
        for name in self.probe.measures:
            yield measured(task, f"{space}@{answer}_{name}", name, name, seen, self.seed)

    def describe(self) -> dict[str, Any]:
        """By "task/space": how often each motif met each class over all test recordings (motif, class)."""
        return {
            f"{task}/{space}": np.sum(seen.tallies, axis=0).astype(int).tolist()
            for (task, space, _), seen in self.examined.items()
            if seen.tallies
        }

    def _cluster(self, x: Array) -> tuple[Array, Array]:
        """Points (point, feature) and the motif (point,) of each: what is nearest to a point joins its motif."""
        if self.probe.method == "kmeans":
            return _kmeans(x, self.probe.motifs, self.seed)
        from sklearn.cluster import HDBSCAN

        if len(x) <= self.probe.smallest:
            raise Unsolvable(f"training has {len(x)} frames, too few for clusters of {self.probe.smallest}")
        motif = HDBSCAN(min_cluster_size=self.probe.smallest, copy=True).fit_predict(x)
        if (motif < 0).all():
            raise Unsolvable("HDBSCAN found no cluster; try fewer frames as smallest")
        return x[motif >= 0], motif[motif >= 0]


def contingency(one: Array, other: Array, ones: int, others: int) -> Array:
    """How often value i of one (row,) meets value j of the other: float64 (ones, others)."""
    cells = one.astype(np.intp) * others + other.astype(np.intp)
    return np.bincount(cells, minlength=ones * others).reshape(ones, others).astype(np.float64)


def _kmeans(x: Array, motifs: int, seed: int) -> tuple[Array, Array]:
    """Centres and their numbers; as many as there are different rows where these are fewer."""
    from sklearn.cluster import MiniBatchKMeans

    different = len(np.unique(x[: 50 * motifs], axis=0))
    if different < motifs:
        different = len(np.unique(x, axis=0))
    fitted = MiniBatchKMeans(min(motifs, different), random_state=seed % 2**32, n_init=3).fit(x)
    return fitted.cluster_centers_, np.arange(len(fitted.cluster_centers_))
