"""Neural encoding: how well frozen features of movement tell what each neuron does, in bits per spike.

Encoders are fitted to smoothed, standardised spike counts of training trials, their learning rate or penalty is
chosen on validation trials, and raw counts of test trials are scored. A third row, "neural_psth/none", predicts the
trial average (or the mean rate, where trials are not locked to an event): what is above it comes from the features.
"""

from __future__ import annotations

import builtins
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from ethoray import metrics
from ethoray.embedding import Embedding
from ethoray.probes import Judge, Labels, Probe, ProbeError, Score, _trials
from ethoray.probes._encoders import Job, Result, candidates, explained, fit
from ethoray.probes._patches import Map, whole
from ethoray.probes._trials import Aligned, Session, Trial, active, align, seen, session_name, tally, with_validation
from ethoray.probes._wavelets import Training
from ethoray.schema import Card
from ethoray.store import Dataset

log = logging.getLogger(__name__)

Array = np.ndarray
SPIKES = "/neural"
"""Beside labels: spike counts (time, unit) of the recording. No task can have this name."""
Model = Literal["rrr", "rrr_lbfgs", "tcn"]


@dataclass(frozen=True)
class Neural(Probe):
    """Encoders of neural activity and how they are chosen and scored.

    Attributes
    ----------
    models: "rrr" is reduced-rank regression solved exactly, "rrr_lbfgs" the published recipe of it, "tcn" the
        network of Facemap.
    locked: trials are locked to an event: statistics and coefficients of their own for every bin of a trial that
        ``least`` training trials reach. False for stretches of a continuous recording.
    smooth: standard deviation in seconds of the Gaussian over training spikes; what is scored is never smoothed.
    min_rate: units are predicted that fire more often in training, in spikes a second; 0: those that fire at all.
    rank: courses over a trial that units of a regression share.
    l2: penalties among which the exact regression chooses; "rrr_lbfgs" has the first.
    draws: learning rates that are drawn for "rrr_lbfgs" and "tcn".
    epochs, batch, drops: of "tcn", as in ``_wavelets.Training``.
    sessions: "single" fits every session alone; "joint" shares all but what belongs to a session's units.
    widest: a space of more features, such as all patches, is brought to so many principal components of its training
        bins: of each session, or of all that are fitted jointly.
    most: most numbers, of features and spikes together, that are held.
    """

    models: tuple[Model, ...] = ("rrr", "tcn")
    locked: bool = True
    least: int = 10
    smooth: float = 0.04
    min_rate: float = 2.0
    rank: int = 3
    l2: tuple[float, ...] = (10.0, 100.0, 1000.0)
    draws: int = 4
    epochs: int = 100
    batch: int = 8
    drops: tuple[int, ...] = (50,)
    sessions: Literal["single", "joint"] = "single"
    widest: int = 1024
    most: int = 500_000_000

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"models": ("rrr_lbfgs", "tcn"), "l2": (100.0,), "draws": 10, "batch": 32, "drops": (0, 50)},
    }

    def __post_init__(self) -> None:
        wrong = set(self.models) - {"rrr", "rrr_lbfgs", "tcn"}
        if wrong or not self.models or self.sessions not in ("single", "joint"):
            raise ValueError(f"neural probe: unknown models {self.models!r} or sessions {self.sessions!r}")
        if not self.l2 or min(self.l2) <= 0 or self.smooth < 0 or self.min_rate < 0:
            raise ValueError("neural probe: l2 are positive, smooth and min_rate at least 0")
        if min(self.least, self.rank, self.draws, self.epochs, self.batch, self.widest, self.most) < 1:
            raise ValueError("neural probe: least, rank, draws, epochs, batch, widest and most are at least 1")

    def judge(self, card: Card, seed: int) -> NeuralJudge:
        """See ``Probe.judge``; the judge is shown spikes beside the labels, under ``SPIKES``."""
        return NeuralJudge(self, seed)


class NeuralJudge(Judge):
    """Holds the trials and fits when scores are asked for; ``map`` may be replaced before that."""

    def __init__(self, probe: Neural, seed: int) -> None:
        self.probe, self.seed = probe, seed
        self.map: Map = builtins.map
        self.rates: dict[str, float] = {}
        self.trials: dict[str, list[Trial]] = {}
        self.held = 0
        self.aligned: dict[tuple[str, str], Aligned] = {}
        self.told: dict[str, dict[str, Any]] = {}

    def see(self, embedding: Embedding, labels: Labels) -> None:
        """Take in a trial of the splits "train", "validation" and "test", in any order."""
        if embedding.entry.split in ("train", "validation", "test"):
            self.learn(embedding, labels)

    def examine(self, embedding: Embedding, labels: Labels) -> None:
        """See ``Judge.examine``."""
        self.learn(embedding, labels)

    def learn(self, embedding: Embedding, labels: Labels) -> None:
        """See ``Judge.learn``."""
        entry = embedding.entry
        trial = seen(embedding, labels.get(SPIKES))
        where, name = f"recording {entry.name!r}", session_name(entry)
        trials = self.trials.setdefault(name, [])
        if trials and trial.shape != trials[0].shape:
            raise ProbeError(
                f"{where}: {trial.shape}, but {trials[0].name!r} of the same session {name!r} has "
                f"{trials[0].shape}; sessions differ in subject, or in the name before the number at its end"
            )
        if abs(self.rates.setdefault(name, entry.fps) / entry.fps - 1) > 1e-6:
            raise ProbeError(f"{where}: {entry.fps} bins a second, others of session {name!r} {self.rates[name]}")
        self.held += trial.spikes.size + sum(x.size for x in trial.spaces.values())
        if self.held > self.probe.most:
            raise ProbeError(f"{where}: more than {self.probe.most} numbers; raise most, or score fewer or narrower")
        trials.append(trial)

    def scores(self) -> tuple[Score, ...]:
        """See ``Judge.scores``: of every model and space, and of the trial average."""
        sessions = self._sessions()
        if not sessions:
            return ()
        spaces = sorted({space for session in sessions for space in session.trials[0].spaces})
        jobs: list[Job] = []
        groups = [range(len(sessions))] if self.probe.sessions == "joint" else [[i] for i in range(len(sessions))]
        for space in spaces:
            narrow = [_trials.narrowed([sessions[i] for i in group], space, self.probe.widest) for group in groups]
            aligned = [self._align(session, space) for group in narrow for session in group]
            for session, one in zip(sessions, aligned, strict=True):
                self.aligned[session.name, space] = one
            spikes = [[t.spikes for t in session.split("validation")] for session in sessions]
            for model in self.probe.models:
                for value in candidates(model, self.probe.l2, self.probe.draws, self.seed):
                    jobs += [self._job(model, space, aligned, spikes, group, value) for group in groups]
        results = list(self.map(fit, jobs))
        found = [self._psth(sessions, spaces[0])]
        for model in self.probe.models:
            for space in spaces:
                of = [r for r in results if (r.model, r.space) == (model, space)]
                found.append(self._score(sessions, f"neural_{model}", space, self._chosen(of)))
        return tuple(found)

    def describe(self) -> dict[str, dict[str, Any]]:
        """By "task/space", after ``scores``.

        value, error: mean over all units and its standard error; units: their number; sessions: by name "value",
        "units" (that fire in the test trials), "left_out" (too slow), and of a fitted model "chosen" (penalty or
        learning rate), "validation" (bits per spike there), "explained" (mean R² of smoothed spikes in test trials)
        and "missing" (share of feature values).
        """
        return self.told

    def _job(
        self,
        model: str,
        space: str,
        aligned: Sequence[Aligned],
        spikes: Sequence[list[Array]],
        group: Iterable[int],
        value: float,
    ) -> Job:
        of, probe = tuple(group), self.probe
        how = Training(probe.epochs, probe.batch, drops=probe.drops)
        sessions, counts = tuple(aligned[i] for i in of), tuple(spikes[i] for i in of)
        return Job(model, space, sessions, counts, value, probe.rank, how, probe.l2[0], self.seed)

    def _sessions(self) -> list[Session]:
        found = []
        for name, trials in self.trials.items():
            session = Session(name, self.rates[name], tuple(trials))
            lacking = [side for side in ("train", "test") if not session.split(side)]
            if not lacking and not len(active(session, self.probe.min_rate)):
                lacking = [f"unit above {self.probe.min_rate:g} spikes a second in training"]
            if lacking:
                log.warning("session %r is not scored: it has no %s", name, " and no ".join(lacking))
                continue
            found.append(with_validation(session, self.seed))
        if not found:
            log.warning("nothing is scored: no session with training and test trials was shown")
        elif len({tuple(sorted(s.trials[0].spaces)) for s in found}) > 1:
            raise ProbeError(f"sessions {', '.join(s.name for s in found)} have different spaces")
        return found

    def _align(self, session: Session, space: str) -> Aligned:
        probe = self.probe
        units = active(session, probe.min_rate)
        aligned = align(session, space, units, smooth=probe.smooth, locked=probe.locked, least=probe.least)
        if aligned.missing:
            log.warning(
                "session %r: %.2g of the values of space %r are missing and count as the training mean",
                session.name,
                aligned.missing,
                space,
            )
        return aligned

    def _chosen(self, results: list[Result]) -> dict[str, Result]:
        """By session the result that is best on its validation trials; joint fits are chosen as one."""
        best: dict[tuple[str, ...], Result] = {}
        for result in results:
            before = best.get(result.sessions)
            if before is None or result.validation > before.validation:
                best[result.sessions] = result
        return {name: result for names, result in best.items() for name in names}

    def _psth(self, sessions: list[Session], space: str) -> Score:
        rates: dict[str, list[Array]] = {}
        about: dict[str, dict[str, Any]] = {}
        for session in sessions:
            aligned = self.aligned[session.name, space]
            zeros = [np.zeros((len(t.spikes), len(aligned.units))) for t in session.split("test")]
            rates[session.name] = aligned.rates(zeros)
            about[session.name] = {}
        return self._add(sessions, "neural_psth", "none", rates, about)

    def _score(self, sessions: list[Session], task: str, space: str, chosen: Mapping[str, Result]) -> Score:
        rates: dict[str, list[Array]] = {}
        about: dict[str, dict[str, Any]] = {}
        for session in sessions:
            result = chosen[session.name]
            place = result.sessions.index(session.name)
            aligned = self.aligned[session.name, space]
            predicted = result.predicted[place]
            rates[session.name] = aligned.rates(predicted)
            about[session.name] = {
                "chosen": result.value,
                "validation": result.validation,
                "explained": explained(session, aligned, predicted, self.probe.smooth),
                "missing": aligned.missing,
            }
        return self._add(sessions, task, space, rates, about)

    def _add(
        self,
        sessions: list[Session],
        task: str,
        space: str,
        rates: Mapping[str, list[Array]],
        about: Mapping[str, dict[str, Any]],
    ) -> Score:
        """The score of predicted rates: tallies (trial, unit of all sessions, 4), zero for units of other sessions."""
        names, blocks = [], []
        for session in sessions:
            units, test = active(session, self.probe.min_rate), session.split("test")
            block = tally([t.spikes[:, units] for t in test], rates[session.name])
            bits = metrics.unit_bits_per_spike(block.sum(0))
            fires = int(np.isfinite(bits).sum())
            about[session.name].update(
                value=float(np.nanmean(bits)) if fires else float("nan"),
                units=fires,
                left_out=session.trials[0].spikes.shape[1] - len(units),
            )
            names += [t.name for t in test]
            blocks.append(block)
        tallies = np.zeros((len(names), sum(b.shape[1] for b in blocks), 4))
        row = column = 0
        for block in blocks:
            tallies[row : row + len(block), column : column + block.shape[1]] = block
            row, column = row + len(block), column + block.shape[1]
        bits = metrics.unit_bits_per_spike(tallies.sum(0))
        bits = bits[np.isfinite(bits)]
        if not len(bits):
            raise ProbeError(f"{task}/{space}: no predicted unit fires in a test trial; lower min_rate")
        error = float(bits.std(ddof=1) / np.sqrt(len(bits))) if len(bits) > 1 else float("nan")
        value = float(metrics.bits_per_spike(tallies.sum(0)))
        self.told[f"{task}/{space}"] = {"value": value, "error": error, "units": len(bits), "sessions": dict(about)}
        rule = "bits_per_spike"
        low, high = metrics.interval(metrics.RULES[rule], tallies, self.seed)
        return Score(task, space, rule, value, float(low), float(high), len(names), rule, tuple(names), tallies)


def encode(
    dataset: Dataset, embeddings: Iterable[Embedding], probe: Neural, seed: int = 0, map: Map = builtins.map
) -> NeuralJudge:
    """Show a judge every embedding with the spikes of its recording; ask it for ``scores`` and ``describe``."""
    judge = probe.judge(dataset.card, seed)
    judge.map = map
    for embedding in embeddings:
        if embedding.entry.split in ("train", "validation", "test"):
            judge.see(embedding, {SPIKES: dataset.neural(whole(embedding))})
    return judge
