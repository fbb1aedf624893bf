import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ethoray import readers, store
from ethoray.readers import ReadError, zebrazoom

ROOT = Path(__file__).parents[2]


def bout(start, frames, shift=0.0, points=3, flip=True):
    """A straight larva that swims along x: its head leads, the tail follows in steps of two."""
    head = 100 + shift + np.arange(frames)
    tail = head[:, None] - 2 * np.arange(points)
    tail = tail[:, ::-1] if flip else tail
    return {
        "BoutStart": start, "BoutEnd": start + frames - 1, "HeadX": head.tolist(), "HeadY": [5.0] * frames,
        "TailX_VideoReferential": tail.tolist(), "TailY_VideoReferential": [[5] * points] * frames,
    }  # fmt: skip


def write(path, wells, **more):
    path.write_text(json.dumps({"wellPoissMouv": wells, **more}))
    return path


@pytest.mark.parametrize("flip", [True, False])
def test_bouts_are_recordings_with_the_tail_in_order(tmp_path, flip):
    wells = [[[bout(1, 4, flip=flip), bout(9, 6, flip=flip)]], [], [[], [bout(2, 5, 50, flip=flip)]]]
    found = list(zebrazoom.sequences(write(tmp_path / "results_x.txt", wells), 160))
    assert [r.frames for r in found] == [4, 6, 5] and found[0].skeleton.keypoints == (
        "head", "tail_base", "tail_01", "tail_02",
    )  # fmt: skip
    assert [r.subject for r in found] == ["results_x_well00_animal0"] * 2 + ["results_x_well02_animal1"]
    assert found[2].keypoints[1, 0].tolist() == [[151, 5], [151, 5], [149, 5], [147, 5]]
    assert len({r.name for r in found}) == 3


def broken(**change):
    return [[[bout(1, 4) | change]]]


@pytest.mark.parametrize(
    ("wells", "message"),
    [
        (broken(BoutEnd=9), "well 0, animal 0, bout 0: BoutStart and BoutEnd make 9 frames, its track has 4"),
        (broken(HeadX=[1.0]), "do not fit"),
        (broken(HeadX="abcd"), "something else than numbers"),
        (broken(TailX_VideoReferential=[]), "do not fit"),
        ([[[{"BoutStart": 1}]]], "no HeadX"),
        ([[[3]]], "is no dict"),
        ([[]], "no bout in 1 wells"),
        (7, "no list of wells"),
        ([[[bout(1, 4), bout(9, 4, points=5)]]], "bout 1: 5 points of the tail, bouts before it 3"),
    ],
)
def test_a_wrong_bout_is_named(tmp_path, wells, message):
    with pytest.raises(ReadError, match=message):
        list(zebrazoom.sequences(write(tmp_path / "a.txt", wells), 100))


def test_the_file_is_known_by_its_content_and_points_to_the_recipe(tmp_path):
    path = write(tmp_path / "any.name", [[[bout(1, 4)]]])
    with pytest.raises(ReadError, match=r"datasets/zebrazoom\.py"):
        readers.tracks(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ReadError, match="cut off"):
        list(zebrazoom.sequences(path, 100))


def test_the_recipe_keeps_an_animal_on_one_side(tmp_path):
    wells = [[[bout(1 + 9 * b, 8, 40 * w + 9 * b) for b in range(3)]] for w in range(6)]
    write(tmp_path / "results_x.txt", wells, organization={"fps": 160})
    (tmp_path / "notes.txt").write_text("not this one")
    command = [sys.executable, ROOT / "datasets/zebrazoom.py", "--raw", tmp_path, "--out", "zz", "--root", tmp_path]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "platform")}
    subprocess.run(command, check=True, env=environment, capture_output=True)
    dataset = store.open("zz", tmp_path)
    sides = {}
    for entry in dataset.entries:
        sides.setdefault(entry.split, set()).add(entry.subject)
    assert dataset.card.fps == 160 and len(dataset.entries) == 18
    assert not sides["train"] & sides["test"] and len(sides["test"]) == 1
