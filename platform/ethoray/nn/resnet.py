"""A residual autoencoder of images with a narrow waist (He et al. 2016; the baseline of BEAST).

The encoder is a ResNet of basic blocks that ends in a few numbers; the decoder mirrors it. Group normalisation instead
of batch normalisation is our choice: what an image becomes does not depend on the others of its batch.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ethoray.schema import SchemaError

STRIDE = 32
"""How many times smaller the last feature map is."""


class Residual(nn.Module):
    """shortcut(x) + conv(relu(norm(conv(relu(norm(x))))); ``scale`` 2 halves the image, 0.5 doubles it."""

    def __init__(self, inputs: int, outputs: int, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        stride = 2 if scale == 2 else 1
        self.norm1, self.norm2 = _norm(inputs), _norm(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(image, channel, height, width) -> the same of another size."""
        y = F.relu(self.norm1(x))
        if self.scale == 0.5:
            x, y = (F.interpolate(z, scale_factor=2.0, mode="nearest") for z in (x, y))
        y = self.conv2(F.relu(self.norm2(self.conv1(y))))
        out: Tensor = self.shortcut(x) + y
        return out


class ResNetAutoencoder(nn.Module):
    """Images (image, height, width, 3) to ``latents`` numbers and back.

    ``blocks`` are the residual blocks of the four stages: (2, 2, 2, 2) is ResNet-18, (3, 4, 6, 3) is ResNet-34;
    ``width`` channels in the first stage, twice as many in each that follows.
    """

    def __init__(self, pixels: tuple[int, int], blocks: tuple[int, ...], width: int, latents: int) -> None:
        super().__init__()
        if pixels[0] % STRIDE or pixels[1] % STRIDE or len(blocks) != 4:
            raise SchemaError(
                f"a residual autoencoder wants four stages and images whose sides {STRIDE} divides, not {blocks} and "
                f"{pixels[0]} x {pixels[1]} pixels; set pixels"
            )
        widths = [width * 2**stage for stage in range(4)]
        down: list[nn.Module] = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.MaxPool2d(3, 2, 1)]
        up: list[nn.Module] = []
        inputs = width
        for stage, (count, outputs) in enumerate(zip(blocks, widths, strict=True)):
            down += [
                Residual(inputs if i == 0 else outputs, outputs, 2 if i == 0 and stage else 1) for i in range(count)
            ]
            mirrored = [Residual(outputs, outputs) for _ in range(count - 1)]
            up = [*mirrored, Residual(outputs, inputs, 0.5 if stage else 1), *up]
            inputs = outputs
        self.small = (widths[-1], pixels[0] // STRIDE, pixels[1] // STRIDE)
        size = self.small[0] * self.small[1] * self.small[2]
        self.down = nn.Sequential(*down, _norm(widths[-1]), nn.ReLU())
        self.narrow, self.widen = nn.Linear(size, latents), nn.Linear(latents, size)
        last = nn.ConvTranspose2d(width, 3, 8, 4, 2)
        self.up = nn.Sequential(*up, _norm(width), nn.ReLU(), last)

    def encode(self, x: Tensor) -> Tensor:
        """(image, height, width, 3) -> (image, latent)."""
        out: Tensor = self.narrow(self.down(x.permute(0, 3, 1, 2)).flatten(1))
        return out

    def decode(self, z: Tensor) -> Tensor:
        """(image, latent) -> (image, height, width, 3)."""
        out: Tensor = self.up(self.widen(z).unflatten(1, self.small)).permute(0, 2, 3, 1)
        return out


def _norm(channels: int) -> nn.GroupNorm:
    groups = max(g for g in (1, 2, 4, 8, 16, 32) if channels % g == 0)
    return nn.GroupNorm(groups, channels)
