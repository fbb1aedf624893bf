import numpy as np
import pytest

from ethoray import readers
from ethoray.readers import Tracks
from ethoray.writers import WriteError, write_deeplabcut, write_submission, write_table


@pytest.fixture(params=[(2, True), (3, True), (2, False)])
def tracks(request):
    space, measured = request.param
    rng = np.random.default_rng(0)
    keypoints = (rng.normal(size=(50, 2, 3, space)) * 10.0 ** rng.integers(-5, 5, (50, 2, 3, 1))).astype(np.float32)
    keypoints[rng.random((50, 2, 3)) < 0.1] = np.nan
    confidence = rng.random((50, 2, 3), dtype=np.float32) if measured else None
    return Tracks(keypoints, confidence, ("a", "b"), ("nose", "ear", "tail base"))


def same(one, other):
    np.testing.assert_array_equal(one.keypoints, other.keypoints)
    assert (one.confidence is None) == (other.confidence is None)
    if one.confidence is not None:
        np.testing.assert_array_equal(one.confidence, other.confidence)
    assert one.individuals == other.individuals and one.names == other.names


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_table_comes_back_exactly(tracks, tmp_path, ending):
    path = tmp_path / f"m1.{ending}"
    write_table(tracks, path, recording="m1", fps=29.97)
    found = readers.tracks(path)
    same(tracks, found)
    assert found.fps == pytest.approx(29.97)


def test_deeplabcut_comes_back_exactly(tracks, tmp_path):
    write_deeplabcut(tracks, tmp_path / "m1.csv")
    same(tracks, readers.tracks(tmp_path / "m1.csv"))


def test_a_submission_maps_clips_to_frames(tmp_path):
    clips = {"b": np.ones((3, 4)), "a": np.zeros((2, 4))}
    write_submission(clips, tmp_path / "s.npy")
    found = np.load(tmp_path / "s.npy", allow_pickle=True).item()
    assert found["frame_number_map"] == {"b": (0, 3), "a": (3, 5)}
    assert found["embeddings"].dtype == np.float32 and found["embeddings"][:, 0].tolist() == [1, 1, 1, 0, 0]


def test_what_a_format_cannot_hold_is_refused(tracks, tmp_path):
    for clips in ({}, {"a": np.ones((2, 129))}, {"a": np.full((2, 4), np.nan)}):
        with pytest.raises(WriteError):
            write_submission(clips, tmp_path / "s.npy")
    with pytest.raises(WriteError, match=r"ends in \.parquet or \.csv"):
        write_table(tracks, tmp_path / "a.txt", recording="a", fps=30)


@pytest.mark.parametrize("name", ["=1+1", "+x", "-x", "@x"])
def test_a_name_that_a_spreadsheet_would_run_is_not_written(tmp_path, name):
    tracks = Tracks(np.zeros((2, 1, 1, 2), np.float32), None, ("m",), (name,))
    with pytest.raises(WriteError, match="formula"):
        write_table(tracks, tmp_path / "a.csv", recording="r", fps=30)
    with pytest.raises(WriteError, match="formula"):
        write_deeplabcut(tracks, tmp_path / "a.csv")
    write_table(tracks, tmp_path / "a.parquet", recording="r", fps=30)
    assert not (tmp_path / "a.csv").exists()
