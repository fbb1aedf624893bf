import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ethoray.batch import Spec
from ethoray.learning import Budget
from ethoray.methods.ts2vec import TS2Vec, draw_crop, shown
from ethoray.nn.hierarchical import hierarchical_loss
from ethoray.nn.tcn import Dropout
from ethoray.schema import SchemaError
from ethoray.testing import toy_batch, toy_spec, toy_stream

SMALL = {**TS2Vec.presets["small"], "hidden": 8, "outputs": 6, "depth": 3}


def build(spec: Spec | None = None, **settings):
    torch.manual_seed(0)
    encoder = TS2Vec(**{**SMALL, **settings}).build(spec or toy_spec())
    with torch.no_grad():
        encoder.calibrate(toy_stream(toy_spec()))
    return encoder


def test_all_that_trains_is_trained_and_the_average_is_not():
    encoder = build()
    encoder.loss(toy_stream(toy_spec())(0))["loss"].backward()
    trained = {n: p for n, p in encoder.named_parameters() if p.requires_grad}
    assert trained.keys() == {n for n, _ in encoder.named_parameters() if not n.startswith("average.")}
    assert all((p.grad != 0).any() for p in trained.values())


def test_the_paper_preset_has_the_sizes_of_the_paper():
    encoder = TS2Vec().build(toy_spec())
    assert [block.first.dilation[1] for block in encoder.net.blocks] == [2**i for i in range(11)]
    assert encoder.net.project.out_features == 64 and encoder.net.dropout.level == round(0.1 * 256)
    assert isinstance(encoder.net.blocks[-1].shortcut, nn.Linear)
    assert all(isinstance(block.shortcut, nn.Identity) for block in encoder.net.blocks[:-1])
    assert 1 + 2 * TS2Vec().reach() == 8189
    optimiser = encoder.optimiser(encoder.groups(encoder.lr))
    assert isinstance(optimiser, torch.optim.AdamW)
    assert optimiser.defaults["weight_decay"] == 0.01 and optimiser.param_groups[0]["lr"] == 1e-3


@pytest.mark.parametrize(("depth", "kernel"), [(0, 3), (2, 3), (3, 5)])
def test_receptive_field_by_gradient(depth, kernel):
    method = TS2Vec(**{**SMALL, "depth": depth, "kernel": kernel})
    net = method.build(toy_spec()).net.eval()
    reach = method.reach()
    x = torch.randn(1, 2 * reach + 21, net.project.in_features, requires_grad=True)
    middle = reach + 10
    net(x, torch.ones(x.shape[:2], dtype=torch.bool))[0, middle].sum().backward()
    touched = (x.grad[0] != 0).any(-1).nonzero().flatten().tolist()
    assert (touched[0], touched[-1]) == (middle - reach, middle + reach)


def test_the_network_equals_plain_convolutions():
    encoder = build()
    net = encoder.net.double().eval()
    x, mask = torch.randn(2, 40, net.project.in_features, dtype=torch.float64), torch.rand(2, 40) < 0.5
    y = net.project(x)
    y[~mask] = 0
    y = y.transpose(1, 2)
    for i, block in enumerate(net.blocks):
        straight = y
        for conv in (block.first, block.second):
            y = F.conv1d(F.gelu(y), conv.weight.squeeze(2), conv.bias, padding=2**i, dilation=2**i)
        y = y + block.shortcut(straight.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(net(x, mask), y.transpose(1, 2))


def test_a_hidden_frame_might_hold_anything():
    net = build().net.eval()
    x, mask = torch.randn(1, 20, net.project.in_features), torch.rand(1, 20) < 0.5
    changed = torch.where(mask[..., None], x, 1e3)
    assert torch.equal(net(x, mask), net(changed, mask))


def test_masks():
    torch.manual_seed(0)
    device = torch.device("cpu")
    assert shown("all_true", 3, 20, device).all() and not shown("all_false", 3, 20, device).any()
    last = shown("mask_last", 3, 20, device)
    assert last[:, :-1].all() and not last[:, -1].any()
    half = shown("binomial", 200, 500, device).float()
    assert abs(half.mean() - 0.5) < 0.01 and half.mean(1).std() < 0.03
    spans = ~shown("continuous", 400, 100, device)
    assert spans.any(1).all() and spans.sum(1).min() >= 10 and spans.sum(1).max() <= 50
    edges = F.pad(spans.int(), (1, 1)).diff(dim=1)
    begins, ends = (edges == 1).nonzero()[:, 1], (edges == -1).nonzero()[:, 1]
    assert ((ends - begins) >= 10).all() and edges.eq(1).sum(1).max() <= 5
    assert spans[:, 0].any() and spans[:, -1].any()  # every start that fits is possible
    assert shown("continuous", 2, 1, device).shape == (2, 1)


@pytest.mark.parametrize(("frames", "unit"), [(2, 0), (3, 0), (17, 0), (40, 2), (8, 2)])
def test_crops_overlap_and_stay_inside(frames, unit):
    torch.manual_seed(frames)
    shortest, lengths = 2 ** (unit + 1), set()
    for _ in range(300):
        crop = draw_crop(frames, shortest)
        assert shortest <= crop.length <= frames
        assert 0 <= crop.outer_left <= crop.left < crop.right <= crop.outer_right <= frames
        offsets = crop.offsets(50, torch.device("cpu"))
        assert offsets.shape == (50, 1)
        assert (offsets + crop.outer_left >= 0).all() and (offsets + crop.outer_right <= frames).all()
        lengths.add(crop.length)
    assert {shortest, frames} <= lengths


def test_offsets_reach_both_ends():
    torch.manual_seed(0)
    crop = draw_crop(30, 2)
    offsets = crop.offsets(2000, torch.device("cpu"))
    assert offsets.min() == -crop.outer_left and offsets.max() == 30 - crop.outer_right


def test_without_masks_and_context_both_views_of_the_overlap_are_one():
    """With no reach beyond a frame, all frames shown and no dropout, the crops must embed the overlap equally."""
    encoder = build(mask="all_true", dropout=0.0)
    for block in encoder.net.blocks:
        for conv in (block.first, block.second):
            nn.init.zeros_(conv.weight)
    pairs = []
    original = encoder.view
    encoder.view = lambda x, valid: pairs.append(original(x, valid)) or pairs[-1]
    batch = toy_batch(toy_spec(), 80, windows=3)
    for seed in range(20):
        torch.manual_seed(seed)
        encoder.loss(batch)
        torch.manual_seed(seed)
        length = draw_crop(80, 2).length
        first, second = pairs[-2:]
        assert torch.equal(first[:, -length:], second[:, :length])


def test_the_loss_is_the_hierarchical_loss_of_the_overlap():
    encoder = build(mode="IT", mask="all_true", dropout=0.0)
    batch = toy_batch(toy_spec(), 80, windows=2)
    movement = encoder.features(batch)
    x = encoder.normalise(movement)
    torch.manual_seed(3)
    loss = encoder.loss(batch)["loss"]
    torch.manual_seed(3)
    crop = draw_crop(80, 2)
    views = ([], [])
    for row, offset in enumerate(crop.offsets(4, torch.device("cpu"))[:, 0].tolist()):
        for view, low, high in zip(views, (crop.outer_left, crop.left), (crop.right, crop.outer_right), strict=True):
            part = slice(offset + low, offset + high)
            view.append(encoder.net(x[row : row + 1, part], movement.valid[row : row + 1, part]))
    first, second = torch.cat(views[0])[:, -crop.length :], torch.cat(views[1])[:, : crop.length]
    torch.testing.assert_close(loss, hierarchical_loss(first, second))


def test_an_animal_that_is_not_there_is_nobodys_negative():
    encoder = build(mask="all_true", dropout=0.0)
    batch = toy_batch(toy_spec(), 80, windows=2)
    losses = []
    for value in (torch.nan, 0.0):
        batch.keypoints[:, :, 1] = value
        batch.mask[:, :, 1] = False
        torch.manual_seed(0)
        losses.append(encoder.loss(batch)["loss"])
    assert losses[0].isfinite() and torch.equal(*losses)
    batch.mask[:] = False
    empty = encoder.loss(batch)["loss"]
    empty.backward()
    assert empty.item() == 0 and all(p.grad.isfinite().all() for p in encoder.net.parameters())


def test_long_windows_are_cut_to_the_longest_length():
    encoder = build(max_length=2.0)
    lengths = []
    original = encoder.view
    encoder.view = lambda x, valid: lengths.append(x.shape[1]) or original(x, valid)
    for seed in range(30):
        torch.manual_seed(seed)
        encoder.loss(toy_stream(toy_spec())(seed))
    assert max(lengths) <= 20 and max(lengths) > 12


@pytest.mark.parametrize("mode", ["I", "T", "IT"])
@pytest.mark.parametrize("mask", ["binomial", "continuous", "all_false", "mask_last"])
def test_every_mode_trains(mode, mask):
    encoder = build(mode=mode, mask=mask)
    for progress in encoder.fit(toy_stream(toy_spec()), Budget(2, 1, device="cpu")):
        assert 0 < progress.metrics["loss"] < 20


def test_the_mean_of_the_weights_embeds():
    encoder = build()
    seen = []
    for _ in encoder.fit(toy_stream(toy_spec()), Budget(steps=5, log_every=1, device="cpu")):
        seen.append([p.detach().clone() for p in encoder.net.parameters()])
    for index, mine in enumerate(encoder.average.copy.parameters()):
        torch.testing.assert_close(mine, torch.stack([weights[index] for weights in seen]).mean(0))
    batch = toy_batch(toy_spec(), 30)
    with torch.no_grad():
        movement = encoder.features(batch)
        z = encoder.average.copy(encoder.normalise(movement), movement.valid)
        assert torch.equal(encoder.embed(batch)["ts2vec"][0].transpose(0, 1), z)
        assert not torch.allclose(z, encoder.net(encoder.normalise(movement), movement.valid))


def test_dropout_is_at_the_output_only():
    assert sum(isinstance(module, Dropout) for module in build().net.modules()) == 1


def test_settings_that_cannot_be_are_named():
    for settings, message in (
        ({"mode": "X"}, "mode is I, T or IT, not 'X'"),
        ({"mask": "some"}, "mask is one of binomial, continuous"),
        ({"kernel": 4}, "must be odd"),
    ):
        with pytest.raises(SchemaError, match=message):
            TS2Vec(**settings)
    with pytest.raises(SchemaError, match=r"windows of 8 s are shorter than the overlap of two crops, 12\.8 s"):
        TS2Vec(temporal_unit=6).build(toy_spec())
