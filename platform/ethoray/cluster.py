"""One experiment in many processes: Ray Train keeps them alive, each reads its own Ray Data shard.

A run folder written by two workers is that of one worker with the same global batch, to rounding. When a
worker dies Ray Train starts the group again; every worker resumes from the folder's checkpoint and streams
from the step after it, so no step counts twice and nothing before it is read again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from ethoray import record, store
from ethoray.batch import rank_rows
from ethoray.experiment import Experiment, Log, build, evaluate, train
from ethoray.learning import Learner, Progress, TrainingError
from ethoray.schema import SchemaError
from ethoray.stream import open_stream, spec, start_ray

_POLL_SECONDS = 1.0
_COLLECTIVE_SECONDS = 600
_TRAIN_FOLDER = "ray_train"
_SAME_AGAIN = (TrainingError, SchemaError, store.StoreError, record.RecordError)


def launch(
    experiment: Experiment,
    folder: str | Path,
    workers: int,
    *,
    gpus: bool | None = None,
    cpus_per_worker: float | None = None,
    log: Log | None = None,
    max_failures: int = 3,
) -> Mapping[str, float]:
    """What ``experiment.run`` does, by ``workers`` processes; returns {"task/space": score}.

    Parameters
    ----------
    folder: of the run; every node of the cluster must see it under this path.
    gpus: one GPU a worker; None follows the budget's device and what the cluster has.
    cpus_per_worker: logical CPUs a worker reserves; None gives the largest share that lets all workers start
        on the cluster as a whole. A Tune trial that launches workers reserves no CPU itself, or says here
        what is left.
    log: called in this process as the lines of metrics.jsonl appear, each step once; a pause's ``state`` is
        the last checkpoint. What it raises ends the run.
    max_failures: how often dead workers are replaced. An error that would come again is not repeated.

    Raises SchemaError when the batch does not divide among the workers, TrainingError when training failed.
    """
    folder = Path(folder).resolve()
    if (scores := record.finished(folder)) is not None:
        return scores
    rank_rows(np.empty((experiment.data.batch_size, 2)), 0, workers)
    dataset = store.open(experiment.data.dataset)
    record.begin(folder, experiment, dataset)
    try:
        start_ray(log_to_driver=False)  # what workers have to say is in the run folder
        on_gpus = _on_gpus(experiment.budget.device, workers, gpus)
        cpus = _share(workers) if cpus_per_worker is None else cpus_per_worker
        group = _Group(experiment, dataset, folder, workers, on_gpus, cpus, max_failures)
        return group.watch(log)
    except Exception as error:
        record.fail(folder, error)
        raise
    finally:
        shutil.rmtree(folder / _TRAIN_FOLDER, ignore_errors=True)


@dataclass(frozen=True)
class _Group:
    experiment: Experiment
    dataset: store.Dataset
    folder: Path
    workers: int
    gpus: bool
    cpus: float
    max_failures: int

    def watch(self, log: Log | None) -> Mapping[str, float]:
        """Train in a task that holds no CPU, and pass on what the workers write meanwhile."""
        seen = _step(self.folder)
        record.Diary(self.folder, seen)  # forgets lines of an earlier attempt that will be written again
        task = ray.remote(num_cpus=0, max_retries=0)(_fit).remote(self)
        try:
            done: list[Any] = []
            while not done:
                done, _ = ray.wait([task], timeout=_POLL_SECONDS)
                seen = self._tell(log, seen)
            scores: Mapping[str, float] = ray.get(task)
            return scores
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except BaseException:
            ray.cancel(task, force=True)
            raise

    def _tell(self, log: Log | None, seen: int) -> int:
        if log is None:
            return seen
        for line in record.read_metrics(self.folder):
            step, seconds = int(line.pop("step")), line.pop("seconds")
            if step > seen:
                steps = self.experiment.budget.steps
                log(Progress(step, steps, line, seconds, False, lambda: record.load_state(self.folder) or {}))
                seen = step
        return seen


def _fit(group: _Group) -> Mapping[str, float]:
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    resources = {"CPU": group.cpus, **({"GPU": 1.0} if group.gpus else {})}
    trainer = TorchTrainer(
        _work,
        train_loop_config={"group": group},
        scaling_config=ScalingConfig(num_workers=group.workers, use_gpu=group.gpus, resources_per_worker=resources),
        torch_config=TorchConfig("nccl" if group.gpus else "gloo", timeout_s=_COLLECTIVE_SECONDS),
        run_config=RunConfig(
            name=_TRAIN_FOLDER,
            storage_path=str(group.folder),
            failure_config=FailureConfig(max_failures=group.max_failures),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    try:
        scores: Mapping[str, float] | None = trainer.fit().return_value
    except TrainingFailedError as error:
        raise TrainingError(f"{group.workers} workers, {group.folder}: {error}") from None
    if scores is None:
        raise TrainingError(json.loads((group.folder / "failure.json").read_text())["error"])
    return scores


def _work(config: Mapping[str, _Group]) -> dict[str, float] | None:
    """One worker: train its share of every batch; the first one also writes, and scores at the end."""
    import ray.train.torch

    group = config["group"]
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    if (group.folder / "failure.json").exists():  # the group was started again after an error of _SAME_AGAIN
        return None
    device = ray.train.torch.get_device() if group.gpus else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    budget = replace(group.experiment.budget, device=str(device))
    experiment, dataset = replace(group.experiment, budget=budget), group.dataset
    try:
        first = _agreed(_step(group.folder), device)
        # Only a gradient is the mean of its shares; what is fitted in closed form sees the whole batch.
        mine, among = (
            (rank, world) if isinstance(build(experiment, spec(experiment.data, dataset, 0)), Learner) else (0, 1)
        )
        batches = open_stream(
            experiment.data, dataset, experiment.seed, rank=mine, world=among, first=first, steps=budget.steps
        )
        encoder = train(experiment, dataset, batches, group.folder, primary=rank == 0)
        del batches  # ends its reading ahead
        return dict(evaluate(experiment, encoder, dataset, group.folder)) if rank == 0 else None
    except _SAME_AGAIN as error:
        record.fail(group.folder, error)
        raise


def _step(folder: Path) -> int:
    state = record.load_state(folder)
    return 0 if state is None else int(state["step"])


def _agreed(step: int, device: torch.device) -> int:
    """The step all workers resume from; raises when they see different checkpoints."""
    ends = torch.tensor([step, -step], device=device)
    torch.distributed.all_reduce(ends, torch.distributed.ReduceOp.MAX)
    highest, lowest = int(ends[0]), -int(ends[1])
    if highest != lowest:
        raise RuntimeError(
            f"workers see checkpoints of steps {lowest} and {highest}; the run folder must be on storage that "
            "all nodes share"
        )
    return step


def _on_gpus(device: str, workers: int, wanted: bool | None) -> bool:
    there = int(ray.cluster_resources().get("GPU", 0))
    asked = device.startswith("cuda") or (device == "auto" and there > 0) if wanted is None else wanted
    if asked and there < workers:
        raise TrainingError(
            f"{workers} workers want a GPU each and the cluster has {there}; use fewer workers or gpus=False"
        )
    return asked


def _share(workers: int) -> float:
    """The largest of 1, 1/2, 1/3, ... CPUs of which every node's whole pieces are enough for all workers."""
    nodes = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
    for pieces in range(1, workers + 1):
        if sum(int(cpus * pieces) for cpus in nodes) >= workers:
            return int(10_000 / pieces) / 10_000  # Ray counts in ten-thousandths
    raise TrainingError(f"the cluster has no CPU for {workers} workers; give cpus_per_worker=0 to share one")
