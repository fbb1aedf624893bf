"""MABe22's files, written in the published layout and read back, also through the recipes."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from ethoray import readers, store, testing
from ethoray.readers import ReadError, mabe22, safe

FOLDER = Path(__file__).parents[2] / "datasets"
DATA = Path("../shared/data/labels_and_splits/mabe22")
WORDS = ("experiment_day", "strain", "chases", "lights")
TYPES = ("Continious", "Discrete", "Discrete", "Discrete")


def recipe(name, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
    with testing.script(FOLDER / f"{name}.py") as module:
        module.release.main()


def save(path, content):
    np.save(path, np.array(content, dtype=object), allow_pickle=True)
    return path


def clips(ids, shape, frames=20, annotated=False, dtype=np.float64):
    made = {}
    for number, name in enumerate(ids):
        points = np.arange(frames * np.prod(shape)).reshape(frames, *shape) % 97 + 1 + number + 100 * annotated
        made[name] = {"keypoints": points.astype(dtype)}
        if annotated:
            made[name]["annotations"] = np.stack([np.arange(frames) % 2, np.full(frames, number % 2)])
    return made


def labels(ids, frames=20):
    rows = np.full((4, len(ids) * frames), np.nan, np.float32)
    for n in range(len(ids)):
        rows[:, n * frames : (n + 1) * frames] = [
            [n / 4] * frames,
            [n % 2] * frames,
            np.arange(frames) % 3 == 0,
            [1] * frames,
        ]
    return {
        "frame_number_map": {name: (n * frames, (n + 1) * frames) for n, name in enumerate(ids)},
        "label_array": rows,
        "vocabulary": list(WORDS),
        "task_type": list(TYPES),
    }


@pytest.fixture
def mice(tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    train, test = ["A0", "A1"], ["B0", "B1", "B2"]
    save(
        raw / "mouse_triplet_train.npy",
        {"sequences": clips(train, (3, 12, 2), annotated=True), "vocabulary": ["chases", "lights"]},
    )
    held = clips(test, (3, 12, 2), dtype=np.int64)
    held["B1"]["keypoints"][3, 1, 5] = 0
    save(raw / "mouse_triplet_test.npy", {"sequences": held})
    save(raw / "mouse_triplets_test_labels.npy", labels(test))
    parts = {"UserTrain": train, "SubmissionTrain": ["B0"], "publicTest": ["B1"], "privateTest": ["B2"]}
    (raw / "jax_split.json").write_text(json.dumps(parts))
    return raw


def test_clips_are_read_with_missing_keypoints_as_nan(mice):
    found = {r.name: r for r in mabe22.sequences(mice / "mouse_triplet_test.npy")}
    clip = found["B1"]
    assert clip.keypoints.shape == (20, 3, 12, 2) and clip.fps == 30 and clip.skeleton.front == "nose"
    assert np.isnan(clip.keypoints).sum() == 2 and np.isnan(clip.keypoints[3, 1, 5]).all()
    assert clip.keypoints[0, 0, 0].tolist() == [2, 3]


def test_the_recipe_keeps_values_labels_and_official_splits(mice, tmp_path, monkeypatch):
    recipe("mabe22_mice", monkeypatch, "--raw", mice, "--out", "m", "--root", tmp_path)
    dataset = store.open("m", tmp_path)
    assert {e.name: e.split for e in dataset.entries} == {
        "A0": "user_train", "A1": "user_train", "B0": "train", "B1": "test", "B2": "test"
    }  # fmt: skip
    kinds = {t.name: (t.kind, t.level, t.metric) for t in dataset.card.tasks}
    assert kinds["experiment_day"] == ("regression", "recording", "mse")
    assert kinds["strain"] == ("binary", "recording", "f1") and kinds["chases"] == ("binary", "frame", "f1")
    by_name = {e.name: dataset.recording(e) for e in dataset.entries}
    assert by_name["B2"].labels["experiment_day"] == 0.5 and by_name["B2"].labels["strain"] == 0
    np.testing.assert_array_equal(by_name["B1"].labels["chases"], np.arange(20) % 3 == 0)
    assert by_name["A1"].labels["lights"] == 1 and np.isnan(by_name["A1"].labels["strain"])
    np.testing.assert_array_equal(by_name["A1"].labels["chases"], np.arange(20) % 2)


def test_the_four_parts_can_be_kept(mice, tmp_path, monkeypatch):
    recipe("mabe22_mice", monkeypatch, "--raw", mice, "--out", "m", "--root", tmp_path, "--four-parts")
    assert store.open("m", tmp_path).splits == ("user_train", "submission_train", "public_test", "private_test")


def test_flies_are_24_pairs_and_tasks_that_change_within_a_clip_are_of_frames(tmp_path, monkeypatch):
    raw = tmp_path / "raw"
    raw.mkdir()
    held = clips(["B0", "B1"], (11, 24, 2), frames=6)
    held["B0"]["keypoints"][:, 10] = np.nan
    save(
        raw / "fly_group_train.npy",
        {"sequences": clips(["A0"], (11, 24, 2), 6, True), "vocabulary": ["control", "aggression"]},
    )
    save(raw / "fly_group_test.npy", {"sequences": held})
    rows = np.array([[0] * 6 + [1] * 6, [0, 1] * 6, [1] * 12, [0, 1] * 6], dtype=np.float32)
    words = ["control", "control_offvson", "control", "perframe_chase_singletask_fly_0"]
    save(
        raw / "fly_groups_test_labels.npy",
        labels(["B0", "B1"], 6) | {"label_array": rows, "vocabulary": words, "task_type": ["Discrete"] * 4},
    )
    parts = {"UserTrain": ["A0"], "SubmissionTrain": ["B0"], "publicTest": ["B1"], "privateTest": []}
    (raw / "flies_split.json").write_text(json.dumps(parts))
    recipe("mabe22_flies", monkeypatch, "--raw", raw, "--out", "f", "--root", tmp_path)
    dataset = store.open("f", tmp_path)
    levels = {t.name: t.level for t in dataset.card.tasks}
    assert levels == {"control": "recording", "control_offvson": "frame", "control_any": "recording", words[3]: "frame"}
    clip = next(dataset.recording(e) for e in dataset.entries if e.name == "B0")
    assert clip.keypoints.shape == (6, 11, 24, 2) and np.isnan(clip.keypoints[:, 10]).all() and clip.fps == 150


def test_each_file_is_recognised_by_its_content(mice):
    for file in ("mouse_triplet_train.npy", "mouse_triplets_test_labels.npy"):
        assert readers.sniff(mice / file) is mabe22


def test_what_does_not_fit_is_refused_by_name(mice, tmp_path):
    with pytest.raises(ReadError, match="no labels of clip 'A0'"):
        answers = mabe22.answers(mice / "mouse_triplets_test_labels.npy")
        answers.of(next(mabe22.sequences(mice / "mouse_triplet_train.npy")))
    bad = save(tmp_path / "bad.npy", {"sequences": {"x": {"keypoints": np.zeros((4, 3, 11, 2))}}})
    with pytest.raises(ReadError, match="clip 'x'"):
        next(mabe22.sequences(bad))
    with pytest.raises(ReadError, match="clip 'b'"):
        mabe22.frame_map("m.npy", {"a": (0, 5), "b": (6, 9)})
    with pytest.raises(ReadError, match="not a file of MABe22 test labels"):
        mabe22.answers(bad)


@pytest.mark.skipif(not DATA.is_dir(), reason="recordings are not here")
def test_the_published_frame_map_is_consecutive():
    path = DATA / "mouse_triplet_frame_number_map.npy"
    found = mabe22.frame_map(path, safe.load(path))
    derived = json.loads((DATA / "mouse_triplet_frame_number_map.derived.json").read_text())
    assert {k: list(v) for k, v in found.items()} == derived and len(found) == 3736
