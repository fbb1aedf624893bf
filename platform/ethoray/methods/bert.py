"""T-BERT: a masked transformer over the frames of every animal of a short window, two seconds and a half of it.

The entry edhayes1/MABe of the MABe 2022 challenge (Sun et al. 2023, "MABe22"; BERT: Devlin et al. 2019; spans: Joshi
et al. 2020; contrast: Chen et al. 2020, "SimCLR"). A token is one animal in one frame; the sequence is a
summary token (CLS), then the frames of each animal closed by a SEP. Hidden frames are regressed from the embedding,
the relation of two animals from the difference of their embeddings, and two windows of one recording are told from
those of others. The challenge's entry also learned from its public chase labels; here nothing does: no label
reaches a method.

Our choices: where the entry numbers the animals by segment embeddings and shuffles them, attention has a learned bias
for "same animal", "another animal" and "a token of no animal", so that naming the animals in another order permutes
their embeddings, exactly; SEP belongs to its animal; normalisation comes before each block; the columns are those of
``nn.pose``, ``nn.features`` and ``nn.pairs``; no augmentation; frames where an animal is not tracked are blank and
nobody attends to them; the learning rate warms up and decays.
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
from ethoray.nn.contrastive import nt_xent
from ethoray.nn.mlp import mlp
from ethoray.nn.parallel import rand_rows
from ethoray.nn.spans import Masks, Spans, masked_error, span_masks
from ethoray.nn.tcn import Dropout
from ethoray.nn.transformer import Block, Scene, Tokens, relation_bias, sinusoid
from ethoray.nn.windows import cut, reach, regular, stitched
from ethoray.schema import SchemaError


@dataclass(frozen=True)
class BERT(Method):
    """Hyper-parameters of T-BERT. Times in seconds.

    Attributes
    ----------
    features: movement features, "velocity", "generic" or "auto".
    window: what the transformer sees at once; 78 frames at 30 Hz in the paper.
    hop: between the windows of an embedding; half a window in the paper.
    token: what one token holds; 0 is one frame as in the paper.
    width, heads, layers, hidden: of the transformer, ``hidden`` inside its feed-forward layers.
    components: of the embedding of an animal.
    crops: windows cut from each training sequence, in pairs that do not overlap (our choice: one pair).
    share, p, span: of the frames that are hidden; spans of ``span`` seconds, geometric in tokens with ``p``.
    masked, pairs, contrast, triangle: weights of the losses: hidden frames; relations of pairs; two windows of one
        recording; area of the triangle between the animals, for groups of three.
    temperature: of the contrast.
    warmup: share of the budget over which the learning rate rises; it then falls along a cosine (our choice).
    """

    features: str = "auto"
    window: float = 2.6
    hop: float = 1.3
    token: float = 0.0
    width: int = 912
    heads: int = 12
    layers: int = 12
    hidden: int = 3072
    components: int = 42
    dropout: float = 0.2
    crops: int = 2
    share: float = 0.7
    p: float = 0.2
    span: tuple[float, float] = (0.1, 2 / 3)
    masked: float = 1.0
    pairs: float = 0.8
    contrast: float = 0.1
    triangle: float = 0.4
    temperature: float = 0.1
    lr: float = 3e-5
    weight_decay: float = 0.01
    warmup: float = 0.05

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        "small": {
            "hop": 1.8,
            "token": 0.1,
            "width": 96,
            "heads": 4,
            "layers": 2,
            "hidden": 192,
            "dropout": 0.0,
            "crops": 8,
            "lr": 2e-3,
        },
    }
    """Preset "paper" has the sizes of the challenge's entry. "small" learns in hundreds of steps on a CPU: a tenth of
    a second in each token, a narrow and shallow network, more windows a sequence, coarser hops."""

    def build(self, spec: Spec) -> BERTEncoder:
        """The network for this input; raises SchemaError when the windows do not fit into a sequence."""
        if self.crops < 2 or self.crops % 2:
            raise SchemaError(f"bert contrasts pairs of windows: crops must be 2, 4, ..., not {self.crops}")
        encoder = BERTEncoder(self, spec)
        if 2 * encoder.length > spec.frames:
            raise SchemaError(
                f"bert cuts two windows of {self.window:g} s that do not overlap out of training windows of "
                f"{spec.frames / spec.fps:g} s: use longer --seconds or a shorter window"
            )
        return encoder


class BERTEncoder(Learner):
    """Space "bert", (batch, time, individual, component)."""

    def __init__(self, method: BERT, spec: Spec) -> None:
        super().__init__()
        m = self.method = method
        self.seed, self.lr, self.weight_decay = spec.seed, m.lr, m.weight_decay
        self.patch = max(1, round(m.token * spec.fps))
        self.count = max(2, round(m.window * spec.fps / self.patch))
        self.length = self.count * self.patch
        self.hop = min(max(1, round(m.hop * spec.fps)), self.length)
        self.past, self.future = reach(self.length, self.hop)
        shortest, longest = (max(1, round(seconds * spec.fps / self.patch)) for seconds in m.span)
        self.spans = Spans(m.share, m.p, shortest, longest)
        self.tokens = Tokens(spec, m.features)
        columns = self.tokens.width * self.patch
        self.content = nn.Linear(columns, m.width)
        self.social = nn.Linear((self.tokens.pair_width + 1) * self.patch, m.width, bias=False)
        self.blank, self.summary, self.separator = (nn.Parameter(0.02 * torch.randn(m.width)) for _ in range(3))
        self.position = nn.Parameter(sinusoid(torch.arange(self.count), m.width))
        self.relation = nn.Parameter(torch.tensor([1.0, 0.0, 0.0]).repeat(m.layers, m.heads, 1))
        self.blocks = nn.ModuleList(Block(m.width, m.heads, m.hidden, m.dropout) for _ in range(m.layers))
        self.norm, self.dropout = nn.LayerNorm(m.width), Dropout(m.dropout)
        self.out = nn.Linear(m.width, self.patch * m.components)
        self.restore = mlp((m.components, m.width, self.tokens.width))
        group = spec.individuals
        self.meeting = mlp((m.components, m.width, self.tokens.pair_width)) if group > 1 and m.pairs else None
        self.area = mlp((m.components, m.width, 1)) if group == 3 and m.triangle else None
        self.pool = nn.Linear(m.width, 1, bias=False) if m.contrast else None
        self.project = mlp((m.width, m.width, 128)) if m.contrast else None

    def calibrate(self, stream: Stream) -> None:
        """Scales of the columns from the first training batches."""
        self.tokens.calibrate(stream)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """The middle of each regular window."""
        keypoints = torch.where(batch.mask[..., None, None], batch.keypoints, torch.nan)
        windows = regular(keypoints, self.length, self.hop)
        _, hidden, _ = self.encode(self.tokens(_batch(windows.flatten(0, 1), batch.fps)))
        z = self.frames(hidden).unflatten(0, windows.shape[:2])
        return {"bert": stitched(z, self.length, self.hop, batch.mask.shape[1]).float()}

    def encode(self, scene: Scene, masks: Masks | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """States of CLS (window, width) and of the tokens (window, token, individual, width), and who is there.

        ``masks`` has a row for each animal of each window.
        """
        own, social = self._patches(scene.own), self._patches(scene.social())
        there = scene.there.unflatten(1, (self.count, self.patch)).any(2)  # (window, token, individual)
        windows, count, animals = there.shape
        x = (self.content(own) + self.social(social)).transpose(1, 2).flatten(0, 1)
        rows = there.transpose(1, 2).flatten(0, 1)
        if masks is not None:
            x = masks.apply(x, self.blank)
        x = torch.where(rows[..., None], x, self.blank.to(x.dtype)) + self.position
        x = torch.cat([x, self.separator.to(x.dtype).expand(len(x), 1, -1)], 1)
        x = x.unflatten(0, (windows, animals)).flatten(1, 2)
        x = self.dropout(torch.cat([self.summary.to(x.dtype).expand(windows, 1, -1), x], 1))
        keys = torch.cat([rows, rows.any(1, keepdim=True)], 1).view(windows, -1)
        keys = F.pad(keys, (1, 0), value=True)
        for layer, block in enumerate(self.blocks):
            x = block(x, self.bias(layer, keys, animals))
        x = self.norm(x)
        states = x[:, 1:].unflatten(1, (animals, count + 1))[:, :, :-1].transpose(1, 2)
        return x[:, 0], states, there

    def bias(self, layer: int, keys: Tensor, animals: int) -> Tensor:
        """What a layer adds to its scores, (window, head, token, token), from keys (window, token)."""
        owner = torch.arange(animals, device=keys.device).repeat_interleave(self.count + 1)
        owner = F.pad(owner, (1, 0), value=-1)
        return relation_bias(self.relation[layer], owner, owner).masked_fill(~keys[:, None, None], -math.inf)

    def frames(self, states: Tensor) -> Tensor:
        """The embedding (window, time, individual, component) from the states of the tokens."""
        z: Tensor = self.out(states).unflatten(-1, (self.patch, -1))
        return z.transpose(2, 3).flatten(1, 2)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Hidden frames, relations of pairs, contrast of windows, and the triangle of three animals."""
        m = self.method
        scene = self.tokens(self.crops(batch))
        windows, _, animals, _ = scene.own.shape
        masks = span_masks(windows * animals, self.count, self.spans, scene.own.device)
        summary, states, there = self.encode(scene, masks)
        z = self.frames(states)
        chosen = masks.chosen.view(windows, animals, -1).transpose(1, 2).repeat_interleave(self.patch, 1)
        terms = {"masked": masked_error(self.restore(z), scene.own, scene.known & chosen[..., None])}
        loss = m.masked * terms["masked"]
        if self.meeting is not None:
            terms["pairs"] = pair_error(self.meeting, z, scene)
            loss = loss + m.pairs * terms["pairs"]
        if self.area is not None:
            terms["triangle"] = self.triangle_loss(z, scene)
            loss = loss + m.triangle * terms["triangle"]
        if self.pool is not None:
            terms["contrast"] = self.contrast_loss(summary, states, there)
            loss = loss + m.contrast * terms["contrast"]
        return {"loss": loss, **terms}

    def crops(self, batch: Batch) -> Batch:
        """Random windows of every sequence as a batch of their own: pairs in order of time that do not overlap."""
        frames, device = batch.mask.shape[1], batch.mask.device
        drawn = rand_rows(len(batch), self.method.crops // 2, 2, device=device) * (frames - 2 * self.length + 1)
        starts = drawn.long().sort(2).values + self.length * torch.arange(2, device=device)
        starts = starts.flatten(1)
        keypoints = torch.where(batch.mask[..., None, None], batch.keypoints, torch.nan)
        return _batch(cut(keypoints, starts, self.length), batch.fps)

    def contrast_loss(self, summary: Tensor, states: Tensor, there: Tensor) -> Tensor:
        """SimCLR between the two windows of each pair, pooled by attention; other recordings are the negatives."""
        assert self.pool is not None and self.project is not None
        everything = torch.cat([summary[:, None], states.flatten(1, 2)], 1)
        seen = F.pad(there.flatten(1), (1, 0), value=True)
        scores = self.pool(everything)[..., 0].float().masked_fill(~seen, -math.inf)
        pooled = (scores.softmax(1)[..., None] * everything).sum(1)
        views = self.project(pooled).unflatten(0, (-1, self.method.crops // 2, 2))
        tracked = there.any(2).any(1).float().view(views.shape[:3]).prod(2)
        terms = [
            nt_xent(views[:, k, 0], views[:, k, 1], self.method.temperature, tracked[:, k])
            for k in range(self.method.crops // 2)
        ]
        return torch.stack(terms).mean()

    def triangle_loss(self, z: Tensor, scene: Scene) -> Tensor:
        """Squared error of the area between three animals, from the sum of their embeddings."""
        assert self.area is not None
        pose = self.tokens.pose
        first = pose.width - self.tokens.points - self.tokens.spec.space
        place = scene.own[..., first : first + self.tokens.spec.space].float()
        one, two = place[:, :, 1] - place[:, :, 0], place[:, :, 2] - place[:, :, 0]
        gram = (one * one).sum(-1) * (two * two).sum(-1) - (one * two).sum(-1) ** 2
        area = 0.5 * gram.clamp(min=0).sqrt()
        known = scene.there.all(2)
        return masked_error(self.area(z.sum(2))[..., 0], area, known)

    def _patches(self, x: Tensor) -> Tensor:
        """(window, time, individual, column) -> (window, token, individual, patch * column)."""
        return x.unflatten(1, (self.count, self.patch)).transpose(2, 3).flatten(3)

    def optimiser(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """AdamW, as the challenge's entry."""
        return torch.optim.AdamW(groups, weight_decay=self.weight_decay, fused=True)

    def rate(self, fraction: float) -> float:
        """Rising over ``warmup`` of the budget, then along a cosine to a hundredth."""
        rising = min(1.0, (fraction + 1e-3) / max(self.method.warmup, 1e-3))
        return rising * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * fraction)))


def pair_error(meeting: nn.Module, z: Tensor, scene: Scene) -> Tensor:
    """Squared error of the features of ordered pairs, from the difference of their embeddings.

    ``z`` is (window, time, individual, component); every frame counts in which both are tracked.
    """
    me, other = (~torch.eye(z.shape[2], dtype=torch.bool, device=z.device)).nonzero().unbind(1)
    predicted = meeting(z[:, :, me] - z[:, :, other])
    return masked_error(predicted, scene.pairs[:, :, me, other], scene.pairs_known[:, :, me, other])


def _batch(keypoints: Tensor, fps: float) -> Batch:
    mask = torch.ones(keypoints.shape[:3], dtype=torch.bool, device=keypoints.device)
    return Batch(keypoints, mask, fps)
