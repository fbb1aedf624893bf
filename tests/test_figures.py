"""Figures are drawn without a screen and say what they show."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ethoray import embedding, figures
from ethoray.embedding import Embedding
from ethoray.figures import OKABE_ITO, FigureError, score_against, score_by, whole
from ethoray.figures.behaviour import shares
from ethoray.figures.inside import frequencies, perplexity
from ethoray.figures.spaces import ordered
from ethoray.schema import Skeleton


def toy_scores() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for reach in (2.0, 5.4, 11.4, 45.5):
        for seed in range(3):
            for space in ("all", "long", "short"):
                for task, level in (("chase", "frame"), ("huddle", "frame"), ("strain", "recording")):
                    gain = 0.08 * np.log(reach) * (level == "recording") * (space != "short")
                    value = 0.5 + gain + rng.normal(0, 0.02)
                    rows.append(
                        {"seed": seed, "reach": reach, "space": space, "task": task, "level": level, "metric": "f1",
                         "value": value, "low": value - 0.03, "high": value + 0.03}
                    )  # fmt: skip
    return pd.DataFrame(rows)


def test_a_figure_is_written_as_svg_and_png_with_words_one_can_search(tmp_path):
    svg, png = score_against(toy_scores(), lambda run: run["reach"], "memory (s)", tmp_path / "new" / "memory")
    text = svg.read_text()
    assert "memory (s)" in text and "frame-level: 2 tasks" in text and "recording-level: 1 task" in text
    assert all(colour.lower() in text.lower() for colour in OKABE_ITO[:3])
    assert png.read_bytes().startswith(b"\x89PNG")


def test_tasks_without_a_level_share_a_panel(tmp_path):
    svg, _ = score_against(toy_scores().assign(level=None), lambda run: run["reach"], "s", tmp_path / "memory")
    assert "all: 3 tasks" in svg.read_text()


def methods_scores(metric: str) -> pd.DataFrame:
    """Three methods and seeds; "two" has two spaces and all of them, "one" and "other" a single one each."""
    rng = np.random.default_rng(0)
    worth = {("two", "all"): 0.6, ("two", "short"): 0.1, ("two", "long"): 0.95, ("one", "z"): 0.8, ("other", "y"): 0.4}
    rows = []
    for (method, space), base in worth.items():
        for seed in range(3):
            for task in ("chase", "huddle"):
                value = base + rng.normal(0, 0.01)
                rows.append(
                    {"key": f"{method}{seed}", "seed": seed, "method": method, "space": space, "task": task,
                     "level": "frame", "metric": metric, "value": value, "low": value - 0.03, "high": value + 0.03}
                )  # fmt: skip
    return pd.DataFrame(rows)


def test_a_figure_of_methods_is_written_as_svg_and_png(tmp_path):
    svg, png = score_by(methods_scores("f1"), "method", tmp_path / "new" / "methods")
    text = svg.read_text()
    assert all(word in text for word in ("two", "one", "other", "frame-level: 2 tasks", "F1"))
    assert png.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("metric", "best_first"), [("f1", ["one", "two", "other"]), ("mse", ["other", "two", "one"])])
def test_the_best_method_is_on_top(metric, best_first, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures.scores, "save", lambda figure, path: drawn.append(figure) or [])
    score_by(methods_scores(metric), "method", tmp_path / "methods")
    (ax,) = drawn[0].axes
    heights = {label.get_text(): place for place, label in zip(ax.get_yticks(), ax.get_yticklabels(), strict=True)}
    assert sorted(heights, key=heights.get, reverse=True) == best_first
    assert not ax.yaxis_inverted()
    shown = np.sort(
        [c[0] for dots in ax.collections for c in np.ma.filled(dots.get_offsets()) if len(dots.get_offsets()) == 3]
    )
    assert len(shown) == 9 and np.allclose(shown.reshape(3, 3).mean(1), [0.4, 0.6, 0.8], atol=0.03)


def test_levels_and_metrics_have_panels_of_their_own(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures.scores, "save", lambda figure, path: drawn.append(figure) or [])
    both = pd.concat([methods_scores("f1"), methods_scores("mse").assign(level="recording")])
    score_by(both, "method", tmp_path / "methods")
    assert [ax.get_xlabel() for ax in drawn[0].axes] == ["F1", "mean squared error (lower is better)"]


def test_methods_are_compared_by_all_their_spaces_or_their_only_one():
    spaces = {"b": ("short", "long", "all", "all@knn"), "p": ("pca", "pca@knn")}
    scores = pd.DataFrame([{"key": key, "space": space} for key, mine in spaces.items() for space in mine])
    assert [*whole(scores)["space"]] == ["all", "all@knn", "pca", "pca@knn"]


def test_lines_may_be_methods(tmp_path):
    scores = toy_scores().assign(method="bams", key="k")
    svg, _ = score_against(scores, lambda run: run["reach"], "reach (s)", tmp_path / "reach", line="method")
    assert ">bams<" in svg.read_text() and ">long<" not in svg.read_text()


EVIL = "_<script>&$_{1}$"


def png(path):
    import matplotlib.image

    return matplotlib.image.imread(path)


def everything(folder, rng):
    """Every function once, with names that would break a page, a legend or TeX."""
    words = rng.integers(0, 3, (200, 2))
    xy = rng.normal(size=(50, 2))
    label, time = rng.integers(0, 2, 50).astype(float), np.arange(50.0)
    label[:5] = np.nan
    tracks = {EVIL: {"labelled": label, "predicted": 1 - label}, "kind": {"labelled": rng.integers(0, 3, 50)}}
    told, true = rng.dirichlet(np.ones(4), (3, 2)), rng.dirichlet(np.ones(4), (3, 2))
    true[0, 0] = np.nan
    trials = pd.DataFrame(
        {"lr": 10.0 ** rng.integers(-4, 0, 20), "kind": [EVIL, "b"] * 10, "on": [True, False] * 10, "n": range(20),
         "f1": rng.random(20)}
    )  # fmt: skip
    budget = methods_scores("f1").assign(budget=lambda t: 10 * (t["seed"] + 1), method=EVIL)
    points = rng.normal(size=(3, 2, 4, 2)).cumsum(0)
    points[0, 0, 0] = np.nan
    bones = Skeleton(("a", "b", "c", EVIL.replace("_", "")), ((0, 1), (1, 2), (2, 3)))
    yield figures.scatter(xy, {EVIL: (label, ["no", EVIL]), "time": (time, None)}, folder / "map")
    yield figures.strips(
        {EVIL: rng.normal(size=(50, 6)), "long": rng.normal(size=(50, 3))}, 30.0, folder / "strips", label
    )
    yield figures.ethogram(tracks, 30.0, folder / "ethogram", {"kind": ("a", EVIL, "c")})
    yield figures.confusions({EVIL: (np.array([[3, 1], [0, 0]]), ("no", EVIL))}, folder / "confusion")
    yield figures.forecast(told, true, np.array([[0, 1, 2.0]] * 2), [EVIL, "b"], [0.5, 1, 2], folder / "forecast")
    yield figures.codebook(np.array([[3, 0, 1], [0, 0, 9]]), folder / "codes")
    yield figures.rank_frequency({EVIL: words, "none": words[:0]}, folder / "ranks")
    yield figures.poses({EVIL: [points, points]}, bones, folder / "poses")
    yield figures.learning_curves({f"{EVIL}/0": [{"step": 1, "loss": 9.0}, {"step": 2, "loss": 0.1}]}, folder / "loss")
    yield figures.parallel(trials, ["lr", "kind", "on", "n"], "f1", folder / "parallel")
    yield figures.importances(trials, ["lr", "kind", "on", "n"], "f1", folder / "importances")
    yield figures.pareto([EVIL, "b", "free"], [10.0, 100.0, np.nan], [2.0, 1.0, 3.0], "s", folder / "pareto")
    yield figures.label_budget(budget, folder / "budget")


def test_every_figure_is_drawn_whatever_the_names(tmp_path):
    for files in everything(tmp_path, np.random.default_rng(0)):
        svg, drawn = files
        assert svg.suffix == ".svg" and "<script" not in svg.read_text() and "mathdefault" not in svg.read_text()
        assert png(drawn)[..., :3].std() > 0.01, f"{drawn.name} is empty"


def test_a_figure_is_the_same_when_drawn_again(tmp_path):
    for name in ("a", "b"):
        for _ in zip(range(3), everything(tmp_path / name, np.random.default_rng(0)), strict=False):
            pass
    first, second = (sorted((tmp_path / name).iterdir()) for name in ("a", "b"))
    assert len(first) >= 6
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name
        assert b"<dc:date>" not in one.read_bytes()


def test_a_plane_is_that_of_the_two_largest_variances():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 4)) * [5, 0.1, 2, 0.0] + 7
    xy = figures.plane(x)
    assert np.abs(np.corrcoef(xy[:, 0], x[:, 0])[0, 1]) > 0.99 and np.abs(np.corrcoef(xy[:, 1], x[:, 2])[0, 1]) > 0.99
    assert np.allclose(figures.plane(-x), -xy)
    assert figures.plane(np.ones((3, 1))).tolist() == [[0, 0]] * 3


@pytest.mark.filterwarnings("ignore")  # what it says about packages it would like to have
def test_umap_keeps_clusters_apart_and_draws_the_same_again():
    pytest.importorskip("umap", reason="the extra viz is not installed")
    x = np.concatenate([np.random.default_rng(k).normal(4 * k, 0.3, (100, 16)) for k in range(3)])
    xy = figures.plane(x, "umap", seed=1)
    assert xy.shape == (300, 2) and np.array_equal(xy, figures.plane(x, "umap", seed=1))
    centres = xy.reshape(3, 100, 2).mean(1)
    nearest = np.linalg.norm(xy[:, None] - centres, axis=2).argmin(1)
    assert (nearest == np.repeat(range(3), 100)).all()


def test_a_plane_refuses_what_it_cannot_do():
    with pytest.raises(FigureError, match="missing values"):
        figures.plane(np.full((3, 2), np.nan))
    with pytest.raises(FigureError, match="pca or umap"):
        figures.plane(np.ones((3, 2)), "tsne")


def test_bouts_are_runs_of_equal_values_and_unlabelled_frames_are_gaps():
    assert figures.bouts(np.array([0, 0, 2, np.nan, np.nan, 2, 1])) == [(0, 2, 0), (2, 3, 2), (5, 6, 2), (6, 7, 1)]
    assert figures.bouts(np.array([])) == []


def test_a_class_that_never_occurs_has_no_share():
    share = shares(np.array([[3, 1], [0, 0]]))
    assert share[0].tolist() == [0.75, 0.25] and np.isnan(share[1]).all()


def test_features_are_ordered_from_quick_to_slow():
    t = np.arange(200.0)
    z = ordered(np.stack([np.sin(t / 40), np.ones(200), 100 * np.sin(t)], 1))
    assert np.allclose(z.std(0), [1, 1, 0]) and np.abs(np.diff(z[:, 0])).mean() > np.abs(np.diff(z[:, 1])).mean()


def test_codewords_are_counted_as_whole_rows():
    assert frequencies(np.array([[1, 2], [2, 1], [1, 2], [0, 0], [1, 2]])).tolist() == [3, 1, 1]
    assert perplexity(np.array([0.25] * 4)) == pytest.approx(4) and perplexity(np.array([1.0, 0])) == 1


def test_a_setting_that_decides_everything_explains_everything():
    trials = pd.DataFrame({"a": [1, 1, 2, 2] * 5, "b": [1, 2] * 10, "f1": [0.2, 0.2, 0.8, 0.8] * 5})
    found = figures.explained(trials, ["a", "b"], "f1")
    assert found["a"][0] == pytest.approx(1) and found["b"][0] == pytest.approx(0) and 0 < found["b"][1] < 0.5
    by_hand = pd.DataFrame({"a": list("xxyy"), "f1": [0.0, 2, 2, 4]})  # between 4 of 8
    assert figures.explained(by_hand, ["a"], "f1")["a"][0] == pytest.approx(0.5)


def test_what_cannot_be_drawn_is_said(tmp_path):
    with pytest.raises(FigureError, match="at least one track"):
        figures.ethogram({}, 30.0, tmp_path / "x")
    with pytest.raises(FigureError, match="wrote metrics"):
        figures.learning_curves({}, tmp_path / "x")
    with pytest.raises(FigureError, match="trials with a score"):
        figures.parallel(pd.DataFrame({"f1": [np.nan]}), ["f1"], "f1", tmp_path / "x")
    with pytest.raises(FigureError, match="not \\(moment, quantity, bin\\)"):
        figures.forecast(np.ones((1, 1, 3)), np.ones((1, 1, 4)), np.ones((1, 2)), ["a"], [1.0], tmp_path / "x")


def test_the_use_of_codebooks_is_counted_over_test_recordings(tmp_path, toy):
    entry = next(e for e in toy.entries if e.split == "test")
    other = next(e for e in toy.entries if e.split == "train")
    here = np.array([[0, 1], [0, 1], [3, 2], [-1, -1]])  # one animal is gone in the last frame
    rows = []
    for seed, codes in enumerate((here, np.array([[1, 1], [0, 1], [3, 2], [2, 2]]))):
        folder = tmp_path / str(seed)
        spaces = {"zq": np.zeros((4, 1), np.float32)}
        found = [Embedding(replace(e, frames=4, individuals=("a",)), spaces, codes[:, None]) for e in (entry, other)]
        assert len(list(embedding.write(found, folder / "embeddings", every=0))) == 2
        rows.append({"folder": str(folder), "seed": seed, "method.groups": 2, "method.variables": 4})
    svg, png, raw = figures.codebook_usage(pd.DataFrame(rows), tmp_path / "usage")
    assert "used exactly once" in svg.read_text() and png.exists()
    table = pd.read_csv(raw)
    assert list(table["windows"]) == [3, 4] and list(table["codewords"]) == [2, 4]
    assert list(table["once"]) == [0.5, 1.0] and list(table["share_seen"]) == [2 / 3, 1.0]
    assert table["perplexity"][1] == pytest.approx((4 + 2) / 2) and list(table["skewness"]) == [0.0, 0.0]
    plain = tmp_path / "plain"
    for _ in embedding.write([replace(found[0], codes=None)], plain / "embeddings", every=0):
        pass
    with pytest.raises(FigureError, match="none of 1 runs stored codewords"):
        figures.codebook_usage(pd.DataFrame([{**rows[0], "folder": str(plain)}]), tmp_path / "usage")
