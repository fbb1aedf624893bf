"""Moments are chosen evenly, and what is shown of them is what was tracked."""

import numpy as np
import pytest

from ethoray import embedding, moments
from ethoray.embedding import Embedding, EmbeddingError
from ethoray.moments import MISSING, Moments
from ethoray.schema import Card, Recording, Skeleton, Task
from ethoray.store import prepare

SKELETON = Skeleton(("nose", "tail"), ((0, 1),))
TASK = Task("runs")


def made(tmp_path, *, recordings=3, frames=90, space=2, unit="pixel"):
    """Recordings along a line, labelled in frames 30 to 40, and the folder of a run that embedded them."""
    card = Card("line", "mouse", 30.0, SKELETON, (TASK,), unit=unit)
    every = []
    for i in range(recordings):
        t = np.arange(frames, dtype=np.float32)
        points = np.zeros((frames, 2, 2, space), np.float32)
        points[..., 0] = t[:, None, None] + 10 * np.arange(2)
        points[..., 1] = 7 * i + np.array([0.0, 5.0])
        labels = {"runs": ((t >= 30) & (t < 40 + i)).astype(np.float32)}
        split = "train" if i == 0 else "test"
        every.append(Recording(f"r{i}", f"s{i}", 30.0, SKELETON, points, split=split, labels=labels))
    dataset = prepare(card, every, tmp_path / "line")
    told = (
        Embedding(e, {"z": np.arange(90, dtype=np.float32)[:, None] + [[0, 100 * i]]}, np.full((90, 2, 3), i))
        for i, e in enumerate(dataset.entries)
    )  # fmt: skip
    for _ in embedding.write(told, tmp_path / "run" / "embeddings", every=0.1):
        pass
    return dataset, tmp_path / "run"


def test_moments_come_evenly_from_the_recordings_of_a_split(tmp_path):
    dataset, run = made(tmp_path)
    found = moments.sample(run, dataset, count=10)
    assert [e.name for e in found.entries] == ["r1", "r2"]
    assert np.bincount(found.recording).tolist() == [5, 5]
    assert found.frame[:5].tolist() == [0, 21, 42, 66, 87] and len(found) == 10
    assert (
        np.array_equal(found.spaces["z"][:, 0], found.frame)
        and (found.spaces["z"][5:, 1] == 200 + found.frame[5:]).all()
    )
    assert found.codes.shape == (10, 2, 3) and (found.codes[:5] == 1).all()
    runs = (found.frame >= 30) & (found.frame < 40 + found.recording + 1)
    assert np.array_equal(found.labels["runs"], runs)


def test_a_run_without_embeddings_of_the_split_is_refused(tmp_path):
    dataset, run = made(tmp_path, recordings=1)
    with pytest.raises(EmbeddingError, match="no embeddings of the test recordings"):
        moments.sample(run, dataset)


def toy(values, recording=None, track=None) -> Moments:
    n = len(values)
    place = np.zeros(n, int) if recording is None else np.array(recording)
    return Moments((), place, np.arange(n), {"z": np.array(values)}, None, {}, {"runs": track or []})


def test_clusters_are_numbered_by_size():
    x = np.concatenate([np.zeros((3, 2)), np.ones((5, 2)), np.full((9, 2), 9.0)]) + np.linspace(0, 0.01, 17)[:, None]
    cluster, distance = moments.clusters(x, 3)
    assert cluster.tolist() == [2] * 3 + [1] * 5 + [0] * 9
    assert distance.max() < 0.1


def test_fewer_rows_than_clusters_is_no_error():
    assert moments.clusters(np.ones((4, 3)), 7)[0].tolist() == [0] * 4


def test_examples_come_from_different_recordings_first():
    found = toy(np.zeros((5, 1)), recording=[0, 0, 0, 1, 1])
    near = moments.nearest(found, np.array([True, True, True, True, False]), np.array([0.1, 0.2, 0.3, 0.4, 0.0]), 3)
    assert near == [(0, 0), (1, 3), (0, 1)]


def test_a_label_is_shown_in_the_middle_of_its_longest_bouts():
    first, second = np.zeros(50), np.zeros(50)
    first[10:20], first[30:34], second[40:50] = 1, 1, 1
    first[34] = np.nan
    found = toy(np.zeros((1, 1)), track=[first, second])
    assert moments.longest(found, TASK, 1) == [(0, 15), (1, 45), (0, 32)]


def test_a_clip_holds_the_second_around_and_keeps_proportions(tmp_path):
    dataset, _ = made(tmp_path)
    entry = dataset.entries[1]
    clips = moments.clips(dataset, [entry], [(0, 45), (0, 0)])
    assert clips.values.shape == (2, 21, 2, 2, 2) and clips.fps == 10.0
    x, y = clips.values[0, :, 0, 0, 0].astype(int), clips.values[0, :, 0, :, 1].astype(int)
    steps = np.diff(x)
    unit = 4095 / (70 * 1.08)  # pixels 15 to 85 of two animals ten apart fill the square
    assert np.allclose(steps, 3 * unit, atol=1) and np.allclose(y[:, 1] - y[:, 0], 5 * unit, atol=1)
    assert (clips.values[1, :10] == MISSING).all() and (clips.values[1, 10:] != MISSING).all()


def test_what_is_missing_stays_missing():
    piece = np.full((2, 1, 2, 2), np.nan, np.float32)
    assert (moments.quantised(piece) == MISSING).all()
    piece[0, 0, 0] = 3, 4
    assert (moments.quantised(piece)[0, 0, 0] != MISSING).all() and (moments.quantised(piece)[1] == MISSING).all()


def test_image_coordinates_are_not_turned_and_others_are():
    track = np.random.default_rng(0).normal(size=(20, 1, 4, 2)).astype(np.float32)
    assert moments.view(track, "pixel").tolist() == [[1, 0], [0, 1]]
    assert moments.view(track, "mm").tolist() == [[1, 0], [0, -1]]


def test_three_axes_are_seen_along_the_thinnest():
    track = np.random.default_rng(0).normal(size=(50, 2, 4, 3)).astype(np.float32) * [3.0, 0.1, 2.0]
    track += np.linspace(0, 900, 50)[:, None, None, None] * [0, 1, 0]  # walking far is not being wide
    assert moments.view(track.astype(np.float32), "mm").tolist() == [[1, 0], [0, 0], [0, -1]]
