"""The door to Optuna and Ray Tune: many experiments, one question.

Optuna proposes and its journal remembers what was proposed; Ray Tune places trials, one after another in workers
that stay; run folders are the ledger of what is done. A sweep killed at any moment continues with the same command:
what the journal left open is closed and proposed again, a run that is finished is not repeated, and one that was
interrupted goes on from its checkpoint. Tune's own restore is not used: killed at a wrong moment it repeats, rewinds
or loses trials. With one trial at a time a killed search also draws what it would have drawn; with several, what a
sampler learns from depends on which trial ended first, killed or not.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ethoray import record, store
from ethoray.batch import Windows
from ethoray.budget import Budget
from ethoray.schema import SchemaError
from ethoray.sweep.flags import Flags, parse, runs
from ethoray.sweep.trial import SweepError
from ethoray.sweep.usual import usual

if TYPE_CHECKING:  # a worker imports this package too, and needs neither
    import optuna
    import pandas as pd

    from ethoray.sweep.question import Candidate

    Picture = Callable[[pd.DataFrame, Path], list[Path]]

__all__ = ["Flags", "Sweep", "SweepError", "parse", "usual"]


@dataclass(frozen=True)
class Sweep:
    """One question: which candidate scores best, or what a factor does to a score.

    Attributes
    ----------
    name: of the sweep, its folder and its MLflow experiment; the script's name.
    candidate: answers an Optuna trial and the flags with an experiment; a function of a module, no lambda.
    metric: what to optimise: a score "task/space", or a pattern ("*/long") whose matches are averaged, of those
        tasks alone that are better in the ``direction``.
    trials: how many to draw; None is the whole grid, every point once. A grid cut short by --trials holds whole
        rounds of the first seeds.
    sampler: "grid", "random", "tpe" or "gp", or one of Optuna's own; by default the grid without a number of trials,
        TPE with one. Those named draw the same again after a crash; one of Optuna's own does what it remembers.
    direction: by default what the metric's tasks say.
    prune: stop unpromising trials early by their training loss: "asha", "median", or "none". Only to search, never
        to estimate an effect: pruned candidates stop at unequal steps, and their losses must mean the same.
    cost: make this small as well ("train_seconds", "parameters", "peak_mb"): the answer is then a front.
    picture: draws figures of the scores into a folder, for the page and MLflow.
    smoke_trials: how many trials --smoke runs.
    dataset, seeds, steps, seconds, batch_size, workers, cpus, gpus: defaults of the flags of the same names.
    """

    name: str
    candidate: Candidate
    metric: str
    trials: int | None = None
    sampler: str | optuna.samplers.BaseSampler | None = None
    direction: Literal["maximize", "minimize"] | None = None
    prune: str | bool = "none"
    cost: str = ""
    picture: Picture | None = None
    smoke_trials: int = 2
    dataset: str = "simulated_mice"
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = Budget.steps
    seconds: float = Windows.seconds
    batch_size: int = Windows.batch_size
    workers: int = 1
    cpus: int = 1
    gpus: float = 0.0

    def flags(self, **changes: Any) -> Flags:
        """The flags nobody typed, with some of them changed."""
        mine = {f.name: getattr(self, f.name) for f in fields(Flags) if hasattr(self, f.name)}
        mine["sampler"] = self.sampler or ("grid" if self.trials is None else "tpe")
        mine["prune"] = self.prune if isinstance(self.prune, str) else "asha" if self.prune else "none"
        return Flags(**{**mine, **changes})

    def main(self, words: Sequence[str] | None = None) -> pd.DataFrame | None:
        """Run from a command line; what cannot be run ends the process with one line and status 2."""
        question = sys.modules["__main__"].__doc__ or ""
        try:
            return self.run(parse(self.flags(), words, question), question=question)
        except KeyboardInterrupt:
            print("\nstopped; the same command goes on from here", file=sys.stderr, flush=True)
            raise SystemExit(130) from None
        except (SweepError, SchemaError, store.StoreError, record.RecordError, FileNotFoundError) as error:
            print(f"{self.name}: {error}", file=sys.stderr, flush=True)
            raise SystemExit(2) from None

    def run(self, flags: Flags | None = None, *, question: str = "", **changes: Any) -> pd.DataFrame | None:
        """Every score of every finished trial (``leaderboard.collect``), or None after a dry run.

        ``changes`` are flags: ``sweep.run(storage="runs", trials=12)``. Raises SweepError when all trials failed.
        """
        from ethoray.sweep.session import Session

        flags = replace(flags or self.flags(), **changes)
        if flags.smoke:
            few = self.smoke_trials
            flags = replace(flags, steps=min(flags.steps, 2), trials=min(flags.trials or few, few))
        flags = replace(flags, storage=str(runs(flags.storage)))
        with warnings.catch_warnings():
            _calm()
            return Session(self, flags, question.strip()).go()


def _calm() -> None:
    """Other people's warnings are not this sweep's news."""
    import optuna

    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for name in ("ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
