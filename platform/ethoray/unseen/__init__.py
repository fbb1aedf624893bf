"""A trained encoder on recordings it has not seen: rows that stand beside frames, in Parquet.

A row has the columns recording, split, frame, time (s), individual, validity, confidence, "label:<task>" for every
task, and a list of floats for every space of the encoder (with "all" when there are several, and "codes" where it
has codewords). By default a row is a frame, pooled over its animals as ``embedding`` does it: equal, bit for bit, to
what training stored of the same recording. Otherwise it is an animal in a frame, not pooled.

individual is the animal, or "group" for several; validity the share of keypoints that are known; confidence the
tracker's, averaged over known keypoints, empty where it gave none.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ethoray.batch import Spec, collate
from ethoray.embedding import CODES, PART_BYTES, EmbeddingError, listed, pool, with_all
from ethoray.learning import Encoder
from ethoray.unseen.sources import Source, of_dataset, of_files, recall

__all__ = ["FIXED", "GROUP", "Source", "of_dataset", "of_files", "recall", "rows", "write"]

GROUP = "group"
"""The individual of rows that are pooled over several animals."""

FIXED = {
    "recording": pa.string(),
    "split": pa.string(),
    "frame": pa.int64(),
    "time": pa.float64(),
    "individual": pa.string(),
    "validity": pa.float32(),
    "confidence": pa.float32(),
}


@dataclass(frozen=True)
class _Piece:
    """Consecutive frames ``first`` to ``last`` of a recording, and the frames around them that they depend on."""

    first: int
    last: int
    start: int
    keypoints: np.ndarray
    confidence: np.ndarray | None

    @property
    def keep(self) -> slice:
        """Where the frames are among all."""
        return slice(self.first - self.start, self.last - self.start)


def rows(
    encoder: Encoder, source: Source, spec: Spec, *, individuals: bool = False, every: float = 0.0, chunk: int = 4096
) -> Iterator[pa.Table]:
    """The rows of one recording, some thousand frames at a time, so that memory does not grow with it.

    ``every`` keeps a frame every so many seconds. Raises EmbeddingError naming recording, space and frame when an
    embedding is not finite.
    """
    if not every >= 0:
        raise ValueError(f"every must be a number of seconds, 0 for every frame, not {every!r}")
    encoder.eval()
    chunk = -(-chunk // encoder.hop) * encoder.hop
    stride = max(1, round(every * source.fps))
    animals = max(spec.individuals, len(source.individuals))
    for piece in _chunks(source, encoder.past, encoder.future, chunk):
        spaces, codes = _embedded(encoder, source, piece, animals, individuals)
        table = _table(source, piece, spaces, codes, individuals)
        if stride > 1:
            width = len(source.individuals) if individuals else 1
            chosen = np.flatnonzero(np.arange(piece.first, piece.last) % stride == 0)
            table = table.take(pa.array((chosen[:, None] * width + np.arange(width)).ravel()))
        yield table


def _chunks(source: Source, past: int, future: int, chunk: int) -> Iterator[_Piece]:
    """The recording cut as ``embedding.embed`` cuts it, whatever its pieces are."""
    stream = iter(source.pieces())
    held: list[tuple[np.ndarray, np.ndarray | None]] = []
    at = end = first = 0  # the first frame held, the one after the last, the first of the next chunk
    more = True
    while True:
        while more and end < first + chunk + future:
            piece = next(stream, None)
            more = piece is not None
            if piece is not None:
                held.append((piece.keypoints, piece.confidence))
                end += len(piece.keypoints)
        last = min(first + chunk, end)
        if last <= first:
            return
        keypoints = np.concatenate([k for k, _ in held])
        scores = [c for _, c in held if c is not None]
        confidence = np.concatenate(scores) if len(scores) == len(held) else None
        start, stop = max(first - past, 0), min(last + future, end)
        seen = None if confidence is None else confidence[start - at : stop - at]
        yield _Piece(first, last, start, keypoints[start - at : stop - at], seen)
        first, keep = last, max(last - past, 0)
        held = [(keypoints[keep - at :], None if confidence is None else confidence[keep - at :])]
        at = keep


@torch.no_grad()
def _embedded(
    encoder: Encoder, source: Source, piece: _Piece, animals: int, individuals: bool
) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """Spaces float32 (row, feature) and codewords int32 (row, code), a row a frame or an animal in a frame."""
    batch = collate([piece.keypoints], len(piece.keypoints), animals, source.fps).to(encoder.device())
    here = len(source.individuals)
    found = encoder.embed(batch)
    spaces: dict[str, np.ndarray] = {}
    for name, z in found.items():
        z = z[0, piece.keep].float()
        if individuals:
            each = z[:, :here] if z.shape[1] > 1 or here == 1 else z.expand(-1, here, -1)
            spaces[name] = each.reshape(-1, z.shape[2]).cpu().numpy()
        else:
            spaces[name] = pool(z, batch.mask[0, piece.keep]).cpu().numpy()
        broken = ~np.isfinite(spaces[name]).all(1)
        if broken.any():
            frame = piece.first + int(broken.argmax()) // (here if individuals else 1)
            raise EmbeddingError(f"recording {source.name!r}: space {name!r} is not finite, first in frame {frame}")
    spaces = with_all(encoder, spaces)
    words = encoder.codewords(found)
    if words is None:
        return spaces, None
    codes = words[0, piece.keep, :here].to(torch.int32).cpu().numpy()
    return spaces, codes.reshape(-1 if individuals else len(codes), codes.shape[2] * (1 if individuals else here))


def _table(
    source: Source, piece: _Piece, spaces: Mapping[str, np.ndarray], codes: np.ndarray | None, individuals: bool
) -> pa.Table:
    names = source.individuals if individuals or len(source.individuals) == 1 else (GROUP,)
    width = len(names)
    frames = np.repeat(np.arange(piece.first, piece.last), width)
    validity, confidence = _seen(piece, individuals)
    values = {
        "recording": [source.name] * len(frames),
        "split": [source.split] * len(frames),
        "frame": frames,
        "time": frames / source.fps,
        "individual": list(names) * (piece.last - piece.first),
        "validity": validity,
        "confidence": pa.array(confidence, pa.float32(), from_pandas=True),
    }
    columns = {name: pa.array(values[name], kind) for name, kind in FIXED.items()}
    for task, track in source.labels.items():
        columns[f"label:{task}"] = pa.array(track[frames], pa.float32(), from_pandas=True)
    clash = set(spaces) & {*columns, CODES}
    if clash:
        raise EmbeddingError(f"recording {source.name!r}: a space may not be called {sorted(clash)[0]!r}")
    for name, array in (*spaces.items(), *([] if codes is None else [(CODES, codes)])):
        columns[name] = listed(array)
    return pa.table(columns)


def _seen(piece: _Piece, individuals: bool) -> tuple[np.ndarray, np.ndarray]:
    """Share of known keypoints and the mean confidence of those, NaN where there is none; one value a row."""
    rows = (-1, piece.keypoints.shape[2]) if individuals else (piece.last - piece.first, -1)
    known = ~np.isnan(piece.keypoints[piece.keep]).any(-1)
    validity = known.reshape(rows).mean(1)
    if piece.confidence is None:
        return validity, np.full(len(validity), np.nan)
    confidence = piece.confidence[piece.keep]
    counted = known & np.isfinite(confidence)
    number = counted.reshape(rows).sum(1)
    total = np.where(counted, confidence, 0).reshape(rows).sum(1)
    return validity, np.where(number > 0, total / np.maximum(number, 1), np.nan)


def write(recordings: Iterable[Iterable[pa.Table]], out: str | Path) -> Iterator[int]:
    """Write the rows of recordings into one file (``out`` ends in .parquet) or a folder of parts; yields row counts.

    A recording is never cut between parts; parts of an earlier run are replaced. What is written is complete once
    the iterator is exhausted, and before that nothing has its name.
    """
    out = Path(out)
    single = out.suffix == ".parquet"
    folder = out.parent if single else out
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EmbeddingError(f"{folder}: cannot be written ({error.strerror or error})") from error
    hidden: list[Path] = []
    writer: pq.ParquetWriter | None = None
    try:
        for recording in recordings:
            count = 0
            for table in recording:
                if writer is None:
                    hidden.append(folder / f".{out.name}.{os.getpid()}.{len(hidden)}")
                    writer = pq.ParquetWriter(hidden[-1], table.schema, compression="zstd", store_schema=False)
                writer.write_table(table)
                count += table.num_rows
            yield count
            if writer is not None and not single and hidden[-1].stat().st_size >= PART_BYTES:
                writer.close()
                writer = None
        if writer is not None:
            writer.close()
        _reveal(hidden, [out] if single else [folder / f"part-{i:05d}.parquet" for i in range(len(hidden))], single)
    except OSError as error:
        raise EmbeddingError(f"{out}: cannot be written ({error.strerror or error})") from error
    finally:
        for path in hidden:
            path.unlink(missing_ok=True)


def _reveal(hidden: Sequence[Path], named: Sequence[Path], single: bool) -> None:
    if not single and named:
        for old in named[0].parent.glob("part-*.parquet"):
            old.unlink()
    for path, name in zip(hidden, named, strict=True):
        path.replace(name)
