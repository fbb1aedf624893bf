"""The logistic probe against scikit-learn, and the case for which it is there."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, recall_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ethoray.probes.linear import Linear
from ethoray.probes.logistic import Logistic
from ethoray.schema import Task


@pytest.mark.parametrize("alpha", [1.0, 30.0])
@pytest.mark.parametrize("balanced", [True, False])
def test_scores_equal_scikit_learn(world, alpha, balanced):
    made = world()
    scores = made.scores(Logistic(alpha=alpha, balanced=balanced))
    assert set(scores) == {f"{name}/z@logistic" for name in ("rare", "common", "posture", "strain")}
    for task in made.tasks:
        if task.kind != "regression":
            _, x, y = made.rows("train", task.name)
            _, x_test, y_test = made.rows("test", task.name)
            weight = "balanced" if balanced else None
            model = LogisticRegression(C=1 / alpha, class_weight=weight, tol=1e-8, max_iter=5000)
            said = make_pipeline(StandardScaler(), model).fit(x, y).predict(x_test)
            expected = f1_score(y_test, said) if task.metric == "f1" else recall_score(y_test, said, average="macro")
            assert scores[f"{task.name}/z@logistic"].value == pytest.approx(expected, abs=1e-4)


def test_weights_are_those_of_the_penalised_likelihood(world):
    made = world()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 3))
    y = (x @ rng.normal(size=(3, 3)) + rng.normal(size=(120, 3))).argmax(1)

    def loss(w):
        weights, intercepts = w[:9].reshape(3, 3), w[9:]
        height = x @ weights.T + intercepts
        return (logsumexp(height, axis=1) - height[np.arange(120), y]).sum() + 2.0 / 2 * (weights**2).sum()

    best = minimize(loss, np.zeros(12), tol=1e-10).x
    judge = made.judge(Logistic(alpha=2.0, balanced=False, standardise=False))
    _, weights, intercepts = judge._model("it", x, y)
    np.testing.assert_allclose(weights.ravel(), best[:9], atol=1e-4)
    np.testing.assert_allclose(intercepts - intercepts.mean(), best[9:] - best[9:].mean(), atol=1e-4)


def test_ridge_is_misled_by_a_wide_class_and_logistic_is_not(world):
    """All rest is below 1, all runs above 1.5, and a few runs are very fast: a threshold tells them apart."""
    made = world()
    rng = np.random.default_rng(0)
    for embedding, labels in made.shown:
        frames = embedding.entry.frames
        runs = rng.random(frames) < 0.15
        speed = np.where(runs, 1.5 + rng.exponential(12, frames), rng.uniform(0, 1, frames))
        embedding.spaces["z"] = speed[:, None].astype(np.float32)
        labels["run"] = runs.astype(np.float32)
    tasks = (Task("run", metric="macro_recall"),)
    ridge, logistic = (made.scores(probe, tasks) for probe in (Linear(), Logistic(alpha=1e-3)))
    assert ridge["run/z"].value < 0.85
    assert logistic["run/z@logistic"].value > 0.99


def test_a_fit_that_was_stopped_early_is_said(world, caplog):
    made = world()
    scores = made.scores(Logistic(iterations=1), made.tasks[2:3])
    assert scores and "logistic probe: task 'posture' in 'z' did not converge in 1 steps" in caplog.text


def test_features_that_do_not_vary_are_harmless(world):
    made = world()
    for embedding, _ in made.shown:
        embedding.spaces["z"][:, 2] = 1e6
    assert len(made.scores(Logistic())) == 4


def test_the_mean_of_a_recording_is_one_row(world):
    made = world(train=16, test=8)
    scores = made.scores(Logistic(recordings="mean"), made.tasks[-1:])
    assert scores["strain/z@logistic"].tallies.sum() == 8
