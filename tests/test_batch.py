"""The plan: every frame about once an epoch, the same for everybody, from any step on."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ethoray.batch import Batch, Plan, Windows, collate, rank_rows
from ethoray.schema import SchemaError


def test_windows_are_in_seconds_and_hold_two_frames_at_least():
    assert Windows("toy", seconds=2.0).frames(30.0) == 60
    assert Windows("toy", seconds=0.001).frames(30.0) == 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seconds": 0.0}, "positive length in seconds"),
        ({"seconds": float("nan")}, "positive length in seconds"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"stream": "disk"}, "auto, resident or ray"),
    ],
)
def test_windows_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(SchemaError, match=message):
        Windows("toy", **wrong)


@settings(max_examples=50, deadline=None)
@given(
    frames=st.lists(st.integers(1, 200), min_size=1, max_size=8),
    length=st.integers(2, 40),
    batch_size=st.integers(1, 12),
    step=st.integers(0, 60),
)
def test_rows_depend_on_the_step_alone_and_lie_within_their_recording(frames, length, batch_size, step):
    plan = Plan(frames, length, batch_size, seed=1)
    rows = plan.rows(step)
    plan.rows(step + 17)
    np.testing.assert_array_equal(plan.rows(step), rows)
    np.testing.assert_array_equal(Plan(frames, length, batch_size, seed=1).rows(step), rows)
    assert rows.shape == (batch_size, 2)
    recording, start = rows.T
    assert (start >= 0).all()
    assert (start + np.minimum(length, np.take(frames, recording)) <= np.take(frames, recording)).all()


def test_an_epoch_reads_no_frame_twice_and_leaves_less_than_a_window_and_a_batch():
    frames, length, batch_size = [100, 73, 64, 12], 20, 3
    plan = Plan(frames, length, batch_size, seed=4)
    for epoch in range(3):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        read = [np.zeros(n, dtype=int) for n in frames]
        for recording, start in np.concatenate([plan.rows(step) for step in steps]):
            read[recording][start : start + length] += 1
        assert max(r.max() for r in read) == 1
        assert sum(int(r.sum()) for r in read) > sum(frames) - (len(frames) + batch_size) * length


def test_epochs_and_seeds_differ():
    plan = Plan([400] * 4, 20, 4, seed=0)
    assert not np.array_equal(plan.rows(0), plan.rows(plan.steps_per_epoch))
    assert not np.array_equal(plan.rows(0), Plan([400] * 4, 20, 4, seed=1).rows(0))


def test_a_split_with_fewer_windows_than_a_batch_fills_it_by_drawing_again():
    plan = Plan([20, 15], 20, 8, seed=0)
    assert plan.steps_per_epoch == 1
    assert set(plan.rows(0)[:, 0].tolist()) == {0, 1}


def test_a_pool_keeps_windows_of_neighbouring_recordings_together():
    rows = np.concatenate([(plan := Plan([200] * 20, 10, 10, seed=0, pool=40)).rows(s) for s in range(40)])
    assert len(plan.counts) == 20
    assert all(len(set(rows[i : i + 40, 0].tolist())) == 2 for i in range(0, 400, 40))


def test_no_recordings_are_refused():
    with pytest.raises(SchemaError, match="no recordings"):
        Plan([], 20, 4, seed=0)


def test_ranks_share_a_batch_in_order_without_overlap():
    rows = np.arange(24).reshape(12, 2)
    np.testing.assert_array_equal(np.concatenate([rank_rows(rows, r, 3) for r in range(3)]), rows)
    with pytest.raises(SchemaError, match="12 windows does not divide among 5 workers"):
        rank_rows(rows, 0, 5)


def test_collate_pads_with_missing_and_masks_the_padding():
    long, short = np.ones((5, 2, 3, 2), np.float32), np.ones((4, 1, 3, 2), np.float32)
    batch = collate([long, short], 5, 2, 30.0)
    assert batch.keypoints.shape == (2, 5, 2, 3, 2)
    assert len(batch) == 2
    assert batch.mask[0].all()
    assert batch.mask[1].sum() == 4
    assert batch.mask[1, :4, 0].all()
    assert batch.keypoints[~batch.mask].isnan().all()
    assert (batch.keypoints[batch.mask] == 1).all()


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(SchemaError, match="first three axes"):
        Batch(torch.zeros(2, 5, 1, 3, 2), torch.ones(2, 5, dtype=torch.bool), 30.0)


def test_a_batch_moves_as_a_whole():
    batch = Batch(torch.zeros(2, 5, 1, 3, 2), torch.ones(2, 5, 1, dtype=torch.bool), 30.0).to("meta")
    assert batch.keypoints.device.type == batch.mask.device.type == "meta"
    assert batch.fps == 30.0
