"""The mathematics of VQ-VAME: alignment, decoder, VAME's terms, codewords."""

import socket
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp

from ethoray.batch import Batch, rank_rows
from ethoray.learning import Budget
from ethoray.methods.vqvame import VQVAME
from ethoray.nn.alignment import Columns, align, restore
from ethoray.nn.recurrent import ConvEncoder, RecurrentDecoder, RecurrentEncoder, annealed, gaussian, nuclear_norm
from ethoray.schema import SchemaError, Skeleton
from ethoray.testing import TOY_SKELETON, toy_batch, toy_spec, toy_stream

TINY = {"encoder": "conv", "hidden": 8, "groups": 2, "variables": 6, "width": 8, "crops": 3}


def built(spec=None, **fields):
    torch.manual_seed(0)
    encoder = VQVAME(**(TINY | fields)).build(spec or toy_spec(3.0))
    with torch.no_grad():
        encoder.calibrate(toy_stream(encoder.spec))
    return encoder


@pytest.mark.parametrize("ends", [(6, 0, 9), (None, 0, 9), (None, None, None), (6, None, None)])
@pytest.mark.parametrize("space", [2, 3])
def test_alignment_can_be_undone(ends, space):
    torch.manual_seed(0)
    keypoints = 500 + 200 * torch.randn(3, 50, 12, space, dtype=torch.float64)
    aligned = align(keypoints, *ends)
    torch.testing.assert_close(restore(aligned), keypoints, atol=1e-5, rtol=0)
    if ends[0] == 6:
        assert aligned.points[..., 6, :].abs().max() < 1e-9
    if ends[1] == 0:
        axis = aligned.points[..., 0, :] - aligned.points[..., 9, :]
        assert axis[..., 1].abs().max() < 1e-9 and (axis[..., 0] > 0).all()


def test_turning_and_moving_an_animal_does_not_change_its_alignment():
    torch.manual_seed(0)
    keypoints = torch.randn(1, 30, 12, 2, dtype=torch.float64) * 40
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    moved = keypoints @ turn.T + torch.tensor([300.0, -70.0])
    torch.testing.assert_close(align(moved, 6, 0, 9).points, align(keypoints, 6, 0, 9).points)


@pytest.mark.parametrize("missing", [0, 6, 9])
def test_a_frame_without_centre_or_axis_is_missing_altogether(missing):
    torch.manual_seed(0)
    keypoints = torch.randn(1, 10, 12, 3)
    keypoints[0, 4, missing] = torch.nan
    keypoints[0, 5, 3] = torch.nan
    nan = align(keypoints, 6, 0, 9).points[0].isnan()
    assert nan[4].all() and nan[5, 3].all() and nan.sum() == 36 + 3


def test_columns_are_standardised_alike_in_training_and_embedding():
    spec = toy_spec(3.0)
    batch = toy_batch(spec, 60, 4)
    for together in (True, False):
        columns = Columns(spec, motion=True, clip=100.0)
        columns.calibrate([columns.tracks(batch)], together)
        x, known, counts = columns(columns.tracks(batch))
        share = known.sum((0, 1))
        mean = x.sum((0, 1)) / share
        variance = torch.where(known, x - mean, 0.0).square().sum((0, 1)) / share
        varies = columns.deviation != 1
        assert mean.abs().max() < 1e-4 and counts.all() and not x[~known].any()
        body = slice(None, columns.coordinates)
        if together:
            assert float((variance * share)[body].sum() / share[body].sum()) == pytest.approx(1, abs=1e-3)
            assert len(columns.deviation[body].unique()) == 1
        else:
            torch.testing.assert_close(variance[varies], torch.ones(int(varies.sum())), atol=1e-3, rtol=0)
        known_points = columns.points(x)[known[..., body]]
        torch.testing.assert_close(known_points, columns.tracks(batch)[..., body][known[..., body]], atol=1e-3, rtol=0)


def test_motion_is_the_step_in_the_body_frame_and_the_turn():
    spec = replace(
        toy_spec(3.0), skeleton=Skeleton(("tail", "center", "nose"), front="nose", back="tail"), individuals=1
    )
    body = torch.tensor([[-2.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    frames = [body, body + torch.tensor([3.0, 1.0]), body @ quarter.T + torch.tensor([3.0, 2.0])]
    batch = Batch(torch.stack(frames)[None, :, None], torch.ones(1, 3, 1, dtype=torch.bool), 10.0)
    columns = Columns(spec, motion=True)
    x, known, _ = columns(columns.tracks(batch))
    assert not known[0, 0, 6:].any() and known[0, 1:, 6:].all()
    torch.testing.assert_close(x[0, 1, 6:], torch.tensor([3.0, 1.0, 0.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(x[0, 2, 6:], torch.tensor([1.0, 0.0, torch.pi / 2]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("rows", "width", "k"), [(40, 7, 7), (40, 7, 3), (5, 12, 5), (5, 12, 30)])
def test_the_nuclear_norm_equals_the_singular_values_of_the_batch_matrix(rows, width, k):
    torch.manual_seed(0)
    z = torch.randn(rows, width, dtype=torch.float64, requires_grad=True)
    ours = nuclear_norm(z, k)
    (gradient,) = torch.autograd.grad(ours, z)
    rank = min(rows, width, k)  # beyond the rank the values are zero and their root has no gradient
    literal = 0.1 * torch.linalg.svdvals(z @ z.T / rows)[:rank].sqrt().sum()
    (expected,) = torch.autograd.grad(literal, z)
    assert float(ours.detach()) == pytest.approx(float(literal.detach()), rel=1e-12)
    torch.testing.assert_close(gradient, expected, atol=1e-12, rtol=1e-9)


def test_the_nuclear_norm_of_a_collapsed_batch_stays_finite():
    for z in (torch.zeros(6, 4), torch.ones(6, 4), torch.zeros(0, 4)):
        z.requires_grad_()
        value = nuclear_norm(z, 4)
        value.backward()
        assert bool(value.isfinite()) and bool(z.grad.isfinite().all())
    with torch.autocast("cpu", torch.bfloat16):
        assert nuclear_norm(torch.randn(6, 4).bfloat16(), 4).dtype == torch.float32
    with pytest.raises(ValueError, match="at least one value"):
        nuclear_norm(torch.zeros(3, 4), 0)


def test_rows_of_zero_do_not_count_when_their_number_is_given():
    z = torch.randn(9, 4)
    padded = torch.cat([z, torch.zeros(5, 4)])
    torch.testing.assert_close(nuclear_norm(padded, 4, torch.tensor(9)), nuclear_norm(z, 4))


def test_decoding_a_window_does_not_depend_on_its_neighbours():
    torch.manual_seed(0)
    decoder = RecurrentDecoder(6, 5, 3)
    z = torch.randn(8, 6, requires_grad=True)
    out = decoder(z, 7)
    assert out.shape == (8, 7, 3)
    for row in range(8):
        torch.testing.assert_close(decoder(z[row : row + 1], 7)[0], out[row], atol=1e-6, rtol=1e-5)
    (gradient,) = torch.autograd.grad(out[3].square().sum(), z)
    assert gradient[3].abs().min() > 0 and not gradient[[0, 1, 2, 4, 5, 6, 7]].any()


def test_encoders_summarise_a_window():
    x = torch.randn(4, 30, 9)
    for encoder in (RecurrentEncoder(9, 5), ConvEncoder(9, 5, 30), ConvEncoder(9, 5, 30)):
        assert encoder(x).shape == (4, encoder.width)
    assert ConvEncoder(9, 5, 2)(x[:, :2]).shape == (4, 5)
    recurrent = RecurrentEncoder(9, 5)
    output, _ = recurrent.gru(x)
    summary = recurrent(x)
    torch.testing.assert_close(summary[:, 10:15], output[:, -1, :5])  # last layer, forwards
    torch.testing.assert_close(summary[:, 15:], output[:, 0, 5:])  # last layer, backwards


def test_noise_is_normal_and_annealing_is_linear():
    torch.manual_seed(0)
    noise = gaussian(torch.rand(200_000))
    assert abs(float(noise.mean())) < 0.01 and abs(float(noise.std()) - 1) < 0.01
    assert abs(float((noise.abs() < 1).float().mean()) - 0.6827) < 0.005
    weights = [float(annealed(torch.tensor(spent), 0.2, 0.4)) for spent in (0.0, 0.2, 0.4, 0.6, 1.0)]
    assert weights == pytest.approx([0, 0, 0.5, 1, 1])


@pytest.mark.parametrize("preset", ["paper", "vame", "small"])
def test_presets_build_what_they_promise(preset):
    method = VQVAME(**VQVAME.presets[preset])
    encoder = method.build(toy_spec(8.0, 30.0))
    assert encoder.length == 30 and (encoder.hop == 1) == (preset != "small")
    assert (encoder.foresight is None) == (preset != "vame") and encoder.ahead == (15 if preset == "vame" else 0)
    assert encoder.centre.out_features == {"paper": 512, "vame": 30, "small": 64}[preset]
    spaces = encoder.eval().embed(toy_batch(encoder.spec, 5))
    assert list(spaces) == (["ze"] if preset == "vame" else ["ze", "zq"])


def test_the_loss_is_the_sum_of_its_terms():
    encoder = built(beta=0.5, cluster=2.0, future=0.5, eta=0.7)
    encoder.rate(0.01)  # three quarters of the way through annealing
    terms = encoder.loss(toy_stream(encoder.spec)(0))
    weight = (0.01 - 0.004) / 0.008
    expected = terms["reconstruction"] + terms["future"] + 0.7 * terms["kmeans"]
    expected = expected + weight * (0.5 * terms["divergence"] + 2.0 * terms["cluster"])
    torch.testing.assert_close(terms["loss"], expected)


def test_the_sum_of_squares_is_the_mean_times_the_known_coordinates():
    batch = toy_stream(toy_spec(3.0))(0)
    mean, total = built(), built(reduction="sum")
    torch.manual_seed(1)
    one = mean.loss(batch)["reconstruction"]
    torch.manual_seed(1)
    other = total.loss(batch)["reconstruction"]
    assert 0.5 < float((other / one).detach()) / (4 * 2 * 3 * 10 * 24) <= 1


def test_missing_coordinates_are_in_no_loss():
    encoder = built()
    batch = toy_stream(encoder.spec)(0)
    x, known, _ = encoder.columns(encoder.columns.tracks(batch))
    guess = x.clone()
    guess[~known] = 1e6
    assert float(encoder._error(guess, x, known)) == 0


@pytest.mark.parametrize("kind", ["gradient", "average"])
def test_codewords_belong_to_the_embedding(kind):
    encoder = built(quantiser=kind, hop=0.3).eval()
    batch = toy_batch(encoder.spec, 50, 2)
    with torch.no_grad():
        spaces = encoder.embed(batch)
        codes = encoder.codewords(spaces)
    assert codes.dtype == torch.int32 and codes.shape == (2, 50, 2, 2)
    table = encoder.quantiser.codes.detach()
    looked_up = torch.cat([table[g][codes[..., g].long()] for g in range(2)], -1)
    torch.testing.assert_close(looked_up, spaces["zq"])
    assert built(quantiser="none").eval().codewords({}) is None


def test_a_window_stands_for_its_middle():
    encoder = built(hop=0.3).eval()
    assert (encoder.length, encoder.hop) == (10, 3)
    batch = toy_batch(encoder.spec, 41, 1)
    with torch.no_grad():
        z = encoder.embed(batch)["ze"]
        first = 12 - (encoder.length // 2 - encoder.hop // 2)  # the window of frames 12 to 14
        window = replace(
            batch, keypoints=batch.keypoints[:, first : first + 10], mask=batch.mask[:, first : first + 10]
        )
        x, _, _ = encoder.columns(encoder.columns.tracks(window))
        expected = encoder._project(encoder.centre(encoder.encoder(x))[:, None])[:, 0]
    for frame in (12, 13, 14):
        torch.testing.assert_close(z[0, frame], expected)


def test_reconstruction_is_in_pixels_and_improves():
    spec = toy_spec(3.0)
    encoder = built(spec, hidden=32, quantiser="none", latent=16, lr=5e-3)
    batch = toy_batch(spec, 43, 2)
    before = encoder.eval().reconstruct(batch)
    assert before.shape == batch.keypoints.shape
    whole = ~batch.keypoints[..., [0, 6, 9], :].isnan().any((-1, -2))
    assert before[whole].isfinite().all() and before[~whole].isnan().all()
    for _ in encoder.fit(toy_stream(spec), Budget(60, device="cpu")):
        pass
    after = encoder.reconstruct(batch)
    errors = [np.sqrt(np.nanmean((made - batch.keypoints).square().numpy())) for made in (before, after)]
    assert errors[1] < 0.8 * errors[0] and errors[1] < 5  # of a body of some hundred pixels


def test_the_codebook_is_watched():
    encoder = built(quantiser="average").eval()
    with torch.no_grad():
        seen = encoder.watch(toy_stream(encoder.spec)(0))
    assert 1 <= float(seen["monitor/codes/perplexity"]) <= 6 and 0 < float(seen["monitor/codes/used"]) <= 1
    assert "monitor/zq/rank" in seen


def test_bfloat16_training_stays_finite():
    for fields in ({"encoder": "rnn"}, {"quantiser": "none", "beta": 1.0, "cluster": 1.0, "future": 0.5}):
        encoder = built(**fields)
        for progress in encoder.fit(toy_stream(encoder.spec), Budget(2, 1, device="cpu", precision="bfloat16")):
            assert all(np.isfinite(value) for value in progress.metrics.values()), progress.metrics


@pytest.mark.parametrize("fields", [{"norm": "batch"}, {"axis": ("nose",)}, {"width": 4}, {"window": 4.0}])
def test_bad_settings_are_refused(fields):
    with pytest.raises(SchemaError):
        VQVAME(**(TINY | fields)).build(toy_spec(3.0))


def test_an_unknown_keypoint_is_named():
    assert "tail" not in TOY_SKELETON.keypoints
    with pytest.raises(SchemaError, match="no keypoint 'tail'"):
        VQVAME(axis=("center", "nose", "tail")).build(toy_spec(3.0))


PARALLEL = VQVAME(
    **TINY, calibration=2, quantiser="average", norm="layer", beta=0.1, cluster=0.5, anneal_start=0.0,
    decay=0.7, restart=0.6,
)  # fmt: skip


def halved(rank, world):
    whole = toy_stream(toy_spec(3.0))

    def batch(step):
        made = whole(step)
        made.keypoints[0, 10:25, 1] = torch.nan  # workers have unequal numbers of windows that count
        rows = torch.from_numpy(rank_rows(np.arange(4), rank, world))
        return replace(made, keypoints=made.keypoints[rows], mask=made.mask[rows])

    return batch


def trained(rank, world):
    torch.manual_seed(0)
    encoder = PARALLEL.build(toy_spec(3.0))
    losses = [dict(p.metrics) for p in encoder.fit(halved(rank, world), Budget(5, 1, device="cpu"))]
    metrics = [{k: v for k, v in m.items() if not k.startswith("monitor/")} for m in losses]
    return metrics, torch.cat([value.flatten().double() for value in encoder.state_dict().values()])


def worker(rank, port, out):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    losses, state = trained(rank, 2)
    if rank == 0:
        out.put((losses, state.numpy()))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_workers_train_codes_as_one_with_the_whole_batch_does():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.get_context("spawn")
    out = context.Queue()
    workers = [context.Process(target=worker, args=(rank, port, out)) for rank in range(2)]
    for process in workers:
        process.start()
    shared, state = out.get(timeout=240)
    for process in workers:
        process.join(60)
    alone, expected = trained(0, 1)
    for here, there in zip(alone, shared, strict=True):
        assert here.keys() == there.keys()
        for term in here:
            assert abs(here[term] - there[term]) < 1e-4 * max(1.0, abs(here[term])), (term, here, there)
    assert (torch.as_tensor(state) - expected).abs().max() < 1e-3
