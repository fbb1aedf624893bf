"""What a Ray Data pipeline does for a plan: read the clips its rows name, cut the windows, hand them on as a table."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pyarrow as pa
import torch

from ethoray.batch import Batch, Spec, picture_batch
from ethoray.store import Dataset, Entry

POOL_BYTES = 512 << 20
"""Windows shuffled together, in bytes: what a reader keeps at hand so that it reads each clip about once."""


class Fetch:
    """Reads the clips that a plan's rows need and cuts the windows: a stage of a Ray Data pipeline.

    Decoded clips are kept, the least recently used leave first; there is room for twice a pool of windows, so
    each clip is read about once an epoch.
    """

    def __init__(self, dataset: Dataset, split: str, spec: Spec, room: int = 2 * POOL_BYTES) -> None:
        self.dataset, self.spec, self.room = dataset, spec, room
        self.entries = dataset.select(split)
        self.reads = self.held = 0
        self._clips: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Windows of the rows (step, recording, start), padded with NaN, and how much of each is not padding."""
        places = zip(rows["recording"].to_pylist(), rows["start"].to_pylist(), strict=True)
        windows = [self.window(recording, start) for recording, start in places]
        shape = (self.spec.frames, self.spec.individuals, *windows[0].shape[2:])
        padded = np.full((len(windows), *shape), np.nan, dtype=np.float32)
        for row, window in zip(padded, windows, strict=True):
            row[: window.shape[0], : window.shape[1]] = window
        return pa.table(
            {
                "step": rows["step"],
                "frames": pa.array([w.shape[0] for w in windows], pa.int32()),
                "individuals": pa.array([w.shape[1] for w in windows], pa.int32()),
                "keypoints": pa.FixedSizeListArray.from_arrays(pa.array(padded.ravel()), int(np.prod(shape))),
            }
        )

    def window(self, recording: int, start: int) -> np.ndarray:
        """One window (time, individual, keypoint, space), shorter where the recording ends."""
        entry = self.entries[recording]
        stop = min(start + self.spec.frames, entry.frames)
        parts = [
            self._clip(recording, entry, place)[max(start - clip.start, 0) : stop - clip.start]
            for place, clip in enumerate(entry.clips)
            if clip.start < stop and start < clip.start + clip.frames
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _clip(self, recording: int, entry: Entry, place: int) -> np.ndarray:
        name = (recording, place)
        if name not in self._clips:
            decoded = self._decoded(entry, place)
            self.reads += 1
            self.held += decoded.nbytes
            while self._clips and self.held > self.room:
                self.held -= self._clips.popitem(last=False)[1].nbytes
            self._clips[name] = decoded
        self._clips.move_to_end(name)
        return self._clips[name]

    def _decoded(self, entry: Entry, place: int) -> np.ndarray:
        return self.dataset.clip(entry.clips[place], entry)


class FetchImages(Fetch):
    """Reads the clips that the rows of a plan of pairs need and picks the images."""

    def __init__(self, dataset: Dataset, split: str, spec: Spec, room: int = 2 * POOL_BYTES) -> None:
        super().__init__(dataset, split, spec, room)
        self._ends = [np.cumsum([clip.frames for clip in entry.clips]) for entry in self.entries]

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Images of the rows (step, recording, first, second), as many as the spec's frames."""
        assert self.spec.picture is not None
        places = np.stack([rows[name].to_numpy() for name in rows.schema.names[1:]], axis=1)
        images = np.empty((len(places), self.spec.frames, *self.spec.picture), dtype=np.uint8)
        for image, (recording, *chosen) in zip(images, places.tolist(), strict=True):
            for into, place in zip(image, chosen, strict=True):
                into[:] = self.image(recording, place)
        size = int(np.prod(images.shape[1:]))
        values = pa.FixedSizeListArray.from_arrays(pa.array(images.reshape(-1)), size)
        return pa.table({"step": rows["step"], "images": values})

    def image(self, recording: int, place: int) -> np.ndarray:
        """The image (height, width, channel) that was stored at this place of a recording."""
        ends = self._ends[recording]
        ordinal = int(np.searchsorted(ends, place, side="right"))
        clip = self._clip(recording, self.entries[recording], ordinal)
        found: np.ndarray = clip[place - (int(ends[ordinal - 1]) if ordinal else 0)]
        return found

    def _decoded(self, entry: Entry, place: int) -> np.ndarray:
        return self.dataset.images(entry, entry.clips[place])


def to_batch(block: pa.Table, spec: Spec) -> Batch:
    """The batch that a fetched table holds."""
    if spec.picture is not None:
        images = block["images"].combine_chunks().flatten().to_numpy()
        return picture_batch(np.array(images).reshape(block.num_rows, spec.frames, *spec.picture), spec.fps)
    flat = block["keypoints"].combine_chunks().flatten().to_numpy()
    points = len(spec.skeleton.keypoints)
    shape = (block.num_rows, spec.frames, spec.individuals, points, spec.space)
    frames = block["frames"].to_numpy()[:, None, None]
    animals = block["individuals"].to_numpy()[:, None, None]
    mask = (np.arange(spec.frames)[:, None] < frames) & (np.arange(spec.individuals) < animals)
    return Batch(torch.from_numpy(np.array(flat).reshape(shape)), torch.from_numpy(mask), spec.fps)


def window_bytes(spec: Spec) -> int:
    """What one window takes in memory."""
    if spec.picture is not None:
        height, width, channels = spec.picture
        return spec.frames * height * width * channels
    return 4 * spec.frames * spec.individuals * len(spec.skeleton.keypoints) * spec.space
