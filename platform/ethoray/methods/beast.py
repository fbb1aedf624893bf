"""BEAST: a masked autoencoder of video frames that also learns which frames follow each other.

After "Animal behavioral analysis and neural encoding with transformer-based self-supervised pretraining" (ICLR 2026)
and its release. Three quarters of the patches of a frame are hidden; the encoder reads the others and a CLS token, the
decoder rebuilds the pixels, and a projection of the CLS token has to find the neighbouring frame among all of the
batch: L = MSE + lambda InfoNCE. Where text and release differ the release is followed: unit vectors, both directions
averaged, the error over hidden patches only. The pairs are the data's (``Windows.pairs``, ``window``).

What the paper compares with are settings: ViT-M has contrast=0, ViT-C reconstruction=0, ViC-MAE's pairs are
pairs="video" of the windows, the residual autoencoder is arch=resnet; PCA is the method pixel_pca. Training starts
from ``weights`` that others published (IN) or that an earlier run left (PT); going on with them on new videos is FT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ethoray.batch import Batch, Spec, Stream
from ethoray.learning import Method
from ethoray.nn import pictures
from ethoray.nn.bootstrap import precise
from ethoray.nn.contrastive import nt_xent
from ethoray.nn.onecycle import Cycle, CycleLearner
from ethoray.nn.parallel import rand_rows
from ethoray.nn.resnet import ResNetAutoencoder
from ethoray.nn.vit import Decoder, Projector, Shape, ViT, hide, in_parts, patchify, unpatchify
from ethoray.nn.vit_weights import load_weights
from ethoray.schema import SchemaError

SPACES = ("cls", "mean", "patches")


@dataclass(frozen=True)
class BEAST(Method):
    """Hyper-parameters; the defaults are ViT-B/16 as published.

    Attributes
    ----------
    arch: "vit", or "resnet" for the residual autoencoder with ``blocks`` and ``latents`` and nothing hidden.
    pixels: height and width that images are brought to; 0 leaves them as they are stored.
    patch, width, depth, heads, hidden: of the encoder. ``decoder`` is its width, depth, heads and hidden.
    mask: share of the patches that is hidden.
    reconstruction, contrast: weights of the two losses; 0 leaves a loss and its head out.
    temperature: of the contrast, between cosines. ``projection`` is the width they are compared in.
    gather: contrast with the pairs of all workers; without it, as in the release, with those of the own worker.
    norm_pixels: rebuild each patch with mean 0 and variance 1.
    augment: "none", "crop" (mirror, crop and pad) or "turn" (also any angle), of each image of a pair, or of both
        alike with ``together``.
    parts: a batch is computed in so many parts, in the memory of one; the result is that of the whole.
    weights: file or folder to start from: ViT-MAE as Hugging Face or its authors publish it, BEAST, or a run of ours.
    spaces: what is embedded: "cls", "mean" of the patches, "patches" one after the other.
    lr: at the peak of the cycle, for ``lr_images`` images a step (0: for any number).
    warmup, start, end: see ``nn.onecycle``. ``layer_decay``, ``decay_all``, ``frozen`` likewise.
    """

    arch: Literal["vit", "resnet"] = "vit"
    pixels: int = 224
    patch: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    decoder: tuple[int, ...] = (512, 8, 16, 2048)
    mask: float = 0.75
    reconstruction: float = 1.0
    contrast: float = 0.03
    temperature: float = 1.0
    projection: int = 768
    gather: bool = True
    norm_pixels: bool = False
    augment: Literal["none", "crop", "turn"] = "crop"
    together: bool = False
    parts: int = 1
    weights: str = ""
    spaces: tuple[str, ...] = ("cls",)
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    latents: int = 12
    lr: float = 5e-5
    lr_images: int = 256
    weight_decay: float = 0.05
    warmup: float = 0.15
    start: float = 0.1
    end: float = 0.1
    layer_decay: float = 1.0
    decay_all: bool = True
    frozen: bool = False

    needs: ClassVar[Literal["keypoints", "images"]] = "images"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        "small": {
            "pixels": 0, "width": 384, "heads": 6, "hidden": 1536, "projection": 384, "lr": 3e-4, "lr_images": 0,
        },
        "tiny": {
            "pixels": 0, "width": 192, "heads": 3, "hidden": 768, "decoder": (128, 4, 4, 512), "projection": 192,
            "blocks": (1, 1, 1, 1), "lr": 1e-3, "lr_images": 0,
        },
    }  # fmt: skip
    """Preset "small" is ViT-S, "tiny" ViT-Ti with a small decoder, for hundreds of steps on a CPU; both see images as
    they are stored."""

    def __post_init__(self) -> None:
        if self.arch not in ("vit", "resnet"):
            raise SchemaError(f"arch is vit or resnet, not {self.arch!r}")
        if self.arch == "resnet" and self.weights:
            raise SchemaError("the residual autoencoder starts afresh; weights are of a vit")
        if self.augment not in pictures.AUGMENTATIONS:
            raise SchemaError(f"augment is one of {', '.join(pictures.AUGMENTATIONS)}, not {self.augment!r}")
        if not 0 <= self.mask < 1 or (self.mask == 0 and self.reconstruction and self.arch == "vit"):
            raise SchemaError(
                f"mask is a share below 1, and above 0 when hidden patches are rebuilt, not {self.mask!r}"
            )
        if min(self.reconstruction, self.contrast) < 0 or not max(self.reconstruction, self.contrast) > 0:
            raise SchemaError("reconstruction and contrast are weights; one of them is above 0, none below")
        if not set(self.spaces) <= set(SPACES) or not self.spaces:
            raise SchemaError(f"spaces are some of {', '.join(SPACES)}, not {', '.join(self.spaces) or 'none'}")
        if len(self.decoder) != 4:
            raise SchemaError(f"a decoder is its width, depth, heads and hidden width, not {self.decoder!r}")
        if self.parts < 1 or not 0 < self.warmup < 1 or not self.temperature > 0:
            raise SchemaError("parts is at least 1, warmup a share between 0 and 1, temperature above 0")

    @property
    def cycle(self) -> Cycle:
        """Settings of the optimiser."""
        return Cycle(
            self.lr, self.lr_images, self.weight_decay, self.warmup, self.start, self.end, self.layer_decay,
            self.decay_all, self.frozen,
        )  # fmt: skip

    def shape(self, spec: Spec) -> Shape:
        """Sizes of the transformer for this input."""
        width, depth, heads, hidden = self.decoder
        return Shape(
            self.size(spec), self.patch, self.width, self.depth, self.heads, self.hidden, (width, depth, heads, hidden)
        )

    def size(self, spec: Spec) -> tuple[int, int]:
        """Height and width that the network sees; raises SchemaError without images."""
        if spec.picture is None:
            raise SchemaError(
                "beast learns from images and this dataset gives keypoints; prepare one with datasets/beast_video.py, "
                'or say Windows(inputs="images") where it holds both'
            )
        return (self.pixels, self.pixels) if self.pixels else spec.picture[:2]

    def build(self, spec: Spec) -> CycleLearner:
        """The network for images of this size; raises SchemaError when patches, pairs or images do not fit."""
        if self.arch == "resnet":
            return ResNetEncoder(self, spec)
        if self.contrast and spec.frames != 2:
            raise SchemaError("contrast needs pairs of images; set contrast=0, or pairs to near or video")
        return BEASTEncoder(self, spec)


class BEASTEncoder(CycleLearner):
    """Space "cls", (batch, time, 1, width), of whole images; "mean" and "patches" if the method says so."""

    def __init__(self, method: BEAST, spec: Spec) -> None:
        super().__init__(method.cycle)
        self.method, self.spec, self.seed = method, spec, spec.seed
        self.shape = method.shape(spec)
        self.cells = self.shape.grid[0] * self.shape.grid[1]
        if int(self.cells * (1 - method.mask)) < 1:
            raise SchemaError(
                f"hiding {method.mask:.0%} of {self.cells} patches leaves none to see; use a smaller patch"
            )
        self.vit = ViT(self.shape)
        self.decoder = Decoder(self.shape) if method.reconstruction else None
        self.projector = Projector(method.width, method.projection) if method.contrast else None

    def calibrate(self, stream: Stream) -> None:
        """Start from the weights that the method names; count the images of a step."""
        super().calibrate(stream)
        if self.method.weights:
            load_weights(self, self.method.weights)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Error of the rebuilt hidden patches, and how hard the pairs of a batch are to find."""
        m, raw = self.method, pictures.images(batch)
        pairs, images = batch.mask.shape[:2]
        move = pictures.moves(pairs, images, m.augment, m.together, raw.device)
        patches = patchify(pictures.prepare(raw, self.shape.pixels, move), m.patch)
        hiding = hide(rand_rows(pairs, images, self.cells, device=raw.device).flatten(0, 1), m.mask)
        cls, errors = in_parts(self.vit, self.decoder, patches, hiding, m.parts, m.norm_pixels)
        terms = {"mse": errors.mean()} if self.decoder is not None else {}
        loss = m.reconstruction * errors.mean()
        if self.projector is not None:
            first, second = self.projector(cls).unflatten(0, (pairs, images)).unbind(1)
            terms["infonce"] = (nt_xent if m.gather else infonce)(first, second, m.temperature)
            loss = loss + m.contrast * terms["infonce"]
        return {"loss": loss, **terms}

    def tokens(self, batch: Batch) -> Tensor:
        """CLS and then the patches, row by row, of whole images: (batch, time, 1 + patch, width)."""
        x = pictures.prepare(pictures.images(batch), self.shape.pixels)
        z: Tensor = self.vit(patchify(x, self.method.patch))
        return precise(z).unflatten(0, batch.mask.shape[:2])

    @torch.no_grad()
    def rebuild(self, batch: Batch, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Images, the same with hidden patches grey, and with these rebuilt: uint8 (image, height, width, 3) each.

        ``seed`` draws what is hidden. Raises SchemaError for an encoder that learned by contrast alone.
        """
        if self.decoder is None:
            raise SchemaError("this encoder learned by contrast alone and rebuilds nothing")
        x = pictures.prepare(pictures.images(batch), self.shape.pixels)
        patches = patchify(x, self.method.patch)
        noise = torch.rand(patches.shape[:2], generator=torch.Generator().manual_seed(seed)).to(x.device)
        hiding = hide(noise, self.method.mask)
        made = precise(self.decoder(self.vit(patches, hiding.seen), hiding.restore))
        if self.method.norm_pixels:
            variance, mean = torch.var_mean(patches, 2, keepdim=True)
            made = made * (variance + 1e-6).sqrt() + mean
        hidden = torch.zeros_like(noise, dtype=torch.bool).scatter(1, hiding.hidden, True)[..., None]
        shown = (patches, patches.masked_fill(hidden, 0), torch.where(hidden, made, patches))
        first, second, third = (pictures.restore(unpatchify(p, self.shape.grid)) for p in shown)
        return first, second, third

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """The spaces of every image."""
        z = self.tokens(batch)
        made = {"cls": z[:, :, :1], "mean": z[:, :, 1:].mean(2, keepdim=True), "patches": z[:, :, None, 1:].flatten(3)}
        return {space: made[space] for space in self.method.spaces}


class ResNetEncoder(CycleLearner):
    """Space "latent", (batch, time, 1, latent): the waist of a residual autoencoder."""

    def __init__(self, method: BEAST, spec: Spec) -> None:
        super().__init__(method.cycle)
        self.method, self.spec, self.seed = method, spec, spec.seed
        self.pixels = method.size(spec)
        self.net = ResNetAutoencoder(self.pixels, method.blocks, 64 * method.width // 768, method.latents)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Mean squared error of all pixels."""
        raw = pictures.images(batch)
        pairs, images = batch.mask.shape[:2]
        move = pictures.moves(pairs, images, self.method.augment, self.method.together, raw.device)
        x = pictures.prepare(raw, self.pixels, move)
        return {"loss": F.mse_loss(precise(self.net.decode(self.net.encode(x))), x)}

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """The latents of every image."""
        z = precise(self.net.encode(pictures.prepare(pictures.images(batch), self.pixels)))
        return {"latent": z.view(*batch.mask.shape[:2], 1, -1)}


def infonce(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """``nn.contrastive.nt_xent`` among the pairs of this worker alone."""
    z = F.normalize(precise(torch.cat([first, second])), dim=1)
    similar = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    partner = torch.arange(len(z), device=z.device).roll(len(first))
    return F.cross_entropy(similar, partner)
