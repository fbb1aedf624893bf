import numpy as np
import pytest

from ethoray import readers
from ethoray.readers import ReadError
from ethoray.readers.own import match

HEAD = "group,actor,recipient,category,start,stop\n"


def test_stops_are_included_and_pairs_are_joined(tmp_path):
    path = tmp_path / "annotations.csv"
    path.write_text(
        HEAD + "a,1,2,none,0,3\na,2,1,chase,0,1\na,1,2,chase,4,4\na,2,1,none,2,3\na,1,2,bite,6,6\nb,1,2,bite,0,9\n"
    )
    found = readers.labels(path, "a.csv")
    assert found.behaviours == ("chase", "bite")
    np.testing.assert_array_equal(found.values["chase"], [1, 1, 0, 0, 1, np.nan, 0])
    np.testing.assert_array_equal(found.values["bite"], [0, 0, 0, 0, 0, np.nan, 1])
    assert readers.labels(path, "b.h5").values["chase"].tolist() == [0] * 10
    assert readers.recordings(path) == {"a", "b"}


def test_one_file_labels_every_group_it_names(tmp_path):
    path = tmp_path / "annotations.csv"
    path.write_text(HEAD + "a,1,2,bite,0,1\nb,1,2,bite,0,1\n")
    assert match([path], [tmp_path / "a.csv", tmp_path / "b.csv"]) == {
        tmp_path / "a.csv": path,
        tmp_path / "b.csv": path,
    }


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,1,2,bite,0.5,2", "line 2: start '0.5'"),
        ("a,1,2,bite,3,2", "line 2: 'bite' from frame 3 to 2"),
        ("a,1,2,bite,-1,2", "line 2"),
        ("a,1,2,bite,0,999999999999", "line 2"),
        ("a,1,2,bite,0", "line 2: 5 cells"),
        ("b,1,2,bite,0,1", "no row of 'a'; it holds b"),
        ("a,1,2,none,0,1", "there is no behaviour"),
        ("", "followed by no row"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, row, message):
    path = tmp_path / "annotations.csv"
    path.write_text(HEAD + row + "\n")
    with pytest.raises(ReadError, match=message):
        readers.labels(path, "a.csv")
