import numpy as np
import pytest
from scipy import io

from ethoray import readers
from ethoray.readers import ReadError
from ethoray.readers.own import own


def dance(path, frames=40):
    track = np.linspace(0, 1, frames)[:, None] * [1, 1, 1] * [0.5, 1, 0.75]
    marks = np.zeros((frames, 1), dtype=np.int64)
    marks[[10, 25]] = 1
    io.savemat(path, {"Y": track, "L": marks})
    return track


def test_place_heading_and_change_points_are_read(tmp_path):
    track = dance(tmp_path / "bee.mat")
    found = readers.tracks(tmp_path / "bee.mat")
    assert found.keypoints.shape == (40, 1, 2, 2) and found.names == ("head", "heading") and found.fps is None
    np.testing.assert_allclose(found.keypoints[:, 0, 0], track[:, :2], atol=1e-6)
    turn = found.keypoints[:, 0, 1] - found.keypoints[:, 0, 0]
    np.testing.assert_allclose(np.arctan2(turn[:, 1], turn[:, 0]) % (2 * np.pi), 2 * np.pi * track[:, 2], atol=1e-5)
    labels = readers.labels(tmp_path / "bee.mat", "bee.mat")
    assert np.flatnonzero(labels.frames("change", 40, 30)).tolist() == [10, 25]


def test_one_file_is_both_the_poses_and_the_labels(tmp_path):
    dance(tmp_path / "bee.mat", 400)
    card, recordings = own([tmp_path / "bee.mat"], [tmp_path / "bee.mat"], 30, front="heading", back="head")
    assert [t.name for t in card.tasks] == ["change"] and sum(r.frames for r in recordings) == 400


def test_other_files_of_matlab_and_damaged_ones_are_not_taken(tmp_path):
    io.savemat(tmp_path / "other.mat", {"Y": np.zeros((4, 2)), "L": np.zeros((4, 1))})
    with pytest.raises(ReadError, match="unknown format"):
        readers.sniff(tmp_path / "other.mat")
    dance(tmp_path / "bee.mat")
    whole = (tmp_path / "bee.mat").read_bytes()
    (tmp_path / "cut.mat").write_bytes(whole[:300])
    with pytest.raises(ReadError, match=r"cut\.mat"):
        readers.tracks(tmp_path / "cut.mat")
    io.savemat(tmp_path / "marks.mat", {"Y": np.zeros((4, 3)), "L": np.full((4, 1), 2)})
    with pytest.raises(ReadError, match="other numbers than 0 and 1"):
        readers.labels(tmp_path / "marks.mat", "marks.mat")
