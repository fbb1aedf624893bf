"""Keypoints from patch tokens: a head that draws a heatmap a keypoint, its targets, its loss and how it is read.

As in Lightning Pose (Biderman et al. 2024). Coordinates are pixels whose first centre is 0, so a point x of an image of
width w is (x + 1/2) W / w - 1/2 in a map of width W.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIGMA = 1.25
"""Width of a target, in pixels of the heatmap."""
SHARPNESS = 1000.0
"""Factor on the heatmap before the softmax that reads it."""
_BLUR = (1.0, 4.0, 6.0, 4.0, 1.0)


class HeatmapHead(nn.Module):
    """(image, token, feature) -> (image, keypoint, rows, columns), each map positive with sum 1.

    A quarter of the features with twice the rows and columns, then a transposed convolution for every further doubling.

    Parameters
    ----------
    grid: rows and columns of patches.
    doublings: of the grid; 2 make a map of a quarter of the image from patches of 16 pixels.
    """

    def __init__(self, features: int, keypoints: int, grid: tuple[int, int], doublings: int = 2) -> None:
        super().__init__()
        if features % 4 or doublings < 1:
            raise ValueError(
                f"{features} features and {doublings} doublings: a multiple of 4, and 1 or more, are needed"
            )
        self.grid, self.shuffle = grid, nn.PixelShuffle(2)
        widths = [features // 4, *[keypoints] * (doublings - 1)]
        layers: list[nn.Conv2d | nn.ConvTranspose2d] = [
            nn.ConvTranspose2d(a, b, 3, stride=2, padding=1, output_padding=1) for a, b in pairwise(widths)
        ]
        layers = layers or [nn.Conv2d(features // 4, keypoints, 3, padding=1)]
        for layer in layers:
            assert layer.bias is not None
            nn.init.xavier_uniform_(layer.weight, gain=0.01)
            nn.init.zeros_(layer.bias)
        self.layers = nn.Sequential(*layers)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens are the patches of an image row by row, without CLS."""
        image = tokens.transpose(1, 2).unflatten(2, self.grid)
        maps = self.layers(self.shuffle(image))
        return maps.flatten(2).softmax(-1).view_as(maps)


def targets(points: Tensor, size: tuple[int, int]) -> Tensor:
    """Gaussians of sum 1 around points (image, keypoint, 2: x and y in pixels of the map); zero where one is NaN."""
    rows, columns = (torch.arange(length, device=points.device, dtype=points.dtype) for length in size)
    known = torch.isfinite(points).all(-1)
    x, y = torch.where(known[..., None], points, 0).unbind(-1)
    across = torch.exp(-((columns - x[..., None]) ** 2) / (2 * SIGMA**2))
    down = torch.exp(-((rows - y[..., None]) ** 2) / (2 * SIGMA**2))
    maps = down[..., :, None] * across[..., None, :]
    total = maps.sum((-1, -2), keepdim=True)
    return torch.where(known[..., None, None], maps / total.clamp(min=1e-12), 0)


def loss(maps: Tensor, points: Tensor) -> Tensor:
    """Half the squared difference from the targets, summed over a map, mean over maps with a point inside of them."""
    size = (maps.shape[-2], maps.shape[-1])
    wanted = targets(points, size)
    known = (wanted.sum((-1, -2)) > 0.5).to(maps.dtype)
    error = ((maps - wanted) ** 2).sum((-1, -2))
    return 0.5 * (error * known).sum() / known.sum().clamp(min=1)


def read(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Points (image, keypoint, 2) in pixels of the map and how sure they are (image, keypoint), in [0, 1].

    A map is enlarged four times; the point is the mean place under its sharpened softmax, the confidence what of that
    lies within two of its own pixels around the point.
    """
    large = _enlarge(_enlarge(maps))
    height, width = large.shape[-2:]
    weights = (SHARPNESS * large).flatten(2).softmax(-1).view_as(large)
    rows = torch.arange(height, device=maps.device, dtype=maps.dtype)
    columns = torch.arange(width, device=maps.device, dtype=maps.dtype)
    x, y = (weights.sum(-2) * columns).sum(-1), (weights.sum(-1) * rows).sum(-1)
    reach = 4 * math.floor(2 * SIGMA)
    near = ((columns - x[..., None]).abs() <= reach)[..., None, :] & ((rows - y[..., None]).abs() <= reach)[
        ..., :, None
    ]
    return (torch.stack([x, y], -1) + 0.5) / 4 - 0.5, (weights * near).sum((-1, -2))


def _enlarge(maps: Tensor) -> Tensor:
    """Twice the rows and columns, bicubic, then a small blur."""
    large = F.interpolate(maps, scale_factor=2, mode="bicubic", align_corners=False)
    line = torch.tensor(_BLUR, device=maps.device, dtype=maps.dtype) / sum(_BLUR)
    kernel = (line[:, None] * line[None, :]).expand(maps.shape[1], 1, 5, 5)
    return F.conv2d(F.pad(large, (2, 2, 2, 2), mode="replicate"), kernel, groups=maps.shape[1])


def moved(points: Tensor, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    """Points (..., 2) of an image of (height, width) ``before`` as they are in one of ``after``."""
    factor = torch.tensor([after[1] / before[1], after[0] / before[0]], device=points.device, dtype=points.dtype)
    return (points + 0.5) * factor - 0.5
