"""SSTFormer, the spatio-temporal skeleton transformer of MSAE: joints of a few adjacent frames attend to each other.

After STTFormer (Qiu et al. 2022, "Spatio-Temporal Tuples Transformer for Skeleton-Based Action Recognition"): the
sequence is cut into segments of n frames, all joints of a segment attend jointly, and a convolution links the
segments (inter-frame feature aggregation, IFFA). MSAE adds convolutional attention gates, of which nothing but the
name is published: theirs here are those of CBAM (Woo et al. 2018). Tensors are (row, segment, token, feature); a
token is one visible joint of one frame, and rows never mix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ethoray.nn.masking import Cells, everything, mask, unmask
from ethoray.nn.parallel import rand_rows
from ethoray.nn.transformer import sinusoid

_NOWHERE = -1e4  # added to the score of a token that holds nothing; finite, so that an empty segment stays finite


@dataclass(frozen=True)
class Segments:
    """Which token is what, (row, segment, token).

    Attributes
    ----------
    slot: int64, frame within the segment * number of joints + joint.
    known: bool, or None when every token holds something.
    """

    slot: Tensor
    known: Tensor | None

    @classmethod
    def of(cls, cells: Cells, length: int, whole: bool | None = None) -> Segments:
        """Segments of ``length`` consecutive kept frames; ``whole`` says that all cells are known, if you know."""
        rows, frames, joints = cells.joints.shape
        place = torch.arange(frames, device=cells.joints.device) % length
        slot = (place[:, None] * cells.joint + cells.joints).view(rows, frames // length, length * joints)
        whole = bool(cells.known.all()) if whole is None else whole
        return cls(slot, None if whole else cells.known.reshape(slot.shape))

    def mean(self, x: Tensor) -> Tensor:
        """Mean over the tokens of each segment, (row, segment, feature); zero for an empty one."""
        if self.known is None:
            return x.mean(2)
        there = self.known[..., None].to(x.dtype)
        return (x * there).sum(2) / there.sum(2).clamp(min=1)

    def total(self, x: Tensor) -> Tensor:
        """Mean over all tokens of a row, (row, feature); zero when there is none."""
        if self.known is None:
            return x.mean((1, 2))
        there = self.known[..., None].to(x.dtype)
        return (x * there).sum((1, 2)) / there.sum((1, 2)).clamp(min=1)


class STSE(nn.Module):
    """Spatio-temporal skeleton embedding: W x + b + P_time[t] + P_joint[v]; without inputs the places alone."""

    def __init__(self, inputs: int, frames: int, joints: int, width: int) -> None:
        super().__init__()
        self.point = nn.Linear(inputs, width) if inputs else nn.Identity()
        even = width + width % 2
        self.time = nn.Parameter(0.5 * sinusoid(torch.arange(frames), even)[:, :width].contiguous())
        self.joint = nn.Parameter(0.5 * torch.randn(joints, width))

    def forward(self, x: Tensor, cells: Cells) -> Tensor:
        """Tokens of kept cells ``x`` (row, kept frame, kept joint, space)."""
        token: Tensor = self.point(x) + self.time[cells.frames][:, :, None] + self.joint[cells.joints]
        return token

    def places(self) -> Tensor:
        """What the codes of all cells say about their place, (time, joint, width)."""
        return self.time[:, None] + self.joint


class SegmentAttention(nn.Module):
    """STGA with softmax: tokens attend to the tokens of their segment."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} does not divide among {heads} heads")
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, segments: Segments) -> Tensor:
        """(row, segment, token, width) -> the same shape."""
        rows, count, tokens, _ = x.shape
        parts = self.query_key_value(x).view(rows * count, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = None
        if segments.known is not None:
            bias = (~segments.known).to(parts.dtype).mul(_NOWHERE).view(rows * count, 1, 1, tokens)
        y = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], attn_mask=bias)
        out: Tensor = self.out(y.transpose(1, 2).reshape(x.shape))
        return out


class TupleAttention(nn.Module):
    """STGA as in STTFormer: one map a head for all segments of a row, tanh instead of softmax, on the raw tokens.

    A = alpha * tanh(sum over segments and features of q_u k_v / (features * segments)) + A0, y_v = sum_u A_uv x_u,
    where u and v are slots (frame within the segment, joint): a masked joint leaves its slot empty and adds nothing,
    so that the shared map keeps its meaning under random masks (our reading). Heads are concatenated, and a
    convolution over ``kernel`` neighbouring slots brings them back to the width.
    """

    def __init__(self, width: int, heads: int, slots: int, kernel: int = 1) -> None:
        super().__init__()
        self.heads, self.slots, self.size = heads, slots, max(width // 4, 1)
        self.query_key = nn.Linear(width, 2 * heads * self.size)
        self.strength = nn.Parameter(torch.ones(heads))
        self.constant = nn.Parameter(torch.full((heads, slots, slots), 1 / slots))
        self.out = nn.Conv1d(heads * width, width, kernel, padding=kernel // 2)

    def maps(self, dense: Tensor, there: Tensor) -> Tensor:
        """A of (row, segment, slot, width) and 1 or 0 for each slot: (row, head, slot, slot)."""
        q, k = (self.query_key(dense) * there).unflatten(-1, (2, self.heads, self.size)).unbind(3)
        score = torch.einsum("rsuhd,rsvhd->rhuv", q, k) / (self.size * dense.shape[1])
        return self.strength[:, None, None] * torch.tanh(score) + self.constant

    def forward(self, x: Tensor, segments: Segments) -> Tensor:
        """(row, segment, token, width) -> the same shape."""
        rows, count, _, width = x.shape
        index = segments.slot[..., None]
        one = torch.ones_like(x[..., :1]) if segments.known is None else segments.known[..., None].to(x.dtype)
        there = x.new_zeros(rows, count, self.slots, 1).scatter(2, index, one)
        dense = x.new_zeros(rows, count, self.slots, width).scatter(2, index.expand_as(x), x * one)
        y = torch.einsum("rhuv,rsuc->rsvhc", self.maps(dense, there), dense)
        mixed = self.out((y.flatten(3) * there).flatten(0, 1).transpose(1, 2)).transpose(1, 2)
        return mixed.view(rows, count, self.slots, width).gather(2, index.expand_as(x))


class Aggregation(nn.Module):
    """IFFA: a convolution of three over segments, LeakyReLU 0.1; to be added to the tokens.

    ``by`` "mean" convolves the segments' mean tokens, which needs no order of tokens (our choice: masked positions
    of different segments are different joints); "position" convolves equal positions, as STTFormer does.
    """

    def __init__(self, width: int, by: str) -> None:
        super().__init__()
        self.by = by
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv1d(width, width, 3, padding=1)

    def forward(self, x: Tensor, segments: Segments) -> Tensor:
        """(row, segment, token, width) -> (row, segment, 1 or token, width)."""
        if self.by == "mean":
            there = None if segments.known is None else segments.known.any(-1, keepdim=True)
            y = self.norm(segments.mean(x))
            y = y if there is None else y * there
            return F.leaky_relu(self.conv(y.transpose(1, 2)), 0.1).transpose(1, 2)[:, :, None]
        y = self.norm(x)
        y = y if segments.known is None else y * segments.known[..., None]
        left, middle, right = (y @ part.T for part in self.conv.weight.unbind(-1))
        linked = middle + F.pad(left, (0, 0, 0, 0, 1, 0))[:, :-1] + F.pad(right, (0, 0, 0, 0, 0, 1))[:, 1:]
        return F.leaky_relu(linked + self.conv.bias, 0.1)


class Gates(nn.Module):
    """Convolutional attention: a gate a channel and a gate a segment, from means over what is visible.

    Channels: a bottleneck of a quarter; segments: a convolution of seven over (mean, maximum) of the channels.
    Twice the sigmoid, so that a gate that knows nothing changes nothing (our choice).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        narrow = max(width // 4, 1)
        self.channel = nn.Sequential(nn.Linear(width, narrow), nn.GELU(), nn.Linear(narrow, width))
        self.segment = nn.Conv1d(2, 1, 7, padding=3)

    def forward(self, x: Tensor, segments: Segments) -> Tensor:
        """The factor on (row, segment, token, width): (row, segment, 1, width)."""
        means = segments.mean(x)
        channel = self.channel(segments.total(x)).sigmoid()
        segment = self.segment(torch.stack([means.mean(-1), means.amax(-1)], 1)).sigmoid()[:, 0]
        return 4 * (channel[:, None] * segment[..., None])[:, :, None]


class SSTLayer(nn.Module):
    """Segment attention, aggregation over segments and an MLP, each added to what comes in; then the gates."""

    def __init__(self, width: int, heads: int, slots: int, attention: str, by: str, kernel: int, drop: float) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention: SegmentAttention | TupleAttention
        if attention == "softmax":
            self.attention = SegmentAttention(width, heads)
        else:
            self.attention = TupleAttention(width, heads, slots, kernel)
        self.aggregation = Aggregation(width, by)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.gates = Gates(width)
        self.drop = drop

    def forward(self, x: Tensor, segments: Segments) -> Tensor:
        """(row, segment, token, width) -> the same shape."""
        x = x + self._path(self.attention(self.first(x), segments))
        x = x + self._path(self.aggregation(x, segments))
        x = x + self._path(self.mlp(self.second(x)))
        return x * self.gates(x, segments)

    def _path(self, y: Tensor) -> Tensor:
        """Leave a branch out for some rows while training (drop path)."""
        if not self.training or self.drop == 0:
            return y
        keep = rand_rows(len(y), 1, 1, 1, device=y.device) >= self.drop
        return y * keep / (1 - self.drop)


class SSTFormer(nn.Module):
    """A stack of layers whose widths may change, and a normalisation at the end."""

    def __init__(
        self,
        inputs: int,
        widths: Sequence[int],
        heads: int,
        slots: int,
        attention: str = "softmax",
        by: str = "mean",
        kernel: int = 1,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        if attention not in ("softmax", "stt") or by not in ("mean", "position"):
            raise ValueError(f"attention is softmax or stt, by is mean or position, not {attention!r} and {by!r}")
        before = (inputs, *widths[:-1])
        self.resize = nn.ModuleList(
            nn.Linear(a, b) if a != b else nn.Identity() for a, b in zip(before, widths, strict=True)
        )
        self.layers = nn.ModuleList(SSTLayer(w, heads, slots, attention, by, kernel, drop) for w in widths)
        self.norm = nn.LayerNorm(widths[-1])

    def forward(self, x: Tensor, segments: Segments) -> Tensor:
        """(row, segment, token, inputs) -> (row, segment, token, widths[-1])."""
        for resize, layer in zip(self.resize, self.layers, strict=True):
            x = layer(resize(x), segments)
        out: Tensor = self.norm(x)
        return out


class MaskedAutoencoder(nn.Module):
    """An encoder of visible cells and a decoder of all cells, where a mask token stands for what is hidden."""

    def __init__(
        self, token: STSE, encoder: SSTFormer, place: STSE, decoder: SSTFormer, head: nn.Linear, length: int
    ) -> None:
        super().__init__()
        self.token, self.encoder, self.place, self.decoder, self.head = token, encoder, place, decoder, head
        self.length = length
        width = place.joint.shape[1]
        self.narrow = nn.Linear(encoder.norm.normalized_shape[0], width)
        self.hidden = nn.Parameter(0.02 * torch.randn(width))
        nn.init.normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)

    def encode(self, features: Tensor, cells: Cells) -> Tensor:
        """The visible ones of all cells' features (row, time, joint, feature) -> (row, segment, token, width)."""
        segments = Segments.of(cells, self.length)
        known = torch.where(cells.known[..., None], mask(features, cells), 0.0)
        out: Tensor = self.encoder(self.token(known, cells).view(*segments.slot.shape, -1), segments)
        return out

    def forward(self, features: Tensor, cells: Cells) -> Tensor:
        """What is told of all cells, float32 (row, time, joint, space).

        Features of hidden cells reach the decoder when its embedding has inputs, so they may only hold what
        follows from visible ones.
        """
        grid = unmask(self.narrow(self.encode(features, cells)).view(*cells.joints.shape, -1), cells)
        visible = cells.visible()
        tokens = torch.where(visible[..., None], grid, self.hidden.to(grid.dtype)) + self.place.places()
        if isinstance(self.place.point, nn.Linear):
            tokens = tokens + self.place.point(features)
        segments = Segments.of(everything(torch.ones_like(visible)), self.length, whole=True)
        told: Tensor = self.head(self.decoder(tokens.view(*segments.slot.shape, -1), segments))
        return told.view(*tokens.shape[:3], -1).float()
