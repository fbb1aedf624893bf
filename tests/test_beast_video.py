"""A folder of videos becomes a dataset: which frames, which side, when they were shown, and what was left out."""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ethoray import store, testing, video
from ethoray.store import StoreError

av = pytest.importorskip("av", reason="PyAV is not installed (extra video)")
FOLDER = Path(__file__).parents[1] / "datasets"
REAL = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="module")
def recipe():
    with testing.script(FOLDER / "beast_video.py") as module:
        yield module


@pytest.fixture
def make(recipe, tmp_path, monkeypatch, capsys):
    """Run the recipe; the dataset and what it printed."""

    def run(*flags, out="films"):
        words = ["beast_video.py", "--out", out, "--root", str(tmp_path / "store"), "--workers", "1", *map(str, flags)]
        monkeypatch.setattr(sys, "argv", words)
        recipe.main()
        return store.open(out, tmp_path / "store"), capsys.readouterr().out

    return run


def film(path, seed, count=80, times=None):
    """Noise that moves, one block that says the frame's number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=20)
        stream.width, stream.height, stream.pix_fmt, stream.options = 64, 48, "yuv420p", {"qp": "4", "g": "12"}
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for i in range(count):
            picture = rng.integers(0, 120, (6, 8), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            picture[:16, :16] = 10 + 3 * i
            frame = av.VideoFrame.from_ndarray(picture, format="gray")
            frame.pts, frame.time_base = 50 * i if times is None else times[i], Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def images(dataset):
    """By recording, by frame, the stored image."""
    return {
        e.name: {c.start + k: image for c in e.clips for k, image in enumerate(dataset.images(e, c))}
        for e in dataset.entries
    }


def test_videos_become_recordings_split_by_video(make, tmp_path):
    raw = tmp_path / "raw"
    paths = {name: film(raw / f"{name}.mp4", seed) for seed, name in enumerate("abc")}
    (raw / "notes.txt").write_text("not a video")
    (raw / "broken.mp4").write_bytes(paths["a"].read_bytes()[:900])
    dataset, said = make("--raw", raw, "--frames", 9, "--pixels", 32)
    assert [(e.name, e.split) for e in dataset.entries] == [("a", "train"), ("b", "train"), ("c", "test")]
    assert dataset.card.fps == pytest.approx(20) and not dataset.card.skeleton.keypoints
    assert "broken: left out" in said and "64 x 48 pixels, 80 frames at 20 per second" in said
    assert any(note.startswith("broken: left out") for note in dataset.card.notes)
    for entry in dataset.entries:
        table = pq.read_table(Path(dataset.uri) / "frames" / f"{entry.name}.parquet").to_pydict()
        shown = images(dataset)[entry.name]
        assert table["frame"] == sorted(shown) and sum(table["anchor"]) == 9
        np.testing.assert_allclose(table["time"], np.array(table["frame"]) / 20, atol=1e-3)
        anchors = {i for i, chosen in zip(table["frame"], table["anchor"], strict=True) if chosen}
        assert {j for i in anchors for j in (i - 1, i, i + 1) if 0 <= j < 80} == set(shown)
        whole = {f.index: f.image for f in video.frames(paths[entry.name], video.View((32, 32)))}
        assert all(np.array_equal(image, whole[i]) for i, image in shown.items())
        assert all(abs(int(image[2, 2, 0]) - 10 - 3 * i) < 4 for i, image in shown.items())


def test_damage_may_stop_the_run(make, tmp_path):
    path = film(tmp_path / "raw" / "a.mp4", 0)
    (tmp_path / "raw" / "broken.mp4").write_bytes(path.read_bytes()[:900])
    with pytest.raises(SystemExit, match=r"beast_video: .*broken\.mp4: cannot be opened"):
        make("--raw", tmp_path / "raw", "--damage", "stop")
    with pytest.raises(StoreError):
        store.open("films", tmp_path / "store")


def test_what_came_before_a_pass_broke_off_stays(make, tmp_path, monkeypatch):
    film(tmp_path / "raw" / "a.mp4", 0)
    film(tmp_path / "raw" / "b.mp4", 1)
    whole = video.frames

    def breaks(path, view=None, **settings):
        for frame in whole(path, view, **settings):
            if frame.index == 40 and Path(path).stem == "a":
                raise video.VideoError(f"{path}: the decoder died")
            yield frame

    monkeypatch.setattr(video, "frames", breaks)
    dataset, said = make("--raw", tmp_path / "raw", "--every", "--pixels", 16)
    assert "the pass broke off behind 40 frames" in said
    assert [len(shown) for shown in images(dataset).values()] == [40, 80]
    with pytest.raises(SystemExit, match="the decoder died"):
        make("--raw", tmp_path / "raw", "--every", "--pixels", 16, "--damage", "stop", out="stopped")


def test_neighbourhoods_that_grow_together_come_in_pieces(make, recipe, tmp_path, monkeypatch):
    film(tmp_path / "raw" / "a.mp4", 0)
    film(tmp_path / "raw" / "b.mp4", 1)
    monkeypatch.setattr(sys.modules["film_frames"], "LONGEST", 16)
    dataset, _ = make("--raw", tmp_path / "raw", "--frames", 10, "--context", 12, "--pixels", 16)
    assert max(clip.frames for entry in dataset.entries for clip in entry.clips) == 16
    assert len(images(dataset)["a"]) > 60


def test_one_video_is_cut_into_blocks_with_a_gap(make, tmp_path):
    film(tmp_path / "only.mp4", 0, times=[50 * i + 200 * (i > 40) for i in range(80)])
    dataset, said = make("--raw", tmp_path / "only.mp4", "--every", "--rgb", "--pixels", 16, "--fps", 20)
    assert "block" in dataset.card.split_rule and "all 60 frames" in said
    found = images(dataset)
    assert sorted(found["only_train"]) == list(range(44)) and sorted(found["only_test"]) == list(range(64, 80))
    assert found["only_train"][3].shape == (16, 16, 3)
    table = pq.read_table(Path(dataset.uri) / "frames" / "only.parquet").to_pydict()
    np.testing.assert_allclose(table["time"][-1], 79 * 0.05 + 0.2, atol=1e-3)
    assert set(table["recording"]) == {"only_train", "only_test"} and not any(table["anchor"])
    assert "s off a constant rate" in said


def test_anchors_keep_away_from_what_is_excluded(make, tmp_path):
    film(tmp_path / "raw" / "a.mp4", 0)
    film(tmp_path / "raw" / "b.mp4", 1)
    (tmp_path / "no.csv").write_text("video,first,last\na,0,39\n")
    flags = (
        "--raw",
        tmp_path / "raw",
        "--frames",
        5,
        "--context",
        "0.1s",
        "--exclude",
        tmp_path / "no.csv",
        "--pixels",
        16,
    )
    for policy in ("distinct", "uniform"):
        dataset, _ = make(*flags, "--policy", policy, out=policy)
        table = pq.read_table(Path(dataset.uri) / "frames" / "a.parquet").to_pydict()
        anchors = [i for i, chosen in zip(table["frame"], table["anchor"], strict=True) if chosen]
        assert len(anchors) == 5 and min(anchors) >= 40 and min(table["frame"]) >= 38
        assert {j for i in anchors for j in range(i - 2, i + 3) if j < 80} == set(table["frame"])


def test_a_part_of_the_picture_and_of_the_video(make, tmp_path):
    path = film(tmp_path / "raw" / "a.mp4", 0)
    film(tmp_path / "raw" / "b.mp4", 1)
    flags = ("--raw", tmp_path / "raw", "--frames", 6, "--pixels", 12, "--region", "16,8,32,24")
    whole = {f.index: f.image for f in video.frames(path, video.View((12, 12), region=(16, 8, 32, 24)))}
    for policy in ("distinct", "uniform"):
        dataset, _ = make(*flags, "--start", 21, "--stop", 61, "--stride", 4, "--policy", policy, out=policy)
        table = pq.read_table(Path(dataset.uri) / "frames" / "a.parquet").to_pydict()
        anchors = [i for i, chosen in zip(table["frame"], table["anchor"], strict=True) if chosen]
        assert len(anchors) == 6 and all(i % 4 == 1 for i in anchors), "every fourth frame from the first"
        assert min(table["frame"]) >= 21 and max(table["frame"]) <= 60
        shown = images(dataset)["a"]
        assert set(table["video"]) == {"a"} and sorted(shown) == table["frame"]
        assert {j for i in anchors for j in (i - 1, i, i + 1) if 21 <= j < 61} == set(shown)
        assert all(np.array_equal(image, whole[i]) for i, image in shown.items())
    with pytest.raises(SystemExit, match="a has 80 frames, none from 90"):
        make(*flags, "--start", 90)
    with pytest.raises(SystemExit, match=r"a is 64 x 48 pixels; --region \(60, 0, 16, 16\) leaves it"):
        make("--raw", tmp_path / "raw", "--region", "60,0,16,16")


def odd(path, count):
    """A motion JPEG of 47 x 33 pixels, or one without any frame."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mjpeg", rate=20)
        stream.width, stream.height, stream.pix_fmt = 47, 33, "yuvj420p"
        file.start_encoding()
        for i in range(count):
            picture = np.random.default_rng(i).integers(0, 255, (33, 47), dtype=np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="gray")))
        file.mux(stream.encode(None)) if count else None
    return path


def test_odd_sizes_are_read_and_videos_without_frames_are_said(make, tmp_path):
    raw = tmp_path / "raw"
    film(raw / "a.mp4", 0)
    odd(raw / "odd.avi", 40)
    (raw / "cut.avi").write_bytes((raw / "odd.avi").read_bytes()[:30_000])
    for name in ("none.mp4", "none_2.mov", "none_3.mkv"):
        odd(raw / name, 0)
    (raw / "nothing.mp4").write_bytes(b"")
    dataset, said = make("--raw", raw, "--frames", 5, "--pixels", 16)
    assert [e.name for e in dataset.entries] == ["a", "cut", "odd"]
    assert "odd: 47 x 33 pixels, 40 frames" in said
    for name in ("none", "none_2", "none_3", "nothing"):
        assert f"{name}: left out. " in said
    assert "cut: 47 x 33" in said and "cut off?" in next(n for n in dataset.card.notes if n.startswith("cut:"))
    _, said = make("--raw", raw / "odd.avi", "--frames", 50, "--pixels", 16, "--fps", 2, out="fewer")
    assert "anchors (50 were asked for)" in said
    (tmp_path / "no.csv").write_text("video,first,last\nodd,0,99\n")
    flags = ("--raw", raw / "odd.avi", "--exclude", tmp_path / "no.csv", "--frames", 5)
    with pytest.raises(SystemExit, match="every video was left out; --damage stop says why"):
        make(*flags, out="all")
    with pytest.raises(SystemExit, match="0 frames may be anchors"):
        make(*flags, "--damage", "stop", out="all")


@pytest.mark.cluster
def test_two_processes_write_what_one_writes(recipe, tmp_path):
    for seed, name in enumerate("abc"):
        film(tmp_path / "raw" / f"{name}.mp4", seed)
    (tmp_path / "raw" / "broken.mp4").write_bytes((tmp_path / "raw" / "a.mp4").read_bytes()[:2000])
    program = [sys.executable, FOLDER / "beast_video.py", "--raw", "raw", "--frames", "6", "--pixels", "24"]
    found = []
    for workers in ("1", "2"):
        words = [*program, "--out", "films", "--root", f"store_{workers}", "--workers", workers]
        answer = subprocess.run(words, cwd=tmp_path, check=True, capture_output=True, text=True)
        dataset = store.open("films", tmp_path / f"store_{workers}")
        tables = [(Path(dataset.uri) / "frames" / f"{name}.parquet").read_bytes() for name in "abc"]
        found.append((images(dataset), tables, dataset.card, answer.stdout.replace(f"store_{workers}", "store")))
    one, two = found
    assert one[1:] == two[1:] and one[0].keys() == two[0].keys()
    for name, shown in one[0].items():
        assert shown.keys() == two[0][name].keys()
        assert all(np.array_equal(image, two[0][name][i]) for i, image in shown.items())


def test_rates_that_differ_are_refused(make, tmp_path):
    film(tmp_path / "raw" / "a.mp4", 0)
    film(tmp_path / "raw" / "b.mp4", 1, times=[20 * i for i in range(80)])
    with pytest.raises(SystemExit, match=r"frames per second differ .*b 50.*--fps"):
        make("--raw", tmp_path / "raw")
    dataset, _ = make("--raw", tmp_path / "raw", "--fps", 100, "--frames", 4, "--pixels", 16)
    assert dataset.card.fps == 100


def test_no_video_at_all_is_refused(make, tmp_path):
    (tmp_path / "raw").mkdir()
    with pytest.raises(SystemExit, match="holds no video"):
        make("--raw", tmp_path / "raw")


def labels(folder, columns=1):
    """A project of ten labelled pictures of 60 x 30 pixels: a bright block, whose centre is the keypoint."""
    (folder / "labeled-data" / "film").mkdir(parents=True)
    lead = [""] * (columns - 1)
    rows = [
        ["scorer", *lead, *["me"] * 4],
        ["bodyparts", *lead, *["nose"] * 2, *["tail"] * 2],
        ["coords", *lead, *"xyxy"],
    ]
    for i in range(10):
        picture = np.zeros((30, 60), np.uint8)
        picture[8:12, 4 * i : 4 * i + 4] = 255
        Image.fromarray(picture).save(folder / "labeled-data" / "film" / f"img{i}.png")
        path = f"labeled-data/film/img{i}.png"
        rows.append([*(path.split("/") if columns == 3 else [path]), str(4 * i + 1.5), "9.5", "", ""])
    (folder / "CollectedData_me.csv").write_text("\n".join(",".join(row) for row in rows) + "\n")


@pytest.mark.parametrize("columns", [1, 3])
def test_labelled_pictures_keep_their_keypoints(make, tmp_path, columns):
    labels(tmp_path / "raw", columns)
    film(tmp_path / "raw" / "a.mp4", 0)
    make("--raw", tmp_path / "raw", "--frames", 4, "--pixels", 120)
    dataset = store.open("films_labelled", tmp_path / "store")
    assert len(dataset.entries) == 10 and dataset.splits == ("train", "test")
    assert dataset.card.skeleton.keypoints == ("nose", "tail")
    assert any("0.5 wide and 0.25 high" in note for note in dataset.card.notes)
    for entry in dataset.entries:
        recording = dataset.recording(entry)
        image = recording.images[0, ..., 0].astype(float)
        y, x = (np.indices(image.shape) * image).sum((1, 2)) / image.sum()
        np.testing.assert_allclose(recording.keypoints[0, 0, 0], (x, y), atol=0.1)
        assert np.isnan(recording.keypoints[0, 0, 1]).all()


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda text: text.replace("bodyparts", "parts"), "no header rows"),
        (lambda text: text.replace("img3.png", "../../../etc/x.png"), "which is not there"),
        (lambda text: text.replace(",9.5,", ",nine,", 1), "row 4"),
        (lambda text: text.replace("scorer", "individuals"), "several individuals"),
    ],
)
def test_labels_that_cannot_be_read_are_refused(make, tmp_path, edit, words):
    labels(tmp_path / "raw")
    path = tmp_path / "raw" / "CollectedData_me.csv"
    path.write_text(edit(path.read_text()))
    with pytest.raises(SystemExit, match=words):
        make("--raw", tmp_path / "raw")


def test_a_picture_that_is_damaged_is_refused(make, tmp_path):
    labels(tmp_path / "raw")
    (tmp_path / "raw" / "labeled-data" / "film" / "img4.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    with pytest.raises(SystemExit, match=r"img4\.png: the picture .* cannot be read"):
        make("--raw", tmp_path / "raw")


@pytest.mark.skipif(
    not (REAL / "mirror_mouse_video").is_dir(), reason="the real recordings are not beside the repository"
)
def test_the_mirror_mouse_is_read_with_its_labels(make, tmp_path):
    dataset, said = make("--raw", REAL / "mirror_mouse_video", "--frames", 20)
    assert "396 x 406 pixels, 994 frames at 250 per second" in said and "nothing is damaged" in said
    assert dataset.card.fps == 250 and len(store.open("films_labelled", tmp_path / "store").entries) == 90


def test_flags_that_contradict_are_refused(make, tmp_path):
    film(tmp_path / "raw" / "a.mp4", 0)
    for flags, words in ((("--rgb", "--grey"), "exclude"), (("--every", "--stride", 2), "anchors")):
        with pytest.raises(SystemExit, match=words):
            make("--raw", tmp_path / "raw", *flags)
    with pytest.raises(SystemExit):
        make("--raw", tmp_path / "raw", "--context", "x")
