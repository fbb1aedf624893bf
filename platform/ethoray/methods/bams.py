"""BAMS, Bootstrap Across Multiple Scales: causal networks for what an animal just did and for the state it is in.

Azabou, Mendelson, Ahad, Sorokin, Thakoor, Urzay & Dyer, "Relax, it doesn't matter how you get there: A new
self-supervised approach for multi-timescale behavior analysis", NeurIPS 2023. Trained by the paper's
definition: from the embeddings at frame t a head predicts the histogram of each action over the second that follows
(never frame t itself), under the squared earth mover's distance; within each scale a predictor regresses another
moment of the same animal; and the distances between the animals of a window are regressed from their embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ethoray.batch import Batch, Spec, Stream
from ethoray.learning import Learner, Method
from ethoray.nn import bootstrap, objectives
from ethoray.nn.calibration import survey
from ethoray.nn.features import MOUSE_RELEASE, WHOLE_BODY, Movement, features
from ethoray.nn.histogram import digitise, future_counts
from ethoray.nn.interaction import DistanceRegression
from ethoray.nn.mlp import mlp
from ethoray.nn.streaming import Streaming
from ethoray.nn.tcn import TCN, receptive_field
from ethoray.schema import SchemaError


@dataclass(frozen=True)
class BAMS(Method):
    """Hyper-parameters of BAMS, "our choice" where the paper gives no number. Times in seconds.

    Attributes
    ----------
    features: one of ``nn.features.KINDS``; "auto" is "velocity" (36 of them) for the 12-keypoint mouse, else "generic".
    targets: names of the actions to predict, or ("whole_body",); () takes the features' own choice.
    pairs_in, pairs_out: see what the other animals are to this one (``nn.pairs``), and predict what the nearest does
        (ours; the paper has neither).
    recent_, short_ and long_channels and _dilation, kernel: block i of a network has dilation ``dilation ** i``;
        receptive fields of the defaults are 61 and 1365 frames. Without channels there is no such network and no
        such space; one alone is the single scale of Table 3.
    norm_first: weight normalisation of both convolutions of a block; the release has it in the second only.
    head_sees_input: whether the head is also given the present frame's input (release).
    alone: share of sequences whose future is predicted from one space alone (our choice; the paper shows all).
    objective: "histogram" of the actions within ``horizon``, or "sequential", their values one by one within
        ``sequence`` (Table 3's ablation, 10 frames).
    bins, still: bins of a histogram; actions with ``|y| <= still`` do not count when the bins are placed.
    warmup, valid_fraction: time after a window's start, and share of the frames ahead that must be tracked, for a
        prediction to count.
    anchor_stride: predict at every n-th frame from a random phase; 1 is exact, larger is an unbiased estimate.
    alpha, interaction: weights of the bootstrap of "short" and "long", and of the distance regression, which needs
        two animals; 0 leaves a term and its networks out.
    neighbour, neighbour_past: how far the short bootstrap reaches (our choice: 5 frames at 30 Hz), and whether both
        ways, or from the frame itself on (release).
    pairs: bootstrapped moments per animal and step (our choice; the batch statistics are theirs).
    predictor_lr: learning-rate multiplier of the bootstrap predictors, which replaces a teacher; 0 freezes them.
    teacher_momentum: of a moving-average teacher without dropout that gives the bootstrap's targets (.99); 0: none.
    decoupled_decay: weight decay apart from the gradient, as in AdamW (release).
    lr_drop_at: fraction of the budget after which the learning rate falls to a tenth (100 of 500 epochs).
    scale_percentile, clip: features are divided by this percentile of their size (release: 100), and then bounded,
        which tracking errors would exceed a hundredfold (our choice).
    """

    features: str = "auto"
    targets: tuple[str, ...] = ()
    pairs_in: bool = False
    pairs_out: bool = False
    recent_channels: tuple[int, ...] = ()
    recent_dilation: int = 2
    short_channels: tuple[int, ...] = (64, 64, 32, 32)
    short_dilation: int = 2
    long_channels: tuple[int, ...] = (64, 64, 64, 32, 32)
    long_dilation: int = 4
    kernel: int = 3
    norm_first: bool = True
    dropout: float = 0.2
    head: tuple[int, ...] = (256, 512, 512, 512)
    head_sees_input: bool = False
    alone: float = 0.0
    objective: str = "histogram"
    horizon: float = 1.0
    sequence: float = 1 / 3
    bins: int = 32
    still: float = 0.1
    warmup: float = 5.0
    valid_fraction: float = 0.8
    anchor_stride: int = 1
    alpha: float = 0.15
    interaction: float = 1.0
    neighbour: float = 1 / 6
    neighbour_past: bool = True
    pairs: int = 8
    predictor_lr: float = 10.0
    teacher_momentum: float = 0.0
    decoupled_decay: bool = False
    lr: float = 1e-3
    weight_decay: float = 4e-5
    lr_drop_at: float = 0.2
    scale_percentile: float = 99.5
    clip: float = 10.0
    calibration: int = 4

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        "small": dict(targets=WHOLE_BODY, short_channels=(32,) * 4, long_channels=(32,) * 5, dropout=0.0,
                      head=(128, 128), alone=0.5, anchor_stride=10, alpha=1.0, lr=3e-3, lr_drop_at=0.8),
        "release": dict(features="state", targets=MOUSE_RELEASE, head=(256, 512, 512), head_sees_input=True, warmup=2.0,
                        alpha=0.144, interaction=0.0, neighbour_past=False, norm_first=False, decoupled_decay=True,
                        lr_drop_at=0.4, scale_percentile=100.0),
        "flies": dict(features="differences", short_channels=(64,) * 4, long_channels=(64,) * 5, horizon=0.2, still=0.0,
                      warmup=2 / 3, interaction=0.0, neighbour=1 / 30),
        "quadruped": dict(features="joints", still=0.0, interaction=0.0),
        "three_scale": dict(recent_channels=(32, 16), short_channels=(64, 64, 32, 24),
                            long_channels=(64, 64, 64, 32, 24)),
    }  # fmt: skip
    """Preset "paper" is what the paper says. "small" learns in hundreds of steps on a CPU: narrower networks of the
    same reach, actions of all limbs, every tenth anchor, no dropout, comparable terms, often one space alone. "release"
    is the released code's configuration with the paper's targets and weights, which that code gets wrong, and
    untracked frames zero; "flies" its settings for flies (150 Hz); "quadruped" the paper's for robots (50 Hz); their
    units differ, hence still=0. "three_scale" adds the authors' recent past of 13 frames (widths ours)."""

    def channels(self) -> dict[str, tuple[tuple[int, ...], int]]:
        """The channels of every network there is, and the growth of its dilation."""
        named = {
            s: (getattr(self, f"{s}_channels"), getattr(self, f"{s}_dilation")) for s in ("recent", "short", "long")
        }
        return {space: shape for space, shape in named.items() if shape[0]}

    def reach(self) -> dict[str, int]:
        """Receptive field of each space in frames."""
        return {s: receptive_field(len(widths), growth, self.kernel) for s, (widths, growth) in self.channels().items()}

    def ahead(self, fps: float) -> int:
        """How many frames the objective looks ahead."""
        return round(fps * (self.horizon if self.objective == "histogram" else self.sequence))

    def build(self, spec: Spec) -> BAMSEncoder:
        """The network for this input; raises SchemaError when a window leaves no moment to predict from."""
        if self.objective not in ("histogram", "sequential"):
            raise SchemaError(f"objective is histogram or sequential, not {self.objective!r}")
        if not self.channels():
            raise SchemaError("give at least one of recent_channels, short_channels and long_channels")
        if not 0 <= self.teacher_momentum < 1 or self.predictor_lr < 0:
            raise SchemaError("teacher_momentum is at least 0 and less than 1, predictor_lr is at least 0")
        frames, fps = self.ahead(spec.fps), spec.fps
        if frames < 1 or round(self.warmup * fps) + frames >= spec.frames:
            raise SchemaError(
                f"windows of {spec.frames / fps:g} s leave nothing to predict after {self.warmup:g} s of warm-up and "
                f"before {frames / fps:g} s of future: use longer windows, a shorter warmup, at least a frame ahead"
            )
        return BAMSEncoder(self, spec)


class BAMSEncoder(Learner):
    """Spaces "short" and "long" (and "recent"), each (batch, time, individual, last channel)."""

    scale: Tensor
    edges: Tensor
    distance: Tensor

    def __init__(self, method: BAMS, spec: Spec) -> None:
        super().__init__()
        self.method, self.spec, self.seed = method, spec, spec.seed
        self.lr, self.weight_decay = method.lr, method.weight_decay
        self.features = features(method.features, spec, method.targets, method.pairs_in, method.pairs_out)
        width, quantities = self.features.width, len(self.features.quantities)
        m, channels = method, method.channels()
        for space, (widths, growth) in channels.items():
            self.add_module(space, TCN(width + 1, widths, growth, m.kernel, m.dropout, m.norm_first))
        sizes = {space: widths[-1] for space, (widths, _) in channels.items()}
        total = sum(sizes.values())
        self.bootstrapped = [space for space in sizes if space != "recent" and m.alpha]
        self.predictors = nn.ModuleDict({space: bootstrap.Predictor(sizes[space]) for space in self.bootstrapped})
        self.horizon, self.start = m.ahead(spec.fps), round(m.warmup * spec.fps)
        answers = m.bins if m.objective == "histogram" else self.horizon
        self.head = mlp((total + m.head_sees_input * (width + 1), *m.head, quantities * answers))
        self.meeting = DistanceRegression(total) if m.interaction and spec.individuals > 1 else None
        self.teachers = bootstrap.Teachers({s: self.nets()[s] for s in self.bootstrapped if m.teacher_momentum})
        self.past = max(m.reach().values()) - 1 + self.features.past
        self.register_buffer("scale", torch.ones(width))
        self.register_buffer("edges", torch.zeros(quantities, m.bins - 1))
        self.register_buffer("distance", torch.ones(()))

    def nets(self) -> dict[str, TCN]:
        """The network of each space."""
        return {space: getattr(self, space) for space in self.method.channels()}

    def calibrate(self, stream: Stream) -> None:
        """Column scales, histogram edges and the distance unit from the first training batches."""
        m = self.method
        seen = survey(stream, self.features, self.spec, m.calibration, self.device())
        self.scale.copy_(seen.scale(m.scale_percentile))
        self.edges.copy_(seen.edges(m.bins, m.still))
        self.distance.copy_(seen.distance)

    def normalise(self, movement: Movement) -> Tensor:
        """Network input (sequence, time, feature + 1): scaled features, zero where invalid, and the validity."""
        return movement.scaled(self.scale, self.method.clip)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """The spaces of every animal."""
        windows, frames, animals = batch.mask.shape
        spaces = self.encode(self.normalise(self.features(batch)))
        return {space: z.view(windows, animals, frames, -1).transpose(1, 2) for space, z in spaces.items()}

    def streaming(self) -> Streaming:
        """What embeds recordings as they come in, a few frames at a time; puts the encoder into evaluation mode."""
        return Streaming(lambda part: self.normalise(self.features(part)), self.features.past, self.eval().nets())

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Histogram of actions, bootstrap in both spaces, and distances: equations 2 to 6 of the paper."""
        movement = self.features(batch)
        inputs = self.normalise(movement)
        z, times = self.encode(inputs), self.anchors(batch.mask.shape[1])
        here = {space: part[:, times] for space, part in z.items()}
        seen = objectives.alone(here, self.method.alone * self.training)
        seen = {**seen, "input": inputs[:, times]} if self.method.head_sees_input else seen
        if self.method.objective == "histogram":
            bins = digitise(movement.targets, self.edges)
            terms = {"histogram": self.histogram_loss(seen, bins, movement.valid, times)}
        else:
            terms = {"sequence": self.sequence_loss(seen, movement.targets, movement.valid, times)}
        (total,) = terms.values()
        if self.bootstrapped:
            taught = self.teachers(inputs)
            boot = {s: self.bootstrap_loss(s, z, movement.valid, taught.get(s)) for s in self.bootstrapped}
            total = total + self.method.alpha * sum(boot.values())
            terms |= boot
        if self.meeting is not None:
            terms["interaction"] = self.meeting(torch.cat([*here.values()], -1), batch, self.spec, times, self.distance)
            total = total + self.method.interaction * terms["interaction"]
        return {"loss": total, **terms}

    def encode(self, inputs: Tensor) -> dict[str, Tensor]:
        """All spaces of (sequence, time, feature + 1) inputs, each (sequence, time, channel)."""
        return {space: net(inputs) for space, net in self.nets().items()}

    def anchors(self, frames: int) -> Tensor:
        """The frames to predict from: after the warm-up, a full horizon before the end, from a random phase."""
        return objectives.anchors(frames, self.start, self.horizon, self.method.anchor_stride, self.scale.device)

    def histogram_loss(self, seen: Mapping[str, Tensor], bins: Tensor, valid: Tensor, times: Tensor) -> Tensor:
        """Mean over anchors of the squared earth mover's distance, summed over actions and bins.

        What the head has ``seen`` are (sequence, anchor, channel), ``bins`` (sequence, time, action), ``valid``
        (sequence, time). Anchors with less than ``valid_fraction`` of their horizon tracked do not count, and
        frames that are not tracked are in no histogram.
        """
        rows, chosen = self._rows(seen, valid, times)
        counts = future_counts(bins, self.horizon, self.method.bins, times)
        return objectives.histogram_loss(self.head, rows, counts[chosen])

    def sequence_loss(self, seen: Mapping[str, Tensor], actions: Tensor, valid: Tensor, times: Tensor) -> Tensor:
        """Mean over anchors of the squared error of the next actions, a mean over frames and a sum over actions.

        Actions (sequence, time, action) are in units of the largest edge of their histogram, and bounded.
        """
        rows, chosen = self._rows(seen, valid, times)
        values = (actions / self.edges.abs().amax(1)).clamp(-self.method.clip, self.method.clip)
        ahead = objectives.future_values(values, self.horizon, times)[chosen]
        return objectives.sequence_loss(self.head, rows, ahead)

    def _rows(self, seen: Mapping[str, Tensor], valid: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        chosen = objectives.tracked(valid, times, self.horizon, self.method.valid_fraction)
        return torch.cat([part[chosen] for part in seen.values()], -1), chosen

    def bootstrap_loss(
        self, space: str, z: Mapping[str, Tensor], valid: Tensor, taught: Tensor | None = None
    ) -> Tensor:
        """2 (1 - cosine) of a prediction from one moment and another moment, of the teacher's embedding if there is."""
        moments, target = self.moments(space, *valid.shape), z[space] if taught is None else taught
        return bootstrap.bootstrap_loss(self.predictors[space], z[space], target, valid, moments)

    def moments(self, space: str, rows: int, frames: int) -> tuple[Tensor, Tensor]:
        """Pairs of frames (sequence, pair): neighbours within ``neighbour`` for "short", any two for "long"."""
        m, where = self.method, (rows, frames, min(self.start, frames - 1), self.method.pairs, self.scale.device)
        if space == "long":
            return bootstrap.anywhere(*where)
        return bootstrap.neighbours(*where, max(1, round(m.neighbour * self.spec.fps)), m.neighbour_past)

    def groups(self, lr: float) -> list[dict[str, Any]]:
        """The bootstrap predictors learn faster than the rest, which keeps the embeddings from collapsing."""
        return bootstrap.two_speeds(self, self.predictors, lr, self.method.predictor_lr)

    def optimiser(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Adam, or AdamW where the decay is decoupled."""
        if self.method.decoupled_decay:
            return torch.optim.AdamW(groups, weight_decay=self.weight_decay, fused=True)
        return super().optimiser(groups)

    def after_step(self, step: int) -> None:
        """The teachers follow."""
        self.teachers.follow(self.nets(), self.method.teacher_momentum)

    def rate(self, fraction: float) -> float:
        """A tenth after ``lr_drop_at`` of the budget."""
        return 0.1 if fraction >= self.method.lr_drop_at else 1.0
