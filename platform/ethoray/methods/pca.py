"""PCA of the pose of a group as each animal sees it: the linear baseline of the MABe 2022 challenge.

Following the challenge's notebook (Sun et al. 2023, "MABe22"; specs in Azabou et al. 2023, Table 2): for every
animal the keypoints of all animals are taken relative to its own median keypoint, the mean is removed, and
the first components are kept. Our choices: the other animals are ordered by distance, so that renaming the
animals changes nothing; a missing keypoint stands at the mean; no low-pass filter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ethoray.batch import Batch, Spec, Stream
from ethoray.learning import Budget, Encoder, Method, Progress, State
from ethoray.nn.parallel import total
from ethoray.schema import SchemaError
from ethoray.state import encoder_state, load_encoder


@dataclass(frozen=True)
class PCA(Method):
    """Hyper-parameters of PCA.

    Attributes
    ----------
    components: kept for each animal; fewer when the pose has fewer coordinates.
    batches: training batches the covariance is taken over, at most the budget's steps.
    """

    components: int = 20
    batches: int = 50

    def build(self, spec: Spec) -> PCAEncoder:
        """An encoder whose axes are fitted by ``fit``."""
        if self.components < 1:
            raise SchemaError(f"pca needs at least one component, not {self.components}")
        return PCAEncoder(self, spec)


class PCAEncoder(Encoder):
    """Space "pca", (batch, time, individual, component)."""

    mean: Tensor
    axes: Tensor

    def __init__(self, method: PCA, spec: Spec) -> None:
        super().__init__()
        self.method = method
        width = spec.individuals * len(spec.skeleton.keypoints) * spec.space
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("axes", torch.zeros(width, min(method.components, width)))

    def fit(self, stream: Stream, budget: Budget, resume: State | None = None) -> Iterator[Progress]:
        """Mean and covariance in float64 over the first batches, then the leading eigenvectors."""
        self.to(budget.torch_device())
        if resume is not None:
            load_encoder(self, resume)
            return
        width = len(self.mean)
        sums = torch.zeros(width, dtype=torch.float64, device=self.mean.device)
        count = torch.zeros_like(sums)
        for step in range(min(self.method.batches, budget.steps)):
            rows = self._rows(stream(step).to(self.mean.device)).double()
            sums += rows.nansum(0)
            count += (~rows.isnan()).sum(0)
        mean = total(sums) / total(count).clamp(min=1)
        square = torch.zeros(width, width, dtype=torch.float64, device=self.mean.device)
        for step in range(min(self.method.batches, budget.steps)):
            rows = (self._rows(stream(step).to(self.mean.device)).double() - mean).nan_to_num(0.0)
            square += rows.T @ rows
        values, vectors = torch.linalg.eigh(total(square))
        kept = vectors.flip(1)[:, : self.axes.shape[1]]
        sign = kept.gather(0, kept.abs().argmax(0, keepdim=True)).sign()
        self.mean.copy_(mean)
        self.axes.copy_(kept * sign)
        explained = values.flip(0)[: self.axes.shape[1]].sum() / values.sum().clamp(min=1e-12)
        state = {**encoder_state(self), "step": torch.tensor(budget.steps)}
        metrics = {"loss": 1 - float(explained), "explained_variance": float(explained)}
        yield Progress(budget.steps, budget.steps, metrics, 0.0, True, lambda: state)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Projections of every animal's view of the group."""
        return {"pca": (self._view(batch) - self.mean).nan_to_num(0.0) @ self.axes}

    def _rows(self, batch: Batch) -> Tensor:
        return self._view(batch)[batch.mask]

    def _view(self, batch: Batch) -> Tensor:
        """The view (batch, time, individual, coordinate) of as many animals as the axes are for, nearest first."""
        view = group_view(batch).flatten(3)[..., : len(self.mean)]
        return F.pad(view, (0, len(self.mean) - view.shape[-1]), value=torch.nan)


def group_view(batch: Batch) -> Tensor:
    """Keypoints of the whole group around each animal, (batch, time, individual, animal * keypoint, space).

    The animal itself comes first, the others by the distance of their median keypoints, absent ones last.
    NaN where missing.
    """
    keypoints = torch.where(batch.mask[..., None, None], batch.keypoints, torch.nan)
    centre = keypoints.nanmedian(dim=3).values
    apart = (centre[:, :, :, None] - centre[:, :, None]).square().sum(-1)
    animals = apart.shape[-1]
    apart = apart.nan_to_num(torch.inf)
    apart.diagonal(dim1=-2, dim2=-1).fill_(-1.0)
    order = apart.argsort(dim=-1, stable=True)
    around = keypoints[:, :, None] - centre[:, :, :, None, None]
    shape = (*order.shape, *keypoints.shape[3:])
    return around.gather(3, order[..., None, None].expand(shape)).flatten(3, 4) if animals > 1 else around[:, :, :, 0]
