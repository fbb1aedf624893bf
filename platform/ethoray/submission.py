"""Embeddings that somebody hands in: a MABe 2022 submission, or a folder that ``ethoray embed`` wrote.

A submission is an npy file with a dictionary: frame_number_map, the first row of every clip and the one after its
last, and embeddings (row, feature). It is read without running anything in it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ethoray import embedding
from ethoray.readers import ReadError, mabe22, safe

Array = np.ndarray


class SubmissionError(ValueError):
    """Embeddings that cannot be judged; the message names the file, the clip and what to do."""


class Submission(ABC):
    """Embeddings by clip, read one clip at a time.

    Attributes
    ----------
    where: the file or folder, for messages.
    frames: per clip how many frames it has, in the order of the file.
    width: features of a frame.
    """

    where: str
    frames: Mapping[str, int]
    width: int

    @abstractmethod
    def clip(self, name: str) -> Array:
        """The embedding of a clip, float32 (time, feature); raises SubmissionError when it is not finite."""

    def _finite(self, name: str, values: Array) -> Array:
        broken = ~np.isfinite(values).all(1)
        if broken.any():
            raise SubmissionError(
                f"{self.where}: clip {name!r} is not finite in {broken.sum()} of {len(values)} frames, first in "
                f"frame {broken.argmax()}"
            )
        return values


class Dictionary(Submission):
    """The dictionary of a MABe 2022 submission, with the checks of the challenge."""

    def __init__(self, document: Any, where: str = "submission") -> None:
        self.where = where
        if not isinstance(document, Mapping) or not {"frame_number_map", "embeddings"} <= set(document):
            held = ", ".join(map(str, document)) if isinstance(document, Mapping) else type(document).__name__
            raise SubmissionError(f"{where}: a submission has frame_number_map and embeddings, this has {held}")
        try:
            self._spans = mabe22.frame_map(where, document["frame_number_map"])
        except ReadError as error:
            raise SubmissionError(str(error)) from None
        rows = np.asarray(document["embeddings"])
        if rows.ndim != 2 or rows.dtype != np.float32:
            raise SubmissionError(f"{where}: embeddings are float32 (row, feature), not {rows.dtype} {rows.shape}")
        expected = max((stop for _, stop in self._spans.values()), default=0)
        if len(rows) != expected:
            raise SubmissionError(f"{where}: {len(rows)} rows of embeddings, frame_number_map counts {expected}")
        self._rows, self.width = rows, rows.shape[1]
        self.frames = {name: stop - start for name, (start, stop) in self._spans.items()}

    def clip(self, name: str) -> Array:
        """See ``Submission.clip``."""
        return self._finite(name, self._rows[slice(*self._spans[name])])


class Table(Submission):
    """The Parquet parts that ``ethoray embed`` wrote, every frame of them; one part is in memory at a time."""

    def __init__(self, folder: str | Path, space: str | None = None) -> None:
        self.where = str(folder)
        self._parts = embedding.parts(folder)
        self._open: tuple[Path, pa.Table] | None = None
        self._places: dict[str, tuple[Path, int]] = {}
        self.frames = {}
        self.space = space
        for path in self._parts:
            self._survey(path)

    def _survey(self, path: Path) -> None:
        table = self._part(path)
        spaces = [f.name for f in table.schema if pa.types.is_list(f.type) and pa.types.is_floating(f.type.value_type)]
        if self.space is None:
            self.space = "all" if "all" in spaces else spaces[0]
        if self.space not in spaces:
            raise SubmissionError(f"{path}: no space {self.space!r}; it has {', '.join(spaces)}")
        names, frames = table["recording"].to_numpy(), table["frame"].to_numpy()
        starts = np.flatnonzero(np.r_[True, names[1:] != names[:-1]])
        for first, last in zip(starts, [*starts[1:], len(names)], strict=True):
            name = str(names[first])
            if name in self.frames or (frames[first:last] != np.arange(last - first)).any():
                raise SubmissionError(
                    f"{path}: recording {name!r} is not whole, frame after frame; write it with "
                    "ethoray embed --every 0 and without --individuals"
                )
            self.frames[name] = int(last - first)  # type: ignore[index]
            self._places[name] = path, int(first)
        self.width = len(table[self.space][0])

    def clip(self, name: str) -> Array:
        """See ``Submission.clip``."""
        path, first = self._places[name]
        rows = self._part(path)[self.space].slice(first, self.frames[name]).combine_chunks()
        return self._finite(name, rows.flatten().to_numpy().reshape(self.frames[name], -1))

    def _part(self, path: Path) -> pa.Table:
        if self._open is None or self._open[0] != path:
            self._open = path, embedding.read_part(path)
        return self._open[1]


def submission(path: str | Path, space: str | None = None) -> Submission:
    """What lies at a path: an npy file of a submission, or a folder of embeddings, of which ``space`` is taken.

    Raises SubmissionError when it is neither, with what is wrong.
    """
    path = Path(path)
    if path.is_dir():
        return Table(path, space)
    try:
        return Dictionary(safe.load(path), str(path))
    except (ReadError, OSError) as error:
        raise SubmissionError(f"{path}: {error}") from error
