"""Every recipe keeps its promises; the simulated mice also keep those of a benchmark."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ethoray import store, testing
from ethoray.schema import check_labels

FOLDER = Path(__file__).parents[1] / "datasets"
RECIPES = sorted(p for p in FOLDER.glob("*.py") if "__main__" in p.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def mice():
    with testing.script(FOLDER / "simulated_mice.py") as module:
        yield module


@pytest.fixture(scope="module")
def simulated(mice):
    return mice.simulate(range(96), seed=0)


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_is_a_card_and_a_command_that_says_where_and_how_much(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert len(ast.get_docstring(tree).splitlines()) >= 5
    beside = [FOLDER / f"{i.module}.py" for i in ast.walk(tree) if isinstance(i, ast.ImportFrom)]
    used = {name for file in (path, *filter(Path.exists, beside)) for name in names(file)}
    assert "ingest" in used, "only ingest writes the quality of the data into the card"
    answer = subprocess.run([sys.executable, path, "--help"], capture_output=True, text=True, check=True, env=_env())
    assert all(flag in answer.stdout for flag in ("--out", "--size"))


def names(path):
    """What a script calls and imports by name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)


def _env():
    return os.environ | {"PYTHONPATH": str(FOLDER.parent / "platform"), "RAY_USAGE_STATS_ENABLED": "0"}


def test_the_simulation_is_importable_without_ray():
    code = f"import sys; sys.path.insert(0, {str(FOLDER)!r}); import simulated_mice; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=_env())


def test_a_recording_depends_on_seed_and_index_alone(mice):
    together = mice.simulate([4, 9, 17], seed=5, frames=90)
    (alone,) = mice.simulate([9], seed=5, frames=90)
    np.testing.assert_array_equal(alone.keypoints, together[1].keypoints)
    for name, values in alone.labels.items():
        np.testing.assert_array_equal(values, together[1].labels[name])
    (other,) = mice.simulate([9], seed=6, frames=90)
    assert not np.array_equal(other.keypoints, alone.keypoints)


def test_every_label_fits_the_card_and_names_are_unique(mice, simulated):
    card = mice.card(len(simulated), 0)
    assert card.simulated and len(card.tasks) == 13
    assert len({r.name for r in simulated}) == len(simulated)
    for recording in simulated:
        check_labels(card.tasks, recording)
        assert set(recording.labels) == {t.name for t in card.tasks}


def test_splits_are_by_group_and_balanced(mice):
    sides = {}
    for index in range(mice.SIZES["small"]):
        hidden = mice.factors(index, np.random.default_rng(0))
        sides.setdefault(mice.split(index), []).append((mice.group(index), hidden.strain, hidden.lights))
    assert len(sides["train"]) == 2 * len(sides["test"]) == 320
    assert not {g for g, *_ in sides["train"]} & {g for g, *_ in sides["test"]}
    for rows in sides.values():
        _, strain, lights = np.array(rows).T
        assert strain.mean() == lights.mean() == 0.5 and abs(np.corrcoef(strain, lights)[0, 1]) < 1e-9


RATES = {
    "approaches": (0.01, 0.07),
    "chases": (0.003, 0.03),
    "close": (0.2, 0.6),
    "contact": (0.1, 0.4),
    "huddles": (0.04, 0.2),
    "oral_ear_contact": (0.01, 0.06),
    "oral_genital_contact": (0.01, 0.06),
    "oral_oral_contact": (0.005, 0.05),
    "watching": (0.05, 0.25),
}


@pytest.mark.parametrize("split", ["train", "test"])
def test_behaviours_are_as_rare_as_promised_on_both_sides(simulated, split):
    side = [r for r in simulated if r.split == split]
    for name, (low, high) in RATES.items():
        assert low < np.mean([r.labels[name].mean() for r in side]) < high, name


def test_bodies_keep_their_shape_and_mice_move_at_the_speed_of_mice(simulated):
    keypoints = np.stack([r.keypoints for r in simulated[:12]])
    assert np.nanmin(keypoints) > -10 and np.nanmax(keypoints) < 860
    length = np.linalg.norm(keypoints[..., 0, :] - keypoints[..., 9, :], axis=-1)
    assert 70 < np.nanmedian(length) < 100
    step = np.linalg.norm(np.diff(keypoints[..., 6, :], axis=1), axis=-1)
    assert np.nanpercentile(step, 99.5) < 18 and np.nanpercentile(step, 75) > 1.5


def test_some_frames_are_lost_and_most_are_not(simulated):
    lost = np.stack([np.isnan(r.keypoints[..., 0]).any(-1) for r in simulated])
    assert 0.005 < lost.mean() < 0.1


def habits(recording, start, stop):
    """Hand-made statistics of a stretch, averaged over mice: speed, stillness, pawing, head turning."""
    track = np.nan_to_num(recording.keypoints[start:stop].astype(np.float64))
    speed = np.minimum(np.linalg.norm(track[5:, :, 6] - track[:-5, :, 6], axis=-1) / 5, 15)
    head = track[..., 0, :] - track[..., 3, :]
    turn = np.abs(np.diff(np.unwrap(np.arctan2(head[..., 1], head[..., 0]), axis=0), axis=0))[2:-2]
    paw = np.minimum(np.abs(np.diff(np.linalg.norm(track[..., 4, :] - track[..., 3, :], axis=-1), axis=0))[2:-2], 10)
    still = speed < 0.6
    columns = (speed, still, speed > 5, still * paw, still & (paw > 1.5), np.minimum(turn, 1), still * turn, paw)
    return np.array([np.mean(c) for c in columns])


def strain_accuracy(recordings, frames):
    starts = [0] if frames == 1800 else range(60, 1740, 120)
    x, y, train = [], [], []
    for recording in recordings:
        for start in starts:
            x.append(habits(recording, start, start + frames))
            y.append(2 * recording.labels["strain"] - 1)
            train.append(recording.split == "train")
    x, y, train = np.array(x), np.array(y), np.array(train)
    x = (x - x[train].mean(0)) / x[train].std(0)
    x = np.concatenate([x, np.ones((len(x), 1))], 1)
    weights = np.linalg.solve(x[train].T @ x[train] + np.eye(x.shape[1]), x[train].T @ y[train])
    return np.mean(np.sign(x[~train] @ weights) == y[~train])


def test_strain_shows_far_better_in_a_minute_than_in_a_second(simulated):
    minute, second = strain_accuracy(simulated, 1800), strain_accuracy(simulated, 30)
    assert minute > 0.9 and 1 - minute < (1 - second) / 3


@pytest.mark.cluster
def test_ray_writes_the_same_recordings_in_order(mice, tmp_path):
    command = [sys.executable, FOLDER / "simulated_mice.py", "--out", "mice", "--root", tmp_path, "--recordings", "3"]
    subprocess.run(command, check=True, env=_env(), cwd=tmp_path, capture_output=True)
    dataset = store.open("mice", tmp_path)
    for entry, expected in zip(dataset.entries, mice.simulate(range(3), 0), strict=True):
        np.testing.assert_array_equal(dataset.recording(entry).keypoints, expected.keypoints)
