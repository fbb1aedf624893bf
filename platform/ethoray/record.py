"""What a run leaves on disk: experiment, provenance, metrics, checkpoint, scores, each written atomically.

A run folder is named by its experiment's key, a hash of everything that decides the result: the data's
content, the method, the probes, the steps and the seed, and not where or how fast it ran. ``scores.json`` is
written last; a folder that has it is finished and never run again.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ethoray import methods, probes, stream, tallies
from ethoray.batch import Spec, Windows
from ethoray.learning import Budget, Progress, State
from ethoray.probes import Score
from ethoray.schema import Skeleton
from ethoray.store import Dataset

if TYPE_CHECKING:
    from ethoray.experiment import Experiment

FORMAT = 1
_NOT_IN_KEY = {"data": ("dataset", "stream"), "budget": ("log_every", "save_every", "device", "compile")}
_PACKAGES = ("ethoray", "torch", "numpy", "ray", "optuna", "mlflow", "pyarrow", "scikit-learn")


class RecordError(ValueError):
    """A run folder that cannot be read or written; the message names the file and what to do."""


def to_json(experiment: Experiment) -> dict[str, Any]:
    """The experiment as plain JSON: methods and probes carry their file's name as "name"."""
    return {
        "data": asdict(experiment.data),
        "method": {"name": experiment.method.name, **_fields(experiment.method)},
        "probes": [{"name": p.name, **_fields(p)} for p in experiment.probes],
        "budget": asdict(experiment.budget),
        "seed": experiment.seed,
    }


def from_json(document: Mapping[str, Any]) -> Experiment:
    """The experiment that ``to_json`` wrote; an unknown method, probe or field raises RecordError."""
    from ethoray.experiment import Experiment

    try:
        return Experiment(
            data=Windows(**document["data"]),
            method=_rebuild(methods.load(document["method"]["name"]), document["method"]),
            probes=tuple(_rebuild(probes.load(p["name"]), p) for p in document["probes"]),
            budget=Budget(**document["budget"]),
            seed=document["seed"],
        )
    except (KeyError, TypeError, LookupError) as error:
        raise RecordError(f"this experiment cannot be read by this version of ethoray: {error}") from error


def key(experiment: Experiment, dataset: Dataset) -> str:
    """Sixteen hex digits that name the result of this experiment on this data."""
    document = json.loads(json.dumps(to_json(experiment)))
    for part, names in _NOT_IN_KEY.items():
        for name in names:
            document[part].pop(name, None)
    if document["budget"]["precision"] == "float32":
        del document["budget"]["precision"]
    document["data"]["key"] = dataset.key
    document["format"] = FORMAT
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]


def begin(folder: Path, experiment: Experiment, dataset: Dataset) -> None:
    """Write what is about to be run and where it comes from; refuses a folder of another experiment."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(f"{folder}: cannot be created ({error.strerror}); choose another --storage") from error
    spec = stream.spec(experiment.data, dataset, experiment.seed)
    document = {**to_json(experiment), "key": key(experiment, dataset), "spec": asdict(spec)}
    document["cleaning"] = list(dataset.card.cleaning)
    there = folder / "experiment.json"
    if there.exists() and json.loads(there.read_text()).get("key") != document["key"]:
        raise RecordError(f"{folder}: holds another experiment; choose another folder or remove this one")
    write_json(there, document)
    write_json(folder / "provenance.json", provenance(dataset))
    (folder / "failure.json").unlink(missing_ok=True)


def load(folder: Path) -> tuple[Experiment, Spec]:
    """The experiment of a run folder and what its encoder was built for."""
    try:
        document = json.loads((folder / "experiment.json").read_text())
        spec = {**document["spec"], "skeleton": Skeleton.from_json(document["spec"]["skeleton"])}
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise RecordError(f"{folder}: holds no experiment that can be read ({error})") from error
    return from_json(document), Spec(**spec)


def cleaning(folder: Path) -> tuple[str, ...]:
    """How the tracks were cleaned that the encoder of a run folder learned from, in the words of their card."""
    return tuple(json.loads((folder / "experiment.json").read_text()).get("cleaning", ()))


def finished(folder: str | Path) -> dict[str, float] | None:
    """The scores of a finished run, or None."""
    path = Path(folder) / "scores.json"
    return dict(json.loads(path.read_text())["scores"]) if path.exists() else None


def finish(
    folder: Path, scores: Sequence[Score], *, parameters: int, embed_seconds: float = 0.0, alone: bool = True
) -> dict[str, float]:
    """Write the scores and what they cost, which ends the run; with peak memory if the process was its ``alone``."""
    lines = read_metrics(folder)
    tallies.write(folder, scores)
    document = {
        "scores": {s.name: s.value for s in scores},
        "intervals": {s.name: [s.low, s.high] for s in scores},
        "tasks": {s.name: {"task": s.task, "space": s.space, "metric": s.metric} for s in scores},
        "recordings": {s.name: s.recordings for s in scores},
        "cost": {
            "train_seconds": lines[-1]["seconds"] if lines else 0.0,
            "steps": lines[-1]["step"] if lines else 0,
            "parameters": parameters,
            "embed_seconds": embed_seconds,
            **({"peak_mb": _peak() / 2**20} if alone else {}),
        },
        "monitors": _monitors(lines),
        "finished": time.time(),
    }
    write_json(folder / "scores.json", document)
    return {s.name: s.value for s in scores}


def _peak() -> int:
    """Bytes: the most this process held, on the accelerator where there is one."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return int(torch.cuda.max_memory_allocated())
    import resource  # absent on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _monitors(lines: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The last look at each monitor ("short/rank"), and the gradient norm of the last pause."""
    seen = {name.removeprefix("monitor/"): v for line in lines for name, v in line.items() if name[:8] == "monitor/"}
    return seen | {name: lines[-1][name] for name in ("gradient_norm",) if lines and name in lines[-1]}


def fail(folder: Path, error: BaseException) -> None:
    """Leave the reason of a failure beside what the run had written."""
    text = "".join(traceback.format_exception(error))
    try:
        write_json(folder / "failure.json", {"error": f"{type(error).__name__}: {error}", "traceback": text})
    except RecordError:  # the disk that failed the run may fail this too; the first error is the one to raise
        sys.stderr.write(text)


class Diary:
    """The metrics of a run, one line a pause; resuming forgets what came after the checkpoint.

    Lines after the checkpoint describe steps that will be repeated; dropping them keeps every step once.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / "metrics.jsonl"
        kept = [line for line in read_metrics(folder) if line["step"] <= step]
        self.before = kept[-1]["seconds"] if kept else 0.0
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, progress: Progress) -> None:
        """Append a pause."""
        line = {"step": progress.step, "seconds": self.before + progress.seconds, **progress.metrics}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def read_metrics(folder: str | Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl; a last line torn by a crash is left out."""
    path = Path(folder) / "metrics.jsonl"
    if not path.exists():
        return []
    whole = path.read_text().split("\n")[:-1]
    return [json.loads(line) for line in whole if line]


def save_state(folder: Path, state: State) -> None:
    """Write a training state as safetensors: the old checkpoint or the new one, never a torn one."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in state.items()}
    metadata = {"format": str(FORMAT), "step": str(int(state["step"])), "sha256": _digest(tensors)}
    write_bytes(folder / "checkpoint.safetensors", save(tensors, metadata))


def load_state(folder: str | Path) -> State | None:
    """The last saved training state, or None; raises RecordError when the file is damaged."""
    path = Path(folder) / "checkpoint.safetensors"
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise RecordError(f"{path}: damaged ({error}); remove it to train from the start") from error
    if metadata.get("sha256") != _digest(tensors):
        raise RecordError(f"{path}: its content does not match its checksum; remove it to train from the start")
    return tensors


def provenance(dataset: Dataset) -> dict[str, Any]:
    """Where a result comes from: code, packages, machine, data and the command that was typed."""
    here = Path(__file__).resolve().parent
    commit = _git(here, "rev-parse", "HEAD")
    return {
        "commit": commit,
        "dirty": bool(_git(here, "status", "--porcelain", "--untracked-files=no")) if commit else None,
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "host": platform.node(),
        "cpu_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "dataset": {"uri": dataset.uri, "name": dataset.card.name, "key": dataset.key},
        "started": time.time(),
    }


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(document, indent=1, default=str) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file beside its place and rename it in; raises RecordError naming the file when it cannot."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        try:
            beside.unlink(missing_ok=True)
        finally:
            raise RecordError(f"{path}: cannot be written ({error.strerror or error})") from error


def _fields(config: Any) -> dict[str, Any]:
    assert is_dataclass(config)
    return {f.name: getattr(config, f.name) for f in fields(config)}


def _rebuild(kind: type, document: Mapping[str, Any]) -> Any:
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in document.items() if k != "name"}
    return kind(**values)


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
