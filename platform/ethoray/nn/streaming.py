"""Causal embedding of recordings as they are made: any number of new frames at a time, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ethoray.batch import Batch
from ethoray.nn.tcn import TCN


class Streaming:
    """Call it with the next frames of a batch of recordings; it answers with the embeddings of these frames.

    Together they equal the embedding of the whole, to rounding. What it remembers does not grow: ``past`` frames of
    keypoints for the features, and (kernel - 1) * dilation frames for every convolution.
    """

    def __init__(self, inputs: Callable[[Batch], Tensor], past: int, nets: Mapping[str, TCN]) -> None:
        """``inputs`` makes (sequence, time, feature) of a batch, a frame of which depends on ``past`` before it."""
        self.inputs, self.past, self.nets = inputs, past, nets
        self._recent: Batch | None = None
        self._states: dict[str, list[Tensor]] = {}

    @torch.no_grad()
    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Embeddings (batch, time, individual, feature) of the next frames, of which there is at least one."""
        windows, frames, animals = batch.mask.shape
        before = self._recent or Batch(batch.keypoints[:, :0], batch.mask[:, :0], batch.fps)
        if frames < 1 or before.keypoints[:, 0:0].shape != batch.keypoints[:, 0:0].shape or before.fps != batch.fps:
            raise ValueError(
                "the next frames of a stream are at least one, of the same recordings, individuals, keypoints and "
                f"fps: {tuple(before.keypoints.shape)} at {before.fps:g} Hz was followed by "
                f"{tuple(batch.keypoints.shape)} at {batch.fps:g} Hz; begin a new stream for another recording"
            )
        known = before.mask.shape[1]
        keypoints = torch.cat([before.keypoints, batch.keypoints], 1)
        mask = torch.cat([before.mask, batch.mask], 1)
        inputs = self.inputs(Batch(keypoints, mask, batch.fps))[:, known:]
        first = max(known + frames - self.past, 0)
        self._recent = Batch(keypoints[:, first:].clone(), mask[:, first:].clone(), batch.fps)
        spaces = {}
        for name, net in self.nets.items():
            z, self._states[name] = net.step(inputs, self._states.get(name))
            spaces[name] = z.view(windows, animals, frames, -1).transpose(1, 2)
        return spaces
