import math

import pytest
import torch
from torch.nn import functional as F

from ethoray.nn.contrastive import nt_xent, others_logsumexp


def by_loops(first, second, temperature, weights):
    rows = torch.cat([first, second])
    n, doubled = len(first), torch.cat([weights, weights])
    total, count = 0.0, 0.0
    for i in range(2 * n):

        def similarity(j, i=i):
            return F.cosine_similarity(rows[i], rows[j], dim=0) / temperature

        others = [similarity(j) for j in range(2 * n) if j != i and doubled[j] > 0]
        if doubled[i] > 0:
            total = total + doubled[i] * (torch.stack(others).exp().sum().log() - similarity((i + n) % (2 * n)))
            count = count + doubled[i]
    return total / count


def test_two_orthogonal_pairs_by_hand():
    views = torch.eye(2)
    expected = math.log(math.exp(2.0) + 2) - 2.0  # partner at cosine 1 over 0.5, two others at 0
    assert nt_xent(views, 7 * views, 0.5).item() == pytest.approx(expected, abs=1e-6)


def test_rows_that_are_all_alike_cost_the_logarithm_of_the_others():
    same = torch.ones(5, 3)
    assert nt_xent(same, same, 0.1).item() == pytest.approx(math.log(9), abs=1e-5)


@pytest.mark.parametrize("weights", [None, (1.0, 0.0, 1.0, 1.0, 0.0), (0.5, 2.0, 0.0, 1.0, 3.0)])
def test_equals_loops_with_gradient(weights):
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(5, 4, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    weights = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    loss = nt_xent(first, second, 0.2, weights)
    expected = by_loops(first, second, 0.2, torch.ones(5) if weights is None else weights)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    for mine, theirs in zip(
        torch.autograd.grad(loss, (first, second)), torch.autograd.grad(expected, (first, second)), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_nobody_left_is_a_loss_of_zero():
    first = torch.randn(3, 2, requires_grad=True)
    loss = nt_xent(first, torch.randn(3, 2), 0.5, torch.zeros(3))
    loss.backward()
    assert loss.item() == 0 and (first.grad == 0).all()


def test_a_pair_of_weight_zero_changes_nothing_whatever_it_is():
    first, second = torch.randn(4, 3), torch.randn(4, 3)
    weights = torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert nt_xent(first, second, 0.5, weights) == pytest.approx(nt_xent(first[:3], second[:3], 0.5).item(), abs=1e-6)


@pytest.mark.parametrize("limit", [1, 7, 13, 36, 80, 10**6])
@pytest.mark.parametrize("keep", [None, (True, False, True, True, False, True)])
def test_chunks_equal_the_whole_with_gradient(limit, keep):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 6, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    keep = None if keep is None else torch.tensor(keep)
    hidden = torch.eye(6, dtype=torch.bool) if keep is None else torch.eye(6, dtype=torch.bool) | ~keep
    expected = (x @ x.mT).masked_fill(hidden, -torch.inf).logsumexp(-1)
    weights = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    got = others_logsumexp(x, keep, limit)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    (mine,) = torch.autograd.grad((got * weights).sum(), x)
    (theirs,) = torch.autograd.grad((expected * weights).sum(), x)
    torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_gradient_is_the_derivative():
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: others_logsumexp(x, None, 5), x)


def test_a_row_alone_has_nobody_to_sum_over():
    x = torch.randn(2, 1, 3, requires_grad=True)
    out = others_logsumexp(x)
    out.sum().backward()
    assert (out == 0).all() and (x.grad == 0).all()


def test_half_precision_is_computed_in_single():
    x = torch.randn(1, 8, 16)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = others_logsumexp(x)
    assert mixed.dtype == torch.float32 and torch.equal(mixed, others_logsumexp(x))
    assert others_logsumexp(1000 * x.bfloat16()).isfinite().all()
