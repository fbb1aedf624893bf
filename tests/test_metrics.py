"""Scores against scikit-learn, intervals against a plain loop."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cluster, confusion_matrix, f1_score, r2_score, recall_score

from ethoray import metrics


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.integers(1, 60))
def test_scores_equal_scikit_learn(seed, classes, frames):
    rng = np.random.default_rng(seed)
    truth, predicted = rng.integers(classes, size=(2, frames))
    table = metrics.confusion(truth, predicted, classes)
    labels = np.arange(classes)
    np.testing.assert_array_equal(table, confusion_matrix(truth, predicted, labels=labels))
    present = np.union1d(truth, predicted)
    expected = f1_score(truth, predicted, labels=present, average="macro", zero_division=0)
    assert metrics.macro_f1(table) == pytest.approx(expected)
    recall = recall_score(truth, predicted, labels=np.unique(truth), average="macro")
    assert metrics.macro_recall(table) == pytest.approx(recall)
    if classes == 2:
        assert metrics.binary_f1(table) == pytest.approx(f1_score(truth, predicted, zero_division=0))


def test_leading_axes_are_free():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(3, size=50), rng.integers(3, size=(4, 2, 50))
    tables = metrics.confusion(truth, predicted, 3)
    assert tables.shape == (4, 2, 3, 3)
    np.testing.assert_array_equal(tables[3, 1], metrics.confusion(truth, predicted[3, 1], 3))
    assert metrics.macro_recall(tables).shape == (4, 2)


def test_a_score_of_nothing_is_zero_and_never_nan():
    assert metrics.f1(0, 0, 0) == 0
    assert metrics.macro_f1(np.zeros((2, 2))) == metrics.macro_recall(np.zeros((2, 2))) == 0


def test_absent_classes_do_not_count():
    table = np.diag([3.0, 0, 2])
    assert metrics.macro_f1(table) == metrics.macro_recall(table) == 1


@pytest.mark.parametrize("level", [0.95, 0.5])
def test_interval_equals_a_loop_over_resamples(level):
    rng = np.random.default_rng(3)
    tables = rng.integers(0, 9, size=(11, 2, 2, 2)).astype(float)
    low, high = metrics.interval(metrics.binary_f1, tables, seed=5, resamples=200, level=level)
    drawn = np.random.default_rng(5).integers(11, size=(200, 11))
    scores = []
    for recordings in drawn:
        total = sum(tables[r] for r in recordings)
        tp, fp, fn = total[:, 1, 1], total[:, 0, 1], total[:, 1, 0]
        scores.append(2 * tp / (2 * tp + fp + fn))
    tail = 100 * (1 - level) / 2
    np.testing.assert_allclose(low, np.percentile(scores, tail, axis=0), rtol=1e-12)
    np.testing.assert_allclose(high, np.percentile(scores, 100 - tail, axis=0), rtol=1e-12)


def test_interval_is_seeded_and_holds_the_score():
    sums = np.stack([np.random.default_rng(0).gamma(2, size=40) * 10, np.full(40, 10)], axis=-1)
    first = metrics.interval(metrics.mse, sums, seed=1)
    assert first == metrics.interval(metrics.mse, sums, seed=1) != metrics.interval(metrics.mse, sums, seed=2)
    assert first[0] < metrics.mse(sums.sum(0)) < first[1]


def test_one_recording_gives_an_interval_of_no_width():
    low, high = metrics.interval(metrics.mse, np.array([[6.0, 3.0]]), seed=0)
    assert low == high == 2


def test_interval_covers_the_truth_about_as_often_as_it_says():
    """Errors share an offset within a recording: frames are not independent, recordings are."""
    rng = np.random.default_rng(1)
    worlds, recordings, frames = 300, 60, 20
    offsets = rng.normal(size=(worlds, recordings, 1))
    errors = offsets + rng.normal(size=(worlds, recordings, frames))
    covered = 0
    for world in errors:
        sums = np.stack([(world**2).sum(1), np.full(recordings, frames)], axis=-1)
        low, high = metrics.interval(metrics.mse, sums, seed=0, resamples=400)
        covered += low < 2 < high
    assert 0.88 < covered / worlds < 0.985


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 4), st.integers(2, 80))
def test_agreement_of_clusters_equals_scikit_learn(seed, clusters, classes, frames):
    rng = np.random.default_rng(seed)
    one, other = rng.integers(clusters, size=frames), rng.integers(classes, size=frames)
    table = np.zeros((clusters, classes))
    np.add.at(table, (one, other), 1)
    for name, score in {
        "nmi": cluster.normalized_mutual_info_score,
        "v_measure": cluster.v_measure_score,
        "ari": cluster.adjusted_rand_score,
        "homogeneity": cluster.homogeneity_score,
        "completeness": cluster.completeness_score,
    }.items():
        assert metrics.RULES[name](table) == pytest.approx(score(other, one), abs=1e-7), name
        stacked = metrics.RULES[name](np.stack([table, table * 2]))
        assert stacked.shape == (2,) and stacked[0] == pytest.approx(float(metrics.RULES[name](table)))


def test_agreement_by_hand():
    """Two motifs, two classes: three of four frames agree; H = ln 2 for both, I = H - H(1/4, 3/4) ..."""
    table = np.array([[2.0, 0.0], [1.0, 1.0]])
    of_class = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    both = -(0.5 * np.log(0.5) + 2 * 0.25 * np.log(0.25))
    information = of_class + np.log(2) - both
    assert metrics.nmi(table) == pytest.approx(2 * information / (of_class + np.log(2)))
    assert metrics.homogeneity(table) == pytest.approx(information / of_class)
    assert metrics.completeness(table) == pytest.approx(information / np.log(2))
    # pairs of frames: 6; together in motifs 2, in classes 3, in both 1; expected 2 * 3 / 6 = 1
    assert metrics.ari(table) == pytest.approx((1 - 1) / (2.5 - 1))


def test_r2_equals_scikit_learn_and_adds_up_over_recordings():
    rng = np.random.default_rng(0)
    y, told = rng.normal(size=(2, 50, 3)) * [1, 5, 0.1] + 4
    parts = [slice(0, 20), slice(20, 50)]
    sums = [
        np.stack([np.full(3, len(y[p])), y[p].sum(0), (y[p] ** 2).sum(0), ((told - y)[p] ** 2).sum(0)], axis=-1)
        for p in parts
    ]
    expected = r2_score(y, told, multioutput="variance_weighted")
    assert metrics.r2(np.sum(sums, axis=0)) == pytest.approx(expected)
    assert metrics.r2(np.stack([np.sum(sums, axis=0)] * 4)).shape == (4,)
    assert metrics.r2(np.array([[5.0, 10.0, 20.0, 1.0]])) == 0  # y is always 2
    assert metrics.rmse(np.array([18.0, 2.0])) == 3
    assert set(metrics.RULES) > metrics.LOWER_IS_BETTER


def test_rules_of_nothing_are_finite():
    shapes = dict.fromkeys(["nmi", "ari", "v_measure", "homogeneity", "completeness", "macro_f1"], (3, 2))
    for name, shape in {**shapes, "macro_f1": (3, 3), "mse": (2,), "rmse": (2,), "r2": (3, 4)}.items():
        assert np.isfinite(metrics.RULES[name](np.zeros(shape))), name
