"""Simulated films show what their truth says, and the datasets cut out of them keep it aligned."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ethoray import readers, store, testing, video
from ethoray.readers import ReadError

pytest.importorskip("av", reason="PyAV is not installed (extra video)")
FOLDER = Path(__file__).parents[1] / "datasets"
NAMES = (
    "simulated_video",
    "film_frames",
    "labelled_frames",
    *(f"cage_{n}" for n in ("canvas", "film", "life", "mouse", "neurons", "project", "session")),
)


@pytest.fixture(scope="module")
def recipe():
    with testing.script(FOLDER / "simulated_video.py") as module:
        yield module


@pytest.fixture(scope="module")
def cage(recipe):
    """The companions by their last word."""
    return {name: importlib.import_module(f"cage_{name}") for name in ("canvas", "film", "life", "mouse", "neurons")}


@pytest.fixture(scope="module")
def lives(cage):
    """Ten animals without cues, six minutes each."""
    life, found = cage["life"], []
    for index in range(10):
        rng = np.random.default_rng(index)
        animal = life.Animal.drawn(rng)
        found.append((animal, life.live(animal, 10_800, rng, cued=False)))
    return found


def test_states_last_follow_and_recur_as_the_table_says(cage, lives):
    life, runs = cage["life"], []
    for _, lived in lives:
        edges = np.flatnonzero(np.diff(lived.state)) + 1
        runs += zip(lived.state[edges[:-1]], np.diff(edges), lived.state[edges[1:]], strict=True)
    state, length, after = np.array(runs).T
    assert (state != after).all()
    for kind, mean in enumerate(life.LASTS):
        assert length[state == kind].mean() / life.FPS == pytest.approx(mean, rel=0.1)
    share = np.mean([np.bincount(lived.state, minlength=5) / len(lived.state) for _, lived in lives], 0)
    np.testing.assert_allclose(share, np.mean([animal.expected for animal, _ in lives], 0), atol=0.02)
    assert share.min() > 0.08


def test_expected_shares_of_two_states_by_hand(cage):
    life = cage["life"]
    only = life.Animal(tastes=(1.0, 1.0, 1e-12, 1e-12, 1e-12))  # still and walk alternate: 1.4 s and 2.0 s
    np.testing.assert_allclose(only.expected[:2], np.array([1.4, 2.0]) / 3.4, atol=1e-6)


def test_a_cue_widens_the_pupil_and_changes_what_the_mouse_does(cage):
    life, rng = cage["life"], np.random.default_rng(0)
    animal = life.Animal()
    lived = life.live(animal, 30_000, rng)
    cues = lived.trials + round(life.CUE * life.FPS)
    assert (np.diff(lived.trials) >= (life.TRIAL + life.GAP[0]) * life.FPS - 1).all()
    pupil = lived.pupil[cues[:, None] + np.arange(-3, 40)].mean(0)
    assert pupil[:3].mean() + 0.08 < pupil[16:22].mean()
    changes = np.concatenate([[0], np.diff(lived.state) != 0])
    at = changes[cues + 6].mean()
    assert at > 10 * np.mean(changes) and at == pytest.approx(life.STARTLED, abs=0.15)


@pytest.fixture(scope="module")
def stage(cage):
    """One mouse with a scene of a minute."""
    rngs = [np.random.default_rng((3, i)) for i in range(3)]
    animal = cage["life"].Animal.drawn(rngs[0])
    life = cage["life"].live(animal, 1800, rngs[1])
    return cage["film"].Scene.drawn(1800, rngs[2]), cage["mouse"].posed(life, animal), life, animal


OF_PART = {"tail_base": "tail", "tail_mid": "tail", "tail_tip": "tail"}


def test_keypoints_lie_on_the_parts_that_are_drawn(cage, stage):
    scene, body, life, animal = stage
    canvas, names = cage["canvas"], cage["mouse"].KEYPOINTS
    shown = np.zeros(len(names))
    times = [int(t) for state in range(5) for t in np.flatnonzero(life.share[:, state] > 0.99)[5::97][:4]]
    for t in times:
        sheet = cage["film"].paint(scene, body, life, animal, t)
        seen = canvas.seen(sheet, body.keypoints[t])
        shown += seen
        for name, (x, y), visible in zip(names, body.keypoints[t], seen, strict=True):
            own = np.argwhere(sheet.parts == canvas.PARTS.index(OF_PART.get(name, name)))
            if visible and name not in OF_PART:
                assert np.hypot(*(own.mean(0) - (y, x))) < 0.045 * body.size, name
            if name == "tail_tip" and visible:
                assert x - own[:, 1].min() < 5
            if name == "tail_base" and visible:
                assert own[:, 1].max() - x < 0.05 * body.size
    assert len(times) > 12
    assert (shown[[0, 1, 2, 5]] > 0.9 * len(times)).all() and (shown[6:] > 0.3 * len(times)).all()


def test_what_is_seen_at_a_keypoint_goes_when_its_part_goes(cage, stage):
    scene, body, life, animal = stage
    away, paint, mouse = -500.0, cage["film"].paint, cage["mouse"]
    t = int(np.flatnonzero(life.share[:, 0] > 0.99)[10])
    whole = paint(scene, body, life, animal, t)
    for number, name in enumerate(mouse.KEYPOINTS):
        x, y = np.round(body.keypoints[t, number]).astype(int)
        if not cage["canvas"].seen(whole, body.keypoints[t])[number]:
            continue
        spine, face, tail, legs = (a.copy() for a in (body.spine, body.face, body.tail, body.legs))
        if number == 0:
            spine[t, 4] = away
        elif number < 3:
            face[t, number - 1] = away
        elif number < 6:
            tail[t] = away
        else:
            legs[t, number - 6] = away
        without = paint(scene, replace(body, spine=spine, face=face, tail=tail, legs=legs), life, animal, t)
        changed = np.abs(whole.luma - without.luma)
        assert changed[y, x] > 2, name
        assert without.parts[y, x] != whole.parts[y, x], name


def test_the_picture_changes_with_the_pupil_and_not_with_the_neurons(cage, stage):
    scene, body, life, animal = stage
    t = 100
    wide = replace(life, pupil=np.full_like(life.pupil, 0.9))
    a, b = (cage["film"].paint(scene, body, lived, animal, t).luma for lived in (life, wide))
    rows, columns = np.nonzero(a != b)
    x, y = body.face[t, 0]
    assert len(rows) and np.hypot(rows - y, columns - x).max() < 0.06 * body.size


@pytest.fixture(scope="module")
def units(cage, lives):
    return [
        cage["neurons"].record(life, animal, np.random.default_rng(i)) for i, (animal, life) in enumerate(lives[:4])
    ]


def test_spikes_are_poisson_around_rates_of_real_neurons(cage, units):
    neurons = cage["neurons"]
    for found in units:
        expected = found.rates / cage["life"].FPS
        assert neurons.FEWEST <= expected.shape[1] <= neurons.MOST
        dispersion = ((found.counts - expected) ** 2).sum(0) / expected.sum(0)
        assert abs(dispersion.mean() - 1) < 0.02 and np.abs(dispersion - 1).max() < 0.15
        mean = found.rates.mean(0)
        assert mean.min() > 0.7 and mean.max() < 20.5 and found.rates.max() <= neurons.LIMIT
    kinds = np.bincount(np.concatenate([u.kind for u in units]), minlength=5)
    np.testing.assert_allclose(kinds / kinds.sum(), neurons.OFTEN, atol=0.1)


def test_units_follow_what_their_kind_says(cage, lives, units):
    neurons = cage["neurons"]
    told = {name: [] for name in neurons.KINDS}
    for (animal, life), found in zip(lives[:4], units, strict=True):
        x = np.column_stack([neurons.latents(life, animal)[:, 1:-1], np.ones(len(life.state))])  # shares add up to 1
        y = np.log(found.rates)
        left = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
        for kind, share in zip(found.kind, 1 - left.var(0) / y.var(0), strict=True):
            told[neurons.KINDS[kind]].append(share)
    assert min(np.median(told["state"]), np.median(told["movement"])) > 0.9
    assert np.median(told["arousal"]) > 0.5 and np.median(told["unrelated"]) < 0.2


def test_bits_per_spike_by_hand(cage):
    bits = cage["neurons"].bits_per_spike
    counts = np.array([[0, 1], [2, 1], [0, 0]])
    # unit 0: 2 spikes, mean 2/3; predicted .5, 1, .5: gain 2 ln(1 / (2/3)) - (2 - 2), over 2 ln 2
    np.testing.assert_allclose(
        bits(np.array([[0.5, 2 / 3], [1, 2 / 3], [0.5, 2 / 3]]), counts), [np.log2(1.5), 0.0], atol=1e-12
    )
    assert np.isnan(bits(np.ones((3, 1)), np.zeros((3, 1)))).all()


def test_the_true_rates_tell_more_than_a_trial_average_which_tells_something(cage):
    life, neurons = cage["life"], cage["neurons"]
    rng = np.random.default_rng(5)
    animal = life.Animal.drawn(rng)
    lived = life.live(animal, 9000, rng)
    found = neurons.record(lived, animal, rng)
    train = np.arange(len(lived.trials)) % 3 > 0
    cuts = [neurons.cut(a, lived.trials, 2, 60) for a in (found.rates / life.FPS, found.counts)]
    assert cuts[1].shape[1:] == (30, found.counts.shape[1])
    np.testing.assert_array_equal(cuts[1][2, 3], found.counts[lived.trials[2] + 6 : lived.trials[2] + 8].sum(0))
    true, psth = neurons.limits(*cuts, train)
    assert np.nanmean(true) > np.nanmean(psth) + 0.1
    cued = found.kind == neurons.KINDS.index("cue")
    assert np.nanmean(psth[cued]) > 0.02
    unrelated = found.kind == neurons.KINDS.index("unrelated")
    assert np.nanmean(true[unrelated]) < 0.1 and np.nanmean(psth[unrelated]) < 0.02


@pytest.fixture(scope="module")
def made(recipe, tmp_path_factory):
    """Three short films and everything that is written of them."""
    folder = tmp_path_factory.mktemp("cage")
    flags = ["--films", "3", "--seconds", "12", "--anchors", "6", "--labelled", "5", "--pixels", "48", "--workers", "1"]
    words = [
        "simulated_video.py",
        "--out",
        "cage",
        "--root",
        str(folder / "store"),
        "--video",
        str(folder / "films"),
        *flags,
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words)
        recipe.main()
    return folder, words


def test_a_film_depends_on_seed_and_index_alone(recipe, made, tmp_path):
    first, again, other = tmp_path / "a.mp4", tmp_path / "b.mp4", tmp_path / "c.mp4"
    for path, index in ((first, 1), (again, 1), (other, 2)):
        recipe.cage_session.shoot(str(path), 4, index, 2.0)
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()
    a, b = (recipe.Truth.of(p.with_suffix(".npz")) for p in (first, again))
    for name in vars(a):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "a.npz", "b.mp4", "b.npz", "c.mp4", "c.npz"]


def test_the_film_decodes_to_the_frames_that_were_painted(recipe, cage, made):
    path = made[0] / "films" / "film_00.mp4"
    rngs = [np.random.default_rng(s) for s in np.random.SeedSequence((0, 0)).spawn(6)]
    animal = cage["life"].Animal.drawn(rngs[0])
    life = cage["life"].live(animal, 360, rngs[1])
    body, scene = cage["mouse"].posed(life, animal), cage["film"].Scene.drawn(360, rngs[2])
    found = list(video.frames(path))
    about = video.probe(path)
    assert (about.frames, about.fps, about.width, about.height, about.varies) == (360, 30, 256, 192, False)
    assert [f.index for f in found] == list(range(360))
    np.testing.assert_allclose([f.time - found[0].time for f in found], np.arange(360) / 30, atol=1e-3)
    for t in (0, 101, 230, 359):
        luma = np.clip(cage["film"].paint(scene, body, life, animal, t).luma, 0, 255)
        assert np.abs(found[t].image[..., 0] - luma).mean() < 4
        others = [np.abs(found[k].image[..., 0] - luma).mean() for k in (t - 3, t + 3) if 0 <= k < 360]
        assert np.abs(found[t].image[..., 0] - luma).mean() < min(others)


def test_the_datasets_hold_the_truth_in_step_with_the_pictures(recipe, made):
    root = made[0] / "store"
    whole, cuts = store.open("cage_frames", root), store.open("cage_trials", root)
    assert [(e.name, e.split, e.subject) for e in whole.entries] == [
        ("film_00", "train", "mouse_00"), ("film_01", "train", "mouse_01"), ("film_02", "test", "mouse_02"),
    ]  # fmt: skip
    assert whole.card.fps == 15 and whole.card.simulated and set(cuts.splits) == {"train", "validation", "test"}
    for entry in whole.entries:
        path = made[0] / "films" / f"{entry.name}.npz"
        truth, found = recipe.Truth.of(path), whole.recording(entry)
        np.testing.assert_array_equal(found.labels["behaviour"], truth.state[::2])
        np.testing.assert_array_equal(found.neural, truth.counts[::2].astype(int) + truth.counts[1::2])
        np.testing.assert_array_equal(found.confidence[:, 0], truth.visible[::2])
        scale = 48 / np.array([256, 192])
        np.testing.assert_allclose(found.keypoints[:, 0], (truth.keypoints[::2] + 0.5) * scale - 0.5, atol=1e-4)
        shown = list(video.frames(path.with_suffix(".mp4"), video.View((48, 48), stride=2)))
        np.testing.assert_array_equal(found.images, np.stack([f.image for f in shown]))
        inside = [e for e in cuts.entries if e.subject == entry.subject]
        assert len(inside) == len(truth.trials) >= 3
        for trial, start, side in zip(inside, truth.trials, truth.side, strict=True):
            cut, frames = cuts.recording(trial), np.arange(start, start + 60, 2)
            assert trial.split == ("train", "validation", "test")[side]
            np.testing.assert_array_equal(cut.labels["behaviour"], truth.state[frames])
            np.testing.assert_array_equal(cut.neural, truth.counts[frames].astype(int) + truth.counts[frames + 1])
            if start % 2 == 0:
                np.testing.assert_array_equal(cut.images, found.images[frames // 2])


def test_anchors_and_labelled_pictures(recipe, made):
    root = made[0] / "store"
    anchors, marked = store.open("cage", root), store.open("cage_labelled", root)
    assert [e.split for e in anchors.entries] == ["train", "train", "test"] and anchors.card.fps == 30
    assert all(sum(c.frames for c in e.clips) >= 12 and e.picture == (48, 48, 1) for e in anchors.entries)
    assert len(marked.entries) == 15 and marked.card.skeleton.keypoints == recipe.KEYPOINTS
    hidden = 0
    for entry in marked.entries:
        film, frame = entry.name.rsplit("_", 1)
        truth, found = recipe.Truth.of(made[0] / "films" / f"{film}.npz"), marked.recording(entry)
        np.testing.assert_array_equal(np.isfinite(found.keypoints[0, 0, :, 0]), truth.visible[int(frame)])
        hidden += np.isnan(found.keypoints).any()
    assert hidden


def test_the_films_are_a_labelled_project_with_tracks_and_behaviours(recipe, made):
    folder = made[0] / "films"
    labelled_frames = importlib.import_module("labelled_frames")
    project = labelled_frames.project(folder)
    assert project.keypoints == recipe.KEYPOINTS and len(project.points) == 15
    for name, marks in project.points.items():
        film, frame = Path(name).parent.name, int(Path(name).stem.removeprefix("img"))
        truth = recipe.Truth.of(folder / f"{film}.npz")
        expected = np.where(truth.visible[frame][:, None], truth.keypoints[frame], np.nan)
        np.testing.assert_allclose(marks, expected, rtol=1e-5)
        shown = next(video.frames(folder / f"{film}.mp4", video.View(None, grey=False), only=[frame]))
        with Image.open(folder / name) as picture:
            np.testing.assert_array_equal(np.asarray(picture), shown.image)
    truth = recipe.Truth.of(folder / "film_01.npz")
    tracks = readers.tracks(folder / "film_01_pose.csv")
    assert tracks.names == recipe.KEYPOINTS
    np.testing.assert_allclose(tracks.keypoints[:, 0], truth.keypoints, rtol=1e-5)
    np.testing.assert_array_equal(tracks.confidence[:, 0], truth.visible)
    found = readers.labels(folder / "film_01_behaviour.csv", "film_01_pose.csv").values
    np.testing.assert_array_equal(np.stack([found[n] for n in recipe.STATES], 1), np.eye(5)[truth.state])


def test_a_film_that_is_there_is_used_again_and_another_is_never_lost(recipe, made, monkeypatch, capsys):
    folder, words = made
    path = folder / "films" / "film_00.mp4"
    before = path.stat().st_mtime_ns
    monkeypatch.setattr(sys, "argv", [*words, "--write", "labelled", "--overwrite"])
    recipe.main()
    assert path.stat().st_mtime_ns == before
    monkeypatch.setattr(sys, "argv", [*words, "--seed", "1"])
    with pytest.raises(SystemExit, match=r"film_00.mp4 is there and is another film.*--overwrite"):
        recipe.main()
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize(("flags", "message"), [
    (["--every", "7"], "--every 7"), (["--seconds", "3"], "--seconds 3"), (["--seed", "-1"], "--seed -1"),
    (["--films", "0"], "not a positive"), (["--rgb", "--grey"], "not allowed with"),
])  # fmt: skip
def test_flags_that_make_no_sense_are_refused(recipe, monkeypatch, capsys, tmp_path, flags, message):
    monkeypatch.setattr(sys, "argv", ["simulated_video.py", "--out", "x", "--root", str(tmp_path), *flags])
    with pytest.raises(SystemExit):
        recipe.main()
    assert message in capsys.readouterr().err


def test_a_damaged_truth_is_named(recipe, tmp_path):
    (tmp_path / "film_00.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(ReadError, match=r"film_00.npz: not the truth"):
        recipe.Truth.of(tmp_path / "film_00.npz")
