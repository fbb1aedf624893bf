"""Features of a group that were crafted by hand: what its animals do in the arena and to each other.

After the entry of Param-Uttarwar to MABe 2022, whose moving averages and gradients are centred here and pass over
missing frames. Names of animals do not matter: pairs are a set, and groups are minimum, mean and maximum.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ethoray import geometry
from ethoray.batch import Batch, Spec, Stream
from ethoray.nn.pairs import NAMES, pair_features
from ethoray.nn.parallel import gather

POINT = 10
"""Features of a point, see ``Handcrafted.points``."""


class Handcrafted(nn.Module):
    """Features of ordered pairs and of the whole group, NaN where unknown, in the recording's unit and frames.

    Parameters
    ----------
    average, gradient: seconds that moving averages span and that speeds are differences over.
    components: of the pose.

    Attributes
    ----------
    width: number of columns of ``group``.
    past, future: frames of context.
    """

    middle: Tensor
    low: Tensor
    high: Tensor
    pose: Tensor
    axes: Tensor

    def __init__(self, spec: Spec, average: float, gradient: float, components: int) -> None:
        super().__init__()
        self.spec = spec
        names = spec.skeleton.keypoints
        self.neck = names.index("neck") if "neck" in names else None
        self.front = spec.skeleton.index(spec.skeleton.front) if spec.skeleton.front else None
        self.back = spec.skeleton.index(spec.skeleton.back) if spec.skeleton.back else None
        self.average = max(1, round(average * spec.fps))
        self.gradient = max(1, round(gradient * spec.fps))
        self.past = self.average // 2 + max(self.gradient - self.gradient // 2, 1)
        self.future = (self.average - 1) // 2 + self.gradient // 2
        coordinates = len(names) * spec.space
        kept = min(components, coordinates)
        self.width = 3 * (len(NAMES) + 6) + 2 * kept
        for name in ("middle", "low", "high"):
            self.register_buffer(name, torch.zeros(spec.space))
        self.register_buffer("pose", torch.zeros(coordinates))
        self.register_buffer("axes", torch.eye(coordinates)[:, :kept].clone())

    @torch.no_grad()
    def calibrate(self, stream: Stream, batches: int) -> None:
        """Fit the middle and the walls of the arena and the axes of the pose to the first batches."""
        places, poses = [], []
        for index in range(batches):
            points, centre, _ = geometry.egocentric(_known(stream(index).to(self.middle.device)), self.front, self.back)
            places.append(centre[~centre.isnan().any(-1)])
            flat = points.flatten(-2)
            poses.append(flat[~flat.isnan().any(-1)])
        place, pose = gather(torch.cat(places)), gather(torch.cat(poses)).double()
        if len(place):
            self.middle.copy_(place.mean(0))
            ordered = place.sort(0).values
            self.low.copy_(ordered[len(ordered) // 1000])
            self.high.copy_(ordered[-1 - len(ordered) // 1000])
        if len(pose) > 1:
            self.pose.copy_(pose.mean(0))
            axes = torch.linalg.eigh(torch.cov(pose.T)).eigenvectors.flip(1)[:, : self.axes.shape[1]]
            self.axes.copy_(axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign())

    def points(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Ten features of (window, time, pair), NaN where unknown, and which points exist.

        Cosine of the bearing, my and its distance from the middle of the arena, neck to neck, my tail to its nose,
        my and its speed, my and its turning speed, how fast we move against each other.
        """
        own = self.own(batch)
        each = averaged(torch.cat([own["radius"], own["speed"], own["turning"]], -1), self.average)
        pair = pair_features(batch, self.spec)
        neck, velocity = own["neck"], own["velocity"]
        between = torch.cat(
            [
                pair[..., 1:2],
                geometry.length(neck[:, :, :, None] - neck[:, :, None])[..., None],
                pair[..., 8:9].transpose(2, 3),
                geometry.length(velocity[:, :, :, None] - velocity[:, :, None])[..., None],
            ],
            -1,
        )
        between = averaged(between, self.average)
        animals = each.shape[2]
        alone = torch.eye(animals, dtype=torch.bool, device=each.device)
        between = torch.where(alone[..., None], torch.nan, between)
        mine = each[:, :, :, None].expand(*between.shape[:4], 3)
        its = torch.where(alone[..., None], torch.nan, each[:, :, None].expand_as(mine))
        columns = [
            between[..., :1], mine[..., :1], its[..., :1], between[..., 1:3], mine[..., 1:2], its[..., 1:2],
            mine[..., 2:], its[..., 2:], between[..., 3:],
        ]  # fmt: skip
        there = ~each[..., 0].isnan()
        together = there[:, :, :, None] & there[:, :, None] & ~alone
        single = alone & (there & ~together.any(-1))[..., None]
        return torch.cat(columns, -1).flatten(2, 3), (together | single).flatten(2)

    def own(self, batch: Batch) -> dict[str, Tensor]:
        """What every animal does, (window, time, individual, column), NaN where unknown, speeds in units a frame."""
        keypoints = _known(batch)
        points, centre, heading = geometry.egocentric(keypoints, self.front, self.back)
        neck = centre if self.neck is None else keypoints[..., self.neck, :]
        nose = centre if self.front is None else keypoints[..., self.front, :]
        tail = centre if self.back is None else keypoints[..., self.back, :]
        velocity = self.change(centre)
        bend = geometry.wrap(geometry.angle(nose - neck) - geometry.angle(neck - tail)).abs()
        return {
            "neck": neck,
            "velocity": velocity,
            "radius": geometry.length(centre - self.middle)[..., None],
            "wall": torch.minimum(centre - self.low, self.high - centre).amin(-1, keepdim=True),
            "speed": geometry.length(velocity)[..., None],
            "turning": geometry.wrap(self.change(heading, 1.0)).abs()[..., None] / self.gradient,
            "bend": bend[..., None],
            "nose_speed": geometry.length(self.change(nose))[..., None],
            "pose": (points.flatten(-2) - self.pose) @ self.axes,
        }

    def change(self, x: Tensor, frames: float | None = None) -> Tensor:
        """Centred difference of (window, time, ...) over ``gradient`` frames, divided by ``frames`` or as many."""
        after = self.gradient // 2
        before = self.gradient - after
        blank = (0, 0) * (x.ndim - 2)
        ahead = F.pad(x, (*blank, 0, after), value=torch.nan)[:, after:]
        behind = F.pad(x, (*blank, before, 0), value=torch.nan)[:, : x.shape[1]]
        return (ahead - behind) / (frames or self.gradient)

    def group(self, batch: Batch) -> Tensor:
        """The features of the group, (window, time, column), NaN where unknown.

        Minimum, mean and maximum of the features of ordered pairs (``nn.pairs``) and of every animal (wall distance,
        distance from the middle, speed, turning, bend of the neck, nose speed); the mean pose and its change.
        """
        own = self.own(batch)
        names = ("wall", "radius", "speed", "turning", "bend", "nose_speed")
        each = self.steady(torch.cat([own[name] for name in names], -1), instant=2)
        pairs = pair_features(batch, self.spec).flatten(2, 3)
        moving = torch.tensor([False] * 5 + [True] * 2 + [False] * 2, device=pairs.device)
        smooth = averaged(pairs, self.average)
        pairs = torch.where(moving | pairs.isnan(), smooth, pairs)
        pose = own["pose"].nanmean(2)
        return torch.cat(
            [summary(pairs), summary(each), averaged(pose, self.average), averaged(self.change(pose), self.average)], -1
        )

    def steady(self, x: Tensor, instant: int) -> Tensor:
        """Moving averages; the first ``instant`` columns as they are where they are known."""
        smooth = averaged(x, self.average)
        first = x[..., :instant]
        return torch.cat([torch.where(first.isnan(), smooth[..., :instant], first), smooth[..., instant:]], -1)


def averaged(x: Tensor, length: int) -> Tensor:
    """Centred moving average of (window, time, ...) over the known of ``length`` frames; NaN where none is."""
    before, after = length // 2, (length - 1) // 2
    known = ~x.isnan()
    blank = (0, 0) * (x.ndim - 2)
    values = F.pad(torch.where(known, x, 0.0), (*blank, before, after))
    counts = F.pad(known.to(x.dtype), (*blank, before, after))
    frames = x.shape[1]
    total, count = values[:, :frames].clone(), counts[:, :frames].clone()
    for shift in range(1, length):
        total += values[:, shift : shift + frames]
        count += counts[:, shift : shift + frames]
    return total / torch.where(count > 0, count, torch.nan)


def summary(x: Tensor) -> Tensor:
    """Minimum, mean and maximum of what is known over the third axis of (window, time, n, column); else NaN."""
    known = ~x.isnan()
    some = known.any(2)
    least = x.masked_fill(~known, torch.inf).amin(2)
    most = x.masked_fill(~known, -torch.inf).amax(2)
    mean = torch.where(known, x, 0.0).sum(2) / known.sum(2).clamp(min=1)
    return torch.cat([torch.where(some, part, torch.nan) for part in (least, mean, most)], -1)


def _known(batch: Batch) -> Tensor:
    return torch.where(batch.mask[..., None, None], batch.keypoints, torch.nan)
