import math

import numpy as np
import pytest
import torch

from ethoray.batch import Batch, Spec
from ethoray.geometry import MOUSE_KEYPOINTS
from ethoray.learning import Budget
from ethoray.methods.bams import BAMS
from ethoray.nn.bootstrap import neighbours
from ethoray.nn.features import MOUSE_RELEASE, MOUSE_TARGETS, NEAREST, MouseVelocities
from ethoray.nn.histogram import digitise
from ethoray.nn.objectives import alone, future_values, sequence_error
from ethoray.schema import SchemaError, Skeleton

MOUSE = Skeleton(MOUSE_KEYPOINTS, front="nose", back="tail_base")
BODY = torch.tensor(
    [[90, 0], [75, 10], [75, -10], [65, 0], [60, 9], [60, -9], [40, 0], [15, 12], [15, -12], [0, 0], [-20, 2], [-40, 6]]
).float()


def at(spaces, times):
    """Spaces at some frames."""
    return {name: z[:, times] for name, z in spaces.items()}


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
    found = encoder.histogram_loss(at(z, encoder.anchors(300)), bins, movement.valid, encoder.anchors(300))
    assert found.item() == pytest.approx(total / count, rel=1e-4)


@pytest.mark.parametrize(("tracked", "counts"), [(24, True), (23, False)])
def test_eighty_percent_of_the_window_ahead_must_be_tracked(tracked, counts):
    encoder = build(animals=1).eval()
    valid = torch.zeros(1, 300, dtype=torch.bool)
    valid[0, 101 : 101 + tracked] = True
    z = {name: torch.randn(1, 300, 32) for name in ("short", "long")}
    bins = torch.zeros(1, 300, 6, dtype=torch.uint8)
    loss = encoder.histogram_loss(at(z, [100]), bins, valid, torch.tensor([100]))
    assert (loss.item() > 0) == counts and math.isfinite(loss.item())


def test_terms_add_up_with_alpha_and_interaction():
    encoder = build(alpha=0.3, interaction=2.0).eval()
    terms = encoder.loss(mice(1))
    expected = terms["histogram"] + 0.3 * (terms["short"] + terms["long"]) + 2.0 * terms["interaction"]
    torch.testing.assert_close(terms["loss"], expected)
    assert set(build(animals=1).loss(mice(1, animals=1))) == {"loss", "histogram", "short", "long"}


def test_the_head_sees_one_space_alone_as_often_as_told():
    torch.manual_seed(0)
    seen = alone({"short": torch.ones(4000, 1, 1), "long": torch.ones(4000, 1, 1)}, 0.5)
    assert ((seen["short"] + seen["long"]) >= 1).all()
    assert seen["short"].mean().item() == pytest.approx(0.75, abs=0.03)
    assert seen["long"].mean().item() == pytest.approx(0.75, abs=0.03)


def test_strides_over_all_phases_average_to_the_exact_loss():
    encoder = build().eval()
    z = {name: torch.randn(3, 300, 32) for name in ("short", "long")}
    bins = torch.randint(0, 32, (3, 300, 6), dtype=torch.uint8)
    valid = torch.ones(3, 300, dtype=torch.bool)
    exact, *strided = (
        encoder.histogram_loss(at(z, times), bins, valid, times)
        for times in (torch.arange(30, 270), *(torch.arange(30 + p, 270, 10) for p in range(10)))
    )
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
    seen = torch.cat([z["short"], z["long"]], -1)[:, times]
    found = encoder.meeting(seen, batch, encoder.spec, times, encoder.distance)
    torch.testing.assert_close(found, torch.stack(errors).mean())


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
        ({"short_channels": (), "long_channels": ()}, "at least one of recent_channels"),
        ({"objective": "sequence"}, "histogram or sequential, not 'sequence'"),
        ({"teacher_momentum": 1.0}, "less than 1"),
        ({"predictor_lr": -1.0}, "at least 0"),
        ({"horizon": 0.01}, "at least a frame ahead"),
        ({"pairs_in": True, "animals": 1}, "at least two animals"),
        ({"features": "velocities"}, "generic, differences or joints"),
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


TINY = {"short_channels": (8, 8), "long_channels": (8, 8, 8), "head": (16,), "calibration": 1}


def linears(encoder) -> list[int]:
    return [layer.out_features for layer in encoder.head if isinstance(layer, torch.nn.Linear)]


def preset(name: str, spec: Spec, **changes):
    torch.manual_seed(0)
    return BAMS(**{**BAMS.presets[name], **changes}).build(spec)


def trained(encoder, stream, steps: int = 2):
    for progress in encoder.fit(stream, Budget(steps=steps, log_every=1, device="cpu")):
        assert all(math.isfinite(value) for value in progress.metrics.values()), progress.metrics
    return encoder.eval()


def test_the_release_preset_has_the_sizes_of_the_release():
    encoder = preset("release", Spec(MOUSE, 3, 2, 30.0, 1800))
    sizes = {n: sum(p.numel() for p in getattr(encoder, n).parameters()) for n in ("short", "long", "head")}
    assert sizes == {"short": 72_108, "long": 96_879, "head": 575_779}
    assert encoder.short.blocks[0].first.direction.shape == (64, 67, 3)
    assert encoder.features.quantities == MOUSE_RELEASE and linears(encoder) == [256, 512, 512, 288]
    assert encoder.meeting is None and encoder.start == 60 and (encoder.rate(0.39), encoder.rate(0.4)) == (1, 0.1)
    assert isinstance(encoder.optimiser(encoder.groups(1e-3)), torch.optim.AdamW)
    small = preset("release", Spec(MOUSE, 3, 2, 30.0, 300), **TINY)
    assert set(small.train().loss(mice(0))) == {"loss", "histogram", "short", "long"}
    now, then = small.moments("short", 50, 300)
    assert set((then - now).flatten().tolist()) == {0, 1, 2, 3, 4, 5} and now.min() >= 60
    trained(small, mice)


def test_the_head_sees_the_present_input_when_asked():
    encoder = build(head_sees_input=True, **TINY).eval()
    assert encoder.head[0].in_features == 16 + 37
    batch = mice(1)
    inputs = encoder.normalise(encoder.features(batch))
    seen = {**encoder.encode(inputs), "input": inputs.requires_grad_()}
    bins = torch.zeros(6, 300, 6, dtype=torch.uint8)
    encoder.histogram_loss(at(seen, [100]), bins, torch.ones(6, 300, dtype=torch.bool), torch.tensor([100])).backward()
    assert inputs.grad.abs().sum((0, 2)).nonzero().flatten().tolist() == [100]


def test_the_flies_preset_trains_on_eleven_flies_some_of_them_missing():
    spec = Spec(Skeleton(tuple(f"k{i}" for i in range(24))), 11, 2, 150.0, 300)
    encoder = preset("flies", spec, anchor_stride=10)
    assert (encoder.features.width, len(encoder.features.quantities), encoder.horizon) == (96, 48, 30)
    assert encoder.short.blocks[0].first.direction.shape == (64, 97, 3) and linears(encoder)[-1] == 48 * 32
    assert [net.blocks[-1].second.bias.numel() for net in (encoder.short, encoder.long)] == [64, 64]

    def flies(step: int) -> Batch:
        generator = torch.Generator().manual_seed(step)
        keypoints = torch.randn(1, 300, 11, 24, 2, generator=generator).cumsum(1) / 20
        keypoints[0, :, 9:] = torch.nan
        keypoints[0, 50:80, 2, :5] = torch.nan
        return Batch(keypoints, torch.ones(1, 300, 11, dtype=torch.bool), 150.0)

    encoder = trained(preset("flies", spec, anchor_stride=30, **TINY), flies)
    with torch.no_grad():
        assert all(z.isfinite().all() and z.shape[:3] == (1, 300, 11) for z in encoder.embed(flies(5)).values())


def test_the_quadruped_preset_predicts_joint_velocities():
    spec = Spec(Skeleton(tuple(f"j{i}" for i in range(12))), 1, 2, 50.0, 400)
    encoder = preset("quadruped", spec, anchor_stride=10, **TINY)
    assert (encoder.features.width, len(encoder.features.quantities), encoder.horizon) == (24, 12, 50)

    def robot(step: int) -> Batch:
        keypoints = torch.randn(2, 400, 1, 12, 2, generator=torch.Generator().manual_seed(step))
        return Batch(keypoints, torch.ones(2, 400, 1, dtype=torch.bool), 50.0)

    trained(encoder, robot)


def test_three_scales_fill_the_128_dimensions_of_the_challenge():
    method = BAMS(**BAMS.presets["three_scale"])
    assert method.reach() == {"recent": 13, "short": 61, "long": 1365}
    encoder = method.build(Spec(MOUSE, 3, 2, 30.0, 300))
    assert set(encoder.predictors) == {"short", "long"}
    with torch.no_grad():
        z = encoder.eval().embed(mice())
    assert {name: space.shape[-1] for name, space in z.items()} == {"recent": 16, "short": 24, "long": 24}
    learner = build(recent_channels=(8, 4), **TINY).train()
    terms = learner.loss(mice())
    assert set(terms) == {"loss", "histogram", "short", "long", "interaction"}
    terms["loss"].backward()
    assert all((p.grad != 0).any() for p in learner.parameters())


@pytest.mark.parametrize("space", ["short", "long", "recent"])
def test_a_single_scale_has_one_space(space):
    channels = {f"{name}_channels": (8, 8) if name == space else () for name in ("recent", "short", "long")}
    encoder = build(**channels)
    assert list(encoder.embed(mice())) == [space] == list(encoder.method.reach())
    terms = encoder.train().loss(mice())
    assert set(terms) == {"loss", "histogram", "interaction"} | ({space} - {"recent"})
    terms["loss"].backward()
    assert all((p.grad != 0).any() for p in encoder.parameters())


def test_without_alpha_or_interaction_their_networks_are_gone():
    encoder = build(alpha=0.0, interaction=0.0)
    assert not [n for n, _ in encoder.named_parameters() if n.startswith(("predictors", "meeting"))]
    terms = encoder.loss(mice())
    assert set(terms) == {"loss", "histogram"} and torch.equal(terms["loss"], terms["histogram"])
    assert len(encoder.groups(1e-3)) == 1


def test_a_predictor_that_does_not_learn_stays_as_it_was_drawn():
    encoder = build(predictor_lr=0.0, anchor_stride=10, weight_decay=0.1, short_channels=(8,), long_channels=(8,))
    before = [p.detach().clone() for p in encoder.predictors.parameters()]
    moving = encoder.short.blocks[0].first.direction.detach().clone()
    trained(encoder, mice)
    assert all(torch.equal(a, b) for a, b in zip(before, encoder.predictors.parameters(), strict=True))
    assert not torch.equal(moving, encoder.short.blocks[0].first.direction)


def test_a_teacher_gives_the_targets_and_follows():
    encoder = build(teacher_momentum=0.9, **TINY).train()
    batch = mice(1)
    learning = {id(p) for group in encoder.groups(1.0) for p in group["params"]}
    assert not learning & {id(p) for p in encoder.teachers.parameters()}
    with torch.no_grad():
        encoder.short.blocks[0].first.direction.add_(1)
    inputs = encoder.normalise(encoder.features(batch))
    taught, z = encoder.teachers(inputs), encoder.encode(inputs)
    assert set(taught) == {"short", "long"} and not taught["short"].requires_grad
    valid = torch.ones(6, 300, dtype=torch.bool)
    torch.manual_seed(5)
    found = encoder.bootstrap_loss("short", z, valid, taught["short"])
    torch.manual_seed(5)
    now, then = encoder.moments("short", 6, 300)
    row = torch.arange(6)[:, None]
    online = encoder.predictors["short"](z["short"][row, now].flatten(0, 1), torch.ones(48))
    target = taught["short"][row, then].flatten(0, 1)
    expected = (2 - 2 * torch.cosine_similarity(online, target, dim=1)).mean()
    torch.testing.assert_close(found, expected)
    kept = encoder.teachers["short"].copy.blocks[0].first.direction.clone()
    encoder.after_step(0)
    moved = encoder.teachers["short"].copy.blocks[0].first.direction
    torch.testing.assert_close(moved, 0.9 * kept + 0.1 * encoder.short.blocks[0].first.direction)


def test_a_teacher_is_resumed_to_the_bit():
    settings = {"teacher_momentum": 0.99, "anchor_stride": 10, "warmup": 1.0, **TINY}
    spec = Spec(MOUSE, 3, 2, 30.0, 300)
    budget = Budget(steps=4, log_every=2, save_every=2, device="cpu")
    torch.manual_seed(0)
    whole = BAMS(**settings).build(spec)
    states = [p.state() for p in whole.fit(mice, budget)]
    torch.manual_seed(0)
    resumed = BAMS(**settings).build(spec)
    assert len(list(resumed.fit(mice, budget, states[0]))) == 1
    assert all(torch.equal(v, resumed.state_dict()[n]) for n, v in whole.state_dict().items())


def test_future_values_are_the_next_frames_one_by_one():
    values = torch.arange(20.0).view(1, 10, 2)
    ahead = future_values(values, 3, torch.tensor([0, 6]))
    assert ahead.tolist() == [[[[2, 4, 6], [3, 5, 7]], [[14, 16, 18], [15, 17, 19]]]]
    assert future_values(values, 3, torch.arange(0)).shape == (1, 0, 2, 3)
    with pytest.raises(ValueError, match="3 frames after frame 7"):
        future_values(values, 3, torch.tensor([7]))


def test_the_sequence_error_by_hand():
    predicted = torch.tensor([[[1.0, 2.0], [5.0, 5.0], [1.0, 1.0]]])
    values = torch.tensor([[[0.0, 4.0], [2.0, torch.nan], [torch.nan, torch.nan]]])
    assert sequence_error(predicted, values).item() == (1 + 4) / 2 + 9


@torch.no_grad()
def test_the_sequential_objective_is_the_definition_written_out():
    encoder = build(objective="sequential", **TINY).eval()
    assert encoder.horizon == 10 and linears(encoder)[-1] == 6 * 10
    batch = mice(3, windows=1, animals=1)
    batch.keypoints[0, 60:70] = torch.nan
    movement = encoder.features(batch)
    z = encoder.encode(encoder.normalise(movement))
    total, count = 0.0, 0
    unit = encoder.edges.abs().amax(1)
    for t in range(30, 290):
        if movement.valid[0, t + 1 : t + 11].float().mean() < 0.8:
            continue
        found = encoder.head(torch.cat([z["short"][0, t], z["long"][0, t]])).view(6, 10).T
        error = (found - (movement.targets[0, t + 1 : t + 11] / unit).clamp(-10, 10)).square()
        total += float(error.nanmean(0).sum())
        count += 1
    loss = encoder.sequence_loss(at(z, encoder.anchors(300)), movement.targets, movement.valid, encoder.anchors(300))
    assert loss.item() == pytest.approx(total / count, rel=1e-4)
    terms = encoder.train().loss(batch)
    assert "sequence" in terms and "histogram" not in terms


def test_neighbours_of_the_future_only_include_the_frame_itself():
    torch.manual_seed(0)
    now, then = neighbours(3, 50, 20, 3000, torch.device("cpu"), 5, past=False)
    assert set((then - now).flatten().tolist()) == {0, 1, 2, 3, 4, 5}
    assert (int(now.min()), int(now.max()), int(then.max())) == (20, 44, 49)
    now, then = neighbours(1, 3, 20, 100, torch.device("cpu"), 5, past=False)
    assert now.min() >= 0 and then.max() <= 2


def test_pairs_are_seen_and_predicted():
    encoder = build(pairs_in=True, pairs_out=True, **TINY)
    assert encoder.features.width == 36 + 2 * 10 and encoder.features.quantities[-2:] == NEAREST
    batch = mice(1)
    batch.keypoints[:, :, 1:] = torch.nan  # an animal alone, with others it never meets
    terms = encoder.train().loss(batch)
    assert all(value.isfinite() for value in terms.values())
    trained(encoder, mice)
    order = torch.tensor([2, 0, 1])
    made = mice(7)
    with torch.no_grad():
        z = encoder.embed(made)
        turned = encoder.embed(Batch(made.keypoints[:, :, order], made.mask, 30.0))
        assert all(one.isfinite().all() for one in encoder.embed(mice(7, animals=1)).values())
    for space in z:
        torch.testing.assert_close(turned[space], z[space][:, :, order])


@pytest.mark.parametrize(
    "settings", [{}, {"features": "generic"}, {"features": "state", "pairs_in": True, "recent_channels": (4,)}]
)
def test_a_stream_of_frames_embeds_as_the_whole_recording_does(settings):
    encoder = build(**{**TINY, "short_channels": (8,) * 4, "long_channels": (8,) * 4, **settings})
    whole = mice(2, windows=2, frames=260)
    whole.keypoints[0, 100:130, 1] = torch.nan
    whole.mask[1, 200:, 2] = False
    with torch.no_grad():
        expected = encoder.eval().embed(whole)
    encoder.train()
    for seed in range(3):
        stream, first, sizes = encoder.streaming(), 0, set()
        rng, found = np.random.default_rng(seed), []
        while first < 260:
            last = min(first + (1 if seed == 0 and first < 80 else int(rng.integers(1, 70))), 260)
            found.append(stream(Batch(whole.keypoints[:, first:last], whole.mask[:, first:last], 30.0)))
            sizes.add(sum(kept.untyped_storage().nbytes() for state in stream._states.values() for kept in state))
            first = last
        for space, z in expected.items():
            torch.testing.assert_close(torch.cat([part[space] for part in found], 1), z, atol=1e-5, rtol=1e-5)
        assert len(sizes) == 1 and stream._recent.mask.shape[1] <= encoder.features.past


def test_a_stream_refuses_frames_of_another_recording():
    stream = build().streaming()
    stream(mice(frames=5))
    for other in (mice(frames=5, animals=2), mice(frames=5, windows=1), mice(frames=0)):
        with pytest.raises(ValueError, match="begin a new stream"):
            stream(other)


def test_mixed_precision_changes_the_loss_little():
    encoder = build(anchor_stride=5, dropout=0.0, teacher_momentum=0.9).train()
    terms = {}
    for precision in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision):
            terms[precision] = encoder.loss(mice(1))
        terms[precision]["loss"].backward()
    for name, value in terms[True].items():
        assert value.dtype == torch.float32 and value.item() == pytest.approx(terms[False][name].item(), rel=0.02)
    assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.requires_grad)


@pytest.mark.filterwarnings("ignore")  # of torch, about its own tracing
def test_compiled_the_loss_and_its_gradients_are_the_same():
    encoder = build(
        animals=1,
        frames=60,
        anchor_stride=5,
        short_channels=(4,),
        long_channels=(4,),
        head=(8,),
        warmup=0.2,
        horizon=0.3,
    ).train()
    batch = mice(1, windows=1, frames=60, animals=1)
    found = []
    for loss in (encoder.loss, torch.compile(encoder.loss, backend="eager")):
        encoder.zero_grad()
        torch.manual_seed(0)
        value = loss(batch)["loss"]
        value.backward()
        found.append([value.detach(), *(p.grad.clone() for p in encoder.parameters())])
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(compiled, eager)
