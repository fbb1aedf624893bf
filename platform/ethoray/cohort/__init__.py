"""Candidates of one method that share shapes train together in one process.

They differ in numbers: weights of loss terms, learning rates, weight decay, mask ratios, seeds. Each keeps its own
optimiser, order of data, random draws and run folder, which ends as if it had been trained alone: checkpoint,
metrics, scores, or the reason why it failed, which stops nobody else. Killed at any moment, the same call goes on.

Two ways, of which ``train`` takes the faster. *Shared*: candidates take turns, from pause to pause, and what they
have in common (batches of one seed, movement features, recordings and labels when they are scored) is read and
computed once; weights and scores are those of training alone to the bit. *Stacked*: the parameters of candidates
of one seed are stacked and one program computes all losses (``torch.func.vmap``), which pays where networks are so
small that calls cost more than numbers; every step agrees to rounding, which a hundred steps amplify as they do
that of another processor or library. Many methods cannot be stacked, and say why.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ethoray import record, store, stream
from ethoray.batch import Stream
from ethoray.cohort.alike import CohortError, alike, built, check, check_shapes, together
from ethoray.cohort.lockstep import LONG, faster, fit_stacked
from ethoray.cohort.sharing import Memory, SharedStream, share_dataset, share_features, unshare_features
from ethoray.cohort.stacking import Stack
from ethoray.experiment import Experiment, evaluate
from ethoray.learning import Encoder, Learner, Progress
from ethoray.state import State

__all__ = ["CohortError", "Outcome", "alike", "together", "train"]

Way = Literal["auto", "shared", "stacked"]
Log = Callable[[int, Progress], None]

MEMORY = 1 << 30
"""Bytes of batches, features and recordings that a cohort holds to share them."""

_TRY_STEPS = 40  # a shorter training is over before a trial of stacking has paid
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How one candidate of a cohort ended.

    Attributes
    ----------
    scores: {"task/space": score}, None when it failed.
    error: what it failed of, which failure.json in its folder tells too.
    way: how it was trained: "shared", "stacked", or "finished" when its folder held scores before.
    """

    folder: Path
    scores: Mapping[str, float] | None = None
    error: Exception | None = None
    way: str = "shared"


@dataclass
class _Candidate:
    """One experiment on its way: its place in the list, its folder, encoder, checkpoint, and how it stands."""

    index: int
    experiment: Experiment
    folder: Path
    encoder: Encoder = field(init=False)
    resume: State | None = None
    step: int = 0
    way: str = "shared"
    error: Exception | None = None
    scores: Mapping[str, float] | None = None
    diary: record.Diary | None = None
    pauses: Iterator[Progress] = field(default_factory=lambda: iter(()))

    def fail(self, error: Exception) -> None:
        self.error = error
        record.fail(self.folder, error)


def train(
    trials: Sequence[tuple[Experiment, str | Path]], *, way: Way = "auto", log: Log | None = None, memory: int = MEMORY
) -> list[Outcome]:
    """Train, embed and score every experiment into its folder; the outcomes are in the order of the trials.

    Parameters
    ----------
    trials: experiments with their run folders; those that are finished are not run again, those that were
        interrupted go on from their checkpoints.
    way: "shared", "stacked", or "auto": stacked where a measured trial shows that it is faster.
    log: told the candidate's place in the list and every pause of it; what it raises ends that candidate alone.
    memory: bytes that may be held to share them.

    Raises CohortError when candidates differ in method, data, budget or shapes, and when ``way`` is "stacked" and
    they cannot be. What befalls one candidate is in its outcome and its failure.json, and never raised.
    """
    if way not in ("auto", "shared", "stacked"):
        raise CohortError(f"a cohort trains in one of the ways auto, shared and stacked, not {way!r}")
    experiments, folders = [e for e, _ in trials], [Path(f) for _, f in trials]
    check(experiments, folders)
    done = {i: s for i, f in enumerate(folders) if (s := record.finished(f)) is not None}
    left = [i for i in range(len(trials)) if i not in done]
    candidates: dict[int, _Candidate] = {}
    if left:
        dataset = store.open(experiments[left[0]].data.dataset)
        encoders = {i: _built_or_why(experiments[i], dataset) for i in left}
        check_shapes({i: (experiments[i], e) for i, e in encoders.items() if isinstance(e, Encoder)})
        candidates = {i: _begun(i, experiments[i], folders[i], dataset, e) for i, e in encoders.items()}
        _Cohort([c for c in candidates.values() if c.error is None], dataset, Memory(memory), log).go(way)
    outcomes = []
    for index, folder in enumerate(folders):
        if index in done:
            outcomes.append(Outcome(folder, done[index], way="finished"))
        else:
            c = candidates[index]
            outcomes.append(Outcome(folder, c.scores, c.error, c.way))
    return outcomes


def _built_or_why(experiment: Experiment, dataset: store.Dataset) -> Encoder | Exception:
    try:
        return built(experiment, dataset)
    except Exception as error:
        return error


def _begun(
    index: int, experiment: Experiment, folder: Path, dataset: store.Dataset, encoder: Encoder | Exception
) -> _Candidate:
    """A candidate whose folder says what is about to be run, or why it cannot be."""
    candidate = _Candidate(index, experiment, folder)
    record.begin(folder, experiment, dataset)
    if isinstance(encoder, Encoder):
        candidate.encoder = encoder
    else:
        candidate.fail(encoder)
    return candidate


class _Cohort:
    """The candidates of one call."""

    def __init__(self, candidates: list[_Candidate], dataset: store.Dataset, memory: Memory, log: Log | None) -> None:
        self.candidates, self.dataset, self.memory, self.log = candidates, dataset, memory, log
        self.streams: dict[int, Stream] = {}
        self.quick: bool | None = None  # whether stacking is faster, once it was tried

    def go(self, way: Way) -> None:
        """Train all, then score all."""
        for c in self.candidates:
            self._guarded(c, lambda c=c: self._open(c))  # type: ignore[misc]
        seeds: dict[int, list[_Candidate]] = {}
        for c in self._well():
            seeds.setdefault(c.experiment.seed, []).append(c)
        for group in seeds.values():
            if way == "shared" or not self._stack(group, way):
                self._take_turns(group)
        self._score()

    def _open(self, c: _Candidate) -> None:
        """What a run does before its first step: look at the probes, the checkpoint and the stream."""
        experiment = c.experiment
        for probe in experiment.probes:
            probe.judge(self.dataset.card, experiment.seed)
        c.resume = record.load_state(c.folder)
        c.step = 0 if c.resume is None else int(c.resume["step"])
        c.diary = record.Diary(c.folder, c.step)
        if experiment.seed not in self.streams:
            opened = stream.open_stream(experiment.data, self.dataset, experiment.seed, first=c.step)
            self.streams[experiment.seed] = SharedStream(opened, self.memory)
        share_features(c.encoder, self.memory)
        c.pauses = c.encoder.fit(self.streams[experiment.seed], experiment.budget, c.resume)

    def _take_turns(self, group: list[_Candidate]) -> None:
        """Whoever is behind goes on to the next pause, so that all soon ask for the same batches."""
        going = [c for c in group if c.error is None]
        while going:
            now = min(c.step for c in going)
            for c in [c for c in going if c.step == now]:
                told = self._guarded(c, lambda c=c: next(c.pauses, None))  # type: ignore[misc]
                if told is None:
                    going.remove(c)
                else:
                    self._pause(c, told)
                    if c.error is not None:
                        going.remove(c)
            self.memory.forget()

    def _stack(self, group: list[_Candidate], way: Way) -> bool:
        """Train candidates of one seed as one program; False when that is not possible or not faster."""
        why, stack = self._stacked(group, way)
        if stack is None:
            if way == "stacked":
                raise CohortError(f"these candidates cannot be stacked: {why}; train them with way='shared'")
            _log.info("candidates take turns: %s", why)
            return False
        for c in group:
            c.way = "stacked"
        first, budget = group[0], group[0].experiment.budget
        try:
            for told in fit_stacked(stack, self.streams[first.experiment.seed], budget, [c.resume for c in group]):
                for c, pause in zip(group, told, strict=True):
                    if c.error is None and isinstance(pause, Exception):
                        c.fail(pause)
                    elif c.error is None and isinstance(pause, Progress):
                        self._pause(c, pause)
                self.memory.forget()
                if all(c.error is not None for c in group):
                    break
        except Exception as error:
            _log.warning("stacked training stopped (%s); candidates take turns from their checkpoints", error)
            for c in group:
                c.way, c.encoder = "shared", built(c.experiment, self.dataset)
                if c.error is None:
                    self._guarded(c, lambda c=c: self._open(c))  # type: ignore[misc]
            return False
        return True

    def _stacked(self, group: list[_Candidate], way: Way) -> tuple[str, Stack | None]:
        first, budget = group[0], group[0].experiment.budget
        if way == "auto" and (len(group) < 2 or budget.steps - first.step < _TRY_STEPS):
            return "there are too few of them, or too few steps, to try anything else", None
        if len({c.step for c in group}) > 1:
            return "their checkpoints are at different steps", None
        learners = [c.encoder for c in group if isinstance(c.encoder, Learner)]
        if len(learners) < len(group) or budget.compile:
            return "only what learns by gradient descent, and is not compiled, has a loss to stack", None
        try:
            stack = Stack(learners)
            if self.quick is None:
                long = LONG if way == "auto" else math.inf
                self.quick = faster(stack, self.streams[first.experiment.seed], budget, first.step, long)
        except Exception as error:  # if it is one candidate's, its turn will say so
            return str(error), None
        return ("stacked is slower", None) if way == "auto" and not self.quick else ("", stack)

    def _score(self) -> None:
        """Score every candidate; recordings are read, and features computed, once while memory lasts."""
        shared = share_dataset(self.dataset, self.memory)
        for c in self._well():
            self._guarded(c, lambda c=c: self._scored(c, shared))  # type: ignore[misc]
        self.memory.forget()

    def _scored(self, c: _Candidate, dataset: store.Dataset) -> None:
        c.scores = evaluate(c.experiment, c.encoder, dataset, c.folder, alone=False)
        unshare_features(c.encoder)

    def _pause(self, c: _Candidate, progress: Progress) -> None:
        self._guarded(c, lambda: self._write(c, progress))

    def _write(self, c: _Candidate, progress: Progress) -> None:
        assert c.diary is not None
        c.diary.write(progress)
        if progress.save:
            record.save_state(c.folder, progress.state())
        c.step = progress.step
        if self.log is not None:
            self.log(c.index, progress)

    def _guarded(self, c: _Candidate, work: Callable[[], Any]) -> Any:
        """What the work gives; an error is this candidate's alone."""
        try:
            return work()
        except Exception as error:
            c.fail(error)
            return None

    def _well(self) -> list[_Candidate]:
        return [c for c in self.candidates if c.error is None]
