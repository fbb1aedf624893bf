"""Images as a network wants them: three channels, one size, moved about at random, normalised; on any device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ethoray.batch import Batch
from ethoray.nn.parallel import rand_rows
from ethoray.schema import SchemaError

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the channels of ImageNet, between 0 and 1: what published weights expect."""

AUGMENTATIONS = ("none", "crop", "turn")


def images(batch: Batch) -> Tensor:
    """The images of a batch one after the other, uint8 (image, height, width, channel); SchemaError without any."""
    if batch.images is None:
        raise SchemaError("this encoder learns from images, and the batch holds keypoints")
    return batch.images.flatten(0, 1)


def prepare(raw: Tensor, pixels: tuple[int, int], move: Tensor | None = None) -> Tensor:
    """uint8 (image, height, width, 1 or 3) -> normalised float32 (image, height, width, 3) of the given size.

    ``move`` are maps as ``moves`` draws them; what comes from outside the image is black.
    """
    x = raw.float()
    if tuple(x.shape[1:3]) != pixels:
        x = F.interpolate(x.permute(0, 3, 1, 2), pixels, mode="bilinear", antialias=True).permute(0, 2, 3, 1)
    if move is not None:
        grid = F.affine_grid(move.to(x.dtype), [len(x), 1, *pixels], align_corners=False)
        x = F.grid_sample(x.permute(0, 3, 1, 2), grid, align_corners=False).permute(0, 2, 3, 1)
    mean, deviation = (torch.tensor(v, device=x.device) * 255 for v in (MEAN, DEVIATION))
    return (x - mean) / deviation  # one channel becomes three


def restore(x: Tensor) -> Tensor:
    """Normalised (..., 3) -> uint8."""
    mean, deviation = (torch.tensor(v, device=x.device) * 255 for v in (MEAN, DEVIATION))
    return (x * deviation + mean).round().clamp(0, 255).to(torch.uint8)


def moves(pairs: int, images: int, kind: str, together: bool, device: torch.device) -> Tensor | None:
    """Random maps from places in the new image to places in the old one, (pairs * images, 2, 3); None moves nothing.

    "crop" mirrors every second image, and in two of five moves each side by up to 15 % of the image, inwards or
    outwards; "turn" also rotates by any angle, for cameras that look straight down. Drawn for every image of a pair,
    or for all of them ``together``; the global draw is the same for any number of workers.
    """
    if kind == "none":
        return None
    u = rand_rows(pairs, 1 if together else images, 7, device=device).expand(-1, images, -1).flatten(0, 1)
    shift = (u[:, 2:6] * 0.3 - 0.15) * (u[:, 1:2] < 0.4)
    left, right, top, bottom = shift.unbind(1)
    mirror = torch.where(u[:, 0] < 0.5, -1.0, 1.0)
    angle = (u[:, 6] * 2 - 1) * torch.pi * (kind == "turn")
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    turn = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
    scale = torch.stack([mirror * (1 - left - right), 1 - top - bottom], 1)
    out = turn * scale[:, :, None]
    out[:, 0, 2] += left - right
    out[:, 1, 2] += top - bottom
    return out
