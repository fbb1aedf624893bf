"""Run folders out of MLflow: what a storage lacks comes back from the server, so that pages can be made anywhere."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ethoray.schema import check_name
from ethoray.tracking import naming
from ethoray.tracking.connection import address, connect, every

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


class FetchError(ValueError):
    """MLflow has nothing of that name, or does not answer; the message says which."""


def fetch(storage: Path, name: str | None = None, uri: str | None = None) -> Iterator[Path]:
    """Bring finished runs and pages of sweeps that the storage lacks from MLflow; gives every new folder.

    Parameters
    ----------
    storage: the folder of the run folders. What is there already is left alone, finished or not.
    name: of one MLflow experiment (a sweep, or a dataset that was trained on); all of them by default.
    uri: of the MLflow server, as a ``Mirror`` takes it.

    A folder appears whole or not at all. Raises FetchError when there is no such experiment or no server,
    SchemaError when the server says a name that cannot stand in a path.
    """
    from mlflow.exceptions import MlflowException

    uri = address(storage, uri)
    try:
        client = connect(uri)
        known = {found.name: found.experiment_id for found in every(client.search_experiments)}
        if name is not None and name not in known:
            raise FetchError(f"MLflow at {uri} has no experiment {name} (there are: {', '.join(known)})")
        for title in [name] if name is not None else known:
            for run in every(client.search_runs, [known[title]]):
                yield from _folder(client, run, title, storage)
    except MlflowException as error:
        raise FetchError(f"MLflow at {uri}: {naming.brief(error)}") from error


def _folder(client: MlflowClient, run: Run, title: str, storage: Path) -> Iterator[Path]:
    """The folder of a finished run, or that of a sweep's page; nothing of a run that is neither."""
    there, tags = run.info.run_id, run.data.tags
    if tags.get(naming.DONE) == "finished":
        yield from _bring(client, there, storage / check_name(tags[naming.KEY], "run"))
    elif naming.PARENT not in tags and any(file.path == naming.MEMO for file in client.list_artifacts(there)):
        with tempfile.TemporaryDirectory() as place:
            memo = json.loads(Path(client.download_artifacts(there, naming.MEMO, place)).read_text())
        yield from _bring(client, there, storage / check_name(title, "sweep") / check_name(memo["dataset"], "dataset"))


def _bring(client: MlflowClient, run: str, folder: Path) -> Iterator[Path]:
    """All artifacts of a run as this folder, unless it exists."""
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder.parent) as beside:
        whole = Path(beside) / folder.name
        whole.mkdir()
        client.download_artifacts(run, "", str(whole))
        os.replace(whole, folder)
    yield folder
