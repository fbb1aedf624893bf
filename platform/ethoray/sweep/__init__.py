"""The door to Optuna and Ray Tune: many experiments, one question.

Optuna proposes and its journal remembers what was proposed; Ray Tune places trials; run folders are the ledger
of what is done. A sweep killed at any moment continues with the same command: what the journal left open is
closed and proposed again, a run that is finished is not repeated, and one that was interrupted goes on from its
checkpoint. Tune's own restore is not used: killed at a wrong moment it repeats, rewinds or loses trials.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import optuna
import pandas as pd
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from ethoray import leaderboard, record, report, store
from ethoray.budget import Budget
from ethoray.schema import SchemaError
from ethoray.stream import start_ray
from ethoray.sweep import console
from ethoray.sweep.flags import Flags, parse, runs, shelf
from ethoray.sweep.proposals import Candidate, Proposals, Question, grid, open_journal, settle
from ethoray.sweep.trial import SweepError, resolve, train
from ethoray.sweep.usual import usual
from ethoray.tracking import Mirror

__all__ = ["Flags", "Sweep", "SweepError", "usual"]

Picture = Callable[[pd.DataFrame, Path], list[Path]]

_RESTARTS = 3  # of a trial whose process died; one that raised is not run again


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
    sampler: Optuna's, for a sweep that is no grid; TPE by default.
    direction: by default what the metric's tasks say.
    prune: stop unpromising trials early by their training loss (ASHA). Only to search, never to estimate an
        effect: pruned candidates stop at unequal steps, and their losses must mean the same.
    picture: draws figures of the scores into a folder, for the page and MLflow.
    smoke_trials: how many trials --smoke runs.
    dataset, seeds, steps, workers, cpus, gpus: defaults of the flags of the same names.
    """

    name: str
    candidate: Candidate
    metric: str
    trials: int | None = None
    sampler: optuna.samplers.BaseSampler | None = None
    direction: Literal["maximize", "minimize"] | None = None
    prune: bool = False
    picture: Picture | None = None
    smoke_trials: int = 2
    dataset: str = "simulated_mice"
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = Budget.steps
    workers: int = 1
    cpus: int = 1
    gpus: float = 0.0

    def flags(self, **changes: Any) -> Flags:
        """The flags nobody typed, with some of them changed."""
        mine = {f.name: getattr(self, f.name) for f in fields(Flags) if hasattr(self, f.name)}
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
        flags = replace(flags or self.flags(), **changes)
        if flags.smoke:
            few = self.smoke_trials
            flags = replace(flags, steps=min(flags.steps, 2), trials=min(flags.trials or few, few))
        flags = replace(flags, storage=str(runs(flags.storage)))
        with warnings.catch_warnings():
            _calm()
            return _Session(self, flags, question.strip()).go()


class _Session:
    """One command's worth of a sweep."""

    def __init__(self, sweep: Sweep, flags: Flags, question: str) -> None:
        self.sweep, self.flags, self.text = sweep, flags, question
        self.title = f"{sweep.name}-smoke" if flags.smoke else sweep.name
        self.storage, self.folder = Path(flags.storage), Path(flags.storage) / self.title
        self.dataset = _open(flags.dataset)
        metric, self.direction = resolve(sweep.metric, self.dataset.card, sweep.direction)
        self.question = Question(sweep.candidate, flags, self.dataset, metric, sweep.prune)
        points = grid(sweep.candidate, flags) if sweep.trials is None else []
        self.total = min(flags.trials or len(points), len(points) or sys.maxsize)
        self.points = points[: self.total]
        space = [(p.params, sorted(map(str, p.distributions.items()))) for p in points]
        asked = repr((self.dataset.key, flags.steps, flags.seeds, sweep.metric, space))
        self.study = f"{self.title}@{hashlib.sha256(asked.encode()).hexdigest()[:8]}"

    def go(self) -> pd.DataFrame | None:
        """Plan, train what is not done, publish."""
        first = self.points[0].params if self.points else None
        example = (self.question.of(first) if first else self.question(optuna.create_study().ask()))["work"].experiment
        need = self.flags.cpus * self.flags.workers
        if self.flags.dry_run:
            at_once = max(1, (os.cpu_count() or 1) // need)
            shown = [console.worded(p.params) for p in self.points]
            console.dry_run(self.title, shown, self.total, example, self.dataset, at_once)
            seconds, why = console.pace(example, self.dataset, self.storage)
            console.say(f"time: about {console.span(self.total / at_once * seconds)} here ({why})")
            return None
        storage = open_journal(self.folder / "optuna.journal")
        study = optuna.create_study(
            storage=storage, study_name=self.study, direction=self.direction, load_if_exists=True
        )
        ledger = settle(study, self.question, self.points, self.total)
        study.sampler = self._sampler(len(study.get_trials(deepcopy=False)))
        tags = {"ethoray.question": self.text[:4000], "ethoray.command": " ".join(sys.argv)[:4000]}
        mirror = Mirror(self.title, self.storage, parent=self.study, tags=tags)
        failed: list[str] = []
        if len(ledger) < self.total:
            seconds, why = console.pace(example, self.dataset, self.storage)
            failed = self._train(study, storage, ledger, mirror, seconds, why)
        else:
            console.say(f"{self.title}: all {self.total} trials are done already")
        return self._publish(ledger, failed, mirror)

    def _sampler(self, proposed: int) -> optuna.samplers.BaseSampler:
        if self.sweep.sampler is None or self.points:  # a grid's points wait in the queue
            return optuna.samplers.TPESampler(seed=proposed, constant_liar=True)
        return self.sweep.sampler

    def _train(
        self, study: optuna.Study, storage: Any, ledger: dict[str, float], mirror: Mirror, seconds: float, why: str
    ) -> list[str]:
        """Run what is left through Tune; the keys of trials that failed."""
        flags, left = self.flags, self.total - len(ledger)
        at_once = _start_cluster(flags)
        together = min(at_once, left)
        console.say(
            f"{self.title}: {self.total} trials of {flags.steps} steps, {len(ledger)} done already; {together} at a "
            f"time, {flags.workers * flags.cpus} CPU each; about {console.span(left / together * seconds)} ({why}); "
            f"runs in {self.storage}"
        )
        voice = console.Voice(self.total, len(ledger), seconds, together, self.sweep.metric, mirror)
        proposals = Proposals(self.question, study, storage, self.total, ledger, voice.found)
        grace = max(1, flags.steps // 4)
        asha = ASHAScheduler("step", "loss", "min", max_t=flags.steps + 1, grace_period=grace)
        share = {"cpu": flags.cpus, "gpu": flags.gpus} if flags.workers == 1 else {"cpu": 0.01}
        tune.Tuner(
            tune.with_resources(train, share),
            tune_config=tune.TuneConfig(
                search_alg=proposals,
                num_samples=left,
                max_concurrent_trials=together,
                scheduler=asha if self.sweep.prune else None,
                trial_name_creator=_brief,
                trial_dirname_creator=_brief,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(self.folder),
                verbose=0,
                callbacks=[voice],
                failure_config=tune.FailureConfig(max_failures=_RESTARTS),
            ),
        ).fit()
        return voice.failed

    def _publish(self, ledger: dict[str, float], failed: list[str], mirror: Mirror) -> pd.DataFrame:
        """Mirror every run, write the page, and say where everything is."""
        folders = [self.question.folder(key) for key in ledger]
        scores = leaderboard.collect(folders, self.dataset.card)
        table = leaderboard.leaderboard(scores)
        current = mirror.follow([*folders, *map(self.question.folder, failed)], insist=True)
        files: list[Path] = []
        if table.rows:
            drawn = self.sweep.picture(scores, self.folder) if self.sweep.picture else []
            files = [
                *report.page(self.folder, self.title, self.text, scores, self.dataset.card, sys.argv, drawn),
                *drawn,
            ]
            current = mirror.publish(table.frame(), files, insist=True) and current
        mirror.close("FINISHED" if table.rows else "FAILED")
        if not table.rows:
            raise SweepError(f"all {len(failed)} trials failed; failure.json in each folder of {self.storage} says why")
        finite = {key: value for key, value in ledger.items() if value == value}
        best = max(finite, key=lambda key: finite[key] * (1 if self.direction == "maximize" else -1))
        console.say("\n" + table.markdown())
        console.say(f"best {self.sweep.metric}: {finite[best]:.4g} ({self.question.folder(best)})")
        for path in files:
            console.say(f"wrote {path}")
        if failed:
            console.say(f"{len(failed)} trials failed; the same command tries them again")
        console.say(f"MLflow: {mirror.uri}" + ("" if current else " is behind; the same command brings it up to date"))
        return scores


def _open(name: str) -> store.Dataset:
    try:
        return store.open(name, shelf())
    except store.StoreError as error:
        recipe = f"python datasets/{name}.py --out {name}"
        raise SweepError(
            f"{error}\nprepare it with a recipe ({recipe}) or from your own files (ethoray prepare)"
        ) from None


def _start_cluster(flags: Flags) -> int:
    """Connect to Ray or start it; how many trials fit at once. Raises SweepError when none does."""
    os.environ.update(
        RAY_AIR_NEW_OUTPUT="0",
        TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
        TUNE_DISABLE_SIGINT_HANDLER="1",
        TUNE_DISABLE_STRICT_METRIC_CHECKING="1",  # a failed trial reports no value
    )
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if "RAY_ADDRESS" in os.environ and not ray.is_initialized():
        ray.init(**quiet)
    start_ray(**quiet)
    there = ray.cluster_resources()
    need = {"CPU": flags.cpus * flags.workers, "GPU": flags.gpus * flags.workers}
    short = [f"{n:g} {kind}" for kind, n in need.items() if n > there.get(kind, 0)]
    if short:
        raise SweepError(
            f"a trial needs {' and '.join(short)}, the cluster has {there.get('CPU', 0):g} CPU and "
            f"{there.get('GPU', 0):g} GPU; lower --cpus, --gpus or --workers"
        )
    return int(min(there.get(kind, 0) / n for kind, n in need.items() if n))


def _brief(trial: Any) -> str:
    return str(trial.trial_id)


def _calm() -> None:
    """Other people's warnings are not this sweep's news."""
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for name in ("ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
