from dataclasses import replace

import pytest
import torch

from ethoray.batch import picture_batch
from ethoray.learning import Budget
from ethoray.methods.beast import BEAST
from ethoray.nn.onecycle import Cycle
from ethoray.testing import toy_spec, toy_stream

SMALL = BEAST(
    pixels=0, patch=8, width=16, depth=3, heads=2, hidden=32, decoder=(8, 1, 2, 16), projection=8, lr=1e-3, lr_images=0
)


def built(**changes):
    torch.manual_seed(0)
    return replace(SMALL, **changes).build(toy_spec(needs="images"))


def test_the_trace_is_that_of_pytorchs_cycle():
    steps, cycle = 800, Cycle(1.0, 0, 0.05, 0.15, 0.1, 0.1)
    optimiser = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0, betas=(0.9, 0.999))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 1.0, total_steps=steps, pct_start=0.15, div_factor=10, final_div_factor=1
    )
    for step in range(steps):
        group = optimiser.param_groups[0]
        assert cycle.factor(step / steps) == pytest.approx(group["lr"], abs=0.02)
        assert cycle.momentum(step / steps) == pytest.approx(group["betas"][0], abs=0.002)
        optimiser.step()
        if step + 1 < steps:
            schedule.step()


def test_it_starts_and_ends_at_a_tenth_and_peaks_at_fifteen_hundredths():
    cycle = Cycle(1.0, 0, 0.05, 0.15, 0.1, 0.1)
    assert [cycle.factor(f) for f in (0.0, 0.15, 1.0)] == pytest.approx([0.1, 1.0, 0.1])
    assert cycle.factor(0.075) == pytest.approx(0.55) and cycle.factor(0.575) == pytest.approx(0.55)
    assert [cycle.momentum(f) for f in (0.0, 0.15, 1.0)] == pytest.approx([0.95, 0.85, 0.95])


def test_the_peak_is_in_proportion_to_the_images_of_a_step():
    encoder = built(lr=5e-5, lr_images=256)
    batch = picture_batch(torch.zeros(64, 2, 32, 32, 1, dtype=torch.uint8), 10.0)
    encoder.calibrate(lambda _: batch)
    assert 5e-5 * encoder.rate(0.15) == pytest.approx(2.5e-5)  # 128 images on one device, as published
    assert built().rate(0.15) == 1.0


def test_momentum_turns_with_the_rate_and_steps_are_fused():
    encoder = built()
    optimiser = encoder.optimiser(encoder.groups(1e-3))
    assert isinstance(optimiser, torch.optim.AdamW) and optimiser.defaults["fused"]
    encoder.rate(0.15)
    assert all(group["betas"] == pytest.approx((0.85, 0.999)) for group in optimiser.param_groups)


def test_all_parameters_are_decayed_or_matrices_alone():
    (group,) = built().groups(1e-3)
    assert group["weight_decay"] == 0.05 and len(group["params"]) == len(list(built().parameters()))
    groups = {g["weight_decay"]: g["params"] for g in built(decay_all=False).groups(1e-3)}
    assert all(p.ndim == 1 for p in groups[0.0]) and all(p.ndim > 1 for p in groups[0.05])


def test_each_block_towards_the_input_learns_slower():
    encoder = built(layer_decay=0.5)
    rates = {id(p): group["lr"] for group in encoder.groups(1.0) for p in group["params"]}
    names = dict(encoder.named_parameters())
    found = {name: rates[id(names[name])] for name in (
        "vit.cls", "vit.patch.weight", "vit.blocks.0.up.weight", "vit.blocks.2.up.weight", "vit.norm.weight",
        "decoder.predict.weight", "projector.third.weight",
    )}  # fmt: skip
    assert list(found.values()) == pytest.approx([1 / 16, 1 / 16, 1 / 8, 1 / 2, 1.0, 1.0, 1.0])
    assert sum(len(group["params"]) for group in encoder.groups(1.0)) == len(names)


def test_a_frozen_one_stays_as_it_is():
    encoder = built(frozen=True)
    before = {n: p.clone() for n, p in encoder.named_parameters()}
    for _ in encoder.fit(toy_stream(toy_spec(needs="images")), Budget(steps=2, device="cpu")):
        pass
    assert all(torch.equal(p, before[n]) for n, p in encoder.named_parameters())
