"""Product K-means quantiser: a vector becomes one entry of a codebook per group of its channels.

Baevski, Schneider & Auli 2020, "vq-wav2vec: Self-supervised learning of discrete speech representations" (K-means
variant); moving-average codes as in van den Oord et al. 2017, "Neural discrete representation learning",
appendix A.1. Inside, vectors are (group, row, width): all groups are one batched matrix product.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ethoray.nn.codebook import code_counts, kmeans, nearest, perplexity
from ethoray.nn.parallel import gather, shared_mean, total


class Quantised(NamedTuple):
    """What a quantiser answers.

    Attributes
    ----------
    values: (batch, time, feature), the chosen codes; their gradient goes to the vectors as if nothing had been chosen.
    vectors: (batch, time, feature), projected and normalised: what was quantised.
    codes: int64 (batch, time, group), the index of the code in each group.
    loss: mean((values - sg(vectors))^2) + gamma mean((vectors - sg(values))^2) over all workers; the first term is
        left out when the codes follow by moving averages.
    perplexity: (group,), of the codes' use in this batch over all workers: 1 to the number of codes.
    used: (group,), share of the codes that this batch uses.
    """

    values: Tensor
    vectors: Tensor
    codes: Tensor
    loss: Tensor
    perplexity: Tensor
    used: Tensor


class _Latent(torch.autograd.Function):
    """The chosen codes and the summed squared distances to them, in one pass over the difference."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, vectors: Tensor, table: Tensor, rows: Tensor, weights: Tensor | None, gamma: float, learn: bool
    ) -> tuple[Tensor, Tensor]:
        chosen = table.index_select(0, rows.flatten()).view_as(vectors)
        apart = chosen - vectors
        if weights is None:
            squares = apart.flatten().dot(apart.flatten())
        else:
            squares = (apart.square().sum(-1) * weights).sum()
            apart *= weights[..., None]
        ctx.save_for_backward(apart, rows)
        ctx.gamma, ctx.codes = gamma, len(table)
        return chosen, squares * (gamma + learn)

    @staticmethod
    def backward(ctx, values: Tensor, squares: Tensor):  # type: ignore[no-untyped-def]
        apart, rows = ctx.saved_tensors
        vectors = table = None
        if ctx.needs_input_grad[0]:
            vectors = values - apart * (2 * ctx.gamma * squares)
        if ctx.needs_input_grad[1]:
            table = apart.new_zeros(ctx.codes, apart.shape[-1])
            table.index_add_(0, rows.flatten(), apart.flatten(0, 1)).mul_(2 * squares)
        return vectors, table, None, None, None, None


def latent(
    vectors: Tensor, codes: Tensor, indices: Tensor, gamma: float, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Chosen codes (group, row, width), and the sum over rows of |e - sg(z)|^2 + gamma |z - sg(e)|^2.

    The gradient of the chosen codes goes to the vectors (group, row, width) unchanged; that of the sum is
    2 (e - z) to the codes (group or 1, code, width) and 2 gamma (z - e) to the vectors. The first term is left out
    for codes without gradient. ``indices`` int64 (group, row); ``weights`` (group or 1, row) of rows in the sum.
    """
    learn = codes.requires_grad
    if len(codes) > 1:
        indices = indices + torch.arange(len(codes), device=indices.device)[:, None] * codes.shape[1]
    table = codes.flatten(0, 1)
    chosen, squares = _Latent.apply(vectors, table, indices, weights, gamma, learn)
    return chosen, squares


class KMeansQuantizer(nn.Module):
    """Projection of every group, normalisation, nearest code, straight-through gradient; always in float32.

    Parameters
    ----------
    dim: channels of a vector, divisible by ``groups``.
    codes: entries of a codebook.
    shared: one codebook for all groups instead of one each.
    norm: "group" over the channels of a group and all time steps (vq-wav2vec), "layer" over all channels of a
        vector, "none".
    gamma: weight of the commitment term.
    update: "gradient" (codes start at 0.01 N(0, 1) and follow the loss) or "average": they start from k-means, follow
        the mean of their vectors, and a code that is hardly used restarts at a random vector.
    decay: of the moving averages.
    restart: share of the mean use below which a code restarts.
    cosine: compare directions; vectors and codes of a group have length 1.
    time: vectors in a sample, to refuse early what "group" cannot normalise.
    """

    codes: Tensor
    counts: Tensor
    sums: Tensor
    started: Tensor

    def __init__(
        self, dim: int, codes: int, groups: int, *, shared: bool = False,
        norm: Literal["group", "layer", "none"] = "group", gamma: float = 0.25,
        update: Literal["gradient", "average"] = "gradient", decay: float = 0.99, restart: float = 0.1,
        cosine: bool = False, time: int = 1, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        if min(dim, codes, groups) < 1 or dim % groups:
            raise ValueError(f"{dim} channels, {codes} codes, {groups} groups: groups divide channels, all at least 1")
        if norm not in ("group", "layer", "none") or update not in ("gradient", "average"):
            raise ValueError(f"norm is group, layer or none, not {norm!r}; update gradient or average, not {update!r}")
        if not (0 < decay < 1 and 0 <= restart < 1):
            raise ValueError(f"decay must be between 0 and 1 and restart below 1, not {decay!r} and {restart!r}")
        self.width, self.groups, self.norm, self.gamma = dim // groups, groups, norm, gamma
        self.update, self.decay, self.restart, self.cosine, self.seed = update, decay, restart, cosine, seed
        if norm == "group" and self.width * time < 8:
            raise ValueError(
                f"normalising {self.width} channels a group over {time} step leaves almost nothing to tell codes "
                "apart; use at least 8 channels a group, or norm='layer'"
            )
        weight = torch.empty(groups, self.width, self.width).uniform_(-1, 1) / self.width**0.5
        self.projection = nn.Parameter(weight)
        if norm != "none":
            self.scale = nn.Parameter(torch.ones(groups, 1, self.width))
            self.shift = nn.Parameter(torch.zeros(groups, 1, self.width))
        table = 0.01 * torch.randn(1 if shared else groups, codes, self.width)
        if update == "gradient":
            self.codes = nn.Parameter(table)
            return
        self.register_buffer("codes", F.normalize(table, dim=-1) if cosine else table)
        self.register_buffer("counts", torch.zeros(table.shape[:2]))
        self.register_buffer("sums", torch.zeros_like(table))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def forward(self, z: Tensor, valid: Tensor | None = None) -> Quantised:
        """Quantise (batch, time, feature); rows where ``valid`` (batch, time) is False count for nothing.

        Training moves averaged codes after they were used, hence the result is of the codes as they were.
        """
        samples, time, dim = z.shape
        weights = None if valid is None else valid.flatten()
        with torch.autocast(z.device.type, enabled=False):
            vectors = self.vectors(z)
            if self.training and self.update == "average" and not bool(self.started):
                self.start(self._rows(vectors, weights))
            indices = nearest(vectors, self.codes)
            weighing = None if weights is None else weights.to(vectors.dtype)[None]
            values, squares = latent(vectors, self.codes, indices, self.gamma, weighing)
            count = indices.new_tensor(samples * time) if weights is None else weights.sum()
            loss = shared_mean(squares, count * dim)
            counts = total(code_counts(indices, self.codes.shape[1], weights))
            if self.training and self.update == "average":
                self._follow(vectors.detach(), indices, weights)
        used = (counts > 0).float().mean(-1)
        return Quantised(
            self._out(values, samples), self._out(vectors, samples), self._out(indices[..., None], samples),
            loss, perplexity(counts), used,
        )  # fmt: skip

    def vectors(self, z: Tensor) -> Tensor:
        """Projected and normalised, float32 (group, batch * time, width), of (batch, time, feature)."""
        samples, time, _ = z.shape
        y = torch.bmm(z.float().reshape(samples * time, self.groups, self.width).transpose(0, 1), self.projection)
        if self.norm == "group":
            y = F.layer_norm(y.view(self.groups, samples, -1), (time * self.width,)).view_as(y)
        elif self.norm == "layer":
            y = F.layer_norm(y.transpose(0, 1), (self.groups, self.width)).transpose(0, 1)
        if self.norm != "none":
            y = torch.addcmul(self.shift, y, self.scale)
        return F.normalize(y, dim=-1) if self.cosine else y

    def lookup(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Values (..., feature) and codes int64 (..., group) nearest to vectors (..., feature) of ``Quantised``."""
        z = vectors.float().reshape(-1, self.groups, self.width).transpose(0, 1)
        indices = nearest(z, self.codes)
        values, _ = latent(z.contiguous(), self.codes.detach(), indices, 0.0)
        return values.transpose(0, 1).reshape(vectors.shape), indices.T.reshape(*vectors.shape[:-1], self.groups)

    @torch.no_grad()
    def start(self, vectors: Tensor) -> None:
        """Place averaged codes by k-means on (group, row, width), best ten rows a code or more; all workers alike."""
        tables, codes, width = self.codes.shape
        pooled = vectors if tables > 1 or self.groups == 1 else vectors.reshape(1, -1, width)
        if not pooled.shape[1]:
            return
        centres, sizes = kmeans(pooled, codes, self.seed)
        self.codes.copy_(F.normalize(centres, dim=-1) if self.cosine else centres)
        self.counts.copy_(sizes / sizes.mean(-1, keepdim=True))
        self.sums.copy_(self.codes * self.counts[..., None])
        self.started.fill_(True)

    @torch.no_grad()
    def _follow(self, vectors: Tensor, indices: Tensor, weights: Tensor | None) -> None:
        tables, codes, _ = self.codes.shape
        offset = torch.arange(tables, device=indices.device)[:, None] * codes
        kept = vectors if weights is None else vectors * weights[None, :, None]
        counts = code_counts(indices, codes, weights).view(-1, tables, codes).sum(0)
        sums = torch.zeros_like(self.sums).flatten(0, 1)
        sums.index_add_(0, (indices + offset).flatten(), kept.flatten(0, 1))
        counts, sums = total(counts), total(sums.view_as(self.sums))
        pace = (1 - self.decay) * (counts.sum() > 0)
        self.counts.lerp_(counts, pace)
        self.sums.lerp_(sums, pace)
        everyone = self.counts.sum(-1, keepdim=True)
        smooth = (self.counts + 1e-5) / (everyone + codes * 1e-5) * everyone
        moved = self.sums / smooth.clamp(min=1e-12)[..., None]
        self.codes.copy_(F.normalize(moved, dim=-1) if self.cosine else moved)
        dead = self.counts < self.restart * self.counts.mean(-1, keepdim=True)
        if bool(dead.any()):
            self._restart(dead, self._rows(vectors, weights))

    def _restart(self, dead: Tensor, rows: Tensor) -> None:
        tables, codes, width = self.codes.shape
        pooled = rows if tables > 1 or self.groups == 1 else rows.reshape(1, -1, width)
        if not pooled.shape[1]:
            return
        picked = (torch.rand(tables, codes, device=rows.device) * pooled.shape[1]).long()
        fresh = pooled[torch.arange(tables, device=rows.device)[:, None], picked]
        mean = self.counts.mean(-1, keepdim=True).expand_as(self.counts)
        self.codes.copy_(torch.where(dead[..., None], fresh, self.codes))
        self.counts.copy_(torch.where(dead, mean, self.counts))
        self.sums.copy_(torch.where(dead[..., None], fresh * mean[..., None], self.sums))

    def _rows(self, vectors: Tensor, weights: Tensor | None) -> Tensor:
        """The vectors of all workers that count, (group, row, width)."""
        kept = vectors.detach() if weights is None else vectors.detach()[:, weights]
        return gather(kept.transpose(0, 1).contiguous()).transpose(0, 1)

    def _out(self, x: Tensor, samples: int) -> Tensor:
        return x.transpose(0, 1).reshape(samples, -1, self.groups * x.shape[-1])
