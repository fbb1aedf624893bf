from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from ethoray import readers
from ethoray.readers import ReadError, behaviordepot, boris, intervals, onehot

DATA = Path("../shared/data")
PREAMBLE = "Observation id,x\n,\nTime offset (s),0.0\n,\n"
OLD = "Time,Media file path,Total length,FPS,Subject,Behavior,Behavioral category,Comment,Status\n"


def boris_file(path, events, head=OLD, preamble=PREAMBLE):
    lines = [f"{time},/v/m1.avi,10,30.0,{subject},{name},,,{status}\n" for time, subject, name, status in events]
    path.write_text(preamble + head + "".join(lines))
    return path


def positive(labels, behaviour, length=10, fps=1.0):
    return np.flatnonzero(labels.frames(behaviour, length, fps)).tolist()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "labels.csv"


def test_boris_starts_and_stops_become_frames(file):
    events = [(1, "a", "rear", "START"), (3, "a", "rear", "STOP"), (5, "a", "jump", "POINT"),
              (2, "b", "rear", "START"), (4, "b", "rear", "STOP")]  # fmt: skip
    found = readers.labels(boris_file(file, events), "m1.csv")
    assert readers.sniff(file) is boris and found.fps == 30 and found.behaviours == ("rear", "jump")
    assert positive(found, "rear") == [1, 2, 3] and positive(found, "jump") == [5] and found.seconds(30) == 5


@pytest.mark.parametrize("sep", [",", "\t", ";"])
def test_newer_boris_tables_are_read(file, sep):
    rows = [
        ["Observation id", "Media file name", "FPS", "Subject", "Behavior", "Behavior type", "Time"],
        ["o", "m1.mp4", "25.0", "a", "rear", "START", "1.0"],
        ["o", "m1.mp4", "25.0", "a", "rear", "STOP", "2.0"],
    ]
    file.write_text("\ufeff" + "\r\n".join(sep.join(r) for r in rows), encoding="utf-8")
    found = readers.labels(file, "m1.csv")
    assert found.fps == 25 and positive(found, "rear") == [1]


def test_aggregated_boris_is_read_and_one_of_several_videos_chosen(file):
    file.write_text(
        "Observation id,Media file name,FPS (frame/s),Subject,Behavior,Behavior type,Start (s),Stop (s)\n"
        "o,m1.avi,30,a,rear,STATE,1,3\no,m1.avi,30,a,jump,POINT,5,5\no,m2.avi,30,a,rear,STATE,6,8\n"
    )
    found = readers.labels(file, "m1DLC_net.csv")
    assert positive(found, "rear") == [1, 2] and positive(found, "jump") == [5] and found.fps == 30
    with pytest.raises(ReadError, match="events of m1, m2; not one of them is 'm3'"):
        readers.labels(file, "m3.csv")


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([(1, "a", "rear", "START")], r"line 6: 'rear' of 'a' starts at 1 s and never stops"),
        ([(1, "a", "rear", "STOP")], "out of turn"),
        ([(1, "a", "rear", "START"), (2, "a", "rear", "START")], "line 7.*out of turn"),
        ([("soon", "a", "rear", "START")], "'soon' is not a number"),
    ],
)
def test_broken_boris_events_are_named(file, events, message):
    with pytest.raises(ReadError, match=message):
        readers.labels(boris_file(file, events), "m1.csv")


def test_boris_times_that_do_not_start_with_the_video_are_refused(file):
    boris_file(file, [(1, "a", "rear", "POINT")], preamble="Time offset (s),12.5\n")
    with pytest.raises(ReadError, match=r"time offset of 12\.5 s"):
        readers.labels(file, "m1.csv")


@pytest.mark.parametrize(
    "names", ["start,stop,behaviour", "from;to;type", "onset,offset,label", "Start (s),end,Behavior"]
)
def test_intervals_are_known_by_what_people_call_them(file, names):
    sep = ";" if ";" in names else ","
    file.write_text(f"{names}\n" + "".join(sep.join(r) + "\n" for r in (["1", "3", "rear"], ["5", "5.2", "groom"])))
    found = readers.labels(file, "m1.csv")
    assert readers.sniff(file) is intervals and positive(found, "rear") == [1, 2] and positive(found, "groom") == [5]


def test_raters_vote_frame_by_frame(file):
    file.write_text("from,to,type,rater\n1,4,rear,A\n2,5,rear,B\n3,9,rear,C\n0,1,mark,D\n")
    assert positive(readers.labels(file, "m1.csv"), "rear") == [3]  # three of four; two of four are no majority
    file.write_text("from,to,type,rater\n1,4,rear,A\n2,5,rear,B\n3,9,rear,C\n")
    assert positive(readers.labels(file, "m1.csv"), "rear") == [2, 3, 4]


def test_rows_of_other_recordings_do_not_count(file):
    file.write_text("start,stop,type,video\n1,2,rear,/x/m1.mp4\n4,6,rear,/x/m2.mp4\n")
    assert positive(readers.labels(file, "m1DLC_resnet50_x.csv"), "rear") == [1]
    assert {"m1", "m2"} <= readers.recordings(file)
    with pytest.raises(ReadError, match="'video' has no row of 'm3'; it holds m1, m2"):
        readers.labels(file, "m3.csv")


def test_behaviours_are_ignored_by_name_and_by_underscore(file):
    file.write_text("start,stop,type\n1,2,rear\n1,2,StartEnd\n1,2,_DEFAULT\n")
    assert readers.labels(file, "m1.csv", ignore=("startend",)).behaviours == ("rear",)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("3,1,rear", "'rear' from 3 s to 1 s"),
        ("x,1,rear", "line 2, column start"),
        ("1,2", "2 cells, the header has 3"),
    ],
)
def test_broken_intervals_are_named(file, row, message):
    file.write_text(f"start,stop,type\n{row}\n")
    with pytest.raises(ReadError, match=message):
        readers.labels(file, "m1.csv")


def depot(path, content):
    with h5py.File(path, "w", userblock_size=512) as made:
        for name, values in content.items():
            made[name] = values
    data = bytearray(path.read_bytes())
    data[:20] = b"MATLAB 7.3 MAT-file,"
    path.write_bytes(data)
    return path


def test_behaviordepot_vectors_are_read(tmp_path):
    path = depot(tmp_path / "hB.mat", {"hBehavior/Freezing/Vector": np.eye(5)[:, :1], "hBehavior/Count": 1.0})
    found = readers.labels(path, "m1.csv")
    assert readers.sniff(path) is behaviordepot and found.behaviours == ("Freezing",)
    np.testing.assert_array_equal(found.frames("Freezing", 7, 50), [1, 0, 0, 0, 0, np.nan, np.nan])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"other": 1.0}, "no hBehavior"),
        ({"hBehavior/Count": 1.0}, "no behaviour with a Vector"),
        ({"hBehavior/F/Vector": b"text"}, "not an array of numbers"),
        ({"hBehavior/F/Vector": np.array([0.0, 7.0])}, "other numbers than 0 and 1"),
        ({"hBehavior/F/Vector": np.zeros(3), "hBehavior/G/Vector": np.zeros(4)}, "F 3, G 4"),
        ({"hBehavior": h5py.ExternalLink("elsewhere.h5", "/x")}, "no hBehavior"),
        ({"hBehavior/F": h5py.SoftLink("/x")}, "no behaviour with a Vector"),
    ],
)
def test_matlab_files_that_hold_something_else_are_refused(tmp_path, content, message):
    with pytest.raises(ReadError, match=message):
        readers.labels(depot(tmp_path / "hB.mat", content), "m1.csv")


def test_older_matlab_files_are_read_too(tmp_path):
    seen = np.array([[0, 1, 1, 0]], dtype=np.uint8)
    tree = {"Freezing": {"Vector": seen, "Bouts": np.array([[2, 3]])}, "Note": "nothing"}
    scipy.io.savemat(tmp_path / "hB.mat", {"hBehavior": tree, "Other": 1})
    found = readers.labels(tmp_path / "hB.mat", "m1.csv")
    assert found.behaviours == ("Freezing",)
    np.testing.assert_array_equal(found.frames("Freezing", 4, 1), [0, 1, 1, 0])
    scipy.io.savemat(tmp_path / "odd.mat", {"hBehavior": {"Freezing": {"Vector": np.array([[0, 7]])}}})
    with pytest.raises(ReadError, match="hBehavior/Freezing/Vector holds other numbers"):
        readers.labels(tmp_path / "odd.mat", "m1.csv")
    scipy.io.savemat(tmp_path / "params.mat", {"Params": 1})
    with pytest.raises(ReadError, match="unknown format"):
        readers.labels(tmp_path / "params.mat", "m1.csv")


def test_damaged_matlab_files_are_refused_with_advice(tmp_path):
    (tmp_path / "hB.mat").write_bytes(b"MATLAB 5.0 MAT-file, Platform: MACI64")
    with pytest.raises(ReadError, match=r"hB\.mat: not a readable MATLAB file with hBehavior .* save it again"):
        readers.labels(tmp_path / "hB.mat", "m1.csv")


def test_a_table_of_several_recordings_is_not_one(file):
    file.write_text("file,rater,from,to,type,ID\nA_j,j,0,1,rear,A\nB_j,j,0,1,rear,B\n")
    with pytest.raises(ReadError, match=r"column 'id' tells 2 recordings \(A, B\), none of them 'somebody'"):
        readers.labels(file, "somebody.csv")
    assert readers.labels(file, "B.csv").behaviours == ("rear",)
    file.write_text("file,rater,from,to,type\nA_j,j,0,1,rear\nA_k,k,0,1,rear\n")
    assert len(readers.labels(file, "somebody.csv").raters) == 2, "one file a rater is one recording"


def test_a_column_a_behaviour_is_read(file):
    file.write_text("frame,rear,groom\n0,0,1\n1,1,\n2,1,0\n")
    found = readers.labels(file, "m1.csv")
    assert readers.sniff(file) is onehot and found.behaviours == ("rear", "groom")
    np.testing.assert_array_equal(found.frames("groom", 3, 1), [1, np.nan, 0])
    file.write_text("frame,rear\n" + "0,0\n" * 30 + "30,2\n")
    with pytest.raises(ReadError, match="line 32, column 'rear': '2' is not 0 or 1"):
        readers.labels(file, "m1.csv")


def test_poses_and_labels_that_are_swapped_are_told_apart(file):
    file.write_text("start,stop,type\n1,2,rear\n")
    with pytest.raises(ReadError, match="give it as labels"):
        readers.tracks(file)
    file.write_text("scorer,n,n\nbodyparts,a,a\ncoords,x,y\n0,1,2\n")
    with pytest.raises(ReadError, match="give it as poses"):
        readers.labels(file, "m1.csv")


@pytest.mark.skipif(not DATA.is_dir(), reason="recordings are not here")
def test_real_labels_are_read():
    path = DATA / "mouse_pair_ethome/boris/e3v813a-20210610T122332-122642_reencode.csv"
    found = readers.labels(path, "e3v813a-20210610T122332-122642DLC_x.csv")
    bouts = found.raters[""]["interact"]
    assert found.fps == 30 and bouts.shape == (10, 2) and bouts[0].tolist() == [29.85, 34.725]
    (path,) = DATA.glob("mouse_freezing_behaviordepot/demo1/hB_*.mat")
    assert int(readers.labels(path, "demo1.csv").frames("Freezing", 6000, 50).sum()) > 1000
    (path,) = DATA.glob("mouse_oft_rearing/*labels*.csv")
    found = readers.labels(path, "8_01_A_190507134142DeepCut_resnet50_Blockcourse1May9shuffle1_1030000.csv")
    assert set(found.raters) == {"Jin", "Furkan", "Oliver"}
    assert found.behaviours[1:3] == ("Supported", "Unsupported") and "_DEFAULT" not in found.behaviours
