import math

import numpy as np
import pytest
import torch

from ethoray.batch import Batch, Spec
from ethoray.learning import Budget
from ethoray.methods.msae import MSAE
from ethoray.nn.filling import Evidence, filled
from ethoray.nn.masking import draw, everything, gaps, interpolate
from ethoray.nn.view import View, body_length, completed, mirrored, reflected
from ethoray.reconstruction import average, compare, frames, gap, interval, joints, linear, nearest
from ethoray.reconstruction import draw as picture
from ethoray.schema import SchemaError, Skeleton

POINTS = 8
TAIL = Skeleton(
    tuple(f"tail_{i}" for i in range(POINTS)), tuple((i, i + 1) for i in range(POINTS - 1)), "tail_0", "tail_3"
)
TINY = {"seconds": 0.24, "encoder": (16, 16), "decoder": (16,), "heads": 2, "drop_path": 0.0}


def larvae(windows=4, frames=24, animals=1, seed=0):
    """Tails of length one that beat while their owners swim: a travelling wave of the tangent angle."""
    rng = np.random.default_rng(seed)
    t, s = np.arange(frames)[:, None] / 100, np.linspace(0, 1, POINTS)
    out = np.empty((windows, frames, animals, POINTS, 2), np.float32)
    for w, a in np.ndindex(windows, animals):
        rate, phase, size = rng.uniform(5, 9), rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.5)
        turn = rng.uniform(-4, 4)
        angle = turn * t + size * s * np.sin(2 * np.pi * (rate * t - s) + phase) + rng.uniform(0, 2 * np.pi)
        steps = -np.stack([np.cos(angle), np.sin(angle)], -1) / (POINTS - 1)
        path = np.cumsum(np.stack([np.cos(turn * t), np.sin(turn * t)], -1), 0)[:, 0] * 0.01
        out[w, :, a] = np.cumsum(steps, 1) + path[:, None] + rng.uniform(0, 5, 2)
    return Batch(torch.from_numpy(50 * out), torch.ones(out.shape[:3], dtype=torch.bool), 100.0)


def build(fit=True, animals=1, **settings):
    torch.manual_seed(0)
    encoder = MSAE(**{**TINY, **settings}).build(Spec(TAIL, animals, 2, 100.0, 24))
    if fit:
        with torch.no_grad():
            encoder.calibrate(lambda step: larvae(animals=animals, seed=step))
    return encoder.eval()


def test_the_paper_preset_has_the_sizes_of_the_dossier():
    skeleton = Skeleton(tuple(f"k{i}" for i in range(19)))
    encoder = MSAE().build(Spec(skeleton, 1, 2, 330.0, 120))
    assert encoder.frames == 120 and encoder.kept == (72, 10)
    assert (len(encoder.net.encoder.layers), len(encoder.net.decoder.layers)) == (9, 4)
    half = MSAE(**MSAE.presets["half"]).build(Spec(skeleton, 1, 2, 330.0, 120))
    assert half.kept == (90, 13)
    assert MSAE(seconds=0.01).frames(30.0) == 6, "at least one segment"


def test_a_window_that_does_not_fit_is_refused():
    with pytest.raises(SchemaError, match="longer --seconds"):
        MSAE(seconds=2.0).build(Spec(TAIL, 1, 2, 100.0, 24))
    with pytest.raises(SchemaError, match="loss_on is all or masked"):
        MSAE(loss_on="some").build(Spec(TAIL, 1, 2, 100.0, 120))


@pytest.mark.parametrize("each", [False, True])
def test_the_view_has_an_exact_inverse(each):
    x = larvae(seed=3).keypoints[:, :, 0]
    view = View.of(x, TAIL, torch.tensor(47.0), each).known().shaken(0.5, 0.2)
    assert (view.back(view.to(x)) - x).abs().max() / 47 < 1e-5
    plain = View.of(x, TAIL, torch.tensor(47.0), each).to(x)
    assert plain[:, 0].mean(1).abs().max() < 1e-5
    axis = plain[:, 0, 0] - plain[:, 0, 3]
    assert axis[:, 1].abs().max() < 1e-5 and (axis[:, 0] > 0).all(), "the body axis points along x"


def test_body_length_follows_the_bones():
    points = torch.tensor([[[0.0, 0], [3, 0], [3, 4], [9, 9]]]).repeat(5, 1, 1)
    bent = Skeleton(("a", "b", "c", "d"), ((1, 0), (1, 2)), "a", "c")
    assert body_length(points, bent) == 7
    assert body_length(points, Skeleton(("a", "b", "c", "d"), (), "a", "c")) == 5
    assert body_length(points, Skeleton(("a", "b", "c", "d"))) == pytest.approx(math.hypot(9, 9))
    assert body_length(points * torch.nan, bent) == 1


def test_a_joint_that_is_never_visible_stands_in_the_mean_pose():
    x = larvae(windows=2, seed=1).keypoints[:, :, 0]
    rigid = x[:1, :1].expand(1, 24, -1, -1)
    view = View.of(rigid, TAIL, torch.tensor(50.0), each=True)
    pose = view.to(rigid)[0, 0]
    gone = rigid.clone()
    gone[:, :, 5] = torch.nan
    told = completed(gone, pose, TAIL, torch.tensor(50.0))
    assert torch.allclose(told, rigid, atol=1e-3)


def test_evidence_by_hand():
    x = torch.zeros(1, 9, POINTS, 1, dtype=torch.float64)
    x[0, :, :, 0] = 0.5 * torch.arange(9.0)[:, None] ** 2  # acceleration 1: residuals of -1/2 times the product
    visible = torch.ones(1, 9, POINTS, dtype=torch.bool)
    visible[0, 4, 2], visible[0, 6] = False, False
    unit = torch.cat([torch.ones(1), 0.5 * torch.arange(1.0, 5), torch.ones(5)])
    told, flags, scale = Evidence(TAIL)(interpolate(x, visible), visible, unit)
    assert scale[0, 3].item() == pytest.approx(1, abs=0.1) and flags[0, 4, 1, 0] == 1 and flags[0, 4, 2, 0] == 0
    assert torch.allclose(told[0, 1:8, :, 0] * scale[0, 1:8, :, 0], -torch.ones(7, POINTS)), "of the joint itself"
    mean = told[0, 4, 2, 1] * scale[0, 4, 0, 0]
    weight = sum(math.exp(-abs(other - 2) / 0.7) for other in range(POINTS) if other != 2)
    assert mean.item() == pytest.approx(-weight / (weight + 0.1), rel=1e-5), "of the frame, drawn a little to zero"
    assert (told[0, 6, :, 1] == 0).all(), "nothing is known of a hidden frame"


def test_a_gap_wider_than_its_window_is_interpolated():
    x = torch.arange(40.0)[None, :, None, None].expand(1, 40, 2, 2) ** 2
    visible = torch.ones(1, 40, 2, dtype=torch.bool)
    visible[:, 10:30] = False
    told = filled(x, visible, 12, lambda part: torch.zeros_like(part))
    assert torch.equal(told[visible], x[visible])
    assert torch.allclose(told[0, 15, 0], torch.tensor(81 + 6 * (900 - 81) / 21))
    short = visible.clone()
    short[:, 12:] = True
    assert (filled(x, short, 12, lambda part: torch.zeros_like(part))[:, 10:12] == 0).all()


def test_the_mirror_exchanges_sides():
    skeleton = Skeleton(("nose", "ear_left", "ear_right"))
    sides = mirrored(skeleton)
    assert sides == [0, 2, 1] and mirrored(TAIL) is None
    x = torch.randn(2, 4, 3, 2)
    other = reflected(x, sides, 1.0)
    assert torch.equal(other[:, :, 1, 0], x[:, :, 2, 0]) and torch.equal(other[:, :, 1, 1], -x[:, :, 2, 1])
    assert torch.equal(reflected(other, sides, 1.0), x) and reflected(x, None, 1.0) is x


@pytest.mark.parametrize("settings", [{}, {"residual": True, "evidence": True}, {"attention": "stt"}])
def test_hidden_cells_do_not_leak(settings):
    encoder = build(**settings)
    torch.manual_seed(1)
    x = larvae(seed=9).keypoints[:, :, 0]
    cells = draw(torch.ones(4, 24, POINTS, dtype=torch.bool), *encoder.kept)
    other = torch.where(cells.visible()[..., None], x, 1e3 * torch.randn_like(x))
    told = []
    for track in (x, other):
        sight = encoder._seen(track, cells.visible())
        told.append((encoder.net.encode(sight.features, cells), encoder._answer(sight, cells), sight.base, sight.unit))
    assert all(torch.equal(a, b) for a, b in zip(*told, strict=True))


@pytest.mark.parametrize("loss_on", ["all", "masked"])
def test_missing_keypoints_never_enter_the_loss(loss_on):
    encoder = build(loss_on=loss_on, jitter=0.0)
    batch = larvae(seed=4)
    gone = torch.rand(batch.keypoints.shape[:4], generator=torch.Generator().manual_seed(2)) < 0.3

    def loss(fill, mask):
        keypoints = batch.keypoints.clone()
        keypoints[gone if mask is None else gone & mask] = fill
        torch.manual_seed(0)
        terms = encoder.loss(Batch(keypoints, batch.mask, 100.0))
        terms["loss"].backward()
        return terms["loss"]

    assert loss(torch.nan, None).isfinite()
    assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)
    empty = Batch(batch.keypoints * torch.nan, batch.mask, 100.0)
    assert encoder.loss(empty)["loss"] == 0
    absent = Batch(torch.cat([batch.keypoints, 0 * batch.keypoints], 2), torch.cat([batch.mask, ~batch.mask], 2), 100.0)
    torch.manual_seed(0)
    with_padding = encoder.loss(absent)["loss"]
    assert with_padding.isfinite() and 0 < with_padding < 10


def test_the_loss_by_hand():
    encoder = build(loss_on="masked", jitter=0.0, rotate=0.0, scale=0.0, residual=True)
    torch.nn.init.zeros_(encoder.net.head.weight)
    batch = larvae(seed=5)
    torch.manual_seed(0)
    starts = torch.rand(4, 1)  # the draw that places the window, which is as long as the recording
    assert starts.shape == (4, 1)
    torch.rand(4, 24, 1)
    torch.manual_seed(0)
    x = encoder._crops(batch)
    torch.rand(x.shape)
    cells = encoder._draw(torch.ones(x.shape[:3], dtype=torch.bool))
    hidden = ~cells.visible()
    line = completed(interpolate(x, cells.visible()), encoder.pose, TAIL, encoder.body)
    unit = encoder.unit[gaps(cells.visible(), 36)][..., None]
    error = ((x - line) / encoder.body / unit).square().mean(-1)[hidden].mean()
    torch.manual_seed(0)
    terms = encoder.loss(batch)
    assert terms["loss"].item() == pytest.approx(error.item(), rel=1e-4)
    shares = torch.stack([terms["masked_joints"], terms["masked_frames"]])
    assert shares.min() <= terms["loss"] <= shares.max()


@pytest.mark.parametrize("residual", [False, True])
def test_reconstruct_leaves_the_visible_alone_and_fills_the_rest(residual):
    encoder = build(residual=residual, animals=2)
    batch = larvae(windows=2, frames=61, animals=2, seed=6)
    batch.keypoints[0, 3:9, 1, 2:5] = torch.nan
    hidden = torch.rand(batch.keypoints.shape[:4]) < 0.4
    confidence = torch.where(torch.rand(hidden.shape) < 0.1, 0.2, 1.0)
    told = encoder.reconstruct(batch, hidden, confidence)
    visible = ~hidden & (confidence > 0.8) & ~batch.keypoints.isnan().any(-1)
    assert torch.equal(told[visible], batch.keypoints[visible])
    assert told.isfinite().all() and not torch.equal(told[hidden], batch.keypoints[hidden])
    other = Batch(torch.where(visible[..., None], batch.keypoints, 1e4), batch.mask, 100.0)
    assert torch.allclose(encoder.reconstruct(other, ~visible), told, atol=1e-3), "what is hidden is not read"
    alone = Batch(batch.keypoints[1:, :, 1:], batch.mask[1:, :, 1:], 100.0)
    assert torch.allclose(encoder.reconstruct(alone, ~visible[1:, :, 1:]), told[1:, :, 1:], atol=1e-3)
    short = Batch(batch.keypoints[:, :5], batch.mask[:, :5], 100.0)
    assert encoder.reconstruct(short, ~visible[:, :5]).isfinite().all()
    nobody = torch.ones_like(hidden)
    assert encoder.reconstruct(batch, nobody).isnan().all()


def test_an_untrained_residual_is_linear_interpolation():
    encoder = build(residual=True)
    torch.nn.init.zeros_(encoder.net.head.weight)
    batch = larvae(seed=7)
    hidden = joints(0.4)(24, POINTS, torch.Generator().manual_seed(0))[None, :, None].expand(4, -1, 1, -1)
    line = linear(batch.keypoints[:, :, 0], ~hidden[:, :, 0])
    assert torch.allclose(encoder.reconstruct(batch, hidden)[:, :, 0], line, atol=1e-3)


def test_baselines_by_hand():
    x = torch.tensor([0.0, 1, 4, 9, 16])[None, :, None, None].expand(1, 5, 1, 2)
    visible = torch.tensor([True, False, False, True, False])[None, :, None]
    assert linear(x, visible)[0, :, 0, 0].tolist() == [0, 3, 6, 9, 9]
    assert nearest(x, visible)[0, :, 0, 0].tolist() == [0, 0, 9, 9, 9]
    assert average(x, visible)[0, :, 0, 0].tolist() == [4.5] * 5
    hidden = gap(3)(12, 2, torch.Generator().manual_seed(0))
    assert hidden[:, 0].sum() == 3 and not hidden[0].any() and not hidden[-1].any()
    assert frames(0.5)(40, 3, torch.Generator().manual_seed(0)).any(1).sum() in range(10, 30)
    assert interval(np.array([1.0, 1.0, np.nan])) == (1.0, 1.0, 1.0)


def test_trained_it_beats_interpolation(tmp_path):
    settings = {"residual": True, "evidence": True, "loss_on": "masked", "lr": 1e-2, "rotate": 3.0, "jitter": 0.0}
    encoder = build(fit=False, **settings, encoder=(16,), decoder=(16,))
    for _ in encoder.fit(lambda step: larvae(windows=8, seed=step), Budget(60, 60, 60, "cpu")):
        pass
    encoder.eval()
    test = larvae(windows=12, seed=10_000)
    scores = compare(encoder, list(test.keypoints.numpy()), 100.0, joints(0.5), 50.0)
    means = {name: np.nanmean(values) for name, values in scores.items()}
    assert means["encoder"] < means["linear interpolation"] < means["nearest visible frame"], means
    hidden = torch.zeros(12, 24, 1, POINTS, dtype=torch.bool)
    hidden[:, 8:12, :, 4:] = True
    told = encoder.reconstruct(test, hidden)
    files = picture(
        test.keypoints[0, :, 0].numpy(), ~hidden[0, :, 0].numpy(), told[0, :, 0].numpy(), TAIL, [8, 10], tmp_path / "a"
    )
    assert all(file.stat().st_size > 1000 for file in files)


@pytest.mark.parametrize("pool", ["segment", "window", "both"])
def test_the_embedding_is_a_mean_over_tokens(pool):
    encoder = build(pool=pool, hop=0.24)
    batch = larvae(windows=1, frames=24, seed=8)
    with torch.no_grad():
        z = encoder.embed(batch)["msae"]
        x = batch.keypoints[:, :, 0]
        visible = torch.ones(1, 24, POINTS, dtype=torch.bool)
        tokens = encoder.net.encode(encoder._seen(x, visible).features, everything(visible))
    segments, whole = tokens.mean(2).repeat_interleave(6, 1), tokens.mean((1, 2))[:, None].expand(-1, 24, -1)
    parts = {"segment": [segments], "window": [whole], "both": [segments, whole]}[pool]
    assert torch.allclose(z[:, :, 0], torch.cat(parts, -1), atol=1e-5)
