"""CalMS21's files, written in the published layout and read back, also through the recipe."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from ethoray import readers, store, testing
from ethoray.readers import ReadError, calms21

RECIPE = Path(__file__).parents[2] / "datasets" / "calms21.py"
VOCAB = {"attack": 0, "investigation": 1, "mount": 2, "other": 3}


def recipe(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["calms21.py", *map(str, arguments)])
    with testing.script(RECIPE) as module:
        module.main()


def sequence(seed, frames=8, vocab=VOCAB):
    points = (np.arange(frames * 28) + 1000 * seed).reshape(frames, 2, 2, 7)
    return {
        "keypoints": points.tolist(),
        "scores": np.full((frames, 2, 7), 0.5).tolist(),
        "annotations": (np.arange(frames) % len(vocab)).tolist(),
        "metadata": {"vocab": vocab},
    }


def write(path, content):
    if path.suffix == ".json":
        path.write_text(json.dumps(content))
        return path
    arrays = {
        g: {s: v | {k: np.array(v[k]) for k in ("keypoints", "scores", "annotations") if k in v} for s, v in m.items()}
        for g, m in content.items()
    }
    np.save(path, np.array(arrays, dtype=object), allow_pickle=True)
    return path


@pytest.mark.parametrize("kind", ["json", "npy"])
def test_task_1_is_read_in_our_axis_order_and_prepared(tmp_path, monkeypatch, kind):
    name = "task1/{}/mouse00{}_task1_annotator1"
    for number, split in ((1, "train"), (2, "test")):
        path = write(
            tmp_path / f"calms21_task1_{split}.{kind}",
            {"annotator-id_0": {name.format(split, number): sequence(number)}},
        )
        assert readers.sniff(path) is calms21
    recipe(monkeypatch, "--raw", tmp_path, "--out", "c", "--root", tmp_path / "store")
    dataset = store.open("c", tmp_path / "store")
    assert [(e.name, e.subject, e.split) for e in dataset.entries] == [
        (f"task1.{s}.mouse00{n}_task1_annotator1", f"task1_{s}_mouse00{n}", s) for n, s in ((1, "train"), (2, "test"))
    ]
    (task,) = dataset.card.tasks
    assert (task.name, task.classes, task.metric) == ("behaviour", calms21.CLASSES, "macro_recall")
    found = dataset.recording(dataset.entries[0])
    assert found.keypoints.shape == (8, 2, 7, 2) and found.individuals == ("resident", "intruder")
    assert found.keypoints[1, 1, 3].tolist() == [1000 + 28 + 14 + 3, 1000 + 28 + 14 + 7 + 3]
    assert (found.confidence == 0.5).all() and found.labels["behaviour"].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def test_task_3_is_a_binary_task_a_behaviour_whatever_its_number(tmp_path, monkeypatch):
    for base, split in ((1, "train"), (5, "test")):
        groups = {
            "approach": {f"task3/{split}/mouse00{base}_task3": sequence(base, vocab={"approach": 0, "other": 1})},
            "intromission": {
                f"task3/{split}/mouse00{base}_b": sequence(base + 1, vocab={"other": 0, "intromission": 1})
            },
        }
        write(tmp_path / f"calms21_task3_{split}.json", groups)
    unlabelled = sequence(9)
    del unlabelled["annotations"]
    write(
        tmp_path / "calms21_unlabeled_videos_part1.json", {"unlabeled_videos": {"unlabeled_videos/mouse9": unlabelled}}
    )
    recipe(monkeypatch, "--raw", tmp_path, "--out", "c", "--root", tmp_path, "--task", 3, "--unlabelled")
    dataset = store.open("c", tmp_path)
    assert [(t.name, t.kind, t.classes) for t in dataset.card.tasks] == [
        ("approach", "binary", ("other", "approach")),
        ("intromission", "binary", ("other", "intromission")),
    ]
    labels = [dataset.labels(e) for e in dataset.entries]
    assert labels[0]["approach"].tolist() == [1, 0] * 4 and np.isnan(labels[0]["intromission"]).all()
    assert labels[1]["intromission"].tolist() == [0, 1] * 4
    assert dataset.entries[-1].split == "unlabelled"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("keypoints", [[1, 2]], "keypoints are"),
        ("scores", [[1, 2]], "scores are"),
        ("annotations", [9] * 8, "none of the 4"),
        ("annotations", [1], "8 frames"),
        ("metadata", {}, "vocab"),
        ("keypoints", "x", "not an array of numbers"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_sequence(tmp_path, key, value, words):
    path = write(tmp_path / "a.json", {"annotator-id_0": {"task1/train/m": sequence(1) | {key: value}}})
    with pytest.raises(ReadError, match=words) as caught:
        list(calms21.sequences(path))
    assert "task1/train/m" in str(caught.value)


def test_broken_json_is_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"annotator-id_0": {')
    with pytest.raises(ReadError, match="not readable JSON"):
        list(calms21.sequences(tmp_path / "a.json"))


def test_one_recording_is_not_asked_of_a_file_of_many(tmp_path):
    path = write(tmp_path / "a.json", {"annotator-id_0": {"task1/train/m": sequence(1)}})
    with pytest.raises(ReadError, match=r"holds many recordings; python datasets/calms21\.py --raw"):
        readers.tracks(path)
