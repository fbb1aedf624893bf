"""T-Perceiver: a few latents read a long, partly hidden window, and every frame asks them what is hidden.

The entry called T-Perceiver in the MABe 2022 challenge (Sun et al. 2023, "MABe22"); the architecture is the Perceiver
IO of Jaegle et al. 2022. Its code was not published. Known are a Perceiver, masked modelling, and extra heads on the
challenge's public labels, which are left out here: no label reaches a method. Z. Partridge's account of an entry, which
we take to be this one or its forebear, adds hand-crafted features as tokens, a sequence body over 512 partly hidden
tokens, a tail at every frame, and a fully connected head of two layers with 128 components.

All sizes below are ours except the 512 frames of a window and the 128 components of a pooled embedding, and so is the
rest. A token is one animal in one frame: its pose and movement, the sum over the other animals of what they are to
it, and the nearest of them. Every animal has latents of its own, all starting from the same learned values, which read
the tokens of all animals; attention knows by a learned bias which are the animal's own. A frame's question is the
animal's own token, which while training may be blank. So each animal has its own embedding, animals may be named in
any order, and any number of them may be there: that is why the space is one of animals, not of the group.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ethoray.batch import Batch, Spec, Stream
from ethoray.learning import Learner, Method
from ethoray.nn.mlp import mlp
from ethoray.nn.spans import Masks, Spans, masked_error, span_masks
from ethoray.nn.tcn import Dropout
from ethoray.nn.transformer import Attention, Block, Scene, Tokens, relation_bias, sinusoid
from ethoray.nn.windows import cut, random_starts, reach, regular, stitched
from ethoray.schema import SchemaError


@dataclass(frozen=True)
class Perceiver(Method):
    """Hyper-parameters of T-Perceiver. Times in seconds.

    Attributes
    ----------
    features: movement features, "velocity", "generic" or "auto".
    window: what the latents read at once; 512 frames at 30 Hz.
    hop: between the windows of an embedding.
    latents: of each animal.
    width, heads, layers, hidden: of the attention among latents, ``hidden`` inside its feed-forward layers.
    components: of the embedding of an animal; mean and range of a group have twice as many.
    crops: random windows of each training sequence.
    share, p, span: of the frames that are hidden; spans of ``span`` seconds, geometric in frames with ``p``.
    warmup: share of the budget over which the learning rate rises; it then falls along a cosine.
    """

    features: str = "auto"
    window: float = 512 / 30
    hop: float = 256 / 30
    latents: int = 64
    width: int = 512
    heads: int = 8
    layers: int = 6
    hidden: int = 2048
    components: int = 64
    dropout: float = 0.1
    crops: int = 2
    share: float = 0.5
    p: float = 0.1
    span: tuple[float, float] = (0.1, 2.0)
    lr: float = 1e-4
    weight_decay: float = 0.01
    warmup: float = 0.05

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        "small": {
            "window": 6.0,
            "hop": 4.0,
            "latents": 16,
            "width": 64,
            "heads": 4,
            "layers": 2,
            "hidden": 128,
            "dropout": 0.0,
            "lr": 2e-3,
        },
    }
    """Preset "paper" fits what was written about the entry. "small" learns in hundreds of steps on a CPU: shorter
    windows, few and narrow latents."""

    def build(self, spec: Spec) -> PerceiverEncoder:
        """The network for this input; raises SchemaError when a window does not fit into a sequence."""
        encoder = PerceiverEncoder(self, spec)
        if encoder.length > spec.frames:
            raise SchemaError(
                f"perceiver reads windows of {self.window:g} s and the training windows are "
                f"{spec.frames / spec.fps:g} s: use longer --seconds or a shorter window"
            )
        return encoder


class Read(nn.Module):
    """x + attention from norm(x) to norm(source), then x + mlp(norm(x)): how a Perceiver reads and answers."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.first, self.source, self.second = (nn.LayerNorm(width) for _ in range(3))
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, source: Tensor, allowed: Tensor | None = None) -> Tensor:
        """(batch, token, width) -> the same shape; see ``Attention`` for ``allowed``."""
        x = x + self.dropout(self.attention(self.first(x), self.source(source), allowed))
        out: Tensor = x + self.dropout(self.mlp(self.second(x)))
        return out


class PerceiverEncoder(Learner):
    """Space "perceiver", (batch, time, individual, component)."""

    position: Tensor

    def __init__(self, method: Perceiver, spec: Spec) -> None:
        super().__init__()
        m = self.method = method
        self.seed, self.lr, self.weight_decay = spec.seed, m.lr, m.weight_decay
        self.length = max(2, round(m.window * spec.fps))
        self.hop = min(max(1, round(m.hop * spec.fps)), self.length)
        self.past, self.future = reach(self.length, self.hop)
        self.spans = Spans(m.share, m.p, *(max(1, round(seconds * spec.fps)) for seconds in m.span))
        self.tokens = Tokens(spec, m.features)
        targets = self.tokens.width + self.tokens.pair_width
        self.content = nn.Linear(targets + self.tokens.pair_width + 1, m.width)
        self.register_buffer("position", sinusoid(torch.arange(self.length), m.width), persistent=False)
        self.blank, self.nothing = (nn.Parameter(0.02 * torch.randn(m.width)) for _ in range(2))
        self.latents = nn.Parameter(torch.randn(m.latents, m.width))
        self.relation = nn.Parameter(torch.tensor([1.0, 0.0, 0.0]).repeat(m.heads, 1))
        self.read = Read(m.width, m.heads, m.hidden, m.dropout)
        self.blocks = nn.ModuleList(Block(m.width, m.heads, m.hidden, m.dropout) for _ in range(m.layers))
        self.answer = Read(m.width, m.heads, m.hidden, m.dropout)
        self.head = nn.Sequential(
            nn.LayerNorm(m.width), nn.Linear(m.width, m.width), nn.GELU(), nn.Linear(m.width, m.components)
        )
        self.restore = mlp((m.components, m.width, targets))

    def calibrate(self, stream: Stream) -> None:
        """Scales of the columns from the first training batches."""
        self.tokens.calibrate(stream)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """The middle of each regular window."""
        keypoints = torch.where(batch.mask[..., None, None], batch.keypoints, torch.nan)
        windows = regular(keypoints, self.length, self.hop)
        z = self.encode(self.tokens(_batch(windows.flatten(0, 1), batch.fps))).unflatten(0, windows.shape[:2])
        return {"perceiver": stitched(z, self.length, self.hop, batch.mask.shape[1]).float()}

    def encode(self, scene: Scene, masks: Masks | None = None) -> Tensor:
        """The embedding (window, time, individual, component).

        ``masks`` has a row for each animal of each window; latents do not read what is blank or not tracked.
        """
        windows, _, animals = scene.there.shape
        x = self.content(torch.cat([scene.own, scene.nearest()[0], scene.social()], -1))
        x = x.transpose(1, 2).flatten(0, 1)  # (window * individual, time, width)
        seen = scene.there.transpose(1, 2).flatten(0, 1)
        x = torch.where(seen[..., None], x, self.blank.to(x.dtype))
        if masks is not None:
            x = masks.apply(x, self.blank)
            seen = seen & ~masks.blanked
        x = x + self.position.to(x.dtype)
        tokens = x.unflatten(0, (windows, animals)).flatten(1, 2)
        tokens = torch.cat([self.nothing.to(x.dtype).expand(windows, 1, -1), tokens], 1)
        latents = self.latents.repeat(animals, 1).expand(windows, -1, -1)
        latents = self.read(latents, tokens, self.bias(seen.reshape(windows, -1), animals))
        latents = latents.unflatten(1, (animals, -1)).flatten(0, 1)
        for block in self.blocks:
            latents = block(latents)
        z: Tensor = self.head(self.answer(x, latents))
        return z.unflatten(0, (windows, animals)).transpose(1, 2)

    def bias(self, keys: Tensor, animals: int) -> Tensor:
        """What is added to the scores of reading, (window, head, latent, token), from keys (window, token).

        In front of the tokens is one that is always there and of no animal, for latents with nothing to read.
        """
        own = torch.arange(animals, device=keys.device)
        tokens = F.pad(own.repeat_interleave(self.length), (1, 0), value=-1)
        learned = relation_bias(self.relation, own.repeat_interleave(len(self.latents)), tokens)
        return learned.masked_fill(~F.pad(keys, (1, 0), value=True)[:, None, None], -math.inf)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Mean squared error of the hidden frames: pose, movement, and the nearest other animal."""
        keypoints = torch.where(batch.mask[..., None, None], batch.keypoints, torch.nan)
        frames, device = batch.mask.shape[1], batch.mask.device
        starts = random_starts(len(batch), frames, self.length, self.method.crops, device)
        scene = self.tokens(_batch(cut(keypoints, starts, self.length), batch.fps))
        windows, _, animals = scene.there.shape
        masks = span_masks(windows * animals, self.length, self.spans, device)
        predicted = self.restore(self.encode(scene, masks))
        chosen = masks.chosen.view(windows, animals, -1).transpose(1, 2)[..., None]
        nearest, known = scene.nearest()
        target = torch.cat([scene.own, nearest], -1)
        error = masked_error(predicted, target, torch.cat([scene.known, known], -1) & chosen)
        return {"loss": error, "masked": error}

    def optimiser(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(groups, weight_decay=self.weight_decay, fused=True)

    def rate(self, fraction: float) -> float:
        """Rising over ``warmup`` of the budget, then along a cosine to a hundredth."""
        rising = min(1.0, (fraction + 1e-3) / max(self.method.warmup, 1e-3))
        return rising * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * fraction)))


def _batch(keypoints: Tensor, fps: float) -> Batch:
    mask = torch.ones(keypoints.shape[:3], dtype=torch.bool, device=keypoints.device)
    return Batch(keypoints, mask, fps)
