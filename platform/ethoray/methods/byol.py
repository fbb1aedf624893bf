"""T-BYOL: one causal network whose embedding of a moment predicts the embedding of a neighbouring moment of the
same animal.

The temporal BYOL that BAMS was compared with (Azabou et al., NeurIPS 2023, table 2), after Grill et al. 2020,
"Bootstrap your own latent". Its configuration is unpublished: what follows is ours. A single network spans the
receptive field of BAMS's long one; a projector and a predictor regress what a teacher, the slow moving average of
network and projector, makes of the other moment, both ways; each sees the window through its own augmentation.
Instead of a teacher the predictor may learn faster, as in BAMS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ethoray import geometry
from ethoray.batch import Batch, Spec, Stream
from ethoray.learning import Learner, Method
from ethoray.nn.bootstrap import Predictor, bootstrap_distance
from ethoray.nn.calibration import survey
from ethoray.nn.features import Movement, features, sequences
from ethoray.nn.momentum import Teacher, momentum
from ethoray.nn.parallel import gather, rand_rows
from ethoray.nn.tcn import TCN, receptive_field
from ethoray.schema import SchemaError


@dataclass(frozen=True)
class BYOL(Method):
    """Hyper-parameters of T-BYOL, all our choice. Times in seconds.

    Attributes
    ----------
    features: "velocity" (36 velocities of the 12-keypoint mouse), "generic" (any skeleton), or "auto".
    channels, dilation, kernel: block i of the network has dilation ``dilation ** i``; the receptive field of the
        defaults is 1365 frames and the embedding 64 wide.
    teacher: "momentum" regresses a moving average of the network; "predictor" regresses the network itself without
        a gradient, and the predictor learns ``predictor_lr`` times faster.
    tau: momentum of the teacher at the start, rising to 1 along a cosine (BYOL has 0.996 in long trainings).
    neighbour: how far apart two moments of a pair may be, either way; 0 is anywhere in the window.
    pairs: pairs of moments per animal and step.
    warmup: time after a window's start before moments count.
    jitter: standard deviation of noise on every keypoint, in body sizes (distance from the centroid); 0 is none.
    drop: probability that a view loses a feature for the whole window; 0 is none.
    clip: bound on normalised features.
    """

    features: str = "auto"
    channels: tuple[int, ...] = (64, 64, 64, 64, 64)
    dilation: int = 4
    kernel: int = 3
    dropout: float = 0.1
    teacher: Literal["momentum", "predictor"] = "momentum"
    tau: float = 0.99
    predictor_lr: float = 10.0
    neighbour: float = 1.0
    pairs: int = 32
    warmup: float = 2.0
    jitter: float = 0.01
    drop: float = 0.1
    lr: float = 1e-3
    weight_decay: float = 4e-5
    clip: float = 10.0
    calibration: int = 4

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        "small": {"channels": (32, 32, 32, 32, 32), "dropout": 0.0, "lr": 3e-3},
    }
    """Preset "paper" has the sizes of BAMS. "small" learns in hundreds of steps on a CPU: narrower, no dropout."""

    def __post_init__(self) -> None:
        if self.teacher not in ("momentum", "predictor"):
            raise SchemaError(f"teacher is momentum or predictor, not {self.teacher!r}")
        if not 0 <= self.tau <= 1:
            raise SchemaError(f"tau is a momentum between 0 and 1, not {self.tau!r}")

    def reach(self) -> int:
        """Receptive field in frames, the present one included."""
        return receptive_field(len(self.channels), self.dilation, self.kernel)

    def build(self, spec: Spec) -> BYOLEncoder:
        """The network for this input; raises SchemaError when a window leaves no two moments after the warm-up."""
        if spec.frames - round(self.warmup * spec.fps) < 2:
            raise SchemaError(
                f"windows of {spec.frames / spec.fps:g} s leave no two moments after {self.warmup:g} s of warm-up: "
                "use longer --seconds or a shorter warmup"
            )
        return BYOLEncoder(self, spec)


class BYOLEncoder(Learner):
    """Space "byol": (batch, time, individual, last channel)."""

    scale: Tensor
    size: Tensor

    def __init__(self, method: BYOL, spec: Spec) -> None:
        super().__init__()
        self.method, self.spec, self.seed = method, spec, spec.seed
        self.lr, self.weight_decay = method.lr, method.weight_decay
        self.features = features(method.features, spec)
        width = self.features.width
        self.student = Student(width + 1, method)
        self.predictor = Predictor(method.channels[-1])
        self.teacher = Teacher(self.student) if method.teacher == "momentum" else None
        self.start = round(method.warmup * spec.fps)
        self.neighbour = max(1, round(method.neighbour * spec.fps)) if method.neighbour else 0
        self.past = method.reach() - 1 + self.features.past
        self.spent = 0.0
        self.register_buffer("scale", torch.ones(width))
        self.register_buffer("size", torch.ones(()))

    def calibrate(self, stream: Stream) -> None:
        """Column scales and the body size from the first training batches."""
        seen = survey(stream, self.features, self.spec, self.method.calibration, self.device())
        self.scale.copy_(seen.scale(99.5))
        sizes = []
        for step in range(self.method.calibration):
            keypoints = sequences(stream(step).to(self.device()))
            sizes.append(geometry.length(keypoints - geometry.centroid(keypoints)[..., None, :]).flatten())
        size = gather(torch.cat(sizes)).square().nanmean().sqrt()
        if size > 0:
            self.size.copy_(size)

    def normalise(self, movement: Movement) -> Tensor:
        """Network input (sequence, time, feature + 1): scaled features, zero where invalid, and the validity."""
        return movement.scaled(self.scale, self.method.clip)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """The space of every animal, by the student's network."""
        windows, frames, animals = batch.mask.shape
        z = self.student.net(self.normalise(self.features(batch)))
        return {"byol": z.view(windows, animals, frames, -1).transpose(1, 2)}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Distance of the predicted from the teacher's projection of the other moment of a pair, both ways."""
        x, valid = self.view(batch)
        now, other = self.moments(*valid.shape)
        weights = (valid.gather(1, now) & valid.gather(1, other)).flatten().float()
        times, both = torch.cat([now, other], 1), weights.view(len(valid), -1).repeat(1, 2).flatten()
        online = self.student(x, times, both)
        target = self.target(batch, online, times, both)
        predicted = self.predictor(online, both).float().view(len(valid), 2, -1, online.shape[-1])
        return {"loss": self.distance(predicted, target.float().view_as(predicted), weights)}

    def distance(self, predicted: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """BYOL's symmetrised loss, between 0 and 8; (sequence, 2, pair, width) twice, the two moments on axis 1."""
        crossed = target.flip(1)
        there = bootstrap_distance(predicted[:, 0].flatten(0, 1), crossed[:, 0].flatten(0, 1), weights)
        back = bootstrap_distance(predicted[:, 1].flatten(0, 1), crossed[:, 1].flatten(0, 1), weights)
        return there + back

    @torch.no_grad()
    def target(self, batch: Batch, online: Tensor, times: Tensor, weights: Tensor) -> Tensor:
        """What the predictions are compared with: the teacher's projections of its own view, or the student's."""
        if self.teacher is None:
            return online.detach()
        x, _ = self.view(batch)
        self.teacher.eval()  # no dropout: only the student's answer is to be robust
        projected: Tensor = self.teacher.copy(x, times, weights)
        return projected

    def view(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """An augmented network input (sequence, time, feature + 1) and where it is valid (sequence, time)."""
        m = self.method
        if m.jitter:
            noise = _normal(batch.keypoints) * (m.jitter * self.size)
            batch = replace(batch, keypoints=batch.keypoints + noise)
        movement = self.features(batch)
        x = self.normalise(movement)
        if m.drop:
            kept = rand_rows(len(x), 1, self.features.width, device=x.device) >= m.drop
            x = torch.cat([x[..., :-1] * kept, x[..., -1:]], -1)
        return x, movement.valid

    def moments(self, rows: int, frames: int) -> tuple[Tensor, Tensor]:
        """Pairs of different frames after the warm-up, int64 (rows, pairs) twice."""
        first = min(self.start, max(frames - 2, 0))
        u = rand_rows(rows, 2, self.method.pairs, device=self.scale.device)
        count = frames - first
        now = (u[:, 0] * count).long()
        if self.neighbour == 0 or self.neighbour >= count:
            other = (now + 1 + (u[:, 1] * (count - 1)).long()) % count
        else:
            low, high = (now - self.neighbour).clamp(min=0), (now + self.neighbour).clamp(max=count - 1)
            other = low + (u[:, 1] * (high - low)).long()
            other = other + (other >= now)  # every neighbour but the moment itself
        return first + now, first + other

    def groups(self, lr: float) -> list[dict[str, Any]]:
        """The predictor learns faster than the rest where it stands in for a teacher."""
        faster = self.method.predictor_lr if self.teacher is None else 1.0
        return [
            {"params": list(self.student.parameters()), "lr": lr},
            {"params": list(self.predictor.parameters()), "lr": lr * faster},
        ]

    def rate(self, fraction: float) -> float:
        """Constant; notes how much of the training is done, which the teacher's momentum depends on."""
        self.spent = fraction
        return 1.0

    def after_step(self, step: int) -> None:
        """Let the teacher follow."""
        if self.teacher is not None:
            self.teacher.follow(self.student, momentum(self.method.tau, self.spent))


class Student(nn.Module):
    """The network and its projector, which the teacher is a copy of."""

    def __init__(self, inputs: int, method: BYOL) -> None:
        super().__init__()
        self.net = TCN(inputs, method.channels, method.dilation, method.kernel, method.dropout)
        self.project = Predictor(method.channels[-1])

    def forward(self, x: Tensor, times: Tensor, weights: Tensor) -> Tensor:
        """Projections at ``times`` (sequence, moment) of (sequence, time, feature): (sequence * moment, width).

        Rows of weight 0, (sequence * moment,), stay out of the batch statistics.
        """
        z = self.net(x)
        row = torch.arange(len(x), device=x.device)[:, None]
        projected: Tensor = self.project(z[row, times].flatten(0, 1), weights)
        return projected


def _normal(like: Tensor) -> Tensor:
    """Standard normal noise of this shape, this worker's rows of the global draw (Box and Muller)."""
    u = rand_rows(len(like), 2, *like.shape[1:], device=like.device)
    return (-2 * torch.log1p(-u[:, 0])).sqrt() * torch.cos(2 * torch.pi * u[:, 1])
