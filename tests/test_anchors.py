"""Anchors are few, moving and unlike each other, in memory that does not grow with the video."""

import numpy as np
import pytest

from ethoray.video import Frame, VideoError
from ethoray.video.anchors import Survey, choose, components, context, spread, survey


def frames(pictures):
    return (Frame(i, i / 10, picture[..., None]) for i, picture in enumerate(pictures))


def states(count, length=60, seed=0):
    """A clip of ``count`` visual states, each shown for a while, with camera noise; and which state a frame shows."""
    rng = np.random.default_rng(seed)
    looks = rng.integers(30, 220, (count, 4, 4)).repeat(8, 1).repeat(8, 2)
    shown = rng.permutation(np.arange(count).repeat(length // 12)).repeat(12)
    noise = rng.integers(-6, 7, (len(shown), 32, 32))
    return (looks[shown] + noise).astype(np.uint8), shown


def test_energy_is_the_summed_difference_to_the_frame_before():
    pictures = np.random.default_rng(0).integers(0, 256, (50, 32, 32), dtype=np.uint8)
    found = survey(frames(pictures))
    expected = np.abs(np.diff(pictures.astype(int), axis=0)).sum((1, 2))
    np.testing.assert_array_equal(found.energy, [expected[0], *expected])
    np.testing.assert_array_equal(found.index, np.arange(50))
    np.testing.assert_allclose(found.time, np.arange(50) / 10)
    np.testing.assert_array_equal(found.thumbnails[np.argsort(found.rows)], pictures.reshape(50, -1))


def test_a_long_video_leaves_an_even_draw_of_thumbnails():
    pictures = np.zeros((20_000, 1, 2), np.uint8)
    pictures[:, 0, 0], pictures[:, 0, 1] = np.arange(20_000) // 256, np.arange(20_000) % 256
    found = survey(frames(pictures), most=1000)
    assert found.thumbnails.shape == (1000, 2) and len(found.energy) == 20_000
    assert len(set(found.rows)) == 1000
    np.testing.assert_array_equal(found.thumbnails, pictures.reshape(-1, 2)[found.rows])
    tenths = np.histogram(found.rows, 10, (0, 20_000))[0]
    assert tenths.min() > 60 and tenths.max() < 145
    np.testing.assert_array_equal(survey(frames(pictures), most=1000).rows, found.rows)


@pytest.mark.parametrize("count", [3, 8, 12])
def test_a_clip_of_so_many_visual_states_gives_one_anchor_each(count):
    pictures, shown = states(count)
    found = choose(survey(frames(pictures)), count)
    assert sorted(shown[found]) == list(range(count))
    few = choose(survey(frames(pictures), most=len(pictures) // 2), count)
    assert sorted(shown[few]) == list(range(count))


def test_anchors_move_more_than_the_percentile():
    pictures, _ = states(6)
    found = survey(frames(pictures))
    for percentile in (None, 75.0, 90.0):
        anchors = choose(found, 5, percentile=percentile)
        assert (found.energy[anchors] > np.percentile(found.energy, percentile or 50)).all()
    still = Survey(found.index, found.time, np.ones_like(found.energy), found.rows, found.thumbnails)
    assert len(set(choose(still, 20))) == 20  # no frame moves more than half of them do: all are candidates


def test_no_anchor_lies_where_none_may():
    pictures, _ = states(6)
    found = survey(frames(pictures))
    allowed = np.zeros(len(pictures), bool)
    allowed[40:90], allowed[200:220] = True, True
    for policy in ("distinct", "uniform"):
        anchors = choose(found, 20, policy=policy, allowed=allowed)
        assert allowed[anchors].all() and (np.diff(anchors) > 0).all() and len(anchors) == 20


def test_uniform_anchors_are_one_of_every_stretch():
    nothing = np.zeros(103)
    found = Survey(np.arange(0, 206, 2), nothing, nothing, np.empty(0, int), np.empty((0, 0), np.uint8))
    anchors = choose(found, 10, policy="uniform", seed=3)
    edges = 2 * np.linspace(0, 103, 11).astype(int)
    np.testing.assert_array_equal(np.histogram(anchors, edges)[0], np.ones(10))
    np.testing.assert_array_equal(choose(found, 10, policy="uniform", seed=3), anchors)
    assert not np.array_equal(choose(found, 10, policy="uniform", seed=4), anchors)


def test_the_same_seed_gives_the_same_anchors():
    found = survey(frames(states(5)[0]))
    np.testing.assert_array_equal(choose(found, 30, seed=1), choose(found, 30, seed=1))


def test_too_few_frames_are_refused():
    found = survey(frames(states(2)[0]))
    count = len(found.index)
    choose(found, count - 2)
    with pytest.raises(VideoError, match=f"{count} frames may be anchors, which is too few for {count - 1}"):
        choose(found, count - 1)
    with pytest.raises(VideoError, match="no policy 'random'"):
        choose(found, 3, policy="random")
    with pytest.raises(VideoError, match="allowed is"):
        choose(found, 3, allowed=np.ones(4, bool))
    with pytest.raises(VideoError, match="no frames"):
        survey(iter(()))


def test_a_still_picture_still_has_anchors():
    found = survey(frames(np.full((40, 32, 32), 7, np.uint8)))
    assert len(set(choose(found, 12))) == 12
    assert len(set(choose(survey(frames(np.arange(4).repeat(10).reshape(40, 1, 1).astype(np.uint8))), 9))) == 9


def test_components_are_those_of_a_singular_value_decomposition():
    rng = np.random.default_rng(1)
    mixed = rng.normal(size=(5000, 12)) * np.geomspace(60, 2, 12) @ np.linalg.qr(rng.normal(size=(200, 12)))[0].T
    pixels = np.clip(mixed + 128, 0, 255).astype(np.uint8)
    rows = rng.permutation(5000)[:4500]
    scores = components(pixels, rows, 5, seed=0)
    centred = pixels[rows] - pixels[rows].mean(0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    expected = left[:, :5] * values[:5]
    signs = np.sign((scores * expected).sum(0))
    np.testing.assert_allclose(scores * signs, expected, atol=0.02 * values[4] / np.sqrt(4500) * 3)


def test_an_anchor_is_the_frame_of_its_cluster_nearest_the_centre():
    pictures, shown = states(4)
    flat = pictures.reshape(len(pictures), -1)
    for anchor in spread(flat, np.arange(len(flat)), 4, seed=0):
        cluster = np.flatnonzero(shown == shown[anchor])
        points = components(flat, np.arange(len(flat)), 32, 0)[cluster].astype(float)
        far = np.square(points - points.mean(0)).sum(1)
        assert far[list(cluster).index(anchor)] == pytest.approx(far.min(), rel=1e-4)


def test_neighbours_are_clipped_and_never_written_twice():
    assert context([0, 5, 7, 12, 19], 1, 0, 20) == [range(0, 2), range(4, 9), range(11, 14), range(18, 20)]
    assert context([30, 10], 2, 9, 31) == [range(9, 13), range(28, 31)]
    assert context([3, 4, 5], 0, 0, 10) == [range(3, 6)]
    assert context([], 1, 0, 10) == []
