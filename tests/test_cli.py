"""The command line: seven verbs, quick help, one-line errors, and the road from files to scores."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

import ethoray
from ethoray import cli, embedding, store, testing, wording
from ethoray.tracking import Mirror

PCA = ["pca", "--set", "components=4", "--seconds", "5", "--steps", "4"]


def status(*words: str) -> int:
    """How the command ends; 0 when it simply returns."""
    try:
        cli.main(words)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@pytest.fixture
def untracked(monkeypatch):
    """MLflow has its own tests and takes seconds."""
    monkeypatch.setattr(Mirror, "follow", lambda *_, **__: True)


@pytest.fixture
def shelf(tmp_path):
    """A store that holds one toy dataset, called toy."""
    return testing.toy_dataset(tmp_path / "store" / "toy", seconds=8.0, fps=10.0)


def write_track(path: Path, frames: int = 400) -> Path:
    """A DeepLabCut csv of one mouse with three keypoints; the tail is never seen."""
    rng = np.random.default_rng(0)
    names = [(k, c) for k in ("nose", "tailbase", "tail") for c in ("x", "y", "likelihood")]
    rows = [["scorer"] + ["net"] * 9, ["bodyparts", *(k for k, _ in names)], ["coords", *(c for _, c in names)]]
    for frame, (x, y) in enumerate(rng.normal(0, 1, (frames, 2)).cumsum(0)):
        seen = [f"{v:.3f}" for v in (x, y, 0.9, x - 30, y, 0.9)]
        rows.append([str(frame), *seen, "", "", ""])
    path.write_text("\n".join(",".join(row) for row in rows) + "\n")
    return path


def test_there_are_seven_verbs():
    assert list(cli.VERBS) == ["prepare", "train", "embed", "score", "judge", "report", "ui"]


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["prepare", "--help"], ["judge", "--help"]])
def test_help_imports_nothing_heavy(words):
    script = (
        "import sys\nfrom ethoray import cli\ntry: cli.main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'mlflow', 'optuna', 'pandas', 'pyarrow', 'sklearn', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    source = str(Path(cli.__file__).parent.parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, env={"PYTHONPATH": source}
    )
    assert done.returncode == 0, done.stderr
    assert "usage: ethoray" in done.stdout


def test_the_package_offers_three_names():
    assert dir(ethoray) == ["Experiment", "Sweep", "run"]
    assert ethoray.Experiment.__module__ == "ethoray.experiment"
    with pytest.raises(AttributeError, match="Experiment, Sweep, run"):
        _ = ethoray.experience


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "tory", "pca"], "did you mean 'toy'"),
        (["train", "toy", "pcb"], "did you mean 'pca'"),
        (["train", "toy", "bams", "--preset", "papers"], "did you mean 'paper'"),
        (["train", "toy", "pca", "--set", "component=3"], "did you mean 'components'"),
        (["train", "toy", "pca", "--set", "components=few"], "components is int, not 'few'"),
        (["train", "toy", "pca", "--set", "components"], "write field=value"),
        (["train", "toy", "pca", "--seconds", "-1"], "positive length"),
        (["train", "toy", "pca", "--steps", "0"], "steps must be at least 1"),
        (["train", "toy", "pca", "--precision", "half"], "precision is float32 or bfloat16, not 'half'"),
        (["score", "abc"], "no run in"),
        (["judge", "neurons", "keypoints", "toy"], "did you mean 'neural'"),
        (["judge", "linear", "keypoints"], "keypoints: of which dataset?"),
        (["report"], "no finished runs of any dataset"),
        (["ui"], "nothing was tracked yet"),
        (["prepare", "absent.csv", "--fps", "30", "--out", "x"], "absent.csv"),
    ],
)
def test_a_foreseen_error_is_one_line(words, message, shelf, untracked, capsys):
    assert status(*words) == 2
    err = capsys.readouterr().err.strip()
    assert message in err and err.startswith("ethoray: ") and "\n" not in err


def test_debug_shows_where_an_error_comes_from(shelf, capsys, monkeypatch):
    assert status("train", "toy", "pcb", "--debug") == 2
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("ETHORAY_DEBUG", "1")
    assert status("train", "toy", "pcb") == 2
    assert "Traceback" in capsys.readouterr().err


def test_an_unforeseen_error_keeps_its_traceback(monkeypatch, capsys):
    def broken() -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setitem(cli.VERBS, "ui", broken)
    assert status("ui") == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_ends_with_130(monkeypatch, capsys):
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.VERBS, "ui", interrupted)
    assert status("ui") == 130
    assert "the same command continues" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("3", int, 3),
        ("1e-3", float, 1e-3),
        ("auto", str, "auto"),
        ("true", bool, True),
        ("64,32", tuple[int, ...], (64, 32)),
        ("(64, 32)", tuple[int, ...], (64, 32)),
        ("", tuple[str, ...], ()),
        ("none", float | None, None),
        ("0.5", float | None, 0.5),
        ("any", Literal["majority", "any"], "any"),
    ],
)
def test_words_become_values_of_the_field_type(text, hint, value):
    understood = wording.understand(text, hint)
    assert understood == value and type(understood) is type(value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [("3.5", int), ("yes", bool), ("some", Literal["all", "none"]), ("a,b", tuple[int, ...]), ("{}", dict)],
)
def test_a_word_that_does_not_fit_is_refused(text, hint):
    with pytest.raises(ValueError):
        wording.understand(text, hint)


def test_presets_are_overridden_by_fields():
    method = wording.configure("bams", "small", ["lr=0.5", "long_channels=8,8"])
    assert (method.lr, method.long_channels) == (0.5, (8, 8))
    assert method.anchor_stride == type(method).presets["small"]["anchor_stride"]


def test_files_become_a_dataset(tmp_path, capsys):
    events = tmp_path / "events.csv"
    events.write_text("start,stop,behaviour\n1,3,groom\n5,8,groom\n11,16,groom\n")
    track = write_track(tmp_path / "mouse.csv")
    words = ["prepare", str(track), "--labels", str(events), "--fps", "20", "--out", "cage"]
    assert status(*words) == 0
    told = capsys.readouterr().out
    for part in ("0.3 minutes at 20 Hz", "400 frames, 1 individuals, 3 keypoints", "33 % of keypoints are missing",
                 "task groom", "train", "test"):  # fmt: skip
        assert part in told, part
    assert store.open("cage").card.tasks[0].name == "groom"
    page = tmp_path / "store" / "cage" / "quality.html"
    assert "<svg" in page.read_text() or "<img" in page.read_text()
    assert status(*words) == 2 and status(*words, "--overwrite", "--no-report") == 0 and not page.exists()


def test_cleaning_is_declared_in_units_and_told(tmp_path, capsys):
    track = write_track(tmp_path / "mouse.csv")
    words = ["prepare", str(track), "--fps", "20", "--out", "cage", "--no-report"]
    asked = ["--min-confidence", "0.5", "--interpolate", "0.2", "--smooth", "0.5", "--smooth-order", "2",
             "--outliers", "6", "--resample", "10", "--mm-per-pixel", "0.5"]  # fmt: skip
    assert status(*words, *asked, "--workers", "1") == 0
    card = store.open("cage").card
    assert len(card.cleaning) == 6 and (card.fps, card.unit) == (10.0, "mm")
    assert "cleaning: positions are in mm, 0.5 mm a pixel" in capsys.readouterr().out
    for wrong, message in ((["--smooth", "0.1"], "--smooth 0.1 s is"), (["--outliers", "-1"], "--outliers -1")):
        assert status(*words, "--overwrite", *wrong) == 2
        err = capsys.readouterr().err.strip()
        assert message in err and "\n" not in err
    assert store.open("cage").card == card


def test_a_track_on_both_sides_is_refused_unless_forced(tmp_path, capsys):
    copies = [write_track(tmp_path / f"mouse{i}.csv") for i in range(3)]
    words = ["prepare", *map(str, copies), "--fps", "20", "--out", "cage", "--no-report"]
    assert status(*words) == 2
    assert "are the same track; drop one" in capsys.readouterr().err
    assert status(*words, "--force") == 0
    assert "note: leak check forced: recordings 'mouse" in capsys.readouterr().out


def test_training_scoring_embedding_and_reporting(shelf, untracked, tmp_path, capsys):
    assert status("train", "toy", *PCA, "--seeds", "0", "1") == 0
    told = capsys.readouterr().out
    assert "running/pca" in told and "2 seeds" in told and "95 % interval" in told
    folders = sorted(p.parent for p in (tmp_path / "runs").glob("*/scores.json"))
    assert [json.loads((f / "experiment.json").read_text())["method"]["components"] for f in folders] == [4, 4]

    assert status("score", folders[0].name[:8]) == 0
    assert "lively/pca" in capsys.readouterr().out

    testing.toy_dataset(tmp_path / "store" / "other", seconds=6.0, fps=10.0, seed=1)
    assert status("score", str(folders[0]), "other") == 0
    assert (next((folders[0] / "elsewhere").iterdir()) / "scores.json").exists()

    assert status("embed", str(folders[0]), "other", "--out", str(tmp_path / "vectors")) == 0
    assert embedding.read(tmp_path / "vectors").num_rows == sum(e.frames for e in store.open("other").entries)

    assert status("report", "toy", "--out", str(tmp_path / "pages")) == 0
    assert "| pca " in (tmp_path / "pages" / "toy" / "leaderboard.md").read_text()


def test_the_same_command_does_not_train_twice(shelf, untracked, tmp_path):
    assert status("train", "toy", *PCA) == 0
    (scores,) = (tmp_path / "runs").glob("*/scores.json")
    before = scores.stat().st_mtime_ns
    assert status("train", "toy", *PCA) == 0
    assert scores.stat().st_mtime_ns == before


def test_an_unfinished_run_has_no_scores(shelf, untracked, tmp_path, capsys):
    assert status("train", "toy", *PCA) == 0
    (scores,) = (tmp_path / "runs").glob("*/scores.json")
    scores.unlink()
    assert status("score", str(scores.parent)) == 2
    assert "not finished" in capsys.readouterr().err


def test_an_encoder_refuses_another_skeleton(shelf, untracked, tmp_path, capsys):
    assert status("train", "toy", *PCA) == 0
    (scores,) = (tmp_path / "runs").glob("*/scores.json")
    track = write_track(tmp_path / "mouse.csv")
    assert status("prepare", str(track), "--fps", "20", "--out", "cage") == 0
    assert status("score", str(scores.parent), "cage") == 2
    assert "tailbase" in capsys.readouterr().err


def test_precision_and_compiling_reach_the_experiment(shelf, untracked, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(wording, "run", lambda experiment, folder, workers: asked.append(experiment))
    monkeypatch.setattr(wording, "scores", lambda folder: [])
    assert status("train", "toy", *PCA) == 0
    assert status("train", "toy", *PCA, "--precision", "bfloat16", "--compiled") == 0
    assert [(e.budget.precision, e.budget.compile) for e in asked] == [("float32", False), ("bfloat16", True)]
    assert [e.budget.steps for e in asked] == [4, 4]


def test_recordings_without_labels_are_learned_from_and_said_to_have_no_scores(untracked, tmp_path, capsys):
    made = [replace(recording, labels={}) for recording in testing.toy_recordings(seconds=8.0, fps=10.0)]
    card = replace(testing.toy_card(10.0), name="plain", tasks=())
    store.prepare(card, made, tmp_path / "store" / "plain", clip_seconds=8.0)
    assert status("train", "plain", *PCA, "--seeds", "0", "1") == 0
    told = capsys.readouterr().out
    assert told.count("nothing to score: the data has no labels") == 2 and "compare:" in told
    assert status("report", "plain", "--out", str(tmp_path / "pages")) == 0
    assert "no run has a score" in (tmp_path / "pages" / "plain" / "leaderboard.md").read_text().lower()
