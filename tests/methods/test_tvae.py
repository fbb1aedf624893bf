from dataclasses import replace

import numpy as np
import pytest
import torch

from ethoray import geometry
from ethoray.batch import Batch, Spec, collate
from ethoray.geometry import MOUSE_KEYPOINTS
from ethoray.methods.tvae import TVAE, States, View, carried, view
from ethoray.schema import SchemaError, Skeleton
from ethoray.testing import TOY_SKELETON, toy_batch, toy_recordings, toy_spec, toy_stream

SMALL = TVAE(hidden=16, latent=4, crops=2, calibration=2)


def built(method: TVAE = SMALL, individuals: int = 3):
    torch.manual_seed(0)
    spec = toy_spec(individuals=individuals)
    encoder = method.build(spec)
    encoder.calibrate(toy_stream(spec))
    return encoder, spec


def complete(step: int = 0) -> Batch:
    """Toy windows that miss nothing."""
    tracks = [r.keypoints for r in toy_recordings(2, 8.0, 10.0, missing=0.0, seed=step)]
    return collate(tracks, 80, 2, 10.0)


def crops(encoder, spec, rows: int = 2) -> View:
    """What the first animal of the first window of ``rows`` recordings sees."""
    columns = encoder._columns(toy_batch(spec, encoder.length, rows))
    return encoder._view(columns, torch.zeros(rows, dtype=torch.int64))


def test_the_paper_preset_has_the_sizes_of_the_publication():
    encoder = TVAE().build(Spec(TOY_SKELETON, 3, 2, 30.0, 1800))
    assert (encoder.length, encoder.hop, encoder.states.width) == (21, 1, 11)
    assert encoder.states.kept == list(range(10))
    assert encoder.reader.input_size == 2 * 33 + 3 and encoder.reader.hidden_size == 256
    assert encoder.posterior[-1].out_features == 2 * 32 and encoder.clip_norm == 10 and encoder.lr == 2e-4


def test_pose_components_are_those_of_numpy():
    states = States(toy_spec(), ("tail_tip",), 3)
    states.calibrate(complete, 2)
    rows = []
    for step in range(2):
        points = complete(step).keypoints[..., :11, :].flatten(0, 2).numpy().astype(np.float64)
        nose, tail = (points[:, MOUSE_KEYPOINTS.index(k)] for k in ("nose", "tail_base"))
        points = points - points.mean(1, keepdims=True)
        turn = np.exp(-1j * np.angle((nose - tail) @ np.array([1, 1j])))[:, None] * (points @ np.array([1, 1j]))
        rows.append(np.stack([turn.real, turn.imag], -1).reshape(len(turn), -1))
    pose = np.concatenate(rows)
    _, singular, axes = np.linalg.svd(pose - pose.mean(0), full_matrices=False)
    axes = axes[:3] * np.sign(axes[:3][np.arange(3), np.abs(axes[:3]).argmax(1)])[:, None]
    assert np.allclose(states.mean.numpy(), pose.mean(0), atol=1e-3)
    assert np.allclose(states.axes.numpy(), axes.T, atol=1e-3)
    assert np.allclose(states.deviation.numpy(), singular[:3] / np.sqrt(len(pose)), rtol=1e-3)


def test_states_and_steps_have_about_unit_spread():
    encoder, spec = built()
    values, moves = [], []
    for step in range(2):
        states, known = encoder.states(toy_stream(spec)(step))
        values.append(states[known])
        both = known[:, 1:] & known[:, :-1]
        moves.append((states[:, 1:] - states[:, :-1])[both] / encoder.states.step)
    value, move = torch.cat(values), torch.cat(moves)
    assert torch.allclose(value[:, :2].var(0, unbiased=False).sum(), torch.tensor(1.0), atol=1e-3)
    assert torch.allclose(value[:, 4:].std(0), torch.ones(7), atol=1e-2)
    assert torch.allclose(value[:, 2:4].square().sum(1), torch.ones(len(value)), atol=1e-5)
    assert torch.allclose(move.square().mean(0), torch.ones(11), atol=1e-3)


def test_a_state_is_carried_over_gaps():
    states = torch.tensor([0.0, 0.0, 3.0, 0.0, 0.0, 6.0, 0.0]).view(1, 7, 1, 1).repeat(1, 1, 2, 1)
    known = torch.tensor([0, 0, 1, 0, 0, 1, 0]).bool().view(1, 7, 1).repeat(1, 1, 2)
    known[..., 1] = False
    filled = carried(states, known)
    assert filled[0, :, 0, 0].tolist() == [3, 3, 3, 3, 3, 6, 6]
    assert filled[0, :, 1, 0].tolist() == [0] * 7


def test_the_others_sit_by_distance_and_the_absent_last():
    places = torch.tensor([0.0, 9.0, 2.0, 7.0, 4.0])  # of five animals on a line; the fourth is never seen
    states = torch.stack([places, torch.zeros(5), 10 * torch.arange(5.0)], -1).expand(5, 3, 5, 3)
    known = torch.ones(5, 3, 5, dtype=torch.bool)
    known[:, :, 3] = False
    seen = view(states, known, torch.arange(5), 6, 2)
    assert (seen.states[:, 0, :, 2] / 10).tolist() == [
        [0, 2, 4, 1, 0, 0], [1, 4, 2, 0, 0, 0], [2, 0, 4, 1, 0, 0], [0, 0, 2, 4, 1, 0], [4, 2, 0, 1, 0, 0],
    ]  # fmt: skip
    assert seen.absent[0].tolist() == [0, 0, 0, 0, 1, 1] and seen.absent[3].tolist() == [1, 0, 0, 0, 0, 1]
    assert seen.known[0, 0].tolist() == [True, True, True, True, False, False]
    assert view(states, known, torch.arange(5), 2, 2).states[0, 0, :, 2].tolist() == [0, 20]


def test_a_step_into_or_out_of_a_gap_does_not_count():
    states = torch.tensor([1.0, 2.0, 0.0, 5.0, 7.0]).view(1, 5, 1, 1)
    known = torch.tensor([True, True, False, True, True]).view(1, 5, 1)
    seen = view(states, known, torch.zeros(1, dtype=torch.int64), 1, 1)
    assert seen.actions.flatten().tolist() == [1, 0, 0, 2]
    assert seen.known.flatten().tolist() == [True, False, False, True]
    assert seen.states.flatten().tolist() == [1, 2, 2, 5, 7]


def test_the_roll_out_is_that_of_a_loop():
    encoder, spec = built()
    seen, encoder = crops(encoder, spec), encoder.double()
    seen = View(seen.states.double(), seen.actions.double(), seen.known, seen.absent.double())
    generator = torch.Generator().manual_seed(3)
    code = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    noise = torch.randn(seen.actions.shape, generator=generator, dtype=torch.float64)
    means, logvars = encoder.roll_out(seen, code, noise)

    memory = torch.nn.GRUCell(encoder.memory.input_size, 16).double()
    memory.load_state_dict({k.removesuffix("_l0"): v for k, v in encoder.memory.state_dict().items()})
    for row in range(2):
        state, hidden = seen.states[row, 0].clone(), torch.zeros(16, dtype=torch.float64)
        before = torch.zeros(33, dtype=torch.float64)
        for t in range(seen.actions.shape[1]):
            hidden = memory(before, hidden)
            known = torch.cat([hidden, code[row], seen.absent[row]])
            layer = encoder.context.weight @ known + encoder.context.bias + encoder.situation.weight @ state.flatten()
            mean, logvar = encoder.action(layer).view(2, 3, 11)
            assert torch.allclose(means[row, t], mean.float(), atol=1e-5)
            assert torch.allclose(logvars[row, t], logvar.float(), atol=1e-5)
            for seat in range(3):
                if seen.known[row, t, seat]:
                    moved = mean[seat] + (logvar[seat] / 2).exp() * noise[row, t, seat]
                    state[seat] += moved * encoder.states.step
            before = seen.actions[row, t].flatten()


def test_the_loss_is_the_likelihood_of_known_actions_and_the_free_divergence(monkeypatch):
    encoder, spec = built()
    batch = toy_batch(spec, spec.frames, 2)
    kept = {}
    for name in ("encode", "roll_out"):
        original = getattr(encoder, name)

        def spy(seen, *rest, name=name, original=original):
            kept["seen"], kept[name] = seen, original(seen, *rest)
            return kept[name]

        monkeypatch.setattr(encoder, name, spy)
    torch.manual_seed(0)
    with torch.no_grad():
        loss = encoder.loss(batch)
    seen, (mean, logvar), (action, uncertainty) = kept["seen"], kept["encode"], kept["roll_out"]
    normal = torch.distributions.Normal
    nll, kl, free, count = 0.0, 0.0, 0.0, 0
    for row in range(len(mean)):
        if not seen.known[row, :, 0].any():
            continue
        count += 1
        for t, seat in seen.known[row].nonzero().tolist():
            likely = normal(action[row, t, seat], (uncertainty[row, t, seat] / 2).exp())
            nll -= float(likely.log_prob(seen.actions[row, t, seat]).sum())
        each = torch.distributions.kl_divergence(normal(mean[row], (logvar[row] / 2).exp()), normal(0.0, 1.0))
        kl += float(each.sum())
        free += sum(max(float(value), 1 / 4) for value in each)
    assert len(mean) == 2 * 3 * 2 and count > 0
    assert np.isclose(float(loss["nll"]), nll / count, rtol=1e-4)
    assert np.isclose(float(loss["kl"]), kl / count, rtol=1e-3)
    assert np.isclose(float(loss["loss"]), (nll + free) / count, rtol=1e-4)


def test_unknown_steps_do_not_enter_the_code():
    encoder, spec = built()
    seen = crops(encoder, spec, 1)
    read, _ = encoder.reader(
        torch.cat([seen.states[:, :-1].flatten(2), seen.actions.flatten(2), seen.absent[:, None].expand(-1, 6, -1)], -1)
    )
    seen.known[0, [1, 4], 0] = False
    kept = [t for t in range(6) if seen.known[0, t, 0]]
    expected = encoder.posterior(read[0, kept].mean(0))
    mean, logvar = encoder.encode(seen)
    assert len(kept) <= 4
    assert torch.allclose(torch.cat([mean[0], logvar[0]]), expected, atol=1e-6)


def test_every_frame_carries_the_code_of_the_window_around_it():
    encoder, spec = built(replace(SMALL, hop=0.3))
    assert (encoder.length, encoder.hop) == (7, 3)
    batch = toy_batch(spec, 31)
    z = encoder.eval().embed(batch)["tvae"]
    first = 12 - (7 // 2 - 3 // 2)  # of the window whose middle three frames are 12 to 14
    piece = Batch(batch.keypoints[:, first : first + 7], batch.mask[:, first : first + 7], batch.fps)
    columns = encoder._columns(piece)
    for animal in range(3):
        mean, _ = encoder.encode(encoder._view(columns, torch.tensor([animal])))
        assert torch.allclose(z[0, 12:15, animal], mean.expand(3, -1), atol=1e-5)


def test_the_embedding_is_the_posterior_mean_and_has_no_chance_in_it():
    encoder, spec = built()
    batch = toy_batch(spec, 20)
    torch.manual_seed(1)
    first = encoder.embed(batch)["tvae"]
    torch.manual_seed(2)
    assert torch.equal(first, encoder.embed(batch)["tvae"])


def test_renaming_animals_permutes_the_embedding():
    encoder, spec = built()
    batch = toy_batch(spec, 20, 2)
    order = torch.tensor([2, 0, 1])
    turned = Batch(batch.keypoints[:, :, order], batch.mask[:, :, order], batch.fps)
    assert torch.allclose(encoder.embed(turned)["tvae"], encoder.embed(batch)["tvae"][:, :, order], atol=1e-6)


@pytest.mark.parametrize("animals", [1, 2, 5])
def test_any_number_of_animals_can_be_embedded(animals):
    encoder, _ = built()
    z = encoder.embed(toy_batch(toy_spec(individuals=animals), 20))["tvae"]
    assert z.shape == (1, 20, animals, 4) and bool(z.isfinite().all())


def test_fewer_animals_are_as_many_with_the_others_absent():
    encoder, _ = built()
    few = toy_batch(toy_spec(individuals=2), 20)
    empty = torch.full_like(few.keypoints[:, :, :1], torch.nan)
    more = Batch(torch.cat([few.keypoints, empty], 2), torch.ones(1, 20, 3, dtype=torch.bool), few.fps)
    assert torch.allclose(encoder.embed(more)["tvae"][:, :, :2], encoder.embed(few)["tvae"], atol=1e-6)


@pytest.mark.parametrize("skeleton", [Skeleton(("back",)), Skeleton(("a", "b", "c", "tail_tip"))])
@pytest.mark.parametrize("space", [2, 3])
def test_other_skeletons_build_and_train(skeleton, space):
    spec = Spec(skeleton, 2, space, 10.0, 40)
    torch.manual_seed(0)
    keypoints = torch.randn(2, 40, 2, len(skeleton.keypoints), space).cumsum(1)
    batch = Batch(keypoints, torch.ones(2, 40, 2, dtype=torch.bool), 10.0)
    encoder = SMALL.build(spec)
    encoder.calibrate(lambda _: batch)
    kept = len(encoder.states.kept)
    assert encoder.states.width == space + min(7, (kept - 1) * space)
    assert bool(encoder.loss(batch)["loss"].isfinite()) and bool(encoder.embed(batch)["tvae"].isfinite().all())


def test_a_missing_keypoint_stands_where_it_usually_does():
    states = States(toy_spec(), (), 7)
    states.calibrate(complete, 2)
    usual = states.mean.view(12, 2)
    usual = geometry.rotate(usual, -geometry.angle(usual[0] - usual[9]))  # the mean of noisy axes is an axis, nearly
    states.mean.copy_(usual.flatten())
    turn, place = torch.tensor(0.7), torch.tensor([300.0, 200.0])
    keypoints = (geometry.rotate(usual, turn) + place).repeat(1, 3, 1, 1, 1)
    keypoints[0, 1, 0, [2, 5, 7]] = torch.nan
    keypoints[0, 2, 0, 9] = torch.nan  # one end of the axis
    state, known = states(Batch(keypoints, torch.ones(1, 3, 1, dtype=torch.bool), 10.0))
    assert known.flatten().tolist() == [True, True, False]
    expected = torch.cat([(place - states.middle) / states.spread, turn.sin()[None], turn.cos()[None], torch.zeros(7)])
    assert torch.allclose(state[0, :2, 0], expected.expand(2, -1), atol=1e-4)


def test_animals_that_are_never_seen_well_are_refused():
    stream = toy_stream(toy_spec())

    def noseless(step: int) -> Batch:
        batch = stream(step)
        batch.keypoints[..., 0, :] = torch.nan
        return batch

    with pytest.raises(SchemaError, match="no frame with the body axis"):
        SMALL.build(toy_spec()).calibrate(noseless)


def test_settings_that_cannot_work_say_what_to_do():
    with pytest.raises(SchemaError, match=r"looks at 9 s.*last 8 s.*longer"):
        replace(SMALL, seconds=9.0).build(toy_spec())
    with pytest.raises(SchemaError, match="at least 1"):
        replace(SMALL, latent=0).build(toy_spec())
    with pytest.raises(SchemaError, match="left_out leaves no keypoint"):
        replace(SMALL, left_out=("a",)).build(Spec(Skeleton(("a",)), 1, 2, 10.0, 40))
