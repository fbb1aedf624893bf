"""What a skeleton encoder sees: movement features of every animal, with the values whose future it predicts.

Which features there are: "velocity" and "state" for the 12-keypoint mouse, "generic" for any skeleton with or
without a body axis, "differences" for coordinates as they are, "joints" for the joints of a robot.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ethoray import geometry
from ethoray.batch import Batch, Spec
from ethoray.nn.pairs import NAMES, pair_features
from ethoray.schema import SchemaError

MOUSE_TARGETS = ("head_speed", "head_heading_change", "head_turn", "body_speed", "body_turn", "spine_dr")
"""Six actions whose future histogram BAMS predicts on mice (the paper says six and not which)."""

MOUSE_WHOLE_BODY = (
    "head_speed", "head_turn", "body_speed", "body_turn", "forepaw_left_dr", "forepaw_right_dr", "hindpaw_left_dr",
    "hindpaw_right_dr", "spine_dr",
)  # fmt: skip
"""Nine actions that involve every limb: what the head and the trunk do tells little of grooming."""

MOUSE_RELEASE = (
    "head_speed", "head_heading", "head_heading_change", "head_turn", "body_speed", "body_heading",
    "body_heading_change", "body_turn", "spine_dr",
)  # fmt: skip
"""Nine actions that the released code of BAMS predicts."""

NEAREST = ("nearest_distance_change", "nearest_bearing_change")
"""What an animal's nearest neighbour does relative to it: units a frame (negative when they approach) and radians a
frame, in the animal's own frame; the neighbour is the nearest of this frame, in it and in the one before."""

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

    def scaled(self, scale: Tensor, bound: float) -> Tensor:
        """Network input (sequence, time, feature + 1): features over ``scale``, bounded, and the validity."""
        inputs = (self.inputs / scale).clamp(-bound, bound)
        return torch.cat([inputs, self.valid[..., None].to(inputs.dtype)], -1)


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
        self._columns = _columns(self.quantities, geometry.MOUSE_ACTIONS)

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


class MouseStates(MouseVelocities):
    """30 columns of where the mouse is and how it stands, then the 36 velocities: what the released BAMS sees.

    Places of head and body, headings of both, paws and spine as length and direction, the tail's bends. The two
    slips of the release (head velocity, right paw) are not repeated.
    """

    width = 66

    def __call__(self, batch: Batch) -> Movement:
        """The movement of every animal of a batch."""
        movement = super().__call__(batch)
        keypoints = sequences(batch)
        nose, neck, left, right, centre = (keypoints[..., k, :] for k in (0, 3, 4, 5, 6))
        body = geometry.angle(centre - keypoints[..., 9, :])
        q = geometry.rotate(keypoints[..., 7:12, :] - centre[..., None, :], -body)
        base, middle, tip = q[..., 2, :], q[..., 3, :], q[..., 4, :]
        left, right = left - neck, right - neck
        columns = [
            neck, _direction(geometry.angle(nose - neck)), _polar(left), _polar(right),
            _direction(geometry.angle(right) - geometry.angle(left)), centre, _direction(body), _polar(q[..., 0, :]),
            _polar(q[..., 1, :]), geometry.length(base)[..., None], _direction(geometry.angle(middle - base)),
            _direction(geometry.angle(tip - middle)), _polar(centre - neck),
        ]  # fmt: skip
        states = torch.where(movement.valid[..., None], torch.cat(columns, -1), 0.0)
        return Movement(torch.cat([states, movement.inputs], -1), movement.targets, movement.valid)


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
        self._columns = _columns(self.quantities, tuple(names))
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


class Coordinates:
    """Coordinates as they are, then their changes from the frame before, which are what is predicted.

    With ``measured`` the recording brings the changes itself: a keypoint is a joint, its two coordinates are angle
    and angular velocity. A frame is valid when at least half of the keypoints were seen, in it and in the frame
    before; a coordinate that is missing in a valid frame is 0, and its change is in no histogram.
    """

    past = 1

    def __init__(self, spec: Spec, targets: tuple[str, ...] = (), measured: bool = False) -> None:
        points = spec.skeleton.keypoints
        names = tuple(f"{k}_velocity" for k in points) if measured else ()
        names = names or tuple(f"{k}_d{s}" for k in points for s in "xyz"[: spec.space])
        self.quantities = names if targets in ((), WHOLE_BODY) else targets
        self._columns = _columns(self.quantities, names)
        self._measured = measured
        self.width = 2 * len(names)

    def __call__(self, batch: Batch) -> Movement:
        """The movement of every animal of a batch."""
        keypoints = sequences(batch)
        seen = geometry.present(keypoints)
        valid = geometry.and_before(seen.float().mean(-1) >= 0.5)[..., None]
        place, change = keypoints.flatten(-2), geometry.difference(keypoints, -3).flatten(-2)
        if self._measured:
            place, change = keypoints[..., 0], keypoints[..., 1]
        inputs = torch.cat([place, change], -1).nan_to_num(0.0)
        actions = torch.where(valid, change[..., self._columns], torch.nan)
        return Movement(torch.where(valid, inputs, 0.0), actions, valid[..., 0])


KINDS = ("auto", "velocity", "state", "generic", "differences", "joints")


class AmongOthers:
    """Features of an animal's own movement, with what the animals around it are to it.

    Others are ordered by distance, the nearest first, so names do not matter. As inputs, for each of
    ``spec.individuals - 1`` others the columns of ``nn.pairs`` and whether it is known (0 when missing); as targets
    ``NEAREST``. The animals of a batch may be fewer or more than that; of more, the nearest count.
    """

    past: int
    width: int
    quantities: tuple[str, ...]

    def __init__(self, own: Features, spec: Spec, inputs: bool, targets: bool) -> None:
        if spec.individuals < 2:
            raise SchemaError("features of pairs need at least two animals; set pairs_in and pairs_out to False")
        self.own, self.spec, self.past = own, spec, max(own.past, 1)
        self.others = spec.individuals - 1 if inputs else 0
        self.width = own.width + self.others * (len(NAMES) + 1)
        self.quantities = own.quantities + (NEAREST if targets else ())

    def __call__(self, batch: Batch) -> Movement:
        """The movement of every animal of a batch."""
        movement = self.own(batch)
        pairs = pair_features(batch, self.spec)
        order = pairs[..., 0].nan_to_num(torch.inf).argsort(dim=-1, stable=True)
        inputs, targets = [movement.inputs], [movement.targets]
        if self.others:
            near = _take(pairs, order[..., : self.others])
            near = torch.cat([near.nan_to_num(0.0), (~near[..., :1].isnan()).to(near.dtype)], -1).flatten(3)
            near = F.pad(near, (0, self.width - self.own.width - near.shape[-1]))
            inputs.append(torch.where(movement.valid[..., None], near.transpose(1, 2).flatten(0, 1), 0.0))
        if len(self.quantities) > len(self.own.quantities):
            bearing = geometry.angle(pairs[..., 1:3])
            change = torch.stack(
                [-pairs[..., NAMES.index("closing")], geometry.wrap(geometry.difference(bearing, 1))], -1
            )
            nearest = _take(change, order[..., :1])[..., 0, :].transpose(1, 2).flatten(0, 1)
            targets.append(torch.where(movement.valid[..., None], nearest, torch.nan))
        return Movement(torch.cat(inputs, -1), torch.cat(targets, -1), movement.valid)


Features = MouseVelocities | EgocentricMotion | Coordinates | AmongOthers


def features(
    kind: str, spec: Spec, targets: tuple[str, ...] = (), pairs_in: bool = False, pairs_out: bool = False
) -> Features:
    """The features of this name, one of ``KINDS``; "auto" is velocity for the 12-keypoint mouse, generic otherwise.

    With ``pairs_in`` or ``pairs_out`` what other animals do is among the inputs or the targets.
    """
    if kind not in KINDS:
        raise SchemaError(f"features are {', '.join(KINDS[:-1])} or {KINDS[-1]}, not {kind!r}")
    if pairs_in or pairs_out:
        return AmongOthers(features(kind, spec, targets), spec, pairs_in, pairs_out)
    mouse = spec.skeleton.keypoints == geometry.MOUSE_KEYPOINTS and spec.space == 2
    if kind == "velocity" or (kind == "auto" and mouse):
        return MouseVelocities(spec, targets)
    if kind == "state":
        return MouseStates(spec, targets)
    if kind in ("differences", "joints"):
        return Coordinates(spec, targets, measured=kind == "joints" and spec.space == 2)
    return EgocentricMotion(spec, targets)


def sequences(batch: Batch) -> Tensor:
    """Keypoints with every animal of every window as its own sequence, (window * animal, time, keypoint, space).

    Windows come first, so that each worker's share of a batch is a run of rows.
    """
    moved = torch.where(batch.mask[..., None, None], batch.keypoints, torch.nan)
    return moved.transpose(1, 2).flatten(0, 1)


def _columns(quantities: tuple[str, ...], names: tuple[str, ...]) -> list[int]:
    unknown = sorted(set(quantities) - set(names))
    if unknown:
        raise SchemaError(f"no action {unknown[0]!r}; actions are {', '.join(names)}")
    return [names.index(name) for name in quantities]


def _direction(angle: Tensor) -> Tensor:
    return torch.stack([angle.cos(), angle.sin()], -1)


def _polar(vector: Tensor) -> Tensor:
    return torch.cat([geometry.length(vector)[..., None], _direction(geometry.angle(vector))], -1)


def _take(pairs: Tensor, order: Tensor) -> Tensor:
    """Of (window, time, individual, other, feature) the others at ``order`` (window, time, individual, rank)."""
    return pairs.gather(3, order[..., None].expand(*order.shape, pairs.shape[-1]))
