import math

import numpy as np
import pytest
import torch

from ethoray.batch import Batch, Spec
from ethoray.geometry import MOUSE_KEYPOINTS
from ethoray.nn.features import MOUSE_RELEASE, NEAREST, features
from ethoray.nn.pairs import NAMES
from ethoray.schema import SchemaError, Skeleton

MOUSE = Skeleton(MOUSE_KEYPOINTS, front="nose", back="tail_base")
STICK = Skeleton(("nose", "tail"), front="nose", back="tail")


def batch(keypoints, fps: float = 30.0) -> Batch:
    keypoints = torch.as_tensor(np.asarray(keypoints), dtype=torch.float32)
    return Batch(keypoints, torch.ones(keypoints.shape[:3], dtype=torch.bool), fps)


def sticks(centres, headings) -> torch.Tensor:
    """One window (1, time, individual, 2, 2) of animals two units long."""
    centres, headings = torch.as_tensor(centres).double(), torch.as_tensor(headings).double()
    half = torch.stack([headings.cos(), headings.sin()], -1)
    return torch.stack([centres + half, centres - half], -2)[None]


def test_the_release_sees_thirty_states_before_the_velocities():
    rng = np.random.default_rng(0)
    p = rng.normal(0, 50, (1, 4, 1, 12, 2)) + 400
    movement = features("state", Spec(MOUSE, 1, 2, 30.0, 4), MOUSE_RELEASE)(batch(p))
    assert movement.inputs.shape == (1, 4, 66) and movement.targets.shape == (1, 4, 9)
    assert (movement.inputs[0, 0] == 0).all()

    def polar(v):
        r = math.hypot(*v)
        return [r, v[0] / r, v[1] / r]

    def unit(angle):
        return [math.cos(angle), math.sin(angle)]

    def direction(v):
        return math.atan2(v[1], v[0])

    for t in (1, 3):
        k = p[0, t, 0]
        left, right, body = k[4] - k[3], k[5] - k[3], direction(k[6] - k[9])
        turned = np.array([[math.cos(body), math.sin(body)], [-math.sin(body), math.cos(body)]])
        q = {i: turned @ (k[i] - k[6]) for i in range(7, 12)}
        expected = [
            *k[3], *unit(direction(k[0] - k[3])), *polar(left), *polar(right),
            *unit(direction(right) - direction(left)), *k[6], *unit(body), *polar(q[7]), *polar(q[8]),
            math.hypot(*q[9]), *unit(direction(q[10] - q[9])), *unit(direction(q[11] - q[10])), *polar(k[6] - k[3]),
        ]  # fmt: skip
        assert len(expected) == 30
        np.testing.assert_allclose(movement.inputs[0, t, :30], expected, rtol=1e-4, atol=1e-4)
    velocity = features("velocity", Spec(MOUSE, 1, 2, 30.0, 4))(batch(p))
    assert torch.equal(movement.inputs[..., 30:], velocity.inputs)


def test_differences_of_a_fly_are_48_coordinates_and_their_changes():
    fly = Skeleton(tuple(f"k{i}" for i in range(24)))
    rng = np.random.default_rng(0)
    p = rng.normal(0, 1, (1, 5, 2, 24, 2)).astype(np.float32)
    p[0, 2, 0, 3] = np.nan  # one keypoint of one frame
    p[0, 4, 1] = np.nan  # the other fly altogether
    kind = features("differences", Spec(fly, 11, 2, 150.0, 5))
    movement = kind(batch(p, 150.0))
    assert kind.width == 96 and len(kind.quantities) == 48 and kind.quantities[:2] == ("k0_dx", "k0_dy")
    flat = p[0, :, 0].reshape(5, 48)
    np.testing.assert_allclose(movement.inputs[0, 1], np.concatenate([flat[1], flat[1] - flat[0]]), rtol=1e-6)
    np.testing.assert_allclose(movement.targets[0, 1], flat[1] - flat[0], rtol=1e-6)
    assert movement.valid.tolist() == [[False, True, True, True, True], [False, True, True, True, False]]
    assert movement.inputs.isfinite().all() and (movement.inputs[1, 4] == 0).all()
    assert (movement.inputs[0, 2, 6:8] == 0).all() and movement.targets[0, 2, 6:8].isnan().all()
    assert movement.targets[0, 3, 6:8].isnan().all() and movement.targets[0, 2, :6].isfinite().all()


def test_joints_are_angles_and_velocities_as_recorded():
    robot = Skeleton(tuple(f"{leg}_{joint}" for leg in ("LF", "LH", "RF", "RH") for joint in ("HAA", "HFE", "KFE")))
    p = np.random.default_rng(0).normal(0, 1, (1, 3, 1, 12, 2)).astype(np.float32)
    kind = features("joints", Spec(robot, 1, 2, 50.0, 3))
    movement = kind(batch(p, 50.0))
    assert kind.width == 24 and kind.quantities[0] == "LF_HAA_velocity"
    np.testing.assert_array_equal(movement.inputs[0, 1], np.concatenate([p[0, 1, 0, :, 0], p[0, 1, 0, :, 1]]))
    np.testing.assert_array_equal(movement.targets[0, 2], p[0, 2, 0, :, 1])


def test_joints_without_measured_velocities_are_differenced():
    legs = Skeleton(("LF", "LH", "RF", "RH"))
    p = np.random.default_rng(0).normal(0, 1, (1, 3, 1, 4, 3)).astype(np.float32)
    kind = features("joints", Spec(legs, 1, 3, 50.0, 3))
    assert kind.width == 24 and len(kind.quantities) == 12
    np.testing.assert_array_equal(kind(batch(p, 50.0)).targets[0, 1], (p[0, 1, 0] - p[0, 0, 0]).ravel())


def among(individuals: int, **flags):
    return features("generic", Spec(STICK, individuals, 2, 30.0, 3), (), **flags)


def test_the_nearest_other_comes_first_and_the_missing_last():
    centres = [[[0, 0], [0, 30], [10, 0]], [[0, 0], [0, 28], [11, 0]], [[0, 0], [0, 4], [math.nan, math.nan]]]
    kind = among(3, pairs_in=True)
    movement = kind(batch(sticks(centres, np.zeros((3, 3)))))
    width = len(NAMES) + 1
    assert kind.width == kind.own.width + 2 * width
    near = movement.inputs[0, :, kind.own.width :].view(3, 2, width)
    distance, cos, sin, closing = (NAMES.index(n) for n in ("distance", "bearing_cos", "bearing_sin", "closing"))
    assert (near[0] == 0).all()  # the first frame has no movement
    np.testing.assert_allclose(near[1, :, distance], [11, 28], atol=1e-5)
    np.testing.assert_allclose(near[1, :, [cos, sin, closing, -1]], [[1, 0, -1, 1], [0, 1, 2, 1]], atol=1e-5)
    np.testing.assert_allclose(near[2, 0, [distance, closing, -1]], [4, 24, 1], atol=1e-5)
    assert (near[2, 1] == 0).all()


def test_what_the_nearest_does_is_a_target():
    # it stands ahead at 10, comes to 8, then I turn left by 0.3: it is 0.3 to my right
    centres = [[[0, 0], [10, 0], [50, 50]], [[0, 0], [8, 0], [50, 50]], [[0, 0], [8, 0], [50, 50]]]
    headings = [[0, 1, 2], [0, 1, 2], [0.3, 1, 2]]
    kind = among(3, pairs_out=True)
    assert kind.quantities[-2:] == NEAREST and kind.width == kind.own.width
    targets = kind(batch(sticks(centres, headings))).targets[0, :, -2:]
    assert targets[0].isnan().all()
    np.testing.assert_allclose(targets[1:], [[-2, 0], [0, -0.3]], atol=1e-5)


def test_the_change_belongs_to_one_neighbour_even_when_another_takes_its_place():
    centres = [[[0, 0], [10, 0], [0, 11]], [[0, 0], [10, 0], [0, 9]]]
    targets = among(3, pairs_out=True)(batch(sticks(centres, np.zeros((2, 3))))).targets[0, 1, -2:]
    np.testing.assert_allclose(targets, [-2, 0], atol=1e-5)


def test_an_animal_alone_has_no_nearest():
    p = sticks([[[0, 0], [5, 0]]] * 3, np.zeros((3, 2)))
    p[0, :, 1] = torch.nan
    movement = among(2, pairs_in=True, pairs_out=True)(batch(p))
    assert movement.valid[0, 1] and movement.targets[0, :, -2:].isnan().all()
    assert (movement.inputs[0, :, -len(NAMES) - 1 :] == 0).all()


@pytest.mark.parametrize("animals", [1, 2, 3, 5])
def test_any_number_of_animals_and_their_names_do_not_matter(animals):
    rng = np.random.default_rng(animals)
    made = batch(sticks(rng.normal(0, 20, (6, animals, 2)), rng.normal(0, 1, (6, animals))))
    kind = among(3, pairs_in=True, pairs_out=True)
    order = torch.randperm(animals, generator=torch.Generator().manual_seed(0))
    movement = kind(made)
    turned = kind(Batch(made.keypoints[:, :, order], made.mask, 30.0))
    assert movement.inputs.shape == (animals, 6, kind.width)
    torch.testing.assert_close(turned.inputs, movement.inputs[order])
    torch.testing.assert_close(turned.targets, movement.targets[order], equal_nan=True)


def test_impossible_features_say_what_to_do():
    with pytest.raises(SchemaError, match="at least two animals; set pairs_in"):
        among(1, pairs_in=True)
    with pytest.raises(SchemaError, match="state, generic, differences or joints, not 'states'"):
        features("states", Spec(STICK, 1, 2, 30.0, 3))
    with pytest.raises(SchemaError, match="no action 'nose_dz'; actions are nose_dx"):
        features("differences", Spec(STICK, 1, 2, 30.0, 3), ("nose_dz",))
    with pytest.raises(SchemaError, match="12-keypoint mouse"):
        features("state", Spec(STICK, 1, 2, 30.0, 3))
