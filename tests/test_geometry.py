import math

import numpy as np
import pytest
import torch

from ethoray import geometry as g


def mouse(frames: int = 40, seed: int = 0) -> np.ndarray:
    """A plausible moving mouse, (time, 12, 2)."""
    rng = np.random.default_rng(seed)
    x = [90, 75, 75, 65, 60, 60, 40, 15, 15, 0, -20, -40]
    y = [0, 10, -10, 0, 9, -9, 0, 12, -12, 0, 2, 6]
    body = np.stack([x, y], -1).astype(float)
    heading = np.cumsum(rng.normal(0, 0.2, frames))
    centre = np.cumsum(rng.normal(0, 3, (frames, 2)), 0) + 300
    pose = body + rng.normal(0, 1, (frames, 12, 2))
    return g.rotate(pose, heading) + centre[:, None]


def test_numpy_and_torch_agree():
    p = mouse()
    np.testing.assert_allclose(g.mouse_actions(torch.from_numpy(p)).numpy(), g.mouse_actions(p), atol=1e-12)
    for a, b in zip(g.egocentric(p, 0, 9), g.egocentric(torch.from_numpy(p), 0, 9), strict=True):
        np.testing.assert_allclose(a, b.numpy(), atol=1e-12)


def test_actions_by_hand():
    p = np.tile(mouse(1), (3, 1, 1))
    p[1] += [3, 4]  # everything moves by (3, 4), then turns a quarter around the origin
    p[2] = g.rotate(p[1], np.array(math.pi / 2))
    actions = dict(zip(g.MOUSE_ACTIONS, g.mouse_actions(p).T, strict=True))
    assert np.isnan(actions["head_speed"][0])
    assert actions["head_speed"][1] == pytest.approx(5)
    assert actions["head_heading"][1] == pytest.approx(math.atan2(4, 3))
    assert actions["head_turn"][1] == pytest.approx(0, abs=1e-9)
    assert actions["head_turn"][2] == pytest.approx(math.pi / 2)
    assert actions["body_turn"][2] == pytest.approx(math.pi / 2)
    assert actions["spine_dr"][2] == pytest.approx(0, abs=1e-9)
    assert actions["tail_1_change"][2] == pytest.approx(0, abs=1e-9)
    assert actions["hindpaw_left_dtheta"][2] == pytest.approx(0, abs=1e-9)
    assert actions["forepaw_left_dtheta"][2] == pytest.approx(math.pi / 2)


def test_the_slips_of_the_release_are_not_repeated():
    p = mouse(2)
    p[1] = p[0]
    p[1, 3] += [0, 7]  # only the neck moves, along y
    actions = dict(zip(g.MOUSE_ACTIONS, g.mouse_actions(p)[1], strict=True))
    assert actions["head_speed"] == pytest.approx(7)
    assert actions["head_heading"] == pytest.approx(math.pi / 2)
    p[1] = p[0]
    p[1, 5] += [5, 0]  # only the right fore paw moves
    actions = dict(zip(g.MOUSE_ACTIONS, g.mouse_actions(p)[1], strict=True))
    assert actions["forepaw_right_dr"] != 0 and actions["forepaw_left_dr"] == 0


def test_actions_do_not_see_where_the_mouse_is_and_most_not_which_way_it_faces():
    p = mouse()
    moved = g.rotate(p, np.full(len(p), 0.7)) + np.array([500.0, -80.0])
    a, b = g.mouse_actions(p), g.mouse_actions(moved)
    absolute = [g.MOUSE_ACTIONS.index(n) for n in ("head_heading", "body_heading")]
    others = [i for i in range(len(g.MOUSE_ACTIONS)) if i not in absolute]
    np.testing.assert_allclose(g.wrap(a[2:, others] - b[2:, others]), 0, atol=1e-8)
    np.testing.assert_allclose(g.wrap(b[1:, absolute] - a[1:, absolute]), 0.7, atol=1e-8)


def test_thirty_six_features():
    features = g.mouse_features(g.mouse_actions(mouse())[2:])
    assert features.shape[-1] == 36 and np.isfinite(features).all()


def test_egocentric_is_invariant_and_centred():
    p = mouse()
    points, _, heading = g.egocentric(p, 0, 9)
    moved, _, turned = g.egocentric(g.rotate(p, np.full(len(p), 1.1)) + 40.0, 0, 9)
    np.testing.assert_allclose(points, moved, atol=1e-8)
    np.testing.assert_allclose(g.wrap(turned - heading), 1.1, atol=1e-8)
    np.testing.assert_allclose(points.mean(1), 0, atol=1e-9)


def test_missing_keypoints_stay_missing_and_leave_the_centroid_alone():
    p = mouse(5)
    p[2, 4] = np.nan
    centre = g.centroid(p)
    np.testing.assert_allclose(centre[2], np.delete(p[2], 4, 0).mean(0))
    p[3] = np.nan
    assert np.isnan(g.centroid(p)[3]).all()
    assert not g.present(p)[3].any()


def test_a_frame_counts_with_the_one_before():
    valid = np.array([True, True, False, True, True])
    assert g.and_before(valid).tolist() == [False, True, False, False, True]
    assert g.and_before(torch.from_numpy(valid)).tolist() == [False, True, False, False, True]


def test_rotation_leaves_height_alone():
    turned = g.rotate(np.array([[1.0, 0.0, 5.0]]), np.array(math.pi / 2))
    np.testing.assert_allclose(turned, [[0, 1, 5]], atol=1e-12)
