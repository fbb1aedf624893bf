import math
from dataclasses import replace

import pytest
import torch

from ethoray.batch import Batch
from ethoray.learning import Budget
from ethoray.methods.perceiver import Perceiver
from ethoray.nn.spans import Masks, span_masks
from ethoray.nn.transformer import Scene
from ethoray.schema import SchemaError
from ethoray.testing import toy_batch, toy_spec, toy_stream

TINY = Perceiver(
    window=3.0, hop=1.5, latents=4, width=24, heads=2, layers=1, hidden=32, components=6, dropout=0.0, crops=2
)


def build(method: Perceiver = TINY, animals: int = 3):
    spec = toy_spec(individuals=animals)
    torch.manual_seed(0)
    encoder = method.build(spec)
    encoder.calibrate(toy_stream(spec))
    return encoder.eval(), spec


def drawn(encoder, scene: Scene) -> Masks:
    windows, _, animals, _ = scene.own.shape
    return span_masks(windows * animals, encoder.length, encoder.spans, torch.device("cpu"))


def test_the_paper_preset_reads_512_frames_and_pools_to_128():
    spec = toy_spec(seconds=60.0, fps=30.0, individuals=3)
    with torch.device("meta"):
        encoder = Perceiver().build(spec)
    assert (encoder.length, encoder.hop, len(encoder.latents)) == (512, 256, 64)
    assert 2 * encoder.head[-1].out_features == 128
    assert (encoder.past % encoder.hop, encoder.past + encoder.hop + encoder.future) == (0, 256 + 256 + 383)


def test_what_is_blank_or_not_tracked_is_never_read():
    """Changing the originals of hidden frames changes the targets only; so do those of frames without an animal."""
    encoder, spec = build()
    scene = encoder.tokens(toy_batch(spec, encoder.length, windows=6))
    there = scene.there.clone()
    there[0, 4:9, 1] = False
    scene = replace(scene, there=there)
    windows, _, animals, _ = scene.own.shape
    masks = drawn(encoder, scene)
    gone = masks.blanked.clone()
    for row in range(len(gone)):  # frames that lend their content to others are seen there
        gone[row, masks.donor[row][masks.swapped[row]]] = False
    changed = (gone.view(windows, animals, -1).transpose(1, 2) | ~there)[..., None]
    other = replace(scene, own=torch.where(changed, torch.randn_like(scene.own), scene.own))
    kept = (masks.chosen & ~masks.blanked & ~masks.swapped).view(windows, animals, -1).transpose(1, 2)[..., None]
    seen = replace(scene, own=torch.where(kept & there[..., None], torch.randn_like(scene.own), scene.own))
    assert gone.any() and kept.any()
    with torch.no_grad():
        before = encoder.encode(scene, masks)
        assert torch.equal(encoder.encode(other, masks), before)
        assert not torch.equal(encoder.encode(seen, masks), before)


def test_the_loss_counts_hidden_and_known_cells_only():
    encoder, spec = build()
    batch = toy_batch(spec, spec.frames, windows=1)
    cuts, scenes = [], []
    read = encoder.tokens.forward

    def remember(windows: Batch) -> Scene:
        cuts.append(windows)
        scenes.append(read(windows))
        return scenes[-1]

    encoder.tokens.forward = remember
    drawn_masks, apply = [], encoder.encode

    def encode(scene: Scene, masks: Masks):
        drawn_masks.append(masks)
        return apply(scene, masks)

    encoder.encode = encode
    loss = encoder.loss(batch)["loss"]
    (scene,), (masks,) = scenes, drawn_masks
    assert cuts[0].keypoints.shape == (2, encoder.length, 3, 12, 2)
    guess = encoder.restore(apply(scene, masks)).detach()
    nearest, nearest_known = scene.nearest()
    total, count = 0.0, 0
    for w in range(2):
        for a in range(3):
            for t in range(encoder.length):
                if masks.chosen[w * 3 + a, t]:
                    known = torch.cat([scene.known[w, t, a], nearest_known[w, t, a]])
                    target = torch.cat([scene.own[w, t, a], nearest[w, t, a]])
                    total += float((guess[w, t, a] - target)[known].square().sum())
                    count += int(known.sum())
    assert loss.item() == pytest.approx(total / count, rel=1e-4)


def test_reading_by_hand():
    """Latents of one animal prefer its own tokens by the learned bias; what is not there is not read."""
    encoder, _ = build()
    with torch.no_grad():
        encoder.relation.copy_(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    keys = torch.ones(1, 2 * encoder.length, dtype=torch.bool)
    keys[0, encoder.length + 3] = False
    bias = encoder.bias(keys, 2)
    latents = len(encoder.latents)
    assert bias.shape == (1, 2, 2 * latents, 1 + 2 * encoder.length)
    assert (bias[0, :, :, 0] == torch.tensor([[3.0], [6.0]])).all()
    assert (bias[0, 0, :latents, 1 : 1 + encoder.length] == 1).all()
    assert (bias[0, 0, latents:, 1 : 1 + encoder.length] == 2).all()
    assert (bias[0, 1, latents:, 1 + encoder.length] == 4).all()
    assert (bias[0, :, :, 1 + encoder.length + 3] == -math.inf).all()


def test_naming_the_animals_otherwise_permutes_the_embedding_exactly():
    encoder, spec = build()
    encoder = encoder.double()
    with torch.no_grad():
        encoder.relation.normal_()
    scene = encoder.tokens(toy_batch(spec, encoder.length, windows=2))
    scene = replace(scene, own=scene.own.double(), pairs=scene.pairs.double())
    order = torch.tensor([2, 0, 1])
    turned = Scene(
        scene.own[:, :, order], scene.known[:, :, order], scene.pairs[:, :, order][:, :, :, order],
        scene.pairs_known[:, :, order][:, :, :, order], scene.there[:, :, order],
    )  # fmt: skip
    with torch.no_grad():
        expected = encoder.encode(scene)[:, :, order]
        torch.testing.assert_close(encoder.encode(turned), expected, atol=1e-10, rtol=0)


def test_an_absent_animal_changes_nothing_for_the_others():
    encoder, spec = build()
    batch = toy_batch(spec, 50)
    blank = torch.full_like(batch.keypoints[:, :, :1], torch.nan)
    more = Batch(torch.cat([batch.keypoints, blank], 2), torch.ones(1, 50, 4, dtype=torch.bool), batch.fps)
    with torch.no_grad():
        alone, among = encoder.embed(batch)["perceiver"], encoder.embed(more)["perceiver"]
    torch.testing.assert_close(among[:, :, :3], alone, atol=1e-5, rtol=0)


def test_an_animal_reads_what_the_others_do():
    encoder, spec = build()
    batch = toy_batch(spec, 30)
    moved = batch.keypoints.clone()
    moved[:, :, 1] += 100
    with torch.no_grad():
        before = encoder.embed(batch)["perceiver"]
        after = encoder.embed(replace(batch, keypoints=moved))["perceiver"]
    assert (before[:, :, 0] - after[:, :, 0]).abs().max() > 1e-4


def test_a_group_of_one_learns():
    encoder, spec = build(animals=1)
    assert encoder.loss(toy_batch(spec, spec.frames, 2))["loss"].isfinite()


def test_training_in_bfloat16_stays_finite():
    spec = toy_spec(individuals=3)
    budget = Budget(steps=2, log_every=1, device="cpu", precision="bfloat16")
    for progress in replace(TINY, dropout=0.1).build(spec).fit(toy_stream(spec), budget):
        assert all(abs(value) < 1e3 for value in progress.metrics.values())


def test_windows_that_do_not_fit_are_refused_in_seconds():
    with pytest.raises(SchemaError, match=r"windows of 9 s and the training windows are 8 s: use longer --seconds"):
        replace(TINY, window=9.0).build(toy_spec())
