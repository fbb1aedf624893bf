"""TVAE, the trajectory variational autoencoder: a code of two thirds of a second from which movement is replayed.

A baseline of MABe 2022 (Sun et al. 2023, "MABe22: a multi-species multi-task benchmark for learned
representations of behavior"; after Co-Reyes et al. 2018 and Sun et al. 2021, "Task programming"). What an animal
and the others around it did in a short window is encoded in both directions and averaged; a decoder starts from
the first state and adds its own sampled actions frame by frame, under the likelihood of the true ones. The
embedding of a frame is the mean of the code of the window around it.

Our choices: the others are ordered by distance instead of by number; poses are centred on the centroid, along the
skeleton's body axis; actions are in units of their spread; an animal counts where its axis and half of its keypoints
are seen (the rest stand where they usually do) and else keeps its last state; the decoder remembers actions alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ethoray import geometry
from ethoray.batch import Batch, Spec, Stream
from ethoray.learning import Learner, Method
from ethoray.nn.gaussian import divergence, free_bits, negative_log_likelihood, randn_rows, reparametrised
from ethoray.nn.parallel import shared_mean, total
from ethoray.nn.windows import cut, random_starts, reach, regular, spread
from ethoray.schema import SchemaError

BLOCK = 2048  # windows embedded at once, which bounds memory


@dataclass(frozen=True)
class TVAE(Method):
    """Hyper-parameters of TVAE. Times in seconds.

    Attributes
    ----------
    seconds: length of a window, 21 frames at 30 Hz.
    hop: time from one embedded window to the next; 0 is every frame.
    crops: windows of an animal in a step (our choice: 5 of each of 3 mice in 8 recordings are about the published 128).
    left_out: names of keypoints that the pose does without.
    components: of the egocentric pose, at most what its keypoints allow.
    hidden, latent: width of the networks and of the code.
    free: nats of divergence that the whole code has for free, in equal parts a dimension.
    clip: bound on actions in units of their spread, which tracking errors would exceed a hundredfold (our choice).
    calibration: batches that components and scales are fitted on.
    """

    seconds: float = 0.7
    hop: float = 0.0
    crops: int = 5
    left_out: tuple[str, ...] = ("tail_middle", "tail_tip")
    components: int = 7
    hidden: int = 256
    latent: int = 32
    free: float = 1.0
    lr: float = 2e-4
    weight_decay: float = 0.0
    clip_norm: float = 10.0
    clip: float = 10.0
    calibration: int = 4

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        "small": {"hop": 0.2, "crops": 16, "hidden": 64, "lr": 2e-3},
    }
    """Preset "paper" is published; "small" learns in hundreds of steps on a CPU and embeds every fifth of a second."""

    def build(self, spec: Spec) -> TVAEEncoder:
        """The network for this input; raises SchemaError when a training window holds no window of its own."""
        if min(self.crops, self.components, self.hidden, self.latent, self.calibration) < 1:
            raise SchemaError("tvae: crops, components, hidden, latent and calibration must be at least 1")
        if max(2, round(self.seconds * spec.fps)) > spec.frames:
            raise SchemaError(
                f"tvae looks at {self.seconds:g} s and the training windows last {spec.frames / spec.fps:g} s: "
                "train on longer windows (--seconds) or shorten the method's"
            )
        return TVAEEncoder(self, spec)


class States(nn.Module):
    """The state of every animal in ``width`` columns of about unit spread, fitted by ``calibrate``.

    The centroid; with a body axis the sine and cosine of the heading; leading components of the egocentric pose.
    """

    mean: Tensor
    axes: Tensor
    deviation: Tensor
    middle: Tensor
    spread: Tensor
    step: Tensor

    def __init__(self, spec: Spec, left_out: tuple[str, ...], components: int) -> None:
        super().__init__()
        skeleton = spec.skeleton
        wanted = {*skeleton.keypoints} - {*left_out} | {skeleton.front, skeleton.back}
        kept = [k for k in skeleton.keypoints if k in wanted]
        if not kept:
            raise SchemaError("tvae: left_out leaves no keypoint to make a pose of")
        self.kept = [skeleton.index(k) for k in kept]
        self.front = kept.index(skeleton.front) if skeleton.front else None
        self.back = kept.index(skeleton.back) if skeleton.back else None
        self.space, points = spec.space, len(kept) * spec.space
        scores = min(components, points - spec.space)
        self.width = spec.space + (2 if self.front is not None else 0) + scores
        self.register_buffer("mean", torch.zeros(points))
        self.register_buffer("axes", torch.eye(points)[:, :scores].clone())
        self.register_buffer("deviation", torch.ones(scores))
        self.register_buffer("middle", torch.zeros(spec.space))
        self.register_buffer("spread", torch.ones(()))
        self.register_buffer("step", torch.ones(self.width))

    @torch.no_grad()
    def calibrate(self, stream: Stream, batches: int) -> None:
        """Mean and leading axes of the pose, spread of places, and size of a step, from the first batches."""
        held = [stream(index).to(self.mean.device) for index in range(batches)]
        rows = torch.cat([pose[known] for pose, _, _, known in map(self._parts, held)]).double()
        mean = (total(rows.nansum(0)) / total((~rows.isnan()).sum(0)).clamp(min=1)).view(-1, self.space)
        self.mean.copy_((mean - mean.mean(0)).flatten())
        parts = [(pose[known], centre[known]) for pose, centre, _, known in map(self._parts, held)]
        x, place = (torch.cat(each).double() for each in zip(*parts, strict=True))
        x, count = (x - self.mean).nan_to_num(0.0), total(x.new_tensor(len(x)))
        if not count > 0:
            raise SchemaError("tvae: the first batches hold no frame with the body axis and half of the keypoints")
        values, vectors = torch.linalg.eigh(total(x.T @ x) / count)
        axes = vectors.flip(1)[:, : self.axes.shape[1]]
        self.axes.copy_(axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign())
        deviation = torch.maximum(values.flip(0)[: len(self.deviation)], 1e-6 * values[-1].clamp(min=0)).sqrt()
        self.deviation.copy_(torch.where(deviation > 0, deviation, 1.0))
        self.middle.copy_(total(place.sum(0)) / count)
        apart = (total((place - self.middle).square().sum()) / count).sqrt()
        self.spread.copy_(torch.where(apart > 0, apart, 1.0))
        square, pairs = torch.zeros_like(self.step).double(), torch.zeros_like(count)
        for state, known in map(self, held):
            both = known[:, 1:] & known[:, :-1]
            square += total((state[:, 1:] - state[:, :-1])[both].double().square().sum(0))
            pairs += total(both.sum())
        step = (square / pairs.clamp(min=1)).sqrt()
        self.step.copy_(torch.where(step > 1e-6, step, 1.0))

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """States float32 (window, time, individual, width), zero where unknown, and bool (window, time, individual)."""
        pose, centre, heading, known = self._parts(batch)
        columns = [(centre - self.middle) / self.spread]
        if self.front is not None:
            columns.append(torch.stack([heading.sin(), heading.cos()], -1))
        columns.append((pose - self.mean).nan_to_num(0.0) @ self.axes / self.deviation)
        return torch.where(known[..., None], torch.cat(columns, -1), 0.0), known

    def _parts(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        keypoints = torch.where(batch.mask[..., None, None], batch.keypoints, torch.nan)[..., self.kept, :]
        seen = geometry.present(keypoints)
        pose, centre, heading = geometry.egocentric(keypoints, self.front, self.back)
        usual = torch.where(seen[..., None], self.mean.view(-1, self.space), 0.0).sum(-2)
        usual = (usual / seen.sum(-1, keepdim=True).clamp(min=1))[..., None, :]  # of what was seen, off the centroid
        centre = centre - geometry.rotate(usual, heading)[..., 0, :]
        return (pose + usual).flatten(-2), centre, heading, (seen.float().mean(-1) >= 0.5) & ~heading.isnan()


@dataclass(frozen=True)
class View:
    """What one animal of each window sees: itself first, then the others, the nearest first.

    Attributes
    ----------
    states: float32 (row, time, seat, column); an unknown animal keeps its last state, or has its first.
    actions: float32 (row, time - 1, seat, column), steps between states that are ``known``, else 0.
    known: bool (row, time - 1, seat): whether both ends of a step are.
    absent: float32 (row, seat), 1 for an animal that the window never shows, whose states are 0.
    """

    states: Tensor
    actions: Tensor
    known: Tensor
    absent: Tensor


def view(states: Tensor, known: Tensor, focal: Tensor, seats: int, space: int) -> View:
    """What animal ``focal`` (row,) sees of (row, time, individual, column), of whose columns the first are a place.

    The others sit by mean distance, absent ones last; a seat nobody takes is absent, the farthest go without one.
    """
    there = known.any(1)
    states = carried(states, known)
    row = torch.arange(len(focal), device=focal.device)
    own = states[row, :, focal, :space]
    apart = geometry.length(states[..., :space] - own[:, :, None]).mean(1)
    apart = apart.masked_fill(~there, torch.inf).scatter(1, focal[:, None], -1.0)
    order = apart.argsort(dim=1, stable=True)[:, :seats]
    states, known = states[row[:, None], :, order], known[row[:, None], :, order]  # (row, seat, time, ...)
    both = known[:, :, 1:] & known[:, :, :-1]
    actions = (states[:, :, 1:] - states[:, :, :-1]).masked_fill(~both[..., None], 0.0)
    free = seats - order.shape[1]
    return View(
        F.pad(states, (0, 0, 0, 0, 0, free)).transpose(1, 2),
        F.pad(actions, (0, 0, 0, 0, 0, free)).transpose(1, 2),
        F.pad(both, (0, 0, 0, free)).transpose(1, 2),
        F.pad((~there[row[:, None], order]).float(), (0, free), value=1.0),
    )


def carried(states: Tensor, known: Tensor) -> Tensor:
    """(row, time, individual, column) with the last known state in every gap, and the first before it; else 0."""
    time = torch.arange(known.shape[1], device=known.device)[None, :, None]
    last = torch.where(known, time, -1).cummax(1).values
    first = known.int().argmax(1, keepdim=True)
    source = torch.where(last >= 0, last, first)
    filled = states.gather(1, source[..., None].expand_as(states))
    return filled.masked_fill(~known.any(1)[:, None, :, None], 0.0)


class TVAEEncoder(Learner):
    """Space "tvae", (batch, time, individual, latent): the mean of the code of the window around a frame."""

    def __init__(self, method: TVAE, spec: Spec) -> None:
        super().__init__()
        self.method, self.seed, self.seats = method, spec.seed, spec.individuals
        self.lr, self.weight_decay, self.clip_norm = method.lr, method.weight_decay, method.clip_norm
        self.length = max(2, round(method.seconds * spec.fps))
        self.hop = min(max(1, round(method.hop * spec.fps)), self.length)
        self.past, self.future = reach(self.length, self.hop)
        self.states = States(spec, method.left_out, method.components)
        columns, h, z = self.seats * self.states.width, method.hidden, method.latent
        self.reader = nn.GRU(2 * columns + self.seats, h, batch_first=True, bidirectional=True)
        self.posterior = nn.Sequential(nn.Linear(2 * h, h), nn.ReLU(), nn.Linear(h, h), nn.ReLU(), nn.Linear(h, 2 * z))
        self.memory = nn.GRU(columns, h, batch_first=True)
        self.context = nn.Linear(h + z + self.seats, h)  # with ``situation`` one layer of (state, code, memory)
        self.situation = nn.Linear(columns, h, bias=False)
        self.action = nn.Sequential(nn.ReLU(), nn.Linear(h, h), nn.ReLU(), nn.Linear(h, 2 * columns))

    def calibrate(self, stream: Stream) -> None:
        """Components of the pose, and scales, from the first training batches."""
        self.states.calibrate(stream, self.method.calibration)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """The posterior mean, one for every ``hop`` frames."""
        windows = regular(self._columns(batch), self.length, self.hop, fill=0.0)
        rows, count, _, animals = windows.shape[:4]
        share, parts = max(1, BLOCK // (rows * animals)), []
        for first in range(0, count, share):
            block = windows[:, first : first + share].flatten(0, 1)
            focal = torch.arange(animals, device=block.device).repeat(len(block))
            mean, _ = self.encode(self._view(block.repeat_interleave(animals, 0), focal))
            parts.append(mean.view(rows, -1, animals, mean.shape[-1]))
        return {"tvae": spread(torch.cat(parts, 1), self.hop, batch.mask.shape[1])}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Negative evidence bound with free bits, the surprise at all actions, and the divergence: nats a window."""
        rows, frames, animals = batch.mask.shape
        starts = random_starts(rows * animals, frames, self.length, self.method.crops, batch.mask.device)
        focal = torch.arange(animals, device=starts.device).repeat_interleave(self.method.crops).repeat(rows)
        seen = self._view(cut(self._columns(batch), starts.view(rows, -1), self.length), focal)
        mean, logvar = self.encode(seen)
        code = reparametrised(mean, logvar, randn_rows(*mean.shape, device=mean.device))
        predicted, uncertainty = self.roll_out(seen, code, randn_rows(*seen.actions.shape, device=mean.device))
        surprise = negative_log_likelihood(seen.actions, predicted, uncertainty) * seen.known[..., None]
        counts = seen.known[:, :, 0].any(1)
        nll, kl = surprise.sum((1, 2, 3)), divergence(mean, logvar)
        costs = {"loss": nll + free_bits(kl, self.method.free / kl.shape[1]), "nll": nll, "kl": kl.sum(1)}
        return {name: shared_mean((cost * counts).sum(), counts.sum()) for name, cost in costs.items()}

    def encode(self, seen: View) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (row, latent) of the code, averaged over the steps in which the animal is known."""
        absent = seen.absent[:, None].expand(-1, seen.actions.shape[1], -1)
        read, _ = self.reader(torch.cat([seen.states[:, :-1].flatten(2), seen.actions.flatten(2), absent], -1))
        weight = seen.known[:, :, :1].to(read.dtype)
        mean, logvar = self.posterior((read * weight).sum(1) / weight.sum(1).clamp(min=1)).float().chunk(2, -1)
        return mean, logvar.clamp(-16, 16)

    def roll_out(self, seen: View, code: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of every action, (row, step, seat, column), along a path of sampled actions.

        The state starts at the true one and is never corrected; the memory has seen the true actions before.
        ``noise`` is standard normal, of the actions' shape; a step that is not known moves nothing.
        """
        steps = seen.actions.shape[1]
        remembered, _ = self.memory(F.pad(seen.actions.flatten(2), (0, 0, 1, -1)))
        fixed = torch.cat([code, seen.absent], -1)[:, None].expand(-1, steps, -1)
        context = self.context(torch.cat([remembered, fixed], -1)).unbind(1)
        stride = self.states.step * seen.known[..., None]
        state, outputs = seen.states[:, 0], []
        for t in range(steps):
            mean, logvar = self.action(context[t] + self.situation(state.flatten(1))).float().chunk(2, -1)
            mean, logvar = mean.view_as(state), logvar.view_as(state).clamp(-8, 8)
            outputs.append(torch.stack([mean, logvar]))
            state = state + stride[:, t] * reparametrised(mean, logvar, noise[:, t])
        return torch.stack(outputs, 2).unbind()  # type: ignore[return-value]

    def _columns(self, batch: Batch) -> Tensor:
        states, known = self.states(batch)
        return torch.cat([states, known[..., None].to(states.dtype)], -1)

    def _view(self, columns: Tensor, focal: Tensor) -> View:  # its actions in units of their spread
        v = view(columns[..., :-1], columns[..., -1] > 0, focal, self.seats, self.states.space)
        actions = (v.actions / self.states.step).clamp(-self.method.clip, self.method.clip)
        return View(v.states, actions, v.known, v.absent)
