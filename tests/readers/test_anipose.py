import pytest

from ethoray import readers
from ethoray.readers import ReadError, anipose

HEAD = "nose_x,nose_y,nose_z,nose_error,nose_ncams,nose_score,M_00,center_0,fnum\n"


def test_three_coordinates_and_the_score(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(HEAD + "1,2,3,0.1,2,0.9,1,0,0\n4,5,6,0.1,2,0.8,1,0,1\n")
    found = readers.tracks(path)
    assert readers.sniff(path) is anipose and found.keypoints[1, 0, 0].tolist() == [4, 5, 6]
    assert found.keypoints.shape == (2, 1, 1, 3) and found.confidence[0, 0, 0] == pytest.approx(0.9)


def test_a_gap_between_frames_is_an_error(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(HEAD + "1,2,3,0.1,2,0.9,1,0,0\n4,5,6,0.1,2,0.8,1,0,2\n")
    with pytest.raises(ReadError, match="line 3, column fnum"):
        readers.tracks(path)


def test_frames_are_counted_on_from_any_number_across_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(readers.columns.blocks, "__defaults__", (60,))
    path = tmp_path / "a.csv"
    body = [f"{t},2,3,0.1,2,0.9,1,0,{20_000_000 + t}\n" for t in range(30)]
    path.write_text(HEAD + "".join(body))
    assert readers.tracks(path).keypoints[:, 0, 0, 0].tolist() == list(range(30))
    path.write_text(HEAD + "".join(body[:20] + body[21:]))
    with pytest.raises(ReadError, match="line 22, column fnum"):
        readers.tracks(path)
