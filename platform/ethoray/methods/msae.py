"""MSAE, the masked skeleton autoencoder: hide frames and joints of a skeleton sequence, and have them told back.

After masked autoencoders (He et al. 2022, "Masked Autoencoders Are Scalable Vision Learners") and SkeletonMAE (Wu et
al. 2023), with the SSTFormer of ``nn.sstformer``. Made for larval zebrafish: 19 keypoints, 330 Hz, bouts of 120
frames. The encoder of nine layers sees visible joints only; the decoder of four sees a mask token wherever something
is hidden. Published are the scheme of the masks, the rule that the encoder gets no mask tokens, and the layer counts;
ratios, widths, length and optimiser are our choices, guided by STTFormer and He et al. Every animal is its own
sequence. A missing keypoint is hidden before any other, never visible, and never in the loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ethoray import geometry
from ethoray.batch import Batch, Spec, Stream
from ethoray.learning import Learner, Method
from ethoray.nn import masking
from ethoray.nn.features import sequences
from ethoray.nn.filling import Evidence, filled
from ethoray.nn.parallel import gather, rand_rows, shared_mean, total
from ethoray.nn.sstformer import STSE, MaskedAutoencoder, Segments, SSTFormer
from ethoray.nn.view import Sight, View, body_length, completed, mirrored, reflected
from ethoray.nn.windows import cut, random_starts, reach, regular, spread, stitched
from ethoray.schema import SchemaError

ROWS = 128
"""Windows that are embedded or reconstructed together."""
GAPS = 36
"""Classes of gaps, see ``gaps``, that are told apart when errors are put into units."""


@dataclass(frozen=True)
class MSAE(Method):
    """Hyper-parameters of MSAE. Times in seconds.

    Attributes
    ----------
    seconds: length of the window, rounded down to whole segments (at least one); 120 frames at 330 Hz.
    segment: frames of a segment.
    hidden_frames, hidden_joints: share of the frames hidden, and of the joints in each of the others.
    longest: hide in runs of up to this time in half of the windows; 0 draws every frame afresh, as published.
    mixture: a third of the steps hides only joints, another only frames (our choice).
    encoder, decoder: width of each layer; their lengths are the numbers of layers.
    heads: attention heads of either.
    attention: "softmax", or "stt" for the tanh map of STTFormer.
    link: segments are linked by their "mean" or by "position".
    kernel: of the convolution over neighbouring tokens, in "stt".
    drop_path: probability of leaving out a branch.
    residual: predict what to add to linear interpolation in time of the visible joints (our choice).
    evidence: tokens carry their place relative to the frame's centroid too, and how far the visible ones around are
        from interpolation between their own neighbours (our choice; see ``nn.filling.Evidence``).
    loss_on: "all" joints and frames, or the "masked" ones.
    mirror: probability of exchanging left and right, where the skeleton's names tell which is which.
    rotate, scale, jitter: largest turn (radians) and change of size, noise on what is visible (body lengths).
    crops: windows cut from every animal of a training window.
    pool: the embedding is the mean over a "segment", over the "window", or "both" side by side.
    hop: time between two embedded windows; 0 is half a window.
    warmup: share of the budget over which the learning rate rises; then it falls along a cosine.
    """

    seconds: float = 120 / 330
    segment: int = 6
    hidden_frames: float = 0.4
    hidden_joints: float = 0.5
    longest: float = 0.0
    mixture: bool = False
    encoder: tuple[int, ...] = (128,) * 9
    decoder: tuple[int, ...] = (64,) * 4
    heads: int = 4
    attention: str = "softmax"
    link: str = "mean"
    kernel: int = 1
    drop_path: float = 0.1
    residual: bool = False
    evidence: bool = False
    loss_on: str = "all"
    mirror: float = 0.5
    rotate: float = 0.3
    scale: float = 0.1
    jitter: float = 0.005
    crops: int = 1
    pool: str = "window"
    hop: float = 0.0
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    clip_norm: float = 1.0

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        "half": {"hidden_frames": 0.25, "hidden_joints": 1 / 3},
        "faithful": {
            "encoder": (64,) * 3 + (128,) * 3 + (256,) * 3, "decoder": (256, 128, 128, 64), "heads": 3,
            "attention": "stt", "kernel": 5,
        },
        "small": {
            "seconds": 2.0, "encoder": (32, 32), "decoder": (32,), "drop_path": 0.0, "residual": True, "evidence": True,
            "loss_on": "masked", "pool": "both", "hop": 2.0, "lr": 3e-3,
        },
        "larva": {
            "encoder": (32,) * 2, "decoder": (32,), "longest": 0.06, "mixture": True, "drop_path": 0.0,
            "residual": True, "evidence": True, "loss_on": "masked", "pool": "both", "lr": 3e-3,
        },
    }  # fmt: skip
    """"half" leaves 51.3 % of 19 joints visible, "faithful" is sized as STTFormer; "small" is for mice and "larva" for
    larval zebrafish, in hundreds of steps on a CPU, and both repair an interpolation (all their settings ours)."""

    def build(self, spec: Spec) -> MSAEEncoder:
        """The network for this input; raises SchemaError when a window is longer than the training windows."""
        for name, known in {"loss_on": ("all", "masked"), "pool": ("segment", "window", "both")}.items():
            if getattr(self, name) not in known:
                raise SchemaError(f"msae: {name} is {' or '.join(known)}, not {getattr(self, name)!r}")
        if self.frames(spec.fps) > spec.frames:
            raise SchemaError(
                f"msae reads windows of {self.frames(spec.fps) / spec.fps:g} s and training windows have "
                f"{spec.frames / spec.fps:g} s: use longer --seconds or a shorter window"
            )
        return MSAEEncoder(self, spec)

    def frames(self, fps: float) -> int:
        """Length of a window in frames: whole segments."""
        return max(1, int(self.seconds * fps + 1e-6) // self.segment) * self.segment


class MSAEEncoder(Learner):
    """Space "msae", (batch, time, individual, feature); ``reconstruct`` fills what is hidden or missing."""

    body: Tensor
    pose: Tensor
    unit: Tensor

    def __init__(self, method: MSAE, spec: Spec) -> None:
        super().__init__()
        m = self.method = method
        self.spec, self.seed = spec, spec.seed
        self.lr, self.weight_decay, self.clip_norm = m.lr, m.weight_decay, m.clip_norm
        self.frames, joints = m.frames(spec.fps), len(spec.skeleton.keypoints)
        self.evidence = Evidence(spec.skeleton) if m.evidence else None
        inputs = 4 * spec.space + 3 if m.evidence else spec.space
        self.skip = nn.Linear(2 * spec.space, spec.space, bias=False) if m.evidence and m.residual else None
        if self.skip is not None:
            nn.init.normal_(self.skip.weight, std=0.02)
        stack = partial(
            SSTFormer, heads=m.heads, slots=m.segment * joints, attention=m.attention, by=m.link, kernel=m.kernel,
            drop=m.drop_path,
        )  # fmt: skip
        self.net = MaskedAutoencoder(
            STSE(inputs, self.frames, joints, m.encoder[0]), stack(m.encoder[0], m.encoder),
            STSE(inputs if m.residual else 0, self.frames, joints, m.decoder[0]), stack(m.decoder[0], m.decoder),
            nn.Linear(m.decoder[-1], spec.space), m.segment,
        )  # fmt: skip
        frames = masking.kept_frames(self.frames, m.hidden_frames, m.segment)
        self.kept = frames, masking.kept_joints(joints, m.hidden_joints)
        self.longest = max(1, round(m.longest * spec.fps))
        self.sides = mirrored(spec.skeleton)
        self.hop = max(1, min(round(m.hop * spec.fps) or self.frames // 2, self.frames))
        self.past, self.future = reach(self.frames, self.hop)
        self.register_buffer("body", torch.ones(()))
        self.register_buffer("pose", torch.zeros(joints, spec.space))
        self.register_buffer("unit", torch.ones(2 * GAPS + 2))

    def calibrate(self, stream: Stream) -> None:
        """Body length, mean pose, and the size of what there is to predict, from the first batches."""
        crops = [self._crops(stream(step).to(self.body.device)) for step in range(4)]
        points = torch.cat([gather(x.flatten(0, 1)) for x in crops])
        self.body.copy_(body_length(points, self.spec.skeleton))
        own = View.of(points[:, None], self.spec.skeleton, self.body, each=True)
        self.pose.copy_(own.to(points[:, None]).nanmean((0, 1)).nan_to_num(0.0))
        sums = torch.zeros(2, len(self.unit), dtype=torch.float64, device=self.unit.device)
        for x in crops:
            seen = geometry.present(x)
            visible = masking.draw(seen, *self.kept, self.longest).visible()
            view, track = self._track(x, visible)
            chosen = seen & ~visible
            error = (view.to(x) - track * self.method.residual)[chosen].square().mean(-1).double()
            sums.index_add_(1, masking.gaps(visible, GAPS)[chosen], torch.stack([error, torch.ones_like(error)]))
        squares, counts = total(sums)
        mean = squares.sum() / counts.sum().clamp(min=1)
        if mean > 0:
            self.unit.copy_(((squares + mean) / (counts + 1)).sqrt() if self.method.residual else mean.sqrt())

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Mean squared error of the coordinates, in units of what there is to predict; never of missing ones."""
        m = self.method
        x = reflected(self._crops(batch), self.sides, m.mirror)
        noisy = x + (rand_rows(*x.shape, device=x.device) - 0.5) * (math.sqrt(12) * m.jitter * self.body)
        seen = geometry.present(x)
        cells = self._draw(seen)
        visible = cells.visible()
        sight = self._seen(noisy, visible, shake=True)
        target = torch.where(seen[..., None], (sight.view.to(x) - sight.base) / sight.unit, 0.0)
        error = sight.scale[..., 0] * (self._answer(sight, cells) - target).square().mean(-1)
        hidden, frame = seen & ~visible, ~visible.any(-1, keepdim=True)
        terms = {"loss": self._mean(error, seen if m.loss_on == "all" else hidden)}
        parts = {"masked_joints": hidden & ~frame, "masked_frames": hidden & frame}
        return terms | {name: self._mean(error, which).detach() for name, which in parts.items()}

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Means over the tokens of complete windows; a missing keypoint is no token."""
        windows, frames, animals = batch.mask.shape
        x = regular(sequences(batch), self.frames, self.hop)
        parts = [self._embed(rows) for rows in x.flatten(0, 1).split(ROWS)]
        segment, whole = (torch.cat(z).unflatten(0, x.shape[:2]).float() for z in zip(*parts, strict=True))
        each = stitched(segment.repeat_interleave(self.method.segment, 2), self.frames, self.hop, frames)
        z = {"segment": [each], "window": [spread(whole, self.hop, frames)]}
        chosen = z["segment"] + z["window"] if self.method.pool == "both" else z[self.method.pool]
        return {"msae": torch.cat(chosen, -1).view(windows, animals, frames, -1).transpose(1, 2)}

    @torch.no_grad()
    def reconstruct(
        self, batch: Batch, hidden: Tensor | None = None, confidence: Tensor | None = None, threshold: float = 0.8
    ) -> Tensor:
        """Keypoints of the batch, in its own coordinates, with what was not visible filled in.

        Not visible is what is NaN, what bool ``hidden`` says, and what ``confidence``, both (batch, time, individual,
        keypoint), has below ``threshold``; the rest is returned as it came. A gap that no window
        spans is interpolated; what is padding, or of an animal with nothing visible in a window, stays NaN elsewhere.
        """
        x = sequences(batch)
        visible = geometry.present(x)
        for bad in (hidden, None if confidence is None else ~(confidence >= threshold)):
            visible = visible if bad is None else visible & ~bad.transpose(1, 2).flatten(0, 1)
        told = filled(x, visible, self.frames, self._told, ROWS).unflatten(0, (len(batch), -1)).transpose(1, 2)
        return torch.where(batch.mask[..., None, None], told, batch.keypoints)

    def groups(self, lr: float) -> list[dict[str, Any]]:
        """Decay falls on matrices only; the weights of the evidence, a few numbers, learn ten times as fast."""
        flat, rest = ([p for p in self.net.parameters() if (p.ndim < 2) == is_flat] for is_flat in (True, False))
        fast = [] if self.skip is None else [{"params": [self.skip.weight], "lr": 10 * lr, "weight_decay": 0.0}]
        return [{"params": rest, "lr": lr}, {"params": flat, "lr": lr, "weight_decay": 0.0}, *fast]

    def optimiser(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """AdamW as in masked autoencoders."""
        return torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=self.weight_decay, fused=True)

    def rate(self, fraction: float) -> float:
        """Linear warm-up, then a cosine."""
        if fraction < (warm := self.method.warmup):
            return (fraction + 0.01) / (warm + 0.01)
        return 0.5 * (1 + math.cos(math.pi * (fraction - warm) / (1 - warm)))

    def _crops(self, batch: Batch) -> Tensor:
        x = sequences(batch)
        return cut(x, random_starts(len(x), x.shape[1], self.frames, self.method.crops, x.device), self.frames)

    def _draw(self, seen: Tensor) -> masking.Cells:
        frames, joints = self.kept
        kind = int(torch.randint(3, (1,))) if self.method.mixture else 0
        kept = self.frames if kind == 1 else frames, seen.shape[2] if kind == 2 else joints
        return masking.draw(seen, *kept, self.longest)

    def _track(self, x: Tensor, visible: Tensor, shake: bool = False) -> tuple[View, Tensor]:
        """The view and, in it, the visible track interpolated in time; in the mean pose what is never visible."""
        skeleton = self.spec.skeleton
        track = completed(masking.interpolate(x, visible), self.pose, skeleton, self.body)
        view = View.of(track, skeleton, self.body, each=False).known()
        view = view.shaken(self.method.rotate, self.method.scale) if shake else view
        return view, view.to(track)

    def _seen(self, x: Tensor, visible: Tensor, shake: bool = False) -> Sight:
        """All cells as they follow from the visible ones."""
        view, track = self._track(x, visible, shake)
        unit = self.unit[masking.gaps(visible, GAPS)][..., None]
        base = track if self.method.residual else torch.zeros_like(track)
        if self.evidence is None:
            return Sight(view, base, unit, torch.ones_like(unit), track, track[..., :0])
        told, flags, scale = self.evidence(track, visible, self.unit)
        features = torch.cat([track, track - track.mean(2, keepdim=True), told, flags], -1)
        return Sight(view, base, unit * scale, scale, features, told)

    def _answer(self, seen: Sight, cells: masking.Cells) -> Tensor:
        """What to add to the track in hand, in units."""
        told: Tensor = self.net(seen.features, cells)
        return told if self.skip is None else told + self.skip(seen.evidence).float()

    def _embed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means over segments and over windows of complete windows (row, time, joint, space)."""
        cells = masking.everything(geometry.present(x))
        z = self.net.encode(self._seen(x, cells.known).features, cells)
        segments = Segments.of(cells, self.method.segment)
        return segments.mean(z), segments.total(z)

    def _told(self, x: Tensor) -> Tensor:
        """What the network says of all cells of windows (row, time, joint, space); NaN is not visible."""
        visible = geometry.present(x)
        cells = masking.compact(visible, self.method.segment)
        sight = self._seen(x, visible)
        told = sight.view.back(sight.base + sight.unit * self._answer(sight, cells))
        return torch.where(visible.any((1, 2))[:, None, None, None], told, torch.nan)

    def _mean(self, error: Tensor, which: Tensor) -> Tensor:
        return shared_mean(torch.where(which, error, 0.0).sum(), which.sum())
