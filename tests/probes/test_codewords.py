"""Codeword probes and codebook statistics: against scikit-learn, against numbers worked out by hand, end to end."""

import json
import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score, recall_score
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

from ethoray import experiment, record
from ethoray.batch import Batch, Windows
from ethoray.embedding import Embedding, embed
from ethoray.learning import Budget
from ethoray.methods.vqvame import VQVAME
from ethoray.nn import codebook
from ethoray.probes import ProbeError
from ethoray.probes._codebook import Usage, similarity, skewness, statistics
from ethoray.probes._fidelity import Fidelity
from ethoray.probes._machines import gaussian, pairwise, winners
from ethoray.probes.clusters import Clusters
from ethoray.probes.codewords import Codewords
from ethoray.probes.few_labels import FewLabels
from ethoray.probes.knn import KNN
from ethoray.probes.linear import Linear
from ethoray.probes.logistic import Logistic
from ethoray.schema import SchemaError, Task
from ethoray.testing import toy_dataset

ALL = (Linear(), KNN(), FewLabels(budgets=(1, 2), draws=2), Logistic(), Codewords(), Clusters(motifs=5))


def coded(world, **shape):
    return world(**{"codes": 3, "spaces": ("ze", "zq"), **shape})


def codes_of(made, split, task):
    rows = []
    for embedding, labels in made.shown:
        if embedding.entry.split == split:
            keep = np.isfinite(np.broadcast_to(labels[task], embedding.entry.frames))
            rows.append(embedding.codes[keep].reshape(keep.sum(), -1))
    return np.concatenate(rows)


@pytest.mark.parametrize("balanced", [False, True])
def test_scores_equal_scikit_learn(world, balanced):
    made = coded(world, train=6)
    tasks = tuple(t for t in made.tasks if t.kind != "regression")
    scores = made.scores(Codewords(balanced=(balanced,)), made.tasks)
    weight, end = ("balanced", "_balanced") if balanced else (None, "")
    for task in tasks:
        _, x, y = made.rows("train", task.name, "ze")
        _, x_test, y_test = made.rows("test", task.name, "ze")
        scaler = StandardScaler().fit(np.concatenate([e.spaces["ze"] for e, _ in made.shown[:6]]).astype(np.float64))
        models = {
            "ze@svm": LinearSVC(random_state=0, dual="auto", max_iter=5000, class_weight=weight),
            "ze@rbf": SVC(class_weight=weight, gamma=1 / x.shape[1]),
        }
        for name, model in models.items():
            said = model.fit(scaler.transform(x), y).predict(scaler.transform(x_test))
            expected = recall_score(y_test, said, labels=np.unique(y_test), average="macro")
            assert scores[f"{task.name}/{name}{end}"].value == pytest.approx(expected, abs=0.01), name
        for depth in (0, 12):
            tree = DecisionTreeClassifier(max_depth=depth or None, class_weight=weight, random_state=0)
            said = tree.fit(codes_of(made, "train", task.name), y).predict(codes_of(made, "test", task.name))
            expected = recall_score(y_test, said, labels=np.unique(y_test), average="macro")
            name = f"{task.name}/codes@tree{'_12' if depth else ''}{end}"
            assert scores[name].value == pytest.approx(expected, abs=0.05)
            assert scores[name].metric == scores[name].rule == "macro_recall"


def test_the_readers_and_weights_are_in_the_names(world):
    made = coded(world, train=4, test=2)
    task = made.tasks[1:2]
    found = set(made.scores(Codewords(), task))
    ends = ("", "_balanced")
    expected = {f"common/{space}@{r}{end}" for space in ("ze", "zq") for r in ("svm", "rbf") for end in ends}
    expected |= {f"common/codes@tree{depth}{end}" for depth in ("", "_12") for end in ends}
    assert found == expected
    assert set(made.scores(Codewords(readers=("tree",), balanced=(True,), depths=(3,)), task)) == {
        "common/codes@tree_3_balanced"
    }
    assert set(made.scores(Codewords(readers=("svm",), balanced=(True,)), task)) == {
        "common/ze@svm_balanced", "common/zq@svm_balanced"
    }  # fmt: skip


def test_a_gaussian_kernel_by_hand():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(4, 3)), rng.normal(size=(5, 3))
    slow = np.exp(-0.3 * np.square(one[:, None] - other).sum(-1))
    np.testing.assert_allclose(gaussian(one, other, 0.3), slow, atol=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_machines_answer_by_products_of_matrices_as_they_do_themselves(classes):
    rng = np.random.default_rng(classes)
    x = rng.normal(size=(90, 3))
    y = 2 * (x @ rng.normal(size=(3, classes)) + rng.normal(size=(90, classes))).argmax(1)
    kernel, rows = gaussian(x, x, 0.5), np.sort(rng.choice(90, 70, replace=False))
    model = SVC(kernel="precomputed", C=2.0).fit(kernel[np.ix_(rows, rows)], y[rows])
    weights, intercepts = pairwise(model, rows, 90)
    said = model.classes_[winners(kernel @ weights + intercepts > 0, len(model.classes_))]
    np.testing.assert_array_equal(said, model.predict(kernel[:, rows]))


def test_a_method_without_codes_has_no_score_and_a_reason(world, caplog):
    made = world()
    with caplog.at_level(logging.WARNING):
        judge = made.judge(Codewords())
        assert judge.scores() == () and judge.describe() == {}
    said = [r.getMessage() for r in caplog.records]
    assert said == [
        "codewords: nothing is scored: recording 'r0' has no codes; this probe needs a method with a codebook"
    ]


def test_recordings_with_fewer_or_more_animals_are_read(world, caplog):
    made = coded(world)
    for place, animals in ((3, 1), (12, 3)):
        embedding, labels = made.shown[place]
        codes = np.concatenate([embedding.codes] * 2, axis=1)[:, :animals]
        made.shown[place] = replace(embedding, codes=codes), labels
    with caplog.at_level(logging.WARNING):
        assert made.scores(Codewords(readers=("tree",)))
    assert "recording 'r12': trees read the first 2 of its 3 animals" in caplog.text


def test_bad_embeddings_are_refused(world):
    for place, change in ((2, "nan"), (12, "nan"), (2, "codes")):
        made = coded(world)
        embedding, labels = made.shown[place]
        if change == "nan":
            embedding.spaces["zq"][1, 0] = np.inf
        else:
            made.shown[place] = replace(embedding, codes=embedding.codes[1:]), labels
        with pytest.raises(ProbeError, match=rf"recording 'r{place}': (space 'zq' is not finite|codes are)"):
            made.scores(Codewords())


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda split, y: np.full_like(y, np.nan), "training has no label"),
        (lambda split, y: y if split == "test" else 0 * y, "training has only class 0"),
        (lambda split, y: y if split == "train" else y * np.nan, "no test recording has a label"),
    ],
)
def test_a_task_that_cannot_be_scored_is_named_and_left_out(world, spoil, reason, caplog):
    made = coded(world, train=4, test=2)
    for embedding, labels in made.shown:
        labels["common"] = spoil(embedding.entry.split, labels["common"])
    with caplog.at_level(logging.WARNING):
        scores = made.scores(Codewords(), (made.tasks[1], made.tasks[-1]))
    assert {score.task for score in scores.values()} == {"strain"}
    assert "task 'common' has no score in " in caplog.text and reason in caplog.text


def test_one_positive_is_scored(world):
    made = coded(world, train=4, test=2)
    for embedding, labels in made.shown:
        labels["common"] *= 0
        labels["common"][5] = embedding.entry.name in ("r1", "r4")
    scores = made.scores(Codewords(), made.tasks[1:2])
    assert len(scores) == 12 and all(np.isfinite(s.value) for s in scores.values())


@pytest.mark.parametrize(
    "wrong",
    [
        {"readers": ("forest",)}, {"readers": ()}, {"balanced": ()}, {"depths": (-1,)}, {"penalty": 0.0}, {"rows": 0},
        {"every": -1.0},
    ],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(world, wrong):
    with pytest.raises(ValueError, match="codewords probe: "):
        Codewords(**wrong)
    with pytest.raises(SchemaError, match="'speed' is a regression"):
        world().scores(Codewords(tasks=("speed",)))


WORDS = np.array([[0, 0], [0, 0], [0, 0], [0, 1], [2, 1], [2, 1]])
"""Six windows, two groups of three codes: three codewords, used 3, 1 and 2 times."""


def counted(words, tasks=(), labels=None):
    usage = Usage(tasks)
    labels = np.empty((len(words), 0)) if labels is None else labels
    for part in np.array_split(np.arange(len(words)), 2):
        usage.add(words[part], labels[part])
    return usage


def test_statistics_by_hand():
    found = counted(WORDS).describe(3)
    assert (found["vectors"], found["codewords"], found["once"], found["more"]) == (6, 3, 1, 2)
    assert found["share_possible"] == 3 / 9 and found["share_seen"] == 3 / 6
    assert found["log10_possible"] == pytest.approx(math.log10(9))
    first = -(4 / 6 * math.log(4 / 6) + 2 / 6 * math.log(2 / 6))
    assert found["perplexity"] == pytest.approx([math.exp(first), 2.0])
    assert found["used"] == pytest.approx([2 / 3, 2 / 3])
    assert found["entropy"] == pytest.approx(-sum(p * math.log(p) for p in (1 / 2, 1 / 6, 1 / 3)))
    assert found["entropy_most"] == pytest.approx(math.log(6))
    assert found["skewness"] == pytest.approx(0)  # counts 1, 2, 3
    # pairs: (00, 01) agree in one of two groups, (00, 21) in none, (01, 21) in one
    assert found["similarity"]["all"] == pytest.approx(1 / 3)
    assert found["similarity"]["once"] is None and found["similarity"]["more"] == 0


def test_similarity_of_codewords_that_were_used_once_within_a_class():
    words = np.array([[0, 0], [0, 1], [1, 1], [2, 2], [2, 2]])
    labels = np.array([[0.0], [0.0], [1.0], [1.0], [np.nan]])
    task = Task("kind", "multiclass", classes=("attack", "other"))
    found = counted(words, (task,), labels).describe(3)
    assert found["similarity"]["once_in"] == {"kind": {"attack": 0.5, "other": None}}
    assert found["similarity"]["once"] == pytest.approx(1 / 3)


def test_statistics_equal_those_of_all_windows_at_once():
    rng = np.random.default_rng(0)
    words = np.minimum(rng.geometric(0.4, size=(500, 4)), 7) - 1
    found, whole = counted(words).describe(7), codebook.usage(words, 7)
    assert (found["codewords"], found["once"]) == (whole.distinct, whole.once)
    assert found["share_possible"] == whole.share_possible and found["share_seen"] == whole.share_seen
    np.testing.assert_allclose(found["perplexity"], whole.perplexity, rtol=1e-5)
    np.testing.assert_allclose(found["used"], whole.used)
    assert found["entropy"] == pytest.approx(whole.entropy)
    assert found["similarity"]["all"] == pytest.approx(whole.similarity)


def test_the_two_denominators_of_the_published_tables():
    """474 of 32² codewords are 46.28906 %; 2.56 million possible ones are more than were seen, so those are taken."""
    words = np.stack(np.unravel_index(np.arange(474), (32, 32)), axis=1)
    assert 100 * statistics(words, np.full(474, 100), 32)["share_possible"] == pytest.approx(46.28906, abs=5e-6)
    words = np.stack(np.unravel_index(np.arange(9918), (40,) * 4), axis=1)
    found = statistics(words, np.full(9918, 2), 40)
    assert 100 * found["share_possible"] == pytest.approx(0.38742, abs=5e-6)
    assert found["share_seen"] == 0.5
    enormous = statistics(np.zeros((1, 32), np.int32), np.array([5]), 120)
    assert enormous["log10_possible"] == pytest.approx(66.53, abs=0.01) and 0 < enormous["share_possible"] < 1e-60


def test_skewness_and_similarity_of_what_does_not_vary():
    assert skewness(np.array([3, 3, 3])) == 0
    assert skewness(np.array([1, 1, 1, 5])) == pytest.approx(2 / math.sqrt(3))
    assert similarity(np.array([[1, 2]])) is None
    assert similarity(np.array([[1, 2, 3], [1, 2, 4]])) == pytest.approx(2 / 3)
    assert Usage().describe(4) == {"vectors": 0}
    with pytest.raises(ValueError, match="codes are 0 to 1"):
        statistics(np.array([[2]]), np.array([1]), 2)


def test_absent_animals_and_windows_that_are_spread_over_frames_are_not_counted_twice(world):
    made = coded(world)
    judge = made.judge(Codewords(readers=("tree",)))
    frames = sum(e.entry.frames for e, _ in made.shown if e.entry.split == "test")
    assert judge.describe()["vectors"] == 2 * frames - 5
    assert judge.describe()["variables_known"] is False
    judge = Codewords(readers=("tree",)).judge(made_card(made), 0)
    judge.hop = 4
    for embedding, labels in made.shown:
        judge.see(embedding, labels)
    windows = sum(-(-e.entry.frames // 4) for e, _ in made.shown if e.entry.split == "test")
    assert judge.describe()["vectors"] == 2 * windows - 5


def made_card(made):
    from ethoray.schema import Card, Skeleton

    return Card("toy", "mouse", 30.0, Skeleton(("nose",)), made.tasks)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return toy_dataset(tmp_path_factory.mktemp("toy") / "toy")


@pytest.fixture(scope="module")
def tiny(toy):
    method = VQVAME(
        window=0.5, hop=0.2, crops=4, encoder="conv", hidden=8, quantiser="average", groups=2, variables=8, width=8,
        norm="layer",
    )  # fmt: skip
    budget = Budget(steps=6, log_every=3, save_every=3, device="cpu")
    return experiment.Experiment(Windows(toy.uri, seconds=4.0, batch_size=2), method, ALL, budget)


def test_a_run_with_every_probe_finishes_and_can_be_read_again(toy, tiny, tmp_path):
    assert record.from_json(json.loads(json.dumps(record.to_json(tiny)))) == tiny
    scores = experiment.run(tiny, tmp_path)
    assert experiment.run(tiny, tmp_path) == scores
    restored, encoder = experiment.restore(tmp_path)
    assert restored == tiny
    assert experiment.evaluate(restored, encoder, toy, tmp_path) == scores
    ends = {name.partition("@")[2] for name in scores}
    assert {
        "",
        "knn",
        "logistic",
        "1_recording",
        "all_recordings",
        "kmeans_nmi",
        "kmeans_ari",
        "svm",
        "rbf",
        "tree",
    } <= ends


def test_reconstruction_and_codebook_of_a_trained_encoder(toy, tiny, tmp_path):
    experiment.run(replace(tiny, probes=()), tmp_path)
    _, encoder = experiment.restore(tmp_path)
    judge = Codewords(readers=("tree",)).judge(toy.card, 0)
    judge.meet(encoder, toy)
    entries = [e for split in ("train", "test") for e in toy.select(split)]
    for item in embed(encoder, toy, entries):
        judge.see(item, toy.labels(item.entry))
    scores = {s.name: s for s in judge.scores()}
    told, truth = [], []
    for entry in toy.select("test"):
        x = toy.keypoints(entry)
        batch = torch.as_tensor(x)[None]
        y = encoder.reconstruct(Batch(batch, torch.isfinite(batch).all(-1).any(-1), entry.fps))[0].numpy()
        known = np.isfinite(x).all(-1) & np.isfinite(y).all(-1)
        told.append(np.where(known[..., None], y, np.nan).reshape(-1, x[0, 0].size))
        truth.append(np.where(known[..., None], x, np.nan).reshape(-1, x[0, 0].size))
    told, truth = np.concatenate(told), np.concatenate(truth)
    square = np.nansum((told - truth) ** 2)
    r2 = scores["reconstruction/zq@r2"]
    rmse = scores["reconstruction/zq@rmse"]
    assert rmse.value == pytest.approx(np.sqrt(square / (np.isfinite(truth).sum() / 2)), rel=1e-4)
    about = np.nansum((truth - np.nanmean(truth, axis=0)) ** 2)
    assert r2.value == pytest.approx(1 - square / about, rel=1e-4)
    if np.isfinite(truth).all():
        assert r2.value == pytest.approx(r2_score(truth, told, multioutput="variance_weighted"), rel=1e-4)
    assert r2.recordings == len(toy.select("test")) and r2.low <= r2.value <= r2.high
    described = judge.describe()
    assert described["variables_known"] and described["variables"] == 8 and described["groups"] == 2
    assert 0 < described["share_possible"] <= described["share_seen"] <= 1
    json.dumps(described, allow_nan=False)
    whole = Fidelity(encoder, toy, chunk=10)
    for entry in toy.select("test"):
        whole.examine(entry)
    assert whole.scores("zq", 0)[1].value == pytest.approx(rmse.value, rel=1e-5)


def test_an_embedding_of_another_kind_is_refused(world):
    made = coded(world)
    entry = made.shown[1][0].entry
    made.shown[1] = Embedding(entry, {"ze": np.zeros((entry.frames, 6))}, made.shown[1][0].codes), made.shown[1][1]
    with pytest.raises(ProbeError, match="same spaces"):
        made.scores(Codewords())


def test_descriptions_lie_beside_the_scores(toy, tiny, tmp_path):
    scores = experiment.run(tiny, tmp_path)
    described = json.loads((tmp_path / "descriptions.json").read_text())
    assert set(described) == {"few_labels", "codewords", "clusters"}
    assert described["codewords"]["variables_known"] and described["codewords"]["variables"] == 8
    assert {"reconstruction/zq@r2", "reconstruction/zq@rmse"} <= set(scores)
    with pytest.raises(ProbeError, match="two probes score 'lively/all@knn'"):
        experiment.run(replace(tiny, probes=(KNN(k=1), KNN(k=2))), tmp_path / "twice")
