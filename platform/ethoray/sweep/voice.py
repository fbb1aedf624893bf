"""The voice of a running sweep: a row a finished trial, rows of what is running now and then, a sum at the end."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ray import tune

from ethoray import record
from ethoray.sweep import estimate
from ethoray.sweep.console import Table, say, span
from ethoray.sweep.flags import Flags
from ethoray.sweep.trial import outcome, whose_turn
from ethoray.tracking import Mirror

_SIGN_OF_LIFE = 20.0  # seconds
_MIRROR_EVERY = 15.0
_MIRROR_SHARE = 0.1  # of the time; what is left over follows when all trials have ended


class Voice(tune.Callback):
    """Follows the trials of a running sweep: speaks, and mirrors their folders into MLflow.

    Everything it needs lies in the run folders, so it also sees trials on other machines.
    """

    def __init__(
        self, total: int, done: int, pace: float, at_once: float, metric: str, flags: Flags, mirror: Mirror
    ) -> None:
        self.total, self.done, self.pace, self.at_once, self.metric = total, done, pace, at_once, metric
        self.flags, self.mirror = flags, mirror
        self.failed: list[str] = []
        self.table = Table(total, metric)
        self._started = self._spoke = self._mirrored = time.monotonic()
        self._expected = pace * (total - done) / max(at_once, 1)
        self._began: dict[str, float] = {}
        self._took: list[float] = []
        self._sound: list[float] = []
        self._beside: list[float] = []
        self._due: dict[str, None] = {}  # folders, in order
        self._mirroring = 0.0

    def found(self, config: dict[str, Any], values: tuple[float, ...]) -> None:
        """A proposal was answered from the ledger."""
        self.done += 1
        self._row(f"[{self.done}/{self.total}]", config, [f"{values[0]:.4g}", "before", ""])

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Note when it began."""
        self._began.setdefault(trial.trial_id, time.monotonic())

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Say how it ended, and those that shared its process."""
        result, others = trial.last_result or {}, trial.config.get("others", ())
        if "value" in result and not others:
            self._beside.append(estimate.beside(Path(trial.config["work"].folder), result.get("seconds", math.nan)))
        took = self._since(trial) / (1 + len(others))
        self._end(trial.config, result, took)
        for other in others:
            self._end(other, outcome(other["work"]), took)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Its process died more often than is forgiven; of those that shared it, only whose turn it was has failed."""
        others = trial.config.get("others", ())
        died = whose_turn(trial.config["work"].folder)
        took = self._since(trial) / (1 + len(others))
        for config in (trial.config, *others):
            told = outcome(config["work"]) if others else {}
            if others and not told and config["key"] != died:
                continue  # it will be tried for itself
            if not told:
                told = {"failed": self._died(Path(config["work"].folder), trial.get_error())}
            self._end(config, told, took)

    @staticmethod
    def _died(folder: Path, last: Exception | None) -> str:
        error = RuntimeError("the process of this trial died again and again (out of memory?)")
        if last is not None:
            error.add_note(str(last))
        folder.mkdir(parents=True, exist_ok=True)
        record.fail(folder, error)
        return str(error)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Give a sign of life, and let MLflow follow while workers are busy."""
        now = time.monotonic()
        running = [t for t in trials if t.status == "RUNNING"]
        if running and now - self._mirrored > _MIRROR_EVERY:
            self._due |= {t.config["work"].folder: None for t in running}
            self._mirrored = now
        if self._due and running and self._mirroring < _MIRROR_SHARE * (now - self._started):
            self.mirror.follow([self._next_due()])
            self._mirroring += time.monotonic() - now
        if running and now - self._spoke > _SIGN_OF_LIFE:
            left = span(self._left(running, now))
            for trial in running:
                took = span(now - self._began.get(trial.trial_id, now))
                self._row("…", trial.config, [self._step(trial), took, left])

    def close(self) -> str:
        """What it took, in a sentence."""
        wall, spent = time.monotonic() - self._started, sum(self._took)
        expected = f" ({span(self._expected)} expected)" if math.isfinite(self._expected) else ""
        beside = [seconds for seconds in self._beside if seconds >= 0]  # a resumed trial was trained before, too
        aside = f"; {statistics.median(beside):.1f} s a trial beside training and scoring" if beside else ""
        ended = len(self._took)
        return (
            f"{ended} trial{'s' * (ended != 1)} took {span(wall)}{expected}: {estimate.bill(spent, self.flags)}{aside}"
        )

    def _next_due(self) -> str:
        folder = next(iter(self._due))
        del self._due[folder]
        return folder

    def _step(self, trial: Any) -> str:
        work = trial.config["work"]
        lines = record.read_metrics(work.folder)
        done, steps = int(lines[-1]["step"]) if lines else 0, work.experiment.budget.steps
        return f"step {done}/{steps}" if done < steps else "scoring"

    def _left(self, running: Iterable[Any], now: float) -> float:
        spent = sum(min(self.pace, now - self._began.get(t.trial_id, now)) for t in running)
        return max(0.0, (self.total - self.done) * self.pace - spent) / max(self.at_once, 1)

    def _row(self, count: str, config: dict[str, Any], words: list[str]) -> None:
        for line in self.table.row(count, config, words):
            say(line)
        self._spoke = time.monotonic()

    def _since(self, trial: Any) -> float:
        now = time.monotonic()
        return now - self._began.get(trial.trial_id, now)

    def _end(self, config: dict[str, Any], result: dict[str, Any], took: float) -> None:
        self.done += 1
        self._took.append(took)
        folder = config["work"].folder
        if "failed" in result:
            self.failed.append(config["key"])
            words = [f"FAILED: {result['failed'].splitlines()[0][:160]} (see {folder}/failure.json)"]
        else:
            self._sound.append(took)
            self.pace = statistics.fmean(self._sound)
            left = span(self._left((), time.monotonic())) if self.done < self.total else ""
            how = f"{result['value']:.4g}" if "value" in result else f"pruned at {result.get('step')}"
            words = [how, span(took), left]
        self._row(f"[{self.done}/{self.total}]", config, words)
        self._due[folder] = None
