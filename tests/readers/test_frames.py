import numpy as np
import pytest

from ethoray import readers
from ethoray.readers import ReadError, frames


def test_a_column_of_names_is_a_behaviour_each(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("frame,label\n0,walk\n1,\n2,rear\n")
    found = readers.labels(path, "a.csv")
    assert readers.sniff(path) is frames and found.behaviours == ("rear", "walk")
    np.testing.assert_array_equal(found.values["walk"], [1, np.nan, 0])


def test_arrays_of_classes_and_of_behaviours(tmp_path):
    path = tmp_path / "rear.npy"
    np.save(path, np.array([0, 1, 1]))
    assert readers.labels(path, "a.csv").values["rear"].tolist() == [0, 1, 1]
    np.save(path, np.array([0, 2, -1]))
    np.testing.assert_array_equal(readers.labels(path, "a.csv").values["class 2"], [0, 1, np.nan])
    np.save(path, np.array([[0, 1], [1, 1]]))
    assert readers.labels(path, "a.csv").values["behaviour_0"].tolist() == [0, 1]


def test_broken_arrays_are_errors(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.array([0.5, 2]))
    with pytest.raises(ReadError, match="other numbers than classes"):
        readers.labels(path, "a.csv")
    np.save(path, np.arange(100))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ReadError, match="cut off"):
        readers.labels(path, "a.csv")
