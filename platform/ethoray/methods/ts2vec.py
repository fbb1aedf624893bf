"""TS2Vec: two overlapping crops of a movement, seen in different context and through different masks, shall agree
where they overlap, at every scale of time.

Yue, Wang, Duan, Yang, Huang, Tong & Xu, "TS2Vec: Towards universal representation of time series", AAAI 2022. Each
animal is a series of its own. A frame is projected, hidden at random while training, and passed through dilated
convolutions that look both ways; the hierarchical loss contrasts series at the same time (instance) and times of
the same series (temporal). What embeds is the mean of the weights over training. On the mice of MABe the instance
loss alone did best (Azabou et al. 2023), so it is the default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ethoray.batch import Batch, Spec, Stream
from ethoray.learning import Learner, Method
from ethoray.nn.calibration import survey
from ethoray.nn.features import Movement, features
from ethoray.nn.hierarchical import hierarchical_loss
from ethoray.nn.momentum import Average
from ethoray.nn.parallel import rand_rows
from ethoray.nn.tcn import Dropout
from ethoray.nn.windows import cut, random_starts
from ethoray.schema import SchemaError

Mask = Literal["binomial", "continuous", "all_true", "all_false", "mask_last"]
ALPHA = {"I": 1.0, "T": 0.0, "IT": 0.5}
SPANS, SPAN = 5, 0.1


@dataclass(frozen=True)
class TS2Vec(Method):
    """Hyper-parameters of TS2Vec. Times in seconds.

    Attributes
    ----------
    features: "velocity" (36 velocities of the 12-keypoint mouse), "generic" (any skeleton), or "auto".
    mode: "I" contrasts instances only, "T" times only, "IT" both equally, as the TS2Vec paper does.
    hidden: width of the projected frames and of the blocks.
    outputs: width of the embedding; 64 (the paper has 320), because mean and range over animals double it and the
        MABe challenge allows 128.
    depth: residual blocks before the last one; block i has dilation ``2 ** i``. Ten give 8189 frames in all.
    kernel: of the convolutions, odd.
    dropout: of the embedding while training.
    mask: which frames training hides: each with probability a half ("binomial"), five spans of a tenth
        ("continuous"), none ("all_true"), all ("all_false") or the last one ("mask_last").
    temporal_unit: the level of pooling at which times begin to contrast; crops overlap by ``2 ** (unit + 1)`` frames
        or more.
    max_length: longer windows are cut to a random piece of this length (the paper's 3000 frames at 30 Hz).
    clip: bound on normalised features (our choice, as the inputs are: BAMS's features on their scales).
    """

    features: str = "auto"
    mode: Literal["I", "T", "IT"] = "I"
    hidden: int = 64
    outputs: int = 64
    depth: int = 10
    kernel: int = 3
    dropout: float = 0.1
    mask: Mask = "binomial"
    temporal_unit: int = 0
    max_length: float = 100.0
    lr: float = 1e-3
    weight_decay: float = 0.01
    clip: float = 10.0
    calibration: int = 4

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        "small": {"hidden": 32, "outputs": 32, "depth": 5, "max_length": 20.0, "lr": 2e-3},
    }
    """Preset "paper" is what the paper says, but for the width of the embedding. "small" learns in hundreds of steps
    on a CPU: narrower, with a reach of four seconds either way at 30 Hz, and pieces of 20 s."""

    def __post_init__(self) -> None:
        if self.mode not in ALPHA:
            raise SchemaError(f"mode is I, T or IT, not {self.mode!r}")
        if self.mask not in get_args(Mask):
            raise SchemaError(f"mask is one of {', '.join(get_args(Mask))}, not {self.mask!r}")
        if self.kernel % 2 == 0:
            raise SchemaError(f"the kernel must be odd to look both ways equally, not {self.kernel}")

    def reach(self) -> int:
        """Frames that an embedding looks to either side."""
        return (self.kernel - 1) * (2 ** (self.depth + 1) - 1)

    def build(self, spec: Spec) -> TS2VecEncoder:
        """The network for this input; raises SchemaError when a window is too short for two crops to overlap."""
        shortest = 2 ** (self.temporal_unit + 1)
        frames = min(round(self.max_length * spec.fps), spec.frames)
        if frames < shortest:
            raise SchemaError(
                f"windows of {frames / spec.fps:g} s are shorter than the overlap of two crops, "
                f"{shortest / spec.fps:g} s: use longer --seconds and max_length, or a smaller temporal_unit"
            )
        return TS2VecEncoder(self, spec)


class TS2VecEncoder(Learner):
    """Space "ts2vec": (batch, time, individual, outputs)."""

    scale: Tensor

    def __init__(self, method: TS2Vec, spec: Spec) -> None:
        super().__init__()
        self.method, self.spec, self.seed = method, spec, spec.seed
        self.lr, self.weight_decay = method.lr, method.weight_decay
        self.features = features(method.features, spec)
        self.net = Network(self.features.width, method)
        self.average = Average(self.net)
        self.frames = round(method.max_length * spec.fps)
        self.past, self.future = method.reach() + self.features.past, method.reach()
        self.register_buffer("scale", torch.ones(self.features.width))

    def calibrate(self, stream: Stream) -> None:
        """Column scales from the first training batches."""
        seen = survey(stream, self.features, self.spec, self.method.calibration, self.device())
        self.scale.copy_(seen.scale(99.5))

    def normalise(self, movement: Movement) -> Tensor:
        """Network input (sequence, time, feature): scaled features, zero where invalid."""
        return movement.scaled(self.scale, self.method.clip)[..., :-1]

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """The space of every animal, by the averaged weights."""
        movement = self.features(batch)
        windows, frames, animals = batch.mask.shape
        z = self.average.copy(self.normalise(movement), movement.valid)
        return {"ts2vec": z.view(windows, animals, frames, -1).transpose(1, 2)}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The hierarchical loss of the frames that two crops share; animals that are not there do not count."""
        movement = self.features(batch)
        x, valid = self.normalise(movement), movement.valid
        if x.shape[1] > self.frames:
            starts = random_starts(len(x), x.shape[1], self.frames, 1, x.device)
            x, valid = cut(x, starts, self.frames), cut(valid, starts, self.frames)
        m = self.method
        crop = draw_crop(x.shape[1], 2 ** (m.temporal_unit + 1))
        offset = crop.offsets(len(x), x.device)
        early, late = offset + crop.outer_left, offset + crop.left
        before, after = crop.right - crop.outer_left, crop.outer_right - crop.left
        first = self.view(cut(x, early, before), cut(valid, early, before))[:, -crop.length :]
        second = self.view(cut(x, late, after), cut(valid, late, after))[:, : crop.length]
        seen = cut(valid, late, crop.length).any(1)
        return {"loss": hierarchical_loss(first, second, ALPHA[m.mode], m.temporal_unit, weights=seen)}

    def view(self, x: Tensor, valid: Tensor) -> Tensor:
        """Embed crops (row, time, feature) with frames hidden: (row, time, outputs)."""
        z: Tensor = self.net(x, valid & shown(self.method.mask, len(x), x.shape[1], x.device))
        return z

    def after_step(self, step: int) -> None:
        """Count the new weights into the average."""
        self.average.add(self.net)

    def optimiser(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """AdamW, as published."""
        return torch.optim.AdamW(groups, weight_decay=self.weight_decay, fused=True)


class Network(nn.Module):
    """Frame-wise projection, hidden frames set to zero, and dilated residual blocks."""

    def __init__(self, inputs: int, method: TS2Vec) -> None:
        super().__init__()
        self.project = nn.Linear(inputs, method.hidden)
        widths = [method.hidden] * (method.depth + 1) + [method.outputs]
        self.blocks = nn.ModuleList(
            Block(widths[i], widths[i + 1], method.kernel, 2**i, last=i == method.depth)
            for i in range(method.depth + 1)
        )
        self.dropout = Dropout(method.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(row, time, inputs) and bool (row, time), True where shown -> (row, time, outputs)."""
        x = torch.where(mask[..., None], self.project(x), 0.0)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.dropout(x)
        return out


class Block(nn.Module):
    """Two convolutions, each after a GELU, and a shortcut (linear in the last block or when the width changes)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int, last: bool) -> None:
        super().__init__()
        self.first = _conv(inputs, outputs, kernel, dilation)
        self.second = _conv(outputs, outputs, kernel, dilation)
        self.shortcut = nn.Linear(inputs, outputs) if last or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(row, time, inputs) -> (row, time, outputs)."""
        y = _convolved(self.second, F.gelu(_convolved(self.first, F.gelu(x))))
        return y + self.shortcut(x)


def _conv(inputs: int, outputs: int, kernel: int, dilation: int) -> nn.Conv2d:
    padding = dilation * (kernel - 1) // 2
    return nn.Conv2d(inputs, outputs, (1, kernel), padding=(0, padding), dilation=(1, dilation))


def _convolved(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution over time of (row, time, feature), which is channels-last in memory."""
    image = x.unsqueeze(1).permute(0, 3, 1, 2)
    weight = conv.weight.contiguous(memory_format=torch.channels_last)
    out = F.conv2d(image, weight, conv.bias, padding=conv.padding, dilation=conv.dilation)
    return out.permute(0, 2, 3, 1).squeeze(1)


@dataclass(frozen=True)
class Crop:
    """Two crops of one window: [outer_left, right) and [left, outer_right), which share [left, right). In frames.

    Attributes
    ----------
    frames: length of the window.
    """

    frames: int
    outer_left: int
    left: int
    right: int
    outer_right: int

    @property
    def length(self) -> int:
        """Frames that both crops hold."""
        return self.right - self.left

    def offsets(self, rows: int, device: torch.device) -> Tensor:
        """By how much each row's crops are moved, int64 (rows, 1); both stay inside the window."""
        room = self.frames - self.outer_right + self.outer_left + 1
        return (rand_rows(rows, 1, device=device) * room).long() - self.outer_left


def draw_crop(frames: int, shortest: int) -> Crop:
    """A random overlap of at least ``shortest`` frames, and how far each crop goes beyond it, the same everywhere."""
    length = _between(shortest, frames)
    left = _between(0, frames - length)
    return Crop(frames, _between(0, left), left, left + length, _between(left + length, frames))


def _between(low: int, high: int) -> int:
    return int(torch.randint(low, high + 1, (1,)))


def shown(kind: Mask, rows: int, frames: int, device: torch.device) -> Tensor:
    """Which frames a network may see while training, bool (rows, frames)."""
    time = torch.arange(frames, device=device)
    if kind == "binomial":
        return rand_rows(rows, frames, device=device) < 0.5
    if kind == "continuous":
        length = max(int(SPAN * frames), 1)
        count = max(min(SPANS, frames // 2), 1)
        starts = (rand_rows(rows, count, device=device) * (frames - length + 1)).long()[..., None]
        return ~((time >= starts) & (time < starts + length)).any(1)
    once = time < frames - 1 if kind == "mask_last" else torch.full_like(time, kind == "all_true", dtype=torch.bool)
    return once.expand(rows, frames)
