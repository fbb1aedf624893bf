"""Neural sessions: spikes into frames, the three layouts, and the recipe over synthetic and real recordings."""

import importlib
import io
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from ethoray import readers, store
from ethoray.readers import ReadError, spikes, trodes

FOLDER = Path(__file__).parents[1] / "datasets"
DATA = Path("../shared/data")
here = pytest.mark.skipif(not DATA.is_dir(), reason="recordings are not here")


@pytest.fixture(scope="module")
def recipe():
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module("neural_session")
    sys.path.remove(str(FOLDER))
    for name in ("neural_session", "neural_layouts", "neural_cuts"):
        del sys.modules[name]


@pytest.fixture(scope="module")
def layouts(recipe):
    return sys.modules["neural_layouts"]


@pytest.fixture(scope="module")
def cuts(recipe):
    return sys.modules["neural_cuts"]


def run(*arguments, fails=False):
    environment = os.environ | {"PYTHONPATH": str(FOLDER.parent / "platform")}
    command = [sys.executable, FOLDER / "neural_session.py", *map(str, arguments)]
    answer = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert bool(answer.returncode) == fails, answer.stderr
    return answer.stderr if fails else answer.stdout


def test_a_spike_is_in_the_frame_that_begins_at_or_before_it():
    found, outside = spikes.counts([np.array([0.1, 0.19, 0.2, 0.3, 0.05]), np.array([0.399, 0.4])], 0.1, 10, 3)
    assert found.tolist() == [[2, 0], [1, 0], [1, 1]] and outside == 2 and found.dtype == np.float32
    unsorted, _ = spikes.counts([np.array([0.3, 0.19, 0.05, 0.1, 0.2])], 0.1, 10, 3)
    assert unsorted[:, 0].tolist() == [2, 1, 1]


def test_spikes_on_every_tick_of_a_clock_fall_evenly_and_agree_with_whole_numbers():
    ticks = 131_910_951 + np.arange(500 * 60)  # one second of a 30 kHz clock into 60 frames of 500 ticks
    found, outside = spikes.counts([ticks / 30_000], ticks[0] / 30_000, 60, 60)
    assert outside == 0 and (found == 500).all()
    found, _ = spikes.counts([1.7e9 + ticks[::500] / 30_000], 1.7e9 + ticks[0] / 30_000, 60, 60)
    assert (found == 1).all()


@pytest.mark.parametrize("times", [[0.1, np.nan], [np.inf]])
def test_times_that_are_no_times_are_errors(times):
    with pytest.raises(ReadError, match="1 spike times that are not finite"):
        spikes.counts([np.array(times)], 0, 10, 3)
    with pytest.raises(ReadError, match="0 frames of 10 Hz"):
        spikes.counts([np.array([0.1])], 0, 10, 0)


def test_bins_are_whole_numbers_of_frames():
    assert spikes.factor(60, 0.1) == 6 and spikes.factor(59.94, 0.1) == 6 and spikes.factor(10, 0.1) == 1
    with pytest.raises(ReadError, match=r"0.02 s is 1.2 frames of 60 Hz; choose .* 0.0166667 or 0.0333333 s"):
        spikes.factor(60, 0.02)
    values = np.array([[1.0], [2], [np.nan], [np.nan], [np.nan], [5], [7]])
    assert spikes.pooled(values, 2, "mean")[:, 0].tolist()[::2] == [1.5, 5]
    assert np.isnan(spikes.pooled(values, 2, "mean")[1, 0])
    assert spikes.pooled(np.arange(7.0)[:, None], 3, "sum")[:, 0].tolist() == [3, 12]


# MATLAB


def cell(*items):
    made = np.empty((1, len(items)), dtype=object)
    made[0, :] = items
    return made


def unit(*times, span=(0.0, 100.0)):
    return {"time": np.array(times, float)[:, None], "timerange": np.array([span]), "meanrate": 1.0}


def test_units_of_matlab_cells_are_named_and_joined_over_epochs(tmp_path):
    nothing = np.zeros((1, 0))
    first = cell(cell(unit(3, 1), nothing, unit()), nothing, cell(unit(2)))
    second = cell(cell(unit(201, span=(200.0, 300.0)), nothing), nothing)
    savemat(tmp_path / "spikes.mat", {"spikes": cell(cell(first, second))})
    found = spikes.of_matlab(tmp_path / "spikes.mat")
    assert found.names == ("1-1", "3-1")
    assert [t.tolist() for t in found.trains] == [[1, 3, 201], [2]] and found.spans.tolist() == [[0, 100], [200, 300]]
    assert found.notes == (
        "1 units without a spike left out",
        "spike times of 1 units were not in order and are sorted",
    )


def test_units_of_version_7_3_are_the_same(tmp_path):
    path = tmp_path / "spikes.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        hidden = file.create_group("#refs#")
        for name, times in (("a", [[1.0, 3.0]]), ("b", [[2.0]])):
            made = hidden.create_group(name)
            made["time"], made["timerange"] = times, [[0.0], [100.0]]
        hidden["tetrode1"] = np.array([[hidden["a"].ref]], dtype=h5py.ref_dtype)
        hidden["tetrode2"] = np.array([[hidden["b"].ref]], dtype=h5py.ref_dtype)
        tetrodes = [[hidden["tetrode1"].ref], [hidden["tetrode2"].ref]]
        file["spikes"] = np.array(tetrodes, dtype=h5py.ref_dtype)
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file")
    found = spikes.of_matlab(path)
    assert found.names == ("1-1", "2-1") and [t.tolist() for t in found.trains] == [[1, 3], [2]]
    assert found.spans.tolist() == [[0, 100]]
    with h5py.File(path, "a") as file:
        file["#refs#/tetrode2"][0, 0] = file["spikes"].ref
    with pytest.raises(ReadError, match="nested more than 8 deep"):
        spikes.of_matlab(path)
    with h5py.File(path, "a") as file:
        del file["#refs#/a/time"]
        file["#refs#/a/time"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/x")
    with pytest.raises(ReadError, match="link to another file"):
        spikes.of_matlab(path)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"other": 1.0}, "no variable spikes"),
        ({"spikes": cell({"rate": 1.0})}, "none is time"),
        ({"spikes": cell(np.zeros((1, 0)))}, "holds no unit"),
        ({"spikes": cell(unit(1, np.nan))}, "not finite"),
        ({"spikes": cell(unit())}, "none of which has a spike"),
    ],
)
def test_matlab_files_without_spikes_name_what_they_lack(tmp_path, variables, message):
    savemat(tmp_path / "spikes.mat", variables)
    with pytest.raises(ReadError, match=message):
        spikes.of_matlab(tmp_path / "spikes.mat")


def test_units_of_several_days_and_broken_files_are_refused(tmp_path):
    savemat(tmp_path / "a.mat", {"spikes": cell(cell(cell(cell(unit(1)))), cell(cell(cell(unit(2)))))})
    with pytest.raises(ReadError, match="units of 2 days"):
        spikes.of_matlab(tmp_path / "a.mat")
    (tmp_path / "b.mat").write_bytes((tmp_path / "a.mat").read_bytes()[:300])
    with pytest.raises(ReadError, match=r"b\.mat"):
        spikes.of_matlab(tmp_path / "b.mat")


# Trodes


def led(
    path, ticks, places, clock=30_000, fields="<time uint32><xloc uint16><yloc uint16><xloc2 uint16><yloc2 uint16>"
):
    rows = np.zeros(len(ticks), [("t", "<u4"), ("x", "<u2"), ("y", "<u2"), ("x2", "<u2"), ("y2", "<u2")])
    rows["t"], rows["x"], rows["y"] = np.asarray(ticks) % 2**32, places[:, 0], places[:, 1]
    settings = f"<Start settings>\nclockrate: {clock}\nFields: {fields}\n<End settings>\n"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(settings.encode() + rows.tobytes())
    return path


PLACES = np.stack([100 + np.arange(40), 200 + 2 * np.arange(40)], axis=1)


def test_positions_take_the_nearest_sample_on_a_regular_clock(tmp_path):
    ticks = 90_000 + 500 * np.arange(40) + np.where(np.arange(40) % 3 == 1, 100, 0)
    keep = np.delete(np.arange(40), [20, 21, 22, 23])
    found, start = trodes.regular(led(tmp_path / "t", ticks[keep], PLACES[keep]))
    assert found.fps == 60 and start == 3 and found.names == ("led",) and len(found.keypoints) == 40
    assert np.flatnonzero(np.isnan(found.keypoints[:, 0, 0, 0])).tolist() == [21, 22]
    np.testing.assert_array_equal(np.delete(found.keypoints[:, 0, 0], range(20, 24), 0), PLACES[keep])
    assert readers.tracks(tmp_path / "t").fps == 60
    wrapped, _ = trodes.regular(led(tmp_path / "w", 2**32 - 10_000 + 500 * np.arange(40), PLACES))
    np.testing.assert_array_equal(wrapped.keypoints[:, 0, 0], PLACES)


def test_a_broken_position_file_names_what_is_wrong(tmp_path):
    with pytest.raises(ReadError, match="clock goes back from 2000 to 1000 at record 2"):
        trodes.samples(led(tmp_path / "a", [1500, 2000, 1000], PLACES[:3]))
    with pytest.raises(ReadError, match="Fields names no yloc"):
        trodes.samples(led(tmp_path / "b", [1, 2], PLACES[:2], fields="<time uint32><xloc uint16>"))
    with pytest.raises(ReadError, match="clockrate 'fast'"):
        trodes.samples(led(tmp_path / "c", [1, 2], PLACES[:2], clock="fast"))
    whole = led(tmp_path / "d", 500 * np.arange(40), PLACES)
    whole.write_bytes(whole.read_bytes()[:-5])
    assert trodes.samples(whole).notes == ("7 bytes after the last whole record left out",)
    whole.write_bytes(b"<Start settings>\nFields: <xloc uint16>")
    with pytest.raises(ReadError, match="do not end"):
        trodes.samples(whole)


# Cutting


def test_counts_come_out_of_rates_and_smoothed_rates_do_not(cuts):
    rates = np.array([[0, 10.0], [30, 20]])
    counts, seconds = cuts.counted(Path("a_bin100ms.npz"), rates)
    assert counts.tolist() == [[0, 1], [3, 2]] and seconds == 0.1
    counts, seconds = cuts.counted(Path("a.npz"), np.array([[2, 3, 0]]) / 0.03)  # no bin with one spike alone
    assert counts.tolist() == [[2, 3, 0]] and seconds == pytest.approx(0.03)
    with pytest.raises(ReadError, match=r"not multiples of .* smoothed"):
        cuts.counted(Path("a.npz"), np.array([[0, 1.0, 2.5, 3.75]]))
    with pytest.raises(ReadError, match="says bins of 50 ms, its rates say 100 ms"):
        cuts.counted(Path("a_bin50ms.npz"), rates)
    with pytest.raises(ReadError, match="no rates"):
        cuts.counted(Path("a.npz"), -rates)


def test_directions_are_measured(cuts):
    moved = np.array([[1, 0.1], [1, -0.1], [0, 2], [-1, -1.1]])
    assert cuts.directions(np.array([5.0, 5, 0, 1]), moved) == {0: "90 degrees", 1: "225 degrees", 5: "0 degrees"}
    assert cuts.directions(np.array([0.0, 1]), moved[:2]) == {0: "reach 0", 1: "reach 1"}


def test_stuck_positions_recorded_time_and_blocks(cuts):
    flat = np.array([1, 1, 1, 2, 3, 3, 3, 3], float)[:, None, None, None].repeat(2, -1)
    assert np.flatnonzero(cuts.still(flat, 4)).tolist() == [4, 5, 6, 7]
    assert np.flatnonzero(cuts.still(flat, 3)).tolist() == [0, 1, 2, 4, 5, 6, 7]
    spans = np.array([[0.25, 0.45], [0.5, 2]])
    assert np.flatnonzero(cuts.during(spans, 0.0, 10, 8)).tolist() == [3, 5, 6, 7]
    assert np.flatnonzero(cuts.during(np.array([[0.3, 0.6]]), 0.0, 10, 8)).tolist() == [3, 4, 5]
    recorded = np.arange(20) < 15
    kept, blind = cuts.blocks(recorded, np.arange(20) > 5, 4, 1)
    assert kept == [(5, 9), (10, 14)] and blind == 1


def test_the_split_is_by_class_and_by_name_alone(recipe):
    trials = [recipe.Trial(f"t{n}", 0, 1, "ab"[n % 2]) for n in range(200)]
    found = recipe.sides(trials, False)
    assert found == recipe.sides(trials[::-1], False)
    for label in "ab":
        assert Counter(found[t.name] for t in trials if t.label == label) == {"train": 70, "validation": 10, "test": 20}
    ordered = recipe.sides(trials, True)
    for ten in range(0, 200, 10):
        assert Counter(ordered[t.name] for t in trials[ten : ten + 10]) == {"train": 7, "validation": 1, "test": 2}


# End to end


def monkey(path, **change):
    rng = np.random.default_rng(0)
    trial = np.repeat(np.arange(40), 10)
    angle = np.pi / 4 * (trial % 8)
    step = np.stack([np.cos(angle), np.sin(angle)], axis=1) * (np.arange(400) % 10 + trial / 100)[:, None]
    rates = rng.poisson(0.5, (400, 6)) * 20.0
    stored = {
        "firing_rates": rates,
        "position": step,
        "velocity": step + 1,
        "acceleration": step + 2,
        "force": step + 3,
    }
    stored |= {"labels": (trial % 8.0)[:, None], "trial_offsets": np.arange(0, 401, 10)} | change
    np.savez(path, **{k: v for k, v in stored.items() if v is not None})
    return stored


def test_reaches_become_a_dataset(tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "all.pkl").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    stored = monkey(tmp_path / "raw" / "anna_1.npz")
    said = run("--raw", tmp_path / "raw", "--out", "m", "--root", tmp_path, "--bin", "0.1")
    assert "40 recordings" in said and "spike counts in bins of 0.1 s; 6 units of anna_1" in said
    dataset = store.open("m", tmp_path)
    assert dataset.card.fps == 10 and dataset.card.tasks[0].classes[1] == "45 degrees"
    assert dataset.card.checksums[0].endswith(" raw/anna_1.npz")
    assert Counter(e.split for e in dataset.entries) == {"train": 32, "test": 8}
    trial = dataset.recording(dataset.entries[9])
    assert trial.name == "anna_1_trial_0009" and trial.subject == "anna" and trial.labels == {"reach": 1}
    assert trial.keypoints.shape == (5, 1, 4, 2) and trial.skeleton.keypoints == (
        "hand", "velocity", "acceleration", "force",
    )  # fmt: skip
    np.testing.assert_allclose(trial.keypoints[:, 0, 0], stored["position"][90:100].reshape(5, 2, 2).mean(1), rtol=1e-6)
    np.testing.assert_array_equal(trial.neural, (stored["firing_rates"][90:100] / 20).reshape(5, 2, 6).sum(1))
    small = run("--raw", tmp_path / "raw", "--out", "s", "--root", tmp_path, "--size", "small", "--keypoints", "hand")
    assert "36 recordings" in small and store.open("s", tmp_path).card.skeleton.keypoints == ("hand",)
    assert "no keypoint foot" in run("--raw", tmp_path / "raw", "--out", "x", "--keypoints", "foot", fails=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"force": None}, "no force; it holds"),
        ({"velocity": np.zeros((399, 2))}, r"400 bins of firing_rates; other lengths: .*velocity.*399"),
        ({"trial_offsets": np.array([0, 10, 10, 400])}, "other lengths: trial_offsets"),
        ({"labels": np.arange(400.0)[:, None]}, "labels change within a trial"),
        ({"position": np.zeros(400)}, "position is not an array of numbers in 2 axes"),
    ],
)
def test_reaches_that_do_not_fit_name_the_key(tmp_path, layouts, change, message):
    monkey(tmp_path / "a.npz", **change)
    with pytest.raises(ReadError, match=message):
        layouts.session("npz", tmp_path / "a.npz", layouts.Choices())


def test_a_folder_of_nothing_or_of_two_layouts_is_an_error(tmp_path, layouts):
    with pytest.raises(ReadError, match="no such folder"):
        layouts.found(tmp_path / "none")
    with pytest.raises(ReadError, match="no npz with firing_rates"):
        layouts.found(tmp_path)
    monkey(tmp_path / "a.npz")
    led(tmp_path / "trajectory", 500 * np.arange(40), PLACES)
    with pytest.raises(ReadError, match="1 of npz and 1 of trodes"):
        layouts.found(tmp_path)


def test_a_published_file_that_differs_is_refused(tmp_path, layouts):
    (tmp_path / "a").write_bytes(b"1")
    name = f"{tmp_path.name}/a"
    with pytest.raises(ReadError, match="is not that of the published file"):
        layouts.checked(tmp_path / "a", {name: "0" * 64})
    assert layouts.checked(tmp_path / "a", {}).endswith(name)


def test_a_tracked_rat_becomes_blocks_of_the_time_it_is_seen(tmp_path):
    frames = 60 * 60
    places = np.stack([300 + 100 * np.sin(np.arange(frames) / 50), np.arange(frames) % 400], axis=1).astype(int)
    places[60 * 40 :] = 7  # no light from 40 s on
    led(tmp_path / "track" / "led.videoPositionTracking", 30_000 * 5 + 500 * np.arange(frames), places)
    rng = np.random.default_rng(0)
    trains = [np.sort(rng.uniform(0, 70, 300)), np.arange(5.001, 65, 0.1)]
    units = cell(cell(cell(*(unit(*t, span=(6.0, 64.0)) for t in trains))))
    savemat(tmp_path / "track" / "spikes.mat", {"spikes": units})
    run("--raw", tmp_path, "--out", "r", "--root", tmp_path, "--bin", "0.1", "--block", "3")
    dataset = store.open("r", tmp_path)
    assert dataset.card.fps == 10 and not dataset.card.tasks and len(dataset.entries) == 10
    blocks = [dataset.recording(entry) for entry in dataset.entries]
    assert all(b.keypoints.shape == (30, 1, 1, 2) and b.neural.shape == (30, 2) for b in blocks)
    assert all((b.neural[:, 1] == 1).all() for b in blocks)
    begin = 6 + 4 * 3  # blocks of 3 s, 1 s between, from the first recorded second
    expected = np.histogram(trains[0], begin + np.arange(31) / 10)[0]
    np.testing.assert_array_equal(blocks[3].neural[:, 0], expected)
    assert any("1200 frames in which the position stood still" in note for note in dataset.card.notes)
    assert any("spikes outside of the tracked time left out" in note for note in dataset.card.notes)


def session_of_nwb(path, trials=True):
    times = 10 + np.arange(900) / 30
    with h5py.File(path, "w") as file:
        file.attrs["nwb_version"] = "2.11.0"
        nose = file.create_group("processing/behavior/Pose/nose")
        nose.attrs["neurodata_type"] = "PoseEstimationSeries"
        nose["data"], nose["timestamps"] = np.arange(1800.0).reshape(900, 2), times
        file["general/subject/subject_id"] = "mouse 1"
        trains = [np.arange(10.001, 40, 0.05), np.array([11.0, 39.99, 45.0])]
        file["units/spike_times"] = np.concatenate(trains)
        file["units/spike_times_index"] = np.cumsum([len(t) for t in trains]).astype("u2")
        file["units/id"] = [4, 7]
        if trials:
            file["intervals/trials/start_time"] = 10 + np.arange(30.0)
            file["intervals/trials/stop_time"] = 10.5 + np.arange(30.0)
            file["intervals/trials/choice"] = ["left", "right"] * 15
            file["intervals/trials/go"] = np.where(np.arange(30) == 3, np.nan, 10.2 + np.arange(30))
    return path


def test_nwb_sessions_become_trials_around_an_event(tmp_path):
    session_of_nwb(tmp_path / "one.nwb")
    options = ("--label", "choice", "--align", "go", "--before", "0.3", "--after", "0.3", "--bin", "0.1")
    run("--raw", tmp_path, "--out", "n", "--root", tmp_path, *options)
    dataset = store.open("n", tmp_path)
    assert dataset.card.tasks[0].classes == ("left", "right") and "2 units of one" in dataset.card.neural
    assert len(dataset.entries) == 28 and dataset.entries[0].name == "one_trial_0001"  # the first begins too early
    trial = dataset.recording(dataset.entries[0])
    assert trial.neural.shape == (6, 2) and trial.subject == "mouse_1" and trial.labels == {"choice": 1}
    assert (trial.neural[:, 0] == 2).all() and trial.neural[:, 1].tolist() == [0, 1, 0, 0, 0, 0]
    first = round((11.2 - 0.3 - 10) * 30)
    np.testing.assert_allclose(trial.keypoints[0, 0, 0], [2 * first + 2, 2 * first + 3])
    notes = " ".join(dataset.card.notes)
    assert "1 spikes outside of the tracked time" in notes and "2 of 30 trials left out" in notes


def test_nwb_sessions_without_trials_become_blocks(tmp_path, layouts):
    made = layouts.session("nwb", session_of_nwb(tmp_path / "a.nwb", trials=False), layouts.Choices(block=4))
    assert [(t.start, t.stop) for t in made.trials] == [(150 * n, 150 * n + 120) for n in range(6)] and made.by_time
    with pytest.raises(ReadError, match="no column side; they have choice, go"):
        layouts.session("nwb", session_of_nwb(tmp_path / "b.nwb"), layouts.Choices(label="side"))
    with h5py.File(tmp_path / "a.nwb", "a") as file:
        file["units/spike_times_index"][...] = [5, 600]
        with pytest.raises(ReadError, match="does not divide spike_times"):
            file.flush()
            spikes.of_nwb(tmp_path / "a.nwb")
        del file["units"]
    with pytest.raises(ReadError, match="without sorted units"):
        layouts.session("nwb", tmp_path / "a.nwb", layouts.Choices())


def test_overlapping_trials_are_never_on_two_sides(tmp_path, layouts):
    made = layouts.Choices(align="go", before=1.0, after=0.5)
    session = layouts.session("nwb", session_of_nwb(tmp_path / "a.nwb"), made)
    assert all(a.stop <= b.start for a, b in zip(session.trials, session.trials[1:], strict=False))


# Real recordings


@here
def test_the_monkey_reaches_as_its_publisher_says(recipe, layouts):
    kind, (path,) = layouts.found(DATA / "monkey_reach_myow")
    layouts.checked(path, recipe.PUBLISHED)
    session = layouts.session(kind, path, layouts.Choices())
    assert session.counts.shape == (1640, 174) and len(session.trials) == 159 and session.fps == 10
    assert {t.label for t in session.trials} == {f"{45 * n} degrees" for n in range(8)}
    stored = np.load(io.BytesIO(path.read_bytes()))
    np.testing.assert_allclose(session.counts * 10, stored["firing_rates"])
    split = Counter(recipe.sides(session.trials, False).values())
    assert split == {"train": 112, "validation": 16, "test": 31}


def spatial_information(bins, counts):
    """Bits per spike that the place on the track tells of each unit (Skaggs et al., 1993)."""
    time = np.bincount(bins[bins >= 0], minlength=30).astype(float)
    share, found = time / time.sum(), []
    for train in counts.T:
        rate = np.bincount(bins[bins >= 0], weights=train[bins >= 0], minlength=30) / np.maximum(time, 1)
        ratio = rate / (share * rate).sum()
        found.append((share * ratio * np.log2(np.where(ratio > 0, ratio, 1))).sum())
    return np.array(found)


@here
def test_the_rat_has_place_fields_so_spikes_and_camera_are_on_one_clock(recipe, layouts):
    kind, (path,) = layouts.found(DATA / "rat_hippocampus_nelpy")
    for source in layouts.sources(kind, path):
        layouts.checked(source, recipe.PUBLISHED)
    session = layouts.session(kind, path, layouts.Choices())
    assert session.fps == 60 and session.counts.shape[1] == 31 and len(session.trials) == 60
    frames = np.concatenate([np.arange(t.start, t.stop) for t in session.trials])
    place, counts = session.keypoints[frames, 0, 0].astype(float), session.counts[frames]
    seen = ~np.isnan(place[:, 0])
    along = (place - place[seen].mean(0)) @ np.linalg.svd(place[seen] - place[seen].mean(0), full_matrices=False)[2][0]
    runs = seen & (np.abs(np.gradient(along)) * 60 > 10)
    low, high = np.percentile(along[runs], [1, 99])
    bins = np.where(runs, np.clip((np.nan_to_num(along) - low) / (high - low) * 30, 0, 29), -1).astype(int)
    counts = counts[:, counts[runs].sum(0) >= 50]
    true = spatial_information(bins, counts)
    rng = np.random.default_rng(0)
    shifts = rng.integers(600, len(bins) - 600, 40)
    chance = np.stack([spatial_information(bins, np.roll(counts, s, 0)) for s in shifts])
    assert ((chance < true).all(0)).mean() > 0.9
    for seconds in (-20, -5, 5, 20):
        assert spatial_information(bins, np.roll(counts, 60 * seconds, 0)).mean() < 0.8 * true.mean()


@here
def test_the_documented_command_writes_the_rat(tmp_path):
    run("--raw", DATA / "rat_hippocampus_nelpy", "--out", "r", "--root", tmp_path, "--bin", "0.1", "--size", "small")
    dataset = store.open("r", tmp_path)
    assert Counter(e.split for e in dataset.entries) == {"train": 28, "validation": 4, "test": 8}
    assert dataset.recording(dataset.entries[0]).neural.shape == (150, 31)
    folder = tmp_path / "linear-track"
    shutil.copytree(DATA / "rat_hippocampus_nelpy" / "linear-track", folder)
    (folder / "spikes.mat").chmod(0o644)
    (folder / "spikes.mat").write_bytes(b"changed")
    assert "is not that of the published file" in run("--raw", folder, "--out", "x", "--root", tmp_path, fails=True)
