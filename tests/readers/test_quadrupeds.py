"""robot_dataset.npy, written in both axis orders and read back, also through the recipe."""

import sys
from pathlib import Path

import numpy as np
import pytest

from ethoray import readers, store, testing
from ethoray.readers import ReadError, quadrupeds

RECIPE = Path(__file__).parents[2] / "datasets" / "quadrupeds.py"


def data(robots=10, frames=30):
    rng = np.random.default_rng(0)
    return {
        "base_pos": rng.normal(size=(robots, 3, frames)),
        "dof_pos": rng.normal(size=(robots, 12, frames)).astype(np.float32),
        "dof_vel": rng.normal(size=(robots, 12, frames)).astype(np.float32),
        "robot_type": np.arange(robots) % 2.0,
        "command_vel": np.linspace(0.5, 2, robots),
        "terrain_type": np.tile(np.arange(frames) % 5, (robots, 1)).astype(np.uint8),
        "terrain_slope": np.full((robots, frames), -0.25),
        "terrain_difficulty": np.full((robots, frames), 0.5),
        "names": {"dof_names": [f"j{i}" for i in range(12)], "robot_names": ["anymal_b", "anymal_c"]},
    }


def save(path, content):
    np.save(path, np.array(content, dtype=object), allow_pickle=True)
    return path


@pytest.mark.parametrize("time_first", [False, True])
def test_a_joint_is_a_keypoint_of_angle_and_velocity_in_either_order(tmp_path, time_first):
    made = data()
    order = (0, 2, 1) if time_first else (0, 1, 2)
    path = save(tmp_path / "r.npy", made | {k: made[k].transpose(order) for k in ("dof_pos", "dof_vel")})
    assert readers.sniff(path) is quadrupeds
    found = list(quadrupeds.sequences(path))
    assert len(found) == 10 and found[3].keypoints.shape == (30, 1, 12, 2)
    np.testing.assert_array_equal(found[3].keypoints[:, 0, 4, 0], made["dof_pos"][3, 4])
    np.testing.assert_array_equal(found[3].keypoints[:, 0, 4, 1], made["dof_vel"][3, 4])
    assert found[3].labels["robot_type"] == 1 and found[3].labels["linear_velocity"] == made["command_vel"][3]


def test_the_recipe_prepares_five_tasks(tmp_path, monkeypatch):
    save(tmp_path / "robot_dataset.npy", data())
    given = ["--raw", tmp_path, "--out", "q", "--root", tmp_path, "--train", ".5"]
    monkeypatch.setattr(sys, "argv", ["quadrupeds.py", *map(str, given)])
    with testing.script(RECIPE) as module:
        module.main()
    dataset = store.open("q", tmp_path)
    assert len(dataset.entries) == 10 and set(dataset.splits) == {"train", "test"} and dataset.card.simulated
    labels = dataset.labels(dataset.entries[0])
    assert labels["terrain_type"][:6].tolist() == [0, 1, 2, 3, 4, 0] and labels["terrain_slope"][0] == -0.25


def test_what_does_not_fit_is_refused(tmp_path):
    for change, words in (
        ({"dof_vel": np.zeros((10, 12, 29))}, "dof_vel is"),
        ({"robot_type": None}, "no array robot_type"),
        ({"terrain_slope": np.zeros((10, 3))}, "terrain_slope"),
    ):
        with pytest.raises(ReadError, match=words):
            next(quadrupeds.sequences(save(tmp_path / "r.npy", data() | change)))
