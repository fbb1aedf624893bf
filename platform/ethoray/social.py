"""Nine social behaviours of mice as rules on pose: who is near, who touches, who follows, who looks at whom.

Keypoints are (time, individual, keypoint, 2) in MABe's order of 12; a behaviour is a bool (time,), true when any
pair of animals shows it. Distances are pixels of a recording in which a mouse measures about 90 from nose to
tail base, times are seconds, speeds pixels per second. The forms of the rules are those behind MABe 2022 (Sun
et al. 2023); their thresholds were never published, so the numbers here are our own. A missing keypoint can
make a frame False, never True by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np

NOSE, EAR_LEFT, EAR_RIGHT, NECK, TAIL_BASE = 0, 1, 2, 3, 9
BODY = slice(0, 10)
"""Keypoints whose hull is the animal's body: all but the two on the tail."""


def hull_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Exact distance between the convex hulls of two point sets, per row; 0 where they overlap.

    a (row, point, 2) and b (row, point, 2) give (row,) float64. NaN points do not count; a row in which a set
    has no point is NaN. Gilbert, Johnson and Keerthi 1988, for all rows at once: the distance is that of the
    origin from the hull of all differences, approached by a segment of extreme differences.
    """
    a, b = _without_missing(a), _without_missing(b)
    distance = np.full(len(a), np.nan)
    rows = np.flatnonzero(np.isfinite(a[:, 0, 0]) & np.isfinite(b[:, 0, 0]))
    p = q = a[rows, 0] - b[rows, 0]
    for _ in range(100):
        nearest = _nearest_to_origin(p, q)
        w = _extreme(a[rows], b[rows], nearest)
        squared = (nearest**2).sum(-1)
        around = _origin_inside(p, q, w)
        done = around | (squared - (nearest * w).sum(-1) <= 1e-10 * (1 + squared))
        distance[rows[done]] = np.where(around, 0.0, np.sqrt(squared))[done]
        keep = ~done
        rows, p, q, w = rows[keep], p[keep], q[keep], w[keep]
        if not rows.size:
            return distance
        near_p, near_q = _nearest_to_origin(p, w), _nearest_to_origin(q, w)
        closer = (near_p**2).sum(-1) <= (near_q**2).sum(-1)
        p, q = np.where(closer[:, None], p, q), w
    raise ArithmeticError(f"hull distance did not settle in {rows.size} frames; are coordinates in pixels or mm?")


def _without_missing(points: np.ndarray) -> np.ndarray:
    points = np.asarray(points, dtype=np.float64)
    seen = np.isfinite(points).all(-1)
    first = np.take_along_axis(points, seen.argmax(-1)[:, None, None], axis=1)
    return np.where(seen[..., None], points, first)


def _nearest_to_origin(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    edge = q - p
    squared = (edge**2).sum(-1)
    along = np.clip(-(p * edge).sum(-1) / np.where(squared > 0, squared, 1), 0, 1)
    return p + along[:, None] * edge


def _extreme(a: np.ndarray, b: np.ndarray, away: np.ndarray) -> np.ndarray:
    """The difference of a point of a and one of b that lies farthest against ``away``."""
    x, y = away[:, :1], away[:, 1:]
    low = (a[..., 0] * x + a[..., 1] * y).argmin(-1)
    high = (b[..., 0] * x + b[..., 1] * y).argmax(-1)
    return a[np.arange(len(a)), low] - b[np.arange(len(b)), high]


def _origin_inside(p: np.ndarray, q: np.ndarray, w: np.ndarray) -> np.ndarray:
    sides = np.stack([s[:, 0] * t[:, 1] - s[:, 1] * t[:, 0] for s, t in ((p, q), (q, w), (w, p))])
    return np.asarray((sides > 0).all(0) | (sides < 0).all(0))


def _anyone(shown: np.ndarray) -> np.ndarray:
    return np.asarray(shown.any(0))


def runs(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs of True in a bool (row, time): arrays of row, first frame and one past the last frame."""
    steps = np.diff(mask.astype(np.int8), axis=-1, prepend=0, append=0)
    row, start = np.nonzero(steps == 1)
    return row, start, np.nonzero(steps == -1)[1]


def _from_runs(row: np.ndarray, start: np.ndarray, stop: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    steps = np.zeros((shape[0], shape[1] + 1), dtype=np.int32)
    np.add.at(steps, (row, start), 1)
    np.add.at(steps, (row, stop), -1)
    return np.asarray(steps.cumsum(-1)[:, :-1] > 0)


def lasting(mask: np.ndarray, frames: int) -> np.ndarray:
    """The mask (row, time) without runs shorter than so many frames."""
    row, start, stop = runs(mask)
    long = stop - start >= frames
    return _from_runs(row[long], start[long], stop[long], mask.shape)


def bridged(mask: np.ndarray, frames: int) -> np.ndarray:
    """The mask (row, time) with gaps of at most so many frames closed; its two ends are not gaps."""
    row, start, stop = runs(~mask)
    gap = (stop - start <= frames) & (start > 0) & (stop < mask.shape[-1])
    return mask | _from_runs(row[gap], start[gap], stop[gap], mask.shape)


def _trailing(values: np.ndarray, frames: int, reduce: np.ufunc, fill: float) -> np.ndarray:
    """np.maximum or np.minimum over the last so many frames, the present one included, along the last axis."""
    padded = np.concatenate([np.full((*values.shape[:-1], frames - 1), fill), values], -1)
    return np.asarray(reduce.reduce(np.lib.stride_tricks.sliding_window_view(padded, frames, -1), -1))


@dataclass(frozen=True)
class Scene:
    """Keypoints (time, individual, 12, 2) at some frames per second, and what the rules read from them.

    What is measured is measured once: rows of ``gap`` are unordered pairs, of ``from_to`` quantities ordered ones.
    """

    keypoints: np.ndarray
    fps: float

    def __post_init__(self) -> None:
        shape = self.keypoints.shape
        if len(shape) != 4 or shape[2:] != (12, 2) or shape[0] < 1 or shape[1] < 2:
            raise ValueError(f"keypoints must be (time, two individuals or more, 12, 2), not {shape}")

    def frames(self, seconds: float) -> int:
        """A duration in frames, at least one."""
        return max(1, round(seconds * self.fps))

    @cached_property
    def pairs(self) -> np.ndarray:
        """(pair, 2): the individuals of each unordered pair."""
        return np.array(list(combinations(range(self.keypoints.shape[1]), 2)))

    @cached_property
    def ordered(self) -> np.ndarray:
        """(2 * pair, 2): every pair, then every pair the other way round."""
        return np.concatenate([self.pairs, self.pairs[:, ::-1]])

    @cached_property
    def gap(self) -> np.ndarray:
        """(pair, time): distance between the two bodies."""
        body = np.moveaxis(self.keypoints[:, :, BODY], 1, 0).astype(np.float64)
        a, b = (body[self.pairs[:, side]].reshape(-1, *body.shape[2:]) for side in (0, 1))
        return hull_distance(a, b).reshape(len(self.pairs), -1)

    @cached_property
    def centre(self) -> np.ndarray:
        """(individual, time, 2): mean of the body's keypoints."""
        return np.moveaxis(self.keypoints[:, :, BODY].astype(np.float64).mean(2), 1, 0)

    @cached_property
    def velocity(self) -> np.ndarray:
        """(individual, time, 2): of the centre, over a sixth of a second around each frame."""
        reach, t = self.frames(1 / 12), np.arange(len(self.keypoints))
        before, after = np.maximum(t - reach, 0), np.minimum(t + reach, t[-1])
        return (self.centre[:, after] - self.centre[:, before]) * (self.fps / np.maximum(after - before, 1))[:, None]

    @cached_property
    def speed(self) -> np.ndarray:
        """(individual, time): length of the velocity."""
        return np.linalg.norm(self.velocity, axis=-1)

    def point_distance(self, mine: int, theirs: int) -> np.ndarray:
        """(2 * pair, time): from a keypoint of the first animal to one of the second, for ordered pairs."""
        points = np.moveaxis(self.keypoints.astype(np.float64), 1, 0)
        return np.linalg.norm(points[self.ordered[:, 1], :, theirs] - points[self.ordered[:, 0], :, mine], axis=-1)


def close(scene: Scene, *, distance: float = 36.0, gap: float = 0.2) -> np.ndarray:
    """Two bodies near each other; short interruptions are bridged."""
    return _anyone(bridged(scene.gap <= distance, scene.frames(gap)))


def contact(scene: Scene, *, distance: float = 4.0, gap: float = 0.2) -> np.ndarray:
    """Two bodies that touch: as ``close``, at a distance within the error of tracking."""
    return close(scene, distance=distance, gap=gap)


def huddles(
    scene: Scene, *, distance: float = 10.0, displacement: float = 14.0, minimum: float = 3.0, gap: float = 0.3
) -> np.ndarray:
    """Two bodies that stay together, both in their place, for a while."""
    span = scene.frames(minimum)
    track = np.moveaxis(scene.centre, 1, -1)
    extent = _trailing(track, span, np.maximum, np.inf) - _trailing(track, span, np.minimum, -np.inf)
    ends = extent.max(1) <= displacement
    row, stop = np.nonzero(ends)
    settled = _from_runs(row, stop - span + 1, stop + 1, (ends.shape[0], ends.shape[1]))
    both = settled[scene.pairs[:, 0]] & settled[scene.pairs[:, 1]]
    return _anyone(lasting(bridged((scene.gap <= distance) & both, scene.frames(gap)), span))


def chases(
    scene: Scene,
    *,
    speed: float = 130.0,
    distance: float = 70.0,
    deviation: float = np.pi / 4,
    proportion: float = 0.7,
    minimum: float = 0.4,
    gap: float = 0.15,
) -> np.ndarray:
    """Two fast animals, one of which runs towards the other in most frames of the run."""
    fast = scene.speed >= speed
    near = (scene.gap <= distance) & fast[scene.pairs[:, 0]] & fast[scene.pairs[:, 1]]
    near = lasting(bridged(near, scene.frames(gap)), scene.frames(minimum))
    me, other = scene.ordered.T
    offset = scene.centre[other] - scene.centre[me]
    towards = (_unit(scene.velocity[me]) * _unit(offset)).sum(-1) >= np.cos(deviation)
    row, start, stop = runs(np.tile(near, (2, 1)))
    total = np.pad(towards.cumsum(-1), ((0, 0), (1, 0)))
    chased = total[row, stop] - total[row, start] >= proportion * (stop - start)
    return _anyone(_from_runs(row[chased], start[chased], stop[chased], towards.shape))


def _unit(vector: np.ndarray) -> np.ndarray:
    return np.asarray(vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-9))


def approaches(
    scene: Scene, *, before: float = 50.0, arrived: float = 15.0, within: float = 2.0, still: float = 27.0
) -> np.ndarray:
    """One animal comes to another that hardly moves: from the last far frame to the nearest one of the visit."""
    reach = scene.frames(within)
    found = np.zeros(scene.gap.shape, dtype=bool)
    for pair, arrival, leave in zip(*runs(scene.gap <= arrived), strict=True):
        first = max(0, arrival - reach)
        far = np.flatnonzero(scene.gap[pair, first:arrival] >= before)
        if far.size:
            start = first + far[-1]
            last = arrival + int(scene.gap[pair, arrival : min(leave, start + reach + 1)].argmin())
            if (scene.speed[scene.pairs[pair], start : last + 1].max(-1) < still).any():
                found[pair, start : last + 1] = True
    return _anyone(found)


def _oral(scene: Scene, theirs: tuple[int, ...], near: float, drop: float) -> np.ndarray:
    distance = np.minimum.reduce([scene.point_distance(NOSE, k) for k in theirs])
    touching = lasting(bridged(distance <= near, scene.frames(0.1)), scene.frames(0.1))
    row, start, stop = runs(touching)
    farthest = _trailing(np.nan_to_num(distance, nan=-np.inf), scene.frames(1.5), np.maximum, -np.inf)
    came = farthest[row, start] >= distance[row, start] + drop
    return _anyone(_from_runs(row[came], start[came], stop[came], touching.shape))


def oral_ear_contact(scene: Scene, *, near: float = 10.0, drop: float = 15.0) -> np.ndarray:
    """A nose at another's ear, having come there."""
    return _oral(scene, (EAR_LEFT, EAR_RIGHT), near, drop)


def oral_genital_contact(scene: Scene, *, near: float = 10.0, drop: float = 15.0) -> np.ndarray:
    """A nose at another's tail base, having come there."""
    return _oral(scene, (TAIL_BASE,), near, drop)


def oral_oral_contact(scene: Scene, *, near: float = 10.0, drop: float = 15.0) -> np.ndarray:
    """Two noses together, having come there."""
    return _oral(scene, (NOSE,), near, drop)


def watching(
    scene: Scene,
    *,
    gaze: float = np.pi / 12,
    nearest: float = 80.0,
    farthest: float = 350.0,
    minimum: float = 1.2,
    gap: float = 0.1,
) -> np.ndarray:
    """A head that stays pointed at another animal, neither beside it nor across the arena."""
    me, other = scene.ordered.T
    head = np.moveaxis(scene.keypoints[:, :, [NOSE, NECK]].astype(np.float64), 1, 0)[me]
    looks = head[:, :, 0] - head[:, :, 1]
    offset = scene.centre[other] - head[:, :, 1]
    away = np.linalg.norm(offset, axis=-1)
    seen = ((_unit(looks) * _unit(offset)).sum(-1) >= np.cos(gaze)) & (away >= nearest) & (away <= farthest)
    return _anyone(lasting(bridged(seen, scene.frames(gap)), scene.frames(minimum)))


RULES: dict[str, Callable[[Scene], np.ndarray]] = {
    rule.__name__: rule
    for rule in (
        approaches, chases, close, contact, huddles, oral_ear_contact, oral_genital_contact, oral_oral_contact,
        watching,
    )
}  # fmt: skip
"""The nine rules by name, in MABe's order."""


def behaviours(keypoints: np.ndarray, fps: float) -> dict[str, np.ndarray]:
    """Every rule at its default thresholds: name -> bool (time,)."""
    scene = Scene(keypoints, fps)
    return {name: rule(scene) for name, rule in RULES.items()}
