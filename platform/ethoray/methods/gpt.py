"""T-GPT: a causal transformer that reads a group frame by frame and predicts the next one, both ways in time.

The entry of JiaHeng-DLUT to MABe 2022 ("T-GPT" in Sun et al. 2023, "MABe22", and in Azabou et al. 2023, Table 2):
a token is one animal in one frame; attention reaches every animal of the frame and of all frames before it;
nothing codes which animal or which frame a token is, so the animals are a set. Two decoders predict the next
frame, of each animal and of the group, and the same network also reads the clip backwards: four squared errors.

Our choices: the group's target is the mean and the deviation of its animals' keypoints, which no naming of
animals can change (published: their keypoints in a fixed order); keypoints that are missing are 0 and
flagged; columns are standardised once instead of batch by batch; a flip exchanges left and right; no dropout;
clips overlap in the embedding, so that every frame has a past (published: side by side).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ethoray import geometry
from ethoray.batch import Batch, Spec, Stream
from ethoray.learning import Learner, Method
from ethoray.nn.parallel import rand_rows, shared_mean, total
from ethoray.nn.transformer import Block
from ethoray.nn.windows import cut, random_starts
from ethoray.schema import SchemaError, Skeleton

BLOCK = 1024  # clips embedded at once, which bounds memory


@dataclass(frozen=True)
class GPT(Method):
    """Hyper-parameters of T-GPT. Times in seconds.

    Attributes
    ----------
    seconds: length of a clip, 50 frames at 30 Hz.
    step: time from one frame that is read to the next; 0 reads every frame.
    hop: time from one embedded clip to the next; a frame sees at least ``seconds - hop`` of its past.
    crops: clips cut from every training window (our choice: with 8 windows the published batch of 32).
    width, layers, heads: of the transformer, whose hidden layers are four times as wide.
    latent: width of the embedding.
    flip: probability that a clip is mirrored.
    warmup: fraction of the budget in which the learning rate rises (500 of 10000 steps); then it falls to 0.
    clip: bound on standardised coordinates, which tracking errors would exceed a hundredfold (our choice).
    calibration: batches that means and deviations are fitted on.
    """

    seconds: float = 5 / 3
    step: float = 0.0
    hop: float = 5 / 6
    crops: int = 4
    width: int = 768
    layers: int = 24
    heads: int = 12
    latent: int = 128
    flip: float = 0.5
    lr: float = 1e-5
    weight_decay: float = 0.1
    clip_norm: float = 0.1
    warmup: float = 0.05
    clip: float = 5.0
    calibration: int = 4

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        "small": {
            "seconds": 3.0, "step": 1 / 6, "hop": 1.5, "crops": 8, "width": 64, "layers": 2, "heads": 4, "lr": 2e-3,
            "clip_norm": 1.0,
        },
    }  # fmt: skip
    """Preset "paper" is published; "small" learns in hundreds of steps on a CPU and reads six frames a second."""

    def build(self, spec: Spec) -> GPTEncoder:
        """The network for this input; raises SchemaError when a training window holds no clip."""
        if min(self.crops, self.layers, self.latent, self.calibration) < 1:
            raise SchemaError("gpt: crops, layers, latent and calibration must be at least 1")
        if self.width % self.heads:
            raise SchemaError(f"gpt: a width of {self.width} does not divide among {self.heads} heads")
        if max(2, round(self.seconds * spec.fps)) > spec.frames:
            raise SchemaError(
                f"gpt reads clips of {self.seconds:g} s and the training windows last {spec.frames / spec.fps:g} s: "
                "train on longer windows (--seconds) or shorten the method's"
            )
        return GPTEncoder(self, spec)


@dataclass(frozen=True)
class Clip:
    """Standardised keypoints of clips, (clip, frame, individual, keypoint, space), 0 where not known.

    Attributes
    ----------
    seen: bool (clip, frame, individual, keypoint).
    """

    keypoints: Tensor
    seen: Tensor

    @property
    def there(self) -> Tensor:
        """Bool (clip, frame, individual): some keypoint of the animal is known."""
        return self.seen.any(-1)

    def reversed(self) -> Clip:
        """The same clips with time running backwards."""
        return Clip(self.keypoints.flip(1), self.seen.flip(1))

    def group(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation over the animals, (clip, frame, keypoint, 2 * space), and bool (clip, frame, keypoint).

        Known where every animal that is there shows the keypoint: otherwise the mean would jump as one is lost.
        """
        weight = self.seen[..., None].to(self.keypoints.dtype)
        count = weight.sum(2).clamp(min=1)
        mean = (self.keypoints * weight).sum(2) / count
        square = ((self.keypoints - mean[:, :, None]).square() * weight).sum(2) / count
        known = (self.seen | ~self.there[..., None]).all(2) & self.seen.any(2)
        return torch.cat([mean, square.sqrt()], -1), known


class GPTEncoder(Learner):
    """Space "gpt", (batch, time, 1, latent): the mean over the animals of a frame, read forwards."""

    mean: Tensor
    deviation: Tensor
    mirror: Tensor

    def __init__(self, method: GPT, spec: Spec) -> None:
        super().__init__()
        self.method, self.seed = method, spec.seed
        self.lr, self.weight_decay, self.clip_norm = method.lr, method.weight_decay, method.clip_norm
        fitting = max(2, round(method.seconds * spec.fps))
        self.stride = min(max(1, round(method.step * spec.fps)), fitting // 2)
        self.length = fitting // self.stride * self.stride
        self.hop = min(max(1, round(method.hop * spec.fps / self.stride)) * self.stride, self.length)
        self.before = self.length - self.hop
        self.past, self.future = -(-self.before // self.hop) * self.hop, 0
        points, space, width = len(spec.skeleton.keypoints), spec.space, method.width
        self.token = nn.Linear(points * (space + 1), width)
        self.blocks = nn.ModuleList(Block(width, method.heads, 4 * width) for _ in range(method.layers))
        self.norm, self.project = nn.LayerNorm(width), nn.Linear(width, method.latent)
        self.each = decoder(method.latent, width, points * space)
        self.all = decoder(method.latent, width, points * 2 * space)
        self.register_buffer("mean", torch.zeros(points, space))
        self.register_buffer("deviation", torch.ones(points, space))
        self.register_buffer("mirror", torch.tensor(mirrored(spec.skeleton)))

    def calibrate(self, stream: Stream) -> None:
        """Mean and deviation of every coordinate over the animals, from the first training batches."""
        sums = [torch.zeros_like(self.mean, dtype=torch.float64) for _ in range(3)]
        for index in range(self.method.calibration):
            keypoints = _known(stream(index).to(self.mean.device)).flatten(0, 2).double()
            parts = ((~keypoints.isnan()).double().sum(0), keypoints.nansum(0), keypoints.square().nansum(0))
            sums = [before + total(part) for before, part in zip(sums, parts, strict=True)]
        mean, square = (value / sums[0].clamp(min=1) for value in sums[1:])
        deviation = (square - mean.square()).clamp(min=0).sqrt()
        self.mean.copy_(mean)
        self.deviation.copy_(torch.where(deviation > 1e-6, deviation, 1.0))

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """The last ``hop`` frames of clips that follow each other by as much; a frame between two holds the first's."""
        keypoints = _known(batch)
        rows, frames = keypoints.shape[:2]
        count = -(-frames // self.hop)
        around = (self.before, count * self.hop - frames)
        padded = F.pad(keypoints, (0, 0) * 3 + around, value=torch.nan)
        clips = padded.unfold(1, self.length, self.hop).movedim(-1, 2)[:, :, :: self.stride]
        share, parts = max(1, BLOCK // rows), []
        for first in range(0, count, share):
            clip = self.standardise(clips[:, first : first + share].flatten(0, 1))
            z = pooled(self.encode(clip), clip.there)[:, self.before // self.stride :]
            parts.append(z.unflatten(0, (rows, -1)).flatten(1, 2))
        z = torch.cat(parts, 1).repeat_interleave(self.stride, 1)[:, :frames]
        return {"gpt": z[:, :, None].float()}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Squared errors of the next frame, of each animal and of the group, forwards and backwards, and their sum."""
        rows, frames = batch.mask.shape[:2]
        starts = random_starts(rows, frames, self.length, self.method.crops, batch.mask.device)
        keypoints = cut(_known(batch), starts, self.length)[:, :: self.stride]
        turn = rand_rows(rows, self.method.crops, device=keypoints.device).flatten() < self.method.flip
        clip = self.standardise(torch.where(turn[:, None, None, None, None], self.flipped(keypoints), keypoints))
        each, group = self.errors(clip)
        each_back, group_back = self.errors(clip.reversed())
        terms = {"each": each, "group": group, "each_backwards": each_back, "group_backwards": group_back}
        return {"loss": each + group + each_back + group_back, **terms}

    def errors(self, clip: Clip) -> tuple[Tensor, Tensor]:
        """Mean squared error of the next frame of each animal, and of the group, where both frames are known."""
        z, there = self.encode(clip), clip.there
        keypoints, seen = clip.keypoints[:, 1:], clip.seen[:, 1:] & there[:, :-1, :, None]
        each = self.each(z[:, :-1]).float().view_as(keypoints)
        target, known = clip.group()
        known = known[:, 1:] & there[:, :-1].any(2)[..., None]
        group = self.all(pooled(z, there)[:, :-1]).float().view_as(target[:, 1:])
        return squared_error(each, keypoints, seen), squared_error(group, target[:, 1:], known)

    def encode(self, clip: Clip) -> Tensor:
        """(clip, frame, individual, latent); animals that are not there are never attended to."""
        flags = (~clip.seen).to(clip.keypoints.dtype)
        x = self.token(torch.cat([clip.keypoints.flatten(3), flags], -1)).flatten(1, 2)
        allowed = causal(clip.there)
        for block in self.blocks:
            x = block(x, allowed)
        z: Tensor = self.project(self.norm(x))
        return z.unflatten(1, clip.there.shape[1:])

    def standardise(self, keypoints: Tensor) -> Clip:
        """Keypoints in the recording's unit, NaN where missing, as clips."""
        seen = geometry.present(keypoints)
        bound = self.method.clip
        scaled = ((keypoints - self.mean) / self.deviation).clamp(-bound, bound)
        return Clip(torch.where(seen[..., None], scaled, 0.0), seen)

    def flipped(self, keypoints: Tensor) -> Tensor:
        """Mirrored in the middle of the second coordinate; keypoints of the left become those of the right."""
        turned = keypoints[..., self.mirror, :].clone()
        turned[..., 1] = 2 * self.mean[:, 1].mean() - turned[..., 1]
        return turned

    def groups(self, lr: float) -> list[dict[str, Any]]:
        """Matrices decay, biases and norms do not."""
        matrices = [p for p in self.parameters() if p.ndim > 1]
        vectors = [p for p in self.parameters() if p.ndim <= 1]
        decay = self.weight_decay
        return [
            {"params": matrices, "lr": lr, "weight_decay": decay},
            {"params": vectors, "lr": lr, "weight_decay": 0.0},
        ]

    def optimiser(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """AdamW with the betas of the publication."""
        return torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)

    def rate(self, fraction: float) -> float:
        """Linear warm-up, then a half cosine to 0."""
        warmup = self.method.warmup
        if fraction < warmup:
            return fraction / warmup
        return (1 + math.cos(math.pi * (fraction - warmup) / max(1 - warmup, 1e-9))) / 2


def decoder(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Linear, Tanh, LayerNorm, Linear."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.LayerNorm(hidden), nn.Linear(hidden, outputs))


def causal(there: Tensor) -> Tensor:
    """Who may attend to whom, bool (clip, 1, token, token), tokens frame by frame from (clip, frame, individual).

    To every animal that is there in the same frame or an earlier one, and always to oneself.
    """
    frames, animals = there.shape[1:]
    time = torch.arange(frames, device=there.device).repeat_interleave(animals)
    past = time[:, None] >= time
    itself = torch.eye(frames * animals, dtype=torch.bool, device=there.device)
    return ((past & there.flatten(1)[:, None]) | itself)[:, None]


def pooled(z: Tensor, there: Tensor) -> Tensor:
    """The mean over the animals that are there, 0 without any, of (clip, frame, individual, feature)."""
    weight = there[..., None].to(z.dtype)
    return (z * weight).sum(2) / weight.sum(2).clamp(min=1)


def squared_error(predicted: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Mean over the coordinates of known keypoints, of all workers: (..., keypoint, space) and (..., keypoint)."""
    error = (predicted - target).square() * known[..., None]
    return shared_mean(error.sum(), known.sum() * target.shape[-1])


def mirrored(skeleton: Skeleton) -> list[int]:
    """For every keypoint the one that takes its place in a mirror: "left" and "right" are exchanged."""
    names = skeleton.keypoints
    partners = [n.replace("left", "\0").replace("right", "left").replace("\0", "right") for n in names]
    return [names.index(p) if p in names else i for i, p in enumerate(partners)]


def _known(batch: Batch) -> Tensor:
    return torch.where(batch.mask[..., None, None], batch.keypoints, torch.nan)
