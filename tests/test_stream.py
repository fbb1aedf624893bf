"""Resident and streamed batches are the same batches."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from ethoray import store, stream
from ethoray.batch import Batch, Windows
from ethoray.schema import Card, Recording, SchemaError, Skeleton
from ethoray.stream.fetch import FetchImages
from ethoray.testing import toy_film_dataset, toy_films

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
    batch = stream.to_batch(fetch(rows_of(dataset, steps)), fetch.spec)
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


STRETCHES = {"a": ((0, 9), (20, 3), (23, 4), (40, 3)), "b": ((5, 3), (10, 3), (100, 30)), "c": ((0, 12),)}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Images that say which recording and frame they are of; most frames were left out, clips hold at most eight."""

    def recordings():
        for number, (name, stretches) in enumerate(STRETCHES.items()):
            for start, frames in stretches:
                images = np.full((frames, 6, 8, 1), number, np.uint8)
                images[:, 0, 0, 0] = np.arange(start, start + frames)
                nothing = np.empty((frames, 1, 0, 2), np.float32)
                yield Recording(name, name, 10.0, Skeleton(()), nothing, split="train" if name != "c" else "test",
                                start=start, images=images)  # fmt: skip

    card = Card("pictures", "mouse", 10.0, Skeleton(()))
    return store.prepare(card, recordings(), tmp_path_factory.mktemp("store") / "pictures", clip_seconds=0.8)


def of_images(kind="resident", **more):
    return Windows("pictures", batch_size=4, stream=kind, **more)


def frame_of(image):
    return int(image[3, 3, 0]), int(image[0, 0, 0])


ASKED = pytest.mark.parametrize(
    "asked",
    [{}, {"window": 2}, {"pairs": "video"}, {"pairs": "none"}, {"anchors": "distinct", "count": 4, "window": 2}],
    ids=str,
)


@ASKED
def test_a_pair_is_the_images_that_the_plan_names(pictures, asked):
    windows = of_images(**asked)
    plan, batches = stream.plan(windows, pictures, 3), stream.open_stream(windows, pictures, 3)
    stored = [[start + k for start, n in STRETCHES[name] for k in range(n)] for name in "ab"]
    for step in range(2 * plan.steps_per_epoch):
        batch = batches(step)
        assert batch.images.dtype == torch.uint8 and batch.images.shape[1:] == (len(plan.columns) - 1, 6, 8, 1)
        assert batch.mask.all() and batch.keypoints.shape[3] == 0
        for images, (recording, *places) in zip(batch.images, plan.rows(step).tolist(), strict=True):
            assert [frame_of(image) for image in images] == [(recording, stored[recording][p]) for p in places]


@ASKED
def test_fetching_images_equals_gathering_them(pictures, asked):
    windows = of_images(**asked)
    spec, plan = stream.spec(windows, pictures, 3), stream.plan(windows, pictures, 3)
    fetch = FetchImages(pictures, "train", spec)
    batches = stream.Streamed(plan, spec, pictures, "train")
    fetched = stream.to_batch(fetch(batches._table(0, plan.steps_per_epoch)), spec)
    resident = stream.open_stream(windows, pictures, 3)
    joined = torch.cat([resident(step).images for step in range(plan.steps_per_epoch)])
    assert torch.equal(fetched.images, joined)
    assert fetch.reads <= sum(len(entry.clips) for entry in pictures.select("train"))


def test_two_ranks_share_the_pairs_of_one(pictures):
    whole = stream.open_stream(of_images(), pictures, 3)
    halves = [stream.open_stream(of_images(), pictures, 3, rank=rank, world=2) for rank in range(2)]
    for step in range(5):
        assert torch.equal(whole(step).images, torch.cat([half(step).images for half in halves]))


def test_the_spec_of_images_tells_their_size(pictures):
    spec = stream.spec(of_images(), pictures, 5)
    assert (spec.picture, spec.frames, spec.individuals) == ((6, 8, 1), 2, 1)
    assert stream.spec(of_images(pairs="none"), pictures, 5).frames == 1


@pytest.mark.parametrize("policy", ["distinct", "uniform"])
def test_chosen_anchors_come_with_their_neighbours_and_nothing_else(policy, tmp_path):
    dataset = toy_film_dataset(tmp_path / "films", recordings=3, seconds=20.0)
    windows = Windows(dataset.uri, batch_size=4, anchors=policy, count=12, window=1)
    plan = stream.plan(windows, dataset, 0)
    seen = {
        (recording, image)
        for step in range(12 * plan.steps_per_epoch)
        for recording, *images in plan.rows(step).tolist()
        for image in images
    }
    kept = [set(places.tolist()) for places in plan.kept]
    assert all(24 < len(places) <= 36 for places in kept) and len(kept) == 2
    assert all(image in kept[recording] for recording, image in seen) and len(seen) > 50
    other = stream.plan(replace(windows, anchors="uniform" if policy == "distinct" else "distinct"), dataset, 0)
    assert [set(places.tolist()) for places in other.kept] != kept


def test_images_of_two_sizes_are_refused_by_name(tmp_path):
    def films():
        for side in (8, 10):
            (film,) = toy_films(1, side=side)
            yield replace(film, name=f"film_{side}", subject=f"mouse_{side}", labels={})

    dataset = store.prepare(Card("two", "mouse", 10.0, Skeleton(())), films(), tmp_path / "two")
    with pytest.raises(SchemaError, match=r"images of 'film_10' are \(10, 10, 1\) .*'film_8' \(8, 8, 1\)"):
        stream.spec(Windows(dataset.uri), dataset, 0)


def test_what_a_batch_holds_is_asked_for_or_follows_from_the_data(dataset, pictures):
    assert stream.spec(windows(), dataset, 0).picture is None
    with pytest.raises(SchemaError, match="recording 'r0' has no images to learn from"):
        stream.spec(replace(windows(), inputs="images"), dataset, 0)
    with pytest.raises(SchemaError, match="has no keypoints; leave inputs at auto"):
        stream.spec(of_images(inputs="keypoints"), pictures, 0)


@pytest.mark.parametrize(
    "wrong",
    [{"inputs": "sound"}, {"pairs": "far"}, {"window": 0}, {"anchors": "some"}, {"anchors": "uniform", "count": 0}],
)
def test_words_that_mean_nothing_are_refused(wrong):
    with pytest.raises(SchemaError):
        of_images(**wrong)


@pytest.mark.cluster
def test_streamed_images_equal_resident_ones_over_epochs_and_restarts(pictures, cluster, monkeypatch):
    monkeypatch.setattr(stream, "_GROUP_BYTES", 1)
    monkeypatch.setattr(stream, "_GROUPS", 4)
    place = {"rank": 1, "world": 2}
    resident = stream.open_stream(of_images(), pictures, 3, **place)
    streamed = stream.open_stream(of_images("ray"), pictures, 3, first=2, steps=7, **place)
    for step in (*range(2, 7), 4):
        assert torch.equal(streamed(step).images, resident(step).images), step
    streamed.close()


@pytest.mark.cluster
@pytest.mark.parametrize(("rank", "world"), [(0, 1), (1, 2)])
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
