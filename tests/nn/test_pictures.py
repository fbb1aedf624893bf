import numpy as np
import pytest
import torch

from ethoray.batch import picture_batch
from ethoray.nn import pictures
from ethoray.schema import SchemaError
from ethoray.testing import toy_batch, toy_spec

CPU = torch.device("cpu")


def coloured(images=2, height=6, width=10, channels=3):
    values = torch.randint(0, 256, (images, height, width, channels), generator=torch.Generator().manual_seed(0))
    return values.to(torch.uint8)


def test_images_are_normalised_as_imagenet_is_and_can_be_restored():
    raw = coloured()
    x = pictures.prepare(raw, (6, 10))
    for channel, (mean, deviation) in enumerate(zip(pictures.MEAN, pictures.DEVIATION, strict=True)):
        expected = (raw[..., channel] / 255 - mean) / deviation
        torch.testing.assert_close(x[..., channel], expected, rtol=0, atol=1e-5)
    assert torch.equal(pictures.restore(x), raw)


def test_grey_images_become_three_equal_channels():
    raw = coloured(channels=1)
    x = pictures.restore(pictures.prepare(raw, (6, 10)))
    assert torch.equal(x, raw.expand(-1, -1, -1, 3))


def test_another_size_keeps_the_mean_of_every_part():
    raw = torch.zeros(1, 8, 8, 1, dtype=torch.uint8)
    raw[:, :, 4:] = 200
    x = pictures.restore(pictures.prepare(raw, (4, 4)))[0, ..., 0]
    assert (x[:, 0] == 0).all() and (x[:, 3] == 200).all()


def move(kind, *, mirror=False, shift=None, angle=0.0):
    """The map of ``moves`` when its draw is known: mirrored or not, sides (left, right, top, bottom), an angle."""
    u = torch.full((1, 1, 7), 0.5)
    u[..., 0] = 0.0 if mirror else 0.9
    u[..., 1] = 0.9 if shift is None else 0.0
    u[..., 2:6] = torch.tensor(shift or (0.0,) * 4) / 0.3 + 0.5
    u[..., 6] = angle / (2 * np.pi) + 0.5

    def drawn(*_, **__):
        return u

    before, pictures.rand_rows = pictures.rand_rows, drawn
    try:
        return pictures.moves(1, 1, kind, False, CPU)
    finally:
        pictures.rand_rows = before


def moved(raw, **how):
    return pictures.restore(pictures.prepare(raw, tuple(raw.shape[1:3]), move(**how)))


def test_a_draw_may_move_nothing_or_mirror():
    raw = coloured(1)
    assert torch.equal(moved(raw, kind="crop"), raw)
    assert torch.equal(moved(raw, kind="crop", mirror=True), raw.flip(2))


def test_a_quarter_turn_is_one():
    raw = coloured(1, 6, 6)
    assert torch.equal(moved(raw, kind="turn", angle=np.pi / 2), raw.rot90(-1, (1, 2))) or torch.equal(
        moved(raw, kind="turn", angle=np.pi / 2), raw.rot90(1, (1, 2))
    )
    assert torch.equal(moved(raw, kind="crop", angle=np.pi / 2), raw), "only turn turns"


def test_cropping_the_left_tenth_stretches_the_rest():
    raw = torch.arange(0, 200, 5).to(torch.uint8).expand(1, 4, -1)[..., None]
    x = moved(raw, kind="crop", shift=(0.1, 0.0, 0.0, 0.0))[0, 0, :, 0].double()
    expected = 5 * (4 + (torch.arange(40) + 0.5) * 0.9 - 0.5)
    assert (x - expected).abs()[:-1].max() < 1.0


def test_padding_is_black():
    raw = torch.full((1, 20, 20, 1), 200, dtype=torch.uint8)
    x = moved(raw, kind="crop", shift=(-0.15, 0.0, 0.0, 0.0))[0, 10, :, 0]
    assert (x[:2] == 0).all() and (x[4:] == 200).all()


def test_of_a_pair_each_image_moves_by_itself_or_both_alike():
    torch.manual_seed(0)
    apart = pictures.moves(50, 2, "turn", False, CPU).unflatten(0, (50, 2))
    alike = pictures.moves(50, 2, "turn", True, CPU).unflatten(0, (50, 2))
    assert not torch.equal(apart[:, 0], apart[:, 1])
    assert torch.equal(alike[:, 0], alike[:, 1]) and not torch.equal(alike[0, 0], alike[1, 0])
    assert pictures.moves(50, 2, "none", False, CPU) is None


def test_half_are_mirrored_and_two_of_five_are_cropped_by_at_most_fifteen_hundredths():
    torch.manual_seed(0)
    maps = pictures.moves(4000, 1, "crop", False, CPU)
    assert (maps[:, 0, 0] < 0).double().mean() == pytest.approx(0.5, abs=0.03)
    still = (maps[:, :, 2] == 0).all(1)
    assert still.double().mean() == pytest.approx(0.6, abs=0.03)
    width = maps[~still, 0, 0].abs()
    assert 0.7 <= width.min() < 0.75 and 1.25 < width.max() <= 1.3


def test_images_of_a_batch_stand_one_after_the_other():
    raw = coloured(6).unflatten(0, (3, 2))
    assert torch.equal(pictures.images(picture_batch(raw, 30.0)), raw.flatten(0, 1))
    with pytest.raises(SchemaError, match="learns from images, and the batch holds keypoints"):
        pictures.images(toy_batch(toy_spec(), 5))
