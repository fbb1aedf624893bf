"""What candidates of one cohort have in common is read and computed once: batches, movement features, recordings.

Everything here answers with the same bits as if it had been computed again, so sharing changes no result.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ethoray.batch import Batch, Stream
from ethoray.learning import Encoder
from ethoray.nn.features import AmongOthers, Coordinates, EgocentricMotion, Features, MouseVelocities, Movement
from ethoray.store import Dataset, Entry

Value = TypeVar("Value")

_KINDS = (MouseVelocities, EgocentricMotion, Coordinates, AmongOthers)


class Memory:
    """Results by key, up to so many bytes: the first are kept, what comes later is computed every time.

    Candidates ask for the same things in the same order, so what is kept first is asked for again by all of them;
    giving way to newer things would lose everything just before it is needed.

    Attributes
    ----------
    limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held: dict[Hashable, tuple[Any, list[int]]] = {}
        self._bytes = 0

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """What ``make`` gives, from memory when it is there and no tensor of it was written to since."""
        if key in self._held:
            value, versions = self._held[key]
            if versions == [t._version for t in _tensors(value)]:
                return value
            del self._held[key]
        made = make()
        size = _size(made)
        if self._bytes + size <= self.limit:
            self._held[key] = made, [t._version for t in _tensors(made)]
            self._bytes += size
        return made

    def forget(self) -> None:
        """Let go of everything."""
        self._held.clear()
        self._bytes = 0


class SharedStream:
    """A stream whose batches are gathered once a round; all candidates of one seed read it."""

    def __init__(self, stream: Stream, memory: Memory) -> None:
        self.stream, self.memory = stream, memory

    def __call__(self, step: int) -> Batch:
        """Batch ``step``."""
        return self.memory.get((id(self), step), lambda: self.stream(step))


class SharedFeatures:
    """Movement features that are computed once for equal batches, whoever asks."""

    def __init__(self, features: Features, name: bytes, memory: Memory) -> None:
        self.features, self.name, self.memory = features, name, memory

    def __call__(self, batch: Batch) -> Movement:
        """The movement of every animal of a batch."""
        return self.memory.get((self.name, _digest(batch)), lambda: self.features(batch))

    def __deepcopy__(self, _: object) -> SharedFeatures:
        return self

    def __reduce__(self) -> tuple[Callable[[bytes], Any], tuple[bytes]]:
        return pickle.loads, (self.name,)

    def __getattr__(self, name: str) -> Any:
        if name == "features":  # not there yet: being unpickled or copied
            raise AttributeError(name)
        return getattr(self.features, name)


class SharedDataset(Dataset):
    """A dataset that reads every recording once while there is memory for it; arrays are the caller's own."""

    memory: Memory

    def keypoints(self, entry: Entry, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Frames ``start`` to ``stop`` as float32 (time, individual, keypoint, space)."""
        read = super().keypoints
        return self.memory.get(("keypoints", entry.name, start, stop), lambda: read(entry, start, stop)).copy()

    def labels(self, entry: Entry) -> dict[str, np.ndarray | float]:
        """Every task of the card: float32 (time,) at frame level, a number at recording level."""
        read = super().labels
        held = self.memory.get(("labels", entry.name), lambda: read(entry))
        return {task: v.copy() if isinstance(v, np.ndarray) else v for task, v in held.items()}


def share_dataset(dataset: Dataset, memory: Memory) -> SharedDataset:
    """The same dataset, which remembers what it read."""
    shared = SharedDataset(**{f.name: getattr(dataset, f.name) for f in fields(Dataset)})
    object.__setattr__(shared, "memory", memory)  # a dataset is frozen, and this is no part of what it is
    return shared


def share_features(encoder: Encoder, memory: Memory) -> None:
    """Let an encoder take the features of ``nn.features`` from memory; others keep what they have."""
    own = getattr(encoder, "features", None)
    if isinstance(own, _KINDS):
        encoder.features = SharedFeatures(own, pickle.dumps(own), memory)  # type: ignore[assignment]


def unshare_features(encoder: Encoder) -> None:
    """Give an encoder its own features back."""
    shared = getattr(encoder, "features", None)
    if isinstance(shared, SharedFeatures):
        encoder.features = shared.features  # type: ignore[assignment]


def _digest(batch: Batch) -> bytes:
    device = batch.keypoints.device
    kind = (tuple(batch.keypoints.shape), batch.fps, str(device), torch.is_autocast_enabled(device.type))
    digest = hashlib.blake2b(repr(kind).encode())
    for tensor in (batch.keypoints, batch.mask):
        digest.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.digest()


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Batch | Movement):
        return [v for v in vars(value).values() if isinstance(v, Tensor)]
    return []


def _size(value: Any) -> int:
    if isinstance(value, np.ndarray):
        return int(value.nbytes)
    if isinstance(value, Mapping):
        return sum(_size(v) for v in value.values())
    return sum(t.numel() * t.element_size() for t in _tensors(value))
