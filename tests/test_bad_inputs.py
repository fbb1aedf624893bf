"""What people really have on disk: strange animals, lengths, units, labels and names. Each is told, none is lost."""

from dataclasses import replace

import numpy as np
import pytest

from ethoray import store
from ethoray.batch import Windows
from ethoray.cli import main
from ethoray.experiment import Experiment, run
from ethoray.learning import Budget
from ethoray.methods.bams import BAMS
from ethoray.methods.pca import PCA
from ethoray.probes.linear import Linear
from ethoray.schema import Card, Recording, SchemaError, Skeleton, Task
from ethoray.testing.toy import toy_card, toy_recordings
from ethoray.wording import WordingError, budget, configure

TINY = BAMS(
    features="generic", short_channels=(8, 8), long_channels=(8, 8, 8), head=(16,), warmup=0.5, horizon=0.5, pairs=4
)  # fmt: skip
CLUTTER = (
    "..", ".", "../outside", "a/b", "/etc/passwd", "a\\b", "nul\0l", "line\nbreak", "tab\tbed", 'quo"te', "", " lead",
    "x" * 201, ".hidden",
)  # fmt: skip
ODD = ("%2e%2e", "CON", "a#b?c=d", "spaces in it", "cafe\u0301", "caf\u00e9", "-rf", "~", "$HOME", "a;b&c|d", "日本")


def strange() -> list[Recording]:
    """Toy recordings with what tracking does: a frame, a lost animal, one that comes and goes, a frozen keypoint."""
    recordings = toy_recordings(6, seconds=12, missing=0.0)
    lost, comes, frozen, swapped = (r.keypoints.copy() for r in recordings[:4])
    lost[:, 1] = np.nan
    comes[: len(comes) // 2, 0] = np.nan
    comes[len(comes) // 3 :, 1] = np.nan
    frozen[:, :, 6] = (320.0, 240.0)
    swapped[100:200] = swapped[100:200, ::-1]
    for i, keypoints in enumerate((lost, comes, frozen, swapped)):
        recordings[i] = replace(recordings[i], keypoints=keypoints)
    for frames, name in ((1, "single"), (7, "short")):
        cut = recordings[4]
        labels = {k: v if np.ndim(v) == 0 else v[:frames] for k, v in cut.labels.items()}
        recordings.append(
            replace(cut, name=name, subject=name, keypoints=cut.keypoints[:frames] + 1, confidence=None, labels=labels)
        )
    return recordings


def mute(recordings, task, split):
    """Make a task's label 0 on one side."""
    for i, r in enumerate(recordings):
        if r.split == split:
            recordings[i] = replace(r, labels={**r.labels, task: np.zeros(r.frames)})
    return recordings


@pytest.mark.parametrize("method", [PCA(components=3), TINY], ids=lambda m: m.name)
@pytest.mark.parametrize("absent", [None, "test"])
@pytest.mark.filterwarnings("ignore:.*(positive|class|task).*")
def test_strange_recordings_are_all_kept_and_every_score_is_a_number(tmp_path, method, absent):
    recordings = strange() if absent is None else mute(strange(), "running", absent)
    dataset = store.prepare(toy_card(), recordings, str(tmp_path / "strange"))
    assert {e.name: e.frames for e in dataset.entries} == {r.name: r.frames for r in recordings}
    for recording, entry in zip(recordings, dataset.entries, strict=True):
        np.testing.assert_array_equal(dataset.keypoints(entry), recording.keypoints)
    windows = Windows(dataset.uri, seconds=4.0, batch_size=2)
    scores = run(Experiment(windows, method, (Linear(),), Budget(steps=4, device="cpu")), tmp_path / "run")
    assert scores and np.isfinite(list(scores.values())).all()


@pytest.mark.parametrize("name", CLUTTER)
def test_names_that_could_leave_the_folder_are_refused(name):
    with pytest.raises(SchemaError, match="1 to 200 characters"):
        Recording(name, "animal", 30, Skeleton(("nose",)), np.zeros((2, 1, 1, 2)))
    with pytest.raises(SchemaError, match="1 to 200 characters"):
        Recording("recording", name, 30, Skeleton(("nose",)), np.zeros((2, 1, 1, 2)))
    with pytest.raises(SchemaError, match="1 to 200 characters"):
        Task(name)
    with pytest.raises(SchemaError, match="1 to 200 characters"):
        Card(name, "mouse", 30, Skeleton(("nose",)))


def test_odd_names_stay_names_and_nothing_is_written_outside(tmp_path):
    rng = np.random.default_rng(0)
    skeleton = Skeleton(("nose", "tail"))
    recordings = [Recording(n, n, 30, skeleton, rng.normal(size=(40, 1, 2, 2)), individuals=(n,)) for n in ODD]
    (tmp_path / "inside").mkdir()
    dataset = store.prepare(Card("odd", "mouse", 30, skeleton), recordings, str(tmp_path / "inside" / "odd"))
    assert [e.name for e in dataset.entries] == list(ODD)
    assert [p.name for p in tmp_path.iterdir()] == ["inside"]
    assert [p.name for p in (tmp_path / "inside").iterdir() if not p.name.startswith(".")] == ["odd"]
    assert not {p.stem for p in (tmp_path / "inside").rglob("*")} & set(ODD)


def table(path, name="mouse", frames=400, seed=0):
    rng = np.random.default_rng(seed)
    rows = [
        f"{f},{k},{x:.3f},{y:.3f}"
        for f in range(frames)
        for k, (x, y) in zip("ab", rng.normal(size=(2, 2)), strict=True)
    ]
    path.write_text("frame,keypoint,x,y\n" + "\n".join(rows) + "\n")
    return path


def refused(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main(["prepare", *map(str, words)])
    assert end.value.code == 2
    told = capsys.readouterr().err.strip()
    assert told.startswith("ethoray: ") and "\n" not in told
    return told


def test_one_track_under_two_names_on_both_sides_is_refused(tmp_path, capsys):
    files = [table(tmp_path / f"mouse{i}.csv", seed=0) for i in range(3)]
    told = refused(capsys, *files, "--fps", 30, "--out", tmp_path / "leak")
    assert "same track" in told and "mouse0" in told
    assert not (tmp_path / "leak" / "manifest.json").exists()


def test_one_animal_is_never_on_both_sides(tmp_path):
    files = [table(tmp_path / f"day{i}.csv", seed=i) for i in range(4)]
    main(
        ["prepare", *map(str, files), "--subjects", "A", "A", "B", "B", "--fps", "30", "--out", str(tmp_path / "days")]
    )
    sides = {}
    for entry in store.open(str(tmp_path / "days")).entries:
        sides.setdefault(entry.subject, set()).add(entry.split)
    assert set(map(len, sides.values())) == {1} and set.union(*sides.values()) == {"train", "test"}


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 64, b"\xff\xfe", b"{", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04", b"MATLAB 5.0", b"PAR1"]
)
def test_a_file_of_nothing_is_one_line_that_names_it(tmp_path, capsys, content):
    (tmp_path / "broken.csv").write_bytes(content)
    assert "broken.csv" in refused(capsys, tmp_path / "broken.csv", "--fps", 30, "--out", tmp_path / "never")


@pytest.mark.parametrize("fps", ["0", "-30", "nan", "inf"])
def test_a_frame_rate_that_is_none_is_refused(tmp_path, capsys, fps):
    told = refused(capsys, table(tmp_path / "a.csv"), "--fps", fps, "--out", tmp_path / "never")
    assert "fps" in told or "frame rate" in told


@pytest.mark.parametrize(
    "setting",
    [
        "nonsense=1",
        "short_channels=a,b",
        "lr=fast",
        "lr=nan",
        "lr=-1",
        "lr=inf",
    ],
)
def test_a_setting_that_means_nothing_is_refused_by_name(setting):
    with pytest.raises(WordingError, match=setting.partition("=")[0]):
        configure("bams", None, [setting])


@pytest.mark.parametrize("given", [{"steps": -1}, {"precision": "float8"}])
def test_a_budget_that_means_nothing_is_refused(given):
    with pytest.raises(WordingError):
        budget(**given)


def test_a_link_out_of_the_folder_is_not_followed_by_a_manifest(tmp_path):
    store.prepare(toy_card(), toy_recordings(3, seconds=4), str(tmp_path / "toy"))
    (shard,) = (tmp_path / "toy").rglob("*.parquet")
    (tmp_path / "elsewhere.parquet").write_bytes(b"PAR1")
    shard.unlink()
    shard.symlink_to(tmp_path / "elsewhere.parquet")
    dataset = store.open(str(tmp_path / "toy"))
    with pytest.raises(store.StoreError):
        dataset.keypoints(dataset.entries[0])
