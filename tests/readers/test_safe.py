"""Object arrays are read, and nothing that is written in them runs."""

import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ethoray.readers import ReadError, safe

DATA = Path("../shared/data/labels_and_splits/mabe22")


class Call:
    def __init__(self, function, *arguments):
        self.found = function, arguments

    def __reduce__(self):
        return self.found


class Build(Call):
    def __reduce__(self):
        return (*self.found, {"__setstate__": 1})


class Keywords:
    def __new__(cls, **kwargs):
        return object.__new__(cls)

    def __getnewargs_ex__(self):
        return (), {"path": "x"}


def raw(path, body, shape=()):
    """An npy file of objects whose pickle is ``body``."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|O", "fortran_order": False, "shape": shape})
    path.write_bytes(head.getvalue() + body)
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_what_published_files_hold_comes_back_equal(tmp_path, protocol):
    found = {
        "clip": {"keypoints": np.arange(12.0).reshape(2, 3, 2).T, "n": np.int16(3), "ok": np.bool_(True)},
        "words": ["nose", b"\xff", 1.5, None, (1, True)],
        "text": np.array(["a", "bcd"]),
        "mixed": np.array([None, {"deep": np.float32(2)}], dtype=object),
        "big": np.arange(3, dtype=">i4"),
    }
    body = pickle.dumps(np.array(found, dtype=object), protocol=protocol)
    for data in (body, body.replace(b"numpy._core", b"numpy.core") if protocol < 4 else body):
        read = safe.load(raw(tmp_path / "a.npy", data))
        assert read["words"] == found["words"] and read["clip"]["n"] == 3 and read["clip"]["ok"] is True
        for key in ("text", "big"):
            np.testing.assert_array_equal(read[key], found[key])
        np.testing.assert_array_equal(read["clip"]["keypoints"], found["clip"]["keypoints"])
        assert read["mixed"].tolist() == [None, {"deep": 2.0}]


def test_numbers_are_mapped_and_npz_members_are_read(tmp_path):
    np.save(tmp_path / "n.npy", np.arange(6.0).reshape(2, 3))
    assert isinstance(safe.load(tmp_path / "n.npy"), np.memmap)
    np.savez_compressed(tmp_path / "n.npz", a=np.arange(3), b=np.array({"x": 1}, dtype=object))
    found = safe.load(tmp_path / "n.npz")
    assert found["b"] == {"x": 1} and found["a"].tolist() == [0, 1, 2]
    np.save(tmp_path / "e.npy", np.empty((0, 3)))
    assert safe.load(tmp_path / "e.npy").shape == (0, 3)


def hostile(mark):
    touch = f"touch {mark}"
    return {
        "os.system": Call(os.system, touch),
        "eval": Call(eval, f"open({str(mark)!r}, 'w')"),
        "exec": Call(exec, f"open({str(mark)!r}, 'w')"),
        "getattr": Call(getattr, Call(__import__, "os"), "system"),
        "open": Call(open, str(mark), "w"),
        "numpy.load": Call(np.load, str(mark)),
        "numpy.fromfile": Call(np.fromfile, str(mark)),
        "memmap": Call(np.memmap, str(mark), "u1", "w+", 0, (4,)),
        "runstring": Call(np.testing.rundocs, str(mark)),
        "mkdir": Call(os.mkdir, str(mark)),
        "nested in a dict": {"sequences": {"a": [Call(os.mkdir, str(mark))]}},
        "nested in an array": np.array([1, Call(os.mkdir, str(mark))], dtype=object),
        "state": Build(np.dtype, "f8"),
        "keywords": Keywords(),
        "set": {1, 2},
        "bytearray": bytearray(b"x"),
        "path": Path(mark),
        "record": np.zeros(2, dtype=[("a", "f8")]),
        "date": np.zeros(2, "M8[s]"),
    }


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
@pytest.mark.parametrize("name", hostile("x"))
def test_hostile_objects_are_refused_and_leave_nothing_behind(tmp_path, name, protocol):
    mark = tmp_path / "mark"
    thing = hostile(mark)[name]
    box = np.empty((), dtype=object)
    box[()] = thing
    path = raw(tmp_path / "a.npy", pickle.dumps(box, protocol=protocol))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.write(path, "inside.npy")
    for file in (path, tmp_path / "a.npz"):
        with pytest.raises(ReadError, match=str(file)):
            safe.load(file)
    assert not mark.exists()


def test_the_refused_name_is_named(tmp_path):
    body = pickle.dumps(np.array({"a": Call(os.mkdir, "x")}, dtype=object), protocol=4)
    with pytest.raises(ReadError, match=r"posix\.mkdir|nt\.mkdir"):
        safe.load(raw(tmp_path / "a.npy", body))


DTYPE = b"cnumpy\ndtype\n(X\x02\x00\x00\x00f8I0\nI1\ntR(I3\nX\x01\x00\x00\x00<NNNI-1\nI-1\nI0\ntb"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntC\x01btR"
BODIES = {
    "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0dcore.os.mkdir\x93.",
    "codecs with another codec": b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.",
    "codecs that import": b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x0d\x00\x00\x00idlelib.../..tR.",
    "codecs lookup": b"c_codecs\nlookup\n(X\x05\x00\x00\x00rot13tR.",
    "memo far away": b"Nr\xff\xff\xff\x7f.",
    "memo in words": b"Np2147483647\n.",
    "length beyond the file": b"\x8e" + struct.pack("<Q", 1 << 60) + b"x.",
    "frame beyond the file": b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"N.",
    "state for a name": b"cnumpy\ndtype\n}X\x01\x00\x00\x00aI1\nsb.",
    "state as slots": b"cnumpy\ndtype\n(N}X\x01\x00\x00\x00aI1\nstb.",
    "a bare name": b"cnumpy\ndtype\n.",
    "calling ndarray": b"cnumpy\nndarray\n(I99999999999\ntR.",
    "huge shape": ARRAY + b"(I1\n(I99999999999\nt" + DTYPE + b"I00\nC\x01btb.",
    "negative shape": ARRAY + b"(I1\n(I-1\nt" + DTYPE + b"I00\nC\x01btb.",
    "flags of a dtype": DTYPE.replace(b"NNN", b"NX\x01\x00\x00\x00aN") + b".",
    "too deep": b"(" * 5000 + b"l" * 5000 + b".",
    "within itself": b"]q\x00h\x00a.",
    "an extension": b"\x82\x01.",
    "elsewhere": b"Pmark\n.",
    "instance": b"(X\x04\x00\x00\x00trueios\nsystem\n.",
    "nothing": b"",
    "cut off": b"\x80\x04]",
    "not an array": b"I1\n.",
}


@pytest.mark.parametrize("name", BODIES)
def test_hostile_steps_are_refused(tmp_path, name):
    with pytest.raises(ReadError, match=r"a\.npy"):
        safe.load(raw(tmp_path / "a.npy", BODIES[name]))


def test_many_references_to_one_object_are_built_once(tmp_path):
    laugh = ["ha"]
    for _ in range(40):
        laugh = [laugh] * 10
    body = pickle.dumps(np.array({"a": laugh}, dtype=object), protocol=4)
    assert len(safe.load(raw(tmp_path / "a.npy", body))["a"]) == 10


def test_headers_that_promise_more_than_the_file_holds_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(4))
    data = (tmp_path / "a.npy").read_bytes()
    for old, new in ((b"(4,), }      ", b"(99999999,), }"[:13]), (b"<f8", b"<M8"), (b"(4,)", b"(-4)")):
        (tmp_path / "b.npy").write_bytes(data.replace(old, new, 1))
        with pytest.raises(ReadError, match=r"b\.npy"):
            safe.load(tmp_path / "b.npy")
    for content in (b"", b"\x93NUMPY", b"PK\x03\x04junk", b"text"):
        (tmp_path / "c.npy").write_bytes(content)
        with pytest.raises(ReadError, match=r"c\.npy"):
            safe.load(tmp_path / "c.npy")


def test_an_npz_that_inflates_without_measure_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(safe, "_INFLATED", 1 << 16)
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(1 << 20))
    with pytest.raises(ReadError, match="inflates"):
        safe.load(tmp_path / "a.npz")


@pytest.mark.skipif(not DATA.is_dir(), reason="recordings are not here")
def test_the_published_frame_map_is_read():
    found = safe.load(DATA / "mouse_triplet_frame_number_map.npy")
    assert len(found) == 3736 and list(found.values())[-1][1] == 6_724_800
