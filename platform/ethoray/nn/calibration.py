"""What the first training batches say of the units: of features, of actions, and of distances."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ethoray import geometry
from ethoray.batch import Batch, Spec, Stream
from ethoray.nn.features import Movement
from ethoray.nn.histogram import equal_edges
from ethoray.nn.interaction import places
from ethoray.nn.parallel import gather
from ethoray.schema import SchemaError


@dataclass(frozen=True)
class Survey:
    """All valid frames of some batches, of all workers.

    Attributes
    ----------
    columns: inputs (row, feature).
    actions: targets (row, quantity), NaN where not known.
    distance: mean distance of two animals; 1 when there are no two or they are always at one place.
    """

    columns: np.ndarray
    actions: np.ndarray
    distance: Tensor

    def scale(self, percentile: float) -> Tensor:
        """This percentile of the size of each feature, 1 where that is 0."""
        scale = np.percentile(np.abs(self.columns), percentile, axis=0)
        return torch.as_tensor(np.where(scale > 0, scale, 1.0))

    def edges(self, bins: int, still: float) -> Tensor:
        """Edges (quantity, bins - 1) of every action's histogram; see ``equal_edges``."""
        return torch.as_tensor(np.stack([equal_edges(column, bins, still) for column in self.actions.T]))


def survey(
    stream: Stream, features: Callable[[Batch], Movement], spec: Spec, batches: int, device: torch.device
) -> Survey:
    """Look at the first batches of a stream; raises SchemaError when no frame is valid."""
    inputs, targets, distances = [], [], []
    for step in range(batches):
        batch = stream(step).to(device)
        movement = features(batch)
        inputs.append(movement.inputs[movement.valid])
        targets.append(movement.targets[movement.valid])
        distances.append(geometry.pair_distances(places(batch, spec)).flatten())
    columns = gather(torch.cat(inputs)).cpu().numpy()
    if not len(columns):
        raise SchemaError("the first training batches hold no frame that is tracked well enough to learn from")
    apart = gather(torch.cat(distances)).nanmean()
    distance = apart if apart > 0 else torch.ones_like(apart)
    return Survey(columns, gather(torch.cat(targets)).cpu().numpy(), distance)
