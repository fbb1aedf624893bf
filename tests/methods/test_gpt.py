import math
from dataclasses import replace

import pytest
import torch

from ethoray.batch import Batch, Spec
from ethoray.methods.gpt import GPT, Clip, causal, mirrored, pooled, squared_error
from ethoray.schema import SchemaError, Skeleton
from ethoray.testing import TOY_SKELETON, toy_batch, toy_spec, toy_stream

SMALL = GPT(seconds=1.0, hop=0.4, crops=2, width=16, layers=2, heads=2, latent=8, calibration=2)


def built(method: GPT = SMALL, individuals: int = 3):
    torch.manual_seed(0)
    spec = toy_spec(individuals=individuals)
    encoder = method.build(spec)
    encoder.calibrate(toy_stream(spec))
    return encoder, spec


def clip_of(clips: int = 1, frames: int = 4, animals: int = 3, dtype: torch.dtype = torch.float64) -> Clip:
    torch.manual_seed(3)
    keypoints = torch.randn(clips, frames, animals, 12, 2, dtype=dtype)
    return Clip(keypoints, torch.ones(clips, frames, animals, 12, dtype=torch.bool))


def test_the_paper_preset_has_the_sizes_of_the_publication():
    with torch.device("meta"):
        encoder = GPT(layers=1).build(Spec(TOY_SKELETON, 3, 2, 30.0, 1800))
    assert GPT().layers == 24 and (encoder.length, encoder.stride, encoder.hop, encoder.past) == (50, 1, 25, 25)
    assert encoder.token.out_features == 768 and encoder.blocks[0].attention.heads == 12
    assert encoder.project.out_features == 128 and encoder.lr == 1e-5 and encoder.clip_norm == 0.1


def test_the_mask_is_that_of_a_loop():
    there = torch.tensor([[[True, False, True], [True, True, True], [False, False, True]]])
    allowed = causal(there)[0, 0]
    for q in range(9):
        for k in range(9):
            expected = q == k or (k // 3 <= q // 3 and bool(there[0, k // 3, k % 3]))
            assert bool(allowed[q, k]) == expected, (q, k)


def test_a_prediction_depends_on_its_frame_and_the_past_alone():
    encoder, _ = built()
    encoder, clip = encoder.double(), clip_of()
    clip.keypoints.requires_grad_(True)
    for t in range(4):
        for i in range(3):
            (grad,) = torch.autograd.grad(encoder.encode(clip)[0, t, i].square().sum(), clip.keypoints)
            reached = grad[0].abs().amax((-1, -2)) > 1e-12
            assert not bool(reached[t + 1 :].any()) and bool(reached[: t + 1].all()), (t, i)


def test_an_absent_animal_reaches_nobody():
    encoder, _ = built()
    encoder, clip = encoder.double(), clip_of()
    clip.seen[:, 1, 2] = False
    other = Clip(clip.keypoints.clone(), clip.seen)
    other.keypoints[:, 1, 2] = 9.0
    different = (encoder.encode(other) - encoder.encode(clip)).abs().amax(-1)[0] > 0
    assert different.nonzero().tolist() == [[1, 2]]


def test_renaming_animals_permutes_the_tokens():
    encoder, _ = built()
    encoder, clip, order = encoder.double(), clip_of(), [2, 0, 1]
    turned = Clip(clip.keypoints[:, :, order], clip.seen[:, :, order])
    torch.testing.assert_close(encoder.encode(turned), encoder.encode(clip)[:, :, order])
    for plain, other in zip(encoder.errors(clip), encoder.errors(turned), strict=True):
        torch.testing.assert_close(plain, other)


def test_the_loss_is_four_errors_of_a_loop():
    encoder, _ = built()
    encoder, clip = encoder.double(), clip_of(2, 4)
    clip.seen[0, 2, 1, 3:6] = False
    clip.seen[1, 1:3, 0] = False
    clip.seen[1, :, 2] = False

    def loop(keypoints, seen):
        z = encoder.encode(Clip(keypoints, seen))
        each, group = [], []
        for c in range(2):
            for t in range(3):
                here = [i for i in range(3) if seen[c, t, i].any()]
                then = [i for i in range(3) if seen[c, t + 1, i].any()]
                for i in here:
                    error = (encoder.each(z[c, t, i]).float().view(12, 2) - keypoints[c, t + 1, i]).square()
                    each += error[seen[c, t + 1, i]].flatten().tolist()
                guess = encoder.all(torch.stack([z[c, t, i] for i in here]).mean(0)).float().view(12, 4)
                for k in range(12):
                    if then and all(seen[c, t + 1, i, k] for i in then):
                        points = keypoints[c, t + 1, then, k]
                        truth = torch.cat([points.mean(0), points.std(0, correction=0)])
                        group += (guess[k] - truth).square().tolist()
        return [sum(part) / len(part) for part in (each, group)]

    with torch.no_grad():
        expected = loop(clip.keypoints, clip.seen) + loop(clip.keypoints.flip(1), clip.seen.flip(1))
        found = [float(e) for part in (clip, clip.reversed()) for e in encoder.errors(part)]
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_loss_adds_both_directions():
    encoder, spec = built()
    torch.manual_seed(0)
    with torch.no_grad():
        terms = encoder.loss(toy_stream(spec)(0))
    assert len(terms) == 5
    assert float(terms["loss"]) == pytest.approx(sum(float(v) for n, v in terms.items() if n != "loss"), rel=1e-5)


def test_missing_targets_have_no_error_and_no_gradient():
    predicted = torch.tensor([[1.0, 2.0], [5.0, 5.0]], requires_grad=True)
    loss = squared_error(predicted, torch.tensor([[0.0, 0.0], [9.0, 9.0]]), torch.tensor([True, False]))
    loss.backward()
    assert loss.item() == 2.5 and predicted.grad is not None and predicted.grad[1].tolist() == [0, 0]
    assert squared_error(predicted, torch.zeros(2, 2), torch.zeros(2, dtype=torch.bool)).item() == 0


def test_the_mean_is_over_those_who_are_there():
    z = torch.tensor([[[[1.0], [3.0], [90.0]], [[5.0], [6.0], [7.0]]]])
    there = torch.tensor([[[True, True, False], [False, False, False]]])
    assert pooled(z, there).flatten().tolist() == [2, 0]


def test_the_group_is_known_where_every_animal_shows_the_keypoint():
    keypoints = torch.tensor([[0.0, 0.0], [4.0, 2.0]]).view(1, 1, 2, 1, 2).repeat(1, 3, 1, 2, 1)
    seen = torch.ones(1, 3, 2, 2, dtype=torch.bool)
    seen[0, 1, 1, 0] = False
    seen[0, 2, 1] = False
    values, known = Clip(keypoints, seen).group()
    assert values[0, 0, 0].tolist() == [2, 1, 2, 1] and values[0, 2, 0].tolist() == [0, 0, 0, 0]
    assert known[0].tolist() == [[True, True], [False, True], [True, True]]


def test_a_flip_is_a_mirror_and_undoes_itself():
    encoder, spec = built()
    partners = mirrored(TOY_SKELETON)
    names = TOY_SKELETON.keypoints
    assert names[partners[names.index("ear_left")]] == "ear_right" and partners[0] == 0
    assert [partners[p] for p in partners] == list(range(12))
    keypoints = toy_batch(spec, 10).keypoints
    turned = encoder.flipped(keypoints)
    left, right = names.index("ear_left"), names.index("ear_right")
    torch.testing.assert_close(turned[..., left, 0], keypoints[..., right, 0], equal_nan=True)
    torch.testing.assert_close(encoder.flipped(turned), keypoints, equal_nan=True, atol=1e-3, rtol=1e-5)


def test_coordinates_are_standardised_over_what_is_seen():
    encoder, spec = built()
    clips = [encoder.standardise(toy_stream(spec)(step).keypoints) for step in range(2)]
    values = torch.cat([clip.keypoints[clip.seen.all(-1)] for clip in clips])
    assert float(values.mean(0).abs().max()) < 0.05 and bool(((values.std(0) - 1).abs() < 0.05).all())
    assert bool((clips[0].keypoints[~clips[0].seen] == 0).all())


def test_every_frame_is_read_with_its_past():
    encoder, spec = built(replace(SMALL, step=0.2))
    assert (encoder.stride, encoder.length, encoder.hop, encoder.before) == (2, 10, 4, 6)
    batch = toy_batch(spec, 23)
    z = encoder.eval().embed(batch)["gpt"]
    clip = encoder.standardise(batch.keypoints[:, 6:16:2])  # responsible for frames 12 to 15
    expected = pooled(encoder.encode(clip), clip.there)
    for t in range(12, 16):
        torch.testing.assert_close(z[:, t, 0], expected[:, 3 + (t - 12) // 2], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("animals", [1, 2, 5])
def test_any_number_of_animals_can_be_embedded(animals):
    encoder, _ = built()
    z = encoder.embed(toy_batch(toy_spec(individuals=animals), 20))["gpt"]
    assert z.shape == (1, 20, 1, 8) and bool(z.isfinite().all())


def test_fewer_animals_are_as_many_with_the_others_absent():
    encoder, _ = built()
    few = toy_batch(toy_spec(individuals=2), 20)
    empty = torch.full_like(few.keypoints[:, :, :1], torch.nan)
    more = Batch(torch.cat([few.keypoints, empty], 2), torch.ones(1, 20, 3, dtype=torch.bool), few.fps)
    torch.testing.assert_close(encoder.embed(more)["gpt"], encoder.embed(few)["gpt"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("space", [2, 3])
def test_other_skeletons_train(space):
    torch.manual_seed(0)
    batch = Batch(torch.randn(2, 40, 1, 1, space), torch.ones(2, 40, 1, dtype=torch.bool), 10.0)
    encoder = SMALL.build(Spec(Skeleton(("back",)), 1, space, 10.0, 40))
    encoder.calibrate(lambda _: batch)
    assert bool(encoder.loss(batch)["loss"].isfinite()) and bool(encoder.embed(batch)["gpt"].isfinite().all())


def test_only_matrices_decay_and_the_rate_rises_then_falls():
    encoder, _ = built()
    decayed, kept = encoder.groups(1e-3)
    assert decayed["weight_decay"] == 0.1 and kept["weight_decay"] == 0
    assert all(p.ndim == 2 for p in decayed["params"]) and all(p.ndim == 1 for p in kept["params"])
    assert len(decayed["params"]) + len(kept["params"]) == len(list(encoder.parameters()))
    optimiser = encoder.optimiser(encoder.groups(1e-3))
    assert [g["weight_decay"] for g in optimiser.param_groups] == [0.1, 0] and optimiser.defaults["betas"] == (
        0.9,
        0.95,
    )
    assert [encoder.rate(f) for f in (0.0, 0.025, 0.05, 0.525, 1.0)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert math.isclose(replace(SMALL, warmup=0.0).build(toy_spec()).rate(0.0), 1.0)


def test_settings_that_cannot_work_say_what_to_do():
    with pytest.raises(SchemaError, match=r"clips of 9 s.*last 8 s.*longer"):
        replace(SMALL, seconds=9.0).build(toy_spec())
    with pytest.raises(SchemaError, match="width of 16 does not divide among 3 heads"):
        replace(SMALL, heads=3).build(toy_spec())
    with pytest.raises(SchemaError, match="at least 1"):
        replace(SMALL, crops=0).build(toy_spec())
