"""Heatmaps, the points read from them, and pose from few marked pictures."""

import numpy as np
import pytest
import torch

from ethoray import store
from ethoray.learning import Encoder
from ethoray.probes import ProbeError, _heatmaps, _keypoints
from ethoray.probes._keypoints import Pictures, Training
from ethoray.probes._patches import grid, tokens
from ethoray.probes.pose import Pose, curve, disagreement, drawn
from ethoray.schema import Card, Recording, Skeleton

SIZE = (64, 96)


class Eye(Encoder):
    """Of each patch of 16 pixels how bright it is in 16 places, and a factor that can be learned."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(()))

    def fit(self, stream, budget, resume=None):
        return iter(())

    def embed(self, batch):
        return {}

    def patches(self, batch):
        pixels = batch.images[..., 0].float() / 255
        windows, time, height, width = pixels.shape
        cut = pixels.view(windows, time, height // 16, 16, width // 16, 16).permute(0, 1, 2, 4, 3, 5)
        fine = cut.reshape(windows, time, -1, 4, 4, 4, 4)
        seen = torch.cat([fine.mean((-1, -3)).flatten(3), (fine.amax((-1, -3)) > 0.7).flatten(3)], -1)
        return self.gain * seen


class Blind(Eye):
    patches = None


def scene(count, seed=0, missing=True):
    """Pictures of a bright and a dim spot, both marked."""
    rng = np.random.default_rng(seed)
    points = rng.uniform((6, 6), (SIZE[1] - 7, SIZE[0] - 7), (count, 2, 2)).astype(np.float32)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    spots = [
        height * np.exp(-((x - p[..., 0, None, None]) ** 2 + (y - p[..., 1, None, None]) ** 2) / (2 * width**2))
        for p, height, width in ((points[:, 0], 250, 2.0), (points[:, 1], 140, 5.0))
    ]
    images = np.clip(np.maximum(*spots) + rng.normal(0, 3, (count, *SIZE)), 0, 255).astype(np.uint8)[..., None]
    if missing:
        points[0, 1] = np.nan
    return images, points


def dataset(tmp_path, notes=(), train=40, test=10):
    images, points = scene(train + test)
    skeleton = Skeleton(("bright", "dim"))

    def recordings():
        for i in range(len(images)):
            yield Recording(
                f"picture{i:03d}", "pictures", 1.0, skeleton, points[i][None, None],
                split="train" if i < train else "test", images=images[i][None],
            )  # fmt: skip

    card = Card("spots", "none", 1.0, skeleton, unit="pixel", notes=tuple(notes), split_rule="blocks of one video")
    return store.prepare(card, recordings(), str(tmp_path / "spots"))


SCALED = ("50 pictures were 192 x 128 pixels: a stored pixel is 2 wide and 2 high in pixels of the original",)
QUICK = {"frames": 40, "seeds": (0, 1), "epochs": 40, "milestones": (30,), "lr": 3e-2}


def test_a_target_is_a_gaussian_around_its_point_and_nothing_where_none_is_marked():
    points = torch.tensor([[[3.0, 2.0], [float("nan"), float("nan")]]])
    maps = _heatmaps.targets(points, (8, 12))
    y, x = np.mgrid[:8, :12]
    by_hand = np.exp(-((x - 3) ** 2 + (y - 2) ** 2) / (2 * 1.25**2))
    np.testing.assert_allclose(maps[0, 0], by_hand / by_hand.sum(), atol=1e-6)
    assert not maps[0, 1].any()


def test_the_loss_counts_marked_keypoints_only():
    points = torch.tensor([[[3.0, 2.0], [float("nan")] * 2], [[5.0, 5.0], [1.0, 1.0]]])
    maps = _heatmaps.targets(torch.full((2, 2, 2), 4.0), (8, 12))
    wanted = _heatmaps.targets(points, (8, 12))
    errors = [((maps[i, k] - wanted[i, k]) ** 2).sum() for i, k in ((0, 0), (1, 0), (1, 1))]
    torch.testing.assert_close(_heatmaps.loss(maps, points), 0.5 * sum(errors) / 3)
    assert _heatmaps.loss(maps, torch.full((2, 2, 2), float("nan"))) == 0


def test_a_point_is_read_where_its_target_was_drawn():
    points = torch.tensor([[[3.3, 4.8], [10.0, 6.0], [7.5, 9.25]]])
    found, sure = _heatmaps.read(_heatmaps.targets(points, (14, 16)))
    torch.testing.assert_close(found, points, atol=0.05, rtol=0)
    assert (sure > 0.95).all()
    _, unsure = _heatmaps.read(torch.full((1, 1, 14, 16), 1 / 224))
    assert unsure.item() < 0.2


def test_a_map_has_a_pixel_for_four_of_the_image():
    head = _heatmaps.HeatmapHead(64, 5, (4, 6))
    maps = head(torch.randn(2, 24, 64))
    assert maps.shape == (2, 5, 16, 24)
    torch.testing.assert_close(maps.sum((-1, -2)), torch.ones(2, 5))
    assert _heatmaps.HeatmapHead(64, 5, (4, 6), doublings=1)(torch.randn(2, 24, 64)).shape == (2, 5, 8, 12)
    assert _heatmaps.HeatmapHead(768, 5, (16, 16))(torch.randn(1, 256, 768)).shape == (1, 5, 64, 64)


def test_tokens_keep_their_place_in_the_map():
    head = _heatmaps.HeatmapHead(4, 1, (4, 6), doublings=1)
    with torch.no_grad():
        head.layers[0].weight.zero_()[0, 0, 1, 1] = 1
    seen = torch.zeros(1, 24, 4)
    seen[0, 6 * 2 + 5] = 9.0
    assert _heatmaps.HeatmapHead and head(seen)[0, 0].view(4, 2, 6, 2).sum((1, 3)).argmax() == 6 * 2 + 5


def test_points_move_between_pictures_of_two_sizes_by_their_edges():
    points = torch.tensor([[-0.5, -0.5], [95.5, 63.5], [47.5, 31.5]])
    there = _heatmaps.moved(points, (64, 96), (16, 24))
    torch.testing.assert_close(there, torch.tensor([[-0.5, -0.5], [23.5, 15.5], [11.5, 7.5]]))
    torch.testing.assert_close(_heatmaps.moved(there, (16, 24), (64, 96)), points)


def test_a_picture_and_its_points_turn_together():
    images, points = scene(12, missing=False)
    torch.manual_seed(0)
    turned, placed = _keypoints.swayed(torch.from_numpy(images), torch.from_numpy(points))
    moved = 0
    for image, before, after in zip(turned, points[:, 0], placed[:, 0], strict=True):
        if torch.isfinite(after).all() and ((after > 4) & (after < torch.tensor([91.0, 59.0]))).all():
            y, x = np.unravel_index(int(image[..., 0].argmax()), SIZE)
            assert abs(x - after[0]) <= 1.5
            assert abs(y - after[1]) <= 1.5
            moved += int(np.abs(before - after.numpy()).max() > 2)
    assert moved >= 3


def test_a_tuned_encoder_waits_then_learns_ever_faster():
    how = Training(True, 300, 8, 1e-3, (150, 200), 20, False)
    assert how.backbone(19) == 0
    assert how.backbone(20) == pytest.approx(1e-4)
    assert how.backbone(22) == pytest.approx(2.25e-4)
    assert how.backbone(100) == how.head(100) == 1e-3
    assert how.head(199) == 5e-4
    assert how.head(250) == 2.5e-4
    assert Training(False, 300, 8, 1e-3, (), 20, False).backbone(200) == 0


def test_the_spread_curve_by_hand():
    places = np.zeros((2, 1, 3, 2))
    places[0, 0, :, 0], places[1, 0, :, 0] = (1, 4, 0), (-1, -4, 0)
    spread = disagreement(places)
    np.testing.assert_allclose(spread, [[1, 4, 0]])
    errors = np.array([[[2.0, 6.0, 1.0]], [[4.0, 8.0, 1.0]]])
    points = curve(errors, spread, (1.0, 0.6, 0.1))
    assert [p["error"] for p in points] == pytest.approx([11 / 3, 5.0, 7.0])
    assert [p["spread"] for p in points] == pytest.approx([0, 1, 4])


def test_fewer_pictures_are_among_more():
    images, points = scene(20)
    data = Pictures(images, points, tuple(f"p{i}" for i in range(20)))
    few, many = drawn(data, 5, 1), drawn(data, 12, 1)
    assert set(few.names) < set(many.names)
    assert set(few.names) != set(drawn(data, 5, 2).names)


def backwards(function, jobs):
    return [function(job) for job in jobs[::-1]][::-1]


def test_a_head_on_frozen_patches_finds_what_was_marked(tmp_path):
    data, encoder = dataset(tmp_path, SCALED), Eye()
    answer = Pose(**QUICK).examine(encoder, data)
    (score,) = answer.scores
    about = answer.about["pose_frozen/patches"]
    untrained = Pose(**{**QUICK, "epochs": 1, "lr": 1e-9}).examine(encoder, data, map=backwards).scores[0]
    assert untrained.value == Pose(**{**QUICK, "epochs": 1, "lr": 1e-9}).examine(encoder, data).scores[0].value
    assert score.value < 0.4 * untrained.value
    assert score.low <= score.value <= score.high
    assert score.recordings == 10
    assert about["frames"] == 40
    assert about["keypoints"]["bright"] == pytest.approx(2 * score.value - about["keypoints"]["dim"])
    assert np.mean(list(about["single"].values())) == pytest.approx(score.value)
    assert encoder.gain == 1


def test_fine_tuning_learns_in_a_copy(tmp_path):
    data, encoder = dataset(tmp_path, SCALED, train=12, test=4), Eye()
    probe = Pose(frames=8, seeds=(0,), epochs=4, thaw=1, tuned=True, augment=True, milestones=())
    how = Training(True, 4, 8, 1e-2, (), 1, True)
    model = _keypoints.trained(encoder, _keypoints.pictures(data, "train"), how, 0)
    assert model.encoder.gain != 1
    assert encoder.gain == 1
    assert probe.examine(encoder, data).scores[0].name == "pose_tuned/patches"


def test_pixels_of_the_original_come_from_the_card(tmp_path, caplog):
    data = dataset(tmp_path / "a", SCALED, train=6, test=3)
    quick = {**QUICK, "epochs": 1, "seeds": (0,)}
    scaled = Pose(**quick).examine(Eye(), data).scores[0].value
    assert "fewer than 40" in caplog.text
    plain = Pose(**quick).examine(Eye(), dataset(tmp_path / "b", train=6, test=3)).scores[0].value
    assert "does not say the size" in caplog.text
    assert scaled == pytest.approx(2 * plain)
    two = (*SCALED, "1 pictures were 9 x 9 pixels: a stored pixel is 3 wide and 1 high in pixels of the original")
    both = dataset(tmp_path / "c", two, train=6, test=3)
    with pytest.raises(ProbeError, match="2 sizes"):
        Pose(**quick).examine(Eye(), both)
    assert Pose(**quick, scale=(2.0, 2.0)).examine(Eye(), both).scores[0].value == pytest.approx(scaled)


def test_what_cannot_be_judged_is_said(tmp_path, toy):
    data = dataset(tmp_path, train=4, test=0)
    with pytest.raises(ProbeError, match="no marked frame"):
        Pose(**QUICK).examine(Eye(), data)
    with pytest.raises(ProbeError, match="needs images"):
        Pose(**QUICK).examine(Eye(), toy)
    with pytest.raises(ProbeError, match="has no patches"):
        tokens(torch.nn.Linear(1, 1), np.zeros((1, *SIZE, 1), np.uint8))
    broken = Eye()
    broken.gain.data.fill_(float("nan"))
    with pytest.raises(ProbeError, match="not finite"):
        tokens(broken, np.ones((1, *SIZE, 1), np.uint8))
    with pytest.raises(ProbeError, match="do not make a grid"):
        grid(7, (64, 64))
    assert grid(24, SIZE) == (4, 6)
    with pytest.raises(ProbeError, match="call examine"):
        Pose().judge(data.card, 0)


@pytest.mark.parametrize("wrong", [{"frames": 0}, {"seeds": ()}, {"seeds": (1, 1)}, {"fractions": (2.0,)}, {"lr": 0.0}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="pose probe"):
        Pose(**wrong)
