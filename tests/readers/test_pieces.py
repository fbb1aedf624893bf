"""Reading in pieces: the same numbers, the same notes, and memory that does not grow with the file."""

import pickle
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ethoray import readers, testing
from ethoray.readers import ReadError, added, columns, contents, joined

DATA = Path("../shared/data")
BENCH = Path(__file__).parents[1] / "bench"
FRAMES = 57


@pytest.fixture(scope="module")
def bench():
    """The benchmark, which writes a file of every format."""
    with testing.script(BENCH / "readers.py") as module:
        yield module


FORMATS = [
    "DeepLabCut csv", "SimBA csv", "Anipose csv", "long table csv", "long table Parquet", "DeepLabCut h5 table",
    "DeepLabCut h5 fixed", "JABS h5", "SLEAP analysis.h5", "SLEAP slp",
]  # fmt: skip


def same(one, other):
    np.testing.assert_array_equal(one.keypoints, other.keypoints)
    np.testing.assert_array_equal(one.confidence, other.confidence)
    assert (one.individuals, one.names, one.notes, one.fps) == (
        other.individuals, other.names, other.notes, other.fps
    )  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_pieces_joined_are_the_whole(tmp_path, bench, name):
    ending, write, _ = bench.FILES[name]
    path = tmp_path / f"a.{ending}"
    write(path, FRAMES)
    whole = readers.tracks(path, min_confidence=0.3)
    written = bench.walk(FRAMES, *whole.keypoints.shape[1:])
    close = np.abs(readers.tracks(path).keypoints - written.keypoints).max()
    assert close < (1 if name == "JABS h5" else 1e-4)
    np.testing.assert_allclose(whole.confidence, written.confidence, rtol=1e-6)
    for frames in (1, 10, FRAMES, 1000):
        pieces = list(readers.pieces(path, min_confidence=0.3, frames=frames))
        assert [len(p.keypoints) for p in pieces[:-1]] == [frames] * ((FRAMES - 1) // frames)
        same(joined(path, pieces), whole)
    layout = readers.layout(path, ignore=whole.names[:1])
    assert (layout.frames, layout.individuals, layout.names) == (FRAMES, whole.individuals, whole.names[1:])
    assert layout.space == whole.keypoints.shape[-1] and layout.fps == whole.fps
    ignored = joined(path, readers.pieces(path, ignore=whole.names[:1], frames=20))
    np.testing.assert_array_equal(ignored.keypoints, readers.tracks(path).keypoints[:, :, 1:])


def test_notes_of_pieces_add_up_and_travel():
    one, other = (contents.Counted("{} of {} lost", n, 10) for n in (2, 3))
    assert added(["a swap", one, "a swap", other]) == ("a swap", "5 of 20 lost")
    assert added([pickle.loads(pickle.dumps(one)), other]) == ("5 of 20 lost",)
    with pytest.raises(ReadError, match="no frame"):
        joined(Path("a.csv"), [])


def test_a_format_without_pieces_is_cut(tmp_path):
    found = contents.Tracks(np.zeros((5, 1, 2, 2), "f4"), np.ones((5, 1, 2), "f4"), ("a",), ("b", "c"), ("note",))
    pieces = list(contents.cut(found, 2))
    assert [len(p.keypoints) for p in pieces] == [2, 2, 1] and [p.notes for p in pieces] == [("note",), (), ()]
    same(joined(tmp_path, pieces), found)


def test_pieces_of_no_frame_are_refused(tmp_path, bench):
    bench.simba(tmp_path / "a.csv", 3)
    with pytest.raises(ReadError, match="at least 1"):
        readers.pieces(tmp_path / "a.csv", frames=0)


def test_an_error_in_a_later_block_names_its_line(tmp_path, bench, monkeypatch):
    monkeypatch.setattr(columns.blocks, "__defaults__", (300,))
    path = tmp_path / "a.csv"
    bench.simba(path, 50)
    lines = path.read_text().split("\n")
    same(readers.tracks(path), joined(path, readers.pieces(path, frames=7)))
    path.write_text("\n".join([*lines[:40], "", lines[40].replace(",", ",x", 1), *lines[41:]]))
    with pytest.raises(ReadError, match=r"line 42, column 2 \(p0_1_x\): 'x"):
        readers.tracks(path)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_empty_lines_and_wide_characters_are_no_frames(tmp_path, bench, monkeypatch, end):
    monkeypatch.setattr(columns.blocks, "__defaults__", (300,))
    path = tmp_path / "a.csv"
    bench.simba(path, 20)
    lines = path.read_text().split("\n")
    plain = readers.tracks(path)
    path.write_bytes(end.join([*lines[:9], "", "", *lines[9:], ""]).encode("utf-16"))
    assert readers.layout(path).frames == 20
    same(readers.tracks(path), plain)


def test_a_table_out_of_order_is_the_same_table(tmp_path, bench):
    bench.table(tmp_path / "a.parquet", 40)
    rows = pq.read_table(tmp_path / "a.parquet")
    order = np.concatenate([[0, 1, 2, 3, 4, 5, 6, 7, 8], 9 + np.random.default_rng(0).permutation(len(rows) - 9)])
    pq.write_table(rows.take(order), tmp_path / "b.parquet", row_group_size=50)
    whole = readers.tracks(tmp_path / "a.parquet")
    same(joined(tmp_path, readers.pieces(tmp_path / "b.parquet", frames=6)), whole)


def test_a_table_with_gaps_keeps_its_frames(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("frame,keypoint,x,y\n2,nose,1,2\n9,nose,3,4\n")
    pieces = list(readers.pieces(path, frames=3))
    assert [len(p.keypoints) for p in pieces] == [3, 3, 3, 1] and readers.layout(path).frames == 10
    assert np.isnan(pieces[1].keypoints).all() and pieces[3].keypoints[0, 0, 0].tolist() == [3, 4]
    path.write_text("frame,keypoint,x,y\n2,nose,1,2\n9000000000,nose,3,4\n")
    with pytest.raises(ReadError, match="far more than there are rows"):
        readers.layout(path)


def test_a_project_out_of_order_is_the_same_project(tmp_path, bench):
    bench.sleap_project(tmp_path / "a.slp", 30)
    whole = readers.tracks(tmp_path / "a.slp")
    with h5py.File(tmp_path / "a.slp", "a") as file:
        order = np.random.default_rng(0).permutation(len(file["instances"]))
        file["instances"][...] = file["instances"][()][order]
    same(joined(tmp_path, readers.pieces(tmp_path / "a.slp", frames=4)), whole)


PEAK = """
import sys
from pathlib import Path
from ethoray import readers
def highest():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
sum(len(p.keypoints) for p in readers.pieces(sys.argv[1], frames=4096))
before = highest()
frames = sum(len(p.keypoints) for p in readers.pieces(sys.argv[2], frames=4096))
print(frames, readers.layout(sys.argv[2]).frames, highest() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")
@pytest.mark.parametrize("name", ["DeepLabCut csv", "long table Parquet", "SLEAP analysis.h5"])
def test_memory_is_flat_in_the_length_of_a_file(tmp_path, bench, name):
    ending, write, _ = bench.FILES[name]
    short, long = (tmp_path / f"{n}.{ending}" for n in ("short", "long"))
    write(short, 20_000)
    if name == "DeepLabCut csv":
        text = short.read_bytes()
        body = text.split(b"\n", 4)[-1]
        long.write_bytes(text + body * 11)
    elif ending == "parquet":  # row groups as they come from elsewhere
        table = pq.read_table(short)
        with pq.ParquetWriter(long, table.schema) as file:
            for n in range(12):
                file.write_table(table.set_column(1, "frame", pc.add(table["frame"], 20_000 * n)))
    else:
        write(long, 240_000)
    command = [sys.executable, "-c", PEAK, str(short), str(long)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    frames, known, more = (float(n) for n in done.stdout.split())
    assert frames == known == 240_000
    assert more < 40  # MiB; whole, the tracks alone are 46 and the text 230


@pytest.mark.skipif(not DATA.is_dir(), reason="recordings are not here")
@pytest.mark.parametrize(
    "pattern",
    [
        "mouse_pair_ethome/*.csv", "ibl_mouse_eks/*/*left.rng=0.csv", "mouse_pair_deepof/madlc_901frames.h5",
        "mouse_group_jabs/*_v5.h5", "fly_pair_sleap/predictions.slp", "fly_pair_sleap/predictions.analysis.h5",
        "mouse_pair_crim13_simba/*_80_trim.csv",
    ],
)  # fmt: skip
def test_pieces_of_real_recordings_joined_are_the_whole(pattern):
    (path,) = DATA.glob(pattern)
    whole = readers.tracks(path, min_confidence=0.6)
    same(joined(path, readers.pieces(path, min_confidence=0.6, frames=97)), whole)
    layout = readers.layout(path)
    assert layout.frames == len(whole.keypoints) and layout.names == whole.names
