from pathlib import Path

import h5py
import numpy as np
import pytest

from ethoray import readers
from ethoray.readers import ReadError

DATA = Path("../shared/data")


def analysis(path, tracks, nodes=(b"nose", b"tail"), names=(b"a", b"b"), **more):
    with h5py.File(path, "w") as file:
        file["tracks"], file["node_names"] = tracks, np.array(nodes)
        file["track_names"] = np.array(names)
        for key, value in more.items():
            file[key] = value
    return path


@pytest.fixture
def stored():
    return np.arange(2 * 2 * 2 * 5, dtype=float).reshape(2, 2, 2, 5)


def test_the_analysis_export_is_turned_to_our_axes(tmp_path, stored):
    found = readers.tracks(analysis(tmp_path / "a.h5", stored, point_scores=np.full((2, 2, 5), 0.5)))
    assert found.keypoints.shape == (5, 2, 2, 2) and found.individuals == ("a", "b")
    assert found.keypoints[3, 1, 0].tolist() == [stored[1, 0, 0, 3], stored[1, 1, 0, 3]]
    assert (found.confidence == 0.5).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes": (b"nose", b"tail", b"ear")}, "tracks has shape .*3 node_names"),
        ({"nodes": np.zeros(0)}, "node_names names no node"),
        ({"point_scores": np.full((2, 2, 5), -1.0)}, "point_scores is negative"),
        ({"point_scores": np.ones((2, 5))}, "point_scores has shape"),
        ({"names": (b"a",)}, "1 track_names for 2 tracks"),
    ],
)
def test_a_wrong_analysis_names_the_key(tmp_path, stored, change, message):
    with pytest.raises(ReadError, match=message):
        readers.tracks(analysis(tmp_path / "a.h5", stored, **change))


def test_a_cut_file_and_one_without_tracks_are_errors(tmp_path, stored):
    path = analysis(tmp_path / "a.h5", stored)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ReadError, match="cut off"):
        readers.tracks(path)
    with pytest.raises(ReadError, match="0 tracks"):
        readers.tracks(analysis(tmp_path / "b.h5", stored[:0], names=np.zeros(0)))


def project(path, track=(0, 1, 0), kinds=(1, 1, 0), visible=True):
    """Frames 0 and 2; three instances of two points: frame 0 twice, frame 2 by hand."""
    frame = [("frame_id", "u8"), ("video", "u4"), ("frame_idx", "u8")]
    instance = [("instance_type", "u1"), ("frame_id", "u8"), ("track", "i4"), ("point_id_start", "u8"),
                ("point_id_end", "u8")]  # fmt: skip
    point = [("x", "f8"), ("y", "f8"), ("visible", "?")]
    with h5py.File(path, "w") as file:
        file["frames"] = np.array([(0, 0, 0), (1, 0, 2)], dtype=frame)
        file["instances"] = np.array(
            [(kinds[0], 0, track[0], 0, 2), (kinds[1], 0, track[1], 2, 4), (kinds[2], 1, track[2], 0, 2)],
            dtype=instance,
        )
        file["pred_points"] = np.array([(i, 10 + i, True, 0.25) for i in range(4)], dtype=[*point, ("score", "f8")])
        file["points"] = np.array([(7, 8, visible), (9, 10, True)], dtype=point)
        file["tracks_json"] = np.array([b'[0, "a"]', b'[0, "b"]'])
        group = file.create_group("metadata")
        group.attrs["format_id"] = 1.2
        group.attrs["json"] = (
            '{"nodes": [{"name": "tail"}, {"name": "nose"}], "skeletons": [{"nodes": [{"id": 1}, {"id": 0}]}]}'
        )
    return path


def test_a_project_is_read_without_its_own_library(tmp_path):
    found = readers.tracks(project(tmp_path / "a.slp", visible=False))
    assert found.names == ("nose", "tail") and found.individuals == ("a", "b") and found.keypoints.shape == (3, 2, 2, 2)
    assert found.keypoints[0].tolist() == [[[0, 10], [1, 11]], [[2, 12], [3, 13]]]
    assert found.keypoints[2, 0, 1].tolist() == [9, 10] and np.isnan(found.keypoints[2, 0, 0]).all()
    assert np.isnan(found.keypoints[1]).all() and found.confidence[0, 0, 0] == 0.25 and found.confidence[2, 0, 1] == 1


def test_instances_without_tracks_are_counted_within_a_frame(tmp_path):
    found = readers.tracks(project(tmp_path / "a.slp", track=(-1, -1, -1)))
    assert found.individuals == ("individual_0", "individual_1") and "identities may swap" in found.notes[0]
    assert found.keypoints[0, 1, 0].tolist() == [2, 12]
    found = readers.tracks(project(tmp_path / "b.slp", track=(0, -1, 0)))
    assert "1 instances without a track" in found.notes[0]


def test_a_project_of_impossible_points_is_an_error(tmp_path):
    path = project(tmp_path / "a.slp")
    with h5py.File(path, "a") as file:
        file["instances"][...] = [(1, 0, 0, 0, 9), (1, 0, 1, 2, 4), (0, 1, 0, 0, 2)]
    with pytest.raises(ReadError, match="points of their nodes in pred_points"):
        readers.tracks(path)


@pytest.mark.parametrize("nodes", [2, 3])
def test_an_export_that_was_not_turned_is_the_same(tmp_path, nodes):
    tracks = np.random.default_rng(0).normal(size=(4, 2, nodes, 5))
    tracks[1, :, :, 2] = np.nan
    scores, given = np.random.default_rng(1).uniform(size=(4, nodes, 5)), [b"n%d" % n for n in range(nodes)]
    names = (b"a", b"b", b"c", b"d")
    turned = readers.tracks(analysis(tmp_path / "a.h5", tracks, given, names, point_scores=scores))
    other = readers.tracks(analysis(tmp_path / "b.h5", tracks.T, given, names, point_scores=scores.T))
    np.testing.assert_array_equal(turned.keypoints, other.keypoints)
    np.testing.assert_array_equal(turned.confidence, other.confidence)
    assert np.isnan(turned.keypoints[2, 1]).all() and turned.names[0] == "n0"


def test_projects_before_1_1_count_from_the_corner_of_the_first_pixel(tmp_path):
    path = project(tmp_path / "a.slp")
    new = readers.tracks(path)
    with h5py.File(path, "a") as file:
        file["metadata"].attrs["format_id"] = 1.0
    np.testing.assert_allclose(readers.tracks(path).keypoints, new.keypoints - 0.5)


def test_a_project_with_its_pictures_and_without_its_video_is_read_alike(tmp_path):
    path = project(tmp_path / "a.slp")
    plain = readers.tracks(path)
    with h5py.File(path, "a") as file:
        file["video0/video"] = np.zeros((2, 50), dtype=np.int8)
        file["video0/frame_numbers"] = np.array([0, 2])
        file["videos_json"] = np.array([b'{"backend": {"filename": "/not/there.mp4"}}'])
    np.testing.assert_array_equal(readers.tracks(path).keypoints, plain.keypoints)


def test_a_frame_that_nobody_is_tracked_in_still_counts(tmp_path):
    path = project(tmp_path / "a.slp", track=(0, 1, -1))
    assert readers.tracks(path).keypoints.shape[0] == readers.layout(path).frames == 3


@pytest.mark.skipif(not DATA.is_dir(), reason="recordings are not here")
def test_the_two_real_files_agree():
    one, other = (readers.tracks(DATA / f"fly_pair_sleap/predictions.{e}") for e in ("analysis.h5", "slp"))
    assert one.keypoints.shape == (3000, 2, 13, 2) and one.names[:2] == ("head", "thorax")
    np.testing.assert_array_equal(one.keypoints, other.keypoints)
