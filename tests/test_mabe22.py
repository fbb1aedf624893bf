"""The evaluator of MABe 2022 against scikit-learn, written as the challenge describes it."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.metrics import f1_score, mean_squared_error
from sklearn.model_selection import train_test_split

from ethoray import embedding, store
from ethoray.embedding import Embedding
from ethoray.mabe22 import MABe22
from ethoray.schema import Card, Recording, Skeleton, Task
from ethoray.submission import Dictionary, SubmissionError, submission
from ethoray.writers import write_submission

FRAMES, WIDTH = 60, 7
MICE = (
    Task("experiment_day", "regression", "recording", metric="mse"),
    Task("time_of_day", "regression", "recording", metric="mse"),
    Task("strain", "binary", "recording"),
    Task("chases"),
    Task("lights", "binary", "recording"),
)
PARTS = ("user_train",) * 4 + ("submission_train",) * 23 + ("public_test",) * 6 + ("private_test",) * 5


def world(tmp_path, tasks=MICE, parts=PARTS, seed=0):
    """A dataset of clips with labels, and embeddings that half explain them."""
    rng = np.random.default_rng(seed)
    card = Card("toy", "mouse", 30.0, Skeleton(("nose",)), tasks)
    recordings, clips = [], {}
    for i, part in enumerate(parts):
        x = rng.normal(size=WIDTH) + rng.normal(size=(FRAMES, WIDTH))
        labels = {}
        for k, task in enumerate(tasks):
            drive = x[:, k % WIDTH] + rng.normal(size=FRAMES)
            if task.level == "frame":
                labels[task.name] = (drive > 0.6).astype(np.float32)
                labels[task.name][rng.random(FRAMES) < 0.1] = np.nan
            else:
                value = float(drive.mean())
                labels[task.name] = float(value > 0) if task.kind == "binary" else round(value, 2)
        if i % 7 == 3:
            del labels[tasks[-1].name]
        track = rng.normal(size=(FRAMES, 1, 1, 2)).astype(np.float32)
        recordings.append(
            Recording(f"clip{i:02d}", f"clip{i:02d}", 30.0, card.skeleton, track, split=part, labels=labels)
        )
        clips[f"clip{i:02d}"] = x.astype(np.float32) * 3 + 5
    return store.prepare(card, recordings, tmp_path / "toy"), clips


def document(clips):
    stops = np.cumsum([len(x) for x in clips.values()])
    spans = {name: (int(stop - len(x)), int(stop)) for (name, x), stop in zip(clips.items(), stops, strict=True)}
    return {"frame_number_map": spans, "embeddings": np.concatenate(list(clips.values()))}


def rows(dataset, clips, task, wanted):
    xs, ys, names = [], [], []
    for entry in dataset.entries:
        if entry.name in wanted:
            y = np.broadcast_to(dataset.labels(entry)[task.name], FRAMES)
            keep = ~np.isnan(y)
            xs.append(clips[entry.name][keep])
            ys.append(y[keep])
            names += [entry.name] * int(keep.sum())
    return np.concatenate(xs), np.concatenate(ys), np.array(names)


def plainly(dataset, clips, task, alpha, vote="any"):
    """The official loop: a fit a seed, their answers put together; public, all, single and pooled scores."""
    fit = [e.name for e in dataset.entries if e.split == "submission_train"]
    public = [e.name for e in dataset.entries if e.split == "public_test"]
    both = public + [e.name for e in dataset.entries if e.split == "private_test"]
    x, y, names = rows(dataset, clips, task, both)
    said = []
    for seed in (42, 43, 44):
        kept, _ = train_test_split(fit, test_size=0.1, random_state=seed)
        a, b, _ = rows(dataset, clips, task, kept)
        discrete = task.kind == "binary"
        model = RidgeClassifier(alpha=alpha, class_weight="balanced") if discrete else Ridge(alpha=alpha)
        said.append(model.fit(a, b).predict(x))
    said = np.stack(said)
    if task.kind == "regression":
        together, metric = said.mean(0), mean_squared_error
    else:
        together = (said.mean(0) > (0 if vote == "any" else 0.5)).astype(float)
        metric = f1_score
    pooled = np.zeros(len(y))
    for name in set(names):
        mean = together[names == name].mean()
        pooled[names == name] = mean if task.kind == "regression" else mean >= 0.5
    seen = np.isin(names, public)
    return {
        "score": metric(y, together),
        "public": metric(y[seen], together[seen]),
        "no_ensemble": np.mean([metric(y, one) for one in said]),
        "pooled": metric(y, pooled),
    }


@pytest.mark.parametrize("vote", ["any", "majority"])
def test_every_number_is_the_official_one(tmp_path, vote):
    dataset, clips = world(tmp_path)
    table = MABe22(vote=vote).score(Dictionary(document(clips)), dataset).set_index("task")
    assert list(table.index) == [task.name for task in MICE]
    for task in MICE:
        row, plain = table.loc[task.name], plainly(dataset, clips, task, 1.0, vote)
        for column in ("score", "public", "no_ensemble"):
            assert row[column] == pytest.approx(plain[column], abs=1e-6), (task.name, column)
        if task.level == "recording":
            assert row["pooled"] == pytest.approx(plain["pooled"], abs=1e-6)
        for alpha in (0.1, 5):
            assert row[f"alpha_{alpha:g}"] == pytest.approx(
                plainly(dataset, clips, task, alpha, vote)["score"], abs=1e-6
            )
        assert row["low"] <= row["score"] <= row["high"]


def test_standardised_by_frame_index(tmp_path):
    dataset, clips = world(tmp_path)
    for x in clips.values():
        x[:, 2] = 4.0  # a dead unit
        x *= np.linspace(1, 3, FRAMES, dtype=np.float32)[:, None]
    used = [e.name for e in dataset.entries if e.split != "user_train"]
    stack = np.stack([clips[name] for name in used]).astype(np.float64)
    spread = stack.std(0)
    spread[:, 2] = np.inf
    scaled = {name: ((clips[name] - stack.mean(0)) / spread).astype(np.float32) for name in used}
    table = MABe22(standardise=True).score(Dictionary(document(clips)), dataset).set_index("task")
    for task in MICE:
        plain = plainly(dataset, scaled, task, 1.0)
        assert table.loc[task.name, "score"] == pytest.approx(plain["score"], abs=1e-6)


def test_flies_are_averaged_by_behaviour(tmp_path):
    tasks = (Task("courtship", "binary", "recording"), *(Task(f"perframe_chase_fly_{k}") for k in range(3)))
    dataset, clips = world(tmp_path, tasks)
    table = MABe22().score(Dictionary(document(clips)), dataset).set_index("task")
    assert list(table.index) == ["courtship", "perframe_chase"]
    plain = np.mean([plainly(dataset, clips, task, 1.0)["score"] for task in tasks[1:]])
    assert table.loc["perframe_chase", "score"] == pytest.approx(plain, abs=1e-6)
    assert table.loc["perframe_chase", "note"] == "mean over 3 flies"


def test_a_file_and_a_folder_of_embeddings_score_alike(tmp_path):
    dataset, clips = world(tmp_path)
    write_submission(clips, tmp_path / "handed_in.npy")
    items = [Embedding(e, {"z": clips[e.name], "y": clips[e.name][:, :2] * 0}) for e in dataset.entries]
    list(embedding.write(items, tmp_path / "embedded", every=0))
    one = MABe22().score(submission(tmp_path / "handed_in.npy"), dataset)
    other = MABe22().score(submission(tmp_path / "embedded", "z"), dataset)
    assert one.equals(other)
    assert submission(tmp_path / "embedded", "y").width == 2


def test_without_the_four_parts_there_is_no_public_score(tmp_path):
    parts = ["train" if "train" in part else "test" for part in PARTS]
    dataset, clips = world(tmp_path, parts=parts)
    table = MABe22().score(Dictionary(document(clips)), dataset)
    assert table["public"].isna().all() and table["score"].notna().all()


def test_a_task_that_training_or_test_never_shows_has_a_reason(tmp_path):
    tasks = (*MICE, Task("never"), Task("once"))
    dataset, clips = world(tmp_path, tasks)
    recordings = []
    for i, entry in enumerate(dataset.entries):
        recording = dataset.recording(entry)
        labels = dict(recording.labels) | {"never": np.zeros(FRAMES), "once": np.zeros(FRAMES)}
        labels["once"][0] = i == 10
        recordings.append(
            Recording(
                entry.name,
                entry.subject,
                30.0,
                recording.skeleton,
                recording.keypoints,
                split=entry.split,
                labels=labels,
            )
        )
    dataset = store.prepare(dataset.card, recordings, tmp_path / "again")
    table = MABe22().score(Dictionary(document(clips)), dataset).set_index("task")
    assert np.isnan(table.loc["never", "score"]) and "only class 0" in table.loc["never", "note"]
    assert table.loc["strain", "score"] > 0
    assert table.loc["once", "note"] == "training has only class 0 (split 2 of 3)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("embeddings"), "has frame_number_map and embeddings"),
        (lambda d: d.update(embeddings=d["embeddings"].astype(np.float64)), "float32"),
        (lambda d: d.update(embeddings=d["embeddings"][:-1]), "rows of embeddings, frame_number_map counts"),
        (lambda d: d.update(embeddings=d["embeddings"][:, 0]), "float32"),
        (lambda d: d["frame_number_map"].update(clip01=(61, 120)), "clip 'clip01' is \\(61, 120\\)"),
        (lambda d: d["embeddings"].__setitem__((600, 1), np.nan), "clip 'clip10' is not finite in 1 of 60"),
    ],
)
def test_a_submission_that_the_challenge_would_refuse(tmp_path, change, message):
    dataset, clips = world(tmp_path)
    handed_in = document(clips)
    change(handed_in)
    with pytest.raises(SubmissionError, match=message):
        MABe22().score(Dictionary(handed_in), dataset)


def test_clips_and_widths_must_be_the_dataset_s(tmp_path):
    dataset, clips = world(tmp_path)
    short = dict(clips)
    del short["clip30"]
    with pytest.raises(SubmissionError, match="no embedding of clip 'clip30' \\(1 of 34 lack\\)"):
        MABe22().score(Dictionary(document(short)), dataset)
    with pytest.raises(SubmissionError, match="clip 'clip05' has 59 rows, toy has 60 frames"):
        MABe22().score(Dictionary(document(clips | {"clip05": clips["clip05"][:59]})), dataset)
    with pytest.raises(SubmissionError, match="7 features a frame; the challenge allows 6"):
        MABe22(limit=6).score(Dictionary(document(clips)), dataset)
    with pytest.raises(SubmissionError, match="needs train and test"):
        MABe22().score(Dictionary(document(clips)), world(tmp_path / "b", parts=("user_train",) * 9)[0])


def test_a_folder_with_frames_left_out_is_refused(tmp_path):
    dataset, clips = world(tmp_path)
    items = [Embedding(e, {"z": clips[e.name]}) for e in dataset.entries]
    list(embedding.write(items, tmp_path / "thin", every=0.5))
    with pytest.raises(SubmissionError, match="--every 0"):
        submission(tmp_path / "thin")
    with pytest.raises(SubmissionError, match="no space 'x'; it has z"):
        list(embedding.write(items, tmp_path / "whole", every=0))
        submission(tmp_path / "whole", "x")
    (tmp_path / "text.npy").write_text("no")
    with pytest.raises(SubmissionError, match=r"text\.npy"):
        submission(tmp_path / "text.npy")
