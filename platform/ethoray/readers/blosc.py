"""Arrays that PyTables compressed with Blosc, unpacked without a plug-in of the HDF5 library.

Such a chunk is a header, the places of its blocks, and blocks whose bytes may be sorted by significance (shuffled).
The blocks are packed by blosclz, the usual one, or by zlib, lz4 or zstd. What a chunk unpacks to is fixed by the
array's shape, so a hostile file takes no more memory than its array; every length in it is checked.
"""

from __future__ import annotations

import zlib
from itertools import product
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa

from ethoray.readers import hdf5
from ethoray.readers.contents import ReadError

_FILTER = 32001
_HEADER = 16
_SHUFFLED, _COPIED, _BITS, _WHOLE = 1, 2, 4, 16
_MOST_SPLITS, _SMALLEST_SPLIT, _FARTHEST = 16, 128, 8191
_MOST_BYTES = 1 << 33


def array(path: Path, file: h5py.Group, key: str, kinds: str = "fiub") -> np.ndarray:
    """A dataset of numbers (or of ``kinds``) like ``hdf5.array``, also where Blosc is its only filter."""
    data = file.get(key) if isinstance(file.get(key, getlink=True), h5py.HardLink) else None
    if not isinstance(data, h5py.Dataset) or data.external or data.is_virtual or not _packed(data):
        return hdf5.array(path, file, key, kinds)
    if data.dtype.kind not in kinds or data.size * data.dtype.itemsize > _MOST_BYTES:
        raise ReadError(f"{path}: {key} is not an array of the expected kind and size")
    found = np.zeros(data.shape, dtype=data.dtype)
    chunk = data.chunks
    for corner in product(*(range(0, n, step) for n, step in zip(data.shape, chunk, strict=True))):
        try:
            mask, stored = data.id.read_direct_chunk(corner)
            plain = bytes(stored) if mask else unpacked(stored, int(np.prod(chunk)) * data.dtype.itemsize)
            block = np.frombuffer(plain, dtype=data.dtype).reshape(chunk)
        except (OSError, RuntimeError, ValueError, LookupError, zlib.error, pa.ArrowException) as error:
            raise ReadError(f"{path}: {key} cannot be unpacked at {corner}, is the file cut off? ({error})") from error
        place = tuple(slice(c, c + step) for c, step in zip(corner, chunk, strict=True))
        target = found[place]
        target[...] = block[tuple(slice(n) for n in target.shape)]
    return found


def texts(path: Path, file: h5py.Group, key: str) -> tuple[str, ...]:
    """A dataset of names."""
    values = array(path, file, key, "SOU").reshape(-1)
    if not all(isinstance(value, bytes | str) for value in values):
        raise ReadError(f"{path}: {key} holds no text")
    return tuple(v.decode("utf-8", "replace") if isinstance(v, bytes) else str(v) for v in values)


def _packed(data: h5py.Dataset) -> bool:
    steps = data.id.get_create_plist()
    return data.chunks is not None and steps.get_nfilters() == 1 and steps.get_filter(0)[0] == _FILTER


def unpacked(stored: bytes, size: int) -> bytes:
    """The ``size`` bytes that a Blosc chunk stands for; ValueError or IndexError where it does not."""
    flags, width = stored[2], max(stored[3], 1)
    total, length, end = (int(n) for n in np.frombuffer(stored[4:_HEADER], dtype="<u4"))
    if total != size or end != len(stored):
        raise ValueError(f"a chunk of {total} and {end} bytes, {size} and {len(stored)} were promised")
    if flags & _COPIED:
        return stored[_HEADER : _HEADER + size]
    if flags & _BITS or not 0 < length <= max(size, 1):
        raise ValueError("bits are shuffled, or a block has no length")
    count = -(-size // length)
    starts = np.frombuffer(stored[_HEADER : _HEADER + 4 * count], dtype="<u4")
    parts = []
    for block in range(count):
        wanted = min(length, size - block * length)
        split = not flags & _WHOLE and width <= _MOST_SPLITS and length // width >= _SMALLEST_SPLIT
        pieces = width if split and wanted == length else 1
        plain = _block(stored, int(starts[block]), wanted, pieces, flags >> 5)
        parts.append(_sorted_back(plain, width) if flags & _SHUFFLED and width > 1 else plain)
    return b"".join(parts)


def _block(stored: bytes, place: int, wanted: int, pieces: int, codec: int) -> bytes:
    """One block: its pieces, each after its own length."""
    each, parts = wanted // pieces, []
    for _ in range(pieces):
        length = int.from_bytes(stored[place : place + 4], "little")
        data = stored[place + 4 : place + 4 + length]
        if len(data) != length:
            raise ValueError("a block ends outside its chunk")
        plain = data if length == each else _plain(data, each, codec)
        if len(plain) != each:
            raise ValueError(f"a block of {len(plain)} bytes, {each} were promised")
        parts.append(plain)
        place += 4 + length
    return b"".join(parts)


def _plain(data: bytes, size: int, codec: int) -> bytes:
    if codec == 0:
        return _blosclz(data, size)
    if codec == 3:
        return zlib.decompressobj().decompress(data, size)
    if codec in (1, 4):
        return bytes(pa.Codec("lz4_raw" if codec == 1 else "zstd").decompress(data, size))
    raise ValueError(f"packed by codec {codec}, which is not read")


def _blosclz(data: bytes, size: int) -> bytes:
    """Literal runs and copies of what stands up to 2^16 bytes before, as in FastLZ."""
    out = bytearray()
    place, control = 1, data[0] & 31
    while True:
        if control < 32:
            out += data[place : place + control + 1]
            place += control + 1
        else:
            length, back = (control >> 5) - 1, (control & 31) << 8
            more = length == 6
            while more:
                length, more, place = length + data[place], data[place] == 255, place + 1
            low, place = data[place], place + 1
            if low == 255 and back == 31 << 8:
                back, place = (data[place] << 8) + data[place + 1] + _FARTHEST, place + 2
            else:
                back += low
            _repeat(out, back + 1, length + 3)
        if len(out) > size:
            raise ValueError(f"more than the {size} bytes promised")
        if place >= len(data):
            return bytes(out)
        control, place = data[place], place + 1


def _repeat(out: bytearray, back: int, length: int) -> None:
    """Append ``length`` bytes that begin ``back`` before the end; they may run into themselves."""
    if back > len(out):
        raise ValueError("a copy from before the beginning")
    source = out[-back:] if back <= length else out[-back : len(out) - back + length]
    out += (source * (length // len(source) + 1))[:length]


def _sorted_back(data: bytes, width: int) -> bytes:
    whole = len(data) // width * width
    return np.frombuffer(data[:whole], np.uint8).reshape(width, -1).T.tobytes() + data[whole:]
