"""The codeword probes: what a codebook keeps of behaviour, before and after quantisation, and how it is used.

Support vector machines, linear and with a Gaussian kernel, read what goes into the codebook ("ze") and what comes out
("zq"); a decision tree reads the codes themselves, as numbers. Scores are macro recall, the mean of the diagonal of the
row-normalised confusion matrix. An encoder that can reconstruct is also scored by R2 and RMSE of its keypoints.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ethoray.embedding import ALL, Embedding
from ethoray.learning import Encoder
from ethoray.nn.quantizer import KMeansQuantizer
from ethoray.probes import Judge, Labels, Probe, ProbeError, Score
from ethoray.probes._codebook import Usage
from ethoray.probes._fidelity import Fidelity
from ethoray.probes._machines import gaussian, pairwise, winners
from ethoray.probes._ridge import Unsolvable
from ethoray.probes._sampled import Answers, Examined, SampledJudge, chosen, labelled, measured, refuse
from ethoray.probes.linear import truth
from ethoray.probes.logistic import standard
from ethoray.schema import Card, Task
from ethoray.store import Dataset

log = logging.getLogger(__name__)

Array = np.ndarray
Reader = Callable[[Array], Array]
CODES = "codes"
READERS = ("svm", "rbf", "tree")


@dataclass(frozen=True)
class Codewords(Probe):
    """Scores named "task/zq@svm", "task/ze@rbf_balanced", "task/codes@tree_12" and so on.

    Attributes
    ----------
    tasks: names of the card's tasks; none means all that have classes.
    readers: of "svm" and "rbf", which read spaces, and "tree", which reads codes.
    balanced: whether rows weigh inversely to the size of their class: without, with, or both ("_balanced").
    depths: of trees; 0 has no bound, others are in the score's name.
    penalty: C of the support vector machines, whose features are standardised.
    rows: training rows that are held, as evenly over recordings as they allow. The Gaussian kernel holds their square.
    every: seconds between test frames that are read; 0 reads all.
    """

    tasks: tuple[str, ...] = ()
    readers: tuple[str, ...] = READERS
    balanced: tuple[bool, ...] = (False, True)
    depths: tuple[int, ...] = (0, 12)
    penalty: float = 1.0
    rows: int = 4_000
    every: float = 0.0

    def __post_init__(self) -> None:
        unknown = [r for r in self.readers if r not in READERS]
        refuse(
            {
                f"readers are some of {', '.join(READERS)}, not {self.readers!r}": bool(unknown) or not self.readers,
                f"balanced holds True, False or both, not {self.balanced!r}": not self.balanced,
                f"depths are 0 or more, not {self.depths!r}": not self.depths or min(self.depths) < 0,
                f"penalty is positive and rows at least 1, not {self.penalty!r} and {self.rows!r}": (
                    not 0 < self.penalty < np.inf or self.rows < 1
                ),
                f"every is a number of seconds, not {self.every!r}": not 0 <= self.every < np.inf,
            },
            "codewords",
        )

    def judge(self, card: Card, seed: int) -> Judge:
        """See ``Probe.judge``."""
        return _CodewordsJudge(self, chosen(card, self.tasks, "codewords", discrete=True), seed)


class _CodewordsJudge(SampledJudge):
    def __init__(self, probe: Codewords, tasks: tuple[Task, ...], seed: int) -> None:
        super().__init__(tasks, seed, probe.rows, every=probe.every)
        self.probe = probe
        self.silent = False
        self.animals = self.variables = 0
        self.hop = 1
        self.usage = Usage(tasks)
        self.fidelity: Fidelity | None = None

    def meet(self, encoder: Encoder, dataset: Dataset) -> None:
        """Look at the encoder before anything is shown: its codebook, its windows, what it can reconstruct."""
        self.hop = encoder.hop
        self.animals = max((len(entry.individuals) for entry in dataset.entries), default=0)
        for module in encoder.modules():
            if isinstance(module, KMeansQuantizer):
                self.variables = module.codes.shape[1]
                self.fidelity = Fidelity(encoder, dataset)

    def learn(self, embedding: Embedding, labels: Labels) -> None:
        """See ``Judge.learn``."""
        if self._codes(embedding) is not None:
            super().learn(embedding, labels)

    def examine(self, embedding: Embedding, labels: Labels) -> None:
        """See ``Judge.examine``."""
        codes = self._codes(embedding)
        if codes is None:
            return
        super().examine(embedding, labels)
        entry = embedding.entry
        truths = [np.broadcast_to(truth(entry.name, entry.frames, t, labels), entry.frames) for t in self.tasks]
        told = np.stack(truths, axis=1) if truths else np.empty((entry.frames, 0))
        # Windows begin at multiples of the hop, and every frame of one has its codeword.
        windows, told = codes[:: self.hop], told[:: self.hop]
        for animal in range(windows.shape[1]):
            there = (windows[:, animal] >= 0).all(1)
            self.usage.add(windows[there, animal], told[there])
        if self.fidelity is not None:
            self.fidelity.examine(entry)

    def scores(self) -> tuple[Score, ...]:
        """See ``Judge.scores``."""
        if self.silent:
            return ()
        rebuilt = self.fidelity.scores("zq", self.seed) if self.fidelity is not None else ()
        return (*super().scores(), *rebuilt)

    def describe(self) -> dict[str, Any]:
        """How the test recordings use the codebook, see ``_codebook.statistics``; empty without codes.

        Without an encoder to ask, the codes of a group are taken to be those seen: shares are then too large, and
        "variables_known" is False.
        """
        if self.silent:
            return {}
        words = self.usage.counted()[0]
        seen = int(words.max()) + 1 if len(words) else 1
        known = self.variables >= seen
        return {**self.usage.describe(self.variables if known else seen), "variables_known": known}

    def views(self, embedding: Embedding) -> Mapping[str, Array]:
        """The encoder's spaces, and codes of all animals, (time, individual * group), -1 where one is absent."""
        codes = self._codes(embedding)
        assert codes is not None
        self.animals = self.animals or codes.shape[1]
        if codes.shape[1] > self.animals:
            log.warning(
                "recording %r: trees read the first %d of its %d animals, as many as the first recording has",
                embedding.entry.name, self.animals, codes.shape[1],
            )  # fmt: skip
        filled = np.full((len(codes), self.animals, codes.shape[2]), -1, dtype=np.int32)
        shared = min(self.animals, codes.shape[1])
        filled[:, :shared] = codes[:, :shared]
        views = {space: x for space, x in embedding.spaces.items() if space != ALL}
        views[CODES] = filled.reshape(len(codes), -1)
        if "tree" not in self.probe.readers:
            del views[CODES]
        return views if set(self.probe.readers) - {"tree"} else {CODES: views[CODES]}

    def fit(self, space: str, x: Array, truths: list[Array], tasks: tuple[Task, ...]) -> Answers:
        """Every reader of this space for every task."""
        known = {}
        for index, (task, y) in enumerate(zip(tasks, truths, strict=True)):
            try:
                known[index] = labelled(y, task)
            except Unsolvable as reason:
                self.leave_out(task, space, "", reason)
        place, kernel, read = self._prepared(space, x)
        direct: list[tuple[int, str, Reader]] = []
        machines: list[tuple[int, str, Array]] = []
        weights, intercepts = [np.empty((len(x), 0))], [np.empty(0)]
        for index, rows in known.items():
            for name, model in self._models(space):
                given = kernel[np.ix_(rows, rows)] if name.startswith("rbf") else read[rows]
                _quietly(model, given, truths[index][rows].astype(int), f"{name} of task {tasks[index].name!r}")
                if name.startswith("rbf"):
                    columns, heights = pairwise(model, np.flatnonzero(rows), len(x))
                    weights.append(columns)
                    intercepts.append(heights)
                    machines.append((index, name, model.classes_))
                else:
                    direct.append((index, name, model.predict))
        ends = np.cumsum([len(part) for part in intercepts])
        wide, tall = np.concatenate(weights, axis=1), np.concatenate(intercepts)

        def answers(asked: Array) -> Iterable[tuple[int, str, Array]]:
            placed, near = place(asked)
            for index, name, predict in direct:
                yield index, name, predict(placed)
            if machines:
                sides = near @ wide + tall > 0
                for (index, name, found), first, last in zip(machines, ends, ends[1:], strict=False):
                    yield index, name, found[winners(sides[:, first:last], len(found))]

        return answers

    def score(self, task: Task, space: str, answer: str, seen: Examined) -> Iterator[Score]:
        """Macro recall, whatever the task's metric."""
        yield measured(task, f"{space}@{answer}", "macro_recall", "macro_recall", seen, self.seed)

    def _codes(self, embedding: Embedding) -> Array | None:
        if embedding.codes is None and not self.silent:
            self.silent = True
            log.warning(
                "codewords: nothing is scored: recording %r has no codes; this probe needs a method with a codebook",
                embedding.entry.name,
            )
        codes, frames = embedding.codes, embedding.entry.frames
        if codes is not None and (codes.ndim != 3 or len(codes) != frames):
            raise ProbeError(
                f"recording {embedding.entry.name!r}: codes are {codes.shape}, expected ({frames}, individual, group)"
            )
        return codes

    def _prepared(self, space: str, x: Array) -> tuple[Callable[[Array], tuple[Array, Array]], Array, Array]:
        """How rows are placed and compared with training, the kernel of the training rows, and these, placed."""
        none = np.empty((0, 0))
        if space == CODES:
            return lambda rows: (rows.astype(np.float32), none), none, x.astype(np.float32)
        mean, scale = standard(x)
        read = (x - mean) / scale
        if "rbf" not in self.probe.readers:
            return lambda rows: ((rows - mean) / scale, none), none, read
        spread = read.var()
        gamma = 1 / (read.shape[1] * spread) if spread > 0 else 1.0

        def place(rows: Array) -> tuple[Array, Array]:
            placed = (rows - mean) / scale
            return placed, gaussian(placed, read, gamma)

        return place, gaussian(read, read, gamma), read

    def _models(self, space: str) -> Iterator[tuple[str, Any]]:
        """Named, unfitted scikit-learn models that read this space."""
        from sklearn.svm import SVC, LinearSVC
        from sklearn.tree import DecisionTreeClassifier

        probe, seed = self.probe, self.seed % 2**32
        for balanced in probe.balanced:
            weigh: dict[str, Any] = {"class_weight": "balanced" if balanced else None}
            end = "_balanced" if balanced else ""
            if space == CODES:
                for depth in probe.depths:
                    name = f"tree{f'_{depth}' if depth else ''}{end}"
                    yield name, DecisionTreeClassifier(max_depth=depth or None, random_state=seed, **weigh)
                continue
            if "svm" in probe.readers:
                yield f"svm{end}", LinearSVC(C=probe.penalty, dual="auto", random_state=seed, max_iter=5000, **weigh)
            if "rbf" in probe.readers:
                yield f"rbf{end}", SVC(C=probe.penalty, kernel="precomputed", **weigh)


def _quietly(model: Any, x: Array, y: Array, what: str) -> None:
    """Fit; a solver that gives up early is said in the log, and its last answer is used."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(x, y)
    if any(issubclass(w.category, ConvergenceWarning) for w in caught):
        log.warning("codewords: %s did not converge", what)
