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

    def build(self, spec: Spec) -> Encoder:
        return NoisyEncoder(self, spec)


class NoisyEncoder(Learner):
    """Learns with dropout, so that a step depends on its random numbers."""

    def __init__(self, method: Noisy, spec: Spec) -> None:
        super().__init__()
        torch.manual_seed(spec.seed)
        self.seed, self.poison = spec.seed, method.poison
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
