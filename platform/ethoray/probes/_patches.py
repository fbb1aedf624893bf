"""Patch tokens of images, for probes that train on them; and what such a probe answers with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ethoray.batch import Batch, picture_batch
from ethoray.embedding import Embedding
from ethoray.learning import Encoder
from ethoray.probes import ProbeError, Score
from ethoray.store import Entry

Array = np.ndarray
Map = Callable[..., Iterable[Any]]
"""Like ``map`` of a function and a list: jobs may run anywhere and in any order, results come in that of the list.

``ray.util.multiprocessing.Pool().map`` is one for a cluster, ``concurrent.futures.ProcessPoolExecutor().map`` for one
machine.
"""


@runtime_checkable
class Patches(Protocol):
    """An encoder of images that shows its patches."""

    def patches(self, batch: Batch) -> Tensor:
        """(batch, time, token, feature): the patches of every image row by row, without CLS."""


@runtime_checkable
class Tokens(Protocol):
    """An encoder of images that shows CLS and its patches."""

    def tokens(self, batch: Batch) -> Tensor:
        """(batch, time, 1 + token, feature): CLS, then the patches of every image row by row."""


@dataclass(frozen=True)
class Answer:
    """Scores of a probe that trained something, and by "task/space" what else it found."""

    scores: tuple[Score, ...]
    about: dict[str, dict[str, Any]]


def tokens(encoder: Encoder, images: Array | Tensor, fps: float = 1.0) -> Tensor:
    """(image, token, feature) of images uint8 (image, height, width, channel), on the encoder's device.

    Raises ProbeError when the encoder has no patches or they are not finite.
    """
    if not isinstance(encoder, Patches | Tokens):
        raise ProbeError(
            f"{type(encoder).__name__} has no patches; this probe judges encoders of images that show them"
        )
    batch = picture_batch(torch.as_tensor(images)[:, None], fps).to(encoder.device())
    found = encoder.patches(batch)[:, 0] if isinstance(encoder, Patches) else encoder.tokens(batch)[:, 0, 1:]
    if found.ndim != 3 or len(found) != len(images):
        raise ProbeError(f"{type(encoder).__name__}: patches of {len(images)} images are {tuple(found.shape)}")
    if not torch.isfinite(found).all():
        raise ProbeError(f"{type(encoder).__name__}: patches are not finite")
    return found.float()


def whole(embedding: Embedding) -> Entry:
    """The recording of an embedding; raises ProbeError when it has no row for every frame of it."""
    if embedding.frames is not None:
        raise ProbeError(
            f"recording {embedding.entry.name!r}: images of some frames only, and time goes by between them; "
            "prepare the video with every frame"
        )
    return embedding.entry


def grid(count: int, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of ``count`` patches of an image of (height, width)."""
    rows = round((count * size[0] / size[1]) ** 0.5)
    if rows < 1 or count % rows:
        raise ProbeError(f"{count} patches do not make a grid on an image of {size[0]} x {size[1]} pixels")
    return rows, count // rows
