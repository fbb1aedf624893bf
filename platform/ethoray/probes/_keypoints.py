"""Pictures with marked keypoints, drawn from a dataset, moved about, and the training of what finds them."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ethoray.learning import Encoder
from ethoray.probes import ProbeError
from ethoray.probes._heatmaps import HeatmapHead, loss, moved, read
from ethoray.probes._patches import grid, tokens
from ethoray.store import Dataset

Array = np.ndarray
_SCALE = re.compile(r"a stored pixel is ([\d.e+-]+) wide and ([\d.e+-]+) high")


@dataclass(frozen=True)
class Pictures:
    """Images uint8 (image, height, width, channel), points float32 (image, keypoint, 2) and names.

    Points are in pixels of these images, NaN where nobody marked one.
    """

    images: Array
    points: Array
    names: tuple[str, ...]

    def pick(self, rows: Sequence[int]) -> Pictures:
        """Some of them."""
        return Pictures(self.images[rows], self.points[rows], tuple(self.names[r] for r in rows))


def pictures(dataset: Dataset, split: str) -> Pictures:
    """The marked frames of a split; raises ProbeError when there are none or pictures differ in size."""
    images, points, names = [], [], []
    for entry in dataset.select(split) if split in dataset.splits else ():
        if entry.picture is None or entry.space != 2:
            raise ProbeError(f"recording {entry.name!r}: pose needs images and keypoints of two coordinates")
        for clip in entry.clips:
            marks = dataset.clip(clip, entry).reshape(clip.frames, -1, 2)
            keep = np.flatnonzero(np.isfinite(marks).all(-1).any(-1))
            if len(keep):
                images.append(dataset.images(entry, clip)[keep])
                points.append(marks[keep])
                names += [entry.name if entry.frames == 1 else f"{entry.name} {clip.start + i}" for i in keep]
    shapes = {(i.shape[1:], p.shape[1:]) for i, p in zip(images, points, strict=True)}
    if len(shapes) != 1:
        raise ProbeError(f"{dataset.uri}: split {split!r} has {'no marked frame' if not shapes else 'pictures unlike'}")
    return Pictures(np.concatenate(images), np.concatenate(points), tuple(names))


def scale(dataset: Dataset) -> tuple[float, float] | None:
    """Width and height of a stored pixel in pixels of the original, as the card says it; None when it does not.

    Raises ProbeError when the originals had several sizes.
    """
    said = {(float(m[1]), float(m[2])) for note in dataset.card.notes for m in _SCALE.finditer(note)}
    if len(said) > 1:
        raise ProbeError(f"{dataset.uri}: pictures had {len(said)} sizes; say with scale which pixels errors are in")
    return said.pop() if said else None


@dataclass(frozen=True)
class Training:
    """How a head, and with ``tuned`` the encoder under it, is trained; see ``pose.Pose``."""

    tuned: bool
    epochs: int
    batch: int
    lr: float
    milestones: tuple[int, ...]
    thaw: int
    augment: bool

    def head(self, epoch: int) -> float:
        """The head's learning rate."""
        return float(self.lr * 0.5 ** sum(epoch >= m for m in self.milestones))

    def backbone(self, epoch: int) -> float:
        """The encoder's: 0 until ``thaw``, then a tenth of the head's, growing by half an epoch up to it."""
        if not self.tuned or epoch < self.thaw:
            return 0.0
        return self.head(epoch) * min(1.0, 0.1 * 1.5 ** min(epoch - self.thaw, 100))


@dataclass
class Model:
    """A head and the encoder it was trained on, for images of one size."""

    encoder: Encoder
    head: HeatmapHead
    size: tuple[int, int]

    @torch.no_grad()
    def points(self, seen: Tensor) -> tuple[Array, Array]:
        """Points (image, keypoint, 2) in pixels of the images, and confidences, from their tokens."""
        maps = self.head(seen)
        places, sure = read(maps)
        found = moved(places, (maps.shape[-2], maps.shape[-1]), self.size)
        return found.double().cpu().numpy(), sure.double().cpu().numpy()


def trained(encoder: Encoder, data: Pictures, how: Training, seed: int) -> Model:
    """A head for these pictures. The encoder given is never changed: a copy is fine-tuned."""
    encoder = copy.deepcopy(encoder) if how.tuned else encoder
    encoder.eval()
    held = _encode(encoder, data.images) if not (how.tuned or how.augment) else None
    first = _encode(encoder, data.images[:1]) if held is None else held[:1]
    size = (data.images.shape[1], data.images.shape[2])
    where = grid(first.shape[1], size)
    doublings = max(1, round(math.log2(size[0] / where[0] / 4)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = HeatmapHead(first.shape[2], data.points.shape[1], where, doublings).to(first.device)
        model = Model(encoder, head, size)
        _fit(model, data, held, how)
    head.eval()
    encoder.eval()
    return model


def _fit(model: Model, data: Pictures, held: Tensor | None, how: Training) -> None:
    weights = [p for p in model.encoder.parameters() if p.requires_grad] if how.tuned else []
    groups = [{"params": list(model.head.parameters())}, *([{"params": weights}] if weights else [])]
    optimiser = torch.optim.Adam(groups, lr=how.lr)
    device = model.encoder.device()
    points = torch.from_numpy(data.points).to(device)
    for epoch in range(how.epochs):
        for group, rate in zip(optimiser.param_groups, (how.head(epoch), how.backbone(epoch)), strict=False):
            group["lr"] = rate
        thawed = how.backbone(epoch) > 0
        for rows in torch.randperm(len(points)).split(how.batch):
            marks = points[rows.to(device)]
            if held is not None:
                seen = held[rows.to(device)]
            else:
                images = torch.from_numpy(data.images[rows.numpy()]).to(device)
                if how.augment:
                    images, marks = swayed(images, marks)
                with torch.set_grad_enabled(thawed):
                    seen = tokens(model.encoder, images)
            maps = model.head(seen)
            value = loss(maps, moved(marks, model.size, (maps.shape[-2], maps.shape[-1])))
            optimiser.zero_grad()
            value.backward()
            optimiser.step()


@torch.no_grad()
def _encode(encoder: Encoder, images: Array, batch: int = 16) -> Tensor:
    return torch.cat([tokens(encoder, images[first : first + batch]) for first in range(0, len(images), batch)])


def predict(models: Iterable[Model], data: Pictures, batch: int = 16) -> tuple[Array, Array]:
    """Points (model, image, keypoint, 2) and confidences (model, image, keypoint); shared encoders run once."""
    models = list(models)
    places: list[list[Array]] = [[] for _ in models]
    sure: list[list[Array]] = [[] for _ in models]
    for first in range(0, len(data.images), batch):
        seen: dict[int, Tensor] = {}
        for index, model in enumerate(models):
            if id(model.encoder) not in seen:
                seen[id(model.encoder)] = _encode(model.encoder, data.images[first : first + batch])
            found, confidence = model.points(seen[id(model.encoder)])
            places[index].append(found)
            sure[index].append(confidence)
    return np.stack([np.concatenate(p) for p in places]), np.stack([np.concatenate(s) for s in sure])


def swayed(images: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Images turned by up to 25 degrees and made up to 15 % larger or smaller, each with probability 0.4.

    Points that leave the picture are NaN.
    """
    count, height, width = images.shape[:3]
    device, flip = images.device, torch.rand(2, count) < 0.4
    angle = torch.where(flip[0], (torch.rand(count) * 2 - 1) * math.radians(25), 0)
    zoom = torch.where(flip[1], 1 + (torch.rand(count) * 2 - 1) * 0.15, 1)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(-1, 2, 2).to(device)
    # In pixels about the middle a point p goes to zoom * turn @ p; a pixel of the result looks where it came from.
    half = torch.tensor([width, height], device=device) / 2
    back = turn.transpose(1, 2) / zoom.to(device)[:, None, None]
    matrix = back * half[None, None, :] / half[None, :, None]
    theta = torch.cat([matrix, torch.zeros(count, 2, 1, device=device)], 2)
    shape = [count, images.shape[3], height, width]
    where = F.affine_grid(theta, shape, align_corners=False)
    floats = F.grid_sample(images.permute(0, 3, 1, 2).float(), where, mode="bilinear", align_corners=False)
    centred = points + 0.5 - half
    placed = torch.einsum("nij,nkj->nki", turn * zoom.to(device)[:, None, None], centred) + half - 0.5
    inside = ((placed >= -0.5) & (placed <= 2 * half - 0.5)).all(-1, keepdim=True)
    return floats.round().clamp(0, 255).byte().permute(0, 2, 3, 1), torch.where(inside, placed, torch.nan)
