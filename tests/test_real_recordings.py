"""Every folder of real recordings becomes a dataset by one command, and its numbers are those of the files.

The commands are those of datasets/README.md. What is expected was read by pandas, h5py, scipy or numpy, not by the
package's readers.
"""

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import io

from ethoray import readers, store
from ethoray.cli import main
from ethoray.readers import asoid, safe

ROOT = Path(__file__).parents[1]
DATA = ROOT / "../shared/data"


@pytest.fixture
def folder(request):
    found = DATA / request.param
    if not found.is_dir():
        pytest.skip(f"the recordings of {request.param} are not here")
    return found


def needs(name):
    return pytest.mark.parametrize("folder", [name], indirect=True, ids=[name])


def prepare(*words):
    """The command line, in this process."""
    main(["prepare", *(str(word) for word in words), "--out", "real", "--workers", "1", "--no-report"])
    return store.open("real")


def recipe(name, *words):
    """A recipe, run by its path as its documentation says."""
    command = [sys.executable, ROOT / "datasets" / name, "--out", "real", *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "platform"), "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return store.open("real")


def whole(dataset, name):
    """Keypoints and labels of a recording, its blocks joined in time."""
    found = [dataset.recording(e) for e in dataset.entries if e.name == name or e.name.startswith(name + "@")]
    ordered = sorted(found, key=lambda r: float(r.name.rpartition("@")[2].partition("-")[0]) if "@" in r.name else 0)
    labels = {task: np.concatenate([r.labels[task] for r in ordered]) for task in found[0].labels}
    return np.concatenate([r.keypoints for r in ordered]), labels


def deeplabcut(path, levels=3):
    """By pandas: (time, column) x and y of every keypoint, in the file's order."""
    frame = pd.read_csv(path, header=list(range(levels)), index_col=0)
    x, y = (frame.xs(axis, axis=1, level="coords").to_numpy(np.float32) for axis in "xy")
    return np.stack([x, y], -1)


def bouts(path, fps, length):
    """A BORIS export, read by pandas: frames between START and STOP."""
    skip = next(i for i, line in enumerate(path.read_text().splitlines()) if line.startswith("Time,"))
    table = pd.read_csv(path, skiprows=skip)
    track = np.zeros(length)
    start, stop = (table[table.Status == s].Time.to_numpy() for s in ("START", "STOP"))
    for a, b in zip(start, stop, strict=True):
        track[round(a * fps) : round(b * fps)] = 1
    return track


@needs("mouse_pair_ethome")
def test_two_mice_and_their_interactions(folder):
    (pose,) = folder.glob("*.csv")
    (events,) = (folder / "boris").glob("*122332-122642_reencode.csv")
    dataset = prepare(pose, "--labels", events)
    assert dataset.card.fps == 30 and dataset.entries[0].individuals == ("adult", "juvenile")
    keypoints, labels = whole(dataset, "e3v813a-20210610T122332-122642")
    np.testing.assert_array_equal(keypoints, deeplabcut(pose, 4).reshape(5700, 2, 7, 2))
    np.testing.assert_array_equal(labels["interact"], bouts(events, 30, 5700))


@needs("mouse_freezing_behaviordepot")
def test_a_freezing_mouse_and_its_labels(folder):
    pose, marks = folder / "demo1/demo1_tracking.csv", folder / "demo1/hB_demo1_manual_annotations.mat.mat"
    dataset = prepare(pose, "--labels", marks, "--fps", "50")
    keypoints, labels = whole(dataset, "demo1_tracking")
    with h5py.File(marks) as file:
        expected = file["hBehavior/Freezing/Vector"][()].reshape(-1)
        starts = file["hBehavior/Freezing/Bouts"][0].astype(int)
    assert keypoints.shape == (6000, 1, 8, 2) and dataset.card.skeleton.keypoints[3] == "Tailbase"
    np.testing.assert_array_equal(keypoints[:, 0], deeplabcut(pose))
    np.testing.assert_array_equal(labels["Freezing"], expected)
    np.testing.assert_array_equal(np.flatnonzero(np.diff(labels["Freezing"], prepend=0) == 1) + 1, np.sort(starts))


@needs("mouse_freezing_behaviordepot")
def test_an_unlabelled_mouse(folder):
    pose = folder / "demo6/demo6_tracking.csv"
    keypoints, _ = whole(prepare(pose, "--fps", "50"), "demo6_tracking")
    assert keypoints.shape == (17918, 1, 4, 2)
    np.testing.assert_array_equal(keypoints[:, 0], deeplabcut(pose))


@needs("mouse_oft_rearing")
def test_an_open_field_mouse_by_the_majority_of_three_raters(folder):
    (pose,), (marks,) = folder.glob("*1030000.csv"), folder.glob("*_labels_3raters.csv")
    dataset = prepare(
        pose, "--labels", marks, "--fps", "25", "--ignore", "tl", "tr", "bl", "br", "centre", "--ignore-behaviours",
        "Start/End", "StartEnd", "--labels-beyond", "cut",
    )  # fmt: skip
    table = pd.read_csv(pose, header=None, skiprows=1)
    names = list(dict.fromkeys(table.iloc[0, 2:]))
    numbers = table.iloc[2:, 2:].to_numpy(np.float32).reshape(1998, 18, 3)
    keypoints, labels = whole(dataset, "8_01_A_190507134142")
    assert dataset.card.skeleton.keypoints == tuple(names[5:])
    np.testing.assert_array_equal(keypoints[:, 0], numbers[:, 5:, :2])
    events = pd.read_csv(marks)
    for behaviour in ("Supported", "Unsupported", "Grooming"):
        votes = np.zeros(1998)
        for rater in ("Jin", "Furkan", "Oliver"):
            seen = np.zeros(1998)
            chosen = events[(events.Experimenter == rater) & (events.type == behaviour) & (events["from"] < 79.9)]
            for start, stop in zip(chosen["from"], chosen["to"], strict=True):
                seen[round(start * 25) : max(round(stop * 25), round(start * 25) + 1)] = 1
            votes += seen
        np.testing.assert_array_equal(labels[behaviour], votes >= 2)
    assert set(labels) == {"Supported", "Unsupported", "Grooming"}


@needs("mouse_pair_crim13_simba")
def test_two_clips_of_two_mice_and_their_labels(folder):
    clips = [folder / f"Tvideo_{n}_trim.csv" for n in (25, 80)]
    dataset = prepare(*clips, "--labels", *clips, "--fps", "25", "--gap", "0")
    for path in clips:
        table = pd.read_csv(path)
        keypoints, labels = whole(dataset, path.stem)
        assert keypoints.shape == (101, 2, 8, 2)
        np.testing.assert_allclose(keypoints[:, 1, 2, 1], table["Nose_2_y"], rtol=1e-6)
        np.testing.assert_array_equal(labels["sniff"], table["sniff_prediction"])
        assert labels["sniff"].sum() == {"Tvideo_25_trim": 101, "Tvideo_80_trim": 91}[path.stem]
    assert len(dataset.card.tasks) == 11 and labels["chase"].sum() == 10


@needs("mouse_group_jabs")
def test_a_group_of_mice_whose_file_stores_rows_before_columns(folder):
    path = folder / "sample_pose_est_v5.h5"
    dataset = prepare(path, "--fps", "30")
    keypoints, _ = whole(dataset, "sample_pose_est_v5")
    assert keypoints.shape == (1800, 3, 12, 2)
    with h5py.File(path) as file:
        points, confidence, identity, hidden, count = (
            file[f"poseest/{key}"][()]
            for key in ("points", "confidence", "instance_embed_id", "id_mask", "instance_count")
        )
    for frame in range(0, 1800, 7):
        seen = np.full((3, 12, 2), np.nan, dtype=np.float32)
        for slot in range(count[frame]):
            if not hidden[frame, slot] and identity[frame, slot]:
                animal = np.where(confidence[frame, slot, :, None] > 0, points[frame, slot][:, ::-1], np.nan)
                seen[identity[frame, slot] - 1] = animal
        np.testing.assert_array_equal(keypoints[frame], seen)


@needs("mouse_pair_deepof")
def test_two_mice_out_of_a_file_with_pickled_names(folder):
    path = folder / "madlc_901frames.h5"
    dataset = prepare(path, "--fps", "25", "--front", "Nose", "--back", "Tail_base")
    keypoints, _ = whole(dataset, "madlc_901frames")
    with h5py.File(path) as file:
        rows = file["tracks/table"][()]["values_block_0"].astype(np.float32).reshape(901, 2, 14, 3)
    np.testing.assert_array_equal(
        keypoints, np.where(np.isnan(rows[..., :2]).any(-1, keepdims=True), np.nan, rows[..., :2])
    )
    assert dataset.entries[0].individuals == ("mouse_black_tail", "mouse_white_tail")


@needs("fly_pair_sleap")
@pytest.mark.parametrize("file", ["predictions.analysis.h5", "predictions.slp"])
def test_two_flies_by_either_file_of_sleap(folder, file):
    dataset = prepare(folder / file, "--fps", "25", "--front", "head", "--back", "abdomen")
    (name,) = {e.name.partition("@")[0] for e in dataset.entries}
    keypoints, _ = whole(dataset, name)
    with h5py.File(folder / "predictions.analysis.h5") as stored:
        expected = stored["tracks"][()].transpose(3, 0, 2, 1).astype(np.float32)
        nodes = tuple(n.decode() for n in stored["node_names"][()])
    assert keypoints.shape == (3000, 2, 13, 2) and dataset.card.skeleton.keypoints == nodes
    np.testing.assert_allclose(keypoints, expected, rtol=1e-6)


@needs("ibl_mouse_eks")
@pytest.mark.parametrize(("camera", "rate", "frames"), [("left", 60, 1000), ("right", 150, 2500)])
def test_each_camera_of_a_session_is_a_dataset_at_its_own_rate(folder, camera, rate, frames):
    (pose,) = (folder / "ibl-paw").glob(f"*.{camera}.rng=0.csv")
    (times,) = (folder / "ibl-paw").glob(f"*timestamps.{camera}.npy")
    assert round(1 / np.diff(np.load(times)).mean()) == rate
    dataset = prepare(pose, "--fps", rate)
    keypoints, _ = whole(dataset, pose.stem)
    assert keypoints.shape == (frames, 1, 2, 2) and dataset.card.skeleton.keypoints == ("paw_l", "paw_r")
    np.testing.assert_array_equal(keypoints[:, 0], deeplabcut(pose))


@needs("mouse_openfield_vame")
def test_a_mouse_in_an_open_field(folder):
    pose = folder / "cropped_video.csv"
    dataset = prepare(pose, "--fps", "25", "--front", "Nose", "--back", "Tailroot")
    keypoints, _ = whole(dataset, "cropped_video")
    assert keypoints.shape == (750, 1, 6, 2)
    np.testing.assert_array_equal(keypoints[:, 0], deeplabcut(pose))


@needs("zebrafish_stytra")
def test_a_fish_that_is_lost_most_of_the_time(folder):
    dataset = prepare(folder / "102929_behavior_log.hdf5", "--blocks", "2")
    keypoints, _ = whole(dataset, "102929_behavior_log")
    assert keypoints.shape == (8821, 1, 8, 2) and dataset.card.fps == pytest.approx(8820 / 48.19872, rel=1e-6)
    assert 0.75 < np.isnan(keypoints[:, 0, 0, 0]).mean() < 0.9  # 81.5 % of the rows
    assert any("4067.7 ms apart" in note for note in dataset.card.notes)


@needs("zebrafish_bouter")
def test_three_fish_and_the_bouts_that_the_lab_cut_from_the_log(folder):
    path = folder / "freely_swimming_dataset"
    dataset = prepare(path / "162934_behavior_log.hdf5")
    keypoints, _ = whole(dataset, "162934_behavior_log")
    assert keypoints.shape == (667, 3, 11, 2) and round(dataset.card.fps) == 167
    with h5py.File(path / "test_extracted_bouts.h5") as file:
        for fish in range(3):
            bout = file[f"bouts/i{fish}/i0"]
            names = [n.decode() for n in bout["axis0"][()]]
            rows = dict(zip(names, bout["block0_values"][()].T, strict=True))
            part = keypoints[bout["axis1"][()], fish]
            scale = part[:, 0] / np.stack([rows["x"], rows["y"]], -1)  # the lab's bouts are in mm
            np.testing.assert_allclose(scale, np.broadcast_to(scale[0, 0], scale.shape), rtol=1e-4)
            step = np.diff(part.astype(float), axis=1)
            angle = np.arctan2(step[..., 1], step[..., 0])
            tail = np.stack([rows[f"theta_{j:02d}"] for j in range(9)], 1)
            np.testing.assert_allclose(np.exp(1j * angle[:, 0]), np.exp(1j * rows["theta"]), atol=1e-3)
            np.testing.assert_allclose(np.exp(1j * (angle[:, 1:] - angle[:, :1])), np.exp(1j * tail), atol=1e-3)


@needs("zebrafish_bouter")
def test_a_head_fixed_tail_and_a_pair_of_eyes(folder):
    path = folder / "embedded_dataset/192316_behavior_log.hdf5"
    found = readers.tracks(path)
    with h5py.File(path) as file:
        names = [n.decode() for n in file["data/axis0"][()]]
        rows = dict(zip(names, file["data/block0_values"][()].T, strict=True))
    assert found.keypoints.shape == (1200, 1, 27, 2) and round(found.fps) == 300
    step = np.diff(found.keypoints[:, 0].astype(float), axis=1)
    angle = np.arctan2(step[..., 1], step[..., 0])[:, 1:]
    expected = np.stack([rows[f"theta_{j:02d}"] for j in range(25)], 1)
    np.testing.assert_allclose(angle, expected, atol=1e-5)
    np.testing.assert_allclose(angle[:, -2:].sum(1) - angle[:, :2].sum(1), rows["tail_sum"], atol=1e-4)
    eyes = readers.tracks(folder / "eyes_dataset/093151_behavior_log.hdf5")
    assert eyes.keypoints.shape == (1600, 1, 4, 2) and round(eyes.fps) == 200
    turn = eyes.keypoints[:, 0, 1] - eyes.keypoints[:, 0, 0]
    degrees = np.degrees(np.arctan2(turn[:, 1], turn[:, 0]))
    assert degrees.min() == pytest.approx(-105.446, abs=0.01) and degrees.max() == pytest.approx(-77.242, abs=0.01)


@needs("zebrafish_zebrazoom")
def test_a_hundred_and_twenty_bouts_in_wells(folder):
    dataset = recipe("zebrazoom.py", "--raw", folder)
    frames = [e.frames for e in dataset.entries]
    assert len(frames) == 120 and sum(frames) == 2059 + 1577 and (min(frames), max(frames)) == (11, 233)
    assert len({e.subject for e in dataset.entries}) == 24 and len(dataset.card.skeleton.keypoints) == 11
    first = dataset.keypoints(dataset.entries[0])[0, 0]
    np.testing.assert_allclose(first[0], [112.273, 1081.71], rtol=1e-6)
    assert first[1].tolist() == [114, 1079] and first[10].tolist() == [109, 1043]


@needs("bee_dance_klcpd")
def test_bees_and_the_changes_of_their_dance(folder):
    files = [folder / f"beedance-{n}.mat" for n in range(1, 5)]
    dataset = prepare(*files, "--labels", *files, "--fps", "30", "--front", "heading", "--back", "head")
    for path, frames, changes in zip(files, (1057, 1124, 602, 756), (19, 22, 16, 17), strict=True):
        stored = io.loadmat(path)
        keypoints, labels = whole(dataset, path.stem)
        assert keypoints.shape == (frames, 1, 2, 2) and labels["change"].sum() == changes
        np.testing.assert_allclose(keypoints[:, 0, 0], stored["Y"][:, :2], atol=1e-7)
        np.testing.assert_array_equal(labels["change"], stored["L"][:, 0])


@needs("robot_go1_foot")
def test_a_robots_foot_on_three_surfaces(folder):
    dataset = recipe("robot_foot.py", "--raw", folder)
    assert dataset.card.task("surface").classes == ("normal", "soft", "slippery") and dataset.card.fps == 250
    table = pd.read_csv(folder / "dataset_spike_stroma.csv", header=None).to_numpy()
    second = next(e for e in dataset.entries if e.name == "dataset_spike_stroma_003s")
    found = dataset.keypoints(second)[:, 0]
    np.testing.assert_allclose(found[:, 0], table[750:1000, 1:4], rtol=1e-6)
    np.testing.assert_allclose(found[:, 1], table[750:1000, 4:7], rtol=1e-6)
    np.testing.assert_allclose(100 * found[:, 2, 2], table[1500:2000:2, 0], rtol=1e-6)
    assert dataset.labels(second)["surface"] == 1 and np.isfinite(found).all()
    assert {e.split for e in dataset.entries} == {"train", "gap", "test"} and len(dataset.entries) == 9 + 11 + 10


@needs("monkey_reach_myow")
def test_a_reaching_monkey_and_its_motor_cortex(folder):
    dataset = recipe("neural_session.py", "--raw", folder)
    stored = np.load(folder / "derived/chewie_10032013_bin100ms.npz")
    assert len(dataset.entries) == 159 and sum(e.frames for e in dataset.entries) == 1640
    assert dataset.card.fps == 10 and {e.units for e in dataset.entries} == {174}
    counts = sum(float(dataset.neural(e).sum(dtype=np.float64)) for e in dataset.entries)
    assert counts == pytest.approx(stored["firing_rates"].sum() * 0.1, rel=1e-6)


@needs("rat_hippocampus_nelpy")
def test_a_rat_on_a_track_and_its_hippocampus(folder):
    dataset = recipe("neural_session.py", "--raw", folder, "--bin", "0.1")
    assert dataset.card.fps == 10 and min(e.units for e in dataset.entries) > 20
    raw = (folder / "linear-track/trajectory.videoPositionTracking").read_bytes()
    kinds = [("time", "<u4"), ("x", "<u2"), ("y", "<u2"), ("x2", "<u2"), ("y2", "<u2")]
    rows = np.frombuffer(raw.partition(b"<End settings>\n")[2], dtype=np.dtype(kinds))
    for entry in dataset.entries[:5]:
        seen = dataset.keypoints(entry)
        assert np.nanmax(seen[..., 0]) <= rows["x"].max() and np.nanmax(seen[..., 1]) <= rows["y"].max()


@needs("mirror_mouse_video")
def test_a_video_and_its_ninety_marked_pictures(folder):
    pytest.importorskip("av", reason="PyAV (the extra `video`) is not installed")
    dataset = recipe("beast_video.py", "--raw", folder, "--size", "small")
    assert dataset.card.fps == 250 and all(e.picture is not None for e in dataset.entries)
    marked = store.open("real_labelled")
    assert len(marked.entries) == 90 and len(marked.card.skeleton.keypoints) == 17


@needs("labels_and_splits")
def test_the_frame_map_of_mabe22(folder):
    spans = safe.load(folder / "mabe22/mouse_triplet_frame_number_map.npy")
    derived = pd.read_json(folder / "mabe22/mouse_triplet_frame_number_map.derived.json", typ="series")
    assert {k: tuple(map(int, v)) for k, v in spans.items()} == {k: tuple(v) for k, v in derived.items()}
    edges = np.array(sorted(tuple(map(int, v)) for v in spans.values()))
    assert len(edges) == 3736 and (np.diff(edges) == 1800).all() and edges[-1, 1] == 6_724_800
    assert edges[0, 0] == 0 and (edges[1:, 0] == edges[:-1, 1]).all()


@needs("labels_and_splits")
def test_the_labels_of_calms21_by_frame_and_by_interval(folder):
    by_frame = asoid.sequences(folder / "calms21/asoid_test_labels.csv")
    everything = np.concatenate(list(by_frame.values()))
    assert len(by_frame) == 19 and np.bincount(everything).tolist() == [12_630, 61_275, 31_848, 156_354]
    for side, groups in (("train", 70), ("test", 19)):
        assert len(readers.recordings(folder / f"vassi/mice_{side}_annotations.csv")) == groups
    path = folder / "vassi/mice_test_annotations.csv"
    table = pd.read_csv(path)
    assert sorted(map(str, table.group.unique())) == sorted(readers.recordings(path))
    matched = 0
    for group, rows in table.groupby("group"):
        found = readers.labels(path, f"{group}.csv")
        assert set(found.behaviours) == {"investigation", "mount", "attack"}
        for name, values in found.values.items():
            expected = np.zeros(rows.stop.max() + 1)
            for start, stop in zip(rows[rows.category == name].start, rows[rows.category == name].stop, strict=True):
                expected[start : stop + 1] = 1
            np.testing.assert_array_equal(values, expected)
        counts = {name: int(values.sum()) for name, values in found.values.items()}
        matched += any(
            len(classes) == rows.stop.max() + 1
            and [int((classes == c).sum()) for c in range(3)]
            == [counts[n] for n in ("attack", "investigation", "mount")]
            for classes in by_frame.values()
        )
    assert matched == 19


@needs("labels_and_splits")
def test_the_other_labels(folder):
    for name, frames in (("2019_06_26_fly2", 45_001), ("2019_08_07_fly2", 50_001)):
        path = folder / f"fly_hand_labels/{name}.csv"
        found, table = readers.labels(path, f"{name}.h5"), pd.read_csv(path, index_col=0)
        assert found.behaviours == tuple(table.columns) and len(table) == frames
        for behaviour in found.behaviours:
            np.testing.assert_array_equal(found.values[behaviour], table[behaviour])
    for name, key in (("AllLabDataOFT_final", "DLCFile"), ("AllEPMLables", "DLCFile"), ("AllFSTLables", "ID")):
        path = folder / f"dlcanalyzer_raters/{name}.csv"
        table = pd.read_csv(path, sep=";")
        assert table.ID.nunique() == {"AllLabDataOFT_final": 20, "AllEPMLables": 5, "AllFSTLables": 10}[name]
        video = table[key].iloc[0]
        found, rows = readers.labels(path, str(video)), table[table[key] == video]
        assert set(found.raters) == set(rows.Experimenter) and len(found.raters) >= 3
        for rater, seen in found.raters.items():
            for behaviour, spans in seen.items():
                chosen = rows[(rows.Experimenter == rater) & (rows.type == behaviour)]
                expected = sorted(map(tuple, chosen[["from", "to"]].to_numpy()))
                np.testing.assert_allclose(spans, expected, atol=1e-9)
    groups = readers.recordings(folder / "vassi/cichlids_annotations.csv")
    found = readers.labels(folder / "vassi/cichlids_annotations.csv", sorted(groups)[0])
    assert len(groups) == 9 and len(found.behaviours) == 6
