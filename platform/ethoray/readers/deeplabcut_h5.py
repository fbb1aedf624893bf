"""DeepLabCut tracks in HDF5, as pandas writes them, "table" or "fixed"; one animal or several.

Pandas and PyTables keep the names of columns as pickles and run them when they read. Here the fixed layout is read
from its plain arrays. The pickle of the table layout is never loaded: its steps are followed one by one as far as
they build text, numbers, lists and tuples; any other step is refused before anything is done.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ethoray.readers.columns import Place, arrangement, assembled
from ethoray.readers.contents import Layout, ReadError, Tracks, worth
from ethoray.readers.hdf5 import SIGNATURE, array, dataset, opened, read, texts

WHAT = "DeepLabCut tracks (h5)"
_COORDS = {"x", "y", "z", "likelihood"}


def sniffs(head: bytes, path: Path) -> bool:
    """Whether a group at the top is a data frame of pandas."""
    if not head.startswith(SIGNATURE):
        return False
    with opened(path) as file:
        return bool(_frames(file))


def layout(path: Path, ignore: Sequence[str] = ()) -> Layout:
    """What the file holds."""
    with opened(path) as file:
        frame = _frame(path, file)
        found = arrangement(path, frame.places(path, ignore), f", {frame.key}")
    individuals, names, axes, notes = found
    return Layout(frame.length, individuals, names, len(axes), None, notes)


def pieces(
    path: Path, ignore: Sequence[str] = (), min_confidence: float = 0.0, frames: int | None = None
) -> Iterator[Tracks]:
    """Consecutive tracks; keypoints in ``ignore`` are left out, those less confident than the minimum become NaN."""
    with opened(path) as file:
        frame = _frame(path, file)
        places = frame.places(path, ignore)
        step = frames or worth(len(frame.columns))
        for start in range(0, frame.length, step):
            yield assembled(path, places, frame.read(start, start + step), min_confidence, f", {frame.key}")


@dataclass(frozen=True)
class _Frame:
    """A data frame in an open file: the labels of every column, and its numbers from one row up to another."""

    key: str
    columns: Sequence[tuple[str, ...]]
    length: int
    read: Callable[[int, int], np.ndarray]

    def places(self, path: Path, ignore: Sequence[str]) -> dict[Place, int]:
        """Column of every (individual, keypoint, coordinate)."""
        dropped = {name.casefold() for name in ignore}
        places: dict[Place, int] = {}
        for column, labels in enumerate(self.columns):
            if not 2 <= len(labels) <= 4 or labels[-1].lower() not in _COORDS:
                raise ReadError(
                    f"{path}: {self.key} column {column + 1} is {labels!r}; expected bodypart and coordinate"
                )
            animal = labels[1] if len(labels) == 4 else "individual_0"
            place = (animal, labels[-2], labels[-1].lower())
            if place in places:
                raise ReadError(f"{path}: {self.key} has the column {labels!r} twice; rename or remove one")
            if place[1].casefold() not in dropped:
                places[place] = column
        if not places:
            raise ReadError(f"{path}: no keypoint is left")
        return places


def _frame(path: Path, file: h5py.File) -> _Frame:
    keys = _frames(file)
    if len(keys) != 1:
        raise ReadError(f"{path}: {len(keys)} data frames ({', '.join(keys)}); expected one")
    group = file[keys[0]]
    columns, data, block = (_fixed if "block0_values" in group else _table)(path, group)
    form = data.shape if block is None else (*data.shape, *data.dtype[block].shape)
    if form[1:] != (len(columns),):
        raise ReadError(f"{path}: {keys[0]} names {len(columns)} columns and holds {form[-1]}")
    if not len(data):
        raise ReadError(f"{path}: {keys[0]} has no frame")

    def rows(start: int, stop: int) -> np.ndarray:
        found = read(path, data, slice(start, stop))
        return found if block is None else found[block]

    return _Frame(keys[0], columns, len(data), rows)


def _frames(file: h5py.File) -> list[str]:
    keys = [key for key in file if isinstance(file.get(key, getlink=True), h5py.HardLink)]
    groups = {key: file[key] for key in keys}
    return [
        key
        for key, group in groups.items()
        if isinstance(group, h5py.Group)
        and group.attrs.get("pandas_type") in (b"frame", b"frame_table", "frame", "frame_table")
    ]


def _fixed(path: Path, group: h5py.Group) -> tuple[list[tuple[str, ...]], h5py.Dataset, None]:
    """Columns as levels and, for every column, the place in each level."""
    if "block1_values" in group:
        raise ReadError(f"{path}: {group.name} holds columns of several types; save it as numbers only")
    values = dataset(path, group, "block0_values", "fiu")
    levels: list[list[str]] = []
    key = "block0_items"
    while f"{key}_level{len(levels)}" in group:
        names = texts(path, group, f"{key}_level{len(levels)}")
        labels = array(path, group, f"{key}_label{len(levels)}", "iu").astype(np.int64).reshape(-1)
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(names):
            raise ReadError(f"{path}: {group.name}/{key}_label{len(levels)} points outside its {len(names)} names")
        levels.append([names[i] for i in labels])
    if values.ndim != 2 or not levels or len({len(level) for level in levels}) != 1:
        raise ReadError(f"{path}: {group.name}/block0_values {values.shape} has no names of columns that fit")
    return list(zip(*levels, strict=True)), values, None


def _table(path: Path, group: h5py.Group) -> tuple[list[tuple[str, ...]], h5py.Dataset, str]:
    """Columns named by the pickled attribute non_index_axes, values in order of the frame index."""
    rows = dataset(path, group, "table", "V")
    blocks = [name for name in rows.dtype.names or () if name.startswith("values_block_")]
    kinds = [rows.dtype[name] for name in blocks]
    if len(blocks) != 1 or rows.ndim != 1 or len(kinds[0].shape) != 1 or kinds[0].base.kind not in "fiu":
        raise ReadError(f"{path}: {group.name}/table has {len(blocks)} blocks of values; expected one, of numbers")
    stored = group.attrs.get("non_index_axes")
    if not isinstance(stored, bytes):
        raise ReadError(f"{path}: {group.name} has no non_index_axes, which names the columns")
    try:
        document: Any = _plain(bytes(stored))
        columns = [tuple(str(level) for level in column) for column in document[0][1] if not isinstance(column, str)]
    except (ValueError, LookupError, TypeError) as error:
        raise ReadError(f"{path}: {group.name} non_index_axes names no columns ({error})") from None
    return columns, rows, blocks[0]


_MARK = object()
_VALUES = {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING", "INT", "BININT",
           "BININT1", "BININT2", "LONG", "LONG1"}  # fmt: skip
_EMPTY = {"EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _plain(stored: bytes) -> Any:
    """Nested lists and tuples of text and numbers out of a pickle; ValueError at the first step to anything else."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for step, argument, _ in pickletools.genops(stored):
        name = step.name
        if name in _VALUES or name in _EMPTY:
            stack.append(_EMPTY[name]() if name in _EMPTY else argument)
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("LIST", "TUPLE"):
            items = _marked(stack)
            stack.append(items if name == "LIST" else tuple(items))
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
        elif name in ("APPEND", "APPENDS"):
            items = [stack.pop()] if name == "APPEND" else _marked(stack)
            if not isinstance(stack[-1], list):
                raise ValueError("it appends to no list")
            stack[-1].extend(items)
        elif name.endswith("PUT") or name == "MEMOIZE":
            memo[len(memo) if name == "MEMOIZE" else int(str(argument))] = stack[-1]
        elif name.endswith("GET"):
            stack.append(memo[int(str(argument))])
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"it uses {name} {argument!r:.60}, which could run code; refused")
    raise ValueError("it never stops")


def _marked(stack: list[Any]) -> list[Any]:
    place = len(stack) - 1 - stack[::-1].index(_MARK)
    items = stack[place + 1 :]
    del stack[place:]
    return items
