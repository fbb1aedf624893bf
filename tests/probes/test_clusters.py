"""Motifs against labels, with scikit-learn as the judge of agreement."""

import logging

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, homogeneity_score, normalized_mutual_info_score

from ethoray import metrics
from ethoray.probes.clusters import MEASURES, Clusters, contingency
from ethoray.schema import Task

KIND = (Task("kind", "multiclass", classes=("a", "b", "c"), metric="macro_recall"),)


def islands(world, split=1, **shape):
    """Three behaviours, each ``split`` tight islands of its own; a tenth of the frames has no label."""
    made = world(**shape)
    rng = np.random.default_rng(0)
    for embedding, labels in made.shown:
        frames = embedding.entry.frames
        kind, part = rng.integers(3, size=frames), rng.integers(split, size=frames)
        centre = np.stack([10.0 * kind, 10.0 * part], axis=1)
        embedding.spaces["z"] = (centre + 0.2 * rng.normal(size=(frames, 2))).astype(np.float32)
        labels["kind"] = np.where(rng.random(frames) < 0.1, np.nan, kind)
    return made


@pytest.mark.parametrize("probe", [Clusters(motifs=3), Clusters(method="hdbscan", smallest=20)], ids=lambda p: p.method)
def test_islands_are_found_and_agree_with_their_labels(world, probe):
    scores = islands(world).scores(probe, KIND)
    assert set(scores) == {f"kind/z@{probe.method}_{name}" for name in ("nmi", "ari")}
    assert all(score.value > 0.99 for score in scores.values())


def test_more_motifs_than_labels_cost_completeness_and_not_homogeneity(world):
    scores = islands(world, split=3).scores(Clusters(motifs=9, measures=MEASURES), KIND)
    value = {name: scores[f"kind/z@kmeans_{name}"].value for name in MEASURES}
    assert value["homogeneity"] > 0.99 and value["completeness"] < 0.6
    assert value["v_measure"] == pytest.approx(value["nmi"])
    assert value["ari"] < 0.6


@pytest.mark.parametrize("probe", [Clusters(motifs=5), Clusters(method="hdbscan", smallest=8)], ids=lambda p: p.method)
def test_scores_equal_scikit_learn_on_the_motifs_that_were_said(world, probe, monkeypatch):
    made, said = islands(world, split=2), []
    real = contingency

    def spying(one, other, ones, others):
        said.append((one, other))
        return real(one, other, ones, others)

    monkeypatch.setattr("ethoray.probes.clusters.contingency", spying)
    scores = made.scores(Clusters(**{**vars(probe), "measures": ("nmi", "ari", "homogeneity")}), KIND)
    motifs, truth = (np.concatenate(parts) for parts in zip(*said, strict=True))
    assert len(truth) == len(made.rows("test", "kind")[2])
    expected = {
        "nmi": normalized_mutual_info_score(truth, motifs),
        "ari": adjusted_rand_score(truth, motifs),
        "homogeneity": homogeneity_score(truth, motifs),
    }
    for name, value in expected.items():
        score = scores[f"kind/z@{probe.method}_{name}"]
        assert score.value == pytest.approx(value, abs=1e-9)
        assert score.metric == score.rule == name and score.recordings == 5
        assert float(metrics.RULES[name](score.tallies.sum(0))) == pytest.approx(value, abs=1e-9)


def test_the_contingencies_are_described(world):
    made = islands(world)
    judge = made.judge(Clusters(motifs=3), KIND)
    table = np.array(judge.describe()["kind/z"])
    assert table.shape == (3, 3) and table.sum() == len(made.rows("test", "kind")[2])
    assert (table > 0).sum() == 3
    np.testing.assert_array_equal(contingency(np.array([1, 1, 0]), np.array([0.0, 0, 2]), 2, 3), [[0, 0, 1], [2, 0, 0]])


def test_labels_of_training_are_not_asked_for(world):
    made = islands(world)
    with_labels = made.scores(Clusters(motifs=3), KIND)
    for embedding, labels in made.shown:
        if embedding.entry.split == "train":
            labels["kind"] = np.full(embedding.entry.frames, np.nan)
    assert made.scores(Clusters(motifs=3), KIND) == with_labels


def test_the_same_seed_gives_the_same_motifs(world):
    made = world()
    assert made.scores(Clusters(motifs=6)) == made.scores(Clusters(motifs=6))
    assert made.scores(Clusters(motifs=6)) != made.scores(Clusters(motifs=6), seed=1)


@pytest.mark.parametrize(
    ("probe", "reason"),
    [
        (Clusters(method="hdbscan", smallest=5000), "too few for clusters of 5000"),
        (Clusters(method="hdbscan", smallest=300), "HDBSCAN found no cluster"),
    ],
)
def test_what_cannot_be_clustered_has_no_score_and_a_reason(world, probe, reason, caplog):
    with caplog.at_level(logging.WARNING):
        assert world().scores(probe) == {}
    assert reason in caplog.text


def test_labels_of_one_class_agree_with_nothing(world, caplog):
    made = islands(world)
    for _, labels in made.shown:
        labels["kind"] = np.where(np.isfinite(labels["kind"]), 2.0, np.nan)
    with caplog.at_level(logging.WARNING):
        assert made.scores(Clusters(motifs=3), KIND) == {}
    assert "task 'kind' has no score in z@kmeans: the labels of the test recordings are all of one class" in caplog.text


def test_fewer_different_frames_than_motifs(world):
    made = islands(world)
    for embedding, labels in made.shown:
        kind = np.nan_to_num(labels["kind"])
        embedding.spaces["z"] = np.stack([kind, kind], axis=1).astype(np.float32)
    scores = made.scores(Clusters(motifs=20), KIND)
    assert scores["kind/z@kmeans_nmi"].value == pytest.approx(1)
