from datetime import UTC, datetime

import h5py
import numpy as np
import pytest

from ethoray import readers
from ethoray.readers import ReadError, nwb
from ethoray.readers.nwb_layout import fitted, located

T = 50
TIMES = 2 + np.arange(T) / 30
NOSE = np.arange(T * 2.0).reshape(T, 2)


def group(parent, name, kind, **attrs):
    made = parent.require_group(name)
    made.attrs.update({"neurodata_type": kind, "namespace": "ndx-pose" if "Pose" in kind else "core"} | attrs)
    return made


def series(parent, name, data, times=None, kind="PoseEstimationSeries", unit="pixels", frame="top left", **data_attrs):
    made = group(parent, name, kind)
    made["data"] = data
    made["data"].attrs.update({"conversion": 1.0, "offset": 0.0, "resolution": -1.0, "unit": unit} | data_attrs)
    made["reference_frame"] = frame
    if isinstance(times, str):
        made["timestamps"] = h5py.SoftLink(times)
    elif isinstance(times, tuple):
        made["starting_time"], made["starting_time"].attrs["rate"] = times[0], times[1]
    elif times is not None:
        made["timestamps"] = times
    return made


@pytest.fixture
def path(tmp_path):
    return tmp_path / "session"  # no ending: content decides


def begun(path):
    file = h5py.File(path, "w")
    file.attrs.update({"nwb_version": "2.11.0", "neurodata_type": "NWBFile", "namespace": "core"})
    for name in ("acquisition", "analysis", "processing", "specifications"):
        file.create_group(name)
    return file, group(file["processing"], "behavior", "ProcessingModule")


def mouse(path, times=TIMES, nodes=("tail", "nose"), names=("PoseEstimation",), source=None, **nose):
    """The layout of ndx-pose 0.2 and later: a skeleton linked by its own name, timestamps shared through a link."""
    file, behavior = begun(path)
    with file:
        skeleton = group(group(behavior, "Skeletons", "Skeletons"), "mouse", "Skeleton")
        skeleton["nodes"] = list(nodes)
        for n, name in enumerate(names):
            pose = group(behavior, name, "PoseEstimation")
            pose["mouse"] = h5py.SoftLink("/processing/behavior/Skeletons/mouse")
            if source:
                pose["original_videos"] = [source if isinstance(source, str) else source[n]]
            made = series(
                pose, "nose", nose.get("data", NOSE + n), times, **{k: v for k, v in nose.items() if k != "data"}
            )
            made["confidence"] = np.linspace(0, 1, len(made["data"]))
            series(pose, "tail", NOSE + 5, f"/processing/behavior/{name}/nose/timestamps")["confidence"] = np.ones(T)
    return path


def test_a_pose_is_read_in_the_order_of_its_skeleton_by_its_content(path):
    found = readers.tracks(mouse(path))
    assert found.names == ("tail", "nose") and found.individuals == ("individual_0",) and found.fps == 30
    np.testing.assert_array_equal(found.keypoints[:, 0, 1], NOSE)
    np.testing.assert_array_equal(found.keypoints[:, 0, 0], NOSE + 5)
    np.testing.assert_allclose(found.confidence[:, 0, 1], np.linspace(0, 1, T), atol=1e-6)
    assert nwb.timed(path).start == pytest.approx(2) and nwb.timed(path).unit == "pixels"
    assert np.isnan(readers.tracks(path, min_confidence=0.5).keypoints[: T // 2, 0, 1]).all()
    assert readers.tracks(path, ignore=["Tail"]).names == ("nose",)


def test_stored_numbers_become_their_unit(path):
    with h5py.File(mouse(path, unit="meters", conversion=0.01, offset=1.0)) as file:
        assert nwb.containers(path, file)[0].name == "PoseEstimation"
    np.testing.assert_allclose(nwb.tracks(path, ignore=["tail"]).keypoints[:, 0, 0], NOSE * 0.01 + 1, rtol=1e-6)
    assert nwb.timed(path, ignore=["tail"]).unit == "meters"


def test_rows_before_columns_are_turned_and_noted(path):
    found = readers.tracks(mouse(path, frame="(row, column) from the top left"), ignore=["tail"])
    np.testing.assert_array_equal(found.keypoints[:, 0, 0], NOSE[:, ::-1])
    assert any("turned to x, y" in note for note in found.notes)


def test_dropped_frames_and_missing_places_are_nan(path):
    times = np.delete(2 + np.arange(T + 3) / 30, [10, 11, 20])
    data = NOSE.copy()
    data[5, 0] = np.nan
    found = readers.tracks(mouse(path, times=times, data=data), ignore=["tail"])
    assert found.keypoints.shape == (T + 3, 1, 1, 2)
    assert np.flatnonzero(np.isnan(found.keypoints[:, 0, 0, 0])).tolist() == [5, 10, 11, 20]
    np.testing.assert_array_equal(found.keypoints[12, 0, 0], NOSE[10])
    assert "3 of 53 frames have no timestamp and are missing" in found.notes


def test_times_become_the_grid_they_lie_on(path):
    rng = np.random.default_rng(0)
    exact = 100 + np.arange(20_000) / 59.94
    made = fitted(path, exact + rng.uniform(-0.15, 0.15, len(exact)) / 59.94, "t")
    assert made.fps == pytest.approx(59.94, abs=1e-3) and made.frames == 20_000 and made.off < 0.25
    np.testing.assert_allclose(made.start + made.frame / made.fps, exact, atol=0.2 / 59.94)
    late = np.concatenate([np.arange(100), 70_000 + np.arange(100)])
    assert fitted(path, late / 30.003, "t").frame.tolist() == late.tolist()
    single = fitted(path, np.array([0, 0.5]), "t")
    assert (single.fps, single.start, single.frames) == (2, 0, 2)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (TIMES[::-1], r"does not increase: 3.633333 s \(sample 0\) is followed by 3.600000 s"),
        (
            np.cumsum(np.random.default_rng(1).uniform(0.02, 0.05, T)),
            "is not regular: steps of 2.* ms around .* resample",
        ),
        (np.where(np.arange(T) == 7, np.nan, TIMES), "50 values, 49 finite"),
        (TIMES[:-1], r"50 samples and timestamps of shape \(49,\)"),
        ((2.0, 0.0), "at a rate of 0 Hz"),
        (None, "neither timestamps nor starting_time"),
    ],
)
def test_times_that_give_no_frame_rate_are_errors_with_numbers(path, times, message):
    with pytest.raises(ReadError, match=message):
        nwb.tracks(mouse(path, times=times), ignore=["tail"])


def test_animals_of_one_video_are_individuals_and_cameras_must_be_chosen(tmp_path):
    found = readers.tracks(mouse(tmp_path / "a", names=("a", "b"), source="v.mp4"))
    assert found.individuals == ("a", "b") and found.keypoints.shape == (T, 2, 2, 2)
    np.testing.assert_array_equal(found.keypoints[:, 1, 1], NOSE + 1)
    for name, source in (("c", ("left.mp4", "right.mp4")), ("d", None)):
        cameras = mouse(tmp_path / name, names=("left", "right"), source=source)
        with pytest.raises(ReadError, match=r"2 poses .*behavior/left \(2 keypoints\).*Choose"):
            readers.tracks(cameras)
        assert nwb.tracks(cameras, pose="right").keypoints[0, 0, 1, 0] == 1
        assert readers.tracks(cameras, ignore=["left"]).keypoints[0, 0, 1, 0] == 1
        assert nwb.tracks(cameras, pose="right, left").individuals == ("right", "left")
        with pytest.raises(ReadError, match="no pose 'top'"):
            nwb.tracks(cameras, pose="top")


def test_nodes_of_the_first_ndx_pose_give_the_order(path):
    file, behavior = begun(path)
    with file:
        pose = group(behavior, "PoseEstimation", "PoseEstimation")
        pose["nodes"] = ["tail", "nose"]
        for name in ("Nose", "Tail"):
            series(pose, f"PoseEstimationSeries{name}", NOSE, (0.0, 25.0))
    assert readers.tracks(path).names == ("Tail", "Nose") and readers.tracks(path).fps == 25


def test_positions_are_read_where_there_is_no_pose_and_angles_never(path):
    file, behavior = begun(path)
    with file:
        position = group(behavior, "Position", "Position")
        series(position, "led", NOSE, (5.0, 30.0), "SpatialSeries", "cm")
        series(position, "line", NOSE[:, 0], (5.0, 30.0), "SpatialSeries", "cm")
        compass = group(behavior, "CompassDirection", "CompassDirection")
        series(compass, "head", NOSE, (5.0, 30.0), "SpatialSeries", "radians")
    found = nwb.timed(path)
    assert found.tracks.names == ("led",) and found.start == 5 and found.unit == "cm" and found.tracks.fps == 30
    with h5py.File(path, "a") as file:
        del file["processing/behavior/Position/led"]
    with pytest.raises(ReadError, match="NWB without a pose"):
        nwb.tracks(path)


def test_links_are_followed_inside_the_file_only(tmp_path, path):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["times"] = TIMES
    mouse(path)
    with h5py.File(path, "a") as file:
        nose = file["processing/behavior/PoseEstimation/nose"]
        del nose["timestamps"]
        nose["timestamps"] = h5py.ExternalLink(str(secret), "/times")
    with pytest.raises(ReadError, match=r"link to another file .*secret.h5.* not followed"):
        readers.tracks(path)
    with h5py.File(path, "a") as file:
        del file["processing/behavior/PoseEstimation/nose/timestamps"]
        file["processing/behavior/PoseEstimation/nose/timestamps"] = h5py.SoftLink("../nose/timestamps")
        file["round"] = h5py.SoftLink("/round")
        file["processing/behavior/again"] = file["processing"]  # a circle of hard links
        with pytest.raises(ReadError, match="in a circle"):
            located(path, file, "round/x")
    with pytest.raises(ReadError):
        readers.tracks(path)


def test_positions_that_lie_in_another_file_are_refused(path):
    file, behavior = begun(path)
    with file:
        position = series(group(behavior, "Position", "Position"), "led", NOSE, (5.0, 30.0), "SpatialSeries")
        del position["data"]
        position["data"] = h5py.ExternalLink("elsewhere.h5", "/x")
    with pytest.raises(ReadError, match=r"'elsewhere.h5'.* not followed"):
        readers.tracks(path)


def test_a_cut_file_is_an_error(path):
    mouse(path)
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(ReadError, match="cut off"):
        readers.tracks(path)


def test_the_layout_here_is_the_one_pynwb_writes(tmp_path, path):
    pynwb = pytest.importorskip("pynwb", reason="the extra nwb is not installed")
    ndx_pose = pytest.importorskip("ndx_pose", reason="the extra nwb is not installed")
    written = pynwb.NWBFile("a session", "id", datetime(2020, 1, 1, tzinfo=UTC))
    behavior = written.create_processing_module("behavior", "tracks")
    skeleton = ndx_pose.Skeleton(name="mouse", nodes=["tail", "nose"])
    behavior.add(ndx_pose.Skeletons(skeletons=[skeleton]))
    made = {"reference_frame": "top left", "confidence_definition": "softmax"}
    nose = ndx_pose.PoseEstimationSeries(
        name="nose", data=NOSE, timestamps=TIMES, confidence=np.linspace(0, 1, T), **made
    )
    tail = ndx_pose.PoseEstimationSeries(name="tail", data=NOSE + 5, timestamps=nose, confidence=np.ones(T), **made)
    behavior.add(ndx_pose.PoseEstimation(pose_estimation_series=[nose, tail], skeleton=skeleton))
    with pynwb.NWBHDF5IO(str(tmp_path / "real.nwb"), "w") as io:
        io.write(written)
    real, ours = readers.tracks(tmp_path / "real.nwb"), readers.tracks(mouse(path))
    assert (real.names, real.fps, real.individuals) == (ours.names, ours.fps, ours.individuals)
    np.testing.assert_array_equal(real.keypoints, ours.keypoints)
    np.testing.assert_array_equal(real.confidence, ours.confidence)
    with h5py.File(tmp_path / "real.nwb") as one, h5py.File(path) as other:
        for key in ("PoseEstimation", "PoseEstimation/nose", "Skeletons/mouse"):
            a, b = one[f"processing/behavior/{key}"], other[f"processing/behavior/{key}"]
            assert set(b) <= set(a) and a.attrs["neurodata_type"] == b.attrs["neurodata_type"]
        for key in ("PoseEstimation/mouse", "PoseEstimation/tail/timestamps"):
            links = [f.get(f"processing/behavior/{key}", getlink=True).path for f in (one, other)]
            assert links[0] == links[1]
