"""What a skeleton encoder sees: movement features of every animal, with the values whose future it predicts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ethoray import geometry
from ethoray.batch import Batch, Spec
from ethoray.schema import SchemaError

MOUSE_TARGETS = ("head_speed", "head_heading_change", "head_turn", "body_speed", "body_turn", "spine_dr")
"""Six actions whose future histogram BAMS predicts on mice (the paper says six and not which)."""

MOUSE_WHOLE_BODY = (
    "head_speed", "head_turn", "body_speed", "body_turn", "forepaw_left_dr", "forepaw_right_dr", "hindpaw_left_dr",
    "hindpaw_right_dr", "spine_dr",
)  # fmt: skip
"""Nine actions that involve every limb: what the head and the trunk do tells little of grooming."""

WHOLE_BODY = ("whole_body",)
"""Targets that mean the whole body, whichever the skeleton."""


@dataclass(frozen=True)
class Movement:
    """Features of (sequence, time); a sequence is one animal of one window, windows first.

    Attributes
    ----------
    inputs: float32 (sequence, time, feature), zero where not valid.
    targets: float32 (sequence, time, quantity), NaN where not known.
    valid: bool (sequence, time): tracked in this frame and the one before.
    """

    inputs: Tensor
    targets: Tensor
    valid: Tensor


class MouseVelocities:
    """The 36 velocity features of BAMS for the 12-keypoint mouse; a frame with any missing keypoint is invalid."""

    past = 2
    width = 36

    def __init__(self, spec: Spec, targets: tuple[str, ...] = ()) -> None:
        if spec.skeleton.keypoints != geometry.MOUSE_KEYPOINTS or spec.space != 2:
            raise SchemaError(
                "velocity features need the 12-keypoint mouse in 2-D, in MABe's order; "
                "use features='generic' for any other skeleton"
            )
        self.quantities = MOUSE_WHOLE_BODY if targets == WHOLE_BODY else targets or MOUSE_TARGETS
        unknown = sorted(set(self.quantities) - set(geometry.MOUSE_ACTIONS))
        if unknown:
            raise SchemaError(f"no action {unknown[0]!r}; actions are {', '.join(geometry.MOUSE_ACTIONS)}")
        self._columns = [geometry.MOUSE_ACTIONS.index(name) for name in self.quantities]

    def __call__(self, batch: Batch) -> Movement:
        """The movement of every animal of a batch."""
        keypoints = sequences(batch)
        valid = geometry.and_before(geometry.present(keypoints).all(-1))
        actions = geometry.mouse_actions(keypoints)
        features = geometry.mouse_features(actions.nan_to_num(0.0))
        return Movement(
            torch.where(valid[..., None], features, 0.0),
            torch.where(valid[..., None], actions[..., self._columns].nan_to_num(0.0), torch.nan),
            valid,
        )


class EgocentricMotion:
    """Features for any skeleton: egocentric position, its change, movement and turning of the body.

    A frame is valid when its body axis and at least half of its keypoints were seen, in it and in the frame
    before. A keypoint that is missing in a valid frame is flagged and its columns are zero. The future is
    predicted for the changes: of every egocentric coordinate, of the centroid in the body's frame, and of the
    heading.
    """

    past = 2

    def __init__(self, spec: Spec, targets: tuple[str, ...] = ()) -> None:
        skeleton, space = spec.skeleton, spec.space
        axis = skeleton.front is not None and skeleton.back is not None
        self.front = skeleton.index(skeleton.front) if skeleton.front else None
        self.back = skeleton.index(skeleton.back) if skeleton.back else None
        names = [f"{k}_d{s}" for k in skeleton.keypoints for s in "xyz"[:space]]
        names += [f"body_d{s}" for s in "xyz"[:space]] + (["body_turn"] if axis else [])
        self.quantities = tuple(names) if targets in ((), WHOLE_BODY) else targets
        unknown = sorted(set(self.quantities) - set(names))
        if unknown:
            raise SchemaError(f"no action {unknown[0]!r}; actions are {', '.join(names)}")
        self._columns = [names.index(name) for name in self.quantities]
        self._axis = axis
        self.width = len(skeleton.keypoints) * (2 * space + 1) + space + (2 if axis else 0)

    def __call__(self, batch: Batch) -> Movement:
        """The movement of every animal of a batch."""
        keypoints = sequences(batch)
        seen = geometry.present(keypoints)
        points, centre, heading = geometry.egocentric(keypoints, self.front, self.back)
        valid = seen.float().mean(-1) >= 0.5
        if self._axis:
            valid = valid & seen[..., self.front] & seen[..., self.back]
        valid = geometry.and_before(valid)
        moved = geometry.difference(points, -3).flatten(-2)
        step = geometry.difference(centre, -2)
        body = geometry.rotate(step[..., None, :], -heading)[..., 0, :]
        turn = geometry.wrap(geometry.difference(heading, -1))[..., None]
        actions = torch.cat([moved, body, turn] if self._axis else [moved, body], -1).nan_to_num(0.0)
        angles = [turn.cos(), turn.sin()] if self._axis else []
        inputs = torch.cat([points.flatten(-2), moved, body, *angles, (~seen).to(points.dtype)], -1)
        return Movement(
            torch.where(valid[..., None], inputs.nan_to_num(0.0), 0.0),
            torch.where(valid[..., None], actions[..., self._columns], torch.nan),
            valid,
        )


Features = MouseVelocities | EgocentricMotion


def features(kind: str, spec: Spec, targets: tuple[str, ...] = ()) -> Features:
    """The features called "velocity", "generic", or "auto": velocity for the 12-keypoint mouse, else generic."""
    if kind not in ("auto", "velocity", "generic"):
        raise SchemaError(f"features are auto, velocity or generic, not {kind!r}")
    mouse = spec.skeleton.keypoints == geometry.MOUSE_KEYPOINTS and spec.space == 2
    if kind == "velocity" or (kind == "auto" and mouse):
        return MouseVelocities(spec, targets)
    return EgocentricMotion(spec, targets)


def sequences(batch: Batch) -> Tensor:
    """Keypoints with every animal of every window as its own sequence, (window * animal, time, keypoint, space).

    Windows come first, so that each worker's share of a batch is a run of rows.
    """
    moved = torch.where(batch.mask[..., None, None], batch.keypoints, torch.nan)
    return moved.transpose(1, 2).flatten(0, 1)
