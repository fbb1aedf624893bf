"""Recordings in pieces, with images and neural activity: what is packed is what was given."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from ethoray import store
from ethoray.files import Folder
from ethoray.packing import Writer
from ethoray.schema import Card, Recording, SchemaError, Skeleton, Task
from ethoray.store import StoreError

SKELETON = Skeleton(("nose", "tail"), front="nose", back="tail")
CARD = Card("herd", "mouse", 10.0, SKELETON, (Task("rear"), Task("old", level="recording")))


def recording(index=0, frames=95, *, split="train", subject=None, **companions) -> Recording:
    rng = np.random.default_rng(index)
    keypoints = rng.normal(size=(frames, 2, 2, 2)).astype(np.float32)
    keypoints[rng.random(keypoints.shape[:3]) < 0.2] = np.nan
    labels = {"rear": (rng.random(frames) < 0.3).astype(np.float32), "old": float(index % 2)}
    confidence = rng.random(keypoints.shape[:3])
    name, subject = f"r{index}", subject or f"m{index}"
    return Recording(name, subject, 10.0, SKELETON, keypoints, confidence, ("a", "b"), split, labels, **companions)


def cut(whole: Recording, *edges: int) -> list[Recording]:
    """The pieces of a recording between frames 0, edges and the end."""
    ends = [0, *edges, whole.frames]
    pieces = []
    for start, stop in pairwise(ends):
        labels = {k: v[start:stop] if isinstance(v, np.ndarray) else v for k, v in whole.labels.items()}
        arrays = {
            n: None if getattr(whole, n) is None else getattr(whole, n)[start:stop]
            for n in ("keypoints", "confidence", "neural", "images")
        }
        pieces.append(replace(whole, labels=labels, start=start, **arrays))
    return pieces


def hashes(dataset) -> list[str]:
    return [shard.sha256 for shard in dataset.shards]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "herd"


@pytest.mark.parametrize("edges", [(1,), (30, 60, 90), (7, 8, 9, 50), tuple(range(1, 95)), (94,)])
def test_pieces_equal_the_whole(tmp_path, edges):
    neural = np.random.default_rng(9).poisson(2.0, size=(95, 3))
    wholes = [recording(0, neural=neural), recording(1)]
    pieces = [*cut(wholes[0], *edges), wholes[1]]
    one, other = (
        store.prepare(CARD, given, tmp_path / name, clip_seconds=3.0, shard_mb=0.01)
        for name, given in (("one", wholes), ("other", pieces))
    )
    assert hashes(one) == hashes(other) and one.key == other.key
    assert [(c.start, c.frames) for c in other.entries[0].clips] == [(0, 30), (30, 30), (60, 30), (90, 5)]
    found = other.recording(other.entries[0])
    for name in ("keypoints", "confidence", "neural"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wholes[0], name))
    np.testing.assert_array_equal(found.labels["rear"], wholes[0].labels["rear"])
    np.testing.assert_array_equal(other.neural(other.entries[0], 25, 65), neural[25:65])
    assert (other.entries[0].units, other.entries[1].units) == (3, 0)
    with pytest.raises(StoreError, match="'r1' holds no neural activity"):
        other.neural(other.entries[1])


def test_a_caller_may_reuse_the_arrays_of_a_piece(folder):
    whole = recording()

    def reusing():
        keypoints = np.empty((20, 2, 2, 2), np.float32)
        for piece in cut(whole, 20, 40, 60, 80):
            keypoints[: piece.frames] = piece.keypoints
            yield replace(piece, keypoints=keypoints[: piece.frames])

    dataset = store.prepare(CARD, reusing(), folder, clip_seconds=3.0)
    np.testing.assert_array_equal(dataset.keypoints(dataset.entries[0]), whole.keypoints)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: [p[0], p[2]], "'r0': frames 30 to 60 are missing between two pieces"),
        (lambda p: [p[0], replace(p[2], start=10)], "'r0': a piece from frame 10 overlaps .* ends at 30"),
        (lambda p: [p[1]], "'r0' begins at frame 30; frames 0 to 30 are missing"),
        (lambda p: [p[0], recording(1), p[1]], "'r0': a piece from frame 30 comes after other recordings"),
        (lambda p: [p[0], replace(p[1], split="test")], "'r0': split changes at frame 30"),
        (lambda p: [p[0], replace(p[1], confidence=None)], "'r0': confidence changes"),
        (lambda p: [p[0], replace(p[1], labels=p[1].labels | {"old": 1.0})], "'r0': a label changes"),
        (lambda p: [p[0], replace(p[1], labels={"old": 0.0})], "label:rear changes"),
    ],
)
def test_pieces_that_do_not_follow_each_other_are_refused(folder, change, message):
    with pytest.raises(StoreError, match=message):
        store.prepare(CARD, change(cut(recording(), 30, 60)), folder)
    assert not list(folder.rglob("*.parquet"))


def film(frames, start=0, name="film", seed=0, channels=3):
    images = np.random.default_rng((seed, start)).integers(0, 256, (frames, 6, 8, channels), dtype=np.uint8)
    return Recording(name, name, 10.0, Skeleton(()), np.zeros((frames, 1, 0, 2)), start=start, images=images)


def test_images_are_kept_piece_by_piece_and_may_leave_frames_out(folder):
    pieces = [film(3, 5), film(3, 8), film(40, 100)]
    card = Card("films", "mouse", 10.0, Skeleton(()))
    dataset = store.prepare(card, [*pieces, film(4, name="whole", channels=1)], folder, clip_seconds=3.0)
    gappy, whole = store.open(folder).entries
    assert [(c.start, c.frames) for c in gappy.clips] == [(5, 3), (8, 3), (100, 30), (130, 10)]
    assert gappy.picture == (6, 8, 3) and whole.picture == (6, 8, 1) and gappy.frames == 140
    for clip, expected in zip(
        gappy.clips, [pieces[0].images, pieces[1].images, pieces[2].images[:30], pieces[2].images[30:]], strict=True
    ):
        np.testing.assert_array_equal(dataset.images(gappy, clip), expected)
    with pytest.raises(StoreError, match="'film' leaves frames out; read its images clip by clip"):
        dataset.recording(gappy)
    np.testing.assert_array_equal(dataset.recording(whole).images, film(4, name="whole", channels=1).images)
    with pytest.raises(StoreError, match="overlaps"):
        store.prepare(card, [film(3, 5), film(3, 7)], folder, overwrite=True)


def test_a_clip_of_images_is_no_larger_than_a_shard(folder):
    dataset = store.prepare(Card("films", "m", 10.0, Skeleton(())), [film(20)], folder, shard_mb=5 * 144 / 2**20)
    assert [c.frames for c in dataset.entries[0].clips] == [5, 5, 5, 5]


def test_a_recording_without_images_beside_one_that_has_them(folder):
    first = recording(0, images=np.zeros((95, 4, 4, 1), np.uint8))
    dataset = store.prepare(CARD, [first, recording(1)], folder, clip_seconds=3.0)
    assert [e.picture for e in dataset.entries] == [(4, 4, 1), None]
    np.testing.assert_array_equal(dataset.recording(dataset.entries[1]).keypoints, recording(1).keypoints)
    with pytest.raises(StoreError, match="'r1' holds no images"):
        dataset.images(dataset.entries[1], dataset.entries[1].clips[0])


def test_the_account_of_a_writer_survives_json(folder):
    writer = Writer(Folder(folder), CARD, 30, 10_000)
    for piece in cut(recording(), 50):
        writer.add(piece)
    fragment = writer.fragment(["note"])
    assert type(fragment).of(fragment.document()) == fragment and fragment.notes == ("note",)


def test_labels_of_pieces_are_checked(folder):
    wrong = replace(recording(), labels={"rear": np.full(95, 3.0)})
    with pytest.raises(SchemaError, match="not the index of one of 2 classes"):
        store.prepare(CARD, [wrong], folder)
