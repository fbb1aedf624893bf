"""What tracking and clusters do to a method: lost windows, holes, strange skeletons, workers that share a batch."""

import queue
import re
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from ethoray import methods
from ethoray.batch import Batch, Spec, Stream, rank_rows
from ethoray.learning import Budget, Encoder, Method
from ethoray.schema import SchemaError, Skeleton
from ethoray.testing import toy_batch, toy_spec, toy_stream

BUDGET = Budget(steps=2, log_every=1, save_every=2, device="cpu")
EVERY = pytest.mark.parametrize("name", methods.names("keypoints"))


def small(name: str) -> Method:
    cls = methods.load(name)
    return cls(**cls.presets.get("small", {}))


def fitted(method: Method, spec: Spec, stream: Stream) -> tuple[Encoder, list[dict[str, float]]]:
    torch.manual_seed(spec.seed)
    encoder = method.build(spec)
    metrics = [dict(progress.metrics) for progress in encoder.fit(stream, BUDGET)]
    return encoder.eval(), metrics


def embedded(encoder: Encoder, batch: Batch) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return encoder.embed(batch)


def finite(metrics: list[dict[str, float]]) -> bool:
    return all(np.isfinite(value) for step in metrics for value in step.values())


@EVERY
def test_a_window_that_tracking_lost_does_not_touch_the_others(name):
    spec = toy_spec()

    def blind(batch: Batch) -> Batch:
        keypoints = batch.keypoints.clone()
        keypoints[0] = torch.nan
        return replace(batch, keypoints=keypoints)

    encoder, metrics = fitted(small(name), spec, lambda step: blind(toy_stream(spec)(step)))
    assert finite(metrics), metrics
    batch = toy_batch(spec, 50, 2)
    seen, lost = embedded(encoder, batch), embedded(encoder, blind(batch))
    for space, z in lost.items():
        assert bool(z.isfinite().all()), space
        assert torch.allclose(z[1], seen[space][1], atol=1e-5), f"{space}: {(z[1] - seen[space][1]).abs().max():.2g}"


@EVERY
def test_half_of_all_keypoints_may_be_missing_or_it_is_refused_in_words(name):
    spec = toy_spec()

    def holes(batch: Batch, seed: int) -> Batch:
        lost = torch.rand(batch.keypoints.shape[:4], generator=torch.Generator().manual_seed(seed)) < 0.5
        return replace(batch, keypoints=batch.keypoints.masked_fill(lost[..., None], torch.nan))

    try:
        encoder, metrics = fitted(small(name), spec, lambda step: holes(toy_stream(spec)(step), step))
    except SchemaError as refusal:
        assert re.search(r"no frame", str(refusal)), refusal
        return
    assert finite(metrics), metrics
    for space, z in embedded(encoder, holes(toy_batch(spec, 50, 2), 9)).items():
        assert bool(z.isfinite().all()), space


@EVERY
def test_half_precision_stays_finite(name):
    spec = toy_spec()
    torch.manual_seed(0)
    budget = replace(BUDGET, precision="bfloat16")
    assert finite([dict(p.metrics) for p in small(name).build(spec).fit(toy_stream(spec), budget)])


def swarm(step: int = 0, windows: int = 4, frames: int = 80) -> Batch:
    """One animal of five keypoints in three dimensions, without a body axis."""
    generator = torch.Generator().manual_seed(step)
    body = torch.randn(5, 3, generator=torch.Generator().manual_seed(99))
    walk = torch.randn(windows, frames, 1, 1, 3, generator=generator).cumsum(1)
    keypoints = 20 * body + walk + 0.5 * torch.randn(windows, frames, 1, 5, 3, generator=generator)
    return Batch(keypoints, torch.ones(windows, frames, 1, dtype=torch.bool), 10.0)


@EVERY
def test_five_points_in_space_without_a_body_axis_are_enough_or_refused_in_words(name):
    spec = Spec(Skeleton(("a", "b", "c", "d", "e")), 1, 3, 10.0, 80)
    try:
        small(name).build(spec)
    except SchemaError as refusal:
        assert re.search(r"2-D|skeleton|keypoint|body axis|animals|individuals", str(refusal)), refusal
        return
    encoder, metrics = fitted(small(name), spec, swarm)
    assert finite(metrics), metrics
    for space, z in embedded(encoder, swarm(7, 2, 50)).items():
        assert z.shape[:3] == (2, 50, 1) and bool(z.isfinite().all()), space


def share(rank: int, world: int) -> Stream:
    """Batches of four toy windows with an animal missing for a while, so that workers have unequal counts."""
    spec = toy_spec()
    stream = toy_stream(spec)

    def batch(step: int) -> Batch:
        whole = stream(step)
        keypoints = whole.keypoints.clone()
        keypoints[0, 20:60, 1] = torch.nan
        mine = rank_rows(np.arange(len(whole)), rank, world)
        return replace(whole, keypoints=keypoints[mine], mask=whole.mask[mine])

    return batch


Trained = dict[str, "tuple[list[dict[str, float]], np.ndarray] | str"]


def trained(name: str, rank: int, world: int) -> tuple[list[dict[str, float]], np.ndarray]:
    encoder, metrics = fitted(small(name), toy_spec(), share(rank, world))
    flat = [v.detach().double().flatten() for v in (*encoder.parameters(), *encoder.buffers())]
    metrics = [{k: v for k, v in step.items() if not k.startswith("monitor/")} for step in metrics]
    return metrics, torch.cat(flat).numpy()


def worker(rank: int, folder: str, names: tuple[str, ...], out) -> None:
    torch.set_num_threads(1)
    results: Trained = {}
    for name in names:
        meeting = f"file://{folder}/{name}"
        wait = timedelta(seconds=300)
        torch.distributed.init_process_group("gloo", meeting, rank=rank, world_size=2, timeout=wait)
        try:
            results[name] = trained(name, rank, 2)
        except Exception as error:  # one broken method must not hide the others
            results[name] = f"{type(error).__name__}: {error}"
        else:
            torch.distributed.barrier()  # nobody leaves while the other still listens
        torch.distributed.destroy_process_group()
    if rank == 0:
        out.put(results)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Every method trained by one pair of processes."""
    folder: Path = tmp_path_factory.mktemp("meeting")
    context = mp.get_context("spawn")
    out = context.Queue()
    names = methods.names("keypoints")
    pair = [context.Process(target=worker, args=(rank, str(folder), names, out)) for rank in range(2)]
    for process in pair:
        process.start()
    results: Trained | None = None
    while results is None:
        try:
            results = out.get(timeout=2)
        except queue.Empty:
            assert all(process.is_alive() for process in pair), "a worker died; its traceback is above"
    for process in pair:
        process.join(60)
    return results


@EVERY
def test_two_workers_learn_what_one_with_the_whole_batch_does(name, shared):
    answer = shared[name]
    assert not isinstance(answer, str), answer
    (metrics, weights), (alone, expected) = answer, trained(name, 0, 1)
    assert len(metrics) == len(alone) and finite(metrics)
    for here, there in zip(alone, metrics, strict=True):
        assert here.keys() == there.keys()
        terms = [k for k in here if abs(here[k] - there[k]) > 1e-4 * max(1.0, abs(here[k]))]
        assert not terms, {k: (here[k], there[k]) for k in terms}
    assert np.abs(weights - expected).max() < 1e-3 * max(1.0, np.abs(expected).max())
