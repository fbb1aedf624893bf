"""One command's worth of a sweep: plan, train what is not done, publish."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pandas as pd
from ray import tune

from ethoray import leaderboard, report, store
from ethoray.experiment import Experiment
from ethoray.report.again import Memo
from ethoray.report.verdict import verdict
from ethoray.sweep import console, estimate, nodes, samplers
from ethoray.sweep.flags import Flags, shelf
from ethoray.sweep.guard import Taken, alone
from ethoray.sweep.journal import open_journal
from ethoray.sweep.lent import lend
from ethoray.sweep.proposals import Proposals, settle
from ethoray.sweep.question import Question, Values, grid
from ethoray.sweep.trial import SweepError, resolve, train
from ethoray.sweep.voice import Voice
from ethoray.tables import Leaderboard
from ethoray.tracking import Mirror
from ethoray.tracking.naming import MEMO

if TYPE_CHECKING:
    from ethoray.sweep import Sweep

_RESTARTS = 3  # of a trial whose process died; one that raised is not run again


class Session:
    """A sweep with its flags and its data; ``go`` runs it.

    Attributes
    ----------
    total: trials there are to be.
    points: of a grid, in the order they are proposed; empty when a sampler searches.
    study: Optuna's name of the question: with other data, steps or points it is another question.
    """

    def __init__(self, sweep: Sweep, flags: Flags, question: str) -> None:
        self.sweep, self.flags, self.text = sweep, flags, question
        self.title = f"{sweep.name}-smoke" if flags.smoke else sweep.name
        self.storage, self.folder = Path(flags.storage), Path(flags.storage) / self.title
        self.dataset = _open(flags.dataset)
        metric, self.direction = resolve(sweep.metric, self.dataset.card, sweep.direction)
        self.question = Question(sweep.candidate, flags, self.dataset, metric)
        points = grid(sweep.candidate, flags) if flags.sampler == "grid" else []
        if not points and flags.trials is None:
            raise SweepError(f"a search with {flags.sampler} has no end of its own: give --trials")
        self.total = min(flags.trials or len(points), len(points) or sys.maxsize)
        self.points = points[: self.total]
        space = [(p.params, sorted(map(str, p.distributions.items()))) for p in points]
        asked = repr((self.dataset.key, flags.steps, flags.seconds, flags.batch_size, flags.seeds, sweep.metric, space))
        asked += f" and {flags.cost}" if flags.cost else ""
        self.mark = hashlib.sha256(asked.encode()).hexdigest()[:8]
        self.study = f"{self.title}@{self.mark}"

    def go(self) -> pd.DataFrame | None:
        """Plan, train what is not done, publish; one process at a time asks one question of one storage."""
        first = self.points[0].params if self.points else None
        example = (self.question.of(first) if first else self.question(optuna.create_study().ask()))["work"].experiment
        if self.flags.dry_run:
            self._say_plan(example)
            return None
        try:
            with alone(self.folder / f"{self.mark}.running", wait=False):
                return self._run(example)
        except Taken:
            raise SweepError(
                f"another process is running {self.study} in {self.storage}; wait for it, end it, or choose another "
                "--storage"
            ) from None

    def _say_plan(self, example: Experiment) -> None:
        flags = self.flags
        at_once = flags.at_once or max(1, (os.cpu_count() or 1) // (flags.cpus * flags.workers))
        shown = [console.worded(p.params) for p in self.points]
        console.dry_run(self.title, shown, self.total, example, self.dataset, at_once)
        seconds, why = estimate.pace(example, self.dataset, self.storage)
        all_of_it = console.span(self.total / at_once * seconds)
        console.say(f"time: about {all_of_it} here ({why}); {estimate.bill(self.total * seconds, flags)}")

    def _run(self, example: Experiment) -> pd.DataFrame:
        storage = open_journal(self.folder / "optuna.journal")
        ways = [self.direction, "minimize"] if self.flags.cost else [self.direction]
        study = optuna.create_study(storage=storage, study_name=self.study, directions=ways, load_if_exists=True)
        study.pruner = samplers.pruner(self.flags.prune, self.flags.steps)
        ledger = settle(study, self.question, self.points, self.total)
        tags = {"ethoray.question": self.text[:4000], "ethoray.command": " ".join(sys.argv)[:4000]}
        mirror = Mirror(self.title, self.storage, parent=self.study, tags=tags)
        failed: list[str] = []
        if len(ledger) < self.total:
            failed = self._train(study, storage, ledger, mirror, example)
        else:
            console.say(f"{self.title}: all {self.total} trials are done already")
        drawn = {t.user_attrs.get("key", ""): console.called(t.params) for t in study.get_trials(deepcopy=False)}
        return self._publish(ledger, failed, mirror, drawn)

    def _train(
        self, study: optuna.Study, storage: Any, ledger: dict[str, Values], mirror: Mirror, example: Experiment
    ) -> list[str]:
        """Run what is left through Tune; the keys of trials that failed."""
        flags, left = self.flags, self.total - len(ledger)
        seconds, why = estimate.pace(example, self.dataset, self.storage)
        slots = nodes.start(flags)
        together = min(slots(), left)
        console.say(
            f"{self.title}: {self.total} trials of {flags.steps} steps, {len(ledger)} done already; {together:.0f} at "
            f"a time, {flags.workers * flags.cpus} CPU each; about {console.span(left / together * seconds)} ({why}), "
            f"{estimate.bill(left * seconds, flags)}; runs in {self.storage}"
        )
        voice = Voice(self.total, len(ledger), seconds, together, self.sweep.metric, flags, mirror)
        proposals = Proposals(
            self.question, study, storage, self.total, ledger, voice.found,
            sampler=partial(samplers.sampler, flags.sampler), pruner=study.pruner, slots=slots,
            together=self._together(),
        )  # fmt: skip
        share = {"cpu": flags.cpus, "gpu": flags.gpus} if flags.workers == 1 else {"cpu": 0.01}
        lent = tune.with_parameters(train, lent=lend(self.dataset, example, flags.workers))
        scratch = f"tune-{self.mark}"
        try:
            tune.Tuner(
                tune.with_resources(lent, share),
                tune_config=tune.TuneConfig(
                    search_alg=proposals,
                    num_samples=-1,
                    scheduler=samplers.Pruning(proposals) if self.question.prune else None,
                    reuse_actors=True,
                    trial_name_creator=_brief,
                    trial_dirname_creator=_brief,
                ),
                run_config=tune.RunConfig(
                    name=scratch,
                    storage_path=str(self.folder),
                    verbose=0,
                    callbacks=[voice],
                    failure_config=tune.FailureConfig(max_failures=_RESTARTS),
                ),
            ).fit()
        finally:
            shutil.rmtree(self.folder / scratch, ignore_errors=True)  # nothing in it is ever read
        console.say(f"{self.title}: {voice.close()}")
        return voice.failed

    def _together(self) -> int:
        """How many trials may share a process: where draws do not wait for results, and one process trains one."""
        flags = self.flags
        if flags.sampler not in ("grid", "random") or self.question.prune or flags.workers > 1:
            return 1
        return flags.together

    def _publish(
        self, ledger: dict[str, Values], failed: list[str], mirror: Mirror, drawn: dict[str, str]
    ) -> pd.DataFrame:
        """Mirror every run, write the page, and say where everything is."""
        folders = [self.question.folder(key) for key in ledger]
        called = {folder.name: drawn.get(folder.name, "") for folder in folders}
        scores = leaderboard.collect(folders, self.dataset.card, called)
        table = leaderboard.leaderboard(scores)
        current = mirror.follow([*folders, *map(self.question.folder, failed)], insist=True)
        files: list[Path] = []
        if table.rows:
            files = self._page(scores, table, called)
            best = self.question.folder(samplers.best({k: v for k, v in ledger.items() if v}, self.direction))
            rows = {table.name(row): [Path(f).name for f in row["folders"]] for row in table.rows}
            frame, said = table.frame(), verdict(table)
            current = mirror.publish(frame, files, verdict=said, best=best, rows=rows, insist=True) and current
        mirror.close("FINISHED" if table.rows else "FAILED")
        if not table.rows:
            raise SweepError(f"all {len(failed)} trials failed; failure.json in each folder of {self.storage} says why")
        console.say("\n" + table.markdown())
        self._say_best({key: values for key, values in ledger.items() if values})
        for path in files:
            console.say(f"wrote {path}")
        if failed:
            console.say(f"{len(failed)} trials failed; the same command tries them again")
        console.say(f"MLflow: {mirror.uri}" + ("" if current else " is behind; the same command brings it up to date"))
        return scores

    def _page(self, scores: pd.DataFrame, board: Leaderboard, called: dict[str, str]) -> list[Path]:
        """The page in <sweep>/<dataset>/, with the memo from which it can be made again."""
        where = self.dataset.uri.rstrip("/").rpartition("/")[2]
        folder = self.folder / where
        folder.mkdir(parents=True, exist_ok=True)
        drawn = self.sweep.picture(scores, folder) if self.sweep.picture else []
        command = ["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]]
        memo = Memo(self.title, self.text, where, called, tuple(command), tuple(p.name for p in drawn))
        memo.write(folder)
        title, look = f"{self.title}: {where}", not self.flags.smoke
        page = report.page(folder, title, self.text, scores, self.dataset.card, command, drawn, look=look, board=board)
        return [*page, *drawn, folder / MEMO]

    def _say_best(self, values: dict[str, Values]) -> None:
        best = samplers.best(values, self.direction)
        console.say(f"best {self.sweep.metric}: {values[best][0]:.4g} ({self.question.folder(best)})")
        if self.flags.cost:
            console.say(f"none is better without more {self.flags.cost}:")
            for key in samplers.front(values, self.direction):
                console.say(f"  {values[key][0]:.4g} for {values[key][1]:.4g} ({self.question.folder(key)})")


def _open(name: str) -> store.Dataset:
    try:
        return store.open(name, shelf())
    except store.StoreError as error:
        recipe = f"python datasets/{name}.py --out {name}"
        raise SweepError(
            f"{error}\nprepare it with a recipe ({recipe}) or from your own files (ethoray prepare)"
        ) from None


def _brief(trial: Any) -> str:
    return str(trial.trial_id)
