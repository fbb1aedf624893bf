"""The linear probe against scikit-learn, recording by recording, and what it does with poor data."""

import logging

import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.metrics import f1_score, mean_squared_error, recall_score

from ethoray import probes
from ethoray.embedding import Embedding
from ethoray.probes import ProbeError, linear
from ethoray.probes._ridge import Moments, classify, regress
from ethoray.probes.linear import Linear, drawn
from ethoray.schema import Card, SchemaError, Skeleton, Task
from ethoray.store import Entry

TASKS = (
    Task("rare"),
    Task("common", metric="macro_recall"),
    Task("posture", "multiclass", classes=("rest", "walk", "rear", "groom"), metric="macro_recall"),
    Task("bout", "multiclass", classes=("a", "b", "c"), metric="f1"),
    Task("speed", "regression", metric="mse"),
    Task("strain", "binary", "recording"),
    Task("day", "regression", "recording", metric="mse"),
)


def card(*tasks):
    return Card("toy", "mouse", 30.0, Skeleton(("nose",)), tasks)


def world(train=14, test=6, features=9, seed=0, spaces=("z",), shortest=1):
    """Ragged recordings far from the origin, features of unequal size, a third of the labels missing."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(features, 8))
    shown = []
    for i in range(train + test):
        frames = int(rng.integers(shortest, 120))
        own = rng.normal(size=features)
        x = own + rng.normal(size=(frames, features))
        drive = x @ mix / 3 + rng.normal(size=(frames, 8))
        labels = {
            "rare": (drive[:, 0] > 2.5).astype(np.float32),
            "common": (drive[:, 1] > -0.5).astype(np.float32),
            "posture": drive[:, 2:6].argmax(1).astype(np.float32),
            "bout": np.digitize(drive[:, 6], [-1.5, 1.5]).astype(np.float32),
            "speed": (drive[:, 7] * 3 + 20).astype(np.float32),
            "strain": float(own @ mix[:, 0] > 0),
            "day": float(own @ mix[:, 1]) if i % 5 else float("nan"),
        }
        for name in ("rare", "posture", "speed"):
            labels[name][rng.random(frames) < 0.33] = np.nan
        x = (x * np.geomspace(0.1, 5, features) + 30).astype(np.float32)
        entry = Entry(f"r{i}", f"m{i}", "train" if i < train else "test", 30.0, frames, ("a",), 2, ())
        shown.append((Embedding(entry, {space: x * (k + 1) for k, space in enumerate(spaces)}), labels))
    return shown


def show(probe, shown, tasks=TASKS, seed=0):
    judge = probe.judge(card(*tasks), seed)
    for embedding, labels in shown:
        judge.see(embedding, labels)
    return judge.scores()


def rows(shown, split, task, mean=False):
    """Names, features and labels of the labelled rows of a split, as a scikit-learn user has them."""
    names, xs, ys = [], [], []
    for embedding, labels in shown:
        if embedding.entry.split == split:
            x = embedding.spaces["z"].astype(np.float64)
            x = x.mean(0, keepdims=True) if mean else x
            y = np.broadcast_to(labels[task.name], len(x))
            keep = np.isfinite(y)
            names += [embedding.entry.name] * int(keep.sum())
            xs.append(x[keep])
            ys.append(y[keep])
    return names, np.concatenate(xs), np.concatenate(ys)


def by_scikit_learn(shown, task, alpha, probe, mean=False):
    names, x, y = rows(shown, "train", task, mean)
    _, x_test, y_test = rows(shown, "test", task, mean)
    said = []
    for split in range(probe.splits):
        keep = np.array([drawn(0, split, name, probe.fraction) for name in names])
        regression = task.kind == "regression"
        model = Ridge(alpha=alpha) if regression else RidgeClassifier(alpha=alpha, class_weight="balanced")
        said.append(model.fit(x[keep], y[keep]).predict(x_test))
    said = np.stack(said)
    if task.kind == "regression":
        return mean_squared_error(y_test, said.mean(0))
    if probe.vote == "any" and task.kind == "binary":
        together = said.max(0)
    else:
        together = np.array([np.bincount(column.astype(int)).argmax() for column in said.T])
    if task.metric == "macro_recall":
        return recall_score(y_test, together, labels=np.unique(y_test), average="macro")
    return f1_score(y_test, together, average="binary" if task.kind == "binary" else "macro")


@pytest.mark.parametrize("vote", ["majority", "any"])
@pytest.mark.parametrize("splits", [1, 2, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_scores_equal_scikit_learn(vote, splits, seed, monkeypatch):
    monkeypatch.setattr(linear, "BLOCK", 50)
    probe = Linear(alphas=(1.0, 0.1, 5.0), splits=splits, fraction=0.7 if splits > 1 else 1.0, vote=vote)
    shown = world(seed=seed)
    scores = {s.name: s for s in show(probe, shown)}
    assert len(scores) == len(TASKS) * 3
    for task in TASKS:
        for alpha, space in zip(probe.alphas, ("z", "z@0.1", "z@5"), strict=True):
            expected = by_scikit_learn(shown, task, alpha, probe)
            score = scores[f"{task.name}/{space}"]
            assert score.value == pytest.approx(expected, rel=1e-5), score
            assert score.low <= score.value <= score.high
            assert score.metric == task.metric


def test_the_mean_of_a_recording_is_one_row():
    shown = world(train=40, test=20)
    probe = Linear(recordings="mean")
    scores = {s.name: s for s in show(probe, shown)}
    assert [s.task for s in scores.values()] == [t.name for t in TASKS]
    for task in TASKS[-2:]:
        expected = by_scikit_learn(shown, task, 1.0, probe, mean=True)
        assert scores[f"{task.name}/z"].value == pytest.approx(expected, rel=1e-5)
    assert scores["strain/z"].recordings == 20
    assert scores["day/z"].recordings == 16


@pytest.mark.parametrize("budget", [1, 2**30], ids=["settled at once", "settled at the end"])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_coefficients_equal_scikit_learn(classes, budget, monkeypatch):
    monkeypatch.setattr("ethoray.probes._ridge.CELL_BYTES", budget)
    rng = np.random.default_rng(classes)
    x = rng.normal(size=(900, 6)) * np.geomspace(0.01, 10, 6)
    y = np.minimum(rng.geometric(0.5, size=900), classes) - 1
    y[:3] = classes - 1
    unlabelled = rng.random(900) < 0.2
    z = np.column_stack([x, np.ones(900), x @ rng.normal(size=6) + 4])
    moments = Moments([classes, 1])
    for part in np.array_split(np.arange(900), 7):
        groups = [np.where(unlabelled, classes, y)[part], unlabelled[part].astype(int)]
        moments.add(z[part], groups, (0, 2))
    keep = ~unlabelled
    for alpha, weights, intercept in zip((1.0, 50.0), *classify(moments.of(2, 0), 6, (1.0, 50.0)), strict=True):
        model = RidgeClassifier(alpha=alpha, class_weight="balanced").fit(x[keep], y[keep])
        np.testing.assert_allclose(weights, np.atleast_2d(model.coef_), rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(intercept, model.intercept_, rtol=1e-8, atol=1e-12)
    for alpha, weights, intercept in zip((1.0, 50.0), *regress(moments.of(0, 1), 6, 7, (1.0, 50.0)), strict=True):
        model = Ridge(alpha=alpha).fit(x[keep], z[keep, 7])
        np.testing.assert_allclose(weights[0], model.coef_, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(intercept[0], model.intercept_, rtol=1e-8)
    assert moments.of(1, 0) == [None] * classes


def test_a_class_training_never_saw_is_never_predicted():
    shown = world()
    for embedding, labels in shown:
        if embedding.entry.split == "train":
            labels["posture"][labels["posture"] == 1] = np.nan
    (score,) = show(Linear(tasks=("posture",)), shown)
    assert score.value == pytest.approx(by_scikit_learn(shown, TASKS[2], 1.0, Linear()))


def test_features_far_from_zero_lose_no_accuracy():
    near = world(spaces=("z",))
    far = [(Embedding(e.entry, {"z": e.spaces["z"] + np.float32(2**14)}), y) for e, y in near]
    exact = [(Embedding(e.entry, {"z": e.spaces["z"] - np.float32(2**14)}), y) for e, y in far]
    for one, other in zip(show(Linear(), far), show(Linear(), exact), strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-5)


def test_every_space_is_scored_and_named():
    scores = show(Linear(tasks=("strain", "rare"), alphas=(1.0, 2.0)), world(spaces=("short", "long")))
    assert [s.name for s in scores] == [
        f"{task}/{space}{alpha}" for task in ("strain", "rare") for space in ("short", "long") for alpha in ("", "@2")
    ]


def test_the_same_seed_gives_the_same_scores_in_any_order_of_training():
    probe, shown = Linear(splits=3, fraction=0.6), world()
    first, again = show(probe, shown, seed=4), show(probe, shown[13::-1] + shown[14:], seed=4)
    for one, other in zip(first, again, strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-6)
    assert show(probe, shown, seed=5) != first


def test_splits_see_about_their_fraction():
    seen = np.mean([drawn(0, s, f"recording {i}", 0.9) for s in range(3) for i in range(2000)])
    assert 0.88 < seen < 0.92


def test_other_splits_are_ignored():
    shown = world()
    entry = Entry("other", "m", "validation", 30.0, 3, ("a",), 2, ())
    extra = (Embedding(entry, {"strange": np.full((3, 2), np.nan, np.float32)}), {})
    assert show(Linear(), [extra, *shown, extra]) == show(Linear(), shown)


def test_training_after_testing_is_refused():
    with pytest.raises(ProbeError, match="'r13': a training recording after a test one"):
        show(Linear(), world()[::-1][:-13])


def test_spaces_that_change_between_recordings_are_refused():
    shown = world()
    with pytest.raises(ProbeError, match=r"recording 'r19': spaces are .*same spaces"):
        show(Linear(), [*shown[:-1], (Embedding(shown[-1][0].entry, {"y": np.zeros((4, 2))}), {})])


def test_labels_of_the_wrong_length_are_refused():
    shown = world()
    shown[2][1]["rare"] = np.zeros(7000)
    with pytest.raises(ProbeError, match=r"recording 'r2': labels of task 'rare' have shape \(7000,\)"):
        show(Linear(), shown)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda split, y: np.full_like(y, np.nan), "training has no label"),
        (lambda split, y: y if split == "test" else 0 * y, "training has only class 0"),
        (lambda split, y: y if split == "train" else y * np.nan, "no test recording has a label"),
        (lambda split, y: y if split == "train" else 0 * y, "no test recording has a positive label"),
    ],
)
def test_a_task_that_cannot_be_scored_is_named_once_and_left_out(spoil, reason, caplog):
    shown = world(spaces=("short", "long"))
    for embedding, labels in shown:
        labels["common"] = spoil(embedding.entry.split, labels["common"])
    tasks = (Task("common"), TASKS[-2])
    with caplog.at_level(logging.WARNING):
        scores = show(Linear(), shown, tasks)
    assert [s.name for s in scores] == ["strain/short", "strain/long"]
    assert [r.getMessage() for r in caplog.records] == [f"task 'common' has no score in short, long: {reason}"]


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_side_gives_no_score_and_a_warning(split, caplog):
    shown = [(e, y) for e, y in world() if e.entry.split != split]
    assert show(Linear(), shown) == ()
    assert "no training recording" in caplog.text if split == "train" else "no test recording" in caplog.text


def test_constant_features_and_frames_without_a_task_are_harmless():
    shown = [(Embedding(e.entry, {"z": np.ones_like(e.spaces["z"])}), y) for e, y in world()]
    del shown[0][1]["rare"]
    scores = {s.name: s.value for s in show(Linear(), shown)}
    assert len(scores) == len(TASKS)
    assert np.isfinite(list(scores.values())).all()
    assert scores["common/z"] == 0.5


def test_features_too_large_to_square_give_no_score(caplog):
    shown = [(Embedding(e.entry, {"z": e.spaces["z"].astype(np.float64) * 1e200}), y) for e, y in world()]
    assert show(Linear(), shown) == ()
    assert "too large" in caplog.text


def test_a_name_that_does_not_exist_is_refused_at_once():
    with pytest.raises(SchemaError, match="no task 'sleep'"):
        Linear(tasks=("sleep",)).judge(card(*TASKS), 0)
    with pytest.raises(LookupError, match="did you mean 'linear'"):
        probes.load("liner")


@pytest.mark.parametrize(
    "wrong",
    [
        {"alphas": ()},
        {"alphas": (0.0,)},
        {"alphas": (1, 1.0)},
        {"splits": 0},
        {"splits": 3},
        {"fraction": 1.5},
        {"vote": "all"},
        {"recordings": "median"},
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match="linear probe"):
        Linear(**wrong)


def test_the_folder_is_the_registry():
    assert "linear" in probes.names()
    assert not any(name.startswith("_") for name in probes.names())
    assert probes.load("linear") is Linear
    assert Linear().name == "linear"
    assert Linear(**Linear.presets["mabe22"]).alphas[0] == 1
