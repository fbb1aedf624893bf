import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ethoray.nn.masking import (
    compact,
    draw,
    everything,
    gaps,
    interpolate,
    kept_frames,
    kept_joints,
    leave_one_out,
    mask,
    unmask,
)


def seen(rows=3, time=12, joint=5, share=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, time, joint, generator=generator) < share


def test_the_sizes_of_the_two_presets():
    assert kept_frames(120, 0.4, 6) == 72 and kept_joints(19, 0.5) == 10
    assert kept_frames(120, 0.25, 6) * kept_joints(19, 1 / 3) / (120 * 19) == pytest.approx(0.513, abs=5e-4)
    assert kept_frames(6, 0.4, 6) == 6 and kept_joints(1, 0.9) == 1


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 12), st.integers(1, 5), st.sampled_from([0.3, 0.8, 1.0]), st.sampled_from([1, 4]), st.integers(0, 99)
)
def test_unmask_undoes_mask_on_what_is_visible(frames, joints, share, longest, seed):
    torch.manual_seed(seed)
    there = seen(share=share, seed=seed)
    cells = draw(there, frames, joints, longest)
    x = torch.randn(3, 12, 5, 2)
    back, visible = unmask(mask(x, cells), cells), cells.visible()
    assert torch.equal(back[visible], x[visible])
    assert not (visible & ~there).any(), "what was not seen is never visible"
    if share == 1:
        assert (visible.sum((1, 2)) == frames * joints).all() and cells.known.all()
        assert (back[~visible] == 0).all()
        assert (cells.frames.diff(dim=1) > 0).all() and (cells.joints.diff(dim=2) > 0).all()


def test_missing_cells_are_hidden_before_any_other():
    there = torch.ones(1, 12, 5, dtype=torch.bool)
    there[0, 3:7] = False
    there[0, 0, 2] = False
    cells = draw(there, 8, 4)
    assert cells.frames[0].tolist() == [0, 1, 2, 7, 8, 9, 10, 11]
    assert cells.joints[0, 0].tolist() == [0, 1, 3, 4] and cells.known.all()
    few = draw(there, 10, 5)
    assert few.frames[0].tolist()[:8] == [0, 1, 2, 7, 8, 9, 10, 11], "what holds nothing comes last"
    assert not few.known[0, 8:].any() and few.known[0, 0].tolist() == [True] * 4 + [False]
    assert few.joints[0, 0].tolist() == [0, 1, 3, 4, 2]


def test_joints_are_drawn_afresh_and_runs_last():
    torch.manual_seed(0)
    there = torch.ones(64, 60, 8, dtype=torch.bool)

    def changes(longest):
        visible = draw(there, 60, 4, longest).visible()
        return (visible[:, 1:] != visible[:, :-1]).float().mean((1, 2))

    assert changes(1).mean() == pytest.approx(0.5, abs=0.03)  # 4 of 8 and 4 of 8: half of the joints change
    fresh = changes(20)
    assert 0.3 < (fresh < 0.35).float().mean() < 0.6, "half of the rows hide in runs"
    alone = draw(there, 30, 8, 1).visible().any(-1)
    runs = draw(there, 30, 8, 20).visible().any(-1)
    assert (runs[:, 1:] != runs[:, :-1]).float().mean() < 0.8 * (alone[:, 1:] != alone[:, :-1]).float().mean()


def test_every_cell_is_hidden_equally_often():
    torch.manual_seed(0)
    visible = draw(torch.ones(4000, 6, 4, dtype=torch.bool), 3, 2).visible().float().mean(0)
    assert (visible - 0.25).abs().max() < 0.03


def test_compact_packs_what_is_visible():
    visible = torch.zeros(2, 6, 3, dtype=torch.bool)
    visible[0, 1, 2] = visible[0, 4, 0] = visible[0, 4, 1] = visible[1, 0] = True
    visible[1, 0, 0] = False
    cells = compact(visible, 2)
    assert cells.frames.tolist() == [[1, 4], [0, 1]] and cells.joints.shape == (2, 2, 2)
    assert torch.equal(cells.visible(), visible)
    assert torch.equal(everything(visible).visible(), visible)
    assert compact(torch.zeros(2, 6, 3, dtype=torch.bool), 2).visible().sum() == 0


def test_interpolation_against_a_loop():
    torch.manual_seed(0)
    x, visible = torch.randn(4, 15, 3, 2, dtype=torch.float64), seen(4, 15, 3, 0.4, seed=5)
    visible[0, :, 1] = False
    expected, kinds = torch.full_like(x, torch.nan), torch.full((4, 15, 3), 2 * 3 + 1)
    for r in range(4):
        for j in range(3):
            times = [t for t in range(15) if visible[r, t, j]]
            for t in range(15) if times else ():
                before, after = [s for s in times if s <= t], [s for s in times if s >= t]
                far = (t - before[-1]) * (after[0] - t) if before and after else min(abs(s - t) for s in times)
                kinds[r, t, j] = min(3, far) + 3 * (not before or not after)
                a, b = (before or after)[-1] if before else after[0], (after or before)[0] if after else before[-1]
                w = (t - a) / (b - a) if b > a else 0.0
                expected[r, t, j] = (1 - w) * x[r, a, j] + w * x[r, b, j]
    hidden = torch.where(visible[..., None], x, torch.nan)
    assert torch.allclose(interpolate(hidden, visible), expected, equal_nan=True, atol=1e-12)
    assert torch.equal(interpolate(x, visible)[visible], x[visible])
    assert torch.equal(gaps(visible, 3), kinds)


def test_leaving_a_cell_out_is_interpolating_without_it():
    torch.manual_seed(0)
    x, visible = torch.randn(2, 11, 3, 2, dtype=torch.float64), seen(2, 11, 3, 0.6, seed=4)
    residual, product = leave_one_out(torch.where(visible[..., None], x, torch.nan), visible)
    for r, t, j in visible.nonzero().tolist():
        others = visible.clone()
        others[r, t, j] = False
        times = others[r, :, j].nonzero()[:, 0]
        inside = bool((times < t).any() and (times > t).any())
        far = (t - times[times < t].max()) * (times[times > t].min() - t) if inside else 0
        expected = (x - interpolate(x, others))[r, t, j] if inside else torch.zeros(2, dtype=torch.float64)
        assert product[r, t, j] == far and torch.allclose(residual[r, t, j], expected, atol=1e-12)
    assert (residual[~visible] == 0).all() and (product[~visible] == 0).all()
