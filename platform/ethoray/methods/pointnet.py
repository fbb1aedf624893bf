"""T-PointNet: the pairs of a group are the points of a cloud, and frames of one moment are pulled together.

The entry of Param-Uttarwar to MABe 2022 ("T-PointNet" in Sun et al. 2023, "MABe22", and in Azabou et al. 2023,
Table 2), after Qi et al. 2017, "PointNet": every ordered pair of animals is a point with ten features; learned
transforms, layers that all points share, and a maximum over the points give one vector a frame, which a cosine
loss makes similar to another frame soon before or after and dissimilar to a frame of another recording. The
submission put hand-crafted features beside it, which the published scores include: ``handmade``.

Our choices: the positive is near the anchor (the entry took it near the start of the clip), and never the anchor
itself, which teaches nothing; no batch normalisation; moving averages and gradients are centred and pass over
missing frames; hand-crafted features of pairs and of animals enter as minimum, mean and maximum, which no naming
of animals can change and which for three mice hold the published sorted triples; bearings as cosines. An animal
without a partner is a pair with nobody, of whose features only its own are not zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ethoray.batch import Batch, Spec, Stream
from ethoray.learning import Learner, Method
from ethoray.nn.handcrafted import POINT, Handcrafted
from ethoray.nn.parallel import gather, rand_rows, shared_mean, world
from ethoray.schema import SchemaError

BLOCK = 1 << 16  # frames embedded at once, which bounds memory


@dataclass(frozen=True)
class PointNet(Method):
    """Hyper-parameters of T-PointNet. Times in seconds.

    Attributes
    ----------
    average: length of the moving averages, 10 frames at 30 Hz.
    gradient: time that speeds are differences over, 5 frames at 30 Hz.
    nearest, farthest: how far the positive is from the anchor, 5 to 9 steps of 10 frames.
    anchors: frames of every training window that are compared (with 8 windows the published batch of 512).
    latent: width of the embedding.
    handmade: whether the hand-crafted features are a second space.
    components: of the pose, in the hand-crafted features.
    clip: bound on standardised features, which tracking errors would exceed a hundredfold (our choice).
    calibration: batches that scales are fitted on.
    """

    average: float = 1 / 3
    gradient: float = 1 / 6
    nearest: float = 5 / 3
    farthest: float = 3.0
    anchors: int = 64
    latent: int = 15
    handmade: bool = True
    components: int = 10
    lr: float = 5e-3
    weight_decay: float = 0.0
    clip: float = 5.0
    calibration: int = 4

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {}, "small": {"anchors": 32}}
    """Preset "paper" is published and small already; "small" compares half as many frames."""

    def build(self, spec: Spec) -> PointNetEncoder:
        """The network for this input; raises SchemaError when a window is too short for a pair of frames."""
        if min(self.anchors, self.latent, self.components, self.calibration) < 1:
            raise SchemaError("pointnet: anchors, latent, components and calibration must be at least 1")
        if not 0 < self.nearest <= self.farthest:
            raise SchemaError(f"pointnet: positives from {self.nearest:g} to {self.farthest:g} s away are none")
        if 2 * self.farthest * spec.fps > spec.frames:
            raise SchemaError(
                f"pointnet compares frames up to {self.farthest:g} s before and after each other and the training "
                f"windows last {spec.frames / spec.fps:g} s: train on longer windows (--seconds) or shorten farthest"
            )
        return PointNetEncoder(self, spec)


class Transform(nn.Module):
    """A square matrix that a cloud of points chooses for itself; near the identity at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.points = nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, 64), nn.ReLU())
        self.matrix = nn.Linear(64, width * width)
        with torch.no_grad():
            self.matrix.weight.mul_(0.1)
            self.matrix.bias.copy_(torch.eye(width).flatten())

    def forward(self, x: Tensor, exists: Tensor) -> Tensor:
        """(cloud, point, width), and bool (cloud, point) -> the same points, turned."""
        matrix = self.matrix(maximum(self.points(x), exists))
        return x @ matrix.unflatten(-1, (x.shape[-1], x.shape[-1])).to(x.dtype)


class Cloud(nn.Module):
    """The network of PointNet: (cloud, point, 10) and bool (cloud, point) -> unit vectors (cloud, latent)."""

    def __init__(self, features: int, latent: int) -> None:
        super().__init__()
        self.turn, self.turn_inside = Transform(features), Transform(16)
        self.first = nn.Sequential(nn.Linear(features, 16), nn.ReLU())
        self.rest = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 128))
        self.head = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, latent))

    def forward(self, x: Tensor, exists: Tensor) -> Tensor:
        """Order of points, and points that do not exist, change nothing."""
        x = self.turn_inside(self.first(self.turn(x, exists)), exists)
        z: Tensor = self.head(maximum(self.rest(x), exists))
        return F.normalize(z.float(), dim=-1)


class PointNetEncoder(Learner):
    """Space "pointnet", (batch, time, 1, latent), and with hand-crafted features "handmade"."""

    mean: Tensor
    deviation: Tensor
    hand_mean: Tensor
    hand_deviation: Tensor

    def __init__(self, method: PointNet, spec: Spec) -> None:
        super().__init__()
        self.method, self.spec, self.seed = method, spec, spec.seed
        self.lr, self.weight_decay = method.lr, method.weight_decay
        self.nearest, self.farthest = (max(1, round(t * spec.fps)) for t in (method.nearest, method.farthest))
        self.features = Handcrafted(spec, method.average, method.gradient, method.components)
        self.past, self.future = self.features.past, self.features.future
        self.network = Cloud(POINT, method.latent)
        for name, width in (("", POINT), ("hand_", self.features.width)):
            self.register_buffer(f"{name}mean", torch.zeros(width))
            self.register_buffer(f"{name}deviation", torch.ones(width))

    def calibrate(self, stream: Stream) -> None:
        """The arena, the axes of the pose, then mean and deviation of all columns, from the first batches."""
        self.features.calibrate(stream, self.method.calibration)
        points, hands = [], []
        for index in range(self.method.calibration):
            batch = stream(index).to(self.mean.device)
            cloud, exists = self.features.points(batch)
            points.append(cloud[exists])
            hands.append(self.features.group(batch).flatten(0, 1) if self.method.handmade else cloud.new_zeros(0, 1))
        self.mean[:], self.deviation[:] = moments(gather(torch.cat(points)))
        if self.method.handmade:
            self.hand_mean[:], self.hand_deviation[:] = moments(gather(torch.cat(hands)))

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """One unit vector for the group at every frame, and what was crafted by hand."""
        cloud, exists = self.features.points(batch)
        clouds, exist = cloud.flatten(0, 1).split(BLOCK), exists.flatten(0, 1).split(BLOCK)
        z = torch.cat([self.encode(x, there) for x, there in zip(clouds, exist, strict=True)])
        spaces = {"pointnet": z.unflatten(0, batch.mask.shape[:2])[:, :, None]}
        if self.method.handmade:
            hand = (self.features.group(batch) - self.hand_mean) / self.hand_deviation
            bound = self.method.clip
            spaces["handmade"] = hand.clamp(-bound, bound).nan_to_num(0.0)[:, :, None]
        return spaces

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The cosine embedding loss, and the mean cosines of anchors with positives and with negatives."""
        cloud, exists = self.features.points(batch)
        rows, frames = batch.mask.shape[:2]
        anchor, positive, negative, shift = self.moments(rows, frames)
        row = torch.arange(rows, device=cloud.device)[:, None]
        parts = [(cloud[row, time], exists[row, time]) for time in (anchor, positive, negative)]
        others, there = gather(parts[2][0]), gather(parts[2][1])
        source = (row + world()[0] * rows + shift) % len(others)
        column = torch.arange(anchor.shape[1], device=cloud.device)
        parts[2] = (others[source, column], there[source, column])
        z = self.encode(torch.cat([p[0] for p in parts]).flatten(0, 1), torch.cat([p[1] for p in parts]).flatten(0, 1))
        same, different = cosines(*z.chunk(3))
        seen = [known.any(-1).flatten() for _, known in parts]
        pulled, pushed = seen[0] & seen[1], seen[0] & seen[2]
        pull = shared_mean(((1 - same) * pulled).sum(), pulled.sum())
        push = shared_mean((different.clamp(min=0) * pushed).sum(), pushed.sum())
        away = shared_mean((different * pushed).sum(), pushed.sum())
        return {"loss": (pull + push) / 2, "positive": 1 - pull, "negative": away}

    def moments(self, rows: int, frames: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Frames of anchors, positives and negatives, and by how many windows the negatives are shifted, (row, anchor).

        The only window of a batch gives its own negatives: frames about half of it away.
        """
        u = rand_rows(rows, 4, self.method.anchors, device=self.mean.device)
        anchor = (u[:, 0] * frames).long()
        apart = self.nearest + (u[:, 1] * (self.farthest - self.nearest + 1)).long()
        back = (u[:, 2] < 0.5) & (anchor >= apart) | (anchor + apart >= frames)
        positive = (anchor + torch.where(back, -apart, apart)).clamp(0, frames - 1)
        windows = rows * world()[1]
        shift = 1 + (u[:, 3] * (windows - 1)).long()
        if windows > 1:
            return anchor, positive, (rand_rows(rows, self.method.anchors, device=u.device) * frames).long(), shift
        return anchor, positive, (anchor + ((0.25 + 0.5 * u[:, 3]) * frames).long()) % frames, 0 * shift

    def encode(self, points: Tensor, exists: Tensor) -> Tensor:
        """(cloud, point, feature), NaN unknown, and bool (cloud, point) -> unit vectors (cloud, latent)."""
        bound = self.method.clip
        scaled = ((points - self.mean) / self.deviation).clamp(-bound, bound).nan_to_num(0.0)
        out: Tensor = self.network(scaled, exists | ~exists.any(-1, keepdim=True))
        return out


def maximum(x: Tensor, exists: Tensor) -> Tensor:
    """The maximum over the points that exist: (cloud, point, feature) and bool (cloud, point)."""
    return x.masked_fill(~exists[..., None], -torch.inf).amax(1)


def cosines(anchor: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines of unit vectors (row, feature) with their positives and with their negatives."""
    return (anchor * positive).sum(-1), (anchor * negative).sum(-1)


def moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the known of every column of (row, column); 0 and 1 where there is no telling."""
    known = ~rows.isnan()
    count = known.sum(0).clamp(min=1)
    values = rows.double()
    mean = torch.where(known, values, 0.0).sum(0) / count
    deviation = (torch.where(known, values - mean, 0.0).square().sum(0) / count).sqrt()
    return mean.float(), torch.where(deviation > 1e-6, deviation, 1.0).float()
