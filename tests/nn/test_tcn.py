import pytest
import torch
from torch import nn

from ethoray.nn.tcn import TCN, CausalConv, Dropout, receptive_field


@pytest.mark.parametrize(
    ("channels", "growth", "reach"), [((64, 64, 32, 32), 2, 61), ((64, 64, 64, 32, 32), 4, 1365), ((32, 32), 2, 13)]
)
def test_receptive_field_by_gradient(channels, growth, reach):
    torch.manual_seed(0)
    net = TCN(3, tuple(8 for _ in channels), growth, dropout=0.0).double()
    x = torch.randn(1, reach + 40, 3, dtype=torch.float64, requires_grad=True)
    net(x)[0, -1].sum().backward()
    seen = x.grad[0].abs().sum(-1).nonzero().flatten()
    assert net.reach == receptive_field(len(channels), growth) == reach
    assert len(x.grad[0]) - int(seen.min()) == reach


def test_no_output_sees_the_future():
    torch.manual_seed(0)
    net = TCN(3, (8, 8, 8), 2, dropout=0.0).eval()
    x = torch.randn(2, 60, 3)
    y = x.clone()
    y[:, 31:] += 1
    assert torch.equal(net(x)[:, :31], net(y)[:, :31])
    assert not torch.equal(net(x)[:, 31:], net(y)[:, 31:])


def test_the_convolution_is_that_of_torch_with_weight_norm():
    torch.manual_seed(0)
    ours = CausalConv(5, 7, 3, 4)
    theirs = nn.utils.parametrizations.weight_norm(nn.Conv1d(5, 7, 3, dilation=4))
    theirs.parametrizations.weight.original0.data = ours.length.detach()[:, None, None].clone()
    theirs.parametrizations.weight.original1.data = ours.direction.detach().clone()
    theirs.bias.data = ours.bias.detach().clone()
    x = torch.randn(2, 50, 5)
    expected = theirs(nn.functional.pad(x.transpose(1, 2), (8, 0))).transpose(1, 2)
    torch.testing.assert_close(ours(x), expected)


def test_parameters_of_the_release_are_counted():
    # convolutions, PReLU slopes and shortcuts as in the reference, with weight norm on both convolutions
    short = sum(p.numel() for p in TCN(67, (64, 64, 32, 32), 2).parameters())
    long = sum(p.numel() for p in TCN(67, (64, 64, 64, 32, 32), 4).parameters())
    assert (short - (64 + 64 + 32 + 32), long - (64 * 3 + 32 * 2)) == (72_108, 96_879)


def test_dropout_keeps_the_expectation_and_is_off_when_evaluating():
    torch.manual_seed(0)
    drop = Dropout(0.2)
    x = torch.ones(40, 100, 64, requires_grad=True)
    y = drop(x)
    kept = y > 0
    assert abs(kept.float().mean().item() - (1 - 51 / 256)) < 0.003
    assert abs(y.mean().item() - 1) < 0.004
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(grad, y.detach())
    drop.eval()
    assert drop(x) is x


@pytest.mark.parametrize(("kernel", "growth"), [(3, 2), (2, 4), (1, 2)])
def test_a_stream_in_any_chunks_equals_the_whole(kernel, growth):
    torch.manual_seed(0)
    net = TCN(3, (8, 8, 6), growth, kernel).eval()
    x = torch.randn(2, 200, 3)
    expected = net(x)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        parts, state, sizes, first = [], None, set(), 0
        while first < 200:
            step = 1 if seed == 0 else int(torch.randint(1, 60, (1,), generator=generator))
            y, state = net.step(x[:, first : first + step], state)
            parts.append(y)
            sizes.add(sum(kept.numel() for kept in state))
            first += step
        torch.testing.assert_close(torch.cat(parts, 1), expected, atol=1e-5, rtol=1e-5)
        inputs = zip((1, growth, growth**2), ((3, 8), (8, 8), (8, 6)), strict=True)  # both convolutions of a block
        assert sizes == {sum(2 * (kernel - 1) * dilation * sum(widths) for dilation, widths in inputs)}
        assert all(kept.untyped_storage().nbytes() == kept.numel() * 4 for kept in state)


def test_the_release_normalises_the_second_convolution_only():
    net = TCN(5, (8, 8), 2, normed_first=False)
    names = {name for name, _ in net.named_parameters() if name.endswith("length")}
    assert names == {"blocks.0.second.length", "blocks.1.second.length"}
    conv = net.blocks[0].first
    x = torch.randn(2, 20, 5)
    plain = nn.functional.conv1d(nn.functional.pad(x.transpose(1, 2), (2, 0)), conv.direction, conv.bias)
    torch.testing.assert_close(conv(x), plain.transpose(1, 2))
