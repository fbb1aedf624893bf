from dataclasses import replace

import pytest
import torch

from ethoray.batch import Batch
from ethoray.learning import Budget
from ethoray.methods.bert import BERT, pair_error
from ethoray.nn.contrastive import nt_xent
from ethoray.nn.spans import masked_error, span_masks
from ethoray.nn.transformer import Scene
from ethoray.schema import SchemaError
from ethoray.testing import toy_batch, toy_spec, toy_stream

TINY = BERT(width=24, heads=2, layers=2, hidden=32, components=6, dropout=0.0, crops=2)


def build(method: BERT = TINY, animals: int = 3):
    spec = toy_spec(individuals=animals)
    torch.manual_seed(0)
    encoder = method.build(spec)
    encoder.calibrate(toy_stream(spec))
    return encoder, spec


def test_the_paper_preset_has_the_sizes_of_the_entry():
    spec = toy_spec(seconds=6.0, fps=30.0, individuals=3)
    with torch.device("meta"):
        encoder = BERT().build(spec)
    assert (encoder.length, encoder.count, encoder.hop) == (78, 78, 39)
    assert (encoder.spans.shortest, encoder.spans.longest, encoder.spans.p, encoder.spans.share) == (3, 20, 0.2, 0.7)
    assert len(encoder.blocks) == 12 and encoder.blocks[0].attention.heads == 12
    assert encoder.blocks[0].mlp[0].weight.shape == (3072, 912) and encoder.out.out_features == 42
    assert 3 * (encoder.count + 1) + 1 == 238


def test_masks_that_hide_a_frame_hide_its_columns():
    """What is hidden changes the target of the loss and nothing that the network sees."""
    encoder, spec = build()
    encoder.eval()
    scene = encoder.tokens(toy_batch(spec, encoder.length, windows=2))
    windows, _, animals, _ = scene.own.shape
    masks = span_masks(windows * animals, encoder.count, encoder.spans, torch.device("cpu"))
    kept = masks.chosen & ~masks.blanked & ~masks.swapped
    gone = masks.blanked.clone()
    for row in range(len(gone)):  # frames that lend their content to others are seen there
        gone[row, masks.donor[row][masks.swapped[row]]] = False
    assert gone.any() and kept.any()
    changed = gone.view(windows, animals, -1).transpose(1, 2)[..., None]
    other = replace(scene, own=torch.where(changed, torch.randn_like(scene.own), scene.own))
    with torch.no_grad():
        _, before, _ = encoder.encode(scene, masks)
        _, after, _ = encoder.encode(other, masks)
    assert torch.equal(before, after)
    chosen = masks.chosen.view(windows, animals, -1).transpose(1, 2)[..., None]
    guess = encoder.restore(encoder.frames(before))
    where = scene.known & chosen
    assert masked_error(guess, other.own, where) != masked_error(guess, scene.own, where)
    seen = kept.view(windows, animals, -1).transpose(1, 2)[..., None]
    other = replace(scene, own=torch.where(seen, torch.randn_like(scene.own), scene.own))
    with torch.no_grad():
        assert not torch.equal(encoder.encode(other, masks)[1], before)


def test_the_masked_term_counts_hidden_and_known_cells_only():
    encoder, spec = build(replace(TINY, contrast=0.0, pairs=0.0, triangle=0.0))
    encoder.eval()
    batch = toy_batch(spec, spec.frames, windows=2)
    torch.manual_seed(5)
    terms = encoder.loss(batch)
    torch.manual_seed(5)
    scene = encoder.tokens(encoder.crops(batch))
    windows, frames, animals, _ = scene.own.shape
    masks = span_masks(windows * animals, encoder.count, encoder.spans, torch.device("cpu"))
    guess = encoder.restore(encoder.frames(encoder.encode(scene, masks)[1])).detach()
    total, count = 0.0, 0
    for w in range(windows):
        for a in range(animals):
            for t in range(frames):
                if masks.chosen[w * animals + a, t]:
                    known = scene.known[w, t, a]
                    total += float((guess[w, t, a] - scene.own[w, t, a])[known].square().sum())
                    count += int(known.sum())
    assert set(terms) == {"loss", "masked"}
    assert terms["masked"].item() == pytest.approx(total / count, rel=1e-4)


def test_the_pair_term_by_hand():
    z = torch.tensor([[[[1.0, 0.0], [3.0, 1.0], [0.0, 0.0]]]])  # one window, one frame, three animals
    pairs = torch.zeros(1, 1, 3, 3, 2)
    pairs[0, 0, 0, 1] = torch.tensor([1.0, -1.0])
    pairs[0, 0, 1, 0] = torch.tensor([2.0, 5.0])
    known = torch.zeros(1, 1, 3, 3, 2, dtype=torch.bool)
    known[0, 0, 0, 1] = True
    known[0, 0, 1, 0, 0] = True
    nothing = torch.zeros(1, 1, 3, dtype=torch.bool)
    scene = Scene(z, known[..., 0, :], pairs, known, nothing)
    # 0 - 1 is (-2, -1), off by (-3, 0); 1 - 0 is (2, 1), off by (0, -4) of which the second is not known
    assert pair_error(torch.nn.Identity(), z, scene).item() == pytest.approx((9 + 0 + 0) / 3)


def test_the_triangle_term_by_hand():
    encoder, _ = build()
    place = encoder.tokens.pose.width - 12 - 2
    own = torch.zeros(1, 1, 3, encoder.tokens.width)
    own[0, 0, :, place : place + 2] = torch.tensor([[0.0, 0.0], [4.0, 0.0], [1.0, 3.0]])
    there = torch.ones(1, 1, 3, dtype=torch.bool)
    scene = Scene(own, own > 0, torch.zeros(1, 1, 3, 3, 9), torch.zeros(1, 1, 3, 3, 9) > 0, there)
    encoder.area = torch.nn.Linear(6, 1)
    torch.nn.init.zeros_(encoder.area.weight)
    torch.nn.init.ones_(encoder.area.bias)
    z = torch.zeros(1, 1, 3, 6)
    assert encoder.triangle_loss(z, scene).item() == pytest.approx((6 - 1) ** 2)
    there[0, 0, 1] = False
    assert encoder.triangle_loss(z, scene).item() == 0


def test_only_groups_of_three_have_a_triangle_and_only_groups_have_pairs():
    for animals, terms in ((1, set()), (2, {"pairs"}), (3, {"pairs", "triangle"}), (4, {"pairs"})):
        encoder, spec = build(animals=animals)
        found = encoder.loss(toy_batch(spec, spec.frames, 2))
        assert set(found) == {"loss", "masked", "contrast"} | terms
        method = encoder.method
        total = sum(getattr(method, name) * value for name, value in found.items() if name != "loss")
        torch.testing.assert_close(found["loss"], total)


def test_crops_come_in_pairs_that_do_not_overlap():
    encoder, spec = build(replace(TINY, crops=6))
    frames = torch.arange(spec.frames).float()
    keypoints = frames[None, :, None, None, None].expand(50, -1, 1, 12, 2)
    crops = encoder.crops(Batch(keypoints, torch.ones(50, spec.frames, 1, dtype=torch.bool), spec.fps))
    times = crops.keypoints[:, :, 0, 0, 0].view(150, 2, encoder.length)
    assert (times.diff(dim=2) == 1).all()
    assert (times[:, 1, 0] > times[:, 0, -1]).all()
    assert times.min() == 0 and times.max() == spec.frames - 1


def test_the_contrast_pools_tracked_tokens_by_attention():
    encoder, _ = build()
    torch.manual_seed(1)
    summary, states = torch.randn(4, 24), torch.randn(4, 5, 3, 24)
    there = torch.rand(4, 5, 3) > 0.3
    pooled = []
    for w in range(4):
        rows = torch.cat([summary[w : w + 1], states[w][there[w]]])
        weights = torch.softmax(encoder.pool(rows)[:, 0], 0)
        pooled.append((weights[:, None] * rows).sum(0))
    views = encoder.project(torch.stack(pooled))
    expected = nt_xent(views[0::2], views[1::2], 0.1)
    torch.testing.assert_close(encoder.contrast_loss(summary, states, there), expected)


def test_naming_the_animals_otherwise_permutes_the_states_exactly():
    torch.manual_seed(0)
    encoder, spec = build()
    encoder = encoder.double().eval()
    with torch.no_grad():
        encoder.relation.normal_()
    scene = encoder.tokens(toy_batch(spec, encoder.length, windows=2))
    order = torch.tensor([2, 0, 1])
    turned = Scene(
        scene.own[:, :, order], scene.known[:, :, order], scene.pairs[:, :, order][:, :, :, order],
        scene.pairs_known[:, :, order][:, :, :, order], scene.there[:, :, order],
    )  # fmt: skip
    with torch.no_grad():
        summary, states, _ = encoder.encode(_double(scene))
        summary_turned, states_turned, _ = encoder.encode(_double(turned))
    torch.testing.assert_close(states_turned, states[:, :, order], atol=1e-10, rtol=0)
    torch.testing.assert_close(summary_turned, summary, atol=1e-10, rtol=0)


def _double(scene: Scene) -> Scene:
    return replace(scene, own=scene.own.double(), pairs=scene.pairs.double())


def test_an_absent_animal_changes_nothing_for_the_others():
    encoder, spec = build()
    encoder.eval()
    batch = toy_batch(spec, 50)
    blank = torch.full_like(batch.keypoints[:, :, :1], torch.nan)
    more = Batch(torch.cat([batch.keypoints, blank], 2), torch.ones(1, 50, 4, dtype=torch.bool), batch.fps)
    with torch.no_grad():
        alone, among = encoder.embed(batch)["bert"], encoder.embed(more)["bert"]
    torch.testing.assert_close(among[:, :, :3], alone, atol=1e-5, rtol=0)


def test_tokens_of_several_frames_keep_their_order():
    encoder, _ = build(replace(TINY, token=0.3))
    assert (encoder.patch, encoder.count, encoder.length) == (3, 9, 27)
    x = torch.arange(27.0)[None, :, None, None].expand(1, 27, 2, 1)
    assert encoder._patches(x)[0, :, 1].tolist() == torch.arange(27.0).view(9, 3).tolist()
    encoder.out = torch.nn.Identity()
    states = torch.arange(54.0).view(1, 9, 1, 6).expand(1, 9, 2, 6)
    assert encoder.frames(states)[0, :, 1].tolist() == torch.arange(54.0).view(27, 2).tolist()


def test_training_in_bfloat16_stays_finite():
    spec = toy_spec(individuals=3)
    budget = Budget(steps=2, log_every=1, device="cpu", precision="bfloat16")
    for progress in replace(TINY, dropout=0.2).build(spec).fit(toy_stream(spec), budget):
        assert all(abs(value) < 1e3 for value in progress.metrics.values())


def test_windows_that_do_not_fit_are_refused_in_seconds():
    with pytest.raises(SchemaError, match=r"two windows of 5 s .* training windows of 8 s: use longer --seconds"):
        replace(TINY, window=5.0).build(toy_spec())
    with pytest.raises(SchemaError, match="crops must be 2, 4"):
        replace(TINY, crops=3).build(toy_spec())
