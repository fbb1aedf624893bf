"""Convolutions and PReLU of our own are those of the library, alone and when networks are stacked."""

import pytest
import torch
from torch import nn
from torch.func import vmap
from torch.nn import functional as F

from ethoray.nn import convolution
from ethoray.nn.convolution import PReLU, causal, prelu, suits
from ethoray.nn.histogram import emd2, streamed
from ethoray.nn.mlp import mlp
from ethoray.nn.tcn import TCN


def by_library(x, weight, bias, dilation):
    padded = F.pad(x.transpose(1, 2), ((weight.shape[2] - 1) * dilation, 0))
    return F.conv1d(padded, weight, bias, dilation=dilation).transpose(1, 2)


def drawn(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def gradients(value, *inputs):
    return torch.autograd.grad(value.square().sum(), inputs)


@pytest.mark.parametrize(
    ("frames", "kernel", "dilation"), [(20, 3, 1), (20, 3, 4), (20, 2, 19), (20, 4, 50), (1, 3, 1)]
)
def test_a_causal_convolution_and_its_gradients_are_those_of_the_library(frames, kernel, dilation):
    torch.manual_seed(0)
    inputs = drawn(3, frames, 5), drawn(7, 5, kernel), drawn(7)
    ours, theirs = causal(*inputs, dilation), by_library(*inputs, dilation)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradients(ours, *inputs), gradients(theirs, *inputs))


@pytest.mark.parametrize("slope", [0.1, 0.0, 1.0, -0.5, 2.0])
def test_a_prelu_and_its_gradients_are_those_of_the_library(slope):
    torch.manual_seed(0)
    x, a = drawn(3, 4, 5), torch.tensor([slope], dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(prelu(x, a), F.prelu(x, a))
    torch.testing.assert_close(gradients(prelu(x, a), x, a), gradients(F.prelu(x, a), x, a))
    y = drawn(3, 4, 5)
    torch.testing.assert_close(prelu(x, a, y), F.prelu(x + y, a))
    torch.testing.assert_close(gradients(prelu(x, a, y), x, a, y), gradients(F.prelu(x + y, a), x, a, y))
    assert PReLU().state_dict().keys() == nn.PReLU().state_dict().keys()


@pytest.mark.parametrize("slope", [0.1, 1e-9, 0.0, 1.0, -0.5])
def test_a_convolution_with_its_prelu_is_one_after_the_other(slope):
    torch.manual_seed(0)
    inputs = *(drawn(3, 20, 5), drawn(7, 5, 3), drawn(7)), torch.tensor([slope], dtype=torch.float64).requires_grad_()
    ours, theirs = causal(*inputs[:3], 4, inputs[3]), F.prelu(by_library(*inputs[:3], 4), inputs[3])
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(gradients(ours, *inputs), gradients(theirs, *inputs))


@pytest.mark.parametrize("shared", [True, False])
def test_stacked_networks_are_those_alone(shared):
    torch.manual_seed(0)
    weight, bias, slope = drawn(4, 7, 5, 3), drawn(4, 7), drawn(4, 1)
    x = drawn(3, 20, 5) if shared else drawn(4, 3, 20, 5)

    def net(x, weight, bias, slope):
        return prelu(causal(x, weight, bias, 4, slope), -slope, causal(x, 2 * weight, bias, 1))

    found = vmap(net, in_dims=(None if shared else 0, 0, 0, 0))(x, weight, bias, slope)
    each = [net(x if shared else x[i], weight[i], bias[i], slope[i]) for i in range(4)]
    torch.testing.assert_close(found, torch.stack(each))
    inputs = x, weight, bias, slope
    torch.testing.assert_close(gradients(found, *inputs), gradients(torch.stack(each), *inputs))


def test_stacked_heads_and_their_earth_movers_distances_are_those_alone():
    torch.manual_seed(0)
    heads, rows = [mlp((6, 8, 10)).double() for _ in range(3)], drawn(30, 6)
    counts = torch.randint(0, 4, (30, 2, 5)).cumsum(-1)

    def loss(head):
        return streamed(head, lambda out, part: emd2(out.unflatten(1, (2, 5)), counts[part]), rows)

    names = [name for name, _ in heads[0].named_parameters()]
    weights = [torch.stack([p for head in heads for n, p in head.named_parameters() if n == name]) for name in names]
    found = vmap(
        lambda *own: torch.func.functional_call(Loss(heads[0], loss), dict(zip(named(names), own, strict=True)), ())
    )(*weights)
    each = torch.stack([loss(head) for head in heads])
    torch.testing.assert_close(found, each)
    torch.testing.assert_close(gradients(found, rows), gradients(each, rows))


class Loss(nn.Module):
    def __init__(self, head, loss):
        super().__init__()
        self.head, self.loss = head, loss

    def forward(self):
        return self.loss(self.head)


def named(names):
    return [f"head.{name}" for name in names]


def test_they_are_used_for_training_in_full_precision_and_whenever_networks_are_stacked():
    x = torch.zeros(1)
    assert suits(x) and suits(x.double()) and not suits(x.bfloat16())
    with torch.no_grad():
        assert not suits(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert not suits(x)
    asked = []
    vmap(lambda x: (asked.append(suits(x)), x)[1])(torch.zeros(2, 1, dtype=torch.bfloat16))
    assert asked == [True]


@pytest.mark.parametrize("grad", [True, False])
def test_a_network_trains_and_embeds_alike(grad, monkeypatch):
    torch.manual_seed(0)
    net, x = TCN(5, (8, 8, 6), 4, dropout=0.0).double(), torch.randn(2, 40, 5, dtype=torch.float64)
    with torch.set_grad_enabled(grad):
        found = net(x)
    monkeypatch.setattr("ethoray.nn.tcn.suits", lambda x: False)
    monkeypatch.setattr(convolution, "suits", lambda x: False)
    torch.testing.assert_close(found, net(x))


def test_stacked_networks_of_mixed_precision_are_near_those_alone():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(3, 20, 5), torch.randn(4, 7, 5, 3), torch.randn(4, 7)
    with torch.autocast("cpu", torch.bfloat16):
        found = vmap(lambda w, b: causal(x, w, b, 4, torch.full((1,), 0.1)))(weight, bias)
    assert found.dtype == torch.bfloat16
    each = torch.stack([F.leaky_relu(by_library(x, w, b, 4), 0.1) for w, b in zip(weight, bias, strict=True)])
    torch.testing.assert_close(found.float(), each, rtol=0.05, atol=0.1)
