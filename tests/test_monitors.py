"""Healthy embeddings look healthy and collapsed ones collapsed, whatever is masked."""

import pytest
import torch

from ethoray.monitors import ROWS, collapse


def seen(z, mask=None):
    mask = torch.ones(z.shape[:3], dtype=torch.bool) if mask is None else mask
    return {name: float(value) for name, value in collapse(z, mask).items()}


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_constant_embedding_has_no_deviation_and_at_most_rank_one():
    found = seen(torch.arange(1.0, 9.0).expand(3, 40, 2, 8))
    assert found["deviation"] == pytest.approx(0, abs=1e-5)
    assert found["rank"] == pytest.approx(1, abs=1e-4)  # no variance at all: an entropy of nothing


def test_a_gaussian_in_every_direction_uses_every_dimension():
    found = seen(noise(4, 250, 3, 16))
    assert found["deviation"] == pytest.approx(1, abs=0.03)
    assert 15.5 < found["rank"] <= 16 + 1e-4


def test_variation_along_one_direction_has_rank_one():
    found = seen(5 + noise(2, 100, 1, 1) * noise(8, seed=1))
    assert found["rank"] == pytest.approx(1, abs=1e-3)
    assert 0 < found["deviation"] < 1


def test_the_rank_is_the_exponential_entropy_of_the_eigenvalues():
    z = noise(2, 300, 2, 3).double() * torch.tensor([3.0, 1.0, 0.1])
    share = torch.linalg.eigvalsh(torch.cov(z.flatten(0, 2).T))
    share = share / share.sum()
    assert seen(z)["rank"] == pytest.approx(float((-(share * share.log()).sum()).exp()), rel=1e-4)


def test_scale_does_not_matter():
    z = noise(2, 100, 2, 6)
    assert seen(z) == pytest.approx(seen(1e3 * z), rel=1e-4)


def test_rows_that_are_masked_do_not_count():
    z, mask = noise(2, 50, 2, 4), torch.rand(2, 50, 2, generator=torch.Generator().manual_seed(3)) > 0.4
    spoilt = z.masked_fill(~mask[..., None], 1e6)
    assert seen(z, mask) == seen(spoilt, mask) != seen(z)
    assert seen(z, mask) == pytest.approx(seen(z[mask][None, :, None]))


def test_a_space_of_the_group_counts_frames_with_anybody():
    z, mask = noise(2, 40, 1, 4), torch.ones(2, 40, 3, dtype=torch.bool)
    mask[:, 10:, 1:] = False  # one mouse is there still
    mask[:, 30:] = False
    spoilt = torch.cat([z[:, :30], torch.full_like(z[:, 30:], 1e6)], 1)
    assert seen(z, mask) == seen(spoilt, mask)
    assert seen(z, mask) == pytest.approx(seen(z[:, :30]))


@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_rows_give_zeros(rows):
    mask = torch.zeros(1, 5, 2, dtype=torch.bool)
    mask[0, :rows, 0] = True
    assert seen(noise(1, 5, 2, 4), mask) == {"deviation": 0, "rank": 0}


def test_a_large_batch_is_looked_at_in_part():
    z = noise(4, ROWS, 1, 4)
    every = -(-4 * ROWS // ROWS)
    assert seen(z) == seen(z.flatten(0, 1)[::every][None])


def test_half_precision_is_looked_at_in_single():
    z = noise(2, 200, 2, 8)
    assert seen(z.bfloat16())["rank"] == pytest.approx(seen(z)["rank"], rel=1e-2)
