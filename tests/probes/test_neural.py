"""Neural encoding: bits per spike by its formula, two roads to one optimum, and recordings that cannot be judged."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import gammaln

from ethoray import metrics
from ethoray.embedding import Embedding
from ethoray.probes import ProbeError, _rrr, _wavelets
from ethoray.probes._trials import (
    LEAST_RATE,
    Scale,
    Session,
    Trial,
    active,
    align,
    narrowed,
    phases,
    session_name,
    tally,
)
from ethoray.probes.neural import SPIKES, Neural
from ethoray.schema import Card, Skeleton
from ethoray.store import Entry

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "monkey_reach_myow"


def entry(name, split="train", frames=20, subject="s", fps=50.0):
    return Entry(name, subject, split, fps, frames, ("a",), 2, ())


def shown(name, spikes, features, split="train", subject="s", space="z"):
    """What a judge is shown of one trial."""
    return Embedding(entry(name, split, len(spikes), subject), {space: features}), {SPIKES: spikes.astype(np.float32)}


class World:
    """Trials whose features drive Poisson spikes of units with a course of their own."""

    def __init__(self, trials=60, units=5, features=3, subject="s", seed=0, lengths=(18, 24)):
        rng = np.random.default_rng(seed)
        mix = rng.normal(size=(features, units))
        self.trials = []
        for i in range(trials):
            length = int(rng.integers(*lengths))
            x = np.cumsum(rng.normal(size=(length, features)), 0) / 3
            course = np.sin(np.arange(length) / 5)[:, None]
            spikes = rng.poisson(np.exp(np.clip(0.6 * x @ mix + 0.5 * course, -4, 2)))
            split = "test" if i % 5 == 4 else "validation" if i % 10 == 3 else "train"
            self.trials.append(shown(f"trial_{i:03d}", spikes, x.astype(np.float32), split, subject))

    def judge(self, probe, seed=0, trials=None):
        judge = probe.judge(Card("toy", "mouse", 50.0, Skeleton(("nose",))), seed)
        for embedding, labels in self.trials if trials is None else trials:
            judge.see(embedding, labels)
        return judge

    def scores(self, probe, seed=0, trials=None):
        return {score.name: score for score in self.judge(probe, seed, trials).scores()}


FAST = {"models": ("rrr",), "l2": (10.0,), "min_rate": 0.0}


def nll(rates, counts):
    return (rates - counts * np.log(rates) + gammaln(counts + 1)).sum()


def test_bits_per_spike_is_the_gain_in_likelihood_over_the_mean_rate():
    rng = np.random.default_rng(0)
    counts = [rng.poisson(2.0, (t, 4)) for t in (7, 9, 5)]
    rates = [rng.uniform(0.1, 4, n.shape) for n in counts]
    n, r = np.concatenate(counts), np.concatenate(rates)
    expected = [
        (nll(np.full(len(n), n[:, i].mean()), n[:, i]) - nll(r[:, i], n[:, i])) / n[:, i].sum() / np.log(2)
        for i in range(4)
    ]
    sums = tally(counts, rates).sum(0)
    np.testing.assert_allclose(metrics.unit_bits_per_spike(sums), expected, rtol=1e-12)
    assert metrics.bits_per_spike(sums) == pytest.approx(np.mean(expected))


def test_bits_per_spike_by_hand():
    counts = [np.array([[0], [2]])]
    sums = tally(counts, [np.array([[0.5], [1.5]])]).sum(0)  # gain 2 ln 1.5 nats for two spikes
    assert metrics.bits_per_spike(sums) == pytest.approx(np.log2(1.5))
    assert metrics.bits_per_spike(tally(counts, [np.ones((2, 1))]).sum(0)) == pytest.approx(0, abs=1e-12)


def test_a_unit_without_spikes_has_no_bits_and_does_not_count():
    sums = tally([np.array([[0, 0], [2, 0]])], [np.array([[0.5, 1.0], [1.5, 1.0]])]).sum(0)
    bits = metrics.unit_bits_per_spike(sums)
    assert np.isnan(bits[1])
    assert metrics.bits_per_spike(sums) == pytest.approx(bits[0])
    assert metrics.bits_per_spike(np.zeros((2, 4))) == 0


def test_a_score_of_added_tallies_is_the_score_of_all_trials():
    world = World()
    score = world.scores(Neural(**FAST))["neural_rrr/z"]
    assert score.value == pytest.approx(float(metrics.RULES[score.rule](score.tallies.sum(0))))
    assert score.recordings == len(score.names) == len(score.tallies) == 12


def stacked(seed=0, trials=30, count=6, features=3, units=4, same=False):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(1 if same else count, trials, features)).repeat(count if same else 1, 0)
    y = rng.normal(size=(count, trials, units)) + np.einsum("pka,an->pkn", x, rng.normal(size=(features, units)))
    there = np.ones((count, trials), bool)
    if not same:
        there[-1, 20:] = False
        x[-1, 20:], y[-1, 20:] = 0, 0
    return _rrr.Stacked(x.astype(np.float32), y.astype(np.float32), there)


def objective(session, readout, l2):
    """The loss, one bin after another."""
    total = 0.0
    for p in range(len(session.x)):
        for x, y, there in zip(session.x[p], session.y[p], session.there[p], strict=True):
            if there:
                told = np.einsum("a,anj,j->n", x, readout.left, readout.right[:, p]) + readout.bias[p]
                total += ((y - told) ** 2).sum()
        total += l2 * ((readout.left @ readout.right[:, p]) ** 2).sum() + l2 * (readout.bias[p] ** 2).sum()
    return total


def test_descent_and_the_exact_solution_meet_at_the_optimum():
    sessions = [stacked(0), stacked(1, units=2)]
    exact = _rrr.exact(sessions, 2, 5.0)
    best = sum(objective(s, r, 5.0) for s, r in zip(sessions, exact, strict=True))
    searched = []
    for seed in range(3):
        found = _rrr.descended(sessions, 2, 5.0, 1.0, seed, 2000, "strong_wolfe", torch.float64)
        searched.append(sum(objective(s, r, 5.0) for s, r in zip(sessions, found, strict=True)))
    assert min(searched) == pytest.approx(best, rel=1e-6)
    assert min(searched) > best * (1 - 1e-6)


def test_where_features_do_not_change_within_a_trial_one_decomposition_is_the_solution():
    session = stacked(same=True)
    once, long = (_rrr.exact([session], 2, 5.0, rounds=n)[0] for n in (1, 100))
    assert objective(session, once, 5.0) == pytest.approx(objective(session, long, 5.0), rel=1e-9)


def test_full_rank_is_a_ridge_regression_of_every_phase():
    session, l2 = stacked(), 3.0
    readout = _rrr.exact([session], 6, l2)[0]
    for p in range(6):
        rows = session.there[p]
        x = np.column_stack([session.x[p][rows], np.ones(rows.sum())]).astype(np.float64)
        ridge = np.linalg.solve(x.T @ x + l2 * np.eye(4), x.T @ session.y[p][rows])
        np.testing.assert_allclose(readout.left @ readout.right[:, p], ridge[:3], atol=1e-6)
        np.testing.assert_allclose(readout.bias[p], ridge[3], atol=1e-6)


def test_a_readout_predicts_what_its_coefficients_say():
    readout = _rrr.exact([stacked()], 2, 1.0)[0]
    x = np.random.default_rng(3).normal(size=(8, 3))
    place = [0, 1, 2, 3, 4, 5, 5, 5]
    told = [x[t] @ (readout.left @ readout.right[:, p]) + readout.bias[p] for t, p in enumerate(place)]
    np.testing.assert_allclose(readout.predict(x), told, atol=1e-12)


def test_phases_are_the_bins_that_enough_trials_reach():
    assert phases([9, 14, 12, 10], True, 3) == 10
    assert phases([9, 14, 12, 10], False, 3) == 1
    assert phases([9, 14], True, 3) == 1


def test_a_scale_by_hand():
    scale = Scale.fit([np.array([[1.0, 5.0], [2.0, 5.0]]), np.array([[3.0, 5.0], [np.nan, 5.0], [6.0, 5.0]])], 2)
    np.testing.assert_allclose(scale.mean, [[2, 5], [4, 5]])
    np.testing.assert_allclose(scale.deviation, [[1, 0], [2, 0]])
    z = scale.forward(np.array([[4.0, 9.0], [np.nan, 5.0], [8.0, 1.0]]))
    np.testing.assert_allclose(z, [[2, 0], [0, 0], [2, 0]])
    np.testing.assert_allclose(scale.back(np.array([[-9.0, 3.0], [np.nan, 1.0]])), [[LEAST_RATE, 5], [LEAST_RATE, 5]])


def test_slow_units_are_left_out_by_their_training_rate():
    counts = np.zeros((10, 3), np.float32)
    counts[:, 0], counts[0, 1] = 1, 1
    session = Session("s", 10.0, (Trial("a", "train", counts, {}), Trial("b", "test", np.ones_like(counts), {})))
    assert active(session, 2.0).tolist() == [0]
    assert active(session, 0.0).tolist() == [0, 1]


def test_names_that_differ_in_their_last_number_are_one_session():
    assert session_name(entry("chewie_10032013_trial_0007", subject="chewie")) == "chewie chewie_10032013"
    assert session_name(entry("trial-12", subject="a")) == "a"
    assert session_name(entry("a_3", subject="a")) == "a"


def test_wavelets_have_unit_length_and_their_far_taps_do_not_matter():
    filters = _wavelets.gabors()
    assert filters.shape == (10, 201)
    torch.testing.assert_close(filters.norm(dim=1), torch.ones(10))
    torch.manual_seed(0)
    network, x = _wavelets.Wavelets(2, (3,)), torch.randn(2, 9, 2)
    mixed = network.mix(x).transpose(1, 2).reshape(4, 1, 9)
    seen = torch.relu(torch.nn.functional.conv1d(mixed, network.filters[:, None], padding=100))
    seen = seen.view(2, 20, 9).transpose(1, 2)
    whole = network.heads[0](torch.relu(network.hidden(torch.relu(network.gather(seen)))))
    torch.testing.assert_close(network(x), whole)


def test_a_padded_batch_says_what_each_trial_says_alone():
    network = _wavelets.Wavelets(2, (3,)).eval()
    rng = np.random.default_rng(0)
    trials = [(rng.normal(size=(t, 2)).astype(np.float32), np.zeros((t, 3), np.float32)) for t in (5, 8)]
    x, _, there = _wavelets._padded(trials)
    assert there[0, :, 0].tolist() == [1] * 5 + [0] * 3
    with torch.no_grad():
        torch.testing.assert_close(
            network(x, 0, there)[0, :5], torch.from_numpy(_wavelets.predict(network, [trials[0][0]], 0)[0])
        )


def test_features_tell_more_than_the_trial_average_and_runs_repeat():
    world = World()
    probe = Neural(models=("rrr", "rrr_lbfgs", "tcn"), min_rate=0.0, draws=2, epochs=30, l2=(10.0, 100.0))
    scores = world.scores(probe)
    psth = scores["neural_psth/none"].value
    for name in ("neural_rrr/z", "neural_rrr_lbfgs/z", "neural_tcn/z"):
        assert scores[name].value > psth + 0.05, name
        assert scores[name].low <= scores[name].value <= scores[name].high
    assert {n: s.value for n, s in world.scores(probe).items()} == {n: s.value for n, s in scores.items()}


def test_any_map_will_do_and_results_keep_the_order_of_jobs():
    world, probe, lists = World(), Neural(**{**FAST, "l2": (1.0, 1000.0)}), []
    judge = world.judge(probe)

    def backwards(function, jobs):
        lists.append(jobs)
        return [function(job) for job in jobs[::-1]][::-1]

    judge.map = backwards
    assert [s.value for s in judge.scores()] == [s.value for s in world.judge(probe).scores()]
    assert len(lists[0]) == 2
    about = judge.describe()["neural_rrr/z"]["sessions"]["s"]
    assert about["chosen"] in (1.0, 1000.0)
    assert about["units"] == 5


@pytest.mark.parametrize("sessions", ["single", "joint"])
def test_sessions_have_units_of_their_own(sessions):
    world, other = World(trials=40), World(trials=40, units=3, subject="t", seed=1)
    world.trials += other.trials
    probe = Neural(models=("rrr", "tcn"), l2=(10.0,), min_rate=0.0, draws=1, epochs=5, sessions=sessions)
    judge = world.judge(probe)
    score = {s.name: s for s in judge.scores()}["neural_rrr/z"]
    assert score.tallies.shape == (16, 8, 4)
    assert not score.tallies[:8, 5:].any()
    assert not score.tallies[8:, :5].any()
    about = judge.describe()["neural_rrr/z"]
    assert {name: one["units"] for name, one in about["sessions"].items()} == {"s": 5, "t": 3}
    values = [one["value"] for one in about["sessions"].values()]
    assert about["value"] == pytest.approx((5 * values[0] + 3 * values[1]) / 8)


def test_without_validation_trials_training_lends_some():
    world = World()
    trials = [t for t in world.trials if t[0].entry.split != "validation"]
    assert np.isfinite(world.scores(Neural(**FAST), trials=trials)["neural_rrr/z"].value)


def test_one_training_trial_is_enough_for_a_number():
    world = World()
    trials = [world.trials[0], *(t for t in world.trials if t[0].entry.split == "test")]
    assert np.isfinite(world.scores(Neural(**FAST), trials=trials)["neural_rrr/z"].value)


def test_a_unit_silent_in_training_is_left_out():
    world = World()
    for embedding, labels in world.trials:
        if embedding.entry.split == "train":
            labels[SPIKES][:, 0] = 0
    judge = world.judge(Neural(**FAST))
    assert {s.name: s for s in judge.scores()}["neural_rrr/z"].tallies.shape[1] == 4
    assert judge.describe()["neural_rrr/z"]["sessions"]["s"]["left_out"] == 1


def test_missing_features_count_as_the_training_mean(caplog):
    world = World()
    world.trials[0][0].spaces["z"][3] = np.nan
    judge = world.judge(Neural(**FAST))
    assert all(np.isfinite(s.value) for s in judge.scores())
    assert judge.describe()["neural_rrr/z"]["sessions"]["s"]["missing"] > 0
    assert "missing" in caplog.text


def test_without_test_trials_or_active_units_nothing_is_scored(caplog):
    world = World()
    train = [t for t in world.trials if t[0].entry.split == "train"]
    assert world.judge(Neural(**FAST), trials=train).scores() == ()
    assert "no test" in caplog.text
    assert world.judge(Neural(min_rate=1e6)).scores() == ()
    assert "above 1e+06 spikes a second" in caplog.text


def test_units_that_are_silent_in_the_test_are_said():
    world = World()
    for embedding, labels in world.trials:
        if embedding.entry.split == "test":
            labels[SPIKES][:] = 0
    with pytest.raises(ProbeError, match="fires in a test trial"):
        world.judge(Neural(**FAST)).scores()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda e, y: (e, {}), "no spike counts"),
        (lambda e, y: (e, {SPIKES: y[SPIKES][:-1]}), "no spike counts"),
        (lambda e, y: (e, {SPIKES: y[SPIKES] - 50}), "not negative"),
        (lambda e, y: (e, {SPIKES: y[SPIKES][:, :2]}), "2 units"),
        (lambda e, y: (Embedding(e.entry, {"z": e.spaces["z"][:3]}), y), "spaces are"),
        (lambda e, y: (Embedding(e.entry, {"w": e.spaces["z"]}), y), "w of 3"),
    ],
)
def test_recordings_that_cannot_be_judged_are_named(broken, message):
    world = World()
    world.trials[7] = broken(*world.trials[7])
    with pytest.raises(ProbeError, match=message) as error:
        world.judge(Neural(**FAST))
    assert "trial_007" in str(error.value)


def test_infinite_features_and_too_much_data_are_refused():
    world = World()
    world.trials[7][0].spaces["z"][0, 0] = np.inf
    with pytest.raises(ProbeError, match=r"trial_007.*infinite"):
        world.judge(Neural(**FAST)).scores()
    with pytest.raises(ProbeError, match="raise most"):
        World().judge(Neural(most=100))


@pytest.mark.parametrize("wrong", [{"models": ("glm",)}, {"l2": (0.0,)}, {"rank": 0}, {"sessions": "all"}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match="neural probe"):
        Neural(**wrong)


def test_a_wide_space_is_brought_to_its_principal_components():
    rng = np.random.default_rng(0)
    mix, mean = rng.normal(size=(3, 40)), rng.normal(size=40)
    spaces = [{"z": (rng.normal(size=(20, 3)) @ mix + mean).astype(np.float32)} for _ in range(6)]
    trials = [Trial(f"t{i}", "test" if i > 4 else "train", np.ones((20, 2)), x) for i, x in enumerate(spaces)]
    session = Session("s", 50.0, tuple(trials))
    assert narrowed([session], "z", 40)[0] is session
    (narrow,) = narrowed([session], "z", 5)
    z = [t.spaces["z"] for t in narrow.trials]
    assert z[0].shape == (20, 3)  # there is no more than that in it
    between = [np.linalg.norm(x[:, None] - x, axis=-1) for x in (spaces[5]["z"], z[5])]
    np.testing.assert_allclose(*between, atol=1e-4)
    joined = np.concatenate(z[:5])
    assert abs(np.cov(joined.T) - np.diag(joined.var(0, ddof=1))).max() < 1e-4
    assert (np.diff(joined.var(0)) < 0).all()


def test_the_widest_space_is_scored_like_its_components():
    world = World()
    wide = np.linalg.qr(np.random.default_rng(1).normal(size=(30, 3)))[0].T
    trials = [(Embedding(e.entry, {"z": (e.spaces["z"] @ wide).astype(np.float32)}), y) for e, y in world.trials]
    probe = Neural(**FAST, locked=False, widest=8)
    narrow = [(Embedding(e.entry, {"z": e.spaces["z"]}), y) for e, y in world.trials]
    pair = [world.scores(probe, trials=t)["neural_rrr/z"].value for t in (trials, narrow)]
    assert pair[0] == pytest.approx(pair[1], abs=0.02)


def test_smoothing_keeps_the_number_of_spikes_of_a_trial():
    trial = Trial("a", "train", np.eye(30, 1, -15, dtype=np.float32), {"z": np.zeros((30, 1), np.float32)})
    session = Session("s", 50.0, (trial, Trial("b", "test", trial.spikes, trial.spaces)))
    aligned = align(session, "z", np.array([0]), smooth=0.04, locked=False, least=1)
    rates = aligned.scale.back(aligned.y[0])
    assert rates.sum() == pytest.approx(1, abs=0.04)  # the floor adds a little
    assert rates.argmax() == 15
    assert rates[17] / rates[15] == pytest.approx(np.exp(-0.5), abs=0.01)  # 40 ms are two bins


@pytest.mark.skipif(not DATA.exists(), reason="no recordings beside the repository")
def test_reaching_tells_motor_cortex(tmp_path):
    import runpy
    import sys

    from ethoray import store
    from ethoray.probes._tracks import keypoints
    from ethoray.probes.neural import encode

    folder = Path(__file__).resolve().parents[2] / "datasets"
    sys.path.insert(0, str(folder))
    argv = ["neural_session.py", "--raw", str(DATA), "--out", "reach", "--root", str(tmp_path), "--size", "small"]
    before, sys.argv = sys.argv, argv
    try:
        runpy.run_path(str(folder / "neural_session.py"), run_name="__main__")
    finally:
        sys.argv = before
        sys.path.remove(str(folder))
    dataset = store.open(f"{tmp_path}/reach")
    scores = {s.name: s for s in encode(dataset, keypoints(dataset), Neural(models=("rrr",))).scores()}
    assert scores["neural_rrr/keypoints"].value > scores["neural_psth/none"].value
