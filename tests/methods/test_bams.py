import math

import numpy as np
import pytest
import torch

from ethoray.batch import Batch, Spec
from ethoray.geometry import MOUSE_KEYPOINTS
from ethoray.learning import Budget
from ethoray.methods.bams import BAMS
from ethoray.nn.features import MOUSE_TARGETS, MouseVelocities
from ethoray.nn.histogram import digitise
from ethoray.schema import SchemaError, Skeleton

MOUSE = Skeleton(MOUSE_KEYPOINTS, front="nose", back="tail_base")
BODY = torch.tensor(
    [[90, 0], [75, 10], [75, -10], [65, 0], [60, 9], [60, -9], [40, 0], [15, 12], [15, -12], [0, 0], [-20, 2], [-40, 6]]
).float()


def mice(step: int = 0, windows: int = 2, frames: int = 300, animals: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(step)
    walk = torch.randn(windows, frames, animals, 1, 2, generator=generator).cumsum(1) * 2
    jitter = torch.randn(windows, frames, animals, 12, 2, generator=generator)
    apart = 150 * torch.arange(animals)[:, None, None].float()
    return Batch(BODY + apart + walk + jitter, torch.ones(windows, frames, animals, dtype=torch.bool), 30.0)


def build(frames: int = 300, animals: int = 3, **settings):
    method = BAMS(**{"warmup": 1.0, "head": (16,), **settings})
    encoder = method.build(Spec(MOUSE, animals, 2, 30.0, frames))
    encoder.calibrate(mice)
    return encoder


def test_the_paper_preset_has_the_sizes_of_the_paper():
    encoder = BAMS().build(Spec(MOUSE, 3, 2, 30.0, 1800))
    assert (encoder.short.reach, encoder.long.reach) == (61, 1365)
    assert encoder.features.width == 36 and encoder.features.quantities == MOUSE_TARGETS
    assert encoder.short.blocks[0].first.direction.shape == (64, 37, 3)
    linears = [layer.out_features for layer in encoder.head if isinstance(layer, torch.nn.Linear)]
    assert linears == [256, 512, 512, 512, 6 * 32]
    assert (encoder.start, encoder.horizon) == (150, 30)
    times = encoder.anchors(1800)
    assert (int(times[0]), int(times[-1])) == (150, 1769) and len(times) == 1620


def test_invalid_frames_are_zeroed_with_the_frame_after():
    batch = mice(animals=1, windows=1)
    batch.keypoints[0, 50, 0, 4] = torch.nan
    movement = MouseVelocities(Spec(MOUSE, 1, 2, 30.0, 300))(batch)
    assert (~movement.valid[0]).nonzero().flatten().tolist() == [0, 50, 51]
    assert (movement.inputs[0, [0, 50, 51]] == 0).all()
    assert movement.targets[0, 50].isnan().all() and movement.targets[0, 52].isfinite().all()


def test_loss_equals_the_definition_written_out():
    torch.manual_seed(0)
    encoder = build(valid_fraction=0.8).eval()
    batch = mice(3, windows=1, animals=2)
    batch.keypoints[0, 60:70] = torch.nan
    movement = encoder.features(batch)
    z = encoder.encode(encoder.normalise(movement))
    edges = encoder.edges.numpy()
    total, count = 0.0, 0
    for s in range(2):
        for t in range(30, 300 - 30):
            if movement.valid[s, t + 1 : t + 31].float().mean() < 0.8:
                continue
            logits = encoder.head(torch.cat([z["short"][s, t], z["long"][s, t]])).view(6, 32)
            predicted = torch.softmax(logits, -1).cumsum(-1).detach().numpy()
            for i in range(6):
                ahead = movement.targets[s, t + 1 : t + 31, i].numpy()
                ahead = ahead[np.isfinite(ahead)]
                histogram = np.bincount(np.searchsorted(edges[i], ahead, side="right"), minlength=32) / len(ahead)
                total += ((np.cumsum(histogram) - predicted[i]) ** 2).sum()
            count += 1
    bins = digitise(movement.targets, encoder.edges)
    found = encoder.histogram_loss(z, bins, movement.valid, encoder.anchors(300))
    assert found.item() == pytest.approx(total / count, rel=1e-4)


@pytest.mark.parametrize(("tracked", "counts"), [(24, True), (23, False)])
def test_eighty_percent_of_the_window_ahead_must_be_tracked(tracked, counts):
    encoder = build(animals=1).eval()
    valid = torch.zeros(1, 300, dtype=torch.bool)
    valid[0, 101 : 101 + tracked] = True
    z = {name: torch.randn(1, 300, 32) for name in ("short", "long")}
    bins = torch.zeros(1, 300, 6, dtype=torch.uint8)
    loss = encoder.histogram_loss(z, bins, valid, torch.tensor([100]))
    assert (loss.item() > 0) == counts and math.isfinite(loss.item())


def test_terms_add_up_with_alpha_and_interaction():
    encoder = build(alpha=0.3, interaction=2.0).eval()
    terms = encoder.loss(mice(1))
    expected = terms["histogram"] + 0.3 * (terms["short"] + terms["long"]) + 2.0 * terms["interaction"]
    torch.testing.assert_close(terms["loss"], expected)
    assert set(build(animals=1).loss(mice(1, animals=1))) == {"loss", "histogram", "short", "long"}


def test_the_head_sees_one_space_alone_as_often_as_told():
    encoder = build(alone=0.5)
    torch.manual_seed(0)
    seen = encoder.company(4000)
    assert ((seen["short"] + seen["long"]) >= 1).all()
    assert seen["short"].mean().item() == pytest.approx(0.75, abs=0.03)
    assert seen["long"].mean().item() == pytest.approx(0.75, abs=0.03)
    assert all((part == 1).all() for part in encoder.eval().company(3).values())
    assert all((part == 1).all() for part in build().train().company(3).values())


def test_strides_over_all_phases_average_to_the_exact_loss():
    encoder = build().eval()
    z = {name: torch.randn(3, 300, 32) for name in ("short", "long")}
    bins = torch.randint(0, 32, (3, 300, 6), dtype=torch.uint8)
    valid = torch.ones(3, 300, dtype=torch.bool)
    exact = encoder.histogram_loss(z, bins, valid, torch.arange(30, 270))
    strided = [encoder.histogram_loss(z, bins, valid, torch.arange(30 + p, 270, 10)) for p in range(10)]
    torch.testing.assert_close(torch.stack(strided).mean(), exact)


def test_pairs_reach_exactly_as_far_as_their_scale():
    torch.manual_seed(0)
    encoder = build(pairs=4000)
    now, then = encoder.moments("short", 2, 300)
    step = then - now
    assert set(step.flatten().tolist()) == {-5, -4, -3, -2, -1, 1, 2, 3, 4, 5}
    assert now.min() == 30 and now.max() == 299 and then.max() <= 299
    now, then = encoder.moments("long", 2, 300)
    assert (then - now).abs().max() > 250 and then.min() == 30 and then.max() == 299


def test_no_gradient_reaches_the_target_of_the_bootstrap():
    encoder = build(pairs=1, neighbour=1 / 30)
    z = {"short": torch.randn(2, 300, 32, requires_grad=True)}
    torch.manual_seed(5)
    now, then = encoder.moments("short", 2, 300)
    torch.manual_seed(5)
    encoder.bootstrap_loss("short", z, torch.ones(2, 300, dtype=torch.bool)).backward()
    touched = z["short"].grad.abs().sum(-1)
    assert all(touched[s, now[s, 0]] > 0 for s in range(2))
    assert all(touched[s, then[s, 0]] == 0 for s in range(2))


def test_bootstrap_distance_by_hand():
    from ethoray.nn.bootstrap import bootstrap_distance

    online = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    target = torch.tensor([[1.0, 0.0], [0.0, -1.0], [5.0, 5.0]])
    assert bootstrap_distance(online, target, torch.tensor([1.0, 1.0, 0.0])).item() == pytest.approx((0 + 4) / 2)


def test_interaction_regresses_distances_in_units_of_their_mean():
    encoder = build(animals=3).eval()
    batch = mice(2, windows=2)
    batch.keypoints[0, :, 2] = torch.nan
    z = encoder.encode(encoder.normalise(encoder.features(batch)))
    times = torch.tensor([50, 100])
    errors = []
    both = torch.cat([z["short"], z["long"]], -1).view(2, 3, 300, 64)
    for w in range(2):
        for i, j in ((0, 1), (0, 2), (1, 2)):
            for t in (50, 100):
                gap = batch.keypoints[w, t, i, 6] - batch.keypoints[w, t, j, 6]
                if gap.isfinite().all():
                    hidden = encoder.meeting[0](both[w, i, t]) + encoder.meeting[0](both[w, j, t])
                    errors.append((encoder.meeting[1](hidden)[0] - gap.norm() / encoder.distance) ** 2)
    assert len(errors) == 8
    torch.testing.assert_close(encoder.interaction_loss(z, batch, times), torch.stack(errors).mean())


def test_embedding_sees_the_past_only():
    encoder = build(animals=1).eval()
    batch = mice(4, windows=1, animals=1)
    changed = Batch(batch.keypoints.clone(), batch.mask, 30.0)
    changed.keypoints[:, 200:] += 30 * torch.randn(100, 1, 12, 2)
    with torch.no_grad():
        before, after = encoder.embed(batch), encoder.embed(changed)
    for space in ("short", "long"):
        assert torch.equal(before[space][:, :200], after[space][:, :200])
        assert not torch.equal(before[space][:, 200], after[space][:, 200])


def test_predictors_learn_ten_times_as_fast():
    encoder = build()
    slow, fast = encoder.groups(1e-3)
    assert (slow["lr"], fast["lr"]) == (1e-3, 1e-2)
    assert {id(p) for p in fast["params"]} == {id(p) for p in encoder.predictors.parameters()}
    assert len(slow["params"]) + len(fast["params"]) == len(list(encoder.parameters()))
    assert (encoder.rate(0.19), encoder.rate(0.2)) == (1.0, 0.1)


def test_scales_and_edges_come_from_training_and_travel_with_the_weights():
    encoder = build()
    assert (encoder.scale > 0).all() and not torch.equal(encoder.scale, torch.ones_like(encoder.scale))
    assert (encoder.edges.diff(dim=1) > 0).all()
    assert {"scale", "edges", "distance"} <= set(encoder.state_dict())


def test_training_lowers_the_loss_and_does_not_collapse():
    torch.manual_seed(0)
    encoder = build(anchor_stride=5, lr=3e-3, lr_drop_at=1.0, short_channels=(16, 16), long_channels=(16, 16, 16))
    losses = [p.metrics["histogram"] for p in encoder.fit(mice, Budget(steps=40, log_every=10))]
    assert losses[-1] < 0.8 * losses[0]
    with torch.no_grad():
        z = encoder.embed(mice(99))
    assert all(space.flatten(0, 2).std(0).mean() > 1e-3 for space in z.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warmup": 9.5}, "longer windows"),
        ({"targets": ("head_sped",)}, "head_speed"),
        ({"features": "velocities"}, "auto, velocity or generic"),
    ],
)
def test_impossible_settings_say_what_to_do(settings, message):
    with pytest.raises(SchemaError, match=message):
        build(**settings)


def test_velocity_features_need_the_mouse():
    with pytest.raises(SchemaError, match="12-keypoint mouse"):
        BAMS(features="velocity").build(Spec(Skeleton(("a", "b")), 1, 2, 30.0, 1800))


def test_the_small_preset_suits_every_skeleton():
    small = BAMS(**BAMS.presets["small"])
    assert small.reach() == BAMS().reach()
    assert len(small.build(Spec(MOUSE, 3, 2, 30.0, 1800)).features.quantities) == 9
    assert len(small.build(Spec(Skeleton(("a", "b")), 1, 2, 30.0, 1800)).features.quantities) == 6
