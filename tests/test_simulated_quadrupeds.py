"""Simulated quadrupeds: the legs' geometry and the ground by hand-worked numbers, the walks by what they must show."""

import importlib
import importlib.util
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ethoray.readers import quadrupeds
from ethoray.schema import check_labels

FOLDER = Path(__file__).parents[1] / "datasets"
NAMES = ("simulated_quadrupeds", "quadruped_walk", "quadruped_gait", "quadruped_terrain", "quadruped_model")
physics = pytest.mark.skipif(
    importlib.util.find_spec("mujoco") is None, reason="needs MuJoCo: pip install mujoco==4.0.0"
)


@pytest.fixture(scope="module", autouse=True)
def modules():
    sys.path.insert(0, str(FOLDER))
    yield {name: importlib.import_module(name) for name in NAMES}
    sys.path.remove(str(FOLDER))
    for name in NAMES:
        del sys.modules[name]


@pytest.fixture(scope="module")
def recipe(modules):
    return modules["simulated_quadrupeds"]


@pytest.fixture(scope="module")
def model(modules):
    return modules["quadruped_model"]


@pytest.fixture(scope="module")
def terrain(modules):
    return modules["quadruped_terrain"]


@pytest.fixture(scope="module")
def gait(modules):
    return modules["quadruped_gait"]


def test_robots_differ_as_the_real_ones_do(model):
    small, large = model.ROBOTS
    assert (small.name, large.name) == quadrupeds.ROBOTS and model.JOINTS == quadrupeds.JOINTS
    assert 28 < small.mass < 33 and 47 < large.mass < 53
    assert small.thigh < large.thigh and small.shank < large.shank
    assert large.rest[0, 0] > small.rest[0, 0] and abs(large.rest[0, 2]) > abs(small.rest[0, 2])  # wider, more bent
    assert 0.45 < small.height < large.height < 0.65


def test_a_straight_leg_points_down_and_a_bent_one_is_worked_out_by_hand(model):
    robot = model.ANYMAL_B
    feet = robot.feet(np.zeros((4, 3)))
    np.testing.assert_allclose(feet[0], [0.277, 0.116 + 0.10, -0.57], atol=1e-12)
    np.testing.assert_allclose(feet[3], [-0.277, -0.116 - 0.10, -0.57], atol=1e-12)
    np.testing.assert_allclose(model.ANYMAL_C.rest[:, 0], [0.15, 0.15, -0.15, -0.15])  # all outwards
    quarter = robot.feet(np.tile([0.0, np.pi / 2, -np.pi / 2], (4, 1)))  # thigh back, shank down
    np.testing.assert_allclose(quarter[0], [0.277 - 0.25, 0.216, -0.32], atol=1e-12)
    sideways = robot.feet(np.tile([np.pi / 2, 0.0, 0.0], (4, 1)))  # the left leg points left, its offset up
    np.testing.assert_allclose(sideways[0], [0.277, 0.116 + 0.57, 0.10], atol=1e-12)


def test_angles_invert_feet_and_the_jacobian_is_their_derivative(model):
    rng = np.random.default_rng(0)
    for robot in model.ROBOTS:
        for _ in range(20):
            angles = robot.rest + rng.uniform(-0.25, 0.25, (4, 3))
            feet = robot.feet(angles)
            np.testing.assert_allclose(robot.angles(feet), angles, atol=1e-9)
            matrix = robot.jacobian(angles, feet)
            for joint in range(3):
                step = 1e-6 * (np.arange(3) == joint)
                slope = (robot.feet(angles + step) - robot.feet(angles - step)) / 2e-6
                np.testing.assert_allclose(matrix[:, :, joint], slope, atol=1e-8)


def test_a_foot_out_of_reach_gives_finite_angles(model):
    feet = model.ANYMAL_C.hips + np.array([[0.9, 0, -0.9], [0, 0, 0], [0, 0, 0.2], [0, 0.01, -0.02]])
    assert np.isfinite(model.ANYMAL_C.angles(feet)).all()


def heights(terrain, cell, x):
    lane = terrain.Lane((cell,), ((0,),))
    return lane.heights[terrain.ROWS // 2, lane.index(np.array(x))]


def test_hills_and_pits_have_the_slope_and_the_platform_that_they_say(terrain):
    hill, pit = terrain.Cell("slope", True, 0.9), terrain.Cell("slope", False, 0.75)
    np.testing.assert_allclose(
        heights(terrain, hill, [1.0, 4.0, 6.0, 11.0]), 0.36 * np.array([1, 4, 4.5, 1]), atol=0.01
    )
    np.testing.assert_allclose(heights(terrain, pit, [2.0, 6.0]), -0.3 * np.array([2, 4.5]), atol=0.01)
    assert (hill.terrain, pit.terrain) == (terrain.HILL, terrain.PIT)
    assert terrain.Cell("slope", True, 0.5).terrain == terrain.FLAT  # a slope of .2


def test_stairs_have_fourteen_steps_of_the_height_that_they_say(terrain):
    up, down = terrain.Cell("stairs up", False, 0.9), terrain.Cell("stairs down", True, 0.5)
    np.testing.assert_allclose(up.steepness, 0.212)
    np.testing.assert_allclose(down.steepness, -0.14)
    middles = 0.31 * (np.arange(15) + 0.5)
    np.testing.assert_allclose(heights(terrain, up, middles), 0.212 * np.arange(15), atol=1e-12)
    np.testing.assert_allclose(heights(terrain, up, 12 - middles), 0.212 * np.arange(15), atol=1e-12)
    np.testing.assert_allclose(heights(terrain, down, [6.0]), -0.14 * 14, atol=1e-12)


def test_labels_are_those_of_the_cell_under_the_trunk_and_turn_in_its_middle(terrain):
    cells = (
        terrain.Cell("flat", True, 0.5),
        terrain.Cell("stairs up", True, 0.5),
        terrain.Cell("rough slope", False, 0.75),
    )
    lane = terrain.Lane(cells, ((0,), (1,), (2,)))
    found = lane.labels(np.array([0.0, 11.99, 12.01, 17.9, 18.1, 23.9, 24.1, 35.9]))
    assert found["terrain_type"].tolist() == [0, 0, 3, 3, 3, 3, 2, 2]
    np.testing.assert_allclose(found["terrain_slope"], [0, 0, 0.14, 0.14, -0.14, -0.14, -0.3, 0.3], atol=1e-6)
    np.testing.assert_allclose(found["terrain_difficulty"], [0.1, 0.1, 0.5, 0.5, 0.5, 0.5, 0.75, 0.75], atol=1e-6)


def test_cells_come_in_the_published_shares(terrain):
    rng = np.random.default_rng(0)
    cells = [terrain.draw(rng) for _ in range(4000)]
    share = np.bincount([c.terrain for c in cells], minlength=5) / len(cells)
    np.testing.assert_allclose(share, [0.5, 0.1, 0.1, 0.15, 0.15], atol=0.025)


def test_noise_and_boxes_stay_within_their_bounds_and_depend_on_the_seed_alone(terrain):
    for cell, bound in ((terrain.Cell("rough flat", True, 0.5), 0.05), (terrain.Cell("boxes", True, 0.9), 0.23)):
        first, again, other = (terrain.Lane((cell,), ((seed,),)).heights for seed in (1, 1, 2))
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)
        assert 0.5 * bound < np.abs(first).max() <= bound + 1e-9


def test_a_rotation_turns_by_its_quaternion(gait):
    half = np.pi / 8
    turn = gait.rotation(np.array([np.cos(half), 0, 0, np.sin(half)]))
    np.testing.assert_allclose(turn @ [1, 0, 0], [np.sqrt(0.5), np.sqrt(0.5), 0], atol=1e-12)


def standing(model, terrain, gait):
    robot = model.ANYMAL_B
    lane = terrain.Lane((terrain.Cell("flat", True, 0.5),), ((0,),))
    return robot, gait.Trot(robot, robot.mass, lane, gait.Style(0.0, 1.5, 0.6, 0.07, 0.0), 0.9)


def test_a_robot_at_rest_carries_its_weight(model, terrain, gait):
    robot, trot = standing(model, terrain, gait)
    place, still = np.array([6.0, 0, robot.height]), np.zeros(6)
    trot.targets(place, np.array([1.0, 0, 0, 0]), still, robot.rest.ravel(), np.full(4, 75.0))
    trot.standing[:] = True
    arms = robot.feet(robot.rest)
    forces = trot.forces(place, still, np.eye(3), arms, np.full(4, 75.0))
    np.testing.assert_allclose(forces.sum(0), [0, 0, robot.mass * 9.81], atol=2)
    np.testing.assert_allclose(np.cross(arms, forces).sum(0), 0, atol=1)


def test_legs_of_one_diagonal_swing_together(model, terrain, gait):
    robot, trot = standing(model, terrain, gait)
    seen = set()
    for _ in range(200):
        touch = np.where(trot.standing, 150.0, 0.0)
        trot.targets(np.array([6.0, 0, robot.height]), np.array([1.0, 0, 0, 0]), np.zeros(6), robot.rest.ravel(), touch)
        seen.add(tuple(trot.standing.tolist()))
    assert seen == {(True,) * 4, (True, False, False, True), (False, True, True, False)}


def test_plans_alternate_robots_and_depend_on_seed_and_index(modules):
    plan = modules["quadruped_walk"].plan
    plans = [plan(0, index) for index in range(200)]
    assert [p.robot for p in plans[:4]] == [0, 1, 0, 1] and plan(0, 7) == plans[7] != plan(1, 7)
    speeds, extra = np.array([p.how.speed for p in plans]), np.array([p.extra for p in plans])
    assert 0.5 <= speeds.min() < 0.55 and 1.45 < speeds.max() <= 1.5 and np.abs(extra).max() <= 5
    jitter = np.log([p.how.frequency for p in plans]) - np.log(1.35 + 0.55 * speeds)
    assert 0.03 < jitter[::2].std() < 0.07


def test_the_recipe_can_be_sent_to_other_processes_and_says_what_it_lacks(recipe, tmp_path):
    assert pickle.loads(pickle.dumps(recipe.block)) is recipe.block
    code = (
        "import sys; sys.modules['mujoco'] = None; import runpy; sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    path = os.pathsep.join((str(FOLDER), str(FOLDER.parent / "platform")))
    for arguments, wanted in ((["--walks", "0"], "simulate something"), (["--out", "x"], "pip install mujoco")):
        command = [sys.executable, "-c", code, FOLDER / "simulated_quadrupeds.py", *arguments]
        answer = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, cwd=tmp_path
        )
        assert answer.returncode == 2 and wanted in answer.stderr


def test_splits_keep_both_robots_on_both_sides(recipe):
    sides = [recipe.split(index) for index in range(40)]
    assert sides.count("test") == 8 and sides[8:10] == ["test", "test"]


@pytest.fixture(scope="module")
def walks(modules):
    return [modules["quadruped_walk"].walk(0, index, 8.0) for index in (2, 7)]


@physics
def test_walks_are_recordings_that_fit_the_card(recipe, walks):
    card = recipe.card(2, 8.0, 0)
    for index, done in zip((2, 7), walks, strict=True):
        recording = recipe.recording(index, done)
        check_labels(card.tasks, recording)
        assert recording.keypoints.shape == (400, 1, 12, 2) and np.isfinite(recording.keypoints).all()
        assert set(recording.labels) == {task.name for task in card.tasks}
        angles, rates = np.moveaxis(recording.keypoints[:, 0].astype(np.float64), -1, 0)
        change = (angles[2:] - angles[:-2]) * 25
        assert np.median(np.abs(change - rates[1:-1])) < 0.5 < np.median(np.abs(rates))


@physics
def test_robots_trot_at_the_speed_that_they_are_told(modules):
    terrain, walking, gait, model = (modules[f"quadruped_{n}"] for n in ("terrain", "walk", "gait", "model"))
    flat = terrain.Cell("flat", True, 0.5)
    for robot, speed in ((0, 0.6), (1, 1.3)):
        how = gait.style(speed, model.ROBOTS[robot], np.random.default_rng(0))
        done = walking.Course(walking.Plan(robot, how, 0.0, 0.9), 6.0, (0, 0), lambda number: flat).walk()
        assert abs(done.speed[100:].mean() / speed - 1) < 0.1 and not done.falls
        assert np.corrcoef(done.down.T.astype(float))[0, [3]] > 0.5  # diagonal legs together
        assert np.corrcoef(done.down.T.astype(float))[0, [1, 2]].max() < 0
        assert np.abs(done.trunk[:, 1]).max() < 0.2


@physics
def test_a_walk_depends_on_seed_and_index_alone(modules):
    walk = modules["quadruped_walk"].walk
    first, again, other = walk(3, 1, 2.0), walk(3, 1, 2.0), walk(3, 3, 2.0)
    np.testing.assert_array_equal(first.joints, again.joints)
    assert not np.array_equal(first.joints, other.joints)


@physics
def test_a_robot_that_falls_goes_back_and_its_fall_is_not_recorded(modules):
    walking, terrain = modules["quadruped_walk"], modules["quadruped_terrain"]
    wall = terrain.Cell("stairs up", True, 3.0)  # steps of .59 m: nobody climbs them
    flat = terrain.Cell("flat", True, 0.5)
    course = walking.Course(walking.plan(0, 1), 12.0, (0, 1), lambda number: wall if number == 1 else flat)
    done = course.walk()
    assert done.falls.total() >= 4 and done.redrawn >= 1
    assert course.cells[1] != wall and len(done.joints) == 600
    step = np.diff(done.trunk[:, 0])
    assert step.min() > -0.1 and step.max() < 0.1  # nowhere put back within what is recorded
