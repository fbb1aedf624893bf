"""A frozen encoder over whole recordings: chunk, stitch, pool over individuals, write Parquet.

Memory is bounded by the chunk while embedding; what comes out is one recording at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ethoray.batch import Batch, collate, picture_batch
from ethoray.learning import Encoder
from ethoray.schema import SchemaError
from ethoray.store import Dataset, Entry

ALL = "all"
CODES = "codes"
PART_BYTES = 32 * 2**20
PICTURES = 64
"""Images that are embedded at once."""

_FIXED = {"recording": pa.string(), "split": pa.string(), "frame": pa.int64(), "time": pa.float64()}


class EmbeddingError(ValueError):
    """An encoder, or a folder of embeddings, that breaks its promise; the message names the recording or file."""


@dataclass(frozen=True)
class Embedding:
    """One recording as a frozen encoder sees it, pooled over individuals.

    Attributes
    ----------
    entry: the recording; of one whose images leave frames out, as long as there are images.
    spaces: by name, float32 (time, feature), finite; an encoder of several spaces has "all" besides, the
        features of every space side by side.
    codes: int32 (time, individual, group), the codeword of each animal, -1 where an animal is not there; None when
        the encoder has no codebook.
    frames: int64 (time,), which frames of the recording the rows are; None when they are all of them.
    """

    entry: Entry
    spaces: dict[str, np.ndarray]
    codes: np.ndarray | None = None
    frames: np.ndarray | None = None

    def of(self, labels: Mapping[str, np.ndarray | float]) -> dict[str, np.ndarray | float]:
        """Labels of all frames of the recording, as labels of the rows."""
        rows = slice(None) if self.frames is None else self.frames
        return {task: v[rows] if isinstance(v, np.ndarray) else v for task, v in labels.items()}


def pool(z: Tensor, mask: Tensor) -> Tensor:
    """What a group does, whichever animal does it: mean over individuals beside their range (max - min).

    ``z`` is (time, individual, feature), ``mask`` (time, individual) says who is there; the result is
    (time, 2 * feature), as in BAMS (Azabou et al. 2023). Absent individuals do not count and a frame
    with nobody is zero. One individual alone has no range, nor has an embedding of the group, (time, 1, feature):
    their features are returned as they are.
    """
    there = (mask if z.shape[1] == mask.shape[1] else mask.any(1, keepdim=True)).unsqueeze(-1)
    total = z.masked_fill(~there, 0).sum(1)
    if z.shape[1] == 1:
        return total
    mean = total / there.sum(1).clamp(min=1)
    highest = z.masked_fill(~there, -torch.inf).amax(1)
    lowest = z.masked_fill(~there, torch.inf).amin(1)
    return torch.cat([mean, (highest - lowest).masked_fill(~there.any(1), 0)], dim=-1)


def embed(encoder: Encoder, dataset: Dataset, entries: Iterable[Entry], *, chunk: int = 4096) -> Iterator[Embedding]:
    """Embed recordings one by one, ``chunk`` frames at a time, on the encoder's device.

    Each chunk is read with ``encoder.past`` and ``encoder.future`` frames of context and begins at a multiple of
    ``encoder.hop``, so the result does not depend on ``chunk``. Of an encoder of images every stored image is
    embedded by itself. The encoder is left in evaluation mode. Raises EmbeddingError naming recording and space when
    an embedding is not finite, SchemaError when a recording has nothing that the encoder reads.
    """
    if chunk < 1:
        raise ValueError(f"embed needs chunks of at least one frame, not {chunk!r}")
    animals = max((len(entry.individuals) for entry in dataset.entries), default=1)
    encoder.eval()
    chunk = -(-chunk // encoder.hop) * encoder.hop
    if encoder.needs == "keypoints" and not dataset.card.skeleton.keypoints:
        raise SchemaError(f"{dataset.uri} has no keypoints, which {type(encoder).__name__} reads")
    for entry in entries:
        if encoder.needs == "images":
            yield _pictured(encoder, dataset, entry)
            continue
        pieces = [
            _piece(encoder, dataset, entry, animals, first, min(first + chunk, entry.frames))
            for first in range(0, entry.frames, chunk)
        ]
        codes = [codes for _, codes in pieces if codes is not None]
        spaces = _joined(encoder, entry, [spaces for spaces, _ in pieces])
        yield Embedding(entry, spaces, np.concatenate(codes) if codes else None)


def _joined(encoder: Encoder, entry: Entry, parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    spaces = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for name, values in spaces.items():
        _check_finite(entry, name, values)
    return with_all(encoder, spaces)


def with_all(encoder: Encoder, spaces: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Spaces (row, feature), and where there are several "all" of them side by side too.

    Raises EmbeddingError where the encoder calls a space of its own so.
    """
    if len(spaces) < 2:
        return spaces
    if ALL in spaces:
        raise EmbeddingError(f"{type(encoder).__name__}: the space name {ALL!r} is taken; rename it")
    return {**spaces, ALL: np.concatenate(list(spaces.values()), axis=1)}


def listed(values: np.ndarray) -> pa.ListArray:
    """A column that holds a list a row, from (row, feature)."""
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(offsets, np.ascontiguousarray(values).ravel())


def _pictured(encoder: Encoder, dataset: Dataset, entry: Entry) -> Embedding:
    """Every stored image of a recording; raises SchemaError when it has none."""
    if entry.picture is None:
        raise SchemaError(
            f"{dataset.uri}: recording {entry.name!r} has no images, which {type(encoder).__name__} reads"
        )
    parts: list[dict[str, np.ndarray]] = []
    for clip in entry.clips:
        images = dataset.images(entry, clip)
        for first in range(0, clip.frames, PICTURES):
            batch = picture_batch(images[None, first : first + PICTURES], entry.fps)
            parts.append(_spaces(encoder, entry, batch.to(encoder.device())))
    frames = np.concatenate([np.arange(clip.start, clip.start + clip.frames) for clip in entry.clips])
    spaces = _joined(encoder, entry, parts)
    if len(frames) == entry.frames:
        return Embedding(entry, spaces)
    return Embedding(replace(entry, frames=len(frames)), spaces, frames=frames)


@torch.no_grad()
def _spaces(encoder: Encoder, entry: Entry, batch: Batch) -> dict[str, np.ndarray]:
    spaces = encoder.embed(batch)
    for name, z in spaces.items():
        _check_shape(entry, name, z, batch)
    return {name: z[0, :, 0].float().cpu().numpy() for name, z in spaces.items()}


@torch.no_grad()
def _piece(
    encoder: Encoder, dataset: Dataset, entry: Entry, animals: int, first: int, last: int
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """The pooled spaces of frames first..last, each (last - first, feature), and their codewords."""
    start, stop = max(first - encoder.past, 0), min(last + encoder.future, entry.frames)
    window = dataset.keypoints(entry, start, stop)
    batch = collate([window], stop - start, animals, entry.fps).to(encoder.device())
    keep = slice(first - start, last - start)
    pooled = {}
    spaces = encoder.embed(batch)
    for name, z in spaces.items():
        _check_shape(entry, name, z, batch)
        pooled[name] = pool(z[0, keep].float(), batch.mask[0, keep]).cpu().numpy()
    words = encoder.codewords(spaces)
    if words is None:
        return pooled, None
    if words.ndim != 4 or words.shape[:3] != batch.mask.shape:
        raise EmbeddingError(
            f"recording {entry.name!r}: codewords are {tuple(words.shape)}, they should be "
            f"{tuple(batch.mask.shape)} and a group axis"
        )
    words = words.to(torch.int32).masked_fill(~batch.mask[..., None], -1)
    return pooled, words[0, keep, : len(entry.individuals)].cpu().numpy()


def _check_shape(entry: Entry, space: str, z: Tensor, batch: Batch) -> None:
    if z.ndim != 4 or z.shape[:2] != batch.mask.shape[:2] or z.shape[2] not in (1, batch.mask.shape[2]):
        raise EmbeddingError(
            f"recording {entry.name!r}: space {space!r} is {tuple(z.shape)}, it should be "
            f"{tuple(batch.mask.shape)}, or one place for the whole group, and a feature axis"
        )


def _check_finite(entry: Entry, space: str, values: np.ndarray) -> None:
    broken = ~np.isfinite(values).all(1)
    if broken.any():
        raise EmbeddingError(
            f"recording {entry.name!r}: space {space!r} is not finite in {broken.sum()} of {len(values)} frames, "
            f"first in frame {broken.argmax()}; embed must be finite wherever the mask is True"
        )


def write(embeddings: Iterable[Embedding], folder: str | Path, *, every: float = 0.5) -> Iterator[Embedding]:
    """Pass embeddings on and keep a frame every ``every`` seconds (0: every frame) as Parquet parts.

    A row is recording, split, frame, time in seconds, one list of floats a space, and, where there are codewords,
    the list "codes" of all groups of the first animal, then of the second, and so on. Parts of an earlier run in
    the folder are replaced. What is written is complete once the iterator is exhausted.
    """
    if not every >= 0:
        raise ValueError(f"every must be a number of seconds, 0 for every frame, not {every!r}")
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("part-*.parquet"):
            old.unlink()
    except OSError as error:
        raise EmbeddingError(f"{folder}: cannot be written ({error.strerror or error})") from error
    tables: list[pa.Table] = []
    part = 0
    for embedding in embeddings:
        tables.append(_rows(embedding, every))
        if sum(table.nbytes for table in tables) >= PART_BYTES:
            _write_part(tables, folder / f"part-{part:05d}.parquet")
            tables, part = [], part + 1
        yield embedding
    if tables:
        _write_part(tables, folder / f"part-{part:05d}.parquet")


def read(folder: str | Path) -> pa.Table:
    """The rows that ``write`` left in a folder; raises EmbeddingError when there are none or a file is foreign."""
    return pa.concat_tables([read_part(path) for path in parts(folder)])


def parts(folder: str | Path) -> list[Path]:
    """The files that ``write`` left in a folder, in order; raises EmbeddingError when there are none."""
    found = sorted(Path(folder).glob("part-*.parquet"))
    if not found:
        raise EmbeddingError(f"{folder}: no embeddings here; score the experiment first")
    return found


def _rows(embedding: Embedding, every: float) -> pa.Table:
    entry, spaces = embedding.entry, embedding.spaces
    clash = set(spaces) & {*_FIXED, CODES}
    if clash:
        raise EmbeddingError(f"recording {entry.name!r}: a space may not be called {sorted(clash)[0]!r}")
    stride = max(1, round(every * entry.fps))
    frames = np.arange(entry.frames) if embedding.frames is None else embedding.frames
    chosen = np.unique(frames // stride, return_index=True)[1]  # the first row of every stretch
    frames = frames[chosen]
    columns = [[entry.name] * len(frames), [entry.split] * len(frames), frames, frames / entry.fps]
    arrays = [pa.array(c, kind) for c, kind in zip(columns, _FIXED.values(), strict=True)]
    lists = {name: values.astype(np.float32, copy=False) for name, values in spaces.items()}
    if embedding.codes is not None:
        lists[CODES] = embedding.codes.reshape(entry.frames, -1).astype(np.int32, copy=False)
    arrays += [listed(values[chosen]) for values in lists.values()]
    return pa.table(arrays, names=[*_FIXED, *lists])


def _write_part(tables: list[pa.Table], path: Path) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pq.write_table(pa.concat_tables(tables), beside, compression="zstd", store_schema=False)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise EmbeddingError(f"{path}: cannot be written ({error.strerror or error})") from error


def read_part(path: Path) -> pa.Table:
    """One file of ``parts``; raises EmbeddingError when it is damaged or foreign."""
    # A stored Arrow schema may name extension types whose readers run code; `write` stores none.
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 8, 0))
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(size - 8 - length, 0))
        footer = file.read(length)
    if b"ARROW:schema" in footer:
        raise EmbeddingError(f"{path}: not written by ethoray (it carries an Arrow schema); it is not read")
    try:
        return pq.read_table(path, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise EmbeddingError(f"{path}: damaged ({error}); score the experiment again") from error
