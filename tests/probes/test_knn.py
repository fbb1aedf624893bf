"""The nearest-neighbour probe against scikit-learn, and every probe of sampled rows with poor data."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import f1_score, mean_squared_error, recall_score
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from ethoray import metrics, probes
from ethoray.embedding import Embedding
from ethoray.probes import ProbeError, _sampled
from ethoray.probes._rows import Sample
from ethoray.probes.clusters import Clusters
from ethoray.probes.few_labels import FewLabels
from ethoray.probes.knn import KNN, Neighbours
from ethoray.probes.linear import Linear
from ethoray.probes.logistic import Logistic
from ethoray.schema import SchemaError, Task


def by_scikit_learn(made, task, k, distance):
    _, x, y = made.rows("train", task.name)
    _, x_test, y_test = made.rows("test", task.name)
    if task.kind == "regression":
        model = KNeighborsRegressor(k, metric=distance, algorithm="brute")
        return mean_squared_error(y_test, model.fit(x, y).predict(x_test))
    said = KNeighborsClassifier(k, metric=distance, algorithm="brute").fit(x, y).predict(x_test)
    if task.metric == "macro_recall":
        return recall_score(y_test, said, labels=np.unique(y_test), average="macro")
    return f1_score(y_test, said)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("k", [1, 7])
def test_scores_equal_scikit_learn(world, distance, k, monkeypatch):
    monkeypatch.setattr(_sampled, "BLOCK", 37)
    made = world(seed=k)
    scores = made.scores(KNN(k=k, distance=distance))
    assert set(scores) == {f"{task.name}/z@knn" for task in made.tasks}
    for task in made.tasks:
        score = scores[f"{task.name}/z@knn"]
        assert score.value == pytest.approx(by_scikit_learn(made, task, k, distance), rel=1e-6)
        assert score.low <= score.value <= score.high
        assert score.value == pytest.approx(float(metrics.RULES[score.rule](score.tallies.sum(0))))
        assert score.names == tuple(f"r{i}" for i in range(10, 15))


def test_neighbours_are_those_of_all_distances():
    rng = np.random.default_rng(0)
    x, asked = rng.normal(size=(50, 3)) + 1e4, rng.normal(size=(9, 3)) + 1e4
    near = np.square(asked[:, None] - x).sum(-1).argsort(1)[:, :4]
    assert {*map(tuple, np.sort(Neighbours(x, 4, "euclidean")(asked), axis=1))} == {*map(tuple, np.sort(near, axis=1))}
    assert Neighbours(x, 80, "euclidean")(asked).shape == (9, 50)
    assert np.isfinite(Neighbours(np.zeros((3, 2)), 2, "cosine").held).all()


def test_the_mean_of_a_recording_is_one_row(world):
    made = world(train=16, test=8)
    scores = made.scores(KNN(k=3, recordings="mean"), made.tasks[-1:])
    assert scores["strain/z@knn"].tallies.sum() == 8


def test_a_sample_is_even_over_recordings_and_does_not_know_their_order():
    lengths = {"long": 1000, "middle": 100, "short": 3, "empty": 0}

    def drawn(names, size, seed=0):
        sample = Sample(size, seed)
        for name in names:
            sample.add(name, {"x": np.arange(lengths[name]) + 10_000 * list(lengths).index(name)})
        return sample.rows().get("x", np.empty(0))

    first = drawn(lengths, 60)
    assert {name: int((first // 10_000 == i).sum()) for i, name in enumerate(lengths)} == {
        "long": 28, "middle": 28, "short": 3, "empty": 0
    }  # fmt: skip
    assert len(set(first)) == len(first)
    np.testing.assert_array_equal(first, drawn(list(lengths)[::-1], 60))
    assert set(drawn(lengths, 60, seed=1)) != set(first)
    assert len(drawn(lengths, 5000)) == 1103
    assert len(drawn(lengths, 2)) == 2
    assert len(drawn(["empty"], 2)) == 0


def test_a_sample_stays_within_its_size_however_many_recordings_come():
    sample = Sample(40, 0)
    for i in range(200):
        sample.add(f"r{i}", {"x": np.full(30, i), "y": np.zeros((30, 2))})
        assert sum(len(held["x"]) for held in sample._held.values()) <= 50 + 30
    rows = sample.rows()
    assert len(set(rows["x"])) == len(rows["x"]) == len(rows["y"]) == 40
    again = Sample(40, 0)
    for i in reversed(range(200)):
        again.add(f"r{i}", {"x": np.full(30, i), "y": np.zeros((30, 2))})
    np.testing.assert_array_equal(again.rows()["x"], rows["x"])


def test_a_small_sample_answers_nearly_as_well(world):
    made = world(train=30)
    whole, part = made.scores(KNN()), made.scores(KNN(rows=600))
    assert part["common/z@knn"].value > whole["common/z@knn"].value - 0.1
    assert made.scores(KNN(rows=600), seed=1) != part


def test_a_frame_now_and_then_is_enough(world):
    made = world()
    score = made.scores(KNN(every=0.1), made.tasks[1:2])["common/z@knn"]
    frames = [e.entry.frames for e, _ in made.shown if e.entry.split == "test"]
    assert score.tallies.sum() == sum(-(-n // 3) for n in frames)


ALL = [KNN(), Logistic(), FewLabels(), Clusters(motifs=4)]


@pytest.mark.parametrize("probe", ALL, ids=lambda p: p.name)
@pytest.mark.parametrize("split", ["train", "test"])
def test_embeddings_that_are_not_finite_are_refused(world, probe, split):
    made = world()
    place = 2 if split == "train" else 12
    made.shown[place][0].spaces["z"][4, 1] = np.nan
    with pytest.raises(ProbeError, match=rf"recording 'r{place}': space 'z' is not finite in 1 of .* first in frame 4"):
        made.scores(probe)


@pytest.mark.parametrize("probe", ALL, ids=lambda p: p.name)
@pytest.mark.parametrize("wrong", [{"z": (3, 6)}, {"z": (None, 5)}, {"y": (None, 6)}], ids=["rows", "width", "name"])
def test_wrong_numbers_of_rows_or_features_are_refused(world, probe, wrong):
    made = world()
    ((space, (rows, width)),) = wrong.items()
    entry = made.shown[3][0].entry
    broken = Embedding(entry, {space: np.zeros((rows or entry.frames, width), np.float32)})
    made.shown[3] = broken, made.shown[3][1]
    with pytest.raises(ProbeError, match=r"recording 'r3': spaces are .*same spaces, and every frame a row"):
        made.scores(probe)


@pytest.mark.parametrize("probe", ALL, ids=lambda p: p.name)
def test_labels_of_the_wrong_length_are_refused(world, probe):
    made = world()
    made.shown[1][1]["common"] = np.zeros(5)
    with pytest.raises(ProbeError, match=r"recording 'r1': labels of task 'common' have shape \(5,\)"):
        made.scores(probe)


@pytest.mark.parametrize("probe", ALL[:3], ids=lambda p: p.name)
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda split, y: np.full_like(y, np.nan), "training has no label"),
        (lambda split, y: y if split == "test" else 0 * y, "training has only class 0"),
        (lambda split, y: y if split == "train" else y * np.nan, "no test recording has a label"),
        (lambda split, y: y if split == "train" else 0 * y, "no test recording has a positive label"),
    ],
)
def test_a_task_that_cannot_be_scored_is_named_and_left_out(world, probe, spoil, reason, caplog):
    made = world(spaces=("short", "long"))
    for embedding, labels in made.shown:
        labels["common"] = spoil(embedding.entry.split, labels["common"])
    with caplog.at_level(logging.WARNING):
        scores = made.scores(probe, (Task("common"), made.tasks[-1]))
    assert {score.task for score in scores.values()} == {"strain"}
    said = [r.getMessage() for r in caplog.records if "'common' has no score" in r.getMessage()]
    assert said and all(s.startswith("task 'common' has no score in short") and s.endswith(reason) for s in said)


@pytest.mark.parametrize("probe", ALL, ids=lambda p: p.name)
def test_one_positive_in_training_and_a_class_that_the_test_lacks_are_scored(world, probe):
    made = world()
    for embedding, labels in made.shown:
        labels["common"] *= 0
        if embedding.entry.name in ("r0", "r12"):
            labels["common"][3] = 1
        if embedding.entry.split == "test":
            labels["posture"][labels["posture"] == 2] = np.nan
    scores = made.scores(probe, made.tasks[1:3])
    assert {score.task for score in scores.values()} == {"common", "posture"}
    assert all(np.isfinite([s.value, s.low, s.high]).all() for s in scores.values())


@pytest.mark.parametrize("probe", ALL, ids=lambda p: p.name)
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_missing_side_gives_no_score_and_a_warning(world, probe, split, caplog):
    made = world()
    made.shown = [(e, y) for e, y in made.shown if e.entry.split != split]
    assert made.scores(probe) == {}
    assert ("no training recording" if split == "train" else "no test recording") in caplog.text


def test_a_task_that_does_not_exist_or_cannot_be_answered_is_refused_at_once(world):
    for kind in (KNN, Logistic, FewLabels, Clusters):
        with pytest.raises(SchemaError, match="no task 'sleep'"):
            world().scores(kind(tasks=("sleep",)))
    for kind in (Logistic, Clusters):
        with pytest.raises(SchemaError, match="'speed' is a regression"):
            world().scores(kind(tasks=("speed",)))


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (KNN, {"k": 0}), (KNN, {"rows": 0}), (KNN, {"distance": "manhattan"}), (KNN, {"recordings": "median"}),
        (KNN, {"every": -1.0}), (Logistic, {"alpha": 0.0}), (Logistic, {"iterations": 0}),
        (Logistic, {"recordings": "x"}), (FewLabels, {"budgets": ()}), (FewLabels, {"budgets": (2, 1)}),
        (FewLabels, {"budgets": (0,)}), (FewLabels, {"draws": 0}), (FewLabels, {"alpha": float("nan")}),
        (Clusters, {"method": "mean shift"}), (Clusters, {"motifs": 1}), (Clusters, {"measures": ("f1",)}),
        (Clusters, {"measures": ()}), (Clusters, {"every": float("nan")}),
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(kind, wrong):
    with pytest.raises(ValueError, match="probe: "):
        kind(**wrong)


def test_no_two_probes_give_a_score_the_same_name(world):
    made = world(codes=3, spaces=("ze", "zq"))
    found = [name for probe in (*ALL, Linear(alphas=(1.0, 2.0))) for name in made.scores(probe)]
    assert len(set(found)) == len(found)
    for name in ("knn", "logistic", "few_labels", "clusters", "codewords"):
        assert name in probes.names()
        assert probes.load(name)().name == name
        for preset in probes.load(name).presets.values():
            replace(probes.load(name)(), **preset)
