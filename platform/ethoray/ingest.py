"""Many or long recordings become a dataset: read, cleaned and written in parallel, restarted where it was stopped.

Every part writes its own shards and, once complete, a journal beside them; the manifest is committed last. A
stopped ingest leaves the dataset that was there, or none, and the same call redoes only unfinished parts. The
shards' bytes depend neither on the number of processes nor on the pieces that recordings came in.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import time
import uuid
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ethoray import store
from ethoray.dataset import Dataset
from ethoray.files import Folder, StoreError
from ethoray.meter import Meter
from ethoray.packing import Writer
from ethoray.parts import Fragment, Ledger, Part, compose
from ethoray.quality import Quality, findings
from ethoray.schema import Card

__all__ = ["Part", "ingest"]

_JOURNAL = 1  # changes with what a journal holds
_MANY_FRAMES = 500_000  # from here on starting Ray, some seconds, pays
_PATIENCE = 10.0  # seconds in this process, after which the parts that are left go to several

Step = tuple[int, int | Fragment]
"""The place of a part, and frames that it wrote, or its whole account at its end."""


@dataclass(frozen=True)
class Job:
    """What every part is told: where to write and how. Goes to other processes."""

    uri: str
    card: Card
    clip_frames: int
    shard_bytes: int
    force: bool

    def folder(self) -> Folder:
        """The dataset's folder."""
        return Folder(self.uri)

    def identity(self, part: Part) -> str:
        """What decides a part's shards, as a hash; another one at every call when that cannot be told."""
        about = [_JOURNAL, asdict(replace(self.card, quality=(), notes=())), self.clip_frames, self.shard_bytes]
        digest = hashlib.sha256(json.dumps([*about, part.name, part.stamp]).encode())
        try:
            digest.update(pickle.dumps(part.make))
        except (pickle.PicklingError, AttributeError, TypeError):
            digest.update(uuid.uuid4().bytes)
        return digest.hexdigest()[:32]

    def finished(self, identity: str) -> Fragment | None:
        """The account of a part that an earlier call finished and whose shards are still there."""
        folder = self.folder()
        data = folder.read(f"{store.JOURNAL}/{identity}.json")
        if data is None:
            return None
        try:
            fragment = Fragment.of(json.loads(data))
        except (ValueError, KeyError, TypeError):
            return None
        there = set(folder.inside("shards").names())
        whole = all(shard.file.removeprefix("shards/") in there for shard in fragment.shards)
        return fragment if whole else None

    def work(self, part: Part, identity: str) -> Generator[int | Fragment]:
        """Make a part: the frames of each piece as it is written, and the account at the end."""
        folder = self.folder()
        writer = Writer(folder, self.card, self.clip_frames, self.shard_bytes, force=self.force)
        quality = Quality.start(self.card.skeleton, self.card.fps, self.card.tasks, self.card.unit)
        notes = []
        try:
            for piece in part.make():
                if isinstance(piece, str):
                    notes.append(piece)
                else:
                    writer.add(piece)
                    quality.add(piece)
                    yield piece.frames
            fragment = writer.fragment(notes, quality.document())
            folder.put(f"{store.JOURNAL}/{identity}.json", json.dumps(fragment.document()).encode())
        except BaseException as error:
            folder.remove(shard.file for shard in writer.shards)
            named = _named(error, part)
            if named is error:
                raise
            raise named from error
        yield fragment


def ingest(
    card: Card,
    parts: Sequence[Part],
    root: str | Path,
    *,
    workers: int | None = None,
    overwrite: bool = False,
    clip_seconds: float = 60.0,
    shard_mb: float = 64,
    force: bool = False,
    progress: bool = True,
) -> Dataset:
    """Write the recordings of all parts as one dataset into the folder or fsspec URL ``root``.

    Parameters
    ----------
    workers: processes, through Ray Data when more than one; by default one a core when there are several parts
        and enough to do, else this one alone.
    force: turn the leak checks into notes of the card.
    progress: tell on stderr how far it is.

    Raises StoreError as ``store.prepare`` does, and whatever a part raises, with the part's name; the parts that
    were finished by then are not made again by the next call.
    """
    folder, before = store.claim(root, overwrite)
    job = Job(folder.uri, card, store.clip_frames(card, clip_seconds), int(shard_mb * 2**20), force)
    names = [part.name for part in parts]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise StoreError(f"dataset {card.name!r}: parts named twice: {', '.join(twice)}")
    identities = [job.identity(part) for part in parts]
    found = {i: fragment for i, identity in enumerate(identities) if (fragment := job.finished(identity))}
    ledger = Ledger(card, force)
    todo = [(i, part, identities[i]) for i, part in enumerate(parts) if i not in found]
    for fragment in found.values():
        ledger.include(fragment)
    known = sum(part.frames for _, part, _ in todo) if all(part.frames for _, part, _ in todo) else 0
    with Meter(len(parts), known, shown=progress) as meter:
        meter.advance(0, len(found))
        for index, step in _run(job, todo, known, workers):
            if isinstance(step, Fragment):
                ledger.include(step)  # a leak is told before the other parts are made
                found[index] = step
                meter.advance(0, 1)
            else:
                meter.advance(step)
    fragments = [found[i] for i in sorted(found)]
    document = compose(card, fragments, force=force)
    quality = _merged([Quality.from_document(f.quality) for f in fragments if f.quality]).document()
    document["card"]["quality"] = [*card.quality, *findings.lines(quality)]
    dataset = store.publish(folder, document, before)
    folder.put(store.QUALITY, json.dumps(quality).encode())
    return dataset


def _merged(counted: list[Quality]) -> Quality:
    while len(counted) > 1:  # in pairs: a merge copies what it merges
        pairs = zip(counted[::2], counted[1::2], strict=False)
        counted = [one.merge(other) for one, other in pairs] + counted[len(counted) // 2 * 2 :]
    return counted[0]


Todo = Sequence[tuple[int, Part, str]]


def _run(job: Job, todo: Todo, frames: int, workers: int | None) -> Iterator[Step]:
    """Make the parts, here or in other processes."""
    if workers is not None and workers < 1:
        raise StoreError(f"workers is a number of processes, not {workers}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = min(workers or cores, len(todo))
    if most > 1 and (workers is not None or frames >= _MANY_FRAMES):
        yield from _spread(job, todo, most)
        return
    started = time.monotonic()
    for place, (index, part, identity) in enumerate(todo):
        if workers is None and min(most, len(todo) - place) > 1 and time.monotonic() - started > _PATIENCE:
            yield from _spread(job, todo[place:], most)
            return
        for step in job.work(part, identity):
            yield index, step


def _spread(job: Job, todo: Todo, workers: int) -> Iterator[Step]:
    """Make the parts in Ray Data tasks, one part a task, on one core each."""
    import ray.data
    from ray.data import DataContext, TaskPoolStrategy

    from ethoray.stream import start_ray

    start_ray(num_cpus=max(workers, os.cpu_count() or 1))
    rows = [{"index": i, "part": ray.cloudpickle.dumps(part), "identity": identity} for i, part, identity in todo]
    context = DataContext.get_current().copy()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.target_max_block_size = 1  # every row leaves its task at once: progress is told while a part is made
    with DataContext.current(context):
        steps = ray.data.from_items(rows, override_num_blocks=len(rows)).flat_map(
            _Task(job), compute=TaskPoolStrategy(size=workers), num_cpus=1
        )
        for chatty in ("execution.streaming_executor", "progress"):
            logging.getLogger(f"ray.data._internal.{chatty}").setLevel(logging.ERROR)
        for row in steps.iter_rows():
            step = pickle.loads(row["step"])
            if isinstance(step, BaseException):
                raise step
            yield row["index"], step


class _Task:
    """A row (index, part, identity) becomes rows (index, step); an error is the last step of its part."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __call__(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        try:
            for step in self.job.work(pickle.loads(row["part"]), row["identity"]):
                yield {"index": row["index"], "step": pickle.dumps(step)}
        except Exception as error:
            yield {"index": row["index"], "step": _portable(error)}


def _portable(error: Exception) -> bytes:
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
        return data
    except Exception:  # an exception class that cannot be rebuilt elsewhere still tells what happened
        return pickle.dumps(StoreError(f"{type(error).__name__}: {error}"))


def _named(error: BaseException, part: Part) -> BaseException:
    """The same error; one that is written for the user names the part, unless it names the file."""
    module = f"{type(error).__module__}."
    told = part.name in str(error) or module.startswith("ethoray.readers.")
    if module.startswith("ethoray.") and not told:
        return type(error)(f"{part.name}: {error}")
    error.add_note(f"while part {part.name!r} was made")
    return error
