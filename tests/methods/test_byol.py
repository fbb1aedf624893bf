import math

import pytest
import torch
from torch.nn import functional as F

from ethoray.batch import Spec
from ethoray.learning import Budget
from ethoray.methods.byol import BYOL
from ethoray.nn.momentum import momentum
from ethoray.schema import SchemaError
from ethoray.testing import toy_batch, toy_spec, toy_stream


def build(spec: Spec | None = None, **settings):
    torch.manual_seed(0)
    encoder = BYOL(**{"channels": (8, 8, 6), "dropout": 0.0, **settings}).build(spec or toy_spec())
    with torch.no_grad():
        encoder.calibrate(toy_stream(toy_spec()))
    return encoder


def test_the_network_spans_what_the_long_one_of_bams_does():
    encoder = BYOL().build(toy_spec())
    assert encoder.student.net.reach == BYOL().reach() == 1365
    assert encoder.past == 1364 + 2 and encoder.future == 0
    assert encoder.embed(toy_batch(toy_spec(), 5))["byol"].shape == (1, 5, 2, 64)


def test_receptive_field_by_gradient():
    method = BYOL(channels=(4, 4, 4), dilation=3)
    net = method.build(toy_spec()).student.net.eval()
    x = torch.randn(1, method.reach() + 20, 37, requires_grad=True)
    net(x)[0, -5].sum().backward()
    touched = (x.grad[0] != 0).any(-1).nonzero().flatten()
    assert int(touched[-1]) == x.shape[1] - 5
    assert int(touched[-1] - touched[0]) + 1 == method.reach()


def test_the_loss_written_out():
    """Without augmentation: predictions of one moment against the teacher's projection of the other, both ways."""
    encoder = build(jitter=0.0, drop=0.0, pairs=5)
    for p in encoder.teacher.parameters():
        p.data += 0.1 * torch.randn_like(p)
    batch = toy_batch(toy_spec(), 80, windows=2)
    movement = encoder.features(batch)
    x, valid = encoder.normalise(movement), movement.valid
    torch.manual_seed(7)
    loss = encoder.loss(batch)["loss"]
    torch.manual_seed(7)
    now, other = encoder.moments(4, 80)
    kept = torch.stack([valid[s, now[s]] & valid[s, other[s]] for s in range(4)])
    assert 0 < kept.sum() < kept.numel()

    def regress(module, rows):  # batch norm over the rows that count, both moments of every pair
        hidden = rows @ module.widen.weight.T
        mean, variance = hidden.mean(0), hidden.var(0, unbiased=False)
        hidden = (hidden - mean) / (variance + 1e-5).sqrt() * module.norm.weight + module.norm.bias
        return module.narrow(F.relu(hidden))

    def at_moments(net):
        z = net(x)
        first = torch.stack([z[s, t] for s in range(4) for t in now[s]])[kept.flatten()]
        second = torch.stack([z[s, t] for s in range(4) for t in other[s]])[kept.flatten()]
        return torch.cat([first, second])

    predicted = regress(encoder.predictor, regress(encoder.student.project, at_moments(encoder.student.net)))
    target = regress(encoder.teacher.copy.project, at_moments(encoder.teacher.copy.net)).roll(int(kept.sum()), 0)
    apart = (F.normalize(predicted, dim=1) - F.normalize(target, dim=1)).square().sum(1)
    torch.testing.assert_close(loss, apart.mean() * 2)


def test_the_target_passes_no_gradient():
    encoder = build()
    encoder.loss(toy_stream(toy_spec())(0))["loss"].backward()
    trained = {n: p for n, p in encoder.named_parameters() if p.requires_grad}
    assert trained.keys() == {n for n, _ in encoder.named_parameters() if not n.startswith("teacher.")}
    assert all((p.grad != 0).any() for p in trained.values())
    predicted, target = (torch.randn(2, 2, 3, 4, requires_grad=True) for _ in range(2))
    encoder.distance(predicted, target, torch.ones(6)).backward()
    assert (predicted.grad != 0).any() and target.grad is None


def test_a_faster_predictor_stands_in_for_the_teacher():
    encoder = build(teacher="predictor", jitter=0.0, drop=0.0)
    assert encoder.teacher is None
    groups = encoder.groups(1e-3)
    assert [group["lr"] for group in groups] == [1e-3, pytest.approx(1e-2)]
    assert sum(len(group["params"]) for group in groups) == len(list(encoder.parameters()))
    assert [group["lr"] for group in build().groups(1e-3)] == [1e-3, 1e-3]
    for progress in encoder.fit(toy_stream(toy_spec()), Budget(3, 1, device="cpu")):
        assert 0 < progress.metrics["loss"] < 8


def test_the_teacher_follows_with_rising_momentum():
    encoder = build(tau=0.9)
    expected = [p.detach().clone() for p in encoder.teacher.parameters()]
    for step, _ in enumerate(encoder.fit(toy_stream(toy_spec()), Budget(4, 1, device="cpu"))):
        tau = 1 - 0.1 * (1 + math.cos(math.pi * step / 4)) / 2
        assert tau == pytest.approx(momentum(0.9, step / 4))
        expected = [tau * e + (1 - tau) * p for e, p in zip(expected, encoder.student.parameters(), strict=True)]
        for mine, theirs in zip(encoder.teacher.parameters(), expected, strict=True):
            torch.testing.assert_close(mine, theirs.detach())


@pytest.mark.parametrize(("neighbour", "reach"), [(0.3, 3), (1.0, 10), (0.0, 59), (100.0, 59)])
def test_pairs_are_neighbours_after_the_warmup(neighbour, reach):
    encoder = build(neighbour=neighbour, warmup=2.0, pairs=500)
    torch.manual_seed(0)
    now, other = encoder.moments(20, 80)
    assert now.min() == 20 and now.max() == 79 and other.min() == 20 and other.max() == 79
    apart = other - now
    assert (apart != 0).all() and int(apart.abs().max()) == reach
    inside = (now >= 20 + reach) & (now <= 79 - reach)
    if reach <= 10:  # each neighbour is as likely as any other
        counts = torch.bincount(apart[inside] + reach, minlength=2 * reach + 1)
        assert counts[reach] == 0 and (counts[counts > 0] - inside.sum() / (2 * reach)).abs().max() < 150


@pytest.mark.parametrize("frames", [2, 3, 15])
def test_pairs_of_windows_shorter_than_the_warmup(frames):
    now, other = build(pairs=50).moments(4, frames)
    assert (now != other).all() and min(now.min(), other.min()) >= 0 and max(now.max(), other.max()) < frames


def test_augmentations_are_switches():
    batch = toy_batch(toy_spec(), 80, windows=2)
    plain = build(jitter=0.0, drop=0.0)
    expected = plain.normalise(plain.features(batch))
    assert torch.equal(plain.view(batch)[0], expected)
    x, _ = build(jitter=0.0, drop=0.5).view(batch)
    lost = (x[..., :-1] == 0).all(1)
    assert 0.2 < lost.float().mean() < 0.8 and torch.equal(x[..., -1], expected[..., -1])
    kept = ~lost[:, None].expand_as(x[..., :-1])
    assert torch.equal(x[..., :-1][kept], expected[..., :-1][kept])
    noisy, valid = build(jitter=0.05, drop=0.0).view(batch)
    assert not torch.equal(noisy, expected) and torch.equal(valid, plain.features(batch).valid)
    assert noisy.isfinite().all()


def test_jitter_is_in_body_sizes():
    encoder = build(jitter=0.1, drop=0.0)
    stream = toy_stream(toy_spec())
    points = torch.cat([stream(step).keypoints for step in range(4)])
    apart = points - points.nanmean(-2, keepdim=True)
    size = apart.square().sum(-1).nanmean().sqrt()
    assert encoder.size.item() == pytest.approx(size.item(), rel=1e-4)
    seen = []
    features = encoder.features
    encoder.features = lambda batch: seen.append(batch.keypoints) or features(batch)
    torch.manual_seed(0)
    batch = stream(0)
    encoder.view(batch)
    noise = seen[0] - batch.keypoints
    noise = noise[~noise.isnan()]
    assert noise.std().item() == pytest.approx(0.1 * size.item(), rel=0.03) and abs(noise.mean()) < 0.02 * size


def test_animals_that_are_not_there_do_not_count():
    encoder = build()
    batch = toy_batch(toy_spec(), 80, windows=2)
    losses = []
    for value in (torch.nan, 5.0):
        batch.keypoints[:, :, 1] = value
        batch.mask[:, :, 1] = False
        torch.manual_seed(0)
        losses.append(encoder.loss(batch)["loss"])
    assert losses[0].isfinite() and torch.equal(*losses)
    batch.mask[:] = False
    empty = encoder.loss(batch)["loss"]
    empty.backward()
    assert empty.item() == 0 and all(p.grad.isfinite().all() for p in encoder.student.parameters())


def test_settings_that_cannot_be_are_named():
    with pytest.raises(SchemaError, match="teacher is momentum or predictor, not 'none'"):
        BYOL(teacher="none")
    with pytest.raises(SchemaError, match="between 0 and 1, not 2"):
        BYOL(tau=2)
    with pytest.raises(SchemaError, match="windows of 8 s leave no two moments after 8 s of warm-up"):
        BYOL(warmup=8.0).build(toy_spec())
