"""Batches by plan, from memory or through Ray Data: the same windows, bit for bit.

The plan says which windows make batch n. The resident stream gathers them from arrays that were loaded once;
the streamed one hands the plan's rows to Ray Data, whose actor reads and cuts them in order, ahead of the
training step. Starting at a later step is starting the plan there; another number of workers slices the same
global batches differently. Batches hold windows of keypoints, or pairs of images.
"""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ethoray.batch import Batch, Plan, Spec, Stream, Windows, collate, picture_batch, rank_rows
from ethoray.schema import SchemaError
from ethoray.store import Dataset, Entry
from ethoray.stream import chosen
from ethoray.stream.fetch import POOL_BYTES, Fetch, FetchImages, to_batch, window_bytes
from ethoray.stream.pairs import Pairs

RESIDENT_BYTES = 4 << 30
"""The largest split, as float32 keypoints, that "auto" loads into memory."""

_GROUP_BYTES, _GROUP_STEPS = 32 << 20, 64  # what one Ray Data task fetches, at most
_GROUPS = 128  # tasks planned ahead: a plan is a table, and a table has an end
_AHEAD_BYTES = 1 << 30  # batches that wait in the object store
_REREAD = 8  # first batches kept for a second reading: calibration looks at them, training starts with them
_LOADED_AT_ONCE = 2

AnyPlan = Plan | Pairs | chosen.Chosen

_log = logging.getLogger(__name__)
_loaded: OrderedDict[tuple[str, str], list[np.ndarray]] = OrderedDict()


def spec(windows: Windows, dataset: Dataset, seed: int) -> Spec:
    """What a method is told before it builds an encoder; windows are no longer than the longest recording.

    Raises SchemaError when images are asked for and a recording has none, or they differ in size.
    """
    entries = dataset.select(windows.split)
    picture = _picture(windows, dataset, entries)
    longest = max(2, min(windows.frames(dataset.card.fps), max(e.frames for e in entries)))
    return Spec(
        skeleton=dataset.card.skeleton,
        individuals=max(len(e.individuals) for e in entries) if picture is None else 1,
        space=entries[0].space,
        fps=dataset.card.fps,
        frames=longest if picture is None else 1 + (windows.pairs != "none"),
        seed=seed,
        picture=picture,
    )


def _picture(windows: Windows, dataset: Dataset, entries: Sequence[Entry]) -> tuple[int, int, int] | None:
    """The size of the images that batches hold, None where they hold keypoints."""
    without = not dataset.card.skeleton.keypoints
    if windows.inputs == "keypoints" and without:
        raise SchemaError(f"{dataset.uri} has no keypoints; leave inputs at auto to learn from its images")
    if windows.inputs == "keypoints" or (windows.inputs == "auto" and not without):
        return None
    first = entries[0].picture
    for entry in entries:
        if entry.picture is None:
            raise SchemaError(f"{dataset.uri}: recording {entry.name!r} has no images to learn from")
        if entry.picture != first:
            raise SchemaError(
                f"{dataset.uri}: images of {entry.name!r} are {entry.picture} (height, width, channel), those of "
                f"{entries[0].name!r} {first}; prepare them in one size"
            )
    return first


def plan(windows: Windows, dataset: Dataset, seed: int) -> AnyPlan:
    """Which windows, or pairs of images, make batch n; the same for every stream, worker count and restart."""
    shape = spec(windows, dataset, seed)
    entries = dataset.select(windows.split)
    if shape.picture is not None:
        clips = [[(clip.start, clip.frames) for clip in entry.clips] for entry in entries]
        pool = max(1, POOL_BYTES // (window_bytes(shape) // shape.frames))
        size, kind, near = windows.batch_size, windows.pairs, windows.window
        if windows.anchors == "all":
            return Pairs(clips, size, seed, pairs=kind, window=near, pool=pool)
        kept = [chosen.choose(dataset, e, windows.anchors, windows.count, near, seed) for e in entries]
        return chosen.Chosen([chosen.numbers(e) for e in entries], kept, size, seed, pairs=kind, window=near, pool=pool)
    pool = min(4096, max(1, POOL_BYTES // window_bytes(shape)))
    return Plan([e.frames for e in entries], shape.frames, windows.batch_size, seed, pool=pool)


def open_stream(
    windows: Windows, dataset: Dataset, seed: int,
    *, rank: int = 0, world: int = 1, first: int = 0, steps: int | None = None,
) -> Stream:  # fmt: skip
    """The batches that worker ``rank`` of ``world`` computes.

    Parameters
    ----------
    first: the step that will be asked for first; reading ahead starts there.
    steps: the step where reading ahead ends; later batches can still be asked for.

    "auto" is resident for one worker whose split fits RESIDENT_BYTES, and Ray Data otherwise.
    """
    shape, rows = spec(windows, dataset, seed), plan(windows, dataset, seed)
    rank_rows(rows.rows(first), rank, world)  # a batch that does not divide is said before anything is loaded
    size = _split_bytes(dataset, windows.split, shape)
    resident = windows.stream == "resident" or (windows.stream == "auto" and world == 1 and size <= RESIDENT_BYTES)
    kind, data = "resident" if resident else "Ray Data", f"{dataset.card.name}/{windows.split}"
    _log.info("%s, %.1f MB: %s stream, worker %d of %d, step %d on", data, size / 2**20, kind, rank, world, first)
    if resident:
        held = load(dataset, windows.split) if shape.picture is None else load_images(dataset, windows.split)
        return Resident(rows, shape, held, rank, world)
    start_ray()
    return Streamed(rows, shape, dataset, windows.split, rank, world, first, steps)


def load(dataset: Dataset, split: str) -> list[np.ndarray]:
    """The keypoints of every recording of a split, kept for the next caller in this process."""
    return _kept((dataset.key, split), lambda: [dataset.keypoints(entry) for entry in dataset.select(split)])


def lend(dataset: str, split: str, recordings: list[np.ndarray]) -> None:
    """Keep what ``load`` would read of a split, for streams of this process; ``dataset`` is the key of its content."""
    _kept((dataset, split), lambda: recordings)


def load_images(dataset: Dataset, split: str) -> list[np.ndarray]:
    """The images of every recording of a split, those that were stored, kept for the next caller in this process."""
    return _kept((f"{dataset.key}/images", split), lambda: [_stored(dataset, e) for e in dataset.select(split)])


def _stored(dataset: Dataset, entry: Entry) -> np.ndarray:
    assert entry.picture is not None
    out = np.empty((sum(clip.frames for clip in entry.clips), *entry.picture), dtype=np.uint8)
    first = 0
    for clip in entry.clips:
        out[first : first + clip.frames] = dataset.images(entry, clip)
        first += clip.frames
    return out


def _kept(name: tuple[str, str], make: Callable[[], list[np.ndarray]]) -> list[np.ndarray]:
    if name not in _loaded:
        while len(_loaded) >= _LOADED_AT_ONCE:
            _loaded.popitem(last=False)
        _loaded[name] = make()
    _loaded.move_to_end(name)
    return _loaded[name]


class Resident:
    """Batches gathered from arrays in memory."""

    def __init__(self, plan: AnyPlan, spec: Spec, recordings: Sequence[np.ndarray], rank: int, world: int) -> None:
        self.plan, self.spec, self.recordings = plan, spec, recordings
        self.rank, self.world = rank, world

    def __call__(self, step: int) -> Batch:
        """Batch ``step``."""
        rows = rank_rows(self.plan.rows(step), self.rank, self.world)
        length = self.spec.frames
        if self.spec.picture is not None:
            images = np.empty((len(rows), length, *self.spec.picture), dtype=np.uint8)
            for image, (recording, *places) in zip(images, rows.tolist(), strict=True):
                image[:] = self.recordings[recording][places]
            return picture_batch(images, self.spec.fps)
        windows = [self.recordings[recording][start : start + length] for recording, start in rows.tolist()]
        if any(w.shape[:2] != (length, self.spec.individuals) for w in windows):
            return collate(windows, length, self.spec.individuals, self.spec.fps)
        keypoints = torch.from_numpy(np.stack(windows))  # nothing to pad: half the writes
        return Batch(keypoints, torch.ones(keypoints.shape[:3], dtype=torch.bool), self.spec.fps)


class Streamed:
    """Batches read ahead by a Ray Data pipeline.

    Asked for in order they come from the running pipeline; any other step starts the plan there, which costs
    seconds. Dropping the object, or ``close``, ends the pipeline.
    """

    def __init__(
        self, plan: AnyPlan, spec: Spec, dataset: Dataset, split: str,
        rank: int = 0, world: int = 1, first: int = 0, steps: int | None = None,
    ) -> None:  # fmt: skip
        self.plan, self.spec, self.dataset, self.split = plan, spec, dataset, split
        self.rank, self.world, self.steps = rank, world, steps
        self._first = self._next = first
        self._kept: dict[int, Batch] = {}
        self._batches = self._run(first)

    def __call__(self, step: int) -> Batch:
        """Batch ``step``."""
        if step in self._kept:
            return self._kept[step]
        if step != self._next:
            self._start(step)
        batch = next(self._batches)
        if step < self._first + _REREAD:
            self._kept[step] = batch
        else:
            self._kept.clear()
        self._next = step + 1
        return batch

    def close(self) -> None:
        """End the pipeline and give its memory back; the next call starts another."""
        self._batches.close()
        self._kept.clear()
        self._next = -1

    def _start(self, step: int) -> None:
        self.close()
        self._first = self._next = step
        self._batches = self._run(step)

    def _run(self, step: int) -> Generator[Batch, None, None]:
        share = self.plan.batch_size // self.world
        group = min(_GROUP_STEPS, max(1, _GROUP_BYTES // (share * window_bytes(self.spec))))
        while True:
            end = step + group * _GROUPS
            if self.steps is not None and step < self.steps:
                end = min(end, self.steps)
            tables = [self._table(first, min(first + group, end)) for first in range(step, end, group)]
            for block in self._fetch(tables, share):
                came = block["step"].unique().to_pylist()
                if came != [step]:
                    raise RuntimeError(f"Ray Data gave windows of steps {came} where step {step} was due")
                yield to_batch(block, self.spec)
                step += 1
            if step != end:
                raise RuntimeError(f"Ray Data gave no batch {step}")

    def _table(self, first: int, end: int) -> pa.Table:
        rows = [rank_rows(self.plan.rows(step), self.rank, self.world) for step in range(first, end)]
        step = np.repeat(np.arange(first, end), [len(r) for r in rows])
        places = zip(self.plan.columns, np.concatenate(rows).T, strict=True)
        return pa.table({"step": step, **{name: np.ascontiguousarray(column) for name, column in places}})

    def _fetch(self, tables: list[pa.Table], share: int) -> Iterator[pa.Table]:
        import ray.data
        from ray.data import ActorPoolStrategy, DataContext, ExecutionResources

        context = DataContext.get_current().copy()
        context.enable_progress_bars = context.print_on_execution_start = False
        context.execution_options.preserve_order = True
        context.execution_options.resource_limits = ExecutionResources.for_limits(object_store_memory=_AHEAD_BYTES)
        with DataContext.current(context):
            # No logical CPU anywhere: training workers may hold all there are, and reading goes on beside them.
            # (from_arrow would run a task of one CPU for every table.)
            blocks = ray.data.from_blocks(tables).map_batches(
                Fetch if self.spec.picture is None else FetchImages,
                fn_constructor_args=(self.dataset, self.split, self.spec),
                compute=ActorPoolStrategy(size=1),
                num_cpus=0,
                batch_size=share,
                batch_format="pyarrow",
            )
        yield from blocks.iter_batches(batch_size=share, batch_format="pyarrow", prefetch_batches=2)


def start_ray(**options: Any) -> None:
    """Connect this process to Ray, once.

    To the cluster of RAY_ADDRESS (which Ray sets inside its jobs) when there is one; else to a fresh one on
    this machine that ends with this process, has no dashboard, and asks for a token made for it alone, unless
    RAY_AUTH_MODE says otherwise. ``options`` are those of ``ray.init`` for such a local cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        return
    if "RAY_ADDRESS" in os.environ:
        ray.init(logging_level=logging.WARNING)
        return
    # Ray asks for a token by default; without this it would write one into the home folder.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    place = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if len(place) > 40:  # the names of Ray's sockets, at most 107 bytes, begin with it
        options = {"_temp_dir": "/tmp/ray", **options}
    defaults = {"address": "local", "include_dashboard": False, "logging_level": logging.WARNING}
    ray.init(**{**defaults, **options})


def _split_bytes(dataset: Dataset, split: str, spec: Spec) -> int:
    """What the windows of a split take in memory."""
    if spec.picture is not None:
        size = window_bytes(spec) // spec.frames
        return sum(size * clip.frames for entry in dataset.select(split) for clip in entry.clips)
    points = len(dataset.card.skeleton.keypoints)
    return sum(4 * e.frames * len(e.individuals) * points * e.space for e in dataset.select(split))
