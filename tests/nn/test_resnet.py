import pytest
import torch

from ethoray.nn.resnet import Residual, ResNetAutoencoder
from ethoray.schema import SchemaError


def test_an_image_passes_through_a_few_numbers_and_comes_back():
    torch.manual_seed(0)
    net = ResNetAutoencoder((64, 96), (1, 2, 1, 1), 8, 12)
    z = net.encode(torch.randn(2, 64, 96, 3))
    assert z.shape == (2, 12) and net.decode(z).shape == (2, 64, 96, 3)


def test_the_size_of_resnet_18():
    with torch.device("meta"):
        net = ResNetAutoencoder((224, 224), (2, 2, 2, 2), 64, 12)
    convolutions = sum(p.numel() for p in net.down.parameters() if p.ndim == 4)
    assert convolutions == 11_166_912  # of the published network without its classifier and normalisation
    assert net.narrow.weight.shape == (12, 25_088)


def test_a_block_adds_to_its_shortcut():
    torch.manual_seed(0)
    block, x = Residual(8, 8), torch.randn(2, 8, 6, 6)
    torch.nn.init.zeros_(block.conv2.weight)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize(("scale", "size"), [(1.0, 8), (2.0, 4), (0.5, 16)])
def test_a_block_may_halve_or_double_an_image(scale, size):
    assert Residual(4, 6, scale)(torch.randn(1, 4, 8, 8)).shape == (1, 6, size, size)


def test_what_becomes_of_an_image_does_not_depend_on_the_others():
    torch.manual_seed(0)
    net, x = ResNetAutoencoder((32, 32), (1, 1, 1, 1), 8, 4), torch.randn(3, 32, 32, 3)
    torch.testing.assert_close(net.encode(x)[1:2], net.encode(x[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("pixels", "blocks"), [((48, 64), (1, 1, 1, 1)), ((64, 64), (1, 1))])
def test_sizes_that_do_not_fit_are_refused(pixels, blocks):
    with pytest.raises(SchemaError, match="four stages and images whose sides 32 divides"):
        ResNetAutoencoder(pixels, blocks, 8, 4)
