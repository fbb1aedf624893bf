import math

import pytest
import torch

from ethoray import geometry
from ethoray.batch import Batch
from ethoray.nn.pairs import NAMES, pair_features
from ethoray.nn.transformer import Attention, Block, Tokens, relation_bias, relations, sinusoid
from ethoray.testing import toy_batch, toy_spec


def explicit(attention: Attention, x: torch.Tensor, source: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Attention spelt out with loops; ``bias`` is (batch, head, token, source token)."""
    width = x.shape[-1]
    size = width // attention.heads
    q = x @ attention.query.weight.T + attention.query.bias
    both = source @ attention.key_value.weight.T + attention.key_value.bias
    k, v = both[..., :width], both[..., width:]
    out = torch.zeros_like(x)
    for b in range(len(x)):
        for h in range(attention.heads):
            part = slice(h * size, (h + 1) * size)
            for i in range(x.shape[1]):
                scores = [
                    math.exp(float(q[b, i, part] @ k[b, j, part]) / math.sqrt(size) + float(bias[b, h, i, j]))
                    for j in range(source.shape[1])
                ]
                for j, score in enumerate(scores):
                    out[b, i, part] += score / sum(scores) * v[b, j, part]
    return out @ attention.out.weight.T + attention.out.bias


@pytest.mark.parametrize("elsewhere", [False, True])
def test_attention_equals_softmax_spelt_out(elsewhere):
    torch.manual_seed(0)
    attention = Attention(12, 3, source=8 if elsewhere else None).double()
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    source = torch.randn(2, 7, 8, dtype=torch.float64) if elsewhere else x
    bias = torch.randn(2, 3, 5, source.shape[1], dtype=torch.float64)
    bias[0, :, :, 2] = -math.inf
    with torch.no_grad():
        expected = explicit(attention, x, source, bias)
        torch.testing.assert_close(attention(x, source, bias), expected, atol=1e-12, rtol=0)
        allowed = bias > 0
        allowed[..., 0] = True
        expected = explicit(attention, x, source, torch.where(allowed, 0.0, -math.inf))
        torch.testing.assert_close(attention(x, source, allowed), expected, atol=1e-12, rtol=0)


def test_a_block_is_two_residual_steps():
    torch.manual_seed(0)
    block = Block(8, 2, 16).double()
    x = torch.randn(2, 4, 8, dtype=torch.float64)
    y = x + block.attention(block.first(x))
    torch.testing.assert_close(block(x), y + block.mlp(block.second(y)))


def test_a_width_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="10 does not divide among 3 heads"):
        Attention(10, 3)


def test_position_codes_by_hand():
    codes = sinusoid(torch.tensor([0.0, 2.0]), 4)
    assert codes[0].tolist() == [0, 1, 0, 1]
    expected = torch.tensor([math.sin(2), math.cos(2), math.sin(0.02), math.cos(0.02)])
    torch.testing.assert_close(codes[1], expected)
    with pytest.raises(ValueError, match="even"):
        sinusoid(torch.zeros(1), 3)


def test_relations_by_hand():
    tokens = torch.tensor([-1, 0, 0, 1])
    assert relations(tokens, tokens).tolist() == [[2, 2, 2, 2], [2, 0, 0, 1], [2, 0, 0, 1], [2, 1, 1, 0]]
    weights = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    bias = relation_bias(weights, tokens, tokens[1:])
    assert torch.equal(bias, weights[:, relations(tokens, tokens[1:])])


def scene_of(batch: Batch, animals: int = 3):
    spec = toy_spec(individuals=animals)
    tokens = Tokens(spec)
    tokens.calibrate(lambda step: toy_batch(spec, 80, 4, seed=step))
    return tokens, tokens(batch)


def test_a_scene_is_standardised_where_known_and_zero_elsewhere():
    spec = toy_spec(individuals=3)
    tokens = Tokens(spec, clip=50.0)
    tokens.calibrate(lambda step: toy_batch(spec, 80, 4, seed=3), batches=1)
    scene = tokens(toy_batch(spec, 80, 4, seed=3))
    for column in range(tokens.width):
        values = scene.own[..., column][scene.known[..., column]]
        if len(values) and values.std() > 0:
            assert values.mean().abs() < 1e-3 and abs(values.std(correction=0).item() - 1) < 1e-2
    for feature in range(tokens.pair_width):
        values = scene.pairs[..., feature][scene.pairs_known[..., feature]]
        assert values.mean().abs() < 1e-3 and abs(values.std(correction=0).item() - 1) < 2e-2
    assert (scene.own[~scene.there] == 0).all() and (scene.pairs[~scene.pairs_known] == 0).all()


def test_distances_are_compressed_in_body_lengths():
    spec = toy_spec(individuals=3)
    batch = toy_batch(spec, 20, 1)
    tokens, scene = scene_of(batch)
    distance = pair_features(batch, spec)[..., NAMES.index("distance")]
    expected = ((1 + distance / tokens.pose.body).log() - tokens.pair_middle[0]) / tokens.pair_scale[0]
    known = scene.pairs_known[..., 0]
    assert known.any()
    torch.testing.assert_close(scene.pairs[..., 0][known], expected[known].clamp(-5, 5))


def test_what_is_missing_is_no_target():
    spec = toy_spec(individuals=3)
    batch = toy_batch(spec, 20, 1)
    batch.keypoints[0, 7, 1, 3] = torch.nan
    batch.keypoints[0, :, 2] = torch.nan
    tokens, scene = scene_of(batch)
    assert not scene.known[0, 7, 1, 6:8].any() and (scene.own[0, 7, 1, 6:8] == 0).all()
    assert not scene.there[0, :, 2].any() and not scene.known[0, :, 2].any()
    assert not scene.pairs_known[0, :, 2].any() and not scene.pairs_known[0, :, :, 2].any()
    flags = slice(tokens.pose.width - 12, tokens.pose.width)
    assert not scene.known[..., flags].any() and not scene.known[..., -1].any()


def test_sums_and_the_nearest_other_by_hand():
    spec = toy_spec(individuals=3)
    batch = toy_batch(spec, 30, 2)
    _, scene = scene_of(batch)
    nearest, known = scene.nearest()
    social = scene.social()
    centre = geometry.centroid(batch.keypoints)
    for frame in (3, 11, 29):
        for me in range(3):
            others = [a for a in range(3) if a != me and scene.pairs_known[0, frame, me, a].any()]
            torch.testing.assert_close(social[0, frame, me, :-1], scene.pairs[0, frame, me, others].sum(0))
            assert social[0, frame, me, -1] == len(others)
            if others and scene.there[0, frame, me]:
                apart = [(centre[0, frame, me] - centre[0, frame, a]).norm().item() for a in others]
                best = others[apart.index(min(apart))]
                assert torch.equal(nearest[0, frame, me], scene.pairs[0, frame, me, best])
                assert torch.equal(known[0, frame, me], scene.pairs_known[0, frame, me, best])


def test_one_animal_alone_has_no_others():
    spec = toy_spec(individuals=1)
    _, scene = scene_of(toy_batch(spec, 20, 1), animals=1)
    assert (scene.social() == 0).all() and not scene.nearest()[1].any()
