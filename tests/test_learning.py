import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from ethoray.batch import Batch, Spec
from ethoray.learning import Budget, Encoder, Learner, Method, TrainingError, step_seed
from ethoray.schema import Skeleton

SPEC = Spec(Skeleton(("a", "b")), 1, 2, 10.0, 8)


@dataclass(frozen=True)
class Noisy(Method):
    poison: int = -1
    clip_norm: float = math.inf

    def build(self, spec: Spec) -> Encoder:
        return NoisyEncoder(self, spec)


class NoisyEncoder(Learner):
    """Learns with dropout, so that a step depends on its random numbers."""

    def __init__(self, method: Noisy, spec: Spec) -> None:
        super().__init__()
        torch.manual_seed(spec.seed)
        self.seed, self.poison, self.clip_norm = spec.seed, method.poison, method.clip_norm
        self.net = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 4))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def calibrate(self, stream):
        self.scale.copy_(stream(0).keypoints.std())

    def loss(self, batch):
        x = batch.keypoints.flatten(3) / self.scale
        error = (self.net(x) - x).square().mean()
        if int(self.steps) == self.poison:
            error = error * torch.nan
        return {"loss": error, "scaled": error * 2}

    def rate(self, fraction):
        return 1.0 if fraction < 0.5 else 0.1

    def after_step(self, step):
        self.steps += 1

    def embed(self, batch):
        return {"z": self.net(batch.keypoints.flatten(3) / self.scale)}


def stream(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    return Batch(3 * torch.randn(2, 8, 1, 2, 2, generator=generator), torch.ones(2, 8, 1, dtype=torch.bool), 10.0)


def weights(encoder):
    return torch.cat([p.detach().flatten() for p in (*encoder.parameters(), *encoder.buffers())])


@pytest.mark.parametrize("stop", [3, 9, 27])
def test_interrupted_equals_uninterrupted_to_the_bit(stop):
    budget = Budget(steps=30, log_every=3, save_every=3)
    whole = Noisy().build(SPEC)
    for _ in whole.fit(stream, budget):
        torch.rand(5)  # what a caller draws between pauses does not matter
    first = Noisy().build(SPEC)
    for progress in first.fit(stream, budget):
        if progress.step == stop:
            state = progress.state()
            break
    second = Noisy().build(SPEC)
    assert [p.step for p in second.fit(stream, budget, state)] == list(range(stop + 3, 31, 3))
    assert torch.equal(weights(whole), weights(second))


def test_a_pause_reports_means_since_the_last_and_saves_when_asked():
    pauses = list(Noisy().build(SPEC).fit(stream, Budget(steps=25, log_every=4, save_every=10)))
    assert [p.step for p in pauses] == [4, 8, 12, 16, 20, 24, 25]
    assert [p.step for p in pauses if p.save] == [12, 20, 25]
    for p in pauses:
        assert p.metrics["scaled"] == pytest.approx(2 * p.metrics["loss"])
    assert pauses[0].seconds <= pauses[-1].seconds


def test_training_and_nothing_else_sets_the_weights():
    def trained(seed):
        encoder = Noisy().build(Spec(SPEC.skeleton, 1, 2, 10.0, 8, seed))
        list(encoder.fit(stream, Budget(steps=5)))
        return weights(encoder)

    assert torch.equal(trained(1), trained(1))
    assert not torch.equal(trained(1), trained(2))
    assert step_seed(0, 1) != step_seed(1, 0)


def test_a_loss_that_is_not_finite_stops_the_run():
    with pytest.raises(TrainingError, match="nan at step 8"):
        list(Noisy(poison=5).build(SPEC).fit(stream, Budget(steps=20, log_every=4)))


def test_a_checkpoint_of_another_encoder_is_refused():
    other = {"encoder/weight": torch.zeros(3), "step": torch.tensor(1)}
    with pytest.raises(TrainingError, match="does not fit NoisyEncoder"):
        list(Noisy().build(SPEC).fit(stream, Budget(steps=2), other))


def test_asking_for_a_gpu_that_is_not_there_is_an_error():
    if torch.cuda.is_available():
        assert Budget(device="cuda").torch_device().type == "cuda"
    else:
        with pytest.raises(TrainingError, match="no GPU"):
            Budget(device="cuda").torch_device()
    with pytest.raises(ValueError, match="steps must be at least 1"):
        Budget(steps=0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"precision": "float16"}, "precision is float32 or bfloat16, not 'float16'"),
        ({"log_every": 0}, "log_every must be at least 1"),
        ({"save_every": -1}, "save_every must be at least 1"),
    ],
)
def test_a_budget_that_cannot_be_spent_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Budget(**wrong)


class Compiled(nn.Module):
    """Stands for what torch.compile answers with: another module around the one it is given."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._orig_mod, self.calls = module, 0

    def forward(self, batch):
        self.calls += 1
        return self._orig_mod(batch)


@pytest.fixture
def compiled(monkeypatch):
    """Every module that is handed to torch.compile, in order."""
    made: list[Compiled] = []

    def compile(module):
        made.append(Compiled(module))
        return made[-1]

    monkeypatch.setattr(torch, "compile", compile)
    return made


def test_the_loss_is_compiled_only_when_asked_for(compiled):
    list(Noisy().build(SPEC).fit(stream, Budget(steps=3)))
    assert compiled == []
    list(Noisy().build(SPEC).fit(stream, Budget(steps=3, compile=True)))
    assert [module.calls for module in compiled] == [3]


def test_a_compiled_run_leaves_a_state_that_any_run_goes_on_from(compiled):
    plain, budget = Budget(steps=12, log_every=3, save_every=3), {"steps": 12, "log_every": 3, "save_every": 3}
    whole, first = Noisy().build(SPEC), Noisy().build(SPEC)
    states = [p.state() for p in whole.fit(stream, plain)]
    half = next(p.state() for p in first.fit(stream, Budget(**budget, compile=True)) if p.step == 6)
    assert half.keys() == states[1].keys() and all(torch.equal(half[k], states[1][k]) for k in half)
    for then in (plain, Budget(**budget, compile=True)):
        second = Noisy().build(SPEC)
        list(second.fit(stream, then, half))
        assert torch.equal(weights(whole), weights(second))


def test_monitors_are_looked_at_where_a_checkpoint_is_due_and_nowhere_else():
    pauses = list(Noisy().build(SPEC).fit(stream, Budget(steps=25, log_every=4, save_every=10)))
    assert all(p.metrics["gradient_norm"] > 0 for p in pauses)
    watched = {p.step: {name for name in p.metrics if name.startswith("monitor/")} for p in pauses}
    assert {step for step, names in watched.items() if names} == {12, 20, 25}
    assert watched[12] == {"monitor/z/deviation", "monitor/z/rank"}
    last = pauses[-1].metrics
    assert last["monitor/z/deviation"] > 0 and 1 <= last["monitor/z/rank"] <= 4


def test_looking_at_monitors_changes_nothing():
    often, seldom = Noisy().build(SPEC), Noisy().build(SPEC)
    list(often.fit(stream, Budget(steps=8, log_every=1, save_every=1)))
    list(seldom.fit(stream, Budget(steps=8, log_every=8, save_every=8)))
    assert torch.equal(weights(often), weights(seldom))


def test_monitors_are_looked_at_without_dropout_or_gradients():
    encoder, modes = Noisy().build(SPEC), []

    def watch(batch):
        modes.append((encoder.training, torch.is_grad_enabled()))
        return {"monitor/one": torch.ones(())}

    encoder.watch = watch
    for progress in encoder.fit(stream, Budget(steps=4, log_every=2, save_every=2)):
        assert progress.metrics["monitor/one"] == 1 and encoder.training
    assert modes == [(False, False)] * 2 and not encoder.training


def test_a_gradient_is_bounded_and_its_norm_reported_as_it_was():
    def first_step(bound):
        encoder = Noisy(clip_norm=bound).build(SPEC)
        encoder.optimiser = lambda groups: torch.optim.SGD(groups)
        encoder.calibrate(stream)
        before = weights(encoder.net)
        (pause,) = encoder.fit(stream, Budget(steps=1))
        return float((weights(encoder.net) - before).norm()) / encoder.lr, pause.metrics["gradient_norm"]

    free, norm = first_step(math.inf)
    assert free == pytest.approx(norm, rel=1e-3)
    bound, reported = first_step(norm / 10)
    assert bound == pytest.approx(norm / 10, rel=1e-3) and reported == norm
    loose, _ = first_step(norm * 10)
    assert loose == pytest.approx(norm, rel=1e-3)


def test_a_loss_that_is_not_finite_stops_the_run_before_a_checkpoint_of_it():
    pauses = Noisy(poison=7).build(SPEC).fit(stream, Budget(steps=20, log_every=4, save_every=4))
    assert next(pauses).save
    with pytest.raises(TrainingError, match="nan at step 8"):
        next(pauses)


def test_mixed_precision_computes_in_half_and_learns_in_single():
    encoder, kinds = Noisy().build(SPEC), set()
    encoder.net[0].register_forward_hook(lambda module, inputs, output: kinds.add(output.dtype))
    (pause,) = encoder.fit(stream, Budget(steps=2, precision="bfloat16", device="cpu"))
    assert kinds == {torch.bfloat16} and math.isfinite(pause.metrics["loss"])
    assert all(p.dtype == torch.float32 for p in encoder.parameters())
    assert {v.dtype for k, v in pause.state().items() if k.startswith("optimiser/")} == {torch.float32}
