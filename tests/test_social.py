from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ethoray import social
from ethoray.social import Scene

FPS = 30.0
MOUSE = np.array(
    [[50, 0], [35, 10], [35, -10], [26, 0], [20, 11], [20, -11], [0, 0], [-24, 15], [-24, -15], [-40, 0], [-75, 0],
     [-110, 0]],
    dtype=float,
)  # fmt: skip


def mouse(x, y, heading=0.0, frames=150):
    """A rigid mouse (time, 12, 2) centred at (x, y), each a number or a track."""
    x, y, heading = (np.broadcast_to(np.asarray(v, float), frames) for v in (x, y, heading))
    cos, sin = np.cos(heading), np.sin(heading)
    turn = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    return np.einsum("tij,kj->tki", turn, MOUSE) + np.stack([x, y], -1)[:, None]


def scene(*mice):
    return Scene(np.stack(mice, 1), FPS)


def brute_distance(a, b):
    normals = [np.array([a_[1] - b_[1], b_[0] - a_[0]]) for s in (a, b) for a_, b_ in combinations(s, 2)]
    if not any((b @ n).min() > (a @ n).max() or (a @ n).min() > (b @ n).max() for n in normals):
        return 0.0
    best = np.inf
    for points, corners in ((a, b), (b, a)):
        for s, t in combinations(corners, 2):
            edge = t - s
            along = np.clip((points - s) @ edge / max(edge @ edge, 1e-300), 0, 1)
            best = min(best, np.linalg.norm(points - s - along[:, None] * edge, axis=-1).min())
    return best


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 10), st.floats(0, 80))
def test_hull_distance_equals_brute_force(seed, points, apart):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 20, (2, 8, points, 2))
    b = b + rng.normal(0, 1, (8, 1, 2)) * apart
    expected = [brute_distance(x, y) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(social.hull_distance(a, b), expected, atol=1e-4)


def test_hull_distance_of_squares_touching_overlapping_nested_and_apart():
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
    b = np.stack([square + np.array([1, 0]), square + 0.5, 0.2 * square + 0.4, square + np.array([4, 5]), square])
    np.testing.assert_allclose(social.hull_distance(np.stack([square] * 5), b), [0, 0, 0, 5, 0], atol=1e-5)


def test_hull_distance_ignores_missing_points_and_is_nan_without_any():
    a, b = np.zeros((2, 3, 2)), np.full((2, 3, 2), 3.0)
    a[0, 1:], b[0, 0], a[1] = np.nan, np.nan, np.nan
    distance = social.hull_distance(a, b)
    assert distance[0] == pytest.approx(np.sqrt(18)) and np.isnan(distance[1])


def test_runs_are_bridged_and_short_ones_dropped():
    mask = np.array([[0, 1, 1, 0, 1, 0, 0, 0, 1, 0]], bool)
    np.testing.assert_array_equal(social.bridged(mask, 1)[0].astype(int), [0, 1, 1, 1, 1, 0, 0, 0, 1, 0])
    np.testing.assert_array_equal(social.lasting(mask, 2)[0].astype(int), [0, 1, 1, 0, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(social.bridged(np.zeros((1, 4), bool), 9), np.zeros((1, 4), bool))


def test_close_and_contact_are_distances_between_bodies():
    near = scene(mouse(300, 300), mouse(300, 350))  # widest at the hind paws: 20 px between the bodies
    assert social.close(near).all() and not social.contact(near).any()
    touching = scene(mouse(300, 300), mouse(300, 332))
    assert social.close(touching).all() and social.contact(touching).all()
    far = scene(mouse(300, 300), mouse(300, 400))
    assert not social.close(far).any() and not social.contact(far).any()


def test_a_tail_is_not_a_body():
    assert not social.contact(scene(mouse(300, 300), mouse(190, 300, np.pi / 2))).any()


def test_huddles_need_contact_rest_and_time():
    rest = scene(mouse(300, 300), mouse(300, 332))
    assert social.huddles(rest).all()
    drift = np.linspace(0, 300, 150)
    assert not social.huddles(scene(mouse(300 + drift, 300), mouse(300 + drift, 332))).any()
    assert not social.huddles(scene(mouse(300, 300), mouse(300, 400))).any()
    visit = np.where(np.arange(150) < 60, 332, 450)
    assert not social.huddles(scene(mouse(300, 300), mouse(300, visit))).any()


def test_chases_need_speed_nearness_and_pursuit():
    run = 100 + 8.0 * np.arange(80)
    behind = mouse(run, 300, frames=80)
    assert social.chases(scene(behind, mouse(run + 130, 300, frames=80))).all()
    assert not social.chases(scene(behind, mouse(run, 345, frames=80))).any()  # side by side
    assert not social.chases(scene(behind, mouse(run + 260, 300, frames=80))).any()
    walk = 100 + 3.0 * np.arange(80)
    assert not social.chases(scene(mouse(walk, 300, frames=80), mouse(walk + 130, 300, frames=80))).any()


def test_a_mouse_that_walks_up_to_a_still_one_approaches_it_until_the_nearest_frame():
    come = np.minimum(100 + 4.0 * np.arange(150), 300)
    found = social.approaches(scene(mouse(come, 300), mouse(400, 300)))
    gap = scene(mouse(come, 300), mouse(400, 300)).gap[0]
    start, stop = np.flatnonzero(found)[[0, -1]]
    assert found[start : stop + 1].all() and gap[start] >= 50 > gap[start + 1] and gap[stop] == gap.min()


def test_meeting_halfway_coming_slowly_and_being_there_are_not_approaches():
    come = np.minimum(100 + 4.0 * np.arange(150), 300)
    assert not social.approaches(scene(mouse(come, 300), mouse(710 - come, 300, np.pi))).any()
    creep = np.minimum(240 + 0.5 * np.arange(150), 300)
    assert not social.approaches(scene(mouse(creep, 300), mouse(400, 300))).any()
    assert not social.approaches(scene(mouse(300, 300), mouse(300, 332))).any()


ORAL = {
    "oral_oral_contact": mouse(405, 300, np.pi),
    "oral_genital_contact": mouse(395, 300),
    "oral_ear_contact": mouse(305 + 45, 300 - 35, np.pi / 2),
}


@pytest.mark.parametrize("name", ORAL)
def test_oral_contacts_name_the_part_that_the_nose_came_to(name):
    come = np.minimum(200 + 2.0 * np.arange(150), 300)
    labels = social.behaviours(np.stack([mouse(come, 300), ORAL[name]], 1), FPS)
    assert labels[name][-60:].all() and not labels[name][:20].any()
    assert not any(labels[other].any() for other in ORAL if other != name)
    swapped = social.behaviours(np.stack([ORAL[name], mouse(come, 300)], 1), FPS)
    assert (swapped[name] == labels[name]).all()


def test_noses_that_were_always_together_have_not_come():
    assert not social.oral_oral_contact(scene(mouse(300, 300), mouse(405, 300, np.pi))).any()


def test_watching_needs_gaze_time_and_a_distance():
    at = scene(mouse(300, 300), mouse(500, 300, np.pi / 2))
    assert social.watching(at).all()
    assert not social.watching(scene(mouse(300, 300, np.pi / 3), mouse(500, 300, np.pi / 2))).any()
    assert not social.watching(scene(mouse(100, 300), mouse(700, 300, np.pi / 2))).any()
    glance = np.where(np.arange(150) % 60 < 20, 0, np.pi / 2)
    assert not social.watching(scene(mouse(300, 300, glance), mouse(500, 300, np.pi / 2))).any()


def test_any_pair_counts_and_the_order_of_individuals_does_not():
    rng = np.random.default_rng(3)
    mice = [mouse(*(300 + rng.normal(0, 4, (2, 150)).cumsum(-1)), rng.normal(0, 0.1, 150).cumsum()) for _ in range(3)]
    one, other = (social.behaviours(np.stack([mice[i] for i in order], 1), FPS) for order in ((0, 1, 2), (2, 0, 1)))
    assert list(one) == list(social.RULES)
    for name, found in one.items():
        assert found.dtype == bool and found.shape == (150,)
        np.testing.assert_array_equal(found, other[name])


def test_missing_keypoints_never_make_a_behaviour():
    keypoints = np.stack([mouse(300, 300), mouse(300, 332), mouse(500, 316, np.pi)], 1)
    keypoints[40:90, 1] = np.nan
    whole = social.behaviours(keypoints[:, :2], FPS)
    assert not whole["contact"][50:80].any() and whole["contact"][:40].all()
    keypoints[:] = np.nan
    assert not any(found.any() for found in social.behaviours(keypoints, FPS).values())


def test_a_scene_refuses_other_skeletons_and_lone_animals():
    with pytest.raises(ValueError, match="12, 2"):
        Scene(np.zeros((5, 2, 7, 2)), FPS)
    with pytest.raises(ValueError, match="two individuals"):
        Scene(np.zeros((5, 1, 12, 2)), FPS)
