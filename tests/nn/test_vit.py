import math

import numpy as np
import pytest
import torch

from ethoray.nn.vit import (
    Decoder,
    Hiding,
    Projector,
    Shape,
    ViT,
    hide,
    in_parts,
    masked_autoencoding,
    patchify,
    sines,
    unpatchify,
)
from ethoray.schema import SchemaError

SMALL = Shape((8, 12), 4, 16, 2, 2, 32, (12, 1, 3, 24))
BASE = Shape((224, 224), 16, 768, 12, 12, 3072, (512, 8, 16, 2048))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ViT(SMALL).double(), Decoder(SMALL).double()


def drawn(images=3, ratio=0.5):
    generator = torch.Generator().manual_seed(1)
    patches = torch.randn(images, 6, SMALL.values, generator=generator, dtype=torch.float64)
    return patches, hide(torch.rand(images, 6, generator=generator), ratio)


def test_the_published_size_has_the_published_number_of_parameters():
    with torch.device("meta"):
        vit, decoder, projector = ViT(BASE), Decoder(BASE), Projector(768, 768)
    fixed = 197 * (768 + 512)  # publications count the positions, which do not learn
    autoencoder = sum(p.numel() for p in (*vit.parameters(), *decoder.parameters())) + fixed
    assert autoencoder == pytest.approx(111.91e6, abs=5e3)
    assert autoencoder + sum(p.numel() for p in projector.parameters()) == pytest.approx(113.68e6, abs=5e3)


def test_patches_are_rows_of_the_image_and_can_be_put_back():
    image = torch.arange(8 * 12 * 3.0).view(1, 8, 12, 3)
    patches = patchify(image, 4)
    assert patches.shape == (1, 6, 48)
    for row in range(2):
        for column in range(3):
            expected = image[0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].reshape(-1)
            assert torch.equal(patches[0, 3 * row + column], expected)
    assert torch.equal(unpatchify(patches, (2, 3)), image)


def test_positions_are_sines_and_cosines_of_column_and_row():
    codes = sines((2, 3), 8)
    for row in range(2):
        for column in range(3):
            expected = [
                f(place / 10_000 ** (k / 2)) for place in (column, row) for f in (math.sin, math.cos) for k in range(2)
            ]
            np.testing.assert_allclose(codes[3 * row + column], expected, atol=1e-6)


def test_three_quarters_of_the_patches_are_hidden_and_restored():
    noise = torch.rand(5, 196, generator=torch.Generator().manual_seed(0))
    hiding = hide(noise, 0.75)
    assert hiding.seen.shape == (5, 49) and hiding.hidden.shape == (5, 147)
    both = torch.cat([hiding.seen, hiding.hidden], 1)
    assert torch.equal(both.sort(1).values, torch.arange(196).expand(5, -1))
    assert torch.equal(both.gather(1, hiding.restore), torch.arange(196).expand(5, -1))
    assert (noise.gather(1, hiding.seen).amax(1) <= noise.gather(1, hiding.hidden).amin(1)).all()


def test_every_patch_is_hidden_equally_often():
    noise = torch.rand(4000, 8, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(hide(noise, 0.75).hidden.flatten(), minlength=8)
    assert (counts / 4000 - 0.75).abs().max() < 0.03


def test_tokens_come_in_the_order_of_the_patches_that_are_seen(model):
    vit, _ = model
    patches, _ = drawn()
    everything = torch.arange(6).expand(3, -1)
    shuffled = torch.stack([torch.randperm(6) for _ in range(3)])
    whole = vit(patches)
    assert whole.shape == (3, 7, 16)
    torch.testing.assert_close(vit(patches, everything), whole)
    order = torch.cat([torch.zeros(3, 1, dtype=torch.int64), shuffled + 1], 1)
    torch.testing.assert_close(vit(patches, shuffled), whole.gather(1, order[..., None].expand(-1, -1, 16)))


def test_what_is_hidden_does_not_reach_the_encoder(model):
    patches, hiding = drawn()
    other = patches.scatter(1, hiding.hidden[..., None].expand(-1, -1, SMALL.values), 99.0)
    torch.testing.assert_close(
        masked_autoencoding(*model, patches, hiding)[0], masked_autoencoding(*model, other, hiding)[0]
    )


def test_a_decoder_of_the_wanted_patches_is_one_of_all_patches(model):
    vit, decoder = model
    patches, hiding = drawn()
    tokens = vit(patches, hiding.seen)
    everything = decoder(tokens, hiding.restore)
    some = decoder(tokens, hiding.restore, hiding.hidden)
    torch.testing.assert_close(some, everything.gather(1, hiding.hidden[..., None].expand(-1, -1, SMALL.values)))


@pytest.mark.parametrize("standardise", [False, True])
def test_the_error_is_that_of_hidden_patches_alone(model, standardise):
    vit, decoder = model
    patches, hiding = drawn()
    cls, errors = masked_autoencoding(vit, decoder, patches, hiding, standardise)
    tokens = vit(patches, hiding.seen)
    rebuilt = decoder(tokens, hiding.restore)
    for image in range(3):
        wrong = []
        for patch in hiding.hidden[image].tolist():
            wanted = patches[image, patch]
            if standardise:
                wanted = (wanted - wanted.mean()) / (wanted.var() + 1e-6).sqrt()
            wrong.append((rebuilt[image, patch] - wanted).square().mean())
        assert errors[image].item() == pytest.approx(torch.stack(wrong).mean().item(), abs=1e-12)
    torch.testing.assert_close(cls, tokens[:, 0])


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_a_batch_in_parts_is_the_batch_with_its_gradient(model, parts):
    vit, decoder = model
    weights = [*vit.parameters(), *decoder.parameters()]
    patches, hiding = drawn(images=5)
    found = []
    for count in (1, parts):
        cls, errors = in_parts(vit, decoder, patches, hiding, count)
        loss = errors.mean() + cls.square().mean() * cls.std()  # the second term joins all images
        found.append((loss, *torch.autograd.grad(loss, weights)))
    for whole, cut in zip(*found, strict=True):
        torch.testing.assert_close(cut, whole, rtol=1e-9, atol=1e-12)


def test_without_a_decoder_nothing_is_rebuilt(model):
    patches, hiding = drawn()
    cls, errors = masked_autoencoding(model[0], None, patches, hiding)
    assert cls.shape == (3, 16) and (errors == 0).all()


def test_the_projection_does_not_depend_on_size_and_offset_of_a_batch():
    torch.manual_seed(0)
    project, x = Projector(6, 4), torch.randn(9, 6)
    first = torch.nn.functional.linear(x, project.first.weight, project.first.bias)
    y = torch.relu((first - first.mean(0)) / (first.var(0, unbiased=False) + 1e-5).sqrt())
    y = torch.nn.functional.linear(y, project.second.weight, project.second.bias)
    y = torch.relu((y - y.mean(0)) / (y.var(0, unbiased=False) + 1e-5).sqrt())
    expected = torch.nn.functional.linear(y, project.third.weight, project.third.bias)
    torch.testing.assert_close(project(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ViT(Shape((30, 32), 16, 16, 1, 2, 8, (8, 1, 1, 8))), "30 x 32 pixels are not cut into patches of 16"),
        (lambda: ViT(Shape((32, 32), 16, 16, 1, 3, 8, (8, 1, 1, 8))), "16 does not divide among 3 heads"),
        (lambda: ViT(Shape((32, 32), 16, 18, 1, 2, 8, (8, 1, 1, 8))), "a width that 4 divides, not 18"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(build, words):
    with pytest.raises(SchemaError, match=words):
        build()


def test_hiding_can_be_cut():
    hiding = hide(torch.rand(4, 6), 0.5)
    cut = Hiding(hiding.seen[1:3], hiding.hidden[1:3], hiding.restore[1:3])
    assert torch.equal(torch.cat([cut.seen, cut.hidden], 1).gather(1, cut.restore), torch.arange(6).expand(2, -1))
