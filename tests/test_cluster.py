"""The same run in two processes, and when one of them dies."""

import json
import os
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import ray
import torch

from ethoray import cluster, record, stream, testing
from ethoray.batch import Windows
from ethoray.experiment import Experiment, run
from ethoray.learning import Budget, Learner, Method, TrainingError
from ethoray.schema import SchemaError

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.cluster


@dataclass(frozen=True)
class Middle(Method):
    """Learns the mean position; at step ``dies`` its second worker is killed, once, leaving ``diary``."""

    diary: str = ""
    dies: int = -1
    breaks: bool = False

    def build(self, spec):
        return MiddleEncoder(self, spec)


class MiddleEncoder(Learner):
    def __init__(self, method, spec):
        super().__init__()
        self.method, self.lr = method, 0.1
        self.place = torch.nn.Parameter(torch.randn(spec.space))

    def embed(self, batch):
        return {"place": batch.keypoints.nanmean(3).nan_to_num() - self.place}

    def loss(self, batch):
        centres = batch.keypoints.mean(3).nan_to_num() / 100
        error = (centres - self.place).square().mean()
        return {"loss": error * torch.nan if self.method.breaks else error}

    def after_step(self, step):
        if not self.method.diary:
            return
        rank = torch.distributed.get_rank()
        with Path(f"{self.method.diary}.{rank}").open("a") as file:
            file.write(f"{step}\n")
        dead = Path(f"{self.method.diary}.dead")
        if step == self.method.dies and rank == 1 and not dead.exists():
            dead.touch()
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """Twenty steps of batches of four, streamed to workers; the toy's recordings are all of one length."""
    folder = tmp_path_factory.mktemp("data") / "toy"
    testing.toy_dataset(folder)
    data = Windows(str(folder), seconds=3.0, batch_size=4)
    return Experiment(data, Middle(), (), Budget(steps=20, log_every=5, save_every=10, device="cpu"), seed=2)


@pytest.fixture(scope="module")
def two(experiment, tmp_path_factory):
    """The folder of a run of two workers that nothing disturbed, and what it told its caller."""
    stream.start_ray(num_cpus=2, object_store_memory=200 << 20, log_to_driver=False)
    folder, told = tmp_path_factory.mktemp("two"), []
    cluster.launch(experiment, folder, 2, log=told.append)
    yield folder, told
    ray.shutdown()


def weights(folder):
    state = record.load_state(folder)
    return {name: value for name, value in state.items() if name.startswith("encoder/")}


@pytest.mark.slow
def test_two_workers_agree_with_one_of_double_batch(experiment, two, tmp_path):
    folder, told = two
    run(experiment, tmp_path / "one")
    one, both = record.read_metrics(tmp_path / "one"), record.read_metrics(folder)
    assert [line["step"] for line in both] == [p.step for p in told] == [5, 10, 15, 20]
    assert [line["loss"] for line in both] == pytest.approx([line["loss"] for line in one], rel=1e-5)
    torch.testing.assert_close(weights(folder), weights(tmp_path / "one"), rtol=1e-5, atol=1e-6)
    assert record.finished(folder) == record.finished(tmp_path / "one")
    assert told[-1].state()["step"] == 20
    assert not (folder / "ray_train").exists()


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_no_step_counts_twice(experiment, two, tmp_path):
    diary, folder = tmp_path / "diary", tmp_path / "run"
    told = []
    killed = replace(experiment, method=Middle(diary=str(diary), dies=16))
    cluster.launch(killed, folder, 2, log=told.append)
    assert diary.with_suffix(".dead").exists()
    assert [line["step"] for line in record.read_metrics(folder)] == [p.step for p in told] == [5, 10, 15, 20]
    torch.testing.assert_close(weights(folder), weights(two[0]), rtol=0, atol=0)
    steps = [int(line) for line in diary.with_suffix(".1").read_text().split()]
    assert steps == [*range(17), *range(10, 20)]


@pytest.mark.slow
def test_an_error_that_would_come_again_ends_the_run_and_says_why(experiment, two, tmp_path):
    broken = replace(experiment, method=Middle(breaks=True))
    with pytest.raises(TrainingError, match="the loss is nan at step 5"):
        cluster.launch(broken, tmp_path, 2)
    assert "the loss is nan" in json.loads((tmp_path / "failure.json").read_text())["error"]


def test_a_finished_run_is_not_launched_again(experiment, tmp_path):
    record.write_json(tmp_path / "scores.json", {"scores": {"running/place": 0.5}})
    assert cluster.launch(experiment, tmp_path, 2) == {"running/place": 0.5}


def test_a_batch_that_does_not_divide_is_refused_at_once(experiment, tmp_path):
    with pytest.raises(SchemaError, match="does not divide among 3 workers"):
        cluster.launch(experiment, tmp_path / "run", 3)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("nodes", "workers", "share"), [([2], 2, 1.0), ([2], 3, 0.5), ([1, 1], 3, 0.5), ([8, 0], 4, 1.0), ([1], 3, 0.3333)]
)
def test_every_worker_gets_the_largest_share_that_all_can_have(monkeypatch, nodes, workers, share):
    there = [{"Alive": True, "Resources": {"CPU": float(cpus)}} for cpus in nodes]
    monkeypatch.setattr(ray, "nodes", lambda: [*there, {"Alive": False, "Resources": {"CPU": 64.0}}])
    assert cluster._share(workers) == share


def test_more_gpu_workers_than_gpus_is_an_error_and_not_a_fallback(monkeypatch):
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 1.0})
    with pytest.raises(TrainingError, match="2 workers want a GPU each and the cluster has 1"):
        cluster._on_gpus("auto", 2, None)
    assert not cluster._on_gpus("auto", 2, False)
    assert cluster._on_gpus("cuda", 1, None)
