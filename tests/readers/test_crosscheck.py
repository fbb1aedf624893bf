"""What other readers make of the same files: `movement` and `sleap-io` agree with ours to 1e-6, missing points too.

Neither is needed to use or to test the package: where they are absent (the extra `crosscheck`) this file is skipped.
Where we differ on purpose, the test says so.
"""

from pathlib import Path

import h5py
import numpy as np
import pytest

from ethoray import readers, writers
from ethoray.readers import ReadError, Tracks

DATA = Path(__file__).parents[2] / "../shared/data"
POSES = {
    "mouse_pair_ethome/*.csv": "from_dlc_file",
    "mouse_freezing_behaviordepot/demo1/demo1_tracking.csv": "from_dlc_file",
    "mouse_freezing_behaviordepot/demo6/demo6_tracking.csv": "from_dlc_file",
    "mouse_openfield_vame/cropped_video.csv": "from_dlc_file",
    "ibl_mouse_eks/ibl-paw/*.left.rng=0.csv": "from_lp_file",
    "ibl_mouse_eks/ibl-paw/*.right.rng=4.csv": "from_lp_file",
    "fly_pair_sleap/predictions.analysis.h5": "from_sleap_file",
    "fly_pair_sleap/predictions.slp": "from_sleap_file",
}


@pytest.fixture(scope="module")
def movement():
    """The package, with the readers and writers of poses."""
    package = pytest.importorskip("movement", reason="movement is not installed (the extra `crosscheck`)")
    pytest.importorskip("movement.io.load_poses")
    pytest.importorskip("movement.io.save_poses")
    return package.io


@pytest.fixture(scope="module")
def sleap_io():
    """The package."""
    return pytest.importorskip("sleap_io", reason="sleap-io is not installed (the extra `crosscheck`)")


def real(pattern):
    found = sorted(DATA.glob(pattern))
    if not found:
        pytest.skip(f"the recordings of {pattern.partition('/')[0]} are not here")
    return found[0]


def theirs(poses):
    """Keypoints and confidence of movement's data set, in our order of axes."""
    keypoints = poses.position.transpose("time", "individuals", "keypoints", "space").to_numpy()
    confidence = poses.confidence.transpose("time", "individuals", "keypoints").to_numpy()
    names = tuple(map(str, poses.keypoints.to_numpy()))
    return Tracks(keypoints, confidence, tuple(map(str, poses.individuals.to_numpy())), names)


def agree(ours, other):
    """The same names, points and confidence; float32 keeps 1e-6 of a coordinate's size."""
    assert ours.names == other.names and ours.keypoints.shape == other.keypoints.shape
    np.testing.assert_array_equal(np.isnan(ours.keypoints), np.isnan(other.keypoints))
    np.testing.assert_allclose(ours.keypoints, other.keypoints, rtol=1e-6, atol=1e-6)
    if ours.confidence is not None and other.confidence is not None:
        seen = ~np.isnan(other.confidence)
        np.testing.assert_allclose(ours.confidence[seen], other.confidence[seen], rtol=1e-6, atol=1e-6)


def invented(individuals, *, seed=0, frames=40, missing=True):
    rng = np.random.default_rng(seed)
    keypoints = rng.normal(300, 100, (frames, individuals, 4, 2)).astype(np.float32)
    confidence = rng.uniform(0, 1, keypoints.shape[:3]).astype(np.float32)
    if missing:
        keypoints[rng.uniform(size=confidence.shape) < 0.1] = np.nan
    return Tracks(
        keypoints, confidence, tuple(f"mouse_{i}" for i in range(individuals)), ("nose", "left", "right", "tail")
    )


@pytest.mark.parametrize(("pattern", "reader"), POSES.items(), ids=lambda text: str(text).partition("/")[0])
def test_movement_reads_the_same_out_of_real_files(movement, pattern, reader):
    path = real(pattern)
    agree(readers.tracks(path), theirs(getattr(movement.load_poses, reader)(path, fps=30)))


@pytest.mark.parametrize("individuals", [1, 3])
def test_movement_reads_what_we_write_as_deeplabcut(movement, tmp_path, individuals):
    tracks = invented(individuals)
    writers.write_deeplabcut(tracks, tmp_path / "a.csv")
    agree(tracks, theirs(movement.load_poses.from_dlc_file(tmp_path / "a.csv", fps=30)))


@pytest.mark.parametrize(
    ("writer", "name", "individuals"),
    [
        ("to_dlc_file", "a.csv", 1),
        ("to_dlc_file", "a.csv", 3),
        ("to_dlc_file", "a.h5", 1),
        ("to_dlc_file", "a.h5", 3),
        ("to_lp_file", "a.csv", 1),
        ("to_sleap_analysis_file", "a.h5", 1),
        ("to_sleap_analysis_file", "a.h5", 3),
    ],
)
def test_we_read_what_movement_writes(movement, tmp_path, writer, name, individuals):
    tracks = invented(individuals)
    poses = movement.load_poses.from_numpy(
        tracks.keypoints.transpose(0, 3, 2, 1).astype(np.float64),
        tracks.confidence.transpose(0, 2, 1).astype(np.float64),
        individual_names=list(tracks.individuals), keypoint_names=list(tracks.names), fps=30,
    )  # fmt: skip
    options = {"split_individuals": False} if writer == "to_dlc_file" else {}
    getattr(movement.save_poses, writer)(poses, tmp_path / name, **options)
    (written,) = tmp_path.iterdir()  # Lightning Pose's writer adds the animal's name
    agree(readers.tracks(written), tracks)


def test_both_read_anipose_but_we_ask_for_no_name(movement, tmp_path):
    rng = np.random.default_rng(0)
    columns = [f"{k}_{c}" for k in ("nose", "tail") for c in ("x", "y", "z", "score", "error", "ncams")]
    center = [f"center_{i}" for i in range(3)] + [f"M_{i}{j}" for i in range(3) for j in range(3)] + ["fnum"]
    rows = np.column_stack([rng.uniform(0, 1, (9, 12)), rng.uniform(0, 1, (9, 12)), np.arange(9)])
    text = "\n".join([",".join(columns + center), *(",".join(map(repr, row)) for row in rows.tolist())])
    (tmp_path / "a.csv").write_text(text + "\n")
    ours = readers.tracks(tmp_path / "a.csv")
    agree(ours, theirs(movement.load_poses.from_anipose_file(tmp_path / "a.csv", fps=30)))


def test_sleap_io_reads_the_same_flies(sleap_io):
    """The file of instances; its reader of analysis files wants point scores, which older ones lack."""
    path = real("fly_pair_sleap/predictions.slp")
    labels = sleap_io.load_file(str(path))
    found = labels.numpy(return_confidence=True)
    other = Tracks(found[..., :2], found[..., 2], ("0", "1"), tuple(labels.skeletons[0].node_names))
    ours = readers.tracks(path)
    assert ours.individuals == tuple(track.name for track in labels.tracks)
    agree(ours, other)


def test_sleap_io_stores_mice_as_we_read_them(sleap_io):
    """JABS stores rows before columns; both give x before y.

    We differ on purpose in one thing: ours are the long-term identities and leave out animals that the file masks,
    sleap-io's are all instances of a frame.
    """
    path = real("mouse_group_jabs/sample_pose_est_v2.h5")
    frames = {lf.frame_idx: lf.instances for lf in sleap_io.load_jabs(str(path)).labeled_frames}
    ours = readers.tracks(path)
    compared = 0
    for frame, instances in frames.items():
        if len(instances) == 1:
            np.testing.assert_allclose(ours.keypoints[frame, 0], instances[0].numpy(), rtol=1e-6)
            compared += 1
    assert compared > 1700


def test_a_table_of_deeplabcut_in_hdf5_is_read_alike_without_running_its_pickle(movement, tmp_path):
    """movement reads the file by pandas, which runs the pickled attributes, under one key; ours only follows them."""
    path = real("mouse_pair_deepof/madlc_901frames.h5")
    with h5py.File(path) as file, h5py.File(tmp_path / "renamed.h5", "w") as renamed:
        file.copy("tracks", renamed, "df_with_missing")
    agree(readers.tracks(path), theirs(movement.load_poses.from_dlc_file(tmp_path / "renamed.h5", fps=25)))


def test_a_square_arena_is_read_alike(movement):
    path = real("mouse_pair_deepof/square_arena_451frames.h5")
    agree(readers.tracks(path), theirs(movement.load_poses.from_dlc_file(path, fps=25)))


def test_nwb_of_movement_is_read_alike(movement, tmp_path):
    pynwb = pytest.importorskip("pynwb", reason="pynwb is not installed")
    tracks = invented(1, missing=True)
    poses = movement.load_poses.from_numpy(
        tracks.keypoints.transpose(0, 3, 2, 1).astype(np.float64),
        tracks.confidence.transpose(0, 2, 1).astype(np.float64),
        individual_names=["mouse_0"], keypoint_names=list(tracks.names), fps=30,
    )  # fmt: skip
    session = movement.save_poses.to_nwb_file(poses)
    session = session[0] if isinstance(session, list) else session
    with pynwb.NWBHDF5IO(tmp_path / "a.nwb", "w") as file:
        file.write(session)
    try:
        ours = readers.tracks(tmp_path / "a.nwb")
    except ReadError as error:
        pytest.fail(f"a file of movement is refused: {error}")
    order = [ours.names.index(name) for name in tracks.names]
    agree(Tracks(ours.keypoints[:, :, order], ours.confidence[:, :, order], ours.individuals, tracks.names), tracks)
