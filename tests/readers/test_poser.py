"""PoseR's arrays, written in the published layout and read back, also through the recipe."""

import sys
from pathlib import Path

import numpy as np
import pytest

from ethoray import readers, store, testing
from ethoray.readers import ReadError, poser

RECIPE = Path(__file__).parents[2] / "datasets" / "poser_zebrafish.py"


def recipe(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["poser.py", *map(str, arguments)])
    with testing.script(RECIPE) as module:
        module.main()


def bouts(count=3, seed=0):
    made = np.random.default_rng(seed).uniform(1, 2, (count, 3, 10, 19, 1)).astype(np.float32)
    made[:, :, 7:] = 0
    made[0, :2, 2, 4] = np.nan
    return made


def test_axes_missing_and_ends(tmp_path):
    made = bouts()
    made[1] = 0
    np.save(tmp_path / "b.npy", made)
    assert readers.sniff(tmp_path / "b.npy") is poser
    first, third = poser.sequences(tmp_path / "b.npy")
    assert first.keypoints.shape == (7, 1, 19, 2) and third.name == "b_2" and first.fps == 330
    np.testing.assert_array_equal(first.keypoints[3, 0, 5], made[0, :2, 3, 5, 0])
    np.testing.assert_array_equal(first.confidence[3, 0], made[0, 2, 3, :, 0])
    assert np.isnan(first.keypoints[2, 0, 4]).all() and np.isnan(first.keypoints).sum() == 2


def test_the_recipe_splits_by_file_where_there_are_two(tmp_path, monkeypatch):
    for seed, split in enumerate(("train", "test")):
        np.save(tmp_path / f"X_{split}.npy", bouts(seed=seed))
        np.save(tmp_path / f"y_{split}.npy", np.array([0, 2, -1]))
    given = ["--raw", tmp_path, "--root", tmp_path]
    recipe(monkeypatch, *given, "--out", "p", "--classes", "forward,left,right")
    dataset = store.open("p", tmp_path)
    assert dataset.splits == ("train", "test") and dataset.card.tasks[0].classes == ("forward", "left", "right")
    values = [dataset.labels(e)["bout"] for e in dataset.select("test")]
    assert values[:2] == [0, 2] and np.isnan(values[2])
    with pytest.raises(SystemExit):
        recipe(monkeypatch, *given, "--out", "q", "--classes", "forward,left")


def test_what_does_not_fit_is_refused(tmp_path):
    np.save(tmp_path / "b.npy", bouts()[:, :, :, :8])
    with pytest.raises(ReadError, match="8 keypoints"):
        next(poser.sequences(tmp_path / "b.npy"))
    np.save(tmp_path / "c.npy", bouts()[0])
    with pytest.raises(ReadError, match="not \\(bout"):
        next(poser.sequences(tmp_path / "c.npy"))
    np.save(tmp_path / "l.npy", np.zeros(2))
    np.save(tmp_path / "d.npy", bouts())
    with pytest.raises(ReadError, match="3 bouts need"):
        next(poser.sequences(tmp_path / "d.npy", tmp_path / "l.npy"))
