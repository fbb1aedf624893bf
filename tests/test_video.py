"""Frames come in the order shown, upright and at their time; damage is said, and never hangs or kills anything."""

import io
import os
import struct
import sys
from fractions import Fraction
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from ethoray import readers, video
from ethoray.video import VideoError, View, answer, watch

av = pytest.importorskip("av", reason="PyAV is not installed (extra video)")
ROOM = 8  # the side of a block of one grey level: larger than what chroma and the transform mix


def levels(count, height=32, width=48):
    """Frames that say their number: the mean of frame i grows with i."""
    return [np.full((height, width), 20 + 200 * i // count, np.uint8) for i in range(count)]


def encode(path, pictures, fps=25, codec="libx264", pixels="yuv420p", times=None, **options):
    """A video of grey or RGB pictures; ``times`` are in milliseconds."""
    muxing = {"movflags": options.pop("movflags")} if "movflags" in options else {}
    with av.open(str(path), "w", options=muxing) as file:
        stream = file.add_stream(codec, rate=fps)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.options = pixels, {key: str(value) for key, value in options.items()}
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for i, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="gray" if picture.ndim == 2 else "rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[i], Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def corners(height=48, width=64):
    """A dark picture whose upper left block is bright and whose upper right block is grey."""
    picture = np.full((height, width), 16, np.uint8)
    picture[:16, :16], picture[:16, -16:] = 235, 120
    return picture


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Sixty frames with B-frames and a key frame every ten."""
    return encode(tmp_path_factory.mktemp("clip") / "clip.mp4", levels(60), g=10, bf=3, qp=4, movflags="faststart")


@pytest.mark.parametrize(
    ("suffix", "codec", "pixels", "options"),
    [
        ("mp4", "libx264", "yuv420p", {"bf": 3, "qp": 4}),
        ("mkv", "libx264", "yuv420p10le", {"bf": 2, "qp": 4}),
        ("avi", "mpeg4", "yuv420p", {"b": 800_000}),
        ("mov", "mjpeg", "yuvj420p", {}),
        ("mkv", "ffv1", "gray", {}),
    ],
)
def test_frames_come_in_the_order_shown_with_their_grey_levels(tmp_path, suffix, codec, pixels, options):
    pictures = levels(40)
    path = encode(tmp_path / f"film.{suffix}", pictures, codec=codec, pixels=pixels, **options)
    found = list(video.frames(path))
    assert [f.index for f in found] == list(range(40))
    np.testing.assert_allclose([f.time for f in found], np.arange(40) / 25, atol=1.1e-3)  # mkv counts milliseconds
    for frame, picture in zip(found, pictures, strict=True):
        assert frame.image.shape == (32, 48, 1)
        np.testing.assert_allclose(frame.image[..., 0], picture, atol=3)
    about = video.probe(path)
    assert (about.width, about.height, about.frames, about.varies) == (48, 32, 40, False)
    assert about.fps == pytest.approx(25, rel=1e-3)


def test_times_are_the_files_own_where_the_rate_varies(tmp_path):
    times = [0, 40, 80, 300, 310, 320, 900, 1000]
    path = encode(tmp_path / "varies.mp4", levels(8), times=times, bf=2)
    np.testing.assert_allclose([f.time for f in video.frames(path)], np.array(times) / 1000, atol=1e-3)
    about = video.probe(path)
    assert about.varies and about.frames == 8 and about.fps == pytest.approx(7, rel=1e-3)
    at = np.arange(8) / 7
    assert about.uneven == pytest.approx(np.abs(np.array(times) / 1000 - at).max(), abs=1e-3)


def test_a_picture_stands_upright(tmp_path):
    path = encode(tmp_path / "turned.mp4", [corners()] * 3, qp=4)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # the 3 x 3 matrix of a version 0 track header
    one = 1 << 16
    assert struct.unpack_from(">9i", data, at) == (one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    for matrix, degrees in (
        ((0, one, 0, -one, 0, 0), 90),
        ((-one, 0, 0, 0, -one, 0), 180),
        ((0, -one, 0, one, 0, 0), 270),
    ):
        struct.pack_into(">6i", data, at, *matrix)
        path.write_bytes(data)
        expected = np.rot90(corners(), -degrees // 90)
        image = next(video.frames(path)).image[..., 0]
        assert image.shape == expected.shape
        np.testing.assert_allclose(image[4:-4, 4:-4][::8, ::8], expected[4:-4, 4:-4][::8, ::8], atol=12)
        about = video.probe(path)
        assert (about.rotation, about.height, about.width) == (degrees, *expected.shape)
        small = next(video.frames(path, View((16, 16)))).image[..., 0]
        bright = np.unravel_index(small.argmax(), small.shape)
        assert (
            np.abs(
                np.array(bright) - np.unravel_index(expected.argmax(), expected.shape) * np.array(16) / expected.shape
            ).max()
            < 6
        )


def test_odd_sizes_and_colours_survive(tmp_path):
    picture = np.zeros((33, 47, 3), np.uint8)
    picture[:, :24], picture[:, 24:] = (200, 30, 60), (20, 180, 90)
    path = encode(tmp_path / "odd.mp4", [picture] * 4, pixels="yuv444p", qp=2)
    image = next(video.frames(path, View(grey=False))).image
    assert image.shape == (33, 47, 3)
    np.testing.assert_allclose(image[:, [4, 40]], picture[:, [4, 40]], atol=6)


def test_a_view_is_a_slice_a_part_and_a_size(clip, tmp_path):
    every = [f.image for f in video.frames(clip)]
    part = list(video.frames(clip, View(start=7, stop=40, stride=6)))
    assert [f.index for f in part] == [7, 13, 19, 25, 31, 37]
    np.testing.assert_array_equal(part[2].image, every[19])
    some = list(video.frames(clip, only=[44, 3, 3, 20]))
    assert [f.index for f in some] == [3, 20, 44]
    np.testing.assert_array_equal(some[1].image, every[20])
    film = encode(tmp_path / "corners.mp4", [corners()] * 3, qp=4)
    whole = next(video.frames(film)).image
    cut = next(video.frames(film, View(region=(48, 0, 16, 20)))).image
    np.testing.assert_array_equal(cut, whole[:20, 48:])
    small = next(video.frames(film, View((4, 4), region=(0, 0, 16, 16)))).image
    assert small.shape == (4, 4, 1) and small.min() > 200
    with pytest.raises(VideoError, match=r"corners\.mp4: region \(60, 0, 16, 20\) leaves the picture of \(64, 48\)"):
        next(video.frames(film, View(region=(60, 0, 16, 20))))


def test_more_threads_give_the_same_frames(clip):
    one, two = (list(video.frames(clip, threads=n)) for n in (1, 2))
    assert all(np.array_equal(a.image, b.image) and a.time == b.time for a, b in zip(one, two, strict=True))


def test_shrinking_is_averaging(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    path = encode(tmp_path / "noise.mkv", [noise] * 2, codec="ffv1", pixels="gray")
    small = next(video.frames(path, View((8, 8)))).image[..., 0]
    np.testing.assert_allclose(small, noise.reshape(8, 8, 8, 8).mean((1, 3)), atol=2)


def test_frames_that_do_not_exist_are_not_passed_over(clip):
    with pytest.raises(VideoError, match=r"clip.mp4: 2 frames asked for do not exist, 60 is the first; it has 60"):
        list(video.frames(clip, only=[5, 60, 99]))
    with pytest.raises(VideoError, match="none lies in the range"):
        list(video.frames(clip, View(start=60)))


@pytest.mark.parametrize(
    "wrong",
    [{"size": (0, 8)}, {"region": (0, 0, 0, 5)}, {"region": (-1, 0, 2, 2)}, {"stride": 0}, {"start": 5, "stop": 5}],
)
def test_a_view_of_nothing_is_refused(wrong):
    with pytest.raises(VideoError):
        View(**wrong)


def test_a_file_without_its_index_says_so(tmp_path, clip):
    late = encode(tmp_path / "late.mp4", levels(30))
    data = late.read_bytes()
    late.write_bytes(data[: data.index(b"moov") - 4])
    for ask in (video.probe, lambda p: list(video.frames(p)), lambda p: list(video.frames(p, damage=[]))):
        with pytest.raises(VideoError, match=r"late\.mp4: cannot be opened .*moov.*cut off"):
            ask(late)


def test_a_file_that_ends_early_stops_the_pass_or_is_said(tmp_path, clip):
    data = clip.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 2])
    with pytest.raises(VideoError, match=r"cut\.mp4: "):
        list(video.frames(cut))
    damage = []
    found = list(video.frames(cut, damage=damage))
    assert damage and 10 < len(found) < 50
    whole = {f.index: f.image for f in video.frames(clip)}
    assert all(np.array_equal(f.image, whole[f.index]) for f in found[:10])


@pytest.mark.parametrize("bf", [0, 2])
def test_behind_damage_nothing_is_shown_until_the_next_key_frame(tmp_path, bf):
    pictures = [np.random.default_rng(i).integers(0, 255, (48, 64), dtype=np.uint8) for i in range(40)]
    path = encode(tmp_path / "film.mp4", pictures, g=10, bf=bf, qp=20, sc_threshold=0)
    with av.open(str(path)) as file:
        place, size = [(p.pos, p.size) for p in file.demux(video=0) if p.size][13]
    data = bytearray(path.read_bytes())
    whole = [f.image for f in video.frames(path)]
    data[place + 4 : place + size] = bytes(size - 4)
    path.write_bytes(data)
    with pytest.raises(VideoError, match=r"film\.mp4: frame 1\d cannot be decoded"):
        list(video.frames(path))
    damage = []
    found = list(video.frames(path, damage=damage))
    shown = [f.index for f in found]
    assert shown[-20:] == list(range(20, 40)) and 9 <= len(shown) - 20 <= 13
    assert bf or shown == [*range(13), *range(20, 40)]
    assert any("to 19 left out, up to the next key frame" in text for text in damage)
    assert all(np.array_equal(f.image, whole[f.index]) for f in found)


def test_any_damage_is_an_answer(tmp_path, clip):
    """Flipped bits and cuts anywhere: frames or an error that names the file, nothing else and in bounded time."""
    data, rng = clip.read_bytes(), np.random.default_rng(7)
    for case in range(10):
        broken = bytearray(data)
        for place in rng.integers(0 if case % 2 else 40, len(data), 3 ** (case % 5)):
            broken[place] ^= 1 << int(rng.integers(8))
        path = tmp_path / f"broken_{case}.mp4"
        path.write_bytes(broken[: int(rng.integers(64, len(broken)))] if case % 3 == 0 else broken)
        damage = []
        try:
            found = list(video.frames(path, View((16, 16)), damage=damage, patience=20))
            assert found and all(f.image.shape == (16, 16, 1) for f in found)
        except VideoError as error:
            assert path.name in str(error)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a video"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n", "not a video"),
        (b"\x00\x00\x00\x18ftypisom" + bytes(16), "cannot be opened"),
        (b"RIFF\x10\x00\x00\x00AVI " + bytes(40), "broken.mp4: "),
        (b"\x1a\x45\xdf\xa3" + bytes(64), "broken.mp4: "),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "broken.mp4: "),
    ],
)
def test_what_is_no_video_is_refused(tmp_path, content, words):
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    for ask in (video.probe, lambda p: list(video.frames(p, damage=[]))):
        with pytest.raises(VideoError, match=words):
            ask(path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(VideoError, match=r"cannot read .*gone\.mp4: No such file"):
        video.probe(tmp_path / "gone.mp4")


def test_sound_is_no_video(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    with pytest.raises(VideoError, match=r"sound\.mp4: holds no video"):
        video.probe(path)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("sleep 30", "said nothing for 0.3 s"),
        ("while :; do :; done", "said nothing for 0.3 s"),
        ("kill -SEGV $$", "died .*-11"),
    ],
)
def test_a_decoder_that_hangs_or_crashes_is_an_error(tmp_path, monkeypatch, clip, script, words):
    program = tmp_path / "decoder"
    program.write_text(f"#!/bin/sh\nexec 2>/dev/null\n{'exec ' if 'sleep' in script else ''}{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(video.sys, "executable", str(program))
    with pytest.raises(VideoError, match=rf"clip\.mp4: the decoder {words}"):
        list(video.frames(clip, patience=0.3))


def test_a_decoder_that_waits_for_a_processor_is_waited_for(tmp_path, monkeypatch, clip):
    program = tmp_path / "decoder"
    program.write_text(f'#!/bin/sh\nsleep 1\nexec {sys.executable} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr(video.sys, "executable", str(program))
    with pytest.raises(VideoError, match="said nothing for"):  # asleep
        next(video.frames(clip, patience=0.2))
    monkeypatch.setattr(watch, "activity", lambda pid: (0.0, True))
    assert next(video.frames(clip, patience=0.2)).index == 0


def test_silence_counts_sleep_and_work_but_not_waiting(monkeypatch):
    told = iter([(1.0, True), (1.1, True), (1.1, False), (3.1, True), None])
    monkeypatch.setattr(watch, "activity", lambda pid: next(told))
    silence = watch.Silence(1)
    assert [silence.lasted(0.5) for _ in range(5)] == pytest.approx([0.0, 0.1, 0.6, 2.6, 3.1])
    monkeypatch.undo()
    spent, runs = watch.activity(os.getpid())
    assert runs and spent > 0 and watch.activity(2**30) is None


def test_a_slow_decoder_gives_signs_of_life_though_its_frames_are_small(monkeypatch):
    clock, out = iter(np.arange(0, 100, 0.25)), io.BytesIO()
    monkeypatch.setattr(answer, "monotonic", lambda: float(next(clock)))
    speaker, flushed = answer.Answer({"path": "x", "only": None, "stop": None}, out), []
    monkeypatch.setattr(speaker, "out", SimpleNamespace(write=out.write, flush=lambda: flushed.append(out.tell())))
    for index in range(12):  # a quarter of a second each
        speaker.send(index, 0.0, np.zeros((2, 2), np.uint8))
        speaker.alive()
    whole = 4 * (answer.HEAD.size + 12 + 4) + answer.HEAD.size  # a second of frames and a sign of life
    assert flushed == [whole, 2 * whole, 3 * whole]


def test_a_pass_may_be_left_at_any_frame(clip):
    passing = video.frames(clip)
    assert next(passing).index == 0
    passing.close()


@pytest.mark.parametrize("grey", [True, False])
def test_hdf5_holds_videos_too(tmp_path, grey):
    pictures = np.stack(levels(100, 10, 14))
    with h5py.File(tmp_path / "film.h5", "w") as file:
        file["video"] = pictures if grey else np.repeat(pictures[..., None], 3, 3)
    about = video.probe(tmp_path / "film.h5")
    assert (about.frames, about.width, about.height) == (100, 14, 10) and np.isnan(about.fps)
    found = list(video.frames(tmp_path / "film.h5", View(start=60, stop=70, region=(2, 0, 8, 10))))
    assert [f.index for f in found] == list(range(60, 70)) and np.isnan(found[0].time)
    np.testing.assert_array_equal(found[3].image[..., 0], pictures[63, :, 2:10])
    colours = next(video.frames(tmp_path / "film.h5", View((7, 5), grey=False)))
    assert colours.image.shape == (5, 7, 3) and np.ptp(colours.image) == 0
    with h5py.File(tmp_path / "pose.h5", "w") as file:
        file["tracks"], file["video"] = np.zeros(3), np.zeros(3)
    with pytest.raises(VideoError, match=r"pose\.h5: video is float64 \(3,\)"):
        video.probe(tmp_path / "pose.h5")


def test_a_video_given_as_poses_says_where_videos_go(clip):
    for read in (readers.tracks, lambda path: readers.labels(path, path)):
        with pytest.raises(readers.ReadError, match=r"clip\.mp4: is a video.*beast_video\.py --raw"):
            read(clip)
