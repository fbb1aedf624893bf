import pytest

from ethoray import readers
from ethoray.readers import ReadError, asoid


def test_a_sequence_is_found_by_its_number(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("sequence number,annotation\n0,3\n0,1\n0,0\n1,2\n1,2\n")
    found = readers.labels(path, "mouse_001.h5")
    assert found.behaviours == ("attack", "investigation", "mount", "other")
    assert found.values["mount"].tolist() == [1, 1] and found.values["other"].tolist() == [0, 0]
    assert readers.labels(path, "0.csv").values["investigation"].tolist() == [0, 1, 0]
    assert readers.recordings(path) == {"0", "1"} and asoid.sequences(path)[0].tolist() == [3, 1, 0]


@pytest.mark.parametrize(
    ("text", "pose", "message"),
    [
        ("0,1\n", "mouse", "holds sequences 0 to 0"),
        ("0,1\n", "mouse7", "holds sequences 0 to 0"),
        ("0,4\n", "0", "classes 0 to 3"),
        ("0,0.5\n", "0", "classes 0 to 3"),
        ("0\n", "0", "not a sequence's number|reshape|classes"),
        ("0,attack\n", "0", "not a sequence's number and a class"),
        ("", "0", "classes 0 to 3"),
    ],
)
def test_what_is_no_class_is_refused(tmp_path, text, pose, message):
    path = tmp_path / "labels.csv"
    path.write_text("sequence number,annotation\n" + text)
    with pytest.raises(ReadError, match=message):
        readers.labels(path, pose)
