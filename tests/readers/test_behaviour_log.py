import h5py
import numpy as np
import pytest

from ethoray import readers
from ethoray.readers import ReadError, behaviour_log


def log(path, columns):
    """The fixed layout of pandas for a data frame of numbers."""
    names = np.array([name.encode() for name in columns])
    with h5py.File(path, "w") as file:
        group = file.create_group("data")
        group.attrs["pandas_type"] = np.bytes_(b"frame")
        group["axis0"] = group["block0_items"] = names
        group["axis1"] = np.arange(len(columns["t"]))
        group["block0_values"] = np.stack(list(columns.values()), 1)
    return path


def swimmer(fish, frames, rng, segments=4):
    return {
        f"f{fish}_x": rng.normal(300, 50, frames),
        f"f{fish}_y": rng.normal(200, 50, frames),
        f"f{fish}_theta": rng.uniform(-6, 6, frames),
        **{f"f{fish}_theta_{j:02d}": rng.normal(0, 0.5, frames) for j in range(segments)},
    }


def directions(points):
    step = np.diff(points.astype(np.float64), axis=-2)
    np.testing.assert_allclose(np.linalg.norm(step, axis=-1), 1, atol=1e-4)
    return np.arctan2(step[..., 1], step[..., 0])


def same_angle(found, expected):
    np.testing.assert_allclose(np.exp(1j * found), np.exp(1j * expected), atol=1e-4)


def test_angles_and_heading_of_every_fish_come_back_from_the_keypoints(tmp_path):
    rng, time = np.random.default_rng(0), np.arange(30) / 200
    columns = swimmer(0, 30, rng) | swimmer(1, 30, rng) | {"biggest_area": time, "t": time}
    found = readers.tracks(log(tmp_path / "a.h5", columns))
    assert found.keypoints.shape == (30, 2, 6, 2) and found.individuals == ("f0", "f1")
    assert found.names == ("head", "tail_base", "tail_01", "tail_02", "tail_03", "tail_04") and found.fps == 200
    np.testing.assert_allclose(found.keypoints[:, 1, 0, 1], columns["f1_y"], rtol=1e-6)
    for i in range(2):
        angle = directions(found.keypoints[:, i])
        same_angle(angle[:, 0], columns[f"f{i}_theta"])
        for j in range(4):
            same_angle(angle[:, j + 1] - angle[:, 0], columns[f"f{i}_theta_{j:02d}"])


def test_a_hand_worked_tail(tmp_path):
    columns = {"t": np.array([0.0, 0.5]), "tail_sum": np.zeros(2), "theta_00": np.array([0, np.pi / 2]),
               "theta_01": np.array([np.pi / 2, np.pi])}  # fmt: skip
    found = readers.tracks(log(tmp_path / "a.h5", columns))
    assert found.names == ("head", "tail_base", "tail_01", "tail_02") and found.fps == 2
    expected = [[[-1, 0], [0, 0], [1, 0], [1, 1]], [[-1, 0], [0, 0], [0, 1], [-1, 1]]]
    np.testing.assert_allclose(found.keypoints[:, 0], expected, atol=1e-6)


def test_eyes_are_a_centre_and_an_end_of_the_ellipse(tmp_path):
    columns = {"pos_x_e0": [10, 10], "pos_y_e0": [20, 20], "dim_x_e0": [8, 8], "dim_y_e0": [4, 4], "th_e0": [-90, 0]}
    columns = {k: np.array(v, float) for k, v in columns.items()} | {"t": np.array([0, 0.1])}
    found = readers.tracks(log(tmp_path / "a.h5", columns))
    np.testing.assert_allclose(found.keypoints[:, 0], [[[10, 20], [10, 16]], [[10, 20], [14, 20]]], atol=1e-5)
    assert found.names == ("eye_0", "eye_0_end")


def test_a_fish_that_is_not_found_is_missing(tmp_path):
    columns = swimmer(0, 5, np.random.default_rng(0)) | {"t": np.arange(5) / 100}
    for name in columns:
        if name != "t":
            columns[name][2] = np.nan
    found = readers.tracks(log(tmp_path / "a.h5", columns))
    assert np.isnan(found.keypoints[2]).all() and np.isfinite(found.keypoints[[0, 1, 3, 4]]).all()


def test_small_jitter_is_noted_and_the_rows_stay(tmp_path):
    columns = swimmer(0, 5, np.random.default_rng(0)) | {"t": np.array([0, 0.012, 0.02, 0.031, 0.04])}
    found = readers.tracks(log(tmp_path / "a.h5", columns))
    assert found.fps == 100 and len(found.keypoints) == 5
    (note,) = found.notes
    assert note == "times are 8.0 to 12.0 ms apart (median 10.0), up to 2 ms off a regular clock of 100 frames a second"


def test_a_pause_becomes_missing_frames_on_a_regular_clock(tmp_path):
    time = np.concatenate([np.arange(6) * 0.1, [1.5, 1.6]])
    columns = swimmer(0, 8, np.random.default_rng(0)) | {"t": time}
    found = readers.tracks(log(tmp_path / "a.h5", columns))
    assert found.fps == 4.375 and len(found.keypoints) == 8
    nearest = [0, 2, 5, 5, None, 6, 6, 7]  # of ticks 0, .229, .457, .686, .914, 1.143 (0.36 s away), 1.371, 1.6
    nearest[5] = None
    for frame, row in enumerate(nearest):
        x = found.keypoints[frame, 0, 0, 0]
        assert np.isnan(x) if row is None else x == np.float32(columns["f0_x"][row])
    assert found.notes[0].endswith("each frame is the row nearest in time: 3 rows fall away, 2 frames have none")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"t": np.arange(4.0), "luminance": np.ones(4)}, "a log without a fish, a tail or eyes"),
        ({"t": np.zeros(4), "theta_00": np.ones(4)}, "do not rise"),
        ({"t": np.array([0, 1, np.nan]), "theta_00": np.ones(3)}, "do not rise"),
        ({"t": np.arange(4.0), "f0_x": np.ones(4)}, "f0 has no column f0_y"),
        ({"t": np.arange(4.0), "pos_x_e1": np.ones(4)}, "eye 1 has no column pos_y_e1"),
        ({"t": np.arange(4.0), "theta_00": np.full(4, np.inf)}, "infinite"),
    ],
)
def test_what_is_no_behaviour_log_is_refused(tmp_path, columns, message):
    with np.errstate(invalid="ignore"), pytest.raises(ReadError, match=message):
        readers.tracks(log(tmp_path / "a.h5", columns))


def test_keypoints_can_be_left_out(tmp_path):
    columns = swimmer(0, 5, np.random.default_rng(0)) | {"t": np.arange(5) / 100}
    found = readers.tracks(log(tmp_path / "a.h5", columns), ignore=["tail_04"])
    assert found.names[-1] == "tail_03" and found.keypoints.shape == (5, 1, 5, 2)


def test_a_chain_of_right_angles():
    found = behaviour_log.chain(np.zeros((1, 2)), np.array([[0, np.pi / 2, np.pi]]))
    np.testing.assert_allclose(found, [[[1, 0], [1, 1], [0, 1]]], atol=1e-12)
