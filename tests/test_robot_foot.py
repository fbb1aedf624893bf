from pathlib import Path

import numpy as np
import pytest

from ethoray import testing
from ethoray.readers import ReadError

FILE = Path(__file__).parents[1] / "datasets" / "robot_foot.py"


@pytest.fixture(scope="module")
def foot():
    with testing.script(FILE) as module:
        yield module


def log(path, frames=1500, extra=0):
    """Force at 500 Hz in the first column, the sensor at 250 Hz in the first half of the others."""
    force = np.arange(2 * frames + extra)
    sensor = np.full((len(force), 6), np.nan)
    sensor[:frames] = np.arange(frames)[:, None] + np.arange(6) / 10
    np.savetxt(path, np.column_stack([force, sensor]), delimiter=",", fmt="%.1f")
    return path


@pytest.mark.parametrize("extra", [0, 1, -1])
def test_rows_of_the_two_rates_are_paired_by_their_time(foot, tmp_path, extra):
    found = foot.read(log(tmp_path / "a.csv", extra=extra))
    assert found.shape == (1500, 3, 3) and found.dtype == np.float32
    np.testing.assert_allclose(found[7, 0], [7.0, 7.1, 7.2], rtol=1e-6)
    np.testing.assert_allclose(found[7, 1], [7.3, 7.4, 7.5], rtol=1e-6)
    np.testing.assert_allclose(found[7, 2], [0, 0, 0.14], rtol=1e-6)


def test_seconds_are_train_a_gap_and_test_in_this_order(foot, tmp_path):
    log(tmp_path / "walk_normal.csv")
    log(tmp_path / "walk_wd40.csv")
    found = foot.files(tmp_path)
    made = list(foot.recordings(found, ("normal", "slippery"), None))
    assert [r.split for r in made[:6]] == ["train", "train", "train", "gap", "test", "test"] and len(made) == 12
    assert [r.labels["surface"] for r in made] == [0.0] * 6 + [1.0] * 6
    assert made[8].keypoints[0, 0, 0, 0] == 500 and {r.frames for r in made} == {250}


def test_one_surface_alone_is_no_task(foot, tmp_path):
    log(tmp_path / "walk_white_surface.csv")
    found = foot.files(tmp_path)
    assert foot.card("foot", ("white",), [path for _, path in found]).tasks == ()
    assert all(not r.labels for r in foot.recordings(found, ("white",), None))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2\n3,4\n", "expected seven columns"),
        ("1,2,3,4,5,6,7\n1,2\n", "rows of different lengths"),
        ("1,2,3,4,5,6,7\n1,2,3,4,5,6,7\n", "do not fill the first half"),
        ("1,,,,,,\n1,2,3,4,5,6,7\n", "do not fill the first half"),
    ],
)
def test_other_tables_are_refused(foot, tmp_path, text, message):
    (tmp_path / "normal.csv").write_text(text)
    with pytest.raises(ReadError, match=message):
        foot.read(tmp_path / "normal.csv")
    with pytest.raises(ReadError, match="no csv file whose name tells a surface"):
        foot.files(tmp_path / "nowhere")
