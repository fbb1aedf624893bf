"""Few-label curves: every point against scikit-learn on the recordings that were drawn."""

import logging
from itertools import combinations

import numpy as np
import pytest
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.metrics import f1_score, mean_squared_error, recall_score

from ethoray.probes import _budgets
from ethoray.probes._budgets import Sums, pick, shortlist
from ethoray.probes.few_labels import FewLabels
from ethoray.probes.linear import Linear
from ethoray.schema import Task

SEVERAL = FewLabels(budgets=(1, 3, 6), draws=4)


def by_scikit_learn(made, task, names, alpha=1.0):
    where, x, y = made.rows("train", task.name)
    keep = np.isin(where, names)
    _, x_test, y_test = made.rows("test", task.name)
    if task.kind == "regression":
        return mean_squared_error(y_test, Ridge(alpha=alpha).fit(x[keep], y[keep]).predict(x_test))
    said = RidgeClassifier(alpha=alpha, class_weight="balanced").fit(x[keep], y[keep]).predict(x_test)
    return f1_score(y_test, said) if task.metric == "f1" else recall_score(y_test, said, average="macro")


def test_every_draw_equals_scikit_learn_on_the_drawn_recordings(world, monkeypatch):
    monkeypatch.setattr("ethoray.probes.few_labels.BLOCK", 23)
    monkeypatch.setattr(_budgets, "BLOCK", 19)
    made = world()
    drawn = {}
    monkeypatch.setattr("ethoray.probes.few_labels.pick", lambda *a: drawn.setdefault(len(drawn), pick(*a)))
    judge = made.judge(SEVERAL, made.tasks[1:4])
    curves = judge.describe()
    names = iter(drawn.values())
    for task in made.tasks[1:4]:
        points = curves[f"{task.name}/z"]
        assert [p["recordings"] for p in points] == [1, 3, 6, 10]
        for point in points[:-1]:
            for value in point["draws"]:
                chosen = next(names)
                assert len(set(chosen)) == point["recordings"]
                assert value == pytest.approx(by_scikit_learn(made, task, chosen), rel=1e-5)
        assert points[-1]["draws"] == [pytest.approx(by_scikit_learn(made, task, [f"r{i}" for i in range(10)]))]


def test_all_recordings_give_the_score_of_the_linear_probe(world):
    made = world()
    few, linear = made.scores(FewLabels()), made.scores(Linear())
    for task in made.tasks:
        assert few[f"{task.name}/z@all_recordings"].value == pytest.approx(linear[f"{task.name}/z"].value, rel=1e-5)
        assert few[f"{task.name}/z@all_recordings"].low == pytest.approx(linear[f"{task.name}/z"].low, rel=1e-5)
    assert {name.partition("@")[2] for name in few} == {
        "1_recording", "2_recordings", "4_recordings", "8_recordings", "all_recordings"
    }  # fmt: skip


def test_a_score_is_of_all_draws_together_and_of_their_mean_for_a_regression(world):
    made = world()
    judge = made.judge(SEVERAL)
    scores = {s.name: s for s in judge.scores()}
    for name, points in judge.describe().items():
        for point in points:
            number = "all" if point["recordings"] == 10 else point["recordings"]
            score = scores[f"{name}@{number}_recording{'s' * (number != 1)}"]
            assert score.value == point["value"] and score.low == point["low"] and score.high == point["high"]
            assert min(point["draws"]) - 0.05 <= score.value <= max(point["draws"]) + 0.05
            if name == "speed/z":
                assert score.value == pytest.approx(np.mean(point["draws"]))
    assert judge.describe()["common/z"][-1]["seconds"] == pytest.approx(
        sum(e.entry.frames for e, _ in made.shown if e.entry.split == "train") / 30
    )


def test_more_labels_are_better_here(world):
    made = world(train=24, test=8)
    points = made.judge(FewLabels(budgets=(1, 4))).describe()["posture/z"]
    assert points[0]["value"] < points[-1]["value"]


def test_the_same_seed_draws_the_same_in_any_order_of_training(world):
    made, turned = world(train=20), world(train=20)
    turned.shown = made.shown[19::-1] + made.shown[20:]
    one, other = made.scores(SEVERAL), turned.scores(SEVERAL)
    assert set(one) == set(other)
    for name in one:
        assert one[name].value == pytest.approx(other[name].value, rel=1e-5)
    assert made.scores(SEVERAL, seed=3) != one


def test_only_recordings_that_a_draw_may_want_are_held(world):
    made = world(train=60)
    judge = FewLabels(budgets=(1, 2), draws=2).judge(world_card(made), 0)
    for embedding, labels in made.shown[:60]:
        judge.see(embedding, labels)
    assert len(judge.held) < 30


def world_card(made):
    from ethoray.schema import Card, Skeleton

    return Card("toy", "mouse", 30.0, Skeleton(("nose",)), made.tasks)


def test_a_class_that_few_recordings_hold_is_drawn_where_possible(world, caplog):
    made = world(train=12)
    for embedding, labels in made.shown:
        if embedding.entry.split == "train" and embedding.entry.name != "r7":
            labels["common"] = np.zeros_like(labels["common"])
    with caplog.at_level(logging.WARNING):
        points = made.judge(FewLabels(budgets=(1, 3)), made.tasks[1:2]).describe()["common/z"]
    assert [p["incomplete"] for p in points] == [0, 0, 0]
    assert "missing" not in caplog.text


def test_draws_that_must_lack_a_class_are_counted_and_said(world, caplog):
    made = world()
    with caplog.at_level(logging.WARNING):
        judge = made.judge(FewLabels(budgets=(1, 2)), made.tasks[-1:])
        scores = {s.name for s in judge.scores()}
    assert scores == {"strain/z@2_recordings", "strain/z@all_recordings"}
    assert "task 'strain' has no score in z@1_recording: training has only class" in caplog.text
    many = tuple("abcd")
    task = Task("kind", "multiclass", "recording", many, "macro_recall")
    for i, (_, labels) in enumerate(made.shown):
        labels["kind"] = float(i % 4)
    with caplog.at_level(logging.WARNING):
        points = made.judge(FewLabels(budgets=(3, 4), draws=2), (task,)).describe()["kind/z"]
    assert [p["incomplete"] for p in points] == [2, 0, 0]
    assert "task 'kind': a class is missing in 2 of 2 draws of 3_recordings" in caplog.text


def test_a_space_that_is_too_wide_is_left_out_and_said(world, caplog):
    made = world(spaces=("short", "long"))
    for embedding, _ in made.shown:
        embedding.spaces["long"] = np.tile(embedding.spaces["long"], 3)
    scores = made.scores(FewLabels(widest=10))
    assert {s.space.partition("@")[0] for s in scores.values()} == {"short"}
    assert "long has no score, 18 features are more than 10" in caplog.text


def test_sums_equal_those_of_each_class():
    rng = np.random.default_rng(0)
    z, groups = rng.normal(size=(40, 3)), [rng.integers(0, 4, 40), np.full(40, 1), np.zeros(40, int)]
    sums = Sums(groups, [3, 2, 1])
    for first in range(0, 40, 7):
        sums.add(z[first : first + 7], slice(first, first + 7))
    for task, (group, number) in enumerate(zip(groups, [3, 2, 1], strict=True)):
        found = sums.of(task)
        assert set(found) == set(group[group < number].tolist())
        for label, matrix in found.items():
            np.testing.assert_allclose(matrix, z[group == label].T @ z[group == label], atol=1e-12)


def holders(*sets):
    return [(i, str(i), frozenset(s)) for i, s in enumerate(sets)]


def test_an_exchange_brings_in_what_is_missing():
    order = holders({0}, {0}, {0, 1}, {2}, {0, 1, 2})
    assert pick(order, 1, frozenset({0, 1, 2})) == ("4",)
    assert pick(order, 2, frozenset({0, 1})) == ("0", "2")
    assert pick(order, 2, frozenset({0})) == ("0", "1")
    assert pick(order[:4], 2, frozenset({0, 1, 2})) == ("2", "3")
    assert pick(order, 9, frozenset({0, 1, 2})) == ("0", "1", "2", "3", "4")


def test_the_shortlist_forgets_nothing_that_is_wanted():
    rng = np.random.default_rng(0)
    for _ in range(200):
        order = holders(*[set(rng.choice(2, rng.integers(1, 3), replace=False).tolist()) for _ in range(8)])
        for budget in (1, 2, 3):
            whole = pick(order, budget, frozenset({0, 1}))
            kept: list = []
            for i in rng.permutation(8):
                kept = shortlist(sorted([*kept, order[i]]), budget)
            assert pick(kept, budget, frozenset({0, 1})) == whole
            best = max(len(set().union(*(h[2] for h in some))) for some in combinations(order, budget))
            assert len(set().union(*(order[int(name)][2] for name in whole))) == best
