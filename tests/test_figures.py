"""Figures are drawn without a screen and say what they show."""

import numpy as np
import pandas as pd
import pytest

from ethoray import figures
from ethoray.figures import OKABE_ITO, score_against, score_by


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
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.append(figure) or [])
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
    monkeypatch.setattr(figures, "_save", lambda figure, path: drawn.append(figure) or [])
    both = pd.concat([methods_scores("f1"), methods_scores("mse").assign(level="recording")])
    score_by(both, "method", tmp_path / "methods")
    assert [ax.get_xlabel() for ax in drawn[0].axes] == ["F1", "mean squared error (lower is better)"]
