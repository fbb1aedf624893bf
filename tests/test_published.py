"""Published figures: typed once, found by dataset, shown beside ours and marked as what they are."""

import numpy as np
import pytest

from ethoray import methods, published
from ethoray.tables import Cell, Leaderboard


def test_the_table_of_bams_is_complete():
    mice = published.figures("mabe22_mice")
    table = mice[(mice["table"] == "2")]
    assert table.groupby("name").size().eq(13).all() and table["name"].nunique() == 11
    assert {*mice[mice["table"] == "5"]["name"]} == {"BAMS no interaction", "BAMS inductive"}
    assert {*mice[mice["table"] == "6"]["name"]} == {"TS2Vec-T", "TS2Vec-IT"}
    bams = table[table["name"] == "BAMS"].set_index("task")["value"]
    assert bams["strain"] == 0.8823 and bams["time_of_day"] == 0.08989
    # Table 3 gives the plain means of that row
    means = mice[(mice["table"] == "3") & (mice["name"] == "BAMS")].set_index(["task", "metric"])["value"]
    assert bams[["experiment_day", "time_of_day"]].mean() == pytest.approx(means["mean of 2 by clip", "mse"])
    assert bams[["strain", "lights"]].mean() == pytest.approx(means["mean of 2 by clip", "f1"], abs=1e-4)
    frames = bams.drop(["experiment_day", "time_of_day", "strain", "lights"])
    assert frames.mean() == pytest.approx(means["mean of 9 by frame", "f1"], abs=1e-4)


def test_means_over_flies_agree_with_their_parts():
    flies = published.figures("mabe22_flies").pivot(index="name", columns="task", values="value")
    whole = (6 * flies["mean of 6 by frame"] + 44 * flies["mean of 44 by clip"]) / 50
    np.testing.assert_allclose(whole, flies["mean of 50"], atol=0.002)  # BAMS is printed as 48.2, its parts give 48.0


def test_methods_are_ours_and_numbers_are_in_range():
    everything = published._everything()
    assert set(everything["method"]) <= {*methods.names(), "beast", ""}
    shares = everything[everything["metric"].isin(["f1", "share", "accuracy"])]
    assert shares["value"].between(0, 1).all()
    assert not everything.duplicated(["source", "table", "dataset", "name", "task", "metric"]).any()


def test_ours_stand_beside_with_the_difference():
    row = {
        "method": "bams",
        "cells": {"strain/all": Cell(0.9, 0.88, 0.92, 3), "chases/all": Cell(0.02, 0.01, 0.03, 3)},
    }
    table = published.beside(Leaderboard((), ("strain/all", "chases/all"), (row,)), "mabe22_mice")
    assert set(table["task"]) == {"strain", "chases"}
    bams = table[(table["name"] == "BAMS") & (table["task"] == "strain")].iloc[0]
    assert bams["difference"] == pytest.approx(0.9 - 0.8823)
    assert table[table["name"] == "PCA"]["ours"].isna().all()
    page = published.markdown(table)
    assert "| BAMS (Azabou et al. 2023 (BAMS), published) | 0.8823 (ours +0.0177) | 0.0189" in page
    assert all("published" in line for line in page.splitlines() if "---" not in line)


def test_an_unknown_dataset_has_nothing_published():
    board = Leaderboard((), (), ())
    assert published.figures("cage").empty
    assert published.markdown(published.beside(board, "cage")) == ""
