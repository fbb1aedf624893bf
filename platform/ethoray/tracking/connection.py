"""A client of an MLflow server, and a database for those who have none."""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

DATABASE = "mlflow.db"
_CALM = ("alembic", "mlflow.store.db.utils", "mlflow.tracking.fluent", "mlflow.store.db_migrations")


def address(storage: Path, uri: str | None = None) -> str:
    """Of the MLflow server: what is asked for, MLFLOW_TRACKING_URI, or a database in the storage."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{storage.resolve() / DATABASE}"


def every(search: Callable[..., Any], *words: Any) -> Iterator[Any]:
    """All that a search of MLflow finds, page by page."""
    token = None
    while token != "":
        found = search(*words, page_token=token)
        yield from found
        token = found.token or ""


def connect(uri: str) -> MlflowClient:
    """A client of a server or of a sqlite file, which is made when it is not there."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    os.environ.setdefault(
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0"
    )  # a request that makes a run may not be repeated blindly
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
