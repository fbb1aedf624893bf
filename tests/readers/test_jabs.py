from pathlib import Path

import h5py
import numpy as np
import pytest

from ethoray import readers
from ethoray.readers import ReadError, jabs

DATA = Path("../shared/data")


def pose(path, points, confidence, **more):
    with h5py.File(path, "w") as file:
        for key, value in {"points": points, "confidence": confidence, **more}.items():
            file[f"poseest/{key}"] = value
    return path


def points(frames, mice):
    found = np.zeros((frames, mice, 12, 2), dtype=np.uint16)
    found[..., 0], found[..., 1] = 1 + np.arange(frames)[:, None, None], 100 + np.arange(mice)[:, None]
    return found


def test_rows_and_columns_become_x_and_y_and_doubt_is_missing(tmp_path):
    confidence = np.ones((3, 12), dtype=np.float32)
    confidence[1, 0] = 0
    found = readers.tracks(pose(tmp_path / "v2.h5", points(3, 1)[:, 0], confidence))
    assert found.keypoints.shape == (3, 1, 12, 2) and found.keypoints[2, 0, 0].tolist() == [100, 3]
    assert np.isnan(found.keypoints[1, 0, 0]).all() and found.names[0] == "nose"


def test_identities_are_followed_and_masked_ones_left_out(tmp_path):
    identity, hidden = np.array([[1, 2, 9], [2, 1, 9]], dtype=np.uint32), np.array([[0, 0, 1]] * 2, dtype=bool)
    path = pose(tmp_path / "v5.h5", points(2, 3), np.ones((2, 3, 12), "f4"), instance_embed_id=identity, id_mask=hidden,
                instance_count=np.array([3, 3], "u1"))  # fmt: skip
    found = readers.tracks(path)
    assert found.keypoints[:, :, 0, 0].tolist() == [[100, 101], [101, 100]]


def test_tracklets_take_the_place_lost_longest_ago(tmp_path):
    track = np.array([[0, 1], [0, 1], [2, 1], [2, 1]], dtype=np.uint32)
    path = pose(tmp_path / "v3.h5", points(4, 2), np.ones((4, 2, 12), "f4"), instance_track_id=track,
                instance_count=np.full(4, 2, "u1"))  # fmt: skip
    found = readers.tracks(path)
    assert found.keypoints.shape[1] == 2 and found.notes == ("3 tracklets joined to 2 individuals, who may change",)


@pytest.mark.parametrize(
    ("confidence", "more", "message"),
    [
        (np.ones((2, 2, 11), "f4"), {}, "poseest/confidence has shape"),
        (np.full((2, 2, 12), -1, "f4"), {}, "poseest/confidence is negative"),
        (np.ones((2, 2, 12), "f4"), {"instance_count": np.ones(3, "u1")}, "poseest/instance_count has shape"),
        (np.ones((2, 2, 12), "f4"), {"instance_embed_id": np.ones((2, 2), "u4")}, "mouse 1 twice in frame 0"),
    ],
)
def test_a_wrong_file_names_the_key(tmp_path, confidence, more, message):
    with pytest.raises(ReadError, match=message):
        readers.tracks(pose(tmp_path / "a.h5", points(2, 2), confidence, **more))


def test_version_4_knows_its_mice_and_version_6_adds_outlines(tmp_path):
    identity, hidden = np.array([[2, 1], [1, 0], [2, 1]], dtype=np.uint32), np.zeros((3, 2), dtype=bool)
    hidden[1, 1] = True
    more = {"instance_embed_id": identity, "id_mask": hidden, "instance_count": np.array([2, 1, 2], "u1"),
            "instance_track_id": np.array([[5, 3], [8, 0], [1, 2]], "u4"), "identity_embeds": np.zeros((3, 2, 4), "f4"),
            "instance_id_center": np.zeros((2, 4))}  # fmt: skip
    path = pose(tmp_path / "v4.h5", points(3, 2), np.ones((3, 2, 12), "f4"), **more)
    found = readers.tracks(path)
    np.testing.assert_array_equal(found.keypoints[:, :, 0, 0], [[101, 100], [100, np.nan], [101, 100]])
    with h5py.File(path, "a") as file:
        file["static_objects/corners"] = np.zeros((4, 2), "u2")
        file["poseest/seg_data"] = np.full((3, 2, 1, 5, 2), -1, "i4")
        file["poseest/longterm_seg_id"] = identity
    np.testing.assert_array_equal(readers.tracks(path).keypoints, found.keypoints)


def test_a_later_mouse_and_tracklets_across_scans_keep_their_places(tmp_path, monkeypatch):
    monkeypatch.setattr(jabs, "_SCAN", 3)
    track = np.array([[0, 9], [0, 9], [0, 9], [0, 4], [7, 4], [7, 4], [7, 4]], dtype=np.uint32)
    count = np.array([1, 1, 2, 2, 2, 2, 2], "u1")
    path = pose(tmp_path / "v3.h5", points(7, 2), np.ones((7, 2, 12), "f4"), instance_track_id=track,
                instance_count=count)  # fmt: skip
    found = readers.tracks(path)
    nan = np.nan  # 9 is seen in frame 2 only; 4 comes after it, 7 after 0
    np.testing.assert_array_equal(found.keypoints[:, :, 0, 0].T, [[100] * 7, [nan, nan, 101, 101, 101, 101, 101]])
    assert found.notes == ("4 tracklets joined to 2 individuals, who may change",)
    with pytest.raises(ReadError, match="no mouse in any frame"):
        readers.tracks(pose(tmp_path / "a.h5", points(2, 1), np.ones((2, 1, 12), "f4"),
                            instance_count=np.zeros(2, "u1")))  # fmt: skip


@pytest.mark.skipif(not DATA.is_dir(), reason="recordings are not here")
@pytest.mark.parametrize(("version", "mice"), [(2, 1), (5, 3)])
def test_real_files_are_read(version, mice):
    found = readers.tracks(DATA / f"mouse_group_jabs/sample_pose_est_v{version}.h5")
    assert found.keypoints.shape == (1800, mice, 12, 2)
