"""The door to MLflow: run folders are mirrored into it, files first, so that it may be down, locked or deleted.

What MLflow already holds is asked from MLflow itself, never from a file of ours: runs are found by a tag that
is written in the call that creates them, and a run's last mirrored step is the last one it has. So nothing is
lost or doubled wherever the mirroring process is killed, and mirroring into an empty server starts anew.
Only one process mirrors a folder at a time (the one that drives a sweep or a training), which a locked
database makes wait, never fail.
"""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ethoray.tracking import naming
from ethoray.tracking.connection import address, connect, every
from ethoray.tracking.naming import DONE, KEY, PARENT, flatten, slug

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["Mirror", "flatten", "slug"]

logger = logging.getLogger(__name__)

PAUSE = 30.0
"""Seconds without another attempt after MLflow could not be reached."""

_LIMIT = 900  # metrics in one call; MLflow takes a thousand, in one transaction


class Mirror:
    """One MLflow experiment that follows run folders; no method raises, False says that MLflow is behind.

    Parameters
    ----------
    name: of the MLflow experiment, such as the sweep's.
    storage: the folder that holds the run folders; the default database and artifacts live in it.
    uri: of the MLflow server; MLFLOW_TRACKING_URI or ``sqlite:///<storage>/mlflow.db`` by default.
    parent: names a parent run (a sweep); the same name is the same parent, also after a crash.
    tags: of the parent run.
    models: which finished runs become models that embed new recordings: "all", "none", or the "best" of a parent
        run and every run without one; ETHORAY_MODELS by default, and else "best".
    """

    def __init__(
        self,
        name: str,
        storage: str | Path = "runs",
        uri: str | None = None,
        parent: str | None = None,
        tags: Mapping[str, str] | None = None,
        models: Literal["best", "all", "none"] | None = None,
    ) -> None:
        self.name, self.storage, self.parent, self.tags = name, Path(storage).resolve(), parent, dict(tags or {})
        self.uri = address(self.storage, uri)
        self.models = models or os.environ.get("ETHORAY_MODELS") or "best"
        if self.models not in ("best", "all", "none"):
            raise ValueError(f"ETHORAY_MODELS is best, all or none, not {self.models!r}")
        self._client: MlflowClient | None = None
        self._experiment = ""
        self._parent_id: str | None = None
        self._runs: dict[str, tuple[str, int]] = {}
        self._done: set[str] = set()
        self._quiet_until = 0.0
        self._warned = False

    def follow(self, folders: Iterable[str | Path], *, insist: bool = False) -> bool:
        """Bring every run folder's steps, scores and files into MLflow; True when all of it is there.

        A folder whose run is finished is looked at once. ``insist`` tries at once and again for half a minute.
        """
        paths = [Path(folder) for folder in folders]

        def follow() -> None:
            for path in paths:
                self._follow(path)

        return self._attempt(follow, insist)

    def publish(
        self,
        table: pd.DataFrame,
        files: Sequence[str | Path],
        *,
        verdict: str = "",
        best: str | Path | None = None,
        rows: Mapping[str, Sequence[str]] | None = None,
        insist: bool = False,
    ) -> bool:
        """Put a leaderboard table and files (page, csv, figures) on the parent run, replacing older ones.

        ``verdict`` is the answer in a sentence, by default who is first in the table; ``best`` the folder of the
        run whose model is registered under the mirror's name, with the alias "best". ``rows`` names the runs of every
        row by their keys, so that they can be linked to.
        """

        def publish() -> None:
            self._publish(table, [Path(f) for f in files], verdict, rows or {})
            if best is not None and self.models != "none":
                self._crown(Path(best))

        return self._attempt(publish, insist)

    def close(self, status: str = "FINISHED") -> bool:
        """End the parent run: "FINISHED", "FAILED" or "KILLED"; a run that was made twice is there once."""
        self._attempt(self._settle, False)
        return self._attempt(lambda: self._api().set_terminated(self._parent_run(), status), False)

    def _attempt(self, action: Callable[[], object], insist: bool) -> bool:
        waits = (0.0, 1.0, 3.0, 8.0, 18.0) if insist else (0.0,)
        for wait in waits:
            time.sleep(wait)
            if not insist and time.monotonic() < self._quiet_until:
                return False
            try:
                with warnings.catch_warnings():  # MLflow's own deprecations are nobody's news here
                    warnings.simplefilter("ignore")
                    action()
            except Exception as error:
                self._quiet_until = time.monotonic() + PAUSE
                if not self._warned:
                    told = "MLflow at %s is behind (%s); training goes on and it will catch up"
                    logger.warning(told, self.uri, naming.brief(error))
                self._warned = True
                continue
            if self._warned:
                logger.warning("MLflow at %s caught up", self.uri)
            self._warned = False
            return True
        return False

    def _api(self) -> MlflowClient:
        """The client, and the experiment it writes to; imported late because MLflow takes seconds."""
        if self._client is None:
            client = connect(self.uri)
            found = client.get_experiment_by_name(self.name)
            if found is None:
                local = self.uri.startswith("sqlite")
                place = (self.storage / "mlartifacts" / slug(self.name)).as_uri() if local else None
                self._experiment = client.create_experiment(self.name, artifact_location=place)
            else:
                self._experiment = found.experiment_id
            client.set_experiment_tag(self._experiment, naming.KIND, "custom_model_development")
            if question := self.tags.get("ethoray.question"):
                client.set_experiment_tag(self._experiment, naming.NOTE, naming.plain(question))
            self._client = client
        return self._client

    def _find_or_create(self, title: str, tags: dict[str, str], start: float) -> Run:
        found = self._matching(tags)
        if found:
            return found[0]
        return self._api().create_run(self._experiment, start_time=int(start * 1000), tags=tags, run_name=title)

    def _matching(self, tags: Mapping[str, str]) -> list[Run]:
        """The runs of a key, those of a sweep and those of none apart: the finished first, then the oldest."""
        identity = [f"tags.`{name}` = '{tags[name]}'" for name in (KEY, PARENT) if name in tags]
        found = every(self._api().search_runs, [self._experiment], " and ".join(identity))
        mine = [run for run in found if PARENT in tags or PARENT not in run.data.tags]
        return sorted(mine, key=lambda r: (r.data.tags.get(DONE) != "finished", r.info.start_time, r.info.run_id))

    def _settle(self) -> None:
        """Delete twins: a run was made, the answer came too late, and it was asked for again."""
        twins: dict[str, list[str]] = {}
        for run in self._matching({} if self.parent is None else {PARENT: self._parent_run()}):
            twins.setdefault(run.data.tags.get(KEY, ""), []).append(run.info.run_id)
        for key in {*self._runs, *self._done} & {*twins}:
            mine = self._runs[key][0] if key in self._runs else twins[key][0]
            for run_id in twins[key]:
                if run_id != mine:
                    self._api().delete_run(run_id)

    def _parent_run(self) -> str:
        if self._parent_id is None:
            if self.parent is None:
                raise ValueError("this mirror was opened without a parent run")
            tags = {**self.tags, KEY: self.parent}
            self._parent_id = self._find_or_create(self.parent, tags, time.time()).info.run_id
            self._api().update_run(self._parent_id, status="RUNNING")
        return self._parent_id

    def _follow(self, folder: Path) -> None:
        if folder.name in self._done or not (folder / "experiment.json").exists():
            return
        if folder.name not in self._runs and not self._adopt(folder):
            return
        run_id, step = self._runs[folder.name]
        finished, failed = naming.read(folder / "scores.json"), naming.read(folder / "failure.json")
        self._runs[folder.name] = (run_id, self._log_steps(folder, run_id, step))
        if finished:
            self._complete(folder, run_id, finished)
        elif failed:
            self._api().log_artifact(run_id, str(folder / "failure.json"))
            self._api().set_tag(run_id, "ethoray.error", failed["error"][:5000])
            self._api().set_terminated(run_id, "FAILED")

    def _adopt(self, folder: Path) -> bool:
        """Find or make the MLflow run of a folder, and how far it got; False when it is complete."""
        client = self._api()
        document, origin = naming.read(folder / "experiment.json"), naming.read(folder / "provenance.json")
        tags = {KEY: folder.name, **naming.tags(origin)}
        if self.parent is not None:
            tags[PARENT] = self._parent_run()
        title = f"{document['method']['name']} seed {document['seed']} {folder.name[:6]}"
        run = self._find_or_create(title, tags, origin.get("started", time.time()))
        if run.data.tags.get(DONE) == "finished":
            self._done.add(folder.name)
            return False
        from mlflow.entities import Param

        params = {k: v for k, v in flatten(document).items() if k not in {*run.data.params, "key"}}
        entries = [Param(name, value) for name, value in params.items()]
        for first in range(0, len(entries), 100):
            client.log_batch(run.info.run_id, params=entries[first : first + 100])
        if used := naming.data(origin):
            for run_id in (run.info.run_id, *([] if self.parent is None else [self._parent_run()])):
                client.log_inputs(run_id, used)
        client.update_run(run.info.run_id, status="RUNNING")
        steps = [m.step for m in client.get_metric_history(run.info.run_id, "seconds")]
        self._runs[folder.name] = (run.info.run_id, max(steps, default=-1))
        return True

    def _log_steps(self, folder: Path, run_id: str, step: int) -> int:
        """Log the lines of metrics.jsonl after ``step`` in batches of whole lines; the last step logged."""
        start = self._api().get_run(run_id).info.start_time
        for batch in naming.steps(folder, step, start, _LIMIT):
            self._api().log_batch(run_id, metrics=batch)
            step = int(batch[-1].step)
        return step

    def _complete(self, folder: Path, run_id: str, document: Mapping[str, Any]) -> None:
        """Scores as metrics, files as artifacts, and last the tag that says all of it is there."""
        client = self._api()
        when = int(1000 * document.get("finished", time.time()))
        metrics = naming.scores(document, when)
        for first in range(0, len(metrics), _LIMIT):
            client.log_batch(run_id, metrics=metrics[first : first + _LIMIT])
        for path in sorted(p for kind in ("json*", "parquet", "safetensors") for p in folder.glob(f"[!.]*.{kind}")):
            client.log_artifact(run_id, str(path))
        for part in sorted((folder / "embeddings").glob("*.parquet")):
            client.log_artifact(run_id, str(part), "embeddings")
        if self.models == "all" or (self.models == "best" and self.parent is None):
            self._give_model(folder, run_id)
        client.set_terminated(run_id, "FINISHED", end_time=when)
        client.set_tag(run_id, DONE, "finished")
        self._done.add(folder.name)

    def _give_model(self, folder: Path, run_id: str) -> str | None:
        """The id of the run's model, made when it has none; None where a model cannot be made, which is logged."""
        from ethoray.tracking import models

        if (why := models.lacking(folder)) is not None:
            logger.info("%s gets no model: %s", folder, why)
            return None
        model_id = models.log(self._api(), self._experiment, run_id, folder)
        if self.parent is None:
            method = naming.read(folder / "experiment.json")["method"]["name"]
            models.register(self._api(), f"{self.name}-{method}", model_id, run_id)
        self._api().set_tag(run_id, naming.NOTE, naming.usage(model_id))
        return model_id

    def _crown(self, folder: Path) -> None:
        from ethoray.tracking import models

        self._follow(folder)
        tags = {KEY: folder.name, PARENT: self._parent_run()}
        run_id = self._find_or_create(folder.name, tags, time.time()).info.run_id
        model_id = self._give_model(folder, run_id)
        if model_id is not None:
            models.register(self._api(), self.name, model_id, run_id, "best")

    def _publish(
        self, table: pd.DataFrame, files: Sequence[Path], verdict: str, rows: Mapping[str, Sequence[str]]
    ) -> None:
        client, run_id, table = self._api(), self._parent_run(), naming.columned(table)
        known = client.get_run(run_id).data.tags.get("mlflow.loggedArtifacts", "")
        if "leaderboard.json" in known:  # log_table would append its rows to those of last time
            client.log_text(run_id, table.to_json(orient="split", index=False), "leaderboard.json")
        else:
            client.log_table(run_id, table, "leaderboard.json")
        for path in files:
            inside = path.parent != files[0].parent and path.is_relative_to(files[0].parent)
            client.log_artifact(run_id, str(path), path.parent.name if inside else None)
        client.log_batch(run_id, metrics=naming.leader(table, int(1000 * time.time())))
        # of twins the one that stays, which comes first, has the last word
        runs = {trial.data.tags[KEY]: trial.info.run_id for trial in reversed(self._matching({PARENT: run_id}))}
        charts = naming.charts(self._experiment, [*runs.values()])
        links = naming.links(self._experiment, rows, runs)
        verdict = verdict or naming.verdict(table)
        client.set_tag(run_id, naming.NOTE, naming.note(self.tags, verdict, files, charts, links))
