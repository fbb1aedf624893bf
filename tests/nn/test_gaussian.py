import math

import torch
from torch.distributions import Normal, kl_divergence

from ethoray.nn.gaussian import divergence, free_bits, negative_log_likelihood, randn_rows, reparametrised


def double(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_likelihood_is_that_of_torch():
    x, mean, logvar = double(3, 4), double(3, 4, seed=1), 3 * double(3, 4, seed=2)
    expected = -Normal(mean, (0.5 * logvar).exp()).log_prob(x)
    assert torch.allclose(negative_log_likelihood(x, mean, logvar), expected, rtol=1e-12)


def test_likelihood_by_hand():
    assert torch.allclose(
        negative_log_likelihood(torch.tensor(3.0), torch.tensor(1.0), torch.tensor(math.log(4.0))),
        torch.tensor(0.5 * math.log(2 * math.pi) + math.log(2.0) + 0.5),
    )


def test_divergence_is_that_of_torch():
    mean, logvar = double(5, 3), 2 * double(5, 3, seed=1)
    expected = kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0))
    assert torch.allclose(divergence(mean, logvar), expected, rtol=1e-10)


def test_free_bits_by_hand():
    kl = torch.tensor([[0.0, 0.2, 0.75], [0.25, 1.0, 0.1]], requires_grad=True)
    cost = free_bits(kl, 0.25)
    assert torch.allclose(cost, torch.tensor([0.25 + 0.25 + 0.75, 0.25 + 1.0 + 0.25]))
    cost.sum().backward()
    assert kl.grad is not None and kl.grad[[0, 0, 0, 1, 1], [0, 1, 2, 1, 2]].tolist() == [0, 0, 1, 1, 0]


def test_a_sample_has_the_moments_it_was_asked_for():
    torch.manual_seed(0)
    noise = randn_rows(200_000, 1, device=torch.device("cpu"))
    sample = reparametrised(torch.tensor(3.0), torch.tensor(math.log(4.0)), noise)
    assert abs(float(sample.mean()) - 3) < 0.02 and abs(float(sample.std()) - 2) < 0.02


def test_gradients_reach_mean_and_log_variance_through_a_sample():
    mean, logvar = torch.tensor(1.0, requires_grad=True), torch.tensor(math.log(4.0), requires_grad=True)
    reparametrised(mean, logvar, torch.tensor(0.5)).backward()
    assert float(mean.grad) == 1 and math.isclose(float(logvar.grad), 0.5 * 2 * 0.5, rel_tol=1e-6)
