import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ethoray.batch import Batch, Spec
from ethoray.methods.pointnet import Cloud, PointNet, PointNetEncoder, cosines, maximum, moments
from ethoray.nn.handcrafted import Handcrafted, averaged, summary
from ethoray.schema import SchemaError, Skeleton
from ethoray.testing import toy_batch, toy_spec, toy_stream

SMALL = PointNet(anchors=6, latent=4, components=3, calibration=2)
MOUSE = Skeleton(("nose", "neck", "tail"), front="nose", back="tail")


def built(method: PointNet = SMALL, individuals: int = 3, **shape) -> tuple[PointNetEncoder, Spec]:
    torch.manual_seed(0)
    spec = toy_spec(individuals=individuals, **shape)
    encoder = method.build(spec)
    encoder.calibrate(toy_stream(spec))
    return encoder, spec


def hand_features(average: float = 0.1, gradient: float = 0.2) -> Handcrafted:
    return Handcrafted(Spec(MOUSE, 2, 2, 10.0, 9), average, gradient, 2)


def east(x, y):
    return [[x + 2.0, y], [x, y], [x - 2.0, y]]


def walking(*paths) -> Batch:
    keypoints = torch.tensor(paths).transpose(0, 1)[None]
    return Batch(keypoints, torch.ones(keypoints.shape[:3], dtype=torch.bool), 10.0)


def test_the_paper_preset_has_the_sizes_of_the_publication():
    encoder = PointNet().build(Spec(MOUSE, 3, 2, 30.0, 1800))
    network, features = encoder.network, encoder.features
    assert (features.average, features.gradient, encoder.nearest, encoder.farthest) == (10, 5, 50, 90)
    assert network.turn.matrix.out_features == 100 and network.turn_inside.matrix.out_features == 256
    widths = [layer.out_features for part in (network.first, network.rest, network.head) for layer in part[::2]]
    assert widths == [16, 32, 128, 64, 15] and encoder.lr == 5e-3


def test_a_point_has_the_ten_features_by_hand():
    features = hand_features()
    features.middle.copy_(torch.tensor([0.0, 0.0]))
    batch = walking([east(3 * t, 4) for t in range(4)], [east(6, 4 + 2 * t) for t in range(4)])
    points, exists = features.points(batch)
    assert exists[0].tolist() == [[False, True, True, False]] * 4
    # at frame 1 from the first mouse at (3, 4) to the second at (6, 6); speeds over 0.2 s around it
    expected = [
        3 / math.sqrt(13), 5, math.hypot(6, 6), math.sqrt(13), math.hypot(7, 2), 3, 2, 0, 0, math.sqrt(13),
    ]  # fmt: skip
    torch.testing.assert_close(points[0, 1, 1], torch.tensor(expected), atol=1e-6, rtol=1e-6)
    back = [-3 / math.sqrt(13), math.hypot(6, 6), 5, math.sqrt(13), math.hypot(1, 2), 2, 3, 0, 0, math.sqrt(13)]
    torch.testing.assert_close(points[0, 1, 2], torch.tensor(back), atol=1e-6, rtol=1e-6)


def test_turning_is_a_rate_and_passes_the_seam():
    features = hand_features()
    angles = math.pi + 0.1 * torch.arange(-2.0, 3.0)
    heading = torch.stack([angles.cos(), angles.sin()], -1)
    track = torch.stack([2 * heading, 0 * heading, -2 * heading], -2)[None, :, None]
    own = features.own(Batch(track, torch.ones(1, 5, 1, dtype=torch.bool), 10.0))
    torch.testing.assert_close(own["turning"][0, 1:4, 0, 0], torch.full((3,), 0.1))
    assert bool(own["turning"][0, [0, 4]].isnan().all())


def test_an_animal_alone_is_a_pair_with_nobody():
    features = hand_features()
    batch = walking([east(3 * t, 4) for t in range(4)], [east(6, 4 + 2 * t) for t in range(4)])
    batch.keypoints[:, 2:, 1] = torch.nan
    points, exists = features.points(batch)
    assert exists[0].tolist() == [[False, True, True, False]] * 2 + [[True, False, False, False]] * 2
    own = points[0, 2, 0]
    assert own.isnan().tolist() == [True, False, True, True, True, False, True, False, True, True]
    alone, single = features.points(Batch(batch.keypoints[:, :, :1], batch.mask[:, :, :1], 10.0))
    assert bool(single.all()) and alone.shape == (1, 4, 1, 10)


def test_moving_averages_are_those_of_a_loop():
    torch.manual_seed(0)
    x = torch.randn(2, 9, 3)
    x[torch.rand_like(x) < 0.3] = torch.nan
    x[0, :, 0] = torch.nan
    for length in (1, 2, 3, 4, 12):
        out = averaged(x, length)
        for t in range(9):
            part = x[:, max(t - length // 2, 0) : t + (length - 1) // 2 + 1]
            torch.testing.assert_close(out[:, t], part.nanmean(1), equal_nan=True)


def test_a_summary_is_of_what_is_known():
    x = torch.tensor([[1.0, 2.0], [4.0, torch.nan], [torch.nan, torch.nan]]).view(1, 1, 3, 2)
    assert summary(x).flatten().tolist() == [1, 2, 2.5, 2, 4, 2]
    assert bool(summary(x[:, :, 2:]).isnan().all())


def test_the_crafted_features_by_hand():
    features = hand_features()
    features.low.fill_(-10.0)
    features.high.fill_(10.0)
    batch = walking([east(3 * t, 4) for t in range(4)], [east(6, 4 + 2 * t) for t in range(4)])
    hand = features.group(batch)[0, 1]
    assert len(hand) == features.width == 3 * 15 + 2 * 2
    pairs, each = hand[:27].view(3, 9), hand[27:45].view(3, 6)
    torch.testing.assert_close(pairs[:, 0], torch.full((3,), math.sqrt(13)))
    nose_to_tail = torch.tensor([math.hypot(1, 2), (math.hypot(1, 2) + math.hypot(7, 2)) / 2, math.hypot(7, 2)])
    torch.testing.assert_close(pairs[:, 8], nose_to_tail)
    torch.testing.assert_close(each[:, 0], torch.tensor([4.0, 5.0, 6.0]))  # of 10 - 6 and 10 - 4
    torch.testing.assert_close(each[:, 2], torch.tensor([2.0, 2.5, 3.0]))
    torch.testing.assert_close(each[:, 5], torch.tensor([2.0, 2.5, 3.0]))


def test_the_network_takes_the_maximum_over_points_that_exist():
    torch.manual_seed(0)
    network = Cloud(10, 4).double()
    x = torch.randn(2, 6, 10, dtype=torch.float64)
    exists = torch.tensor([[True] * 4 + [False] * 2] * 2)
    z = network(x, exists)

    def plain(cloud):
        def turned(transform, points):
            matrix = transform.matrix(torch.stack([transform.points(p) for p in points]).amax(0))
            return points @ matrix.view(points.shape[1], -1)

        inside = turned(network.turn_inside, network.first(turned(network.turn, cloud)))
        return F.normalize(network.head(network.rest(inside).amax(0)).float(), dim=0)

    for row in range(2):
        torch.testing.assert_close(z[row], plain(x[row, :4]), atol=1e-5, rtol=1e-5)
    x[:, 4:] = 1e6
    order = torch.tensor([3, 5, 0, 1, 4, 2])
    torch.testing.assert_close(network(x[:, order], exists[:, order]), z, atol=1e-5, rtol=1e-5)
    assert maximum(torch.tensor([[[-3.0], [2.0]]]), torch.tensor([[True, False]])).tolist() == [[-3.0]]


def test_the_loss_is_the_cosine_embedding_loss():
    torch.manual_seed(0)
    a, p, n = (F.normalize(torch.randn(50, 4), dim=1) for _ in range(3))
    same, different = cosines(a, p, n)
    ours = ((1 - same).mean() + different.clamp(min=0).mean()) / 2
    target = torch.cat([torch.ones(50), -torch.ones(50)])
    expected = F.cosine_embedding_loss(torch.cat([a, a]), torch.cat([p, n]), target)
    torch.testing.assert_close(ours, expected)


def test_negatives_come_from_another_window(monkeypatch):
    encoder, spec = built()
    batch = toy_stream(spec)(0)
    kept = {}
    frames = encoder.moments(4, spec.frames)
    monkeypatch.setattr(encoder, "moments", lambda *_: frames)
    original = encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda x, e: kept.setdefault("z", original(x, e)))
    terms = encoder.loss(batch)
    cloud, exists = encoder.features.points(batch)
    anchor, positive, negative, shift = frames
    pull, push = [], []
    for row in range(4):
        for k in range(6):
            other = (row + int(shift[row, k])) % 4
            assert other != row
            at = [(row, anchor[row, k]), (row, positive[row, k]), (other, negative[other, k])]
            z = [original(cloud[r, t][None], exists[r, t][None])[0].detach() for r, t in at]
            pull.append(1 - float(z[0] @ z[1]))
            push.append(max(float(z[0] @ z[2]), 0.0))
    assert terms["loss"].item() == pytest.approx((np.mean(pull) + np.mean(push)) / 2, abs=1e-5)


def test_positives_are_near_their_anchor_and_inside_the_window():
    encoder, spec = built(replace(SMALL, anchors=500, nearest=1.0, farthest=2.0))
    anchor, positive, negative, shift = encoder.moments(4, spec.frames)
    apart = (positive - anchor).abs()
    assert sorted(apart.unique().tolist()) == list(range(10, 21))
    assert int(positive.min()) >= 0 and int(positive.max()) < spec.frames and bool((positive < anchor).any())
    assert sorted(shift.unique().tolist()) == [1, 2, 3] and int(negative.max()) < spec.frames


def test_the_only_window_gives_its_own_distant_negatives():
    encoder, spec = built(replace(SMALL, anchors=500))
    anchor, _, negative, shift = encoder.moments(1, 80)
    apart = (negative - anchor).abs()
    assert bool((torch.minimum(apart, 80 - apart) >= 20).all()) and not bool(shift.any())
    assert bool(encoder.loss(toy_batch(spec, 80))["loss"].isfinite())


def test_empty_frames_do_not_count():
    encoder, spec = built()
    batch = toy_stream(spec)(0)
    blind = Batch(torch.full_like(batch.keypoints, torch.nan), batch.mask, batch.fps)
    assert float(encoder.loss(blind)["loss"]) == 0
    assert all(bool(z.isfinite().all()) for z in encoder.embed(blind).values())


def test_columns_have_mean_0_and_deviation_1_over_what_is_known():
    rows = torch.tensor([[1.0, torch.nan, 2.0], [3.0, torch.nan, 2.0], [torch.nan, torch.nan, 2.0]])
    mean, deviation = moments(rows)
    assert mean.tolist() == [2, 0, 2] and deviation.tolist() == [1, 1, 1]
    encoder, spec = built()
    clouds = [encoder.features.points(toy_stream(spec)(step)) for step in range(2)]
    values = torch.cat([(cloud[exists] - encoder.mean) / encoder.deviation for cloud, exists in clouds])
    assert float(values.nanmean(0).abs().max()) < 1e-3


def test_the_hand_crafted_space_can_be_left_out():
    encoder, spec = built(replace(SMALL, handmade=False))
    assert set(encoder.embed(toy_batch(spec, 12))) == {"pointnet"}
    encoder, spec = built()
    spaces = encoder.embed(toy_batch(spec, 12))
    assert spaces["handmade"].shape == (1, 12, 1, 51) and spaces["pointnet"].shape == (1, 12, 1, 4)
    torch.testing.assert_close(spaces["pointnet"].norm(dim=-1), torch.ones(1, 12, 1))


@pytest.mark.parametrize("animals", [1, 2, 5])
def test_any_number_of_animals_can_be_embedded(animals):
    encoder, _ = built()
    for z in encoder.embed(toy_batch(toy_spec(individuals=animals), 20)).values():
        assert z.shape[:3] == (1, 20, 1) and bool(z.isfinite().all())


def test_fewer_animals_are_as_many_with_the_others_absent():
    encoder, _ = built()
    few = toy_batch(toy_spec(individuals=2), 20)
    empty = torch.full_like(few.keypoints[:, :, :1], torch.nan)
    more = Batch(torch.cat([few.keypoints, empty], 2), torch.ones(1, 20, 3, dtype=torch.bool), few.fps)
    for space, z in encoder.embed(few).items():
        torch.testing.assert_close(encoder.embed(more)[space], z, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("skeleton", [Skeleton(("back",)), Skeleton(("a", "b"), front="a", back="b")])
@pytest.mark.parametrize("space", [2, 3])
def test_other_skeletons_train(skeleton, space):
    torch.manual_seed(0)
    keypoints = torch.randn(2, 80, 2, len(skeleton.keypoints), space).cumsum(1)
    batch = Batch(keypoints, torch.ones(2, 80, 2, dtype=torch.bool), 10.0)
    encoder = SMALL.build(Spec(skeleton, 2, space, 10.0, 80))
    encoder.calibrate(lambda _: batch)
    assert bool(encoder.loss(batch)["loss"].isfinite())
    assert all(bool(z.isfinite().all()) for z in encoder.embed(batch).values())


def test_settings_that_cannot_work_say_what_to_do():
    with pytest.raises(SchemaError, match=r"up to 5 s.*last 8 s.*longer"):
        replace(SMALL, farthest=5.0).build(toy_spec())
    with pytest.raises(SchemaError, match="from 4 to 3 s"):
        replace(SMALL, nearest=4.0).build(toy_spec())
    with pytest.raises(SchemaError, match="at least 1"):
        replace(SMALL, anchors=0).build(toy_spec())
