"""Figures are drawn without a screen and say what they show."""

import numpy as np
import pandas as pd

from ethoray.figures import OKABE_ITO, score_against


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
