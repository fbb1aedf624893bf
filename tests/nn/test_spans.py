import pytest
import torch

from ethoray.nn.spans import Spans, masked_error, span_masks

CPU = torch.device("cpu")


def runs(chosen: torch.Tensor) -> list[int]:
    lengths, current = [], 0
    for hidden in [*chosen.tolist(), False]:
        if hidden:
            current += 1
        elif current:
            lengths.append(current)
            current = 0
    return lengths


def test_lengths_follow_the_truncated_geometric_distribution():
    spans = Spans(p=0.2, shortest=3, longest=20)
    u = (torch.arange(1_000_000) + 0.5) / 1_000_000
    lengths = spans.lengths(u)
    weights = torch.tensor([0.2 * 0.8**k for k in range(18)], dtype=torch.float64)
    expected = weights / weights.sum()
    found = torch.bincount(lengths, minlength=21)[3:21].double() / len(u)
    torch.testing.assert_close(found, expected, atol=3e-6, rtol=0)
    mean = float((expected * torch.arange(3, 21)).sum())
    assert spans.mean_length() == pytest.approx(mean) and lengths.double().mean().item() == pytest.approx(
        mean, rel=1e-4
    )
    ends = spans.lengths(torch.tensor([0.0, 1 - 2**-24]))
    assert ends.tolist() == [3, 20]


def test_random_spans_have_the_mean_length_of_the_distribution():
    torch.manual_seed(0)
    spans = Spans()
    drawn = spans.lengths(torch.rand(100_000)).double()
    assert drawn.mean().item() == pytest.approx(spans.mean_length(), rel=0.01)


@pytest.mark.parametrize(("frames", "share"), [(78, 0.7), (78, 0.15), (512, 0.5), (7, 0.7), (2, 0.7)])
def test_exactly_the_wanted_share_is_hidden_in_every_sequence(frames, share):
    torch.manual_seed(0)
    masks = span_masks(200, frames, Spans(share=share), CPU)
    assert masks.chosen.shape == (200, frames)
    assert (masks.chosen.sum(1) == max(1, round(share * frames))).all()
    assert not (masks.blanked & masks.swapped).any()
    assert not ((masks.blanked | masks.swapped) & ~masks.chosen).any()
    assert masks.donor.min() >= 0 and masks.donor.max() < frames


def test_hidden_frames_come_in_spans_and_only_the_last_is_cut():
    torch.manual_seed(0)
    masks = span_masks(400, 1000, Spans(share=0.05, shortest=5, longest=9), CPU)
    lengths = [runs(row) for row in masks.chosen]
    short = [sum(length < 5 for length in row) for row in lengths]
    assert max(short) <= 1
    assert sum(map(sum, lengths)) == 400 * 50


def test_the_only_span_starts_anywhere_alike():
    torch.manual_seed(0)
    masks = span_masks(40_000, 12, Spans(share=4 / 12, shortest=4, longest=4), CPU)
    starts = masks.chosen.int().argmax(1)
    share = torch.bincount(starts, minlength=9).double() / 40_000
    torch.testing.assert_close(share, torch.full((9,), 1 / 9, dtype=torch.float64), atol=0.006, rtol=0)


def test_eighty_ten_ten():
    torch.manual_seed(0)
    masks = span_masks(3000, 78, Spans(), CPU)
    count = masks.chosen.sum()
    assert (masks.blanked.sum() / count).item() == pytest.approx(0.8, abs=0.01)
    assert (masks.swapped.sum() / count).item() == pytest.approx(0.1, abs=0.01)


def test_content_is_blanked_swapped_or_kept():
    torch.manual_seed(0)
    masks = span_masks(5, 60, Spans(), CPU)
    content, blank = torch.randn(5, 60, 3), torch.full((3,), 9.0)
    out = masks.apply(content, blank)
    assert masks.swapped.any()
    for row in range(5):
        for frame in range(60):
            expected = content[row, frame]
            if masks.blanked[row, frame]:
                expected = blank
            elif masks.swapped[row, frame]:
                expected = content[row, masks.donor[row, frame]]
            assert torch.equal(out[row, frame], expected)


def test_masked_error_counts_only_what_it_is_told_to():
    predicted, target = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, torch.nan, 1.0])
    where = torch.tensor([True, False, True])
    assert masked_error(predicted, target, where).item() == pytest.approx((1 + 4) / 2)
    assert masked_error(predicted, target, torch.zeros(3, dtype=torch.bool)).item() == 0
    predicted.requires_grad_()
    masked_error(predicted, target, where).backward()
    assert predicted.grad.tolist() == [1.0, 0.0, 2.0]


@pytest.mark.parametrize(
    "wrong",
    [{"share": 1.0}, {"p": 0.0}, {"shortest": 0}, {"shortest": 9, "longest": 8}, {"blanked": 0.9, "swapped": 0.2}],
)
def test_impossible_spans_are_refused(wrong):
    with pytest.raises(ValueError, match=r"spans|blanked"):
        Spans(**wrong)
