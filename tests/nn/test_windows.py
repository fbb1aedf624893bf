import numpy as np
import pytest
import torch

from ethoray.nn.windows import cut, random_starts, reach, regular, spread, stitched

SHAPES = [(7, 3), (8, 3), (7, 4), (8, 4), (5, 1), (6, 6), (1, 1), (5, 5)]


def first_frame(window: int, length: int, hop: int) -> int:
    return window * hop - (length // 2 - hop // 2)


@pytest.mark.parametrize(("length", "hop"), SHAPES)
@pytest.mark.parametrize("frames", [1, 4, 12, 13, 31])
def test_regular_windows_are_those_of_a_loop(length, hop, frames):
    x = torch.arange(2.0 * frames * 3).view(2, frames, 3)
    windows = regular(x, length, hop)
    assert windows.shape == (2, -(-frames // hop), length, 3)
    for k in range(windows.shape[1]):
        for i in range(length):
            t = first_frame(k, length, hop) + i
            expected = x[:, t] if 0 <= t < frames else torch.full((2, 3), torch.nan)
            assert torch.equal(windows[:, k, i].nan_to_num(-1), expected.nan_to_num(-1)), (k, i)


def test_beyond_the_ends_stands_what_was_asked_for():
    assert regular(torch.ones(1, 2), 5, 1, fill=7.0)[0].tolist() == [[7, 7, 1, 1, 7], [7, 1, 1, 7, 7]]


@pytest.mark.parametrize(("length", "hop"), SHAPES)
@pytest.mark.parametrize("frames", [1, 12, 31])
def test_stitching_undoes_cutting(length, hop, frames):
    x = torch.randn(2, frames, 3)
    assert torch.equal(stitched(regular(x, length, hop), length, hop, frames), x)


def test_spreading_repeats_the_vector_of_a_window():
    z = torch.tensor([[[1.0], [2.0], [3.0]]])
    assert spread(z, 3, 7)[0, :, 0].tolist() == [1, 1, 1, 2, 2, 2, 3]


@pytest.mark.parametrize(("length", "hop"), SHAPES)
def test_reach_is_the_farthest_frame_of_a_responsible_window(length, hop):
    past, future = reach(length, hop)
    frames, before, after = 40, 0, 0
    for t in range(frames):
        first = first_frame(t // hop, length, hop)
        before, after = max(before, t - first), max(after, first + length - 1 - t)
    assert past % hop == 0 and future >= 0
    assert past >= (length // 2 - hop // 2) and past - hop < max(length // 2 - hop // 2, 1)
    assert future >= after - hop + 1 and before <= past + hop - 1


@pytest.mark.parametrize(("length", "hop"), SHAPES)
def test_chunks_give_the_windows_of_the_whole(length, hop):
    past, future = reach(length, hop)
    extra = 3 * hop
    frames = past + future + 4 * extra
    x = torch.randn(1, frames)

    def embedded(part):  # a vector that tells every value and place of a window apart
        windows = regular(part, length, hop).nan_to_num(9.0)
        code = (windows * torch.arange(1.0, length + 1)).sum(-1, keepdim=True)
        return spread(code, hop, part.shape[1])

    whole, late, early = embedded(x), embedded(x[:, extra:]), embedded(x[:, : frames - extra])
    torch.testing.assert_close(late[:, past:], whole[:, extra + past :])
    last = frames - extra - future
    torch.testing.assert_close(early[:, :last], whole[:, :last])


def test_random_starts_fit_and_reach_both_ends():
    torch.manual_seed(0)
    starts = random_starts(50, 10, 7, 20, torch.device("cpu"))
    assert starts.shape == (50, 20) and starts.dtype == torch.int64
    counts = np.bincount(starts.flatten().numpy(), minlength=4)
    assert len(counts) == 4 and (np.abs(counts / 1000 - 0.25) < 0.05).all()
    assert bool((random_starts(3, 7, 7, 2, torch.device("cpu")) == 0).all())


def test_a_crop_longer_than_its_sequence_is_refused():
    with pytest.raises(ValueError, match="window of 8 frames does not fit into 7"):
        random_starts(1, 7, 8, 1, torch.device("cpu"))


def test_crops_are_those_of_a_loop():
    x = torch.randn(3, 11, 2, 4)
    starts = torch.tensor([[0, 6], [3, 3], [1, 5]])
    crops = cut(x, starts, 5)
    expected = [x[row, s : s + 5] for row in range(3) for s in starts[row].tolist()]
    assert torch.equal(crops, torch.stack(expected))


@pytest.mark.parametrize("hop", [0, 6])
def test_windows_that_leave_gaps_are_refused(hop):
    with pytest.raises(ValueError, match=f"windows of 5 frames cannot be {hop} frames apart"):
        regular(torch.zeros(1, 9), 5, hop)
