"""Candidates that train together end as if each had trained alone, whatever befalls the others."""

import json
import pickle
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from ethoray import cohort, record, store
from ethoray.batch import Batch, Windows
from ethoray.budget import Budget
from ethoray.cohort.alike import built
from ethoray.cohort.lockstep import faster, fit_stacked
from ethoray.cohort.sharing import Memory, SharedFeatures, SharedStream, share_dataset, share_features
from ethoray.cohort.stacking import Stack, StackError
from ethoray.experiment import Experiment, run
from ethoray.learning import Learner, Method
from ethoray.methods.bams import BAMS
from ethoray.methods.pointnet import PointNet
from ethoray.methods.ts2vec import TS2Vec
from ethoray.methods.vqvame import VQVAME
from ethoray.probes.linear import Linear
from ethoray.stream import open_stream
from ethoray.testing import toy_spec, toy_stream

TINY = BAMS(
    features="generic", short_channels=(4, 4), long_channels=(4, 4), head=(8,), horizon=0.2, warmup=0.2, alone=0.5,
    anchor_stride=3, pairs=2, dropout=0.1,
)  # fmt: skip
"""Dropout and random anchors, so that random streams matter."""

JUDGED = (Linear(),)
CLOUDS = PointNet(anchors=4, nearest=0.5, farthest=1.0)


@dataclass(frozen=True)
class Affine(Method):
    """A linear map of the first keypoint, pulled two ways; the weight of one and the size of noise are numbers."""

    pull: float = 1.0
    noise: float = 0.1
    lr: float = 1e-2
    weight_decay: float = 0.0
    width: int = 3
    steep: float = 1.0

    def build(self, spec):
        return AffineEncoder(self, spec)


class AffineEncoder(Learner):
    def __init__(self, method, spec):
        super().__init__()
        self.method, self.spec, self.seed = method, spec, spec.seed
        self.lr, self.weight_decay, self.clip_norm = method.lr, method.weight_decay, 1.0
        self.steep = method.steep
        self.layer = nn.Sequential(nn.Linear(2, method.width), nn.Tanh(), nn.Linear(method.width, 2))
        self.register_buffer("seen", torch.zeros(()))

    def loss(self, batch: Batch):
        points = batch.keypoints[:, :, 0, 0].nan_to_num(0.0) / 100
        z = self.layer(points + self.method.noise * torch.randn(points.shape))
        self.seen += 1
        near, small = (z - points).square().mean(), z.square().mean()
        return {"loss": self.steep * near + self.method.pull * small, "near": near}

    def embed(self, batch: Batch):
        return {"affine": self.layer(batch.keypoints[..., 0, :].nan_to_num(0.0) / 100)}


def learners(methods, seconds=4.0):
    spec = toy_spec(seconds=seconds)
    made = []
    for method in methods:
        torch.manual_seed(spec.seed)
        made.append(method.build(spec))
    return made, toy_stream(spec)


def trials(toy, folder, methods, seeds=(0,), steps=5, probes=JUDGED, seconds=4.0):
    data, budget = Windows(toy.uri, seconds=seconds, batch_size=2), Budget(steps, 2, 4, device="cpu")
    experiments = [Experiment(data, method, probes, budget, seed) for seed in seeds for method in methods]
    return [(e, folder / str(i)) for i, e in enumerate(experiments)]


def states(folder):
    return record.load_state(folder)


def lines(folder):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in record.read_metrics(folder)]


def assert_as_alone(together, alone, tolerance=0.0):
    for (_, mine), (_, other) in zip(together, alone, strict=True):
        left, right = states(mine), states(other)
        assert left.keys() == right.keys()
        for name, value in left.items():
            apart = (value.double() - right[name].double()).abs().max() if value.numel() else 0
            assert apart <= tolerance, f"{mine.name} {name}: {float(apart):.2g}"
        for line, expected in zip(lines(mine), lines(other), strict=True):
            assert line == pytest.approx(expected, rel=10 * tolerance, abs=10 * tolerance, nan_ok=True)


@pytest.mark.parametrize(
    "methods",
    [
        (replace(TINY, alpha=0.15), replace(TINY, alpha=4.0, lr=1e-2), replace(TINY, weight_decay=0.1)),
        (TS2Vec(features="generic", hidden=4, outputs=4, depth=2), TS2Vec(features="generic", hidden=4, outputs=4,
         depth=2, dropout=0.3, lr=1e-2)),
        tuple(replace(VQVAME(**{**VQVAME.presets["small"], "hidden": 8, "groups": 2, "variables": 4, "crops": 2}),
                      gamma=gamma) for gamma in (0.25, 1.0)),
        (CLOUDS, replace(CLOUDS, lr=1e-3)),
    ],
    ids=["bams", "ts2vec", "vqvame", "pointnet"],
)  # fmt: skip
def test_taking_turns_gives_the_bits_of_training_alone(toy, tmp_path, methods):
    seeds = (0, 1) if methods[0] is CLOUDS else (0,)
    together, alone = (trials(toy, tmp_path / name, methods, seeds) for name in ("together", "alone"))
    outcomes = cohort.train(together, way="shared")
    scores = [run(e, f) for e, f in alone]
    assert [o.scores for o in outcomes] == scores
    assert [o.way for o in outcomes] == ["shared"] * len(together)
    assert_as_alone(together, alone)
    for (_, mine), (_, other) in zip(together, alone, strict=True):
        assert {p.name for p in mine.iterdir()} == {p.name for p in other.iterdir()}
        left, right = (json.loads((f / "scores.json").read_text()) for f in (mine, other))
        assert right["cost"].keys() - left["cost"].keys() == {"peak_mb"}  # that of the process is not its own
        assert {**left, "cost": 0, "finished": 0} == {**right, "cost": 0, "finished": 0}
        assert json.loads((mine / "experiment.json").read_text()) == json.loads((other / "experiment.json").read_text())


@pytest.mark.parametrize(
    "methods",
    [
        (Affine(), Affine(pull=0.0, lr=1e-3), Affine(noise=1.0, weight_decay=0.1), Affine(steep=3)),
        (CLOUDS, replace(CLOUDS, lr=1e-3, clip=1.0)),
        (replace(TINY, alpha=0.15), replace(TINY, alpha=4.0, lr=1e-2), replace(TINY, weight_decay=0.1)),
        (replace(TINY, teacher_momentum=0.9), replace(TINY, teacher_momentum=0.5)),
    ],
    ids=["mlp", "pointnet", "bams", "teachers"],
)  # fmt: skip
def test_stacked_learners_follow_those_alone(methods):
    budget = Budget(12, 3, 6, device="cpu")
    stacked, stream = learners(methods)
    alone, _ = learners(methods)
    expected = [list(x.fit(stream, budget)) for x in alone]
    ends = [x.state_dict() for x in alone]
    told = list(fit_stacked(Stack(stacked), stream, budget, [None] * len(stacked)))
    for pause, entries in enumerate(told):
        for index, progress in enumerate(entries):
            assert progress.metrics == pytest.approx(dict(expected[index][pause].metrics), rel=1e-3, abs=1e-4)
            assert (progress.step, progress.save) == (expected[index][pause].step, expected[index][pause].save)
    for learner, end in zip(stacked, ends, strict=True):
        for name, value in learner.state_dict().items():
            torch.testing.assert_close(value, end[name], rtol=1e-3, atol=1e-4, msg=name)
    assert len({float(p.metrics["loss"]) for p in told[-1]}) == len(stacked)


class Killed(BaseException):
    """What kill -9 is to a test."""


def killed_at(step):
    def log(index, progress):
        if index == 1 and progress.step == step:
            raise Killed

    return log


def test_a_killed_cohort_goes_on_to_the_same_bits(toy, tmp_path):
    methods = (Affine(), Affine(pull=0.0, lr=1e-3))
    together, alone = (trials(toy, tmp_path / n, methods, (0, 1), steps=8, probes=()) for n in ("together", "alone"))
    for step in (4, 6):  # at a checkpoint, and after a pause whose lines must be forgotten
        with pytest.raises(Killed):
            cohort.train(together, way="shared", log=killed_at(step))
    cohort.train(together, way="shared")
    for experiment, folder in alone:
        run(experiment, folder)
    assert_as_alone(together, alone)
    again = cohort.train(together)
    assert [o.way for o in again] == ["finished"] * 4 and all(o.scores == {} for o in again)


@pytest.mark.parametrize(
    "methods",
    [(Affine(), Affine(pull=0.0, lr=1e-3)), (replace(TINY, alpha=0.15), replace(TINY, alpha=4.0))],
    ids=["mlp", "bams"],
)
def test_a_killed_stack_goes_on_to_the_same_weights(toy, tmp_path, methods):
    together, alone = (trials(toy, tmp_path / n, methods, steps=8, probes=()) for n in ("together", "alone"))
    with pytest.raises(Killed):
        cohort.train(together, way="stacked", log=killed_at(6))
    saved = [int(states(folder)["step"]) for _, folder in together]
    assert saved == [4, 4]
    assert [o.way for o in cohort.train(together, way="stacked")] == ["stacked"] * 2
    for experiment, folder in alone:
        run(experiment, folder)
    assert_as_alone(together, alone, tolerance=1e-5)


@pytest.mark.parametrize("way", ["shared", "stacked"])
def test_a_candidate_that_fails_stops_nobody(toy, tmp_path, way):
    methods = (Affine(), Affine(pull=float("nan")), Affine(pull=0.5))
    together = trials(toy, tmp_path / "together", methods, probes=())
    outcomes = cohort.train(together, way=way)
    assert [o.error is None for o in outcomes] == [True, False, True]
    assert "the loss is nan at step 2" in str(outcomes[1].error)
    assert "the loss is nan" in json.loads((together[1][1] / "failure.json").read_text())["error"]
    assert record.finished(together[1][1]) is None and not (together[0][1] / "failure.json").exists()
    alone = trials(toy, tmp_path / "alone", (methods[0], methods[2]), probes=())
    for experiment, folder in alone:
        run(experiment, folder)
    assert_as_alone([together[0], together[2]], alone, tolerance=0.0 if way == "shared" else 1e-5)


def test_what_a_log_raises_ends_one_candidate(toy, tmp_path):
    def log(index, progress):
        if index == 0 and progress.step == 4:
            raise ValueError("enough of this one")

    together = trials(toy, tmp_path, (Affine(), Affine(pull=0.5)), probes=())
    first, second = cohort.train(together, log=log)
    assert str(first.error) == "enough of this one" and second.scores == {}


def test_a_candidate_that_cannot_be_built_fails_alone(toy, tmp_path):
    good, bad = TS2Vec(features="generic", hidden=4, outputs=4, depth=1), BAMS(warmup=100.0)
    (outcome,) = cohort.train(trials(toy, tmp_path / "bad", (bad,)))
    assert "leave nothing to predict" in str(outcome.error)
    assert "leave nothing" in json.loads((tmp_path / "bad" / "0" / "failure.json").read_text())["error"]
    assert cohort.together([e for e, _ in trials(toy, tmp_path, (good, replace(good, lr=1.0), good))]) == [[0, 1, 2]]
    assert cohort.together([e for e, _ in trials(toy, tmp_path, (good, bad, good, bad))]) == [[0, 2], [1], [3]]


def test_what_cannot_be_a_cohort_is_refused_in_a_sentence(toy, tmp_path):
    def refused(*methods, **changes):
        made = trials(toy, tmp_path, methods)
        made[-1] = (replace(made[-1][0], **changes), made[-1][1])
        with pytest.raises(cohort.CohortError) as told:
            cohort.train(made)
        assert not any(tmp_path.iterdir())
        return str(told.value)

    wider = refused(Affine(), Affine(width=4))
    assert "candidate 1 (width=4 instead of 3)" in wider and "layer.0.bias is (4,) there and (3,) here" in wider
    assert "predictors" in refused(TINY, replace(TINY, alpha=0.0))
    assert "candidate 1 is bams, candidate 0 is ts2vec" in refused(TS2Vec(), TINY)
    assert "steps=7 instead of 5" in refused(Affine(), Affine(), budget=Budget(7, 2, 4, device="cpu"))
    assert "seconds=2.0 instead of 4.0" in refused(Affine(), Affine(), data=Windows(toy.uri, 2.0, 2))
    with pytest.raises(cohort.CohortError, match="one run folder"):
        cohort.train([(trials(toy, tmp_path, (Affine(),))[0][0], tmp_path)] * 2)
    with pytest.raises(cohort.CohortError, match="auto, shared and stacked"):
        cohort.train([], way="pooled")
    assert cohort.train([]) == []


def test_experiments_are_sorted_into_cohorts(toy, tmp_path):
    methods = (TINY, replace(TINY, alpha=0.0), replace(TINY, alpha=1.0, lr=0.1), TS2Vec(hidden=4, outputs=4, depth=1))
    experiments = [e for e, _ in trials(toy, tmp_path, methods, seeds=(0, 1))]
    assert cohort.together(experiments) == [[0, 2, 4, 6], [1, 5], [3, 7]]


def branching(self, batch):
    z = self.layer(batch.keypoints[:, :, 0, 0].nan_to_num(0.0) / 100)
    return {"loss": z.square().mean() if float(z.mean()) > 0 else z.abs().mean()}


def test_methods_that_cannot_be_stacked_say_why(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(AffineEncoder, "loss", branching)
    made, stream = learners((Affine(), Affine(lr=1e-3)))
    with pytest.raises(StackError, match="AffineEncoder cannot be one program"):
        faster(Stack(made), stream, Budget(5, device="cpu"), 0)
    with pytest.raises(cohort.CohortError, match=r"cannot be stacked: .* train them with way='shared'"):
        cohort.train(trials(toy, tmp_path, (Affine(), Affine(lr=1e-3)), probes=()), way="stacked")
    made, _ = learners((TINY, replace(TINY, features="auto", targets=())))
    with pytest.raises(StackError, match=r"differ in (method\.)?features, which is no number"):
        Stack(made)


def test_buffers_that_no_step_writes_are_not_stacked():
    made, stream = learners((TINY, replace(TINY, alpha=2.0)))
    for learner in made:
        learner.calibrate(stream)
    stack = Stack(made)
    stack.join(stream(0))
    assert not stack.buffers and made[0].edges.data_ptr() != made[1].edges.data_ptr()
    stack.check()
    made[1].edges += 1
    with pytest.raises(StackError, match="edges of learner 1 has changed"):
        stack.check()
    made[1].edges.copy_(made[0].edges)
    stack.join(stream(0))
    made[0].edges = made[0].edges.clone()
    with pytest.raises(StackError, match="edges of learner 0 has changed"):
        stack.check()
    made[1].edges += 1
    stack.join(stream(0))  # what differs is stacked
    assert stack.buffers.keys() == {"edges"}
    made, stream = learners((Affine(), Affine(pull=0.5)))
    stack = Stack(made)
    stack.join(stream(0))
    assert stack.buffers.keys() == {"seen"} and float(made[0].seen) == 0  # its loss counts in it


def test_a_buffer_that_changes_late_ends_the_stack_and_nothing_else(toy, tmp_path, monkeypatch):
    def after_step(self, step):
        if step >= 5:
            self.late += 1

    monkeypatch.setattr(AffineEncoder, "after_step", after_step)
    start = AffineEncoder.__init__

    def with_late(self, *given):
        start(self, *given)
        self.register_buffer("late", torch.zeros(()))

    monkeypatch.setattr(AffineEncoder, "__init__", with_late)
    methods = (Affine(), Affine(pull=0.0))
    together, alone = (trials(toy, tmp_path / n, methods, steps=8, probes=()) for n in ("together", "alone"))
    assert [o.way for o in cohort.train(together, way="stacked")] == ["shared", "shared"]
    for experiment, folder in alone:
        run(experiment, folder)
    assert_as_alone(together, alone, tolerance=1e-5)
    assert float(states(together[0][1])["encoder/late"]) == 3


def test_long_steps_are_not_tried_in_a_stack(toy, tmp_path, monkeypatch):
    made, stream = learners((Affine(), Affine(pull=0.5)))
    joined = Stack.join
    monkeypatch.setattr(
        Stack, "join", lambda self, batch: joined(self, batch) if len(batch.mask) < 4 else pytest.fail()
    )
    assert not faster(Stack(made), stream, Budget(5, device="cpu"), 0, long=0.0)
    monkeypatch.setattr(AffineEncoder, "loss", branching)
    with pytest.raises(StackError, match="AffineEncoder cannot be one program"):
        faster(Stack(made), stream, Budget(5, device="cpu"), 0, long=0.0)


@pytest.mark.parametrize("bad", [0, 1])
def test_a_loss_that_raises_while_a_stack_is_tried_is_one_candidates(toy, tmp_path, monkeypatch, bad):
    whole = AffineEncoder.loss

    def raises(self, batch):
        if self.method.pull == 0.5:
            raise KeyError("no pull")
        return whole(self, batch)

    monkeypatch.setattr(AffineEncoder, "loss", raises)
    monkeypatch.setattr(cohort, "_TRY_STEPS", 1)
    methods = [Affine(), Affine(pull=0.0), Affine(pull=2.0)]
    methods[bad] = Affine(pull=0.5)
    outcomes = cohort.train(trials(toy, tmp_path, methods, steps=2, probes=()))
    assert [o.error is None for o in outcomes] == [i != bad for i in range(3)]
    assert "no pull" in json.loads((tmp_path / str(bad) / "failure.json").read_text())["error"]


@pytest.mark.parametrize("quick", [True, False])
def test_stacking_is_taken_where_a_trial_says_it_is_faster(toy, tmp_path, monkeypatch, quick):
    monkeypatch.setattr(cohort, "faster", lambda *_: quick)
    made = trials(toy, tmp_path, (Affine(), Affine(pull=0.5)), steps=2, probes=())
    assert [o.way for o in cohort.train(made)] == ["shared"] * 2  # two steps are too few for a trial
    monkeypatch.setattr(cohort, "_TRY_STEPS", 1)
    made = trials(toy, tmp_path / "more", (Affine(), Affine(pull=0.5)), steps=2, probes=())
    assert [o.way for o in cohort.train(made)] == ["stacked" if quick else "shared"] * 2


def test_a_loss_that_is_not_the_same_when_stacked_is_refused(monkeypatch):
    made, stream = learners((Affine(), Affine(lr=1e-3)))
    assert isinstance(faster(Stack(made), stream, Budget(5, device="cpu"), 0), bool)
    whole = AffineEncoder.loss

    def differs(self, batch):
        terms = whole(self, batch)
        stacked = torch._C._are_functorch_transforms_active()
        return {"loss": terms["loss"] * (1.01 if stacked else 1.0)}

    monkeypatch.setattr(AffineEncoder, "loss", differs)
    with pytest.raises(StackError, match="the loss differs by"):
        faster(Stack(made), stream, Budget(5, device="cpu"), 0)


def test_a_trial_of_stacking_leaves_no_trace():
    made, stream = learners((Affine(), Affine(pull=3.0)))
    before = [{n: v.clone() for n, v in x.state_dict().items()} for x in made]
    drawn = torch.get_rng_state()
    faster(Stack(made), stream, Budget(5, device="cpu"), 0)
    assert torch.equal(drawn, torch.get_rng_state())
    assert all(torch.equal(v, x.state_dict()[n]) for x, b in zip(made, before, strict=True) for n, v in b.items())
    assert all(p.grad is None for x in made for p in x.parameters())


def test_a_stack_that_breaks_on_the_way_goes_on_by_turns(toy, tmp_path, monkeypatch):
    step, count = Stack.step, []

    def breaks(self, batch, mixed):
        count.append(1)
        if len(count) == 9:
            raise RuntimeError("data-dependent")
        return step(self, batch, mixed)

    monkeypatch.setattr(Stack, "step", breaks)
    methods = (Affine(), Affine(pull=0.0))
    together = trials(toy, tmp_path / "together", methods, steps=8, probes=())
    assert [o.way for o in cohort.train(together, way="stacked")] == ["shared", "shared"]
    assert [len(lines(folder)) for _, folder in together] == [4, 4]
    alone = trials(toy, tmp_path / "alone", methods, steps=8, probes=())
    for experiment, folder in alone:
        run(experiment, folder)
    assert_as_alone(together, alone, tolerance=1e-5)


def test_what_is_shared_is_computed_once_and_not_spoilt(toy):
    (first, second), stream = learners((TINY, replace(TINY, alpha=2.0)))
    expected, calls = first.features(stream(0)), []
    own = type(first.features).__call__
    memory = Memory(1 << 24)

    class Counted(type(first.features)):
        def __call__(self, batch):
            calls.append(1)
            return own(self, batch)

    first.features.__class__ = second.features.__class__ = Counted
    name = b"the same"
    shared = [SharedFeatures(x.features, name, memory) for x in (first, second)]
    for features in shared:
        assert torch.equal(features(stream(0)).inputs, expected.inputs) and features.width == first.features.width
    assert len(calls) == 1
    shared[0](stream(1))
    assert len(calls) == 2
    shared[0](stream(0)).inputs.zero_()  # whoever writes to it does so for itself alone
    assert torch.equal(shared[1](stream(0)).inputs, expected.inputs) and len(calls) == 3
    memory.forget()
    shared[1](stream(0))
    assert len(calls) == 4


def test_memory_has_a_bound_and_keeps_what_came_first():
    memory, made = Memory(100), []

    def make(size):
        made.append(size)
        return torch.zeros(size).numpy()

    for key, size in (("a", 20), ("b", 20), ("a", 20), ("b", 20)):
        memory.get(key, lambda size=size: make(size))
    assert made == [20, 20, 20]


def test_a_shared_dataset_is_the_dataset(toy):
    shared = share_dataset(toy, Memory(1 << 24))
    entry = toy.entries[0]
    for _ in range(2):
        points, labels = shared.keypoints(entry, 5, 90), shared.labels(entry)
        assert (points == toy.keypoints(entry, 5, 90)).sum() == (points == points).sum()
        assert labels.keys() == toy.labels(entry).keys()
        points[:], labels["running"][:] = 0, 7  # the caller's own
    assert shared.key == toy.key and (shared.labels(entry)["running"] <= 1).all()


def test_batches_of_a_stream_and_features_of_an_encoder_are_shared(toy):
    data = Windows(toy.uri, seconds=4.0, batch_size=2)
    stream = SharedStream(open_stream(data, store.open(toy.uri), 0), Memory(1 << 24))
    assert stream(3) is stream(3)
    encoder = built(Experiment(data, TINY, ()), toy)
    own = encoder.features
    share_features(encoder, Memory(1 << 20))
    assert isinstance(encoder.features, SharedFeatures) and type(pickle.loads(pickle.dumps(encoder.features))) is type(
        own
    )
