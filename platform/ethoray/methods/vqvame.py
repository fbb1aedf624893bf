"""VQ-VAME: short windows of egocentric pose, reconstructed through a product codebook.

The variational embedding of VAME (Luxem et al. 2022, "Identifying behavioral structure from deep variational
embeddings of animal motion") with the K-means quantiser of vq-wav2vec (Baevski et al. 2020) in place of the
Gaussian bottleneck: a window becomes one codeword, a tuple of one code per group. Trained by reconstruction and
the K-means loss. What VAME adds (future decoder, KL, nuclear norm of the latents) can be switched on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ethoray.batch import Batch, Spec, Stream
from ethoray.learning import Learner, Method
from ethoray.monitors import collapse
from ethoray.nn.alignment import Columns, restore
from ethoray.nn.codebook import code_counts, perplexity
from ethoray.nn.parallel import gather, rand_rows, shared_mean, world
from ethoray.nn.quantizer import KMeansQuantizer
from ethoray.nn.recurrent import ConvEncoder, RecurrentDecoder, RecurrentEncoder, annealed, gaussian, nuclear_norm
from ethoray.nn.windows import cut, random_starts, reach, regular, spread, stitched
from ethoray.schema import SchemaError

ROWS = 4096
"""Windows that are encoded at once when nothing is learned."""


@dataclass(frozen=True)
class VQVAME(Method):
    """Hyper-parameters of VQ-VAME. Times in seconds. Where nothing was published, the attribute says "our choice".

    Attributes
    ----------
    window: what one vector summarises.
    hop: time between the windows that embed a recording; 0 is one frame.
    future: how much beyond the window a second decoder predicts; 0 is none (VAME: half a second).
    crops: random windows of each animal in a training batch (our choice).
    axis: names of the centre, front and back keypoints of the alignment; () takes "center", or else the middle
        between the skeleton's front and back, and the skeleton's body axis.
    motion: give also movement and turning of the body, which alignment removes (our choice: "small" only).
    scale: divide by one standard deviation of "all" coordinates, or by that of each "column".
    encoder: "rnn" (two bidirectional GRU layers) or "conv" (strided convolutions).
    hidden: units of a GRU layer and direction, or channels of a convolution.
    quantiser: "gradient" (vq-wav2vec), "average" (moving averages, k-means start, restarts) or "none".
    groups, variables: codebooks, and codes in each.
    width: channels of a group; at least 8 with norm "group" (our choice: 16). The latent has groups * width.
    shared: one codebook for all groups.
    norm: of projected latents: "group", "layer" or "none".
    gamma: weight of the commitment in the K-means loss; ``eta``: weight of that loss (our choice: 1).
    decay, restart, cosine: of averaged codes, see ``KMeansQuantizer``.
    latent: width of the latent when there is no quantiser.
    beta: weight of the Kullback-Leibler term; 0 leaves the latent deterministic.
    cluster: weight of the nuclear norm of the latents.
    anneal_start, anneal: shares of the budget before, and during which, beta and cluster grow to their values.
    clip: bound on standardised columns, which tracking errors would exceed (our choice).
    reduction: "mean" over known coordinates, or their "sum" over the batch (VAME).
    """

    window: float = 1.0
    hop: float = 0.0
    future: float = 0.0
    crops: int = 16
    axis: tuple[str, ...] = ()
    motion: bool = False
    scale: Literal["all", "column"] = "all"
    encoder: Literal["rnn", "conv"] = "rnn"
    hidden: int = 256
    quantiser: Literal["gradient", "average", "none"] = "gradient"
    groups: int = 32
    variables: int = 120
    width: int = 16
    shared: bool = False
    norm: Literal["group", "layer", "none"] = "group"
    gamma: float = 0.25
    eta: float = 1.0
    decay: float = 0.99
    restart: float = 0.1
    cosine: bool = False
    latent: int = 30
    beta: float = 0.0
    cluster: float = 0.0
    anneal_start: float = 0.004
    anneal: float = 0.008
    reduction: Literal["mean", "sum"] = "mean"
    clip: float = 10.0
    lr: float = 5e-4
    weight_decay: float = 0.0
    calibration: int = 4

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        "vame": {"quantiser": "none", "future": 0.5, "beta": 1.0, "cluster": 1.0, "reduction": "sum"},
        "small": {
            "hop": 1 / 6,
            "crops": 16,
            "motion": True,
            "scale": "column",
            "encoder": "conv",
            "hidden": 64,
            "quantiser": "average",
            "groups": 8,
            "variables": 64,
            "width": 8,
            "norm": "layer",
            "decay": 0.95,
            "lr": 3e-3,
        },
    }
    """Preset "paper" is VAME with the K-means quantiser; "vame" is VAME alone. "small" learns in hundreds of steps on
    a CPU: a convolutional encoder, averaged codes, few groups, and the movement of the body beside its pose."""

    def build(self, spec: Spec) -> VQVAMEEncoder:
        """The networks for this input; raises SchemaError when a window does not fit or a setting is unknown."""
        choices = {
            "scale": ("all", "column"), "encoder": ("rnn", "conv"), "quantiser": ("gradient", "average", "none"),
            "norm": ("group", "layer", "none"), "reduction": ("mean", "sum"),
        }  # fmt: skip
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise SchemaError(f"vqvame: {name} is {', '.join(known)}, not {getattr(self, name)!r}")
        if len(self.axis) not in (0, 3):
            raise SchemaError(f"vqvame: axis names a centre, a front and a back keypoint, not {self.axis!r}")
        needed = self.frames(spec.fps) + round(self.future * spec.fps)
        if needed > spec.frames:
            raise SchemaError(
                f"a window of {self.window:g} s and {self.future:g} s of future do not fit into training windows of "
                f"{spec.frames / spec.fps:g} s: use longer --seconds or a shorter window"
            )
        try:
            return VQVAMEEncoder(self, spec)
        except ValueError as error:
            raise SchemaError(f"vqvame: {error}") from error

    def frames(self, fps: float) -> int:
        """Window length in frames, at least 2."""
        return max(2, round(self.window * fps))


class VQVAMEEncoder(Learner):
    """Spaces "ze", the projected latent of a window, and "zq", its codes side by side; "ze" alone without codes."""

    spent: Tensor

    def __init__(self, method: VQVAME, spec: Spec) -> None:
        super().__init__()
        self.method, self.spec, self.seed = method, spec, spec.seed
        self.lr, self.weight_decay = method.lr, method.weight_decay
        m = method
        self.length, self.ahead = m.frames(spec.fps), round(m.future * spec.fps)
        self.hop = min(max(1, round(m.hop * spec.fps)), self.length)
        self.past, self.future = reach(self.length, self.hop)
        self.columns = Columns(spec, m.axis, m.motion, m.clip)
        columns = self.columns.width
        latent = m.latent if m.quantiser == "none" else m.groups * m.width
        rnn = m.encoder == "rnn"
        self.encoder = RecurrentEncoder(columns, m.hidden) if rnn else ConvEncoder(columns, m.hidden, self.length)
        self.centre = nn.Linear(self.encoder.width, latent)
        self.spread = nn.Linear(self.encoder.width, latent) if m.beta else None
        self.quantiser: KMeansQuantizer | None = None
        if m.quantiser != "none":
            self.quantiser = KMeansQuantizer(
                latent, m.variables, m.groups, shared=m.shared, norm=m.norm, gamma=m.gamma, update=m.quantiser,
                decay=m.decay, restart=m.restart, cosine=m.cosine, seed=spec.seed,
            )  # fmt: skip
        self.decoder = RecurrentDecoder(latent, m.hidden, columns)
        self.foresight = RecurrentDecoder(latent, m.hidden, columns) if self.ahead else None
        self.register_buffer("spent", torch.zeros(()))

    def calibrate(self, stream: Stream) -> None:
        """Means and deviations of columns, then a k-means start of averaged codes, from the first batches."""
        batches = [stream(step).to(self.device()) for step in range(self.method.calibration)]
        self.columns.calibrate([self.columns.tracks(b) for b in batches], self.method.scale == "all")
        if self.quantiser is not None and self.method.quantiser == "average":
            found = []
            for batch in batches:
                latents, valid = self._latents(batch, self.length)
                found.append(gather(latents[valid]))
            vectors = torch.cat(found)
            vectors = vectors[:: max(1, len(vectors) // (40 * self.method.variables))]
            self.quantiser.start(self.quantiser.vectors(vectors[:, None]))

    def rate(self, fraction: float) -> float:
        """Constant; remembers how much of the budget is spent."""
        self.spent.fill_(fraction)
        return 1.0

    def optimiser(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Adam with AMSGrad, as in VAME."""
        return torch.optim.Adam(groups, weight_decay=self.weight_decay, amsgrad=True, fused=True)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Reconstruction of random windows and what follows them, the K-means loss, and VAME's terms."""
        m = self.method
        tracks, whole = self.columns.tracks(batch), self.length + self.ahead
        starts = random_starts(len(tracks), tracks.shape[1], whole, m.crops, tracks.device)
        x, known, valid = self.columns(cut(tracks, starts, whole))
        now = x[:, : self.length]
        summary = self.encoder(now)
        z = self.centre(summary).float()
        terms: dict[str, Tensor] = {}
        weight = annealed(self.spent, m.anneal_start, m.anneal)
        extra = torch.zeros((), device=z.device)
        if self.spread is not None:
            spread, mean = self.spread(summary).float(), z
            z = mean + (spread / 2).exp() * gaussian(rand_rows(*z.shape, device=z.device))
            each = (mean.square() + spread.exp() - 1 - spread).mean(1) / 2
            terms["divergence"] = shared_mean((each * valid).sum(), valid.sum())
            extra = extra + m.beta * weight * terms["divergence"]
        if m.cluster:
            terms["cluster"] = nuclear_norm(z * valid[:, None], z.shape[1], valid.sum())
            extra = extra + m.cluster * weight * terms["cluster"]
        if self.quantiser is not None:
            quantised = self.quantiser(z[:, None], valid[:, None])
            z = quantised.values[:, 0]
            terms["kmeans"] = quantised.loss
            terms["perplexity"] = quantised.perplexity.sum()
            extra = extra + m.eta * terms["kmeans"]
        terms["reconstruction"] = self._error(self.decoder(z, self.length), now, known[:, : self.length])
        if self.foresight is not None:
            later = slice(self.length, None)
            terms["future"] = self._error(self.foresight(z, self.ahead), x[:, later], known[:, later])
            extra = extra + terms["future"]
        return {"loss": terms["reconstruction"] + extra, **terms}

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """The spaces of every animal; each window stands for the ``hop`` frames in its middle."""
        return self._spaces(batch, self.hop)

    def codewords(self, spaces: Mapping[str, Tensor]) -> Tensor | None:
        """Codes int32 (batch, time, individual, group) of spaces that ``embed`` gave."""
        return None if self.quantiser is None else self.quantiser.lookup(spaces["zq"])[1].to(torch.int32)

    @torch.no_grad()
    def reconstruct(self, batch: Batch) -> Tensor:
        """What the codewords remember: keypoints like the batch's, in its unit, NaN where alignment is not known."""
        aligned = self.columns.aligned(batch)
        latents, _ = self._latents(batch, self.hop)
        if self.quantiser is not None:
            latents = self.quantiser.lookup(self._project(latents))[0]
        rows, windows, _ = latents.shape
        parts = [self.decoder(part, self.length).float() for part in latents.flatten(0, 1).split(ROWS)]
        decoded = self.columns.points(torch.cat(parts)).view(rows, windows, self.length, -1)
        points = stitched(decoded, self.length, self.hop, batch.mask.shape[1]).reshape(aligned.points.shape)
        keypoints = restore(aligned._replace(points=points))
        return keypoints.unflatten(0, (len(batch), -1)).transpose(1, 2)

    def watch(self, batch: Batch) -> dict[str, Tensor]:
        """Collapse of each space, and how the codebook is used, from windows that do not overlap."""
        spaces = self._spaces(batch, self.length)
        seen = {
            f"monitor/{space}/{name}": value
            for space, z in spaces.items()
            for name, value in collapse(z, batch.mask).items()
        }
        codes = self.codewords(spaces)
        if codes is not None:
            chosen = codes[:, :: self.length][batch.mask[:, :: self.length]]
            counts = code_counts(chosen.T.long(), self.method.variables)
            seen["monitor/codes/perplexity"] = perplexity(counts).mean()
            seen["monitor/codes/used"] = (counts > 0).float().mean()
        return seen

    def _spaces(self, batch: Batch, hop: int) -> dict[str, Tensor]:
        ze, _ = self._latents(batch, hop)
        spaces = {"ze": ze}
        if self.quantiser is not None:
            spaces["ze"] = self._project(ze)
            spaces["zq"] = self.quantiser.lookup(spaces["ze"])[0]
        windows, frames, animals = batch.mask.shape
        return {
            name: spread(z, hop, frames).view(windows, animals, frames, -1).transpose(1, 2)
            for name, z in spaces.items()
        }

    def _project(self, latents: Tensor) -> Tensor:
        """What is quantised, of latents (row, window, feature): every window is a sample of its own."""
        assert self.quantiser is not None
        vectors = self.quantiser.vectors(latents.flatten(0, 1)[:, None])
        return vectors.transpose(0, 1).reshape(latents.shape)

    def _latents(self, batch: Batch, hop: int) -> tuple[Tensor, Tensor]:
        """Latents of regular windows (animal of a batch window, window, feature), and whether each counts."""
        windows = regular(self.columns.tracks(batch), self.length, hop)
        rows, number = windows.shape[:2]
        latents, valid = [], []
        for part in windows.flatten(0, 1).split(ROWS):
            x, _, there = self.columns(part)
            valid.append(there)
            latents.append(self.centre(self.encoder(x)).float())
        return torch.cat(latents).view(rows, number, -1), torch.cat(valid).view(rows, number)

    def _error(self, predicted: Tensor, x: Tensor, known: Tensor) -> Tensor:
        error = torch.where(known, predicted.float() - x, 0.0).square().sum()
        return error * world()[1] if self.method.reduction == "sum" else shared_mean(error, known.sum())
