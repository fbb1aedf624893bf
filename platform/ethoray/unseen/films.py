"""An encoder of images on videos that nobody prepared: a row of Parquet for every frame, in one pass over each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isfinite
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from ethoray import video
from ethoray.batch import picture_batch
from ethoray.embedding import PICTURES, EmbeddingError, listed, with_all
from ethoray.learning import Encoder
from ethoray.readers import ReadError
from ethoray.unseen.sources import check_names


def rows(
    encoder: Encoder, path: Path, picture: tuple[int, int, int], damage: list[str], *, every: float = 0.0
) -> Iterator[pa.Table]:
    """The columns recording, split, frame, time (s, as the file states it) and a list of floats a space.

    Parameters
    ----------
    picture: height, width and channels that frames are brought to.
    damage: receives a sentence for everything that could not be decoded and was left out.
    every: seconds between two rows; 0 is every frame.

    Raises VideoError for a file that cannot be read, EmbeddingError when an embedding is not finite.
    """
    height, width, channels = picture
    fps = video.probe(path).fps
    stride = max(1, round(every * fps)) if every and isfinite(fps) else 1
    view = video.View((width, height), grey=channels == 1, stride=stride)
    held: list[video.Frame] = []
    encoder.eval()
    for frame in video.frames(path, view, damage=damage):
        held.append(frame)
        if len(held) == PICTURES:
            yield _table(encoder, path, held, fps)
            held = []
    if held:
        yield _table(encoder, path, held, fps)


@torch.no_grad()
def _table(encoder: Encoder, path: Path, held: Sequence[video.Frame], fps: float) -> pa.Table:
    images = np.stack([frame.image for frame in held])[None]
    found = encoder.embed(picture_batch(images, fps).to(encoder.device()))
    spaces = {name: z[0, :, 0].float().cpu().numpy() for name, z in found.items()}
    for name, values in spaces.items():
        if not np.isfinite(values).all():
            broken = held[int((~np.isfinite(values).all(1)).argmax())].index
            raise EmbeddingError(f"{path}: space {name!r} is not finite, first in frame {broken}")
    times = [frame.time if isfinite(frame.time) else frame.index / fps for frame in held]
    columns = {
        "recording": pa.array([path.stem] * len(held), pa.string()),
        "split": pa.array([None] * len(held), pa.string()),
        "frame": pa.array([frame.index for frame in held], pa.int64()),
        "time": pa.array(times, pa.float64(), from_pandas=True),
    }
    return pa.table({**columns, **{name: listed(values) for name, values in with_all(encoder, spaces).items()}})


def check(paths: Sequence[Path]) -> None:
    """Raise ReadError unless all are videos, each with a name of its own."""
    for path in paths:
        if video.container(path) is None:
            raise ReadError(f"{path}: no video that is known here; the encoder learned from images")
    check_names([path.stem for path in paths])
