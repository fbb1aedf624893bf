"""One video becomes recordings of pictures: choose anchors in one pass, write them and their neighbours in another."""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from math import isfinite, isnan

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ethoray import video
from ethoray.files import Folder
from ethoray.schema import Recording, Skeleton
from ethoray.video import anchors

PIECE = 64  # frames in memory at once when every frame is written
LONGEST = 256  # and when neighbourhoods of anchors grow together
SKELETON = Skeleton(())


@dataclass(frozen=True)
class Plan:
    """What is to be done with one video.

    Attributes
    ----------
    blocks: (recording, split, first frame, frame after the last).
    around: frames before and behind an anchor.
    exclude: stretches (first, last) of frames where no anchor may lie.
    """

    path: str
    name: str
    about: video.Probe
    fps: float
    blocks: tuple[tuple[str, str, int, int], ...]
    count: int
    policy: anchors.Policy
    around: int
    view: video.View
    every: bool
    exclude: tuple[tuple[int, int], ...]
    skip: bool
    threads: int
    seed: int
    folder: str


Block = tuple[str, str, list[range], set[int]]
"""Its name, its split, the stretches of frames to write, and the anchors among them."""


def extract(plan: Plan) -> Iterator[Recording | str]:
    """The recordings of one video, piece by piece, and a sentence on it; a video that cannot be read is only that."""
    damage: list[str] = []
    try:
        written = yield from _write(plan, _choose(plan, damage), damage)
    except video.VideoError as error:
        if not plan.skip:
            raise
        yield f"{plan.name}: left out. {error}"
        return
    about, rate = plan.about, plan.fps if isnan(plan.about.fps) else plan.about.fps
    left = "; ".join(dict.fromkeys(damage))
    turned = f", turned by {about.rotation} degrees" if about.rotation else ""
    uneven = f", times up to {about.uneven:.3g} s off a constant rate" if about.varies else ""
    yield (
        f"{plan.name}: {about.width} x {about.height} pixels{turned}, {about.frames} frames at {rate:g} per second"
        f"{uneven}, {about.codec}; {written}; {f'damaged: {left}' if left else 'nothing is damaged'}"
    )


def _choose(plan: Plan, damage: list[str]) -> list[Block]:
    """What to write of every block."""
    if plan.every:
        return [(name, split, [range(first, last)], set()) for name, split, first, last in plan.blocks]
    if plan.policy == "uniform":
        index = np.arange(plan.about.frames)[plan.view.start : plan.view.stop : plan.view.stride]
        none = np.zeros(len(index))
        found = anchors.Survey(index, none, none, np.empty(0, int), np.empty((0, 0), np.uint8))
    else:
        small = replace(plan.view, size=(anchors.SIDE, anchors.SIDE))
        found = anchors.survey(_frames(plan, small, damage), seed=plan.seed)
    free = np.ones(len(found.index), bool)
    for begin, end in plan.exclude:
        free &= (found.index < begin) | (found.index > end)
    total, chosen = sum(last - first for *_, first, last in plan.blocks), []
    for name, split, first, last in plan.blocks:
        inside = free & (found.index >= first) & (found.index < last)
        count = min(round(plan.count * (last - first) / total), int(inside.sum()) - 2)
        picked = anchors.choose(found, count, policy=plan.policy, allowed=inside, seed=plan.seed)
        chosen.append((name, split, anchors.context(picked, plan.around, first, last), {int(a) for a in picked}))
    return chosen


def _frames(plan: Plan, view: video.View, damage: list[str], only: list[int] | None = None) -> Iterator[video.Frame]:
    """The frames of one pass; when damage may be left out and the pass breaks off, what came before it stays."""
    count = 0
    try:
        for frame in video.frames(
            plan.path, view, only=only, damage=damage if plan.skip else None, threads=plan.threads
        ):
            count += 1
            yield frame
    except video.VideoError as error:
        if not plan.skip or not count:
            raise
        damage.append(f"the pass broke off behind {count} frames ({error})")


def _write(plan: Plan, chosen: list[Block], damage: list[str]) -> Generator[Recording, None, str]:
    """Pieces in the order of their frames; then the table of what was written. Returns a sentence."""
    stretches = [(s, name, split) for name, split, inside, _ in chosen for s in inside]
    all_anchors = set().union(*(a for *_, a in chosen))
    only = None if plan.every else [i for s, *_ in stretches for i in s]
    rows: list[tuple[str, int, float]] = []
    run: list[video.Frame] = []
    place = 0
    view = replace(plan.view, start=0, stop=None, stride=1) if not plan.every else plan.view
    for frame in _frames(plan, view, damage, only):
        while place < len(stretches) and frame.index >= stretches[place][0].stop:
            yield from _piece(plan, run, stretches[place][1:])
            place, run = place + 1, []
        if place == len(stretches):
            break
        if frame.index < stretches[place][0].start:  # the gap between blocks
            continue
        if run and (frame.index != run[-1].index + 1 or len(run) == (PIECE if plan.every else LONGEST)):
            yield from _piece(plan, run, stretches[place][1:])
            run = []
        run.append(frame)
        rows.append((stretches[place][1], frame.index, frame.time if isfinite(frame.time) else frame.index / plan.fps))
    if place < len(stretches):
        yield from _piece(plan, run, stretches[place][1:])
    Folder(plan.folder).put(f"frames/{plan.name}.parquet", _table(plan.name, rows, all_anchors))
    if plan.every:
        return f"all {len(rows)} frames"
    fewer = f" ({plan.count} were asked for)" if len(all_anchors) < plan.count else ""
    return f"{len(all_anchors)} {plan.policy} anchors{fewer} with {plan.around} around: {len(rows)} frames"


def _piece(plan: Plan, run: list[video.Frame], place: tuple[str, str]) -> Iterator[Recording]:
    if run:
        nothing = np.empty((len(run), 1, 0, 2), np.float32)
        images = np.stack([f.image for f in run])
        name, split = place
        yield Recording(name, plan.name, plan.fps, SKELETON, nothing, split=split, start=run[0].index, images=images)


def _table(name: str, rows: list[tuple[str, int, float]], chosen: set[int]) -> bytes:
    recording, frame, time = zip(*rows, strict=True) if rows else ((), (), ())
    columns = {
        "video": pa.array([name] * len(rows), pa.string()),
        "recording": pa.array(recording, pa.string()),
        "frame": pa.array(frame, pa.int64()),
        "time": pa.array(time, pa.float64()),
        "anchor": pa.array([i in chosen for i in frame], pa.bool_()),
    }
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, store_schema=False)
    return sink.getvalue()
