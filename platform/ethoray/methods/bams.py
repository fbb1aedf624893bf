"""BAMS, Bootstrap Across Multiple Scales: two causal networks, one for what an animal just did and one for the
state it is in.

Azabou, Mendelson, Ahad, Sorokin, Thakoor, Urzay & Dyer, "Relax, it doesn't matter how you get there: A new
self-supervised approach for multi-timescale behavior analysis", NeurIPS 2023. Trained by the paper's
definition: from both embeddings at frame t a head predicts the histogram of each action over the second that
follows (never frame t itself), under the squared earth mover's distance; within each scale a predictor
regresses the embedding of another moment of the same animal; and the distances between the animals of a
window are regressed from their embeddings. Where the paper gives no number the attribute says "our choice".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ethoray import geometry
from ethoray.batch import Batch, Spec, Stream
from ethoray.learning import Learner, Method
from ethoray.nn.bootstrap import Predictor, bootstrap_distance
from ethoray.nn.features import WHOLE_BODY, Movement, features, sequences
from ethoray.nn.histogram import digitise, emd2, equal_edges, future_counts, streamed
from ethoray.nn.mlp import mlp
from ethoray.nn.parallel import gather, rand_rows, shared_mean
from ethoray.nn.tcn import TCN, receptive_field
from ethoray.schema import SchemaError


@dataclass(frozen=True)
class BAMS(Method):
    """Hyper-parameters of BAMS. Times in seconds.

    Attributes
    ----------
    features: "velocity" (36 velocities of the 12-keypoint mouse), "generic" (any skeleton), or "auto".
    targets: names of the actions to predict, or ("whole_body",); () takes the features' own choice.
    short_channels, short_dilation, long_channels, long_dilation, kernel: block i of a network has dilation
        ``dilation ** i``; receptive fields of the defaults are 61 and 1365 frames.
    horizon: how far ahead the histogram of actions looks.
    alone: share of sequences predicted from one space alone, half from each (our choice; the paper shows both).
    bins, still: bins of a histogram; actions with ``|y| <= still`` do not count when the bins are placed.
    warmup: time after a window's start before predictions count.
    valid_fraction: of the frames ahead that must be tracked for a prediction to count.
    anchor_stride: predict at every n-th frame from a random phase; 1 is exact, larger is an unbiased estimate.
    alpha: weight of the bootstrap terms.
    interaction: weight of the distance regression; needs at least two animals.
    neighbour: how far the short bootstrap reaches, both ways (our choice: 5 frames at 30 Hz).
    pairs: bootstrapped moments per animal and step (our choice; the batch statistics are theirs).
    predictor_lr: learning-rate multiplier of the bootstrap predictors, which replaces a moving-average teacher.
    lr_drop_at: fraction of the budget after which the learning rate falls to a tenth (100 of 500 epochs).
    clip: bound on normalised features, which tracking errors would exceed a hundredfold (our choice).
    """

    features: str = "auto"
    targets: tuple[str, ...] = ()
    short_channels: tuple[int, ...] = (64, 64, 32, 32)
    short_dilation: int = 2
    long_channels: tuple[int, ...] = (64, 64, 64, 32, 32)
    long_dilation: int = 4
    kernel: int = 3
    dropout: float = 0.2
    head: tuple[int, ...] = (256, 512, 512, 512)
    alone: float = 0.0
    horizon: float = 1.0
    bins: int = 32
    still: float = 0.1
    warmup: float = 5.0
    valid_fraction: float = 0.8
    anchor_stride: int = 1
    alpha: float = 0.15
    interaction: float = 1.0
    neighbour: float = 1 / 6
    pairs: int = 8
    predictor_lr: float = 10.0
    lr: float = 1e-3
    weight_decay: float = 4e-5
    lr_drop_at: float = 0.2
    clip: float = 10.0
    calibration: int = 4

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        "small": {
            "targets": WHOLE_BODY,
            "short_channels": (32, 32, 32, 32),
            "long_channels": (32, 32, 32, 32, 32),
            "dropout": 0.0,
            "head": (128, 128),
            "alone": 0.5,
            "anchor_stride": 10,
            "alpha": 1.0,
            "lr": 3e-3,
            "lr_drop_at": 0.8,
        },
    }
    """Preset "paper" is what the paper says. "small" learns in hundreds of steps on a CPU: narrower networks of the
    same reach, actions of all limbs, every tenth anchor, no dropout, an alpha that makes terms comparable."""

    def reach(self) -> dict[str, int]:
        """Receptive field of each space in frames."""
        return {
            "short": receptive_field(len(self.short_channels), self.short_dilation, self.kernel),
            "long": receptive_field(len(self.long_channels), self.long_dilation, self.kernel),
        }

    def build(self, spec: Spec) -> BAMSEncoder:
        """The network for this input; raises SchemaError when a window leaves no moment to predict from."""
        frames = round(self.warmup * spec.fps) + round(self.horizon * spec.fps)
        if frames >= spec.frames:
            raise SchemaError(
                f"windows of {spec.frames / spec.fps:g} s leave nothing to predict after {self.warmup:g} s of "
                f"warm-up and before {self.horizon:g} s of future: use longer windows or a shorter warmup"
            )
        return BAMSEncoder(self, spec)


class BAMSEncoder(Learner):
    """Spaces "short" and "long", each (batch, time, individual, last channel)."""

    scale: Tensor
    edges: Tensor
    distance: Tensor

    def __init__(self, method: BAMS, spec: Spec) -> None:
        super().__init__()
        self.method, self.spec, self.seed = method, spec, spec.seed
        self.lr, self.weight_decay = method.lr, method.weight_decay
        self.features = features(method.features, spec, method.targets)
        width, quantities = self.features.width, len(self.features.quantities)
        m = method
        self.short = TCN(width + 1, m.short_channels, m.short_dilation, m.kernel, m.dropout)
        self.long = TCN(width + 1, m.long_channels, m.long_dilation, m.kernel, m.dropout)
        widths = {"short": m.short_channels[-1], "long": m.long_channels[-1]}
        self.predictors = nn.ModuleDict({name: Predictor(size) for name, size in widths.items()})
        self.head = mlp((sum(widths.values()), *m.head, quantities * m.bins))
        self.horizon = round(m.horizon * spec.fps)
        self.start = round(m.warmup * spec.fps)
        self.meeting = nn.ModuleList()
        if m.interaction and spec.individuals > 1:
            self.meeting.append(nn.Sequential(nn.Linear(sum(widths.values()), 64), nn.PReLU()))
            self.meeting.append(mlp((64, 64, 1)))
        self.past = max(self.short.reach, self.long.reach) - 1 + self.features.past
        self.register_buffer("scale", torch.ones(width))
        self.register_buffer("edges", torch.zeros(quantities, m.bins - 1))
        self.register_buffer("distance", torch.ones(()))

    def calibrate(self, stream: Stream) -> None:
        """Column scales, histogram edges and the distance unit from the first training batches."""
        inputs, targets, distances = [], [], []
        for step in range(self.method.calibration):
            batch = stream(step).to(self.device())
            movement = self.features(batch)
            inputs.append(movement.inputs[movement.valid])
            targets.append(movement.targets[movement.valid])
            distances.append(geometry.pair_distances(self._centres(batch)).flatten())
        columns = gather(torch.cat(inputs)).abs().cpu().numpy()
        if not len(columns):
            raise SchemaError("the first training batches hold no frame that is tracked well enough to learn from")
        scale = np.percentile(columns, 99.5, axis=0)
        self.scale.copy_(torch.as_tensor(np.where(scale > 0, scale, 1.0)))
        values = gather(torch.cat(targets)).cpu().numpy()
        for index in range(values.shape[1]):
            edges = equal_edges(values[:, index], self.method.bins, self.method.still)
            self.edges[index] = torch.as_tensor(edges)
        apart = gather(torch.cat(distances)).nanmean()
        if apart > 0:
            self.distance.copy_(apart)

    def normalise(self, movement: Movement) -> Tensor:
        """Network input (sequence, time, feature + 1): scaled features, zero where invalid, and the validity."""
        clip = self.method.clip
        inputs = (movement.inputs / self.scale).clamp(-clip, clip)
        return torch.cat([inputs, movement.valid[..., None].to(inputs.dtype)], -1)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """The two spaces of every animal."""
        inputs = self.normalise(self.features(batch))
        windows, frames, animals = batch.mask.shape
        return {
            name: net(inputs).view(windows, animals, frames, -1).transpose(1, 2)
            for name, net in (("short", self.short), ("long", self.long))
        }

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Histogram of actions, bootstrap in both spaces, and distances: equations 2 to 6 of the paper."""
        movement = self.features(batch)
        z = self.encode(self.normalise(movement))
        bins = digitise(movement.targets, self.edges)
        times = self.anchors(batch.mask.shape[1])
        terms = {
            "histogram": self.histogram_loss(z, bins, movement.valid, times),
            "short": self.bootstrap_loss("short", z, movement.valid),
            "long": self.bootstrap_loss("long", z, movement.valid),
        }
        total = terms["histogram"] + self.method.alpha * (terms["short"] + terms["long"])
        if len(self.meeting):
            terms["interaction"] = self.interaction_loss(z, batch, times)
            total = total + self.method.interaction * terms["interaction"]
        return {"loss": total, **terms}

    def encode(self, inputs: Tensor) -> dict[str, Tensor]:
        """Both spaces of (sequence, time, feature + 1) inputs, each (sequence, time, channel)."""
        return {"short": self.short(inputs), "long": self.long(inputs)}

    def anchors(self, frames: int) -> Tensor:
        """The frames to predict from: after the warm-up, a full horizon before the end, from a random phase."""
        stride = self.method.anchor_stride
        phase = int(torch.randint(stride, (1,))) if stride > 1 else 0
        first = min(self.start + phase, max(frames - self.horizon - 1, 0))
        return torch.arange(first, max(frames - self.horizon, 0), stride, device=self.scale.device)

    def histogram_loss(self, z: Mapping[str, Tensor], bins: Tensor, valid: Tensor, times: Tensor) -> Tensor:
        """Mean over anchors of the squared earth mover's distance, summed over actions and bins.

        ``z`` are (sequence, time, channel), ``bins`` (sequence, time, action), ``valid`` (sequence, time).
        Anchors with less than ``valid_fraction`` of their horizon tracked do not count, and frames that are not
        tracked are in no histogram.
        """
        tracked = F.pad(valid.to(torch.int32).cumsum(1), (1, 0))
        ahead = tracked[:, times + 1 + self.horizon] - tracked[:, times + 1]
        chosen = ahead >= max(self.method.valid_fraction * self.horizon, 1)
        count = chosen.sum()
        counts = future_counts(bins, self.horizon, self.method.bins, times)[chosen]
        seen = self.company(len(valid))
        rows = torch.cat([(seen[space] * z[space][:, times])[chosen] for space in ("short", "long")], -1)

        def distance(logits: Tensor, part: slice) -> Tensor:
            return emd2(logits.unflatten(1, (-1, self.method.bins)), counts[part])

        if self.training:
            return shared_mean(streamed(self.head, distance, rows), count)
        return shared_mean(distance(self.head(rows), slice(None)), count)

    def company(self, sequences: int) -> dict[str, Tensor]:
        """What the head sees of each space, (sequence, 1, 1): 1, or 0 where the other one is alone."""
        u, half = rand_rows(sequences, 1, 1, device=self.scale.device), self.method.alone / 2 * self.training
        return {"short": (u >= half).float(), "long": ((u < half) | (u >= 2 * half)).float()}

    def bootstrap_loss(self, space: str, z: Mapping[str, Tensor], valid: Tensor) -> Tensor:
        """2 (1 - cosine) between a prediction from one moment and another moment of the same animal."""
        sequence_count, frames = valid.shape
        now, then = self.moments(space, sequence_count, frames)
        row = torch.arange(sequence_count, device=valid.device)[:, None]
        weights = (valid[row, now] & valid[row, then]).flatten().to(z[space].dtype)
        online = self.predictors[space](z[space][row, now].flatten(0, 1), weights)
        return bootstrap_distance(online, z[space][row, then].flatten(0, 1), weights)

    def moments(self, space: str, sequence_count: int, frames: int) -> tuple[Tensor, Tensor]:
        """Pairs of frames (sequence, pair): neighbours within ``neighbour`` for "short", any two for "long"."""
        device, pairs = self.scale.device, self.method.pairs
        first = min(self.start, frames - 1)
        u = rand_rows(sequence_count, 2, pairs, device=device)
        now = first + (u[:, 0] * (frames - first)).long()
        if space == "long":
            return now, first + (u[:, 1] * (frames - first)).long()
        reach = max(1, round(self.method.neighbour * self.spec.fps))
        step = (u[:, 1] * 2 * reach).long() - reach
        step = step + (step >= 0)  # -reach..-1 and 1..reach
        outside = (now + step > frames - 1) | (now + step < 0)
        return now, (now + torch.where(outside, -step, step)).clamp(0, frames - 1)

    def interaction_loss(self, z: Mapping[str, Tensor], batch: Batch, times: Tensor) -> Tensor:
        """Squared error of the distances between all pairs of animals, in units of the mean distance.

        The regressor is symmetric: one network on each animal, summed, then another (our choice).
        """
        windows, _, animals = batch.mask.shape
        both = torch.cat([z["short"][:, times], z["long"][:, times]], -1)
        each = self.meeting[0](both).view(windows, animals, len(times), -1)
        first, second = geometry.pairs(animals)
        predicted = self.meeting[1](each[:, first] + each[:, second])[..., 0]
        true = geometry.pair_distances(self._centres(batch)[:, :, times]) / self.distance
        known = ~true.isnan()
        error = torch.where(known, predicted - true.nan_to_num(0.0), 0.0)
        return shared_mean(error.square().sum(), known.sum())

    def _centres(self, batch: Batch) -> Tensor:
        """One point for every animal, (window, individual, time, space): the "center" keypoint or the centroid."""
        keypoints = sequences(batch)
        names = self.spec.skeleton.keypoints
        points = keypoints[..., names.index("center"), :] if "center" in names else geometry.centroid(keypoints)
        return points.view(batch.mask.shape[0], batch.mask.shape[2], *points.shape[1:])

    def groups(self, lr: float) -> list[dict[str, Any]]:
        """The bootstrap predictors learn faster than the rest, which keeps the embeddings from collapsing."""
        fast = list(self.predictors.parameters())
        known = {id(p) for p in fast}
        slow = [p for p in self.parameters() if id(p) not in known]
        return [{"params": slow, "lr": lr}, {"params": fast, "lr": lr * self.method.predictor_lr}]

    def rate(self, fraction: float) -> float:
        """A tenth after ``lr_drop_at`` of the budget."""
        return 0.1 if fraction >= self.method.lr_drop_at else 1.0
