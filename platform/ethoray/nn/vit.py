"""A vision transformer as a masked autoencoder (Dosovitskiy et al. 2021; He et al. 2022, "Masked autoencoders").

The encoder reads only the patches that are not hidden, and a CLS token; the decoder rebuilds the pixels of all
patches. Patches are counted row by row, the pixels of a patch as (row, column, channel). Positions are fixed sines and
cosines, so a model may see another number of patches than the one its weights come from.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ethoray.nn.bootstrap import precise
from ethoray.nn.parallel import WeightedBatchNorm
from ethoray.schema import SchemaError

EPS = 1e-12
"""Of layer normalisation, as in the published weights."""

_INITIAL = 0.02  # standard deviation of initial weights


@dataclass(frozen=True)
class Shape:
    """Sizes of a masked autoencoder.

    Attributes
    ----------
    pixels: height and width of the image; ``patch`` divides both.
    width, depth, heads, hidden: of the encoder; ``hidden`` is the inner width of its perceptrons.
    decoder: the same four of the decoder.
    """

    pixels: tuple[int, int]
    patch: int
    width: int
    depth: int
    heads: int
    hidden: int
    decoder: tuple[int, int, int, int]
    channels: int = 3

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        height, width = self.pixels
        if height % self.patch or width % self.patch:
            raise SchemaError(
                f"images of {height} x {width} pixels are not cut into patches of {self.patch}; set pixels to a "
                "multiple of it"
            )
        return height // self.patch, width // self.patch

    @property
    def values(self) -> int:
        """Numbers in a patch."""
        return self.patch**2 * self.channels


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); one product makes queries, keys and values."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        if width % heads:
            raise SchemaError(f"a width of {width} does not divide among {heads} heads")
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, EPS), nn.LayerNorm(width, EPS)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(image, token, width) -> the same shape."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        out: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return out


class ViT(nn.Module):
    """The encoder: a CLS token and those patches that may be seen."""

    positions: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.cls = nn.Parameter(torch.zeros(shape.width))
        self.patch = nn.Linear(shape.values, shape.width)
        self.blocks = nn.ModuleList(Block(shape.width, shape.heads, shape.hidden) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width, EPS)
        self.register_buffer("positions", sines(shape.grid, shape.width), persistent=False)
        initialise(self)
        nn.init.normal_(self.cls, std=_INITIAL)

    def forward(self, patches: Tensor, seen: Tensor | None = None) -> Tensor:
        """(image, patch, value) -> (image, 1 + seen patch, width), CLS first, then the patches in their order.

        ``seen`` int64 (image, seen patch) says which patches to read; all of them by default.
        """
        positions = self.positions.expand(len(patches), -1, -1)
        if seen is not None:
            patches, positions = pick(patches, seen), pick(positions, seen)
        x = self.patch(patches) + positions
        x = torch.cat([self.cls.to(x.dtype).expand(len(x), 1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x)
        return out


class Decoder(nn.Module):
    """From the tokens of some patches to the values of all."""

    positions: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, depth, heads, hidden = shape.decoder
        self.mask = nn.Parameter(torch.zeros(width))
        self.embed = nn.Linear(shape.width, width)
        self.blocks = nn.ModuleList(Block(width, heads, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width, EPS)
        self.predict = nn.Linear(width, shape.values)
        self.register_buffer("positions", sines(shape.grid, width), persistent=False)
        initialise(self)
        nn.init.normal_(self.mask, std=_INITIAL)

    def forward(self, tokens: Tensor, restore: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Tokens of the encoder -> (image, patch, value) of every patch, or of the ``wanted`` (image, patch) ones.

        ``restore`` int64 (image, patch) says where a patch is in the list of first the seen, then the hidden ones.
        """
        x = self.embed(tokens)
        hidden = self.mask.to(x.dtype).expand(len(x), restore.shape[1] + 1 - x.shape[1], -1)
        patches = pick(torch.cat([x[:, 1:], hidden], 1), restore) + self.positions
        x = torch.cat([x[:, :1], patches], 1)
        for block in self.blocks:
            x = block(x)
        x = x[:, 1:] if wanted is None else pick(x[:, 1:], wanted)
        out: Tensor = self.predict(self.norm(x))
        return out


class Projector(nn.Module):
    """From CLS tokens to where they are compared: twice linear, batch norm, ReLU; linear."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, out)
        self.norm1, self.norm2 = WeightedBatchNorm(width), WeightedBatchNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """(row, width) -> (row, out); statistics over the rows of all workers, in float32 or better."""
        ones = torch.ones_like(x[:, 0], dtype=torch.promote_types(x.dtype, torch.float32))
        x = F.relu(self.norm1(precise(self.first(x)), ones))
        x = F.relu(self.norm2(precise(self.second(x)), ones))
        out: Tensor = self.third(x)
        return out


@dataclass(frozen=True)
class Hiding:
    """Which patches are seen and which hidden, int64 (image, patch); ``restore`` undoes their concatenation."""

    seen: Tensor
    hidden: Tensor
    restore: Tensor


def hide(noise: Tensor, ratio: float) -> Hiding:
    """Of every image the ``int(patches * (1 - ratio))`` patches of the smallest ``noise`` (image, patch) are seen."""
    order = noise.argsort(1)
    seen = int(noise.shape[1] * (1 - ratio))
    return Hiding(order[:, :seen], order[:, seen:], order.argsort(1))


def pick(x: Tensor, which: Tensor) -> Tensor:
    """Rows of (image, row, value) by number, int64 (image, picked)."""
    return x.gather(1, which[..., None].expand(-1, -1, x.shape[2]))


def patchify(images: Tensor, patch: int) -> Tensor:
    """(image, height, width, channel) -> (image, patch, value)."""
    x = images.unflatten(2, (-1, patch)).unflatten(1, (-1, patch))
    return x.permute(0, 1, 3, 2, 4, 5).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, grid: tuple[int, int], channels: int = 3) -> Tensor:
    """What ``patchify`` took apart."""
    side = round((patches.shape[2] / channels) ** 0.5)
    x = patches.unflatten(2, (side, side, channels)).unflatten(1, grid)
    return x.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)


def sines(grid: tuple[int, int], width: int) -> Tensor:
    """Fixed codes of patches (row * column, width): of the column, then of the row; sines, then cosines of each."""
    if width % 4:
        raise SchemaError(f"position codes need a width that 4 divides, not {width}")
    rates = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    phases = [place.flatten()[:, None] * rates for place in (columns, rows)]
    return torch.cat([part for phase in phases for part in (phase.sin(), phase.cos())], 1).float()


def initialise(module: nn.Module) -> None:
    """Normal weights of deviation 0.02 and zero biases in every linear layer."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=_INITIAL)
            nn.init.zeros_(layer.bias)


def masked_autoencoding(
    vit: ViT, decoder: Decoder | None, patches: Tensor, hiding: Hiding, standardise: bool = False
) -> tuple[Tensor, Tensor]:
    """CLS tokens (image, width), and of each image the mean squared error over its hidden patches (zeros: no decoder).

    The error is over values of patches as they are given, or of mean 0 and variance 1 in every patch, in float32 or
    better.
    """
    tokens = vit(patches, hiding.seen)
    if decoder is None:
        return tokens[:, 0], torch.zeros(len(tokens), device=tokens.device)
    rebuilt = precise(decoder(tokens, hiding.restore, hiding.hidden))
    wanted = pick(patches, hiding.hidden)
    if standardise:
        variance, mean = torch.var_mean(wanted, 2, keepdim=True)
        wanted = (wanted - mean) / (variance + 1e-6).sqrt()
    return tokens[:, 0], (rebuilt - wanted).square().mean((1, 2))


def in_parts(
    vit: ViT, decoder: Decoder | None, patches: Tensor, hiding: Hiding, parts: int, standardise: bool = False
) -> tuple[Tensor, Tensor]:
    """``masked_autoencoding`` of so many parts of a batch one after the other, with the memory of one.

    The result is that of the whole; going back, each part is computed again (Gao et al. 2021, "GradCache").
    """
    if parts <= 1:
        return masked_autoencoding(vit, decoder, patches, hiding, standardise)
    found: list[tuple[Tensor, Tensor]] = []
    for some in torch.arange(len(patches), device=patches.device).tensor_split(parts):
        cut = Hiding(hiding.seen[some], hiding.hidden[some], hiding.restore[some])
        part = checkpoint(masked_autoencoding, vit, decoder, patches[some], cut, standardise, use_reentrant=False)
        found.append(part)
    cls, errors = zip(*found, strict=True)
    return torch.cat(cls), torch.cat(errors)
