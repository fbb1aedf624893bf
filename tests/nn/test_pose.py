import math

import torch

from ethoray.batch import Batch, Spec
from ethoray.nn.pose import Pose
from ethoray.schema import Skeleton
from ethoray.testing import toy_spec, toy_stream

LINE = Skeleton(("nose", "tail"), front="nose", back="tail")


def batch_of(keypoints) -> Batch:
    """A batch from (time, individual, keypoint, space) of one window, all of it there."""
    x = torch.as_tensor(keypoints, dtype=torch.float32)[None]
    return Batch(x, torch.ones(x.shape[:3], dtype=torch.bool), 10.0)


def pose_of(skeleton: Skeleton = LINE, space: int = 2) -> Pose:
    return Pose(Spec(skeleton, 1, space, 10.0, 4))


def test_columns_of_a_mouse_by_hand():
    pose = pose_of()
    pose.body.fill_(2.0)
    pose.middle.copy_(torch.tensor([10.0, 10.0]))
    pose.spread.fill_(5.0)
    columns, valid = pose(batch_of([[[[10.0, 24.0], [10.0, 16.0]]]]))  # looks up, 8 long, 10 above the middle
    expected = [2, 0, -2, 0, 0, 1, 0, 2, 0, 0]  # nose, tail, heading, place, flags
    torch.testing.assert_close(columns[0, 0, 0], torch.tensor(expected, dtype=torch.float32), atol=1e-6, rtol=0)
    assert pose.width == 10 and pose.coordinates == 4 and bool(valid.all())


def test_a_missing_keypoint_is_zero_and_flagged():
    skeleton = Skeleton(("nose", "middle", "tail"), front="nose", back="tail")
    pose = pose_of(skeleton)
    columns, valid = pose(batch_of([[[[3.0, 0.0], [math.nan, math.nan], [1.0, 0.0]]]]))
    expected = torch.tensor([1.0, 0, 0, 0, -1, 0, 1, 0, 2, 0, 0, 1, 0])
    torch.testing.assert_close(columns[0, 0, 0], expected)
    assert bool(valid.all())


def test_an_animal_without_its_axis_or_half_its_keypoints_is_not_valid():
    skeleton = Skeleton(("nose", "a", "b", "c", "tail"), front="nose", back="tail")
    pose = pose_of(skeleton)
    points = torch.arange(10.0).view(1, 1, 5, 2).repeat(3, 1, 1, 1)
    points[1, 0, 0] = torch.nan
    points[2, 0, 1:4] = torch.nan
    columns, valid = pose(batch_of(points))
    assert valid[0, :, 0].tolist() == [True, False, False]
    assert bool(columns.isfinite().all())


def test_what_the_mask_hides_is_not_seen():
    pose = pose_of()
    batch = batch_of([[[[1.0, 2.0], [3.0, 4.0]]], [[[5.0, 6.0], [7.0, 8.0]]]])
    mask = torch.tensor([[[True], [False]]])
    columns, valid = pose(Batch(batch.keypoints, mask, 10.0))
    assert valid.flatten().tolist() == [True, False]
    assert columns[0, 1, 0].tolist() == [0] * 8 + [1, 1]


def test_calibration_finds_the_body_and_the_arena():
    pose = pose_of()
    first = batch_of([[[[3.0, 0.0], [-3.0, 0.0]]], [[[0.0, 9.0], [0.0, 7.0]]]])  # 3 and 1 from the centroid
    hidden = batch_of([[[[99.0, 0.0], [-99.0, 0.0]]]])
    second = Batch(hidden.keypoints, torch.zeros_like(hidden.mask), 10.0)
    pose.calibrate(lambda step: (first, second)[step], batches=2)
    torch.testing.assert_close(pose.body, torch.tensor(math.sqrt((2 * 9 + 2 * 1) / 4)))
    assert pose.middle.tolist() == [0, 4] and float(pose.spread) == 4


def test_calibration_without_animals_changes_nothing():
    pose = pose_of()
    nothing = batch_of(torch.full((4, 1, 2, 2), torch.nan))
    pose.calibrate(lambda _: nothing)
    assert float(pose.body) == 1 and float(pose.spread) == 1 and pose.middle.tolist() == [0, 0]


def test_animals_that_never_move_are_spread_by_their_body():
    pose = pose_of()
    pose.calibrate(lambda _: batch_of([[[[2.0, 0.0], [-2.0, 0.0]]]]))
    assert float(pose.spread) == float(pose.body) == 2


def test_calibrated_toy_mice_have_the_size_of_one():
    spec = toy_spec()
    pose = Pose(spec)
    pose.calibrate(toy_stream(spec))
    columns, valid = pose(toy_stream(spec)(0))
    ego = columns[valid][:, : pose.coordinates]
    assert 0.9 < float(ego.square().sum(-1).mean()) / len(spec.skeleton.keypoints) < 1.1


def test_three_dimensions_turn_in_the_plane():
    pose = pose_of(space=3)
    columns, _ = pose(batch_of([[[[0.0, 1.0, 5.0], [0.0, -1.0, 3.0]]]]))
    expected = torch.tensor([1.0, 0, 1, -1, 0, -1, 0, 1, 0, 0, 4, 0, 0])
    torch.testing.assert_close(columns[0, 0, 0], expected, atol=1e-6, rtol=0)


def test_without_a_body_axis_nothing_is_turned():
    pose = pose_of(Skeleton(("a", "b")))
    columns, valid = pose(batch_of([[[[0.0, 1.0], [0.0, -1.0]]]]))
    assert pose.width == 8 and columns[0, 0, 0].tolist() == [0, 1, 0, -1, 0, 0, 0, 0] and bool(valid.all())


def test_moving_and_turning_keeps_the_egocentric_columns():
    torch.manual_seed(0)
    points = torch.randn(5, 2, 2, 2)
    pose = pose_of()
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    before, _ = pose(batch_of(points))
    after, _ = pose(batch_of(points @ turn.T + 7))
    torch.testing.assert_close(after[..., :4], before[..., :4], atol=1e-5, rtol=1e-5)
