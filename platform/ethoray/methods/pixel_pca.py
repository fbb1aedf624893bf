"""PCA of pixels: grey thumbnails of frames and their leading components, the linear baseline of BEAST's comparisons.

Fitted on training frames only (the published comparison fits training and test frames together).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ethoray.batch import Batch, Spec, Stream
from ethoray.learning import Budget, Encoder, Method, Progress, State
from ethoray.nn.parallel import total
from ethoray.nn.pictures import images
from ethoray.schema import SchemaError
from ethoray.state import encoder_state, load_encoder


@dataclass(frozen=True)
class PixelPCA(Method):
    """Hyper-parameters.

    Attributes
    ----------
    components: kept; fewer when a thumbnail has fewer pixels.
    side: height and width of the thumbnails.
    batches: training batches the covariance is taken over, at most the budget's steps.
    """

    components: int = 5
    side: int = 32
    batches: int = 50

    needs: ClassVar[Literal["keypoints", "images"]] = "images"

    def build(self, spec: Spec) -> PixelPCAEncoder:
        """An encoder whose axes are fitted by ``fit``; raises SchemaError without images."""
        if self.components < 1 or self.side < 1:
            raise SchemaError(f"pixel_pca needs a component and a pixel, not {self.components} and {self.side}")
        if spec.picture is None:
            raise SchemaError("pixel_pca learns from images; this dataset gives keypoints")
        return PixelPCAEncoder(self)


class PixelPCAEncoder(Encoder):
    """Space "pixels", (batch, time, 1, component)."""

    needs = "images"
    mean: Tensor
    axes: Tensor

    def __init__(self, method: PixelPCA) -> None:
        super().__init__()
        self.method = method
        width = method.side**2
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("axes", torch.zeros(width, min(method.components, width)))

    def fit(self, stream: Stream, budget: Budget, resume: State | None = None) -> Iterator[Progress]:
        """Mean and covariance in float64 over the first batches, then the leading eigenvectors."""
        self.to(budget.torch_device())
        if resume is not None:
            load_encoder(self, resume)
            return
        width, device = len(self.mean), self.mean.device
        sums = torch.zeros(width + 1, width + 1, dtype=torch.float64, device=device)
        for step in range(min(self.method.batches, budget.steps)):
            rows = self._thumbnails(stream(step).to(device)).double()
            rows = F.pad(rows, (0, 1), value=1.0)
            sums += rows.T @ rows
        sums = total(sums)
        sums /= sums[-1, -1].clone()
        covariance = sums[:-1, :-1] - sums[-1, :-1].outer(sums[-1, :-1])
        values, vectors = torch.linalg.eigh(covariance)
        kept = vectors.flip(1)[:, : self.axes.shape[1]]
        self.mean.copy_(sums[-1, :-1])
        self.axes.copy_(kept * kept.gather(0, kept.abs().argmax(0, keepdim=True)).sign())
        explained = float(values.flip(0)[: self.axes.shape[1]].sum() / values.sum().clamp(min=1e-12))
        state = {**encoder_state(self), "step": torch.tensor(budget.steps)}
        metrics = {"loss": 1 - explained, "explained_variance": explained}
        yield Progress(budget.steps, budget.steps, metrics, 0.0, True, lambda: state)

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Projections of every frame."""
        z = (self._thumbnails(batch) - self.mean) @ self.axes
        return {"pixels": z.view(*batch.mask.shape[:2], 1, -1)}

    def _thumbnails(self, batch: Batch) -> Tensor:
        """Grey values between 0 and 1, (image, pixel)."""
        grey = images(batch).float().mean(-1)[:, None] / 255
        return F.interpolate(grey, (self.method.side,) * 2, mode="bilinear", antialias=True).flatten(1)
