"""The door to MLflow: run folders are mirrored into it, files first, so that it may be down, locked or deleted.

What MLflow already holds is asked from MLflow itself, never from a file of ours: runs are found by a tag that
is written in the call that creates them, and a run's last mirrored step is the last one it has. So nothing is
lost or doubled wherever the mirroring process is killed, and mirroring into an empty server starts anew.
Only one process mirrors a folder at a time (the one that drives a sweep or a training), which a locked
database makes wait, never fail.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ethoray.record import read_metrics

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import Run

logger = logging.getLogger(__name__)

PAUSE = 30.0
"""Seconds without another attempt after MLflow could not be reached."""

_KEY, _PARENT, _DONE = "ethoray.key", "mlflow.parentRunId", "ethoray.mirrored"
_LIMIT = 900  # metrics in one call; MLflow takes a thousand, in one transaction
_CALM = ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent", "mlflow.store.db_migrations")


class Mirror:
    """One MLflow experiment that follows run folders; no method raises, False says that MLflow is behind.

    Parameters
    ----------
    name: of the MLflow experiment, such as the sweep's.
    storage: the folder that holds the run folders; the default database and artifacts live in it.
    uri: of the MLflow server; MLFLOW_TRACKING_URI or ``sqlite:///<storage>/mlflow.db`` by default.
    parent: names a parent run (a sweep); the same name is the same parent, also after a crash.
    tags: of the parent run.
    """

    def __init__(
        self,
        name: str,
        storage: str | Path = "runs",
        uri: str | None = None,
        parent: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.storage, self.parent, self.tags = name, Path(storage).resolve(), parent, dict(tags or {})
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.storage / 'mlflow.db'}"
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

    def publish(self, table: pd.DataFrame, files: Sequence[str | Path], *, insist: bool = False) -> bool:
        """Put a leaderboard table and files (Markdown, csv, figures) on the parent run, replacing older ones."""
        return self._attempt(lambda: self._publish(table, [Path(f) for f in files]), insist)

    def close(self, status: str = "FINISHED") -> bool:
        """End the parent run: "FINISHED", "FAILED" or "KILLED"."""
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
                    logger.warning(told, self.uri, _brief(error))
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
            client = _connect(self.uri)
            found = client.get_experiment_by_name(self.name)
            if found is None:
                local = self.uri.startswith("sqlite")
                place = (self.storage / "mlartifacts" / slug(self.name)).as_uri() if local else None
                self._experiment = client.create_experiment(self.name, artifact_location=place)
            else:
                self._experiment = found.experiment_id
            self._client = client
        return self._client

    def _find_or_create(self, title: str, tags: dict[str, str], start: float) -> Run:
        client = self._api()
        identity = [f"tags.`{name}` = '{tags[name]}'" for name in (_KEY, _PARENT) if name in tags]
        for run in client.search_runs([self._experiment], " and ".join(identity)):
            if _PARENT in tags or _PARENT not in run.data.tags:
                return run
        return client.create_run(self._experiment, start_time=int(start * 1000), tags=tags, run_name=title)

    def _parent_run(self) -> str:
        if self._parent_id is None:
            if self.parent is None:
                raise ValueError("this mirror was opened without a parent run")
            tags = {**self.tags, _KEY: self.parent}
            self._parent_id = self._find_or_create(self.parent, tags, time.time()).info.run_id
            self._api().update_run(self._parent_id, status="RUNNING")
        return self._parent_id

    def _follow(self, folder: Path) -> None:
        if folder.name in self._done or not (folder / "experiment.json").exists():
            return
        if folder.name not in self._runs and not self._adopt(folder):
            return
        run_id, step = self._runs[folder.name]
        finished, failed = _json(folder / "scores.json"), _json(folder / "failure.json")
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
        document, origin = _json(folder / "experiment.json"), _json(folder / "provenance.json")
        tags = {_KEY: folder.name, **_tags(origin)}
        if self.parent is not None:
            tags[_PARENT] = self._parent_run()
        title = f"{document['method']['name']} seed {document['seed']} {folder.name[:6]}"
        run = self._find_or_create(title, tags, origin.get("started", time.time()))
        if run.data.tags.get(_DONE) == "finished":
            self._done.add(folder.name)
            return False
        from mlflow.entities import Param

        params = {k: v for k, v in flatten(document).items() if k not in run.data.params}
        entries = [Param(name, value) for name, value in params.items()]
        for first in range(0, len(entries), 100):
            client.log_batch(run.info.run_id, params=entries[first : first + 100])
        client.update_run(run.info.run_id, status="RUNNING")
        steps = [m.step for m in client.get_metric_history(run.info.run_id, "seconds")]
        self._runs[folder.name] = (run.info.run_id, max(steps, default=-1))
        return True

    def _log_steps(self, folder: Path, run_id: str, step: int) -> int:
        """Log the lines of metrics.jsonl after ``step`` in batches of whole lines; the last step logged."""
        from mlflow.entities import Metric

        client = self._api()
        start = client.get_run(run_id).info.start_time
        batch: list[Metric] = []
        for line in read_metrics(folder):
            if line["step"] <= step:  # a resumed run repeats steps: they are here already
                continue
            when = start + int(1000 * line["seconds"])
            values = [(slug(k), float(v)) for k, v in line.items() if k != "step"]
            if len(batch) + len(values) > _LIMIT:
                client.log_batch(run_id, metrics=batch)
                batch = []
            batch += [Metric(name, value, when, int(line["step"])) for name, value in values]
        if batch:
            client.log_batch(run_id, metrics=batch)
            return int(batch[-1].step)
        return step

    def _complete(self, folder: Path, run_id: str, document: Mapping[str, Any]) -> None:
        """Scores as metrics, files as artifacts, and last the tag that says all of it is there."""
        from mlflow.entities import Metric

        client = self._api()
        when = int(1000 * document.get("finished", time.time()))
        values = {f"score/{k}": v for k, v in document["scores"].items()}
        values |= {f"cost/{k}": v for k, v in document.get("cost", {}).items()}
        metrics = [Metric(slug(name), float(value), when, 0) for name, value in values.items()]
        for first in range(0, len(metrics), _LIMIT):
            client.log_batch(run_id, metrics=metrics[first : first + _LIMIT])
        for path in (*sorted(folder.glob("[!.]*.json*")), *folder.glob("checkpoint.safetensors")):
            client.log_artifact(run_id, str(path))
        for part in sorted((folder / "embeddings").glob("*.parquet")):
            client.log_artifact(run_id, str(part), "embeddings")
        client.set_terminated(run_id, "FINISHED", end_time=when)
        client.set_tag(run_id, _DONE, "finished")
        self._done.add(folder.name)

    def _publish(self, table: pd.DataFrame, files: Sequence[Path]) -> None:
        client, run_id = self._api(), self._parent_run()
        known = client.get_run(run_id).data.tags.get("mlflow.loggedArtifacts", "")
        if "leaderboard.json" in known:  # log_table would append its rows to those of last time
            client.log_text(run_id, table.to_json(orient="split", index=False), "leaderboard.json")
        else:
            client.log_table(run_id, table, "leaderboard.json")
        for path in files:
            client.log_artifact(run_id, str(path))


def slug(name: str) -> str:
    """A name that MLflow takes for metrics, parameters and paths; nothing in it can climb out of a folder."""
    safe = re.sub(r"[^\w\-. /]", "_", name)
    parts = [part.strip(" .") or "_" for part in safe.split("/") if part]
    return "/".join(parts)[:250] or "_"


def flatten(document: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested JSON as dotted names and text, cut at MLflow's 250 and 6000 characters."""
    flat: dict[str, str] = {}
    for name, value in document.items():
        dotted = f"{prefix}{name}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{dotted}.")
        elif isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
            flat |= flatten({str(i): item for i, item in enumerate(value)}, f"{dotted}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            flat[slug(dotted)] = text[:6000]
    return flat


def _connect(uri: str) -> MlflowClient:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    from mlflow import MlflowClient

    for name in _CALM:
        logging.getLogger(name).setLevel(logging.WARNING)
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _create_database(path)
    return MlflowClient(tracking_uri=uri)


def _create_database(path: Path) -> None:
    """Make the tables beside the place and link them in whole: killed in between, MLflow could never open it."""
    from mlflow import MlflowClient

    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")  # MLflow remembers a name for the process's life
    try:
        MlflowClient(tracking_uri=f"sqlite:///{beside}").search_experiments(max_results=1)
        with contextlib.suppress(FileExistsError):  # another process was first
            os.link(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _tags(origin: Mapping[str, Any]) -> dict[str, str]:
    chosen = {
        f"ethoray.{name}": json.dumps(origin.get(name))[:5000] for name in ("dirty", "dataset", "host", "packages")
    }
    return chosen | ({"mlflow.source.git.commit": origin["commit"]} if origin.get("commit") else {})


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
