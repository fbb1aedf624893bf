"""What ``ethoray score`` judges: runs, their encoders elsewhere, and embeddings that somebody hands in."""

import json

import numpy as np
import pandas as pd
import pytest

from ethoray import cli, embedding, store, testing
from ethoray.judging import official
from ethoray.mabe22 import MABe22
from ethoray.schema import Card, Recording, Skeleton
from ethoray.submission import Dictionary, SubmissionError
from ethoray.tracking import Mirror

PCA = ["pca", "--set", "components=4", "--seconds", "5", "--steps", "4"]


def status(*words: str) -> int:
    try:
        cli.main([str(word) for word in words])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture
def trained(tmp_path, monkeypatch, capsys):
    """The folder of a run on the toy dataset in the store."""
    monkeypatch.setattr(Mirror, "follow", lambda *_, **__: True)
    testing.toy_dataset(tmp_path / "store" / "toy", seconds=8.0, fps=10.0)
    assert status("train", "toy", *PCA) == 0
    capsys.readouterr()
    return next((tmp_path / "runs").glob("*/scores.json")).parent


def test_a_run_and_what_it_embedded_are_judged_alike(trained, tmp_path, capsys):
    tables = []
    for out in (tmp_path / "frames.parquet", tmp_path / "frames"):
        assert status("embed", trained, "toy", "--out", out) == 0
        assert status("score", out, "--dataset", "toy", "--out", tmp_path / "table.csv") == 0
        tables.append(pd.read_csv(tmp_path / "table.csv"))
    assert status("score", trained, "toy", "--vote", "any", "--out", tmp_path / "table.csv") == 0
    tables.append(pd.read_csv(tmp_path / "table.csv"))
    said = capsys.readouterr().out
    assert "running" in said and "wrote" in said and "every column" in said
    assert tables[0].equals(tables[1]) and tables[0].equals(tables[2])
    assert set(tables[0]["task"]) == {"running", "lively"} and tables[0]["score"].between(0, 1).all()


def test_a_submission_is_judged(trained, tmp_path, capsys):
    toy = store.open("toy")
    spans, rows, at = {}, [], 0
    for entry in toy.entries:
        rows.append(np.asarray(toy.labels(entry)["running"], np.float32)[:, None])
        spans[entry.name], at = (at, at + entry.frames), at + entry.frames
    np.save(tmp_path / "mine.npy", {"frame_number_map": spans, "embeddings": np.concatenate(rows)}, allow_pickle=True)
    out = tmp_path / "table.csv"
    for vote in ("any", "majority"):
        words = ("score", tmp_path / "mine.npy", "--dataset", "toy", "--vote", vote, "--standardise", "--out", out)
        assert status(*words) == 0
        assert pd.read_csv(out).set_index("task")["score"]["running"] == pytest.approx(1.0)


def test_its_own_scores_as_a_table(trained, tmp_path, capsys):
    out = tmp_path / "table.csv"
    assert status("score", trained, "--out", out) == 0
    assert pd.read_csv(out).columns.tolist() == ["task", "space", "metric", "value", "low", "high"]
    assert "running/pca" in capsys.readouterr().out
    assert status("score", trained, "--dataset", "toy") == 0
    assert status("score", trained, "toy", "--dataset", "toy") == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["score", "frames"], "which dataset are these embeddings of?"),
        (["score", "frames", "other"], "clip 'toy_000' has 80 rows, toy has 60 frames"),
        (["score", "frames", "toy", "--space", "short"], "no space 'short'; it has pca"),
        (["score", "some", "toy"], "write it with ethoray embed --every 0"),
        (["score", "gone.parquet", "toy"], "gone.parquet: no such file"),
        (["score", "gone.npy", "toy"], "gone.npy"),
        (["score", "RUN", "--vote", "any"], "say which --dataset"),
        (["score", "RUN", "toy", "--dataset", "other"], "two datasets are given"),
    ],
)
def test_what_cannot_be_judged_is_told_in_a_line(trained, tmp_path, words, message, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    testing.toy_dataset(tmp_path / "store" / "other", recordings=9, seconds=6.0, fps=10.0, seed=1)
    assert status("embed", trained, "toy", "--out", "frames") == 0
    assert status("embed", trained, "toy", "--out", "some", "--every", "1") == 0
    capsys.readouterr()
    assert status(*[str(trained) if word == "RUN" else word for word in words]) == 2
    err = capsys.readouterr().err.strip()
    assert message in err and "\n" not in err


def test_an_encoder_of_one_run_elsewhere_is_embedded_once(trained, tmp_path, monkeypatch):
    assert status("score", trained, "toy", "--vote", "majority") == 0
    monkeypatch.setattr(embedding, "embed", None)
    assert status("score", trained, "toy", "--vote", "any") == 0


SPLIT = {"UserTrain": ["elsewhere"], "SubmissionTrain": range(14), "publicTest": range(14, 18), "privateTest": (18, 19)}
KINDS = {"experiment_day": "Continious", "strain": "Discrete", "chases": "Discrete"}
KINDS |= {"once": "Discrete", "never": "Discrete"}


@pytest.fixture
def challenge(tmp_path):
    """Files of the challenge's layout, small: a submission, labels and split; and what the labels are."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 30, 5)).astype(np.float32) + rng.normal(size=(20, 1, 5)).astype(np.float32)
    drive = x + rng.normal(size=x.shape)
    labels = np.zeros((5, 20, 30), np.float32)
    labels[0] = drive[:, :1, 0]
    labels[1] = drive.mean(1)[:, 1:2] > 0
    labels[2] = drive[..., 2] > 0.7
    labels[2, :, ::9] = np.nan
    labels[3, 3, 7] = 1  # in training
    labels[4, 15, 7] = 1  # in test
    spans = {f"clip{i}": (30 * i, 30 * i + 30) for i in range(20)}
    known = {"vocabulary": list(KINDS), "task_type": list(KINDS.values()), "frame_number_map": spans}
    split = {part: [f"clip{i}" for i in clips] for part, clips in SPLIT.items()}
    np.save(tmp_path / "mine.npy", {"frame_number_map": spans, "embeddings": x.reshape(600, 5)}, allow_pickle=True)
    np.save(tmp_path / "labels.npy", known | {"label_array": labels.reshape(5, 600)}, allow_pickle=True)
    (tmp_path / "split.json").write_text(json.dumps(split))
    return tmp_path, split, x, labels


def test_label_files_of_the_challenge_judge_like_the_dataset_prepared_of_them(challenge):
    folder, split, x, labels = challenge
    answered = official("mabe22_mice", [folder / "split.json", folder / "labels.npy"])
    assert [(t.name, t.kind, t.level) for t in answered.card.tasks] == [
        ("experiment_day", "regression", "recording"),
        ("strain", "binary", "recording"),
        ("chases", "binary", "frame"),
        ("once", "binary", "frame"),
        ("never", "binary", "frame"),
    ]
    parts = {"SubmissionTrain": "submission_train", "publicTest": "public_test", "privateTest": "private_test"}
    part = {clip: parts[name] for name, clips in split.items() if name in parts for clip in clips}
    skeleton = Skeleton(("nose",))
    recordings = [
        Recording(
            f"clip{i}", f"clip{i}", 30.0, skeleton, np.full((30, 1, 1, 2), i + 1.0, np.float32),
            split=part[f"clip{i}"],
            labels={
                task.name: track if task.level == "frame" else float(track[0])
                for task, track in zip(answered.card.tasks, labels[:, i], strict=True)
            },
        )
        for i in range(20)
    ]  # fmt: skip
    dataset = store.prepare(Card("mabe22_mice", "mouse", 30.0, skeleton, answered.card.tasks), recordings, folder / "d")
    given = Dictionary({"frame_number_map": answered.answers.spans, "embeddings": x.reshape(600, 5)})
    table = MABe22().score(given, answered)
    assert table.equals(MABe22().score(given, dataset))
    assert table["score"].notna().tolist() == [True, True, True, True, False]
    assert table["public"].notna().sum() == 4 and table["score"][3] == 0


def test_a_submission_and_two_label_files_are_enough(challenge, capsys):
    folder = challenge[0]
    words = ("score", folder / "mine.npy", "--dataset", "mabe22_mice", "--labels", folder / "labels.npy")
    assert status(*words, folder / "split.json", "--out", folder / "table.csv") == 0
    table = pd.read_csv(folder / "table.csv").set_index("task")
    assert table.loc["strain", "score"] > 0.5 and table.loc["strain", "clips"] == 6
    said = capsys.readouterr().out
    assert "training has only class 0" in said
    assert status(*words) == 2
    assert "--labels are two files of the challenge" in capsys.readouterr().err
    assert status("score", folder / "mine.npy", "toy", "--labels", folder / "labels.npy", folder / "split.json") == 2
    assert "files of mabe22_mice or mabe22_flies, not of 'toy'" in capsys.readouterr().err
    assert status("score", "run", "--labels", folder / "labels.npy") == 2
    assert "--labels judge embeddings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda split: split["publicTest"].append("clip0"), "a clip is in two parts"),
        (lambda split: split["publicTest"].pop(), "1 clips are not both in it and in .*labels.npy, such as 'clip17'"),
        (lambda split: split.pop("privateTest"), "not the evaluator's split file"),
    ],
)
def test_split_files_that_do_not_fit(challenge, change, message):
    folder, split, *_ = challenge
    change(split)
    (folder / "split.json").write_text(json.dumps(split))
    with pytest.raises(SubmissionError, match=message):
        official("mabe22_mice", [folder / "labels.npy", folder / "split.json"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: np.where(np.arange(len(x))[:, None] == 31, np.nan, x), "clip 'clip1' is not finite in 1 of 30 fram"),
        (lambda x: x[:-1], "599 rows of embeddings, frame_number_map counts 600"),
        (lambda x: np.tile(x, 26), "130 features a frame; the challenge allows 128 for mabe22_mice"),
        (lambda x: x.astype(np.float64), "embeddings are float32 (row, feature), not float64 (600, 5)"),
    ],
)
def test_embeddings_that_the_challenge_refuses_are_told_in_a_line(challenge, change, message, capsys):
    folder, _, x, _ = challenge
    spans = {f"clip{i}": (30 * i, 30 * i + 30) for i in range(20)}
    np.save(folder / "mine.npy", {"frame_number_map": spans, "embeddings": change(x.reshape(600, 5))}, True)
    words = ("score", folder / "mine.npy", "mabe22_mice", "--labels", folder / "labels.npy", folder / "split.json")
    assert status(*words) == 2
    err = capsys.readouterr().err.strip()
    assert message in err and "\n" not in err


@pytest.mark.parametrize("name", ["<img src=x onerror=alert(1)>", "<script>alert(1)</script>"])
def test_a_task_named_like_a_script_stays_text(challenge, name, capsys):
    folder = challenge[0]
    labels = np.load(folder / "labels.npy", allow_pickle=True).item()
    labels["vocabulary"][2] = name
    np.save(folder / "labels.npy", labels, True)
    words = ("score", folder / "mine.npy", "mabe22_mice", "--labels", folder / "labels.npy", folder / "split.json")
    if "/" in name:  # could not stand in a path or in MLflow
        assert status(*words) == 2
        err = capsys.readouterr().err.strip()
        assert "without slashes" in err and "\n" not in err
    else:
        assert status(*words, "--out", folder / "table.csv") == 0
        assert name in capsys.readouterr().out and name in pd.read_csv(folder / "table.csv")["task"].tolist()
