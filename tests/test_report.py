"""A page says what the paired tests say, escapes what it was given, and knows when it is stale."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ethoray import figures, store
from ethoray.comparison import Difference
from ethoray.leaderboard import collect
from ethoray.report import check, page, stamp
from ethoray.report.again import Made, Memo, PageError, overview, rewrite, summary
from ethoray.report.html import paragraphs
from ethoray.report.verdict import doubts, verdict
from ethoray.schema import Card, Skeleton, Task
from ethoray.tables import Cell, Leaderboard
from ethoray.testing.toy import toy_card, toy_recordings

EVIL = "<script>alert('x')</script>&\"$_{1}$"


def row(method, values, rank, *, ties=(), against=(), seeds=3, notes="", folders=()):
    """A row of a leaderboard; ``values`` by score, ``against`` the scores with a paired test."""
    return {
        "method": method, "settings": {}, "seeds": seeds, "rank": rank, "notes": notes, "folders": list(folders),
        "cells": {s: Cell(v, v - 0.1, v + 0.1, seeds) for s, v in values.items()},
        "ties": set(ties), "against": {s: (Difference(-0.1, -0.2, 0.0, 0.01), 0.02) for s in against},
        "place": {}, "names": {}, "cost": {}, "monitors": {}, "pareto": True,
    }  # fmt: skip


def board(*rows) -> Leaderboard:
    scores = tuple(dict.fromkeys(s for r in rows for s in r["cells"]))
    for score in scores:
        worth = sorted((r for r in rows if score in r["cells"]), key=lambda r: -r["cells"][score].value)
        for place, r in enumerate(worth, 1):
            r["place"][score] = float(place)
    return Leaderboard((), scores, tuple(rows))


def test_the_verdict_counts_best_even_and_beaten():
    one = row("bams", {"a/all": 0.9, "b/all": 0.8, "c/all": 0.5, "d/all": 0.1}, 1.5,
              ties=["a/all", "b/all", "c/all"], against=["c/all", "d/all"])  # fmt: skip
    two = row("pca", {"a/all": 0.2, "b/all": 0.7, "c/all": 0.6, "d/all": 0.9}, 1.6,
              ties=["b/all", "c/all", "d/all"], against=["a/all", "b/all"])  # fmt: skip
    assert verdict(board(one, two)) == (
        "Paired over test recordings (3 seeds, 5 % after Holm), bams is best in 2 of 4 scores, 1 of them clearly, "
        "and not worse than the best in 1 more; it is beaten in 1: d (by pca)."
    )


def test_the_verdict_says_over_how_many_recordings(tmp_path):
    (tmp_path / "scores.json").write_text(json.dumps({"recordings": {"a/all": 160}}))
    one = row("bams", {"a/all": 0.9}, 1.0, ties=["a/all"], folders=[tmp_path])
    two = row("pca", {"a/all": 0.2}, 2.0, against=["a/all"], seeds=2)
    assert verdict(board(one, two)) == (
        "Paired over 160 test recordings (2 to 3 seeds, 5 % after Holm), bams is best in 1 of 1 score."
    )


def test_without_a_test_nothing_is_called_significant():
    one, two = row("bams", {"a/all": 0.9}, 1.0, ties=["a/all"]), row("pca", {"a/all": 0.2}, 2.0)
    assert "no difference was tested" in verdict(board(one, two))
    assert verdict(board(one)) == "Only bams was run: its 1 score stand alone."
    assert "No run has a score" in verdict(Leaderboard((), (), ()))


def test_doubts_are_gathered():
    one = row("bams", {"a/all": 0.9}, 1.0, notes="only 2 seeds, uncommitted changes")
    two = row("pca", {"a/all": 0.2}, 2.0, notes="uncommitted changes")
    assert doubts(board(one, two)) == ["only 2 seeds: bams", "uncommitted changes: every row"]


def scores() -> pd.DataFrame:
    rows = []
    for method, worth in (("bams", 0.6), ("pca", 0.4), (EVIL, 0.5)):
        for seed in range(3):
            for task in ("chase", EVIL):
                value = worth + 0.01 * seed
                rows.append(
                    {"key": f"{method[:4]}{seed}", "seed": seed, "method": method, "score": f"{task}/z", "task": task,
                     "space": "z", "metric": "f1", "level": "frame", "value": value, "low": value - 0.1,
                     "high": value + 0.1, "commit": "c0ffee", "dirty": False, "folder": f"/nowhere/{method}{seed}",
                     "cost": {"train_seconds": 1.0 + seed}, "monitors": {}}
                )  # fmt: skip
    return pd.DataFrame(rows)


def card() -> Card:
    evil = Skeleton((EVIL.replace('"', "'"), "tail"), ((0, 1),))
    return Card("toy", EVIL, 30.0, evil, (Task("chase"),), description=EVIL, notes=(EVIL,), citation=EVIL)


def written(tmp_path, **changes):
    folder = tmp_path / "page"
    files = page(folder, EVIL, f"Why?\n\n{EVIL}", scores(), card(), ["ethoray", "report", EVIL], **changes)
    return folder, {f.name: f for f in files}


def test_everything_is_escaped_and_nothing_is_loaded(tmp_path):
    _, files = written(tmp_path)
    text = files["leaderboard.html"].read_text()
    assert "<script" not in text and "&lt;script&gt;" in text
    assert "default-src 'none'" in text and "script-src" not in text  # without moments no script may run
    assert not re.search(r"(src|href)=\"(?!data:|#row-\d)", text) and "http:" not in text and "https:" not in text
    assert "not say where their dataset is" in text


def test_a_page_is_the_same_when_made_again(tmp_path):
    _, first = written(tmp_path / "a")
    _, second = written(tmp_path / "b")
    assert first.keys() == second.keys()
    assert all(first[name].read_bytes() == second[name].read_bytes() for name in first)
    assert {"leaderboard.md", "leaderboard.csv", "scores.csv", "leaderboard.html", "pareto.svg"} <= first.keys()


def test_scores_lie_beside_the_page_for_pandas(tmp_path):
    _, files = written(tmp_path, look=False)
    table = pd.read_csv(files["scores.csv"])
    assert table.groupby("method")["value"].mean()["bams"] == pytest.approx(0.61)
    assert len(table) == 18 and "folder" not in table


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda f: f["leaderboard.html"].write_text(f["leaderboard.html"].read_text().replace("Why?", "So!")),
            "edited",
        ),
        (lambda f: f["scores.csv"].write_text(f["scores.csv"].read_text().replace("0.61", "0.99")), "other scores"),
        (lambda f: f["scores.csv"].unlink(), "no scores.csv"),
        (lambda f: f["leaderboard.html"].write_text("<p>mine</p>"), "no stamp"),
    ],
)
def test_a_stale_page_is_found(change, reason, tmp_path, capsys):
    folder, files = written(tmp_path, look=False)
    assert check.main([str(folder)]) == 0
    change(files)
    assert check.main([str(folder)]) == 1
    told = capsys.readouterr().out
    assert reason in told and "run make report" in told


def test_a_page_of_an_earlier_version_is_stale(tmp_path, monkeypatch):
    folder, _ = written(tmp_path, look=False)
    monkeypatch.setattr(stamp, "VERSION", stamp.VERSION + 1)
    (line,) = stamp.check(folder)
    assert f"written by version {stamp.VERSION - 1}" in line


def test_a_folder_that_is_not_there_is_said(tmp_path, capsys):
    assert check.main([str(tmp_path / "none")]) == 2 and "no such folder" in capsys.readouterr().err


def test_runs_become_a_page_with_costs_and_doubts(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    document = {"method": {"name": "pca"}, "data": {}, "budget": {}, "seed": 0}
    told = {"scores": {"chase/z": 0.5}, "intervals": {"chase/z": [0.4, 0.6]}, "tasks": {}, "cost": {"parameters": 12}}
    (folder / "experiment.json").write_text(json.dumps(document))
    (folder / "scores.json").write_text(json.dumps(told))
    (folder / "provenance.json").write_text(json.dumps({"commit": "c0ffee", "dirty": True, "dataset": {
        "name": "gone", "uri": str(tmp_path / "gone"), "key": "1"}}))  # fmt: skip
    page(tmp_path / "out", "t", "q", collect([folder], card()), card(), ["ethoray", "report"])
    text = (tmp_path / "out" / "leaderboard.html").read_text()
    assert "only 1 seed" in text and "with uncommitted changes" in text and ">12<" in text
    assert "is not where the runs found it" in text and str(tmp_path) not in text


def test_colours_of_a_page_are_those_of_its_figures():
    from importlib.resources import files

    script = (files("ethoray.report") / "page.js").read_text()
    assert all(colour in script for colour in figures.OKABE_ITO)
    assert "fetch" not in script and "innerHTML" not in script and "http" not in script
    assert np.isfinite(stamp.VERSION)


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
        runs = {f"{name}{method}{seed}": "" for method in ("bams", "pca") for seed in range(3)}
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
    memo = json.loads((storage / "all_methods" / "two" / "page.json").read_text())
    outside = (json.dumps({**memo, "pictures": ["../a.svg"]}), json.dumps({**memo, "runs": {"../one": ""}}))
    for nonsense in ("[]", "{}", '{"runs": ["one"]}', *outside):
        (storage / "all_methods" / "one" / "page.json").write_text(nonsense)
        with pytest.raises(PageError, match="not the memo of a page"):
            list(rewrite(storage, tmp_path))


def test_rows_are_called_what_their_sweep_drew(storage, tmp_path):
    path = storage / "all_methods" / "one" / "page.json"
    memo = Memo.read(path)
    replace(memo, runs={key: "no bootstrap" if "bams" in key else "" for key in memo.runs}).write(path.parent)
    list(rewrite(storage, tmp_path))
    text = (tmp_path / "all_methods.md").read_text()
    assert "| bams (no bootstrap) | 1 of 1" in text
    assert "bams (no bootstrap)" in (tmp_path / "all_methods" / "one" / "leaderboard.html").read_text()


def test_a_question_keeps_its_commands_on_lines_of_their_own():
    told = paragraphs("Which <one>?\n\n    python a.py\n    python b.py\n\nOr none.\n")
    assert told == ["<p>Which &lt;one&gt;?</p>", "<pre>python a.py\npython b.py</pre>", "<p>Or none.</p>"]


def test_the_summary_counts_best_and_ties():
    one = row("bams", {"a/all": 0.9, "b/all": 0.8}, 1.0, ties=["a/all"])
    two = row("<i>", {"a/all": 0.2, "b/all": 0.9}, 2.0, ties=["a/all", "b/all"])
    found = summary({"mice": board(one, two)}).set_index("candidate")
    assert found.loc["<i>", "best"] == 2 and found.loc["bams", "best"] == 1 and np.all(found["scores"] == 2)


def test_names_are_escaped_in_an_overview(tmp_path):
    evil = "<script>alert(1)</script>"
    one, two = row(evil, {"a/all": 0.9}, 1.0, ties=["a/all"]), row("pca", {"a/all": 0.2}, 2.0)
    made = Made(Memo("t", evil, "mice", {}, (evil,)), board(one, two), toy_card(), ())
    files = {p.suffix: p for p in overview(tmp_path, "t", [made])}
    assert "<script" not in files[".html"].read_text() and "&lt;script&gt;" in files[".html"].read_text()
