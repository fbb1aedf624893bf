"""Many runs become one table that says how sure it is."""

import json

import numpy as np
import pandas as pd
import pytest

from ethoray import tallies
from ethoray.leaderboard import collect, leaderboard
from ethoray.probes import Score
from ethoray.tables import combine


def run_folder(root, key, seed, scores, *, kernel=3, dirty=False, intervals=None, monitors=None, budget=None):
    folder = root / key
    folder.mkdir(parents=True)
    document = {
        "method": {"name": "bams", "kernel": kernel, "long_channels": [64, 32]},
        "data": {"dataset": "/somewhere", "seconds": 60.0},
        "budget": {"steps": 10, **(budget or {})},
        "seed": seed,
    }
    tasks = {n: {"task": n.split("/")[0], "space": n.split("/")[1], "metric": "f1"} for n in scores}
    if "pose/long" in tasks:
        tasks["pose/long"]["metric"] = "mse"
    intervals = intervals or {n: [v - 0.05, v + 0.05] for n, v in scores.items()}
    (folder / "experiment.json").write_text(json.dumps(document))
    (folder / "provenance.json").write_text(json.dumps({"commit": "c0ffee", "dirty": dirty}))
    told = {"scores": scores, "intervals": intervals, "tasks": tasks, "cost": {"train_seconds": 1}}
    if monitors is not None:
        told["monitors"] = monitors
    (folder / "scores.json").write_text(json.dumps(told))
    return folder


def test_one_seed_has_the_interval_of_its_recordings():
    cell = combine([0.7], [0.6], [0.8])
    assert (cell.value, cell.seeds) == (0.7, 1)
    assert (cell.low, cell.high) == pytest.approx((0.6, 0.8))


def test_three_seeds_add_their_spread_to_the_doubt_about_recordings():
    cell = combine([0.6, 0.7, 0.8], [0.5, 0.6, 0.7], [0.7, 0.8, 0.9])
    between = 4.302652729696142 * 0.1 / np.sqrt(3)  # t at 0.975 with two degrees of freedom
    assert cell.high - cell.value == pytest.approx(np.hypot(between, 0.1))


def test_an_interval_stays_within_the_range_of_its_metric():
    cell = combine([0.9], [0.6], [1.2], "f1")
    assert cell.high == 1.0


def test_seeds_share_a_row_and_settings_do_not(tmp_path):
    folders = [
        run_folder(tmp_path, f"{k}{s}", s, {"strain/long": 0.5 + 0.1 * k}, kernel=k) for k in (3, 5) for s in range(3)
    ]
    table = leaderboard(collect(folders))
    assert table.settings == ("method.kernel",)
    assert [(row["settings"]["method.kernel"], row["seeds"]) for row in table.rows] == [(5, 3), (3, 3)]
    assert all(row["notes"] == "" for row in table.rows)


def test_rows_are_named_by_their_settings_unless_a_sweep_called_them_something(tmp_path):
    folders = [run_folder(tmp_path, f"k{k}", 0, {"strain/long": 0.1 * k}, kernel=k) for k in (3, 5)]
    table = leaderboard(collect(folders))
    assert [table.name(row) for row in table.rows] == ["bams (kernel 5)", "bams (kernel 3)"]
    assert " & bams (kernel 5) & bams (kernel 3)" in table.latex()
    table = leaderboard(collect(folders, called={"k3": "narrow", "k5": "wide"}))
    assert [table.name(row) for row in table.rows] == ["bams (wide)", "bams (narrow)"]
    alike = leaderboard(collect(folders, called={"k3": "wide", "k5": "wide"}))
    assert [alike.name(row) for row in alike.rows] == ["bams (kernel 5)", "bams (kernel 3)"]
    text = table.markdown()
    assert text.index("bams (wide)") < text.index("bams (narrow)") and "kernel" in text


def test_methods_with_other_settings_and_spaces_meet(tmp_path):
    bams = [run_folder(tmp_path, f"b{s}", s, {"strain/long": 0.7, "strain/all": 0.8}) for s in range(3)]
    pca = [run_folder(tmp_path, f"p{s}", s, {"strain/pca": 0.6}) for s in range(3)]
    for folder in pca:
        document = json.loads((folder / "experiment.json").read_text())
        document["method"] = {"name": "pca", "components": 20}
        (folder / "experiment.json").write_text(json.dumps(document))
    table = leaderboard(collect([*pca, *bams]))
    assert table.settings == ()
    assert [(row["method"], row["seeds"]) for row in table.rows] == [("bams", 3), ("pca", 3)]
    assert [row["cells"]["strain/all"].value for row in table.rows] == pytest.approx([0.8, 0.6])
    assert "nan" not in table.markdown()


def test_less_error_ranks_first(tmp_path):
    low = run_folder(tmp_path, "a", 0, {"pose/long": 0.1}, kernel=3)
    high = run_folder(tmp_path, "b", 0, {"pose/long": 0.9}, kernel=5)
    assert leaderboard(collect([high, low])).rows[0]["settings"]["method.kernel"] == 3


def test_few_seeds_and_uncommitted_code_are_said(tmp_path):
    run = run_folder(tmp_path, "a", 0, {"strain/long": 0.5}, dirty=True)
    assert leaderboard(collect([run])).rows[0]["notes"] == "only 1 seed, uncommitted changes"


def test_unfinished_runs_and_empty_boards_are_no_error(tmp_path):
    (tmp_path / "unfinished").mkdir()
    scores = collect([tmp_path / "unfinished", tmp_path / "absent"])
    assert scores.empty
    assert leaderboard(scores).rows == ()
    assert leaderboard(scores).frame().empty


def test_a_score_that_is_no_number_leaves_an_empty_cell(tmp_path):
    bad = run_folder(tmp_path, "a", 0, {"strain/long": float("nan"), "lights/long": 0.5})
    good = run_folder(tmp_path, "b", 0, {"strain/long": 0.4, "lights/long": 0.4}, kernel=5)
    table = leaderboard(collect([bad, good]))
    row = next(row for row in table.rows if row["settings"]["method.kernel"] == 3)
    assert "strain/long" not in row["cells"]
    assert "–" in table.markdown()


def test_a_spreadsheet_cannot_be_made_to_run_a_cell(tmp_path):
    folder = run_folder(tmp_path, "a", 0, {"strain/long": 0.5})
    document = json.loads((folder / "experiment.json").read_text())
    document["method"]["name"] = "=1+1"
    (folder / "experiment.json").write_text(json.dumps(document))
    assert "'=1+1" in leaderboard(collect([folder])).csv()


def lines(markdown: str) -> dict[str, list[str]]:
    """The cells of every line of a table by its first."""
    cells = [[c.strip() for c in line.strip("|\n ").split("|")] for line in markdown.splitlines()]
    return {first: rest for first, *rest in cells}


def test_monitors_are_averaged_over_seeds_and_stand_above_the_scores(tmp_path):
    folders = [
        run_folder(
            tmp_path, f"a{seed}", seed, {"strain/short": 0.5, "strain/long": 0.6},
            monitors={"short/rank": 4.0 + seed, "long/rank": 10.0, "gradient_norm": 1.0 + seed},
        )
        for seed in range(3)
    ]  # fmt: skip
    board = leaderboard(collect(folders))
    table = lines(board.markdown())
    assert table["rank"] == ["short 5, long 10"] and table["gradient norm"] == ["2"]
    assert list(table).index("rank") < list(table).index("strain/long")
    (row,) = board.frame().to_dict("records")
    assert row["monitor short/rank"] == 5 and row["monitor long/rank"] == 10 and row["monitor gradient_norm"] == 2
    assert "monitor short/rank" in board.csv().splitlines()[0]


def test_runs_with_and_without_monitors_stand_side_by_side(tmp_path):
    watched = run_folder(tmp_path, "a", 0, {"strain/long": 0.6}, monitors={"long/rank": 3.25})
    before = run_folder(tmp_path, "b", 0, {"strain/long": 0.5}, kernel=5)
    board = leaderboard(collect([watched, before]))
    assert lines(board.markdown())["rank"] == ["long 3.25", "–"]
    assert [row["monitors"] for row in board.rows] == [{"long/rank": 3.25}, {}]
    alone = leaderboard(collect([before]))
    assert "rank" not in lines(alone.markdown()) and not any("monitor" in c for c in alone.frame().columns)


def test_a_monitor_that_one_seed_lacks_is_the_mean_of_the_others(tmp_path):
    seeds = ({"z/rank": 2.0}, {}, {"z/rank": 4.0})
    folders = [run_folder(tmp_path, f"a{i}", i, {"strain/z": 0.5}, monitors=m) for i, m in enumerate(seeds)]
    (row,) = leaderboard(collect(folders)).rows
    assert row["seeds"] == 3 and row["monitors"] == {"z/rank": 3.0}


def test_runs_from_before_precision_was_a_choice_share_a_row_with_those_after(tmp_path):
    old = run_folder(tmp_path, "a", 0, {"strain/long": 0.5})
    new = run_folder(
        tmp_path, "b", 1, {"strain/long": 0.6}, budget={"precision": "float32", "compile": True}, monitors={}
    )
    (row,) = leaderboard(collect([old, new])).rows
    assert row["seeds"] == 2
    half = run_folder(tmp_path, "c", 0, {"strain/long": 0.4}, budget={"precision": "bfloat16"})
    board = leaderboard(collect([old, new, half]))
    assert board.settings == ("budget.precision",) and len(board.rows) == 2
    assert lines(board.markdown())["precision"] == ["float32", "bfloat16"]


def test_places_are_compared_only_where_all_rows_have_a_score():
    rows = [
        ("one", "task/all", "all", 0.5),
        ("one", "task/mine", "mine", 0.4),
        ("two", "task/only", "only", 0.6),
    ]
    scores = pd.DataFrame(
        {
            "key": method, "seed": 0, "method": method, "score": score, "task": "task", "space": space, "metric": "f1",
            "value": value, "low": value, "high": value, "commit": "c", "dirty": False, "monitors": {},
        }
        for method, score, space, value in rows
    )  # fmt: skip
    table = leaderboard(scores)
    assert [(row["method"], row["rank"]) for row in table.rows] == [("two", 1.0), ("one", 2.0)]


def compared(tmp_path, errors, seconds):
    """Runs of methods with these errors in every recording; hard recordings are hard for all."""
    rng = np.random.default_rng(0)
    hard = rng.gamma(1, 1, size=50)
    folders = []
    for (method, error), cost in zip(errors.items(), seconds, strict=True):
        for seed in range(3):
            own = error + hard + rng.normal(0, 0.02, 50)
            value = float(own.mean())
            folder = run_folder(tmp_path, f"{method}{seed}", seed, {"day/z": value})
            described = json.loads((folder / "experiment.json").read_text())
            (folder / "experiment.json").write_text(json.dumps(described | {"method": {"name": method}}))
            document = json.loads((folder / "scores.json").read_text())
            document["cost"] = {"train_seconds": cost, "parameters": 1234567, "peak_mb": 300.0}
            document["tasks"]["day/z"] = {"task": "day", "space": "z", "metric": "mse"}
            (folder / "scores.json").write_text(json.dumps(document))
            kept = np.stack([own * 10, np.full(50, 10.0)], axis=1)
            names = tuple(f"r{i}" for i in range(50))
            tallies.write(folder, [Score("day", "z", "mse", value, 0.0, 9.0, 50, "mse", names, kept)])
            folders.append(folder)
    return leaderboard(collect(folders))


def test_the_best_and_those_not_worse_are_bold(tmp_path):
    board = compared(tmp_path, {"good": 1.0, "alike": 1.003, "worse": 1.2}, [50.0, 60.0, 5.0])
    rows = {row["method"]: row for row in board.rows}
    assert {method: "day/all" in row["ties"] for method, row in rows.items()} == {
        "good": True, "alike": True, "worse": False
    }  # fmt: skip
    apart, p = rows["worse"]["against"]["day/all"]
    assert apart.value == pytest.approx(0.2, abs=0.02) and apart.low > 0 and p < 1e-6
    assert board.markdown().count("**") == 4
    assert board.frame().set_index("method").loc["worse", "day/all p"] == p


def test_what_it_costs_stands_beside_how_good_it_is(tmp_path):
    board = compared(tmp_path, {"good": 1.0, "alike": 1.003, "worse": 1.2}, [50.0, 60.0, 5.0])
    assert {row["method"]: row["pareto"] for row in board.rows} == {"good": True, "alike": False, "worse": True}
    page = board.markdown()
    assert "training (s)" in page and "1,234,567" in page
    assert board.frame().set_index("method").loc["good", "cost train_seconds"] == 50


def test_a_table_for_a_paper(tmp_path):
    tex = compared(tmp_path, {"good_one": 1.0, "worse": 1.2}, [1.0, 2.0]).latex()
    assert tex.startswith("\\begin{tabular}{lrr}") and "good\\_one & worse" in tex
    assert tex.count("\\textbf{") == 1 and tex.rstrip().endswith("\\end{tabular}")


def test_a_score_of_one_row_is_not_bold(tmp_path):
    board = leaderboard(
        collect([run_folder(tmp_path, "a", 0, {"day/z": 0.5}), run_folder(tmp_path, "b", 1, {"day/z": 0.6})])
    )
    assert len(board.rows) == 1 and "**" not in board.markdown()
