import zlib
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pytest

from ethoray.readers import ReadError, blosc


def packed(pieces, size, width=1, flags=0, codec=0, block=None):
    """A chunk of one block whose pieces are packed already."""
    body = b"".join(len(p).to_bytes(4, "little") + p for p in pieces)
    lengths = np.array([size, block or size, 20 + len(body)], "<u4").tobytes()
    return bytes([2, 1, flags | codec << 5, width]) + lengths + (20).to_bytes(4, "little") + body


def test_a_run_of_literals_and_a_copy_into_itself_are_unpacked():
    stream = bytes([2]) + b"abc" + bytes([7 << 5, 0, 2])
    assert blosc.unpacked(packed([stream], 12), 12) == b"abcabcabcabc"


def test_a_copy_from_far_behind_is_unpacked():
    plain = bytes(range(256)) * 33
    literals = b"".join(bytes([31]) + plain[i : i + 32] for i in range(0, len(plain), 32))
    assert len(plain) == 8448
    near = literals + bytes(
        [
            (1 << 5) | 31,
            0,
        ]
    )  # three bytes from 31 * 256 + 1 before
    assert blosc.unpacked(packed([near], len(plain) + 3), len(plain) + 3)[-3:] == plain[8448 - 7937 :][:3]
    far = literals + bytes([(1 << 5) | 31, 255, 0, 9])  # 8191 + 9 + 1 before
    assert blosc.unpacked(packed([far], len(plain) + 3), len(plain) + 3)[-3:] == plain[8448 - 8201 :][:3]


@pytest.mark.parametrize(
    ("codec", "pack"),
    [
        (1, lambda b: bytes(pa.Codec("lz4_raw").compress(b, asbytes=True))),
        (3, zlib.compress),
        (4, lambda b: bytes(pa.Codec("zstd").compress(b, asbytes=True))),
    ],
)
def test_shuffled_and_split_blocks_of_every_codec_come_back(codec, pack):
    values = np.arange(400, dtype="<f8") // 7
    planes = np.frombuffer(values.tobytes(), np.uint8).reshape(-1, 8).T
    chunk = packed([pack(p.tobytes()) for p in planes], values.nbytes, 8, flags=1, codec=codec)
    np.testing.assert_array_equal(np.frombuffer(blosc.unpacked(chunk, values.nbytes), "<f8"), values)
    whole = packed([pack(planes.tobytes())], values.nbytes, 8, flags=1 | 16, codec=codec)
    assert blosc.unpacked(whole, values.nbytes) == values.tobytes()


def test_what_was_only_copied_comes_back():
    assert blosc.unpacked(bytes([2, 1, 2, 8]) + np.array([3, 3, 19], "<u4").tobytes() + b"xyz", 3) == b"xyz"


@pytest.mark.parametrize(
    "chunk",
    [
        packed([bytes([0]) + b"a" + bytes([7 << 5, 0, 9])], 12),  # copies from before the beginning
        packed([bytes([0]) + b"a" + bytes([7 << 5, 255, 255, 255, 255, 0, 0])], 12),  # more than promised
        packed([bytes([2]) + b"abc"], 12),  # less than promised
        packed([bytes([2]) + b"abc" + bytes([7 << 5])], 12),  # cut off
        packed([b"abc"], 12, codec=2),  # snappy
        packed([b"abc"], 12, flags=4),  # bits shuffled
        packed([bytes([2]) + b"abc" + bytes([7 << 5, 0, 2])], 12)[:-1],
    ],
)
def test_a_damaged_chunk_is_refused(chunk):
    with pytest.raises((ValueError, IndexError)):
        blosc.unpacked(chunk, 12)


def stored(path, chunk):
    """A file whose array is one chunk as Blosc wrote it."""
    with h5py.File(path, "w") as file:
        space, steps = h5py.h5s.create_simple((3, 4)), h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        steps.set_chunk((3, 4))
        steps.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (2, 2, 1, 12))
        made = h5py.h5d.create(file.id, b"a", h5py.h5t.NATIVE_UINT8, space, steps)
        made.write_direct_chunk((0, 0), chunk)
    return path


def test_an_array_in_a_file_is_read_and_a_damaged_one_named(tmp_path):
    good = stored(tmp_path / "good.h5", packed([bytes([2]) + b"abc" + bytes([7 << 5, 0, 2])], 12))
    with h5py.File(good) as file:
        assert blosc.array(good, file, "a").tobytes() == b"abc" * 4
    bad = stored(tmp_path / "bad.h5", packed([b"\x00"], 12))
    with h5py.File(bad) as file, pytest.raises(ReadError, match=r"a cannot be unpacked at \(0, 0\)"):
        blosc.array(Path(bad), file, "a")
