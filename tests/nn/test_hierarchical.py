import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ethoray.nn.hierarchical import halved, hierarchical_loss, instance_loss, temporal_loss


def views(series=3, frames=7, width=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (series, frames, width)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))


def cross_entropy(anchor, positive, others):
    """-log of the softmax of the positive among all others of an anchor, by dot products."""
    return torch.stack([anchor @ other for other in others]).exp().sum().log() - anchor @ positive


def instance_by_loops(a, b):
    total, count = 0.0, 0
    for t in range(a.shape[1]):
        rows, n = [*a[:, t], *b[:, t]], len(a)
        for i in range(2 * n):
            others = [row for j, row in enumerate(rows) if j != i]
            total, count = total + cross_entropy(rows[i], rows[(i + n) % (2 * n)], others), count + 1
    return total / count


def temporal_by_loops(a, b):
    total, count = 0.0, 0
    for i in range(len(a)):
        rows, n = [*a[i], *b[i]], a.shape[1]
        for t in range(2 * n):
            others = [row for j, row in enumerate(rows) if j != t]
            total, count = total + cross_entropy(rows[t], rows[(t + n) % (2 * n)], others), count + 1
    return total / count


def hierarchical_by_loops(a, b, alpha, unit):
    total, level = 0.0, 0
    while a.shape[1] > 1:
        total = total + alpha * instance_by_loops(a, b)
        if level >= unit:
            total = total + (1 - alpha) * temporal_by_loops(a, b)
        level += 1
        a, b = (F.max_pool1d(z.transpose(1, 2), 2).transpose(1, 2) for z in (a, b))
    return (total + alpha * instance_by_loops(a, b)) / (level + 1)


def agree(loss, expected, inputs):
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    pairs = zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_instance_loss_equals_loops():
    a, b = views()
    agree(instance_loss(a, b), instance_by_loops(a, b), (a, b))


def test_temporal_loss_equals_loops():
    a, b = views()
    agree(temporal_loss(a, b), temporal_by_loops(a, b), (a, b))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize(("frames", "unit"), [(1, 0), (2, 0), (7, 0), (8, 1), (8, 2)])
def test_hierarchical_loss_equals_loops(alpha, frames, unit):
    a, b = views(frames=frames)
    loss, expected = hierarchical_loss(a, b, alpha, unit), hierarchical_by_loops(a, b, alpha, unit)
    if alpha == 0 and frames == 1:  # one frame has no other time to differ from
        assert loss.item() == 0
        return
    agree(loss, expected, (a, b))


@pytest.mark.parametrize("limit", [1, 17, 100, 10**6])
def test_chunks_over_time_equal_the_whole(limit):
    a, b = views(frames=11)
    agree(hierarchical_loss(a, b, limit=limit), hierarchical_by_loops(a, b, 0.5, 0), (a, b))


def test_gradient_is_the_derivative():
    a, b = views(2, 4, 2)
    assert torch.autograd.gradcheck(lambda a, b: hierarchical_loss(a, b, limit=6), (a, b))


def test_one_series_alone_has_no_instance_loss():
    a, b = views(series=1)
    loss = instance_loss(a, b)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12) and a.grad.abs().max() < 1e-12


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_series_of_weight_zero_might_as_well_not_be_there(alpha):
    a, b = views(series=4)
    kept = torch.tensor([True, False, True, True])
    loss = hierarchical_loss(a, b, alpha, weights=kept)
    agree(loss, hierarchical_loss(a[kept], b[kept], alpha), (a, b))


def test_nobody_there_is_a_loss_of_zero():
    a, b = views()
    loss = hierarchical_loss(a, b, weights=torch.zeros(3))
    loss.backward()
    assert loss.item() == 0 and (a.grad == 0).all() and (b.grad == 0).all()


def test_pooling_is_that_of_the_library_also_where_values_tie():
    z = torch.randint(0, 3, (2, 9, 3)).double().requires_grad_()
    expected = F.max_pool1d(z.transpose(1, 2), 2).transpose(1, 2)
    weights = torch.randn_like(expected)
    torch.testing.assert_close(halved(z), expected)
    (mine,), (theirs,) = (torch.autograd.grad((y * weights).sum(), z) for y in (halved(z), expected))
    assert torch.equal(mine, theirs)


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation makes, forwards and backwards."""

    elements = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        out = operation(*args, **(kwargs or {}))
        sizes = [t.numel() for t in (out if isinstance(out, tuple | list) else [out]) if isinstance(t, torch.Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return out


@pytest.mark.parametrize("frames", [32, 256])
def test_memory_does_not_grow_with_the_square_of_time(frames):
    a, b = (z.detach().float().requires_grad_() for z in views(2, frames, 4))
    with Largest() as largest:
        hierarchical_loss(a, b, limit=8 * frames).backward()
    assert largest.elements <= 2 * a.numel()


def test_views_of_different_shape_are_refused():
    with pytest.raises(ValueError, match=r"equal shape, not \(2, 3, 4\) and \(2, 2, 4\)"):
        hierarchical_loss(torch.zeros(2, 3, 4), torch.zeros(2, 2, 4))
