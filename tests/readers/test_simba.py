from pathlib import Path

import pytest

from ethoray import readers
from ethoray.readers import ReadError, simba

DATA = Path("../shared/data")
HEAD = ",nose_1_x,nose_1_y,nose_1_p,nose_2_x,nose_2_y,nose_2_p,width,Probability_attack,attack\n"


def test_numbered_parts_are_individuals_and_the_last_columns_behaviours(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(HEAD + "0,1,2,0.5,3,4,1,7.5,0.2,0\n1,5,6,0.5,7,8,1,7.5,0.9,1\n")
    found = readers.tracks(path)
    assert readers.sniff(path) is simba and found.individuals == ("individual_1", "individual_2")
    assert found.keypoints[1, :, 0].tolist() == [[5, 6], [7, 8]] and found.confidence[0, 0, 0] == 0.5
    labels = readers.labels(path, "a.csv")
    assert labels.behaviours == ("attack",) and labels.values["attack"].tolist() == [0, 1]


def test_broken_files_are_errors(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(HEAD + "0,1,2,-0.5,3,4,1,7.5,0.2,0.5\n")
    with pytest.raises(ReadError, match="confidence is negative"):
        readers.tracks(path)
    with pytest.raises(ReadError, match="no behaviour of 0 and 1"):
        readers.labels(path, "a.csv")
    path.write_text(HEAD + "0,1,b,0.5,3,4,1,7.5,0.2,0\n")
    with pytest.raises(ReadError, match=r"line 2, column 3 \(nose_1_y\): 'b'"):
        readers.tracks(path)


def test_several_header_rows_are_passed_over(tmp_path):
    path = tmp_path / "a.csv"
    names = HEAD.removesuffix("\n").split(",")
    above = ",".join(["scorer", *["SimBA"] * (len(names) - 1)]) + "\n" + ",".join(["bp", *names[1:]]) + "\n"
    path.write_text(above.replace("_x", " ").replace("_y", " ").replace("_p", " ") + HEAD + "0,1,2,1,3,4,1,7,0.2,1\n")
    found = readers.tracks(path)
    assert readers.sniff(path) is simba and found.keypoints[0, :, 0].tolist() == [[1, 2], [3, 4]]
    assert readers.labels(path, "a.csv").values["attack"].tolist() == [1] and readers.layout(path).frames == 1


@pytest.mark.skipif(not DATA.is_dir(), reason="recordings are not here")
def test_real_files_are_read():
    path = DATA / "mouse_pair_crim13_simba/Tvideo_80_trim.csv"
    assert readers.tracks(path).keypoints.shape == (101, 2, 8, 2)
    labels = readers.labels(path, path.name)
    assert len(labels.behaviours) == 11 and labels.values["sniff"].sum() == 91 and labels.values["chase"].sum() == 10
