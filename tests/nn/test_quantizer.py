"""The product K-means quantiser against brute force, and codeword statistics against numbers counted by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from ethoray.nn import codebook
from ethoray.nn.codebook import code_counts, kmeans, nearest, perplexity, usage
from ethoray.nn.quantizer import KMeansQuantizer, latent


def brute(vectors, codes):
    """First of the nearest codes, from a tensor of all differences."""
    apart = (vectors[:, :, None] - codes.expand(len(vectors), -1, -1)[:, None]).square().sum(-1)
    best = apart.amin(-1, keepdim=True)
    return (apart == best).int().argmax(-1)


@pytest.mark.parametrize("tables", [1, 4])
@pytest.mark.parametrize("chunk", [1, 100, 2**18])
def test_nearest_equals_brute_force(monkeypatch, tables, chunk):
    monkeypatch.setitem(codebook.CHUNK, "cpu", chunk)
    torch.manual_seed(0)
    vectors, codes = torch.randn(4, 101, 8, dtype=torch.float64), torch.randn(tables, 30, 8, dtype=torch.float64)
    assert torch.equal(nearest(vectors, codes), brute(vectors, codes))


def test_nearest_in_single_precision_errs_only_where_two_codes_are_as_near():
    torch.manual_seed(0)
    vectors, codes = torch.randn(8, 300, 16), torch.randn(8, 120, 16)
    found, true = nearest(vectors, codes), brute(vectors.double(), codes.double())
    apart = (vectors[:, :, None].double() - codes[:, None].double()).square().sum(-1)
    slack = apart.gather(-1, found[..., None]) - apart.gather(-1, true[..., None])
    assert (found != true).float().mean() < 1e-3 and slack.max() < 1e-4


def test_of_equally_near_codes_the_lowest_is_chosen():
    torch.manual_seed(0)
    vectors = torch.randint(-2, 3, (3, 400, 4)).float()
    codes = torch.randint(-2, 3, (3, 50, 4)).float()  # whole numbers: distances are exact and many are equal
    assert torch.equal(nearest(vectors, codes), brute(vectors, codes))
    twice = torch.randn(2, 40, 8).repeat(1, 3, 1)
    assert nearest(twice[:, :40] + 0.01, twice).max() < 40


def test_the_latent_loss_has_the_gradients_of_its_formula():
    torch.manual_seed(0)
    z = torch.randn(3, 20, 5, dtype=torch.float64, requires_grad=True)
    codes = torch.randn(3, 7, 5, dtype=torch.float64, requires_grad=True)
    weights = (torch.rand(1, 20) > 0.3).double()
    indices = nearest(z, codes)
    out, squares = latent(z, codes, indices, 0.25, weights)
    upstream = torch.randn_like(out)
    ((out * upstream).sum() + 3 * squares).backward()
    ours = z.grad.clone(), codes.grad.clone()
    z.grad = codes.grad = None
    chosen = torch.stack([codes[g, indices[g]] for g in range(3)])
    formula = (chosen - z.detach()).square() + 0.25 * (z - chosen.detach()).square()
    total = (formula * weights[..., None]).sum()
    assert float(squares.detach()) == pytest.approx(float(total.detach()))
    ((chosen.detach() + z - z.detach()) * upstream).sum().add(3 * total).backward()
    torch.testing.assert_close(ours, (z.grad, codes.grad))
    assert torch.equal(out, chosen)


@pytest.mark.parametrize("shared", [False, True])
def test_the_module_equals_the_published_formulas(shared):
    torch.manual_seed(0)
    quantiser = KMeansQuantizer(32, 11, 4, shared=shared)
    nn.init.normal_(quantiser.codes)
    nn.init.normal_(quantiser.scale)
    nn.init.normal_(quantiser.shift)
    z = torch.randn(6, 5, 32, requires_grad=True)
    out = quantiser(z)
    projection = torch.block_diag(*quantiser.projection)
    y = nn.functional.group_norm(
        (z @ projection).transpose(1, 2), 4, quantiser.scale.flatten(), quantiser.shift.flatten()
    ).transpose(1, 2)
    torch.testing.assert_close(out.vectors, y, atol=1e-5, rtol=1e-4)
    table = quantiser.codes.detach().expand(4, -1, -1)
    grouped = out.vectors.detach().unflatten(2, (4, 8))
    expected = torch.stack([torch.cdist(grouped[:, :, g], table[g]).argmin(-1) for g in range(4)], -1)
    assert torch.equal(out.codes, expected)
    values = torch.stack([table[g][expected[..., g]] for g in range(4)], 2).flatten(2)
    assert torch.equal(out.values, values)
    assert float(out.loss.detach()) == pytest.approx(1.25 * float((values - y.detach()).square().mean()), rel=1e-5)
    share = torch.stack([torch.bincount(expected[..., g].flatten(), minlength=11) / 30 for g in range(4)])
    by_hand = torch.exp(-(share * (share + 1e-7).log()).sum(1))
    torch.testing.assert_close(out.perplexity, by_hand)
    torch.testing.assert_close(out.used, (share > 0).float().mean(1))
    (gradient,) = torch.autograd.grad(out.loss, quantiser.codes, retain_graph=True)
    step = 2 * (values - out.vectors.detach()).unflatten(2, (4, 8)) / z.numel()
    summed = torch.zeros(4, 11, 8)
    for g in range(4):
        summed[g].index_add_(0, expected[..., g].flatten(), step[:, :, g].flatten(0, 1))
    torch.testing.assert_close(gradient, summed.sum(0, keepdim=True) if shared else summed, atol=1e-6, rtol=1e-4)


def test_rows_that_are_not_valid_count_for_nothing():
    torch.manual_seed(0)
    z, valid = torch.randn(40, 1, 32), torch.rand(40, 1) > 0.4
    for update in ("gradient", "average"):
        quantiser = KMeansQuantizer(32, 5, 4, update=update)
        quantiser(z)  # starts averaged codes
        twin = KMeansQuantizer(32, 5, 4, update=update)
        twin.load_state_dict(quantiser.state_dict())
        torch.manual_seed(1)
        some = quantiser(z, valid)
        torch.manual_seed(1)
        alone = twin(z[valid][:, None])
        torch.testing.assert_close(some.loss, alone.loss)
        torch.testing.assert_close(some.perplexity, alone.perplexity)
        torch.testing.assert_close(dict(quantiser.state_dict()), dict(twin.state_dict()))
        nobody = quantiser(z, torch.zeros(40, 1, dtype=torch.bool))
        assert float(nobody.loss.detach()) == 0
        assert all(bool(value.isfinite().all()) for value in quantiser.state_dict().values())


def test_lookup_repeats_what_the_forward_pass_chose():
    torch.manual_seed(0)
    quantiser = KMeansQuantizer(64, 20, 4).eval()
    out = quantiser(torch.randn(30, 1, 64))
    values, codes = quantiser.lookup(out.vectors)
    assert torch.equal(values, out.values) and torch.equal(codes, out.codes)
    assert torch.equal(quantiser.lookup(values)[1], codes)


def test_averaged_codes_are_the_means_of_their_vectors():
    torch.manual_seed(0)
    quantiser = KMeansQuantizer(16, 3, 2, norm="none", update="average", decay=0.9, restart=0.0)
    with torch.no_grad():
        quantiser.projection.copy_(torch.eye(8).expand(2, 8, 8))
    z = torch.randn(50, 1, 16)
    quantiser(z)
    before = {name: value.clone() for name, value in quantiser.state_dict().items()}
    out = quantiser(z)
    for g in range(2):
        for v in range(3):
            mine = z[out.codes[:, 0, g] == v, 0, 8 * g : 8 * g + 8]
            count = 0.9 * before["counts"][g, v] + 0.1 * len(mine)
            sums = 0.9 * before["sums"][g, v] + 0.1 * mine.sum(0)
            torch.testing.assert_close(quantiser.counts[g, v], count)
            torch.testing.assert_close(quantiser.codes[g, v], sums / count, atol=1e-4, rtol=1e-3)
    quantiser.eval()
    after = {name: value.clone() for name, value in quantiser.state_dict().items()}
    quantiser(torch.randn(50, 1, 16))
    assert all(torch.equal(value, after[name]) for name, value in quantiser.state_dict().items())


def test_a_dead_code_restarts_at_a_vector_of_the_batch():
    torch.manual_seed(0)
    quantiser = KMeansQuantizer(8, 4, 1, norm="none", update="average", decay=0.5)
    z = torch.randn(60, 1, 8)
    quantiser(z)
    quantiser.codes[0, 2] = quantiser.sums[0, 2] = 1e3
    quantiser.counts[0, 2] = 1e-3
    out = quantiser(z)
    assert 2 not in out.codes
    assert (quantiser.vectors(z)[0] - quantiser.codes[0, 2]).abs().sum(-1).min() < 1e-6
    assert (quantiser(z).codes == 2).any()


@pytest.mark.parametrize("cosine", [False, True])
def test_averaged_codes_follow_clusters_and_training_resumes_exactly(cosine):
    torch.manual_seed(0)
    middles = nn.functional.normalize(torch.randn(2, 12, 8), dim=-1) * 5
    state = None

    def data(step):
        torch.manual_seed(step)
        which = torch.randint(12, (2, 200))
        return torch.cat([middles[g, which[g]] for g in range(2)], 1)[:, None] + 0.05 * torch.randn(200, 1, 16)

    def fresh():
        made = KMeansQuantizer(16, 12, 2, norm="none", update="average", decay=0.8, cosine=cosine)
        made.projection.data.copy_(torch.eye(8).expand(2, 8, 8))
        return made

    whole = fresh()
    for step in range(30):
        if step == 10:
            state = {name: value.clone() for name, value in whole.state_dict().items()}
        out = whole(data(step))
    assert out.used.min() == 1 and out.loss < 0.25 * 0.05  # every cluster has a code of its own
    resumed = fresh()
    resumed.load_state_dict(state)
    for step in range(10, 30):
        resumed(data(step))
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in resumed.state_dict().items())


def test_kmeans_finds_well_separated_clusters_and_is_deterministic():
    torch.manual_seed(0)
    middles = 10 * torch.randn(3, 6, 4)
    z = middles.repeat_interleave(20, 1) + 0.01 * torch.randn(3, 120, 4)
    centres, sizes = kmeans(z, 6, seed=0)
    assert torch.equal(kmeans(z, 6, seed=0)[0], centres) and sizes.eq(20).all()
    assert torch.cdist(centres, middles).amin(-1).max() < 0.02
    assert kmeans(z[:, :2], 6, seed=0)[0].isfinite().all()  # fewer vectors than codes
    with pytest.raises(ValueError, match="at least one vector"):
        kmeans(z[:, :0], 6, seed=0)


def test_bfloat16_and_autocast_stay_in_single_precision():
    torch.manual_seed(0)
    quantiser = KMeansQuantizer(32, 9, 4)
    z = torch.randn(20, 1, 32)
    plain = quantiser(z)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = quantiser(z)
        half = quantiser(z.bfloat16())
    assert torch.equal(plain.codes, mixed.codes) and torch.equal(plain.loss, mixed.loss)
    assert half.values.dtype == torch.float32 and bool(half.loss.isfinite())


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="at least 8 channels a group"):
        KMeansQuantizer(32, 120, 8)
    KMeansQuantizer(32, 120, 8, time=2)
    KMeansQuantizer(32, 120, 8, norm="layer")
    for wrong in ({"dim": 30}, {"codes": 0}, {"norm": "batch"}, {"update": "slow"}, {"decay": 1.0}, {"restart": 1.0}):
        with pytest.raises(ValueError):
            KMeansQuantizer(**({"dim": 32, "codes": 10, "groups": 4} | wrong))


def test_perplexity_is_one_for_one_code_and_their_number_for_equal_use():
    counts = code_counts(torch.tensor([[0, 0, 0, 0], [0, 1, 2, 3]]), 4)
    assert counts.tolist() == [[4, 0, 0, 0], [1, 1, 1, 1]]
    torch.testing.assert_close(perplexity(counts), torch.tensor([1.0, 4.0]), atol=1e-5, rtol=0)


def test_usage_of_a_hand_made_array():
    codes = np.array([[0, 1], [0, 1], [0, 2], [3, 1], [0, 1]])
    seen = usage(codes, 4)
    assert (seen.vectors, seen.distinct, seen.once) == (5, 3, 2)
    assert seen.share_possible == 3 / 16 and seen.share_seen == 3 / 5
    half = -(0.8 * math.log(0.8) + 0.2 * math.log(0.2))
    np.testing.assert_allclose(seen.perplexity, [math.exp(half)] * 2, rtol=1e-5)
    np.testing.assert_array_equal(seen.used, [0.5, 0.5])
    assert seen.entropy == pytest.approx(-(0.6 * math.log(0.6) + 0.4 * math.log(0.2)))
    assert seen.similarity == pytest.approx((0.5 + 0.5 + 0) / 3)  # (0,1)~(0,2), (0,1)~(3,1), (0,2)~(3,1)


def test_usage_of_astronomically_many_possible_codewords():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 120, (300, 32)).astype(np.uint8)
    codes[200:] = codes[:100]
    codes[250] = codes[0]
    codes[250, 31] = (codes[0, 31] + 1) % 120  # differs in the last group alone
    seen = usage(codes, 120)
    tuples, counts = np.unique(codes, axis=0, return_counts=True)
    assert seen.distinct == len(tuples) and seen.once == (counts == 1).sum()
    assert seen.share_possible == len(tuples) / 120**32 and seen.share_seen == len(tuples) / 300
    pairs = [(a == b).mean() for i, a in enumerate(tuples) for b in tuples[:i]]
    assert seen.similarity == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("wrong", [np.zeros((3, 2)), np.zeros(3, int), np.zeros((0, 2), int), np.full((2, 2), 4)])
def test_usage_refuses_what_is_not_codes(wrong):
    with pytest.raises(ValueError):
        usage(wrong, 4)
