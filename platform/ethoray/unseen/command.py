"""What ``ethoray embed`` does: a run's encoder on files or on a prepared dataset, into Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ethoray import embedding, record, store
from ethoray.batch import Spec
from ethoray.experiment import restore
from ethoray.readers import ReadError
from ethoray.unseen import Source, films, of_dataset, of_files, recall, rows, write


def embed(
    folder: Path,
    words: Sequence[str],
    out: Path,
    *,
    labels: Sequence[Path] = (),
    fps: float | None = None,
    resample: bool = False,
    as_is: bool = False,
    individuals: bool = False,
    every: float = 0.0,
) -> Iterator[str]:
    """Embed what the words name, files or one dataset; yields a line a recording, to be printed as it comes.

    Raises ReadError, StoreError or SchemaError before the encoder is rebuilt when something does not fit.
    """
    spec, cleaning = record.load(folder)[1], record.cleaning(folder)
    if spec.picture is not None:
        if labels or fps is not None or resample or as_is or individuals:
            raise ReadError("an encoder of images embeds pictures as they are: leave out all but --out and --every")
        yield from _pictures(folder, words, spec.picture, out, every)
        return
    notes: list[str] = []
    if all(Path(word).is_file() for word in words):
        steps = () if as_is else recall(cleaning)
        sources = of_files([Path(word) for word in words], spec, steps, fps=fps, resample=resample, labels=labels)
    elif len(words) > 1:
        lost = next(word for word in words if not Path(word).is_file())
        raise ReadError(f"{lost}: no such file; give files, or one prepared dataset")
    else:
        if labels or fps is not None or as_is:
            raise ReadError(f"{words[0]}: a prepared dataset has its labels, frame rate and cleaning already")
        sources = _dataset(words[0], spec, resample, cleaning, notes)
    yield from notes
    _, encoder = restore(folder)
    tables = (rows(encoder, source, spec, individuals=individuals, every=every) for source in sources)
    total = 0
    for source, count in zip(sources, write(tables, out), strict=True):
        total += count
        animals = f" of {len(source.individuals)} animals" if individuals else ""
        yield f"{source.name}: {count} rows{animals} at {source.fps:g} frames per second"
    yield f"embedded {len(sources)} recordings into {out}, {total} rows"


def _pictures(
    folder: Path, words: Sequence[str], picture: tuple[int, int, int], out: Path, every: float
) -> Iterator[str]:
    """Every frame of videos, or every stored image of a prepared dataset, as training embeds them."""
    if all(Path(word).is_file() for word in words):
        yield from _films(folder, [Path(word) for word in words], picture, out, every)
        return
    if len(words) > 1:
        lost = next(word for word in words if not Path(word).is_file())
        raise ReadError(f"{lost}: no such file; give videos, or one prepared dataset")
    target = store.open(words[0])
    _, encoder = restore(folder)
    total = 0
    for item in embedding.write(embedding.embed(encoder, target, target.entries), out, every=every):
        total += item.entry.frames
        yield f"{item.entry.name}: {item.entry.frames} images"
    yield f"embedded {len(target.entries)} recordings into {out}, {total} images"


def _films(
    folder: Path, paths: Sequence[Path], picture: tuple[int, int, int], out: Path, every: float
) -> Iterator[str]:
    films.check(paths)
    _, encoder = restore(folder)
    damage: list[list[str]] = [[] for _ in paths]
    tables = (films.rows(encoder, p, picture, d, every=every) for p, d in zip(paths, damage, strict=True))
    total = 0
    for path, left, count in zip(paths, damage, write(tables, out), strict=True):
        total += count
        yield f"{path.stem}: {count} frames" + (f"; left out: {'; '.join(dict.fromkeys(left))}" if left else "")
    yield f"embedded {len(paths)} videos into {out}, {total} frames"


def _dataset(word: str, spec: Spec, resample: bool, cleaning: Sequence[str], notes: list[str]) -> list[Source]:
    target = store.open(word)
    if tuple(target.card.cleaning) != tuple(cleaning):
        told = "; ".join(cleaning) or "not at all"
        notes.append(f"note: {target.card.name} was not cleaned like what the encoder learned from ({told})")
    return of_dataset(target, spec, resample=resample)
