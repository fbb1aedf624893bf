"""Sweeps' pages are written again from their memos, and one page tells what holds over several datasets."""

import json

import numpy as np
import pandas as pd
import pytest
from test_report import board, row

from ethoray import store
from ethoray.report import check
from ethoray.report.again import Memo, PageError, overview, rewrite, summary
from ethoray.testing.toy import toy_card, toy_recordings


def run(storage, name, method, seed, value, dataset):
    """A finished run folder with one score."""
    folder = storage / name
    folder.mkdir(parents=True)
    files = {
        "experiment.json": {"method": {"name": method}, "data": {}, "budget": {}, "seed": seed},
        "scores.json": {
            "scores": {"groom/z": value}, "intervals": {"groom/z": [value - 0.1, value + 0.1]}, "tasks": {}, "cost": {},
        },
        "provenance.json": {
            "commit": "c0ffee", "dirty": False, "dataset": {"name": "toy", "uri": dataset.uri, "key": dataset.key},
        },
    }  # fmt: skip
    for file, document in files.items():
        (folder / file).write_text(json.dumps(document))


@pytest.fixture
def storage(tmp_path):
    place = tmp_path / "runs"
    for name in ("one", "two"):
        dataset = store.prepare(toy_card(), toy_recordings(3, seconds=4), tmp_path / name)
        for seed in range(3):
            for method, value in (("bams", 0.8), ("pca", 0.3)):
                run(place, f"{name}{method}{seed}", method, seed, value + 0.01 * seed, dataset)
        runs = tuple(f"{name}{method}{seed}" for method in ("bams", "pca") for seed in range(3))
        memo = Memo(
            "all_methods", "Which?\n\nAnd why?", name, runs, ("python", "sweep.py", "--dataset", name), ("a.svg",)
        )
        memo.write(place / "all_methods" / name)
        (place / "all_methods" / name / "a.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
        memo.write(place / "all_methods-smoke" / name)
    return place


def test_pages_come_back_with_their_pictures_and_an_overview(storage, tmp_path):
    out = tmp_path / "reports"
    files = list(rewrite(storage, out))
    assert all(path.exists() for path in files)
    assert {p.relative_to(out).parts[0] for p in files} == {
        "all_methods", "all_methods.md", "all_methods.html", "all_methods.csv",
    }  # fmt: skip
    assert (out / "all_methods" / "one" / "a.svg").exists()
    text = (out / "all_methods.md").read_text()
    assert "**On one**" in text and "| bams | 1 of 1, place 1.0 | 1 of 1, place 1.0 | 2 of 2 |" in text
    assert text.index("| bams") < text.index("| pca") and "(all_methods/two/leaderboard.md)" in text
    assert "    python sweep.py --dataset two" in text
    assert check.main([str(out)]) == 0
    before = {path: path.read_bytes() for path in files}
    assert {path: path.read_bytes() for path in rewrite(storage, out, "all_methods")} == before


def test_an_overview_that_was_edited_is_stale(storage, tmp_path, capsys):
    list(rewrite(storage, tmp_path / "reports"))
    page = tmp_path / "reports" / "all_methods.html"
    page.write_text(page.read_text().replace("2 of 2", "3 of 2"))
    assert check.main([str(tmp_path / "reports")]) == 1 and "edited" in capsys.readouterr().out
    list(rewrite(storage, tmp_path / "reports"))
    (tmp_path / "reports" / "all_methods.csv").write_text("candidate\n")
    assert (
        check.main([str(tmp_path / "reports")]) == 1
        and "other scores than the all_methods.csv" in capsys.readouterr().out
    )


def test_what_cannot_be_made_again_is_said(storage, tmp_path):
    with pytest.raises(PageError, match="no sweep nobody has a page"):
        list(rewrite(storage, tmp_path, "nobody"))
    for path in storage.glob("onebams*/scores.json"):
        path.unlink()
    assert len(pd.read_csv(next(p for p in rewrite(storage, tmp_path) if p.name == "scores.csv"))) == 3
    for path in storage.glob("onepca*/scores.json"):
        path.unlink()
    with pytest.raises(PageError, match="none of its 6 runs is finished"):
        list(rewrite(storage, tmp_path))
    (storage / "all_methods" / "one" / "page.json").write_text("[]")
    with pytest.raises(PageError, match="not the memo of a page"):
        list(rewrite(storage, tmp_path))


def test_the_summary_counts_best_and_ties():
    one = row("bams", {"a/all": 0.9, "b/all": 0.8}, 1.0, ties=["a/all"])
    two = row("<i>", {"a/all": 0.2, "b/all": 0.9}, 2.0, ties=["a/all", "b/all"])
    found = summary({"mice": board(one, two)}).set_index("candidate")
    assert found.loc["<i>", "best"] == 2 and found.loc["bams", "best"] == 1 and np.all(found["scores"] == 2)


def test_names_are_escaped_in_an_overview(tmp_path):
    from ethoray.report.again import Made

    evil = "<script>alert(1)</script>"
    one, two = row(evil, {"a/all": 0.9}, 1.0, ties=["a/all"]), row("pca", {"a/all": 0.2}, 2.0)
    made = Made(Memo("t", evil, "mice", (), (evil,)), board(one, two), toy_card(), ())
    files = {p.suffix: p for p in overview(tmp_path, "t", [made])}
    assert "<script" not in files[".html"].read_text() and "&lt;script&gt;" in files[".html"].read_text()
