"""Simulated larvae swim as the numbers they were given say, and their labels tell the true movement."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ethoray import store, testing
from ethoray.schema import check_labels

FOLDER = Path(__file__).parents[1] / "datasets"

PLAUSIBLE = {  # curvature times length, tail-tip angle (deg), change of heading (deg), ms, lengths/s, lengths
    "slow_1": (1.29, 26, 3.6, 113, 2.7, 0.38),
    "slow_2": (2.13, 43, 7.3, 104, 5.8, 0.80),
    "routine_turn": (2.52, 93, 43, 92, 4.3, 0.54),
    "high_angle_turn": (4.03, 155, 83, 99, 5.5, 0.68),
    "burst": (4.05, 61, 7.6, 115, 16.5, 2.40),
    "j_turn": (4.35, 69, 22, 118, 0.6, 0.09),
    "o_bend": (4.72, 197, 149, 99, 4.6, 0.42),
    "c_start": (4.35, 174, 111, 81, 17.2, 1.93),
}
STRAIGHT = ("slow_1", "slow_2", "burst")


@pytest.fixture(scope="module")
def larvae():
    with testing.script(FOLDER / "simulated_larvae.py") as module:
        yield module


@pytest.fixture(scope="module")
def model(larvae):
    return larvae.model


@pytest.fixture(scope="module")
def bouts(model):
    """Of each class 400 bouts of the average fish: the bouts, the motion, and a cut to 120 frames a bout."""
    found = {}
    for kind, name in enumerate(model.BOUTS):
        drawn = model.draw(np.full(400, kind), model.Fish(), np.random.default_rng((0, kind)))
        motion = model.swim(drawn, np.full(400, 200))
        found[name] = drawn, motion, lambda a: a.reshape(400, 200, *a.shape[1:])[:, :120]
    return found


@pytest.fixture(scope="module")
def swims(larvae):
    return [larvae.recording(i, seed=0, frames=3000) for i in range(3)]


def measured(model, drawn, motion, cut):
    heading, speed, middle = cut(motion.heading), cut(motion.speed), cut(motion.midline)[:, :, model.PIVOT]
    return (
        np.abs(cut(motion.curvature)).max((1, 2)),
        np.degrees(np.abs(cut(motion.bent)[..., -1]).max(1)),
        np.degrees(np.abs(heading[:, -1] - heading[:, 0])),
        1000 * drawn.duration,
        speed.max(1),
        np.linalg.norm(middle[:, -1] - middle[:, 0], axis=-1),
    )


@pytest.mark.parametrize("name", PLAUSIBLE)
def test_bouts_have_the_medians_that_the_formulas_should_give(model, bouts, name):
    """The medians of 400 bouts: a sampling error of 2 to 3 % each, 8 % for the heading of what swims straight."""
    found = [float(np.median(values)) for values in measured(model, *bouts[name])]
    for column, (value, expected) in enumerate(zip(found, PLAUSIBLE[name], strict=True)):
        tolerance = 0.25 if column == 2 and name in STRAIGHT else 0.1
        assert value == pytest.approx(expected, rel=tolerance), (column, value)


def test_three_shapes_explain_what_they_do_in_larvae(model, bouts):
    poses = []
    for _, motion, cut in bouts.values():
        points = model.keypoints(motion, np.zeros(len(motion.bout)))
        points = points - points[:, 13:14]
        turn = np.exp(-1j * motion.heading)[:, None] * (points[..., 0] + 1j * points[..., 1])
        poses.append(cut(np.concatenate([turn.real, turn.imag], 1)).reshape(-1, 38))
    variance = np.linalg.eigvalsh(np.cov(np.concatenate(poses).T))[::-1]
    first, _, three = np.cumsum(variance)[:3] / variance.sum()
    assert abs(first - 0.605) < 0.05 and three > 0.96


def test_no_body_bends_more_than_larvae_do_and_none_stretches(bouts):
    for _, motion, _ in bouts.values():
        assert np.abs(motion.curvature).max() <= 6
        bones = np.linalg.norm(np.diff(motion.midline, axis=1), axis=-1)
        np.testing.assert_allclose(bones, 1 / 40, rtol=0.003)


def test_a_bout_to_the_other_side_is_its_mirror_image(model):
    drawn = model.draw(np.arange(8), model.Fish(), np.random.default_rng(0))
    other = model.Bouts(drawn.kind, -drawn.side, drawn.numbers, drawn.onset, -drawn.turn, drawn.power)
    frames, straight = np.full(8, 120), np.zeros(960)
    left, right = (model.keypoints(model.swim(b, frames), straight) for b in (drawn, other))
    np.testing.assert_allclose(right[:, model.SWAPPED] * [1, -1], left, atol=1e-12)


def test_the_curvature_wave_runs_from_head_to_tail_at_its_speed(model):
    drawn = model.draw(np.array([model.SLOW_2]), model.Fish(), np.random.default_rng(1))
    motion = model.swim(drawn, np.array([120]))
    when = slice(15, 35)
    early, late = motion.curvature[when, 24], motion.curvature[when, 36]
    lags = np.arange(-8, 9)
    match = [np.corrcoef(early, np.roll(motion.curvature[:, 36], -k)[when])[0, 1] for k in lags]
    expected = 0.3 / drawn.numbers["wave"][0] / drawn.numbers["first_hz"][0] * model.FPS
    assert lags[np.argmax(match)] == pytest.approx(expected, abs=1) and expected > 2 and len(late) == 20


def test_the_head_leads_and_turns_go_to_the_side_of_the_bend(model, bouts):
    for drawn, motion, cut in bouts.values():
        ahead = np.stack([np.cos(motion.heading), np.sin(motion.heading)], -1)
        assert ((motion.midline[:, 0] - motion.midline[:, model.PIVOT]) * ahead).sum(-1).min() > 0
        if drawn.kind[0] in (model.ROUTINE_TURN, model.HIGH_ANGLE_TURN, model.O_BEND, model.C_START):
            bent = cut(motion.bent)[..., -1]
            largest = np.take_along_axis(bent, np.abs(bent).argmax(1)[:, None], 1)[:, 0]
            assert np.mean(np.sign(largest) == np.sign(drawn.turn)) > 0.95


def test_eyes_are_level_at_rest_and_turn_inwards_when_they_converge(model):
    motion = model.swim(model.draw(np.array([0]), model.Fish(), np.random.default_rng(0)), np.array([4]))
    rest, hunting = (model.keypoints(motion, np.full(4, angle))[0] for angle in (0, np.radians(22)))
    assert rest[1, 1] > 0 > rest[5, 1] and rest[1, 0] == pytest.approx(rest[5, 0])
    front, back = (np.linalg.norm(p[1] - p[5]) for p in (hunting, rest))
    assert front < back
    for eye in (slice(1, 5), slice(5, 9)):
        np.testing.assert_allclose(hunting[eye].mean(0), rest[eye].mean(0), atol=1e-9)


def test_a_recording_depends_on_seed_index_and_layout_alone(larvae):
    for layout in larvae.TASKS:
        one, again = larvae.recording(5, 3, layout, 200), larvae.recording(5, 3, layout, 200)
        np.testing.assert_array_equal(one.keypoints, again.keypoints)
        np.testing.assert_array_equal(one.confidence, again.confidence)
        assert not np.array_equal(one.keypoints, larvae.recording(5, 4, layout, 200).keypoints, equal_nan=True)
        assert not np.array_equal(one.keypoints, larvae.recording(6, 3, layout, 200).keypoints, equal_nan=True)


def test_labels_fit_the_card_and_agree_with_the_track(larvae, swims):
    tasks = larvae.card("swims", 3, 0).tasks
    for recording in swims:
        check_labels(tasks, recording)
        labels = recording.labels
        np.testing.assert_array_equal(np.isnan(labels["bout"]), labels["swimming"] == 0)
        np.testing.assert_array_equal(np.isnan(labels["turn"]), labels["swimming"] == 0)
        sure = np.where(recording.confidence[:, :, 0] > 0.8, 1, np.nan)
        trunk = recording.keypoints[:, :1, 11] * sure
        moved = np.linalg.norm(trunk[16:] - trunk[:-16], axis=-1)[:, 0] / 16 * recording.fps
        told = np.convolve(labels["speed"], np.full(17, 1 / 17), "valid")
        known = np.isfinite(moved) & (moved < 60)
        assert np.corrcoef(moved[known], told[known])[0, 1] > 0.8
        still = labels["speed"] < 0.1
        assert labels["speed"][labels["swimming"] == 1].mean() > 3 * labels["speed"][still].mean()
    assert {r.labels["setting"] for r in swims} == {0, 1, 2}


def test_a_single_bout_turns_to_where_its_label_says(larvae, model):
    for index in range(48):
        recording = larvae.recording(index, 1, "bouts")
        check_labels(larvae.TASKS["bouts"], recording)
        assert recording.labels["bout"] == index % 8
        points = np.where(recording.confidence[:, 0, :, None] < 0.8, np.nan, recording.keypoints[:, 0])
        body = (points[:, 0] - points[:, 10]) @ [1, 1j]
        turned = np.angle(np.nanmean(body[-20:]) / np.nanmean(body[:6]))
        side = {0: 1, 1: 0, 2: -1}[int(recording.labels["turn"])]
        assert abs(turned) < np.radians(30) if side == 0 else np.sign(turned) == side


def test_confidence_is_low_where_the_track_is_wrong_and_mostly_at_the_tail_tip(model):
    rng = np.random.default_rng(0)
    truth = np.tile(rng.uniform(size=(1, 19, 2)), (20_000, 1, 1))
    seen, confidence = model.track(truth, rng)
    error = np.linalg.norm(seen - truth, axis=-1)
    tail = np.arange(9, 19)
    assert (confidence[np.isnan(error)] == 0).all()
    assert (confidence[:, tail][error[:, tail] > 0.04] < 0.8).all() and (error[confidence < 0.8] > 0.02).sum() > 0
    wrong = (confidence < 0.8).mean(0)
    assert wrong[18] > 1.5 * wrong[0] and wrong.min() > 0.005 and wrong.max() < 0.06
    assert np.nanmedian(error) < 0.006 and np.median(confidence) == pytest.approx(0.98, abs=0.01)


def test_fish_are_on_one_side_of_the_split(larvae):
    for layout, sizes in larvae.SIZES.items():
        sides = {}
        for index in range(sizes["small"]):
            sides.setdefault(larvae.split(layout, index), set()).add(larvae.fish(layout, index))
        assert not sides["train"] & sides["test"] and len(sides["train"]) >= 2 * len(sides["test"])


@pytest.mark.parametrize("layout", ["swims", "bouts"])
def test_the_command_writes_a_dataset_that_opens(larvae, tmp_path, layout):
    environment = os.environ | {"PYTHONPATH": str(FOLDER.parent / "platform")}
    command = [sys.executable, FOLDER / "simulated_larvae.py", "--out", "larvae", "--root", tmp_path]
    command += ["--layout", layout, "--recordings", "2", "--workers", "1"]
    subprocess.run(command, check=True, env=environment, cwd=tmp_path, capture_output=True)
    dataset = store.open("larvae", tmp_path)
    assert dataset.card.simulated and len(dataset.entries) == 2
    for index, entry in enumerate(dataset.entries):
        expected = larvae.recording(index, 0, layout)
        np.testing.assert_array_equal(dataset.recording(entry).keypoints, expected.keypoints)


@pytest.mark.parametrize("wrong", [["--recordings", "0"], ["--seed", "-1"], ["--workers", "0"]])
def test_the_command_refuses_what_it_cannot_do(tmp_path, wrong):
    environment = os.environ | {"PYTHONPATH": str(FOLDER.parent / "platform")}
    command = [sys.executable, FOLDER / "simulated_larvae.py", "--out", "larvae", "--root", tmp_path, *wrong]
    answer = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode and wrong[0].strip("-") in answer.stderr and not (tmp_path / "larvae").exists()
