"""NumPy's npy and npz files, object arrays included, without running anything that is written in them.

An object array is a pickle, and a pickle is a programme. Here it may only build dict, list, tuple, str, bytes, int,
float, complex, bool, None and arrays or scalars of numbers, truth values, text and objects. The few names it needs
stand for classes of this file, NumPy's own unpickling is never called, and every other name is refused unseen.
"""

from __future__ import annotations

import io
import math
import mmap
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from ethoray.readers.contents import ReadError

MAGIC = b"\x93NUMPY"
OPCODES = 10_000_000
"""Most steps that the pickle of one array may take."""
DEPTH = 50
"""How deep dicts, lists, tuples and object arrays may be nested."""
_INFLATED, _RATIO = 1 << 26, 200
_PLAIN = (str, bytes, int, float, complex, bool, type(None))
_STEPS = frozenset({
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT",
    "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE",
    "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "EMPTY_LIST", "LIST", "APPEND", "APPENDS",
    "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS", "GET",
    "BINGET", "LONG_BINGET", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD",
})  # fmt: skip


def load(path: str | Path) -> Any:
    """What an npy or npz file holds: an array, the object a 0-d object array wraps, or a dict of an npz's members.

    Arrays of plain numbers are memory-mapped. Raises ReadError naming what is refused before any of it runs.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            if file.read(4) == b"PK\x03\x04":
                return _archive(path, file)
            size = file.seek(0, 2)
            if not size:
                raise ReadError(f"{path}: is empty; download it again")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:  # never reads more than there is
                return _array(mapped, size, str(path), path)
    except OSError as error:
        raise ReadError(f"cannot read {path}: {error.strerror or error}") from error


def header(head: bytes) -> tuple[tuple[int, ...], np.dtype] | None:
    """Shape and dtype by the first bytes of an npy file, None when they are not one's."""
    try:
        return _header(io.BytesIO(head), "") if head.startswith(MAGIC) else None
    except ReadError:
        return None


def _archive(path: Path, file: IO[bytes]) -> dict[str, Any]:
    found = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                where = f"{path}, member {member.filename!r}"
                if member.file_size > max(_INFLATED, _RATIO * member.compress_size):
                    raise ReadError(f"{where}: inflates {member.compress_size} bytes to {member.file_size}; refused")
                with archive.open(member) as stream:
                    data = stream.read(member.file_size + 1)
                if len(data) != member.file_size:
                    raise ReadError(f"{where}: is not of the size it claims; download it again")
                found[member.filename.removesuffix(".npy")] = _array(io.BytesIO(data), len(data), where, None)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        if isinstance(error, ReadError):
            raise
        raise ReadError(f"{path}: not a readable npz file ({error})") from error
    return found


def _array(stream: Any, size: int, where: str, path: Path | None) -> Any:
    shape, dtype = _header(stream, where)
    start = stream.tell()
    if dtype.kind == "O":
        found = _unpickled(stream, start, where)
        if not isinstance(found, np.ndarray) or math.prod(shape) != found.size:
            raise ReadError(f"{where}: its header promises an object array of shape {shape}, it holds something else")
        return found.reshape(shape) if shape else found.reshape(-1)[0]
    if math.prod(shape) * dtype.itemsize > size - start:
        raise ReadError(
            f"{where}: {size - start} bytes of data are fewer than {shape} of {dtype} need; download it again"
        )
    if path is not None and 0 not in shape:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    stream.seek(0)
    return npy.read_array(io.BytesIO(stream.read(size)), allow_pickle=False)


def _header(stream: Any, where: str) -> tuple[tuple[int, ...], np.dtype]:
    try:
        version = npy.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"npy version {version}")
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(stream)
    except Exception as error:
        raise ReadError(f"{where}: not a readable npy file ({error})") from error
    if dtype.kind not in "biufcSUO" or dtype.subdtype is not None or any(n < 0 for n in shape):
        raise ReadError(f"{where}: an array of {dtype} and shape {shape} is not read; save numbers, text or objects")
    return shape, dtype


def _unpickled(stream: Any, start: int, where: str) -> Any:
    try:
        _survey(stream, where)
        stream.seek(start)
        return _resolved(_Unpickler(stream, where).load(), where, {}, 0)
    except ReadError as error:
        raise ReadError(str(error) if where in str(error) else f"{where}: {error}") from error
    except Exception as error:
        raise ReadError(f"{where}: a damaged or hostile object array ({type(error).__name__}: {error})") from error


def _survey(stream: Any, where: str) -> None:
    """Refuse steps that no array of ours needs, and a memo larger than what was put there."""
    for count, (step, argument, _) in enumerate(pickletools.genops(stream)):
        if count > OPCODES:
            raise ReadError(f"{where}: an object array of more than {OPCODES} steps; save numbers as numeric arrays")
        if step.name not in _STEPS:
            raise ReadError(f"{where}: the object array uses {step.name} ({argument!r:.80}), which is refused")
        if "PUT" in step.name and not 0 <= int(str(argument)) <= count:
            raise ReadError(f"{where}: the object array asks for memo {argument} at step {count}; refused")


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: Any, where: str) -> None:
        super().__init__(stream)
        self._where = where

    def find_class(self, module: str, name: str) -> _Name:
        """What one of the few allowed names stands for."""
        call = _ALLOWED.get((module, name))
        if call is None:
            raise ReadError(
                f"{self._where}: the file asks for {module}.{name}, which could run code; only dicts, lists, text, "
                "numbers and arrays are read. Get the file from its publisher again"
            )
        return _Name(call)

    def persistent_load(self, pid: Any) -> Any:
        raise ReadError(f"{self._where}: the file refers to an object elsewhere ({pid!r:.80}); refused")


class _Unfinished:
    """What stands for an object while a pickle is read: its state can be set in one way, its attributes in none."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise ReadError(f"an object array gives state to a {type(self).__name__.strip('_').lower()}; refused")


class _Name(_Unfinished):
    __slots__ = ("call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def __call__(self, *arguments: Any) -> Any:
        return self.call(*arguments)


class _Scalar(_Unfinished):
    __slots__ = ("value",)

    def __init__(self, dtype: _Dtype, data: bytes) -> None:
        self.value: Any
        (self.value,) = np.frombuffer(data, dtype.numeric()).tolist()


class _Dtype(_Unfinished):
    __slots__ = ("dtype",)

    def __init__(self, text: str, align: bool = False, copy: bool = True) -> None:
        self.dtype: np.dtype = np.dtype(text if len(text) < 12 and "," not in text else "V1")
        if self.dtype.kind not in "biufcSUO":
            raise ReadError(f"an object array holds arrays of {text!r:.80}; only numbers, text and objects are read")

    def numeric(self) -> np.dtype:
        if self.dtype.kind == "O" or not self.dtype.itemsize:
            raise ReadError(f"{self.dtype} where numbers or text were promised")
        return self.dtype

    def __setstate__(self, state: Any) -> None:
        _, order, *fields = state
        if order not in ("<", ">", "|", "=") or any(field is not None for field in fields[:3]):
            raise ReadError("an object array holds arrays of records; only numbers, text and objects are read")
        self.dtype = self.dtype.newbyteorder(order)


class _Array(_Unfinished):
    __slots__ = ("objects", "shape", "values")

    def __init__(self, kind: Any, shape: Any, dtype: Any) -> None:
        if not (isinstance(kind, _Name) and kind.call is _ndarray):
            raise ReadError("an object array holds a kind of array that is not NumPy's")
        self.values: np.ndarray = np.empty(0, np.int8)
        self.objects: list[Any] | None = None
        self.shape: tuple[int, ...] = (0,)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype) or not all(type(n) is int and n >= 0 for n in shape):
            raise ReadError("an object array holds an array without a shape or without a type")
        if dtype.dtype.kind == "O":
            if type(data) is not list or len(data) != math.prod(shape):
                raise ReadError(f"an array of shape {shape} does not hold as many objects")
            self.objects, self.shape = data, shape
        else:
            numeric = dtype.numeric()
            if type(data) is not bytes or len(data) != math.prod(shape) * numeric.itemsize:
                raise ReadError(f"an array of {numeric} and shape {shape} does not hold as many bytes")
            self.values = np.frombuffer(data, numeric).reshape(shape, order="F" if fortran else "C")


def _ndarray(*arguments: Any) -> Any:
    raise ReadError("an object array calls numpy.ndarray itself; refused")


def _encode(text: Any, encoding: Any) -> bytes:
    if encoding != "latin1" or not isinstance(text, str):
        raise ReadError(f"an object array encodes text as {encoding!r:.80}; only latin1 is read")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _ndarray,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    **{(f"numpy.{c}.multiarray", "_reconstruct"): _Array for c in ("core", "_core")},
    **{(f"numpy.{c}.multiarray", "scalar"): _Scalar for c in ("core", "_core")},
}


def _resolved(found: Any, where: str, seen: dict[int, Any], depth: int) -> Any:
    """The finished objects in place of what stood for them; each is built once, however often it occurs."""
    if type(found) in _PLAIN:
        return found
    if id(found) in seen:
        return seen[id(found)]
    if depth > DEPTH:
        raise ReadError(f"{where}: objects within objects more than {DEPTH} deep; refused")
    made: Any
    if type(found) is dict:
        made = {_resolved(k, where, seen, depth + 1): _resolved(v, where, seen, depth + 1) for k, v in found.items()}
    elif type(found) in (list, tuple):
        items = [_resolved(item, where, seen, depth + 1) for item in found]
        made = items if type(found) is list else tuple(items)
    elif isinstance(found, _Scalar):
        made = found.value
    elif isinstance(found, _Array) and found.objects is None:
        made = found.values
    elif isinstance(found, _Array):
        made = np.empty(len(found.objects or ()), dtype="O")
        for place, item in enumerate(found.objects or ()):
            made[place] = _resolved(item, where, seen, depth + 1)
        made = made.reshape(found.shape)
    else:
        raise ReadError(f"{where}: the file holds a bare {type(found).__name__.strip('_').lower()}; refused")
    seen[id(found)] = made
    return made
