"""What recordings add to scores survives the disk and adds up to the scores."""

import numpy as np
import pytest

from ethoray import tallies
from ethoray.probes import Score


def test_tallies_come_back_and_add_up(tmp_path):
    rng = np.random.default_rng(0)
    tables, errors = rng.integers(0, 9, size=(4, 2, 2)).astype(float), rng.random((3, 2))
    scores = [
        Score("strain", "z", "f1", 0.5, 0.4, 0.6, 4, "binary_f1", ("a", "b", "c", "d"), tables),
        Score("day", "z", "mse", 0.5, 0.4, 0.6, 3, "mse", ("a", "b", "d"), errors),
        Score("old", "z", "f1", 0.5, 0.4, 0.6, 3),
    ]
    tallies.write(tmp_path, scores)
    found = tallies.read(tmp_path)
    assert list(found) == ["strain/z", "day/z"]
    np.testing.assert_array_equal(found["strain/z"].values, tables)
    assert found["day/z"].names == ("a", "b", "d")
    assert found["day/z"].value() == pytest.approx(errors[:, 0].sum() / errors[:, 1].sum())


def test_a_run_without_tallies_has_none(tmp_path):
    assert tallies.read(tmp_path) == {}
    tallies.write(tmp_path, [])
    assert tallies.read(tmp_path) == {}
