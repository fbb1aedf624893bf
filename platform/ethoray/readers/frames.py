"""Behaviour labels as one class a frame: a csv with a column of names, or a numpy array.

An array (frame,) holds a class a frame: whole numbers or text. An array (frame, behaviour) holds 0, 1 or NaN for
every behaviour, called behaviour_0 and so on. NaN, a negative class or an empty cell is unlabelled. A class array of
0 and 1 only is the behaviour the file is named after.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ethoray.readers.contents import FrameLabels, ReadError, decode, kept, rows, separator, stem

WHAT = "a class a frame (csv with a column label, or a numeric .npy)"
_MAGIC = b"\x93NUMPY"
_LABEL = ("label", "labels", "annotation", "behaviour", "behavior", "class", "state")
_INDEX = ("", "frame", "frames", "index", "time", "time (s)", "sequence number", "unnamed: 0")
_EMPTY = ("", "nan", "na", "none given")
_MOST_CLASSES = 200


def sniffs(head: bytes, path: Path) -> bool:
    """Whether it is an array of one or two axes without objects, or a table of frames with one column of classes."""
    if head.startswith(_MAGIC):
        shape, dtype = _described(path)
        return len(shape) in (1, 2) and dtype.kind in "biufU" and not (len(shape) == 2 and dtype.kind == "U")
    lines = decode(head).splitlines()[:20]
    names = [name.lower() for name in rows(lines[0], separator(lines[0]))[0]] if lines and lines[0].strip() else []
    labelled = [i for i, name in enumerate(names) if name in _LABEL]
    if len(labelled) != 1 or any(name not in _INDEX for i, name in enumerate(names) if i != labelled[0]):
        return False
    body = [cells[labelled[0]] for cells in rows("\n".join(lines[1:]), separator(lines[0])) if len(cells) == len(names)]
    return any(cell.lower() not in ("0", "1", "0.0", "1.0", "true", "false", *_EMPTY) for cell in body)


def labels(path: Path, pose: str, ignore: Sequence[str] = ()) -> FrameLabels:
    """Read one file."""
    with path.open("rb") as file:
        values = _array(path) if file.read(6) == _MAGIC else _cells(path)
    if not values.size:
        raise ReadError(f"{path}: it has no frame")
    if values.ndim == 2:
        found = {f"behaviour_{i}": _binary(path, f"behaviour_{i}", column) for i, column in enumerate(values.T)}
    else:
        found = _classes(path, values)
    return FrameLabels({name: found[name] for name in kept(found, ignore)})


def _described(path: Path) -> tuple[tuple[int, ...], np.dtype]:
    with path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
        except ValueError as error:
            raise ReadError(f"{path}: not a readable npy file ({error})") from error
    return shape, dtype


def _array(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError) as error:
        raise ReadError(f"{path}: not a whole npy file, is it cut off? ({error})") from error


def _cells(path: Path) -> np.ndarray:
    text = decode(path.read_bytes())
    names, *body = rows(text, separator(text.split("\n", 1)[0]))
    column = next(i for i, name in enumerate(names) if name.lower() in _LABEL)
    for line, cells in enumerate(body, start=2):
        if cells and len(cells) != len(names):
            raise ReadError(f"{path}, line {line}: {len(cells)} cells, the header has {len(names)}")
    return np.array([cells[column] for cells in body if cells], dtype=str)


def _classes(path: Path, values: np.ndarray) -> dict[str, np.ndarray]:
    if values.dtype.kind == "U":
        unlabelled = np.isin(np.char.lower(values), _EMPTY)
    else:
        numbers = np.asarray(values, dtype=np.float64)
        unlabelled = np.isnan(numbers) | (numbers < 0)
        if (numbers[~unlabelled] != np.round(numbers[~unlabelled])).any():
            raise ReadError(f"{path}: holds other numbers than classes 0, 1, 2...")
    kinds = np.unique(np.asarray(values)[~unlabelled])
    if len(kinds) > _MOST_CLASSES or not len(kinds):
        raise ReadError(f"{path}: {len(kinds)} classes; a label file has 1 to {_MOST_CLASSES}")
    if values.dtype.kind != "U" and set(kinds.tolist()) <= {0, 1}:
        return {stem(path): np.where(unlabelled, np.nan, values).astype(np.float32)}
    names = [str(k) if values.dtype.kind == "U" else f"class {int(k)}" for k in kinds]
    return {
        name: np.where(unlabelled, np.nan, np.asarray(values) == kind).astype(np.float32)
        for name, kind in zip(names, kinds, strict=True)
    }


def _binary(path: Path, name: str, column: np.ndarray) -> np.ndarray:
    values = np.asarray(column, dtype=np.float32)
    if not np.isin(values[~np.isnan(values)], (0, 1)).all():
        raise ReadError(f"{path}: {name} holds other numbers than 0 and 1")
    return values
