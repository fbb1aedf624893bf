import pytest

from ethoray import readers
from ethoray.readers import ReadError, table

HEAD = "time,individual,keypoint,x,y\n"


def test_a_table_of_times_gives_tracks_and_the_frame_rate(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(HEAD + "0,m,nose,1,2\n0.04,m,nose,3,4\n0.12,m,nose,5,6\n0.04,n,nose,7,8\n")
    found = readers.tracks(path)
    assert readers.sniff(path) is table and found.fps == pytest.approx(25) and found.keypoints.shape == (4, 2, 1, 2)
    assert found.keypoints[3, 0, 0].tolist() == [5, 6] and found.keypoints[1, 1, 0].tolist() == [7, 8]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("0,m,nose,1,2\n0,m,nose,1,2\n", "one value|stands twice"),
        ("0,m,nose,1,2\n1,m,nose,1,2\n1,m,nose,1,2\n", "stands twice in frame 1"),
        ("0,m,nose,1,2\n1,m,nose,1,2\n2,m,nose,1,2\n2.4,m,nose,1,2\n", "not regular"),
        ("0,m,nose,1,2\n1,m,nose,1,b\n", r"line 3, column 5 \(y\): 'b'"),
        ("", "a.csv"),
    ],
)
def test_broken_tables_are_errors(tmp_path, body, message):
    path = tmp_path / "a.csv"
    path.write_text(HEAD + body)
    with pytest.raises(ReadError, match=message):
        readers.tracks(path)


def test_several_recordings_in_a_file_are_refused(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text("recording,frame,keypoint,x,y\na,0,nose,1,2\nb,0,nose,3,4\n")
    with pytest.raises(ReadError, match=r"2 recordings \(a, b\)"):
        readers.tracks(path)
    assert readers.tracks(path.rename(tmp_path / "b.csv")).keypoints.tolist() == [[[[3, 4]]]]
