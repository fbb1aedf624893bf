"""Resident and streamed batches are the same batches."""

import os

import numpy as np
import pytest
import torch

from ethoray import store, stream
from ethoray.batch import Batch, Windows
from ethoray.schema import Card, Recording, SchemaError, Skeleton

SKELETON = Skeleton(("nose", "neck", "tail"), front="nose", back="tail")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Ragged recordings, one of a single animal, one shorter than a window, clips shorter than a window."""
    rng = np.random.default_rng(0)

    def recordings():
        for i, (frames, animals) in enumerate([(100, 2), (73, 2), (64, 1), (12, 2), (90, 2), (31, 2)]):
            keypoints = rng.normal(size=(frames, animals, 3, 2)).astype(np.float32)
            keypoints[rng.random((frames, animals, 3)) < 0.1] = np.nan
            split = "test" if i == 5 else "train"
            yield Recording(f"r{i}", f"s{i}", 10.0, SKELETON, keypoints, split=split)

    card = Card("ragged", "mouse", 10.0, SKELETON)
    return store.prepare(card, recordings(), tmp_path_factory.mktemp("store") / "ragged", clip_seconds=1.5)


@pytest.fixture(scope="module")
def cluster():
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    stream.start_ray(num_cpus=2, object_store_memory=200 << 20)
    yield
    ray.shutdown()


def windows(kind="resident", batch_size=4, seconds=2.0, split="train"):
    return Windows("ragged", seconds=seconds, batch_size=batch_size, split=split, stream=kind)


def same(a: Batch, b: Batch) -> bool:
    return torch.equal(a.mask, b.mask) and np.array_equal(
        a.keypoints.numpy().view(np.uint32), b.keypoints.numpy().view(np.uint32)
    )


def test_a_window_is_the_frames_that_the_plan_names(dataset):
    plan = stream.plan(windows(), dataset, 3)
    batches = stream.open_stream(windows(), dataset, 3)
    entries = dataset.select("train")
    for step in range(2 * plan.steps_per_epoch):
        batch = batches(step)
        for row, (recording, start) in enumerate(plan.rows(step)):
            expected = dataset.keypoints(entries[recording])[start : start + 20]
            time, animals = expected.shape[:2]
            np.testing.assert_array_equal(batch.keypoints[row, :time, :animals].numpy(), expected)
            assert batch.mask[row].sum() == time * animals
            assert batch.mask[row, :time, :animals].all()
            assert batch.keypoints[row][~batch.mask[row]].isnan().all()


def test_two_ranks_share_the_batch_of_one(dataset):
    whole = stream.open_stream(windows(), dataset, 3)
    halves = [stream.open_stream(windows(), dataset, 3, rank=r, world=2) for r in range(2)]
    for step in range(5):
        parts = [half(step) for half in halves]
        joined = Batch(torch.cat([p.keypoints for p in parts]), torch.cat([p.mask for p in parts]), parts[0].fps)
        assert same(whole(step), joined)


def test_another_seed_gives_other_windows_and_the_same_seed_the_same(dataset):
    assert same(stream.open_stream(windows(), dataset, 3)(7), stream.open_stream(windows(), dataset, 3)(7))
    assert not same(stream.open_stream(windows(), dataset, 4)(7), stream.open_stream(windows(), dataset, 3)(7))


def test_batches_that_do_not_divide_are_refused_before_loading(dataset, monkeypatch):
    monkeypatch.setattr(stream, "load", lambda *_: pytest.fail("loaded"))
    with pytest.raises(SchemaError, match="does not divide among 3 workers"):
        stream.open_stream(windows(), dataset, 0, world=3)


def test_an_unknown_split_names_those_that_exist(dataset):
    with pytest.raises(store.StoreError, match="train, test"):
        stream.open_stream(windows(split="valid"), dataset, 0)


def test_the_spec_counts_the_most_individuals_of_the_split(dataset):
    spec = stream.spec(windows(), dataset, 5)
    assert (spec.individuals, spec.space, spec.frames, spec.fps, spec.seed) == (2, 2, 20, 10.0, 5)


def test_a_split_is_loaded_once_and_the_third_one_replaces_the_oldest(dataset, monkeypatch):
    stream._loaded.clear()
    first = stream.load(dataset, "train")
    assert stream.load(dataset, "train") is first
    stream.load(dataset, "test"), stream.load(dataset, "train"), stream.load(dataset, "all")
    assert {split for _, split in stream._loaded} == {"train", "all"}


def test_auto_is_resident_for_one_worker_with_a_small_split(dataset, caplog, monkeypatch):
    with caplog.at_level("INFO", logger="ethoray.stream"):
        assert isinstance(stream.open_stream(windows("auto"), dataset, 0), stream.Resident)
    assert "resident stream" in caplog.text
    monkeypatch.setattr(stream, "start_ray", lambda: None)
    assert isinstance(stream.open_stream(windows("auto"), dataset, 0, world=2), stream.Streamed)
    monkeypatch.setattr(stream, "RESIDENT_BYTES", 100)
    with caplog.at_level("INFO", logger="ethoray.stream"):
        assert isinstance(stream.open_stream(windows("auto"), dataset, 0), stream.Streamed)
    assert "Ray Data stream" in caplog.text


def rows_of(dataset, steps):
    batches = stream.Streamed(stream.plan(windows(), dataset, 3), stream.spec(windows(), dataset, 3), dataset, "train")
    return batches._table(0, steps)


def test_fetching_equals_gathering_and_reads_every_clip_once(dataset):
    fetch = stream.Fetch(dataset, "train", stream.spec(windows(), dataset, 3))
    steps = 3 * stream.plan(windows(), dataset, 3).steps_per_epoch
    batch = stream._to_batch(fetch(rows_of(dataset, steps)), fetch.spec)
    resident = stream.open_stream(windows(), dataset, 3)
    joined = [resident(step) for step in range(steps)]
    whole = Batch(torch.cat([b.keypoints for b in joined]), torch.cat([b.mask for b in joined]), 10.0)
    assert same(batch, whole)
    assert fetch.reads <= sum(len(entry.clips) for entry in dataset.select("train"))


def test_decoded_clips_stay_within_their_room(dataset):
    clip = 15 * 2 * 3 * 2 * 4
    fetch = stream.Fetch(dataset, "train", stream.spec(windows(), dataset, 3), room=3 * clip)
    fetch(rows_of(dataset, 6))
    assert fetch.held <= 3 * clip
    assert fetch.held == sum(array.nbytes for array in fetch._clips.values())


def test_the_plan_handed_to_ray_is_bounded_however_long_the_run(dataset, monkeypatch):
    monkeypatch.setattr(stream, "_GROUP_BYTES", 1)
    batches = stream.Streamed(
        stream.plan(windows(), dataset, 3), stream.spec(windows(), dataset, 3), dataset, "train", steps=10**9
    )
    planned = []
    monkeypatch.setattr(batches, "_fetch", lambda tables, share: planned.extend(tables) or iter(()))
    monkeypatch.setattr(stream, "_GROUPS", 5)
    with pytest.raises(RuntimeError, match="gave no batch 0"):
        batches(0)
    assert sum(len(table) for table in planned) == 5 * 4


@pytest.mark.cluster
@pytest.mark.parametrize(("rank", "world"), [(0, 1), (0, 2), (1, 2)])
def test_streamed_equals_resident_over_epochs_segments_and_restarts(dataset, cluster, monkeypatch, rank, world):
    monkeypatch.setattr(stream, "_GROUP_BYTES", 1)
    monkeypatch.setattr(stream, "_GROUPS", 6)  # a segment ends inside an epoch
    place = {"rank": rank, "world": world}
    resident = stream.open_stream(windows("resident"), dataset, 3, **place)
    streamed = stream.open_stream(windows("ray"), dataset, 3, first=2, steps=11, **place)
    last = 2 + stream._REREAD
    for step in (*range(2, 11), last, 5, 6):
        assert same(streamed(step), resident(step)), step
    streamed.close()


@pytest.mark.cluster
def test_calibration_and_training_read_the_first_batches_from_one_pipeline(dataset, cluster, monkeypatch):
    streamed = stream.open_stream(windows("ray"), dataset, 3, steps=6)
    starts = []
    monkeypatch.setattr(streamed, "_start", starts.append)
    read = [streamed(step) for step in (0, 1, 2, 0, 1, 2, 3)]
    assert same(read[0], read[3])
    assert not starts
    streamed.close()
