import math

import torch

from ethoray.batch import Batch, Spec
from ethoray.nn.pairs import NAMES, pair_features
from ethoray.schema import Skeleton

LINE = Skeleton(("nose", "tail"), front="nose", back="tail")


def group(*animals) -> Batch:
    """One window of animals, each a list over time of (nose, tail)."""
    keypoints = torch.tensor(animals, dtype=torch.float32).transpose(0, 1)[None]
    return Batch(keypoints, torch.ones(keypoints.shape[:3], dtype=torch.bool), 10.0)


def named(batch: Batch, skeleton: Skeleton = LINE) -> dict[str, torch.Tensor]:
    spec = Spec(skeleton, batch.mask.shape[2], batch.keypoints.shape[-1], batch.fps, batch.mask.shape[1])
    return dict(zip(NAMES, pair_features(batch, spec)[0].unbind(-1), strict=True))


def east(x, y):
    return [[x + 1, y], [x - 1, y]]


def north(x, y):
    return [[x, y + 1], [x, y - 1]]


def test_two_mice_at_known_places_and_headings():
    seen = named(group([east(0, 0), east(0, 0)], [north(3, 4), north(3, 2)]))  # the second walks backwards, south
    mine = {name: value[:, 0, 1] for name, value in seen.items()}
    its = {name: value[:, 1, 0] for name, value in seen.items()}
    torch.testing.assert_close(mine["distance"], torch.tensor([5.0, math.sqrt(13)]))
    torch.testing.assert_close(mine["bearing_cos"][0], torch.tensor(3 / 5))  # ahead of me and to my left
    torch.testing.assert_close(mine["bearing_sin"][0], torch.tensor(4 / 5))
    torch.testing.assert_close(its["bearing_cos"][0], torch.tensor(-4 / 5))  # I am behind it, to its left
    torch.testing.assert_close(its["bearing_sin"][0], torch.tensor(3 / 5))
    assert abs(float(mine["facing_cos"][0])) < 1e-6 and float(mine["facing_sin"][0]) == 1.0
    torch.testing.assert_close(its["facing_sin"][0], torch.tensor(-1.0))
    assert bool(mine["closing"][0].isnan())
    torch.testing.assert_close(mine["closing"][1], torch.tensor(5 - math.sqrt(13)))
    torch.testing.assert_close(mine["relative_speed"][1], torch.tensor(2.0))
    torch.testing.assert_close(mine["front_front"][0], torch.tensor(math.hypot(2, 5)))
    torch.testing.assert_close(mine["front_back"][0], torch.tensor(math.hypot(2, 3)))
    torch.testing.assert_close(its["front_back"][0], torch.tensor(math.hypot(4, 5)))


def test_turning_and_moving_the_arena_changes_nothing():
    torch.manual_seed(0)
    keypoints = torch.randn(1, 6, 3, 2, 2, dtype=torch.float64).cumsum(1)
    mask = torch.ones(1, 6, 3, dtype=torch.bool)
    angle = torch.tensor(0.7, dtype=torch.float64)
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    spec = Spec(LINE, 3, 2, 10.0, 6)
    before = pair_features(Batch(keypoints, mask, 10.0), spec)
    after = pair_features(Batch(keypoints @ turn.T + 30, mask, 10.0), spec)
    torch.testing.assert_close(after, before, equal_nan=True)


def test_a_pair_with_itself_and_with_the_absent_is_unknown():
    batch = group([east(0, 0)], [north(3, 4)], [east(9, 9)])
    mask = batch.mask.clone()
    mask[..., 2] = False
    for value in named(Batch(batch.keypoints, mask, 10.0)).values():
        unknown = value[0].isnan()
        assert bool(unknown.diagonal().all()) and bool(unknown[2].all()) and bool(unknown[:, 2].all())
    assert not bool(named(Batch(batch.keypoints, mask, 10.0))["distance"][0, 0, 1].isnan())


def test_one_missing_nose_leaves_the_distance_known():
    batch = group([east(0, 0)], [north(3, 4)])
    batch.keypoints[0, 0, 1, 0] = torch.nan
    seen = named(batch)
    torch.testing.assert_close(seen["distance"][0, 0, 1], torch.tensor(math.sqrt(18)))  # to the tail that is left
    assert bool(seen["front_front"][0, 0, 1].isnan()) and bool(seen["facing_cos"][0, 0, 1].isnan())
    torch.testing.assert_close(seen["bearing_cos"][0, 0, 1], torch.tensor(math.sqrt(0.5)))
    assert bool(seen["bearing_cos"][0, 1, 0].isnan())


def test_without_a_body_axis_bearings_are_those_of_the_image():
    seen = named(group([east(0, 0)], [north(0, 2)]), Skeleton(("nose", "tail")))
    assert abs(float(seen["bearing_cos"][0, 0, 1])) < 1e-6 and float(seen["bearing_sin"][0, 0, 1]) == 1.0
    assert float(seen["facing_cos"][0, 0, 1]) == 1.0
    for name in ("front_front", "front_back"):
        torch.testing.assert_close(seen[name][0, 0, 1], seen["distance"][0, 0, 1])


def test_renaming_animals_permutes_the_pairs():
    torch.manual_seed(1)
    keypoints, mask = torch.randn(2, 4, 3, 2, 2), torch.ones(2, 4, 3, dtype=torch.bool)
    spec, order = Spec(LINE, 3, 2, 10.0, 4), [2, 0, 1]
    plain = pair_features(Batch(keypoints, mask, 10.0), spec)
    turned = pair_features(Batch(keypoints[:, :, order], mask, 10.0), spec)
    torch.testing.assert_close(turned, plain[:, :, order][:, :, :, order], equal_nan=True)


def test_depth_counts_in_distances():
    keypoints = torch.zeros(1, 1, 2, 2, 3)
    keypoints[0, 0, 0, 0, 0] = keypoints[0, 0, 1, 0, 0] = 2.0
    keypoints[0, 0, 1, :, 2] = 3.0
    seen = named(Batch(keypoints, torch.ones(1, 1, 2, dtype=torch.bool), 10.0))
    assert float(seen["distance"][0, 0, 1]) == 3.0 and float(seen["front_front"][0, 0, 1]) == 3.0
