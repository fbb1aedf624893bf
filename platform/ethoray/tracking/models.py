"""A finished run as an MLflow model that embeds new recordings: source, checkpoint and experiment, no pickle."""

from __future__ import annotations

import logging
import re
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ethoray import record
from ethoray.tracking.naming import KEY, read, usage

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

    from ethoray.batch import Spec

_INPUT = {
    "path": "string", "recording": "string", "frame": "long", "time": "double", "individual": "string",
    "keypoint": "string", "x": "double", "y": "double", "z": "double", "confidence": "double",
}  # fmt: skip
_OUTPUT = {
    "recording": "string", "split": "string", "frame": "long", "time": "double", "individual": "string",
    "validity": "float", "confidence": "float",
}  # fmt: skip
_FRAMES = 8


def lacking(folder: Path) -> str | None:
    """Why a run folder cannot become a model, None when it can."""
    if not (folder / "checkpoint.safetensors").exists():
        return "there is no checkpoint"
    try:
        record.load(folder)
    except record.RecordError as error:
        return str(error)
    return None


def save(folder: Path, place: Path, **model: Any) -> None:
    """Write a run folder as an MLflow model into the new folder ``place``; needs no server and no network."""
    import mlflow
    from mlflow.models import Model

    spec = record.load(folder)[1]
    logger = logging.getLogger("mlflow")
    level, logger.level = logger.level, logging.WARNING
    try:
        mlflow.pyfunc.save_model(
            str(place),
            python_model=str(Path(__file__).with_name("embedder.py")),
            artifacts={
                "experiment": str(folder / "experiment.json"),
                "checkpoint": str(folder / "checkpoint.safetensors"),
            },
            pip_requirements=[f"ethoray=={version('ethoray')}"],
            signature=_signature(folder),
            metadata={"key": folder.name},
            mlflow_model=Model(**model),
        )
        _add_example(place, spec)
    finally:
        logger.level = level


def log(client: MlflowClient, experiment: str, run_id: str, folder: Path) -> str:
    """Give a run its model, once; the model's id, for ``mlflow.pyfunc.load_model("models:/<id>")``."""
    from mlflow.entities import LoggedModelOutput

    wanted = f"tags.`{KEY}` = '{folder.name}' AND source_run_id = '{run_id}'"
    there = client.search_logged_models([experiment], wanted)
    ready = [model for model in there if str(model.status) == "READY"]
    if ready:
        return str(ready[0].model_id)
    method = record.load(folder)[0].method.name
    tags = {KEY: folder.name}
    model = there[0] if there else client.create_logged_model(experiment, method, run_id, tags, model_type="encoder")
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) / "model"
        save(folder, place, run_id=run_id, model_id=model.model_id)
        client.log_model_artifacts(model.model_id, str(place))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
    return str(model.model_id)


def register(client: MlflowClient, name: str, model_id: str, run_id: str, alias: str | None = None) -> str:
    """A version of the registered model ``name``, once a run; the version."""
    from mlflow.exceptions import MlflowException

    name, source = re.sub(r"[/:]", "-", name), client.get_logged_model(model_id).artifact_location
    try:
        client.create_registered_model(name, description=usage(f"{name}@{alias}" if alias else f"{name}/1"))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    versions = [v for v in client.search_model_versions(f"run_id = '{run_id}'") if v.name == name]
    made = versions[0] if versions else client.create_model_version(
        name, source, run_id, model_id=model_id
    )  # fmt: skip
    if alias:
        client.set_registered_model_alias(name, alias, made.version)
    return str(made.version)


def example(spec: Spec) -> pd.DataFrame:
    """A table that a model takes: some frames of animals that stand still, in the long format."""
    names, animals = spec.skeleton.keypoints, [f"individual_{i}" for i in range(spec.individuals)]
    frame, animal, point = (a.ravel() for a in np.indices((_FRAMES, len(animals), len(names))))
    table = pd.DataFrame({"recording": "example", "frame": frame, "time": frame / spec.fps})
    table["individual"] = np.asarray(animals, dtype=object)[animal]
    table["keypoint"] = np.asarray(names, dtype=object)[point]
    for axis, letter in enumerate("xyz"[: spec.space]):
        table[letter] = 10.0 * point + 100.0 * animal + axis
    return table


def _add_example(place: Path, spec: Spec) -> None:
    """The example as MLflow keeps it; its own way of doing so would load the model and run it."""
    from mlflow.models import Model
    from mlflow.models.utils import _save_example

    model = Model.load(str(place))
    _save_example(model, example(spec), str(place))
    model.save(str(place / "MLmodel"))


def _signature(folder: Path) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, ParamSchema, ParamSpec, Schema

    columns = [ColSpec(kind, name, required=False) for name, kind in _INPUT.items()]
    spaces = sorted({what["space"] for what in _tasks(folder) if "@" not in what["space"]})
    out = [ColSpec(kind, name, required=name in ("recording", "frame", "time")) for name, kind in _OUTPUT.items()]
    out += [ColSpec(Array("float"), space) for space in spaces]
    params = [
        ParamSpec("fps", "double", 0.0),
        *(ParamSpec(name, "boolean", False) for name in ("resample", "individuals", "as_is")),
    ]
    return ModelSignature(Schema(columns), Schema(out), ParamSchema(params))


def _tasks(folder: Path) -> list[dict[str, str]]:
    return list(read(folder / "scores.json").get("tasks", {}).values())
