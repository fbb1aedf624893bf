import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ethoray.nn.histogram import digitise, emd2, equal_edges, future_counts, streamed


def brute_histogram(bins: np.ndarray, horizon: int, classes: int) -> np.ndarray:
    """Normalised histogram of frames t+1..t+horizon, one frame and one quantity at a time."""
    sequences, frames, quantities = bins.shape
    out = np.zeros((sequences, frames - horizon, quantities, classes))
    for s in range(sequences):
        for t in range(frames - horizon):
            for q in range(quantities):
                for ahead in range(1, horizon + 1):
                    out[s, t, q, bins[s, t + ahead, q]] += 1 / horizon
    return out


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(0, 12), st.integers(0, 1000), st.sampled_from([2, 5, 32]))
def test_cumulative_counts_equal_the_brute_force_future_histogram(horizon, extra, seed, classes):
    rng = np.random.default_rng(seed)
    bins = rng.integers(0, classes, (2, horizon + 1 + extra, 3)).astype(np.uint8)
    counts = future_counts(torch.from_numpy(bins), horizon, classes)
    expected = np.cumsum(brute_histogram(bins, horizon, classes), -1)
    np.testing.assert_allclose(counts.numpy() / horizon, expected, atol=1e-12)
    assert (counts[..., -1] == horizon).all()


def test_sparse_and_dense_anchors_agree():
    bins = torch.randint(0, 32, (3, 400, 6), dtype=torch.uint8)
    every = future_counts(bins, 30, 32)
    times = torch.arange(7, 370, 10)
    assert torch.equal(future_counts(bins, 30, 32, times), every[:, times])
    consecutive = torch.arange(150, 370)
    assert torch.equal(future_counts(bins, 30, 32, consecutive), every[:, 150:])


def test_the_present_frame_is_never_in_the_target():
    bins = torch.zeros((1, 50, 1), dtype=torch.uint8)
    changed = bins.clone()
    changed[0, 10] = 31
    difference = (future_counts(bins, 5, 32) != future_counts(changed, 5, 32)).any(-1).any(-1)[0]
    assert difference.nonzero().flatten().tolist() == [5, 6, 7, 8, 9]


def test_a_window_that_ends_after_the_recording_is_refused():
    bins = torch.zeros((1, 50, 1), dtype=torch.uint8)
    with pytest.raises(ValueError, match="window of 30 frames"):
        future_counts(bins, 30, 32, torch.tensor([20]))


def test_frames_in_no_bin_are_not_counted():
    bins = torch.tensor([0, 1, 4, 2, 4, 0], dtype=torch.uint8)[None, :, None]
    counts = future_counts(bins, 4, 4)[0, :, 0]
    assert counts.tolist() == [[0, 1, 2, 2], [1, 1, 2, 2]]
    # of four frames ahead two are known, one in bin 1 and one in bin 2
    even = torch.zeros(1, 4)
    assert emd2(even, counts[:1]).item() == pytest.approx((0.25 - 0) ** 2 + (0.5 - 0.5) ** 2 + (0.75 - 1) ** 2)


def test_long_horizons_do_not_overflow():
    bins = torch.zeros((1, 700, 1), dtype=torch.uint8)
    counts = future_counts(bins, 600, 4)
    assert counts.dtype == torch.int16 and (counts == 600).all()


def test_edges_are_percentiles_of_what_moves():
    values = np.concatenate([np.zeros(5000), np.linspace(1, 101, 1001), [np.nan]])
    edges = equal_edges(values, 32, still=0.1)
    assert len(edges) == 31
    np.testing.assert_allclose(edges[[0, -1]], [1.5, 100.5], rtol=1e-6)
    np.testing.assert_allclose(np.diff(edges), np.diff(edges)[0], rtol=1e-4)


@pytest.mark.parametrize("values", [np.array([]), np.full(10, np.nan), np.zeros(10), np.full(10, 3.0)])
def test_edges_of_nothing_that_moves_are_still_increasing(values):
    assert (np.diff(equal_edges(values, 32, still=0.1)) > 0).all()


def test_bins_count_the_edges_at_or_below():
    edges = torch.tensor([[0.0, 1.0, 2.0]])
    values = torch.tensor([-5.0, 0.0, 0.5, 1.0, 2.0, 9.0, torch.inf, torch.nan])[:, None]
    assert digitise(values, edges).flatten().tolist() == [0, 1, 1, 2, 3, 3, 3, 4]


def reference_emd2(logits, counts, horizon):
    cdf = torch.softmax(logits, -1).cumsum(-1)
    return ((counts / horizon - cdf) ** 2).sum()


def test_emd_equals_the_definition_and_its_gradient_autograd():
    torch.manual_seed(0)
    logits = torch.randn(7, 5, 32, dtype=torch.float64, requires_grad=True)
    counts = future_counts(torch.randint(0, 32, (1, 37, 5), dtype=torch.uint8), 30, 32)[0]
    value = emd2(logits, counts)
    (grad,) = torch.autograd.grad(value, logits)
    expected = reference_emd2(logits, counts.double(), 30)
    (expected_grad,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grad, expected_grad)
    assert torch.autograd.gradcheck(lambda x: emd2(x, counts[:2, :1]), logits[:2, :1].detach().requires_grad_())


def test_emd_by_hand():
    # two bins, all mass ahead in bin 1: CDF (0, 1); equal logits predict CDF (.5, 1): .25
    assert emd2(torch.zeros(1, 2), torch.tensor([[0, 3]], dtype=torch.uint8)).item() == pytest.approx(0.25)


def test_a_streamed_head_gives_the_loss_and_gradients_of_the_whole():
    torch.manual_seed(0)
    head = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.PReLU(), torch.nn.Linear(16, 3))
    rows = torch.randn(50, 6, requires_grad=True)
    whole = (head(rows) ** 2).sum()
    expected = torch.autograd.grad(whole * 3, (rows, *head.parameters()))
    value = streamed(head, lambda out, part: (out**2).sum(), rows, chunk=7)
    found = torch.autograd.grad(value * 3, (rows, *head.parameters()))
    torch.testing.assert_close(value, whole)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_a_histogram_of_nothing_adds_nothing():
    torch.manual_seed(0)
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    counts = torch.tensor([[0, 1, 2, 2], [0, 0, 0, 0], [3, 3, 3, 3]])
    value = emd2(logits, counts)
    (grad,) = torch.autograd.grad(value, logits)
    both = emd2(logits[[0, 2]], counts[[0, 2]])
    torch.testing.assert_close(value, both)
    assert (grad[1] == 0).all() and (grad[[0, 2]] != 0).any()


def test_mixed_precision_keeps_the_distance_in_float32():
    torch.manual_seed(0)
    rough = torch.randn(50, 32).bfloat16().requires_grad_()
    counts = future_counts(torch.randint(0, 32, (1, 80, 1), dtype=torch.uint8), 30, 32)[0, :, 0]
    exact = rough.detach().float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = emd2(rough, counts)
    expected = emd2(exact, counts)
    assert value.dtype == torch.float32 and torch.equal(value, expected)
    (found,) = torch.autograd.grad(value, rough)
    (grad,) = torch.autograd.grad(expected, exact)
    assert torch.equal(found, grad.bfloat16())


def test_a_streamed_head_adds_up_in_float32_under_mixed_precision():
    torch.manual_seed(0)
    head = torch.nn.Linear(6, 8)
    rows, counts = torch.randn(3000, 6, requires_grad=True), torch.arange(1, 9).expand(3000, 8)
    with torch.autocast("cpu", torch.bfloat16):
        value = streamed(head, lambda out, part: emd2(out, counts[part]), rows, chunk=10)
        whole = emd2(head(rows), counts)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, whole, rtol=1e-4, atol=0)
    found = torch.autograd.grad(value, (rows, *head.parameters()))
    expected = torch.autograd.grad(whole, (rows, *head.parameters()))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.02 * float(b.abs().max()))
