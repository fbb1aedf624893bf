"""The contract every method keeps, to be inherited."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from typing import Literal
from unittest import SkipTest

import numpy as np
import torch
from torch import Tensor

from ethoray.batch import Batch, Spec, Windows, collate
from ethoray.learning import Budget, Encoder, Learner, Method, State
from ethoray.testing.toy import toy_batch, toy_recordings, toy_spec, toy_stream


class MethodContract:
    """What holds for every method; inherit, answer ``method``, and pytest finds the tests.

    Attributes
    ----------
    tolerance: absolute, for embeddings that are computed in another order.
    """

    tolerance: float = 1e-4

    def method(self) -> Method:
        """The method under test, small enough to train in seconds."""
        raise NotImplementedError

    def spec(self) -> Spec:
        """What it is built for: by default two toy mice and windows of eight seconds at 10 Hz, or pairs of images."""
        return toy_spec(needs=self.method().needs)

    def encoder(self) -> Encoder:
        """A fresh encoder in training state, its initial weights from the spec's seed."""
        torch.manual_seed(self.spec().seed)
        return self.method().build(self.spec())

    def fitted(self, steps: int = 2) -> Encoder:
        """A briefly trained encoder, ready to embed."""
        encoder = self.encoder()
        for _ in encoder.fit(toy_stream(self.spec()), Budget(steps=steps, device="cpu")):
            pass
        return encoder.eval()

    def learner(self) -> Learner:
        """The encoder when it learns by gradient descent; the test is skipped when it does not."""
        encoder = self.encoder()
        if not isinstance(encoder, Learner):
            raise SkipTest(f"{self.method().name} learns without gradients")
        encoder.train()
        with torch.no_grad():
            encoder.calibrate(toy_stream(self.spec()))
        return encoder

    def test_configuration_is_frozen_and_travels(self) -> None:
        """A sweep keeps methods in sets and sends them to workers; nobody may change one on the way."""
        method = self.method()
        parameters = getattr(method, "__dataclass_params__", None)
        assert parameters is not None and parameters.frozen, f"{type(method).__name__} is not a frozen dataclass"
        assert hash(pickle.loads(pickle.dumps(method))) == hash(method)
        assert pickle.loads(pickle.dumps(method)) == method

    def test_configuration_survives_json(self) -> None:
        """A run folder describes it in JSON and gives the same object back."""
        from ethoray import record
        from ethoray.experiment import Experiment

        experiment = Experiment(Windows("toy"), self.method(), ())
        assert record.from_json(json.loads(json.dumps(record.to_json(experiment)))) == experiment

    def test_presets_name_fields_that_exist(self) -> None:
        """Every preset builds the dataclass."""
        for preset in self.method().presets.values():
            assert hash(type(self.method())(**preset)) is not None

    def test_one_finite_vector_for_every_frame_and_individual(self) -> None:
        """Each space is float32 (batch, time, individual, feature); a space of the group has one individual."""
        batch = toy_batch(self.spec(), frames=50, windows=2)
        for space, z in self._embed(self.fitted(), batch).items():
            animals = batch.mask.shape[2]
            assert z.ndim == 4 and z.shape[:2] == batch.mask.shape[:2], f"{space}: {tuple(z.shape)}"
            assert z.shape[2] in (1, animals), f"{space}: {tuple(z.shape)}, neither one place nor one an animal"
            assert z.dtype == torch.float32 and bool(z.isfinite().all()), space

    def test_embedding_is_deterministic(self) -> None:
        """The same recording gives the same embedding, whatever the random state."""
        encoder, batch = self.fitted(), toy_batch(self.spec(), frames=50)
        first = self._embed(encoder, batch)
        torch.manual_seed(1234)
        again = self._embed(encoder, batch)
        assert all(torch.equal(first[space], again[space]) for space in first)

    def test_the_seed_decides_the_weights(self) -> None:
        """Two encoders of one seed are the same one."""
        first, second = self.encoder().state_dict(), self.encoder().state_dict()
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_a_gradient_reaches_every_parameter(self) -> None:
        """No part of the network is left out of the loss."""
        learner = self.learner()
        torch.manual_seed(0)
        learner.loss(toy_stream(self.spec())(0))["loss"].backward()
        trained = [(n, p) for n, p in learner.named_parameters() if p.requires_grad]
        dead = [n for n, p in trained if p.grad is None or not (p.grad != 0).any()]
        assert not dead, f"no gradient reaches {', '.join(dead)}"

    def test_the_loss_falls_on_one_batch(self) -> None:
        """Shown one batch again and again, it learns it."""
        self._learns(40)

    def test_it_learns_in_bfloat16(self) -> None:
        """Mixed precision keeps the loss finite and lets it fall; embeddings are float32 all the same."""
        encoder = self._learns(20, "bfloat16")
        for space, z in self._embed(encoder.eval(), toy_batch(self.spec(), frames=50)).items():
            assert z.dtype == torch.float32 and bool(z.isfinite().all()), space

    def test_any_number_of_individuals(self) -> None:
        """An encoder built for three animals embeds one, two or three of them; who is absent changes nothing."""
        if self.method().needs == "images":
            raise SkipTest(f"{self.method().name} learns from images, which hold everybody")
        spec = replace(self.spec(), individuals=3)
        with torch.random.fork_rng():
            torch.manual_seed(spec.seed)
            encoder = self.method().build(spec)
        for progress in encoder.fit(toy_stream(spec), Budget(steps=2, device="cpu")):
            assert all(np.isfinite(v) for v in progress.metrics.values()), progress.metrics
        three = toy_batch(spec, frames=50)
        for count in (1, 2):
            fewer = replace(three, keypoints=three.keypoints[:, :, :count], mask=three.mask[:, :, :count])
            absent = replace(three, mask=three.mask & (torch.arange(3) < count))
            alone, among = self._embed(encoder.eval(), fewer), self._embed(encoder, absent)
            for space, z in alone.items():
                assert bool(z.isfinite().all()), space
                self._agree(among[space][:, :, : z.shape[2]], z, f"space {space!r}, {count} of three animals")

    def test_windows_of_a_batch_do_not_meet(self) -> None:
        """Embedded together or alone, a recording's embedding is the same."""
        encoder, batch = self.fitted(), toy_batch(self.spec(), frames=50, windows=2)
        both = self._embed(encoder, batch)
        for row in range(2):
            for space, z in self._embed(encoder, batch.part(slice(row, row + 1))).items():
                self._agree(both[space][row : row + 1], z, f"space {space!r}, window {row}")

    def test_interrupted_equals_uninterrupted(self) -> None:
        """Resumed from the state of any pause, training ends with bit-identical weights."""
        budget, stream = Budget(steps=6, log_every=2, save_every=2, device="cpu"), toy_stream(self.spec())
        whole = self.encoder()
        states: list[State] = [p.state() for p in whole.fit(stream, budget)]
        for state in states:
            resumed = self.encoder()
            torch.manual_seed(4321)
            for _ in resumed.fit(stream, budget, state):
                pass
            wrong = [n for n, v in resumed.state_dict().items() if not torch.equal(v, whole.state_dict()[n])]
            assert not wrong, f"after resuming at step {int(state['step'])} these differ: {', '.join(wrong)}"

    def test_an_individual_that_is_never_seen_is_handled(self) -> None:
        """An animal whose keypoints are all missing embeds to finite numbers and does not spoil the loss."""
        stream = toy_stream(self.spec())

        def half_blind(step: int) -> Batch:
            batch = stream(step)
            batch.keypoints[:, :, -1] = torch.nan
            return batch

        encoder = self.encoder()
        for progress in encoder.fit(half_blind, Budget(steps=2, device="cpu")):
            assert all(np.isfinite(v) for v in progress.metrics.values()), progress.metrics
        embedded = self._embed(encoder.eval(), half_blind(3))
        assert all(bool(z.isfinite().all()) for z in embedded.values())

    def test_individuals_can_be_permuted(self) -> None:
        """Naming the animals in another order permutes their embeddings and changes nothing else."""
        encoder, batch = self.fitted(), toy_batch(self.spec(), frames=50)
        order = torch.arange(batch.mask.shape[2]).flip(0)
        turned = replace(batch, keypoints=batch.keypoints[:, :, order], mask=batch.mask[:, :, order])
        for space, z in self._embed(encoder, batch).items():
            expected = z[:, :, order] if z.shape[2] > 1 else z
            self._agree(self._embed(encoder, turned)[space], expected, f"space {space!r}, permuted")

    def test_chunks_with_context_equal_the_whole(self) -> None:
        """``past`` and ``future`` are enough context to embed a long recording in pieces."""
        encoder = self.fitted()
        assert encoder.past % encoder.hop == 0, f"past={encoder.past} is no multiple of hop={encoder.hop}"
        extra = -(-40 // encoder.hop) * encoder.hop
        batch = toy_batch(self.spec(), frames=encoder.past + encoder.future + 2 * extra)
        frames = batch.mask.shape[1]
        whole = self._embed(encoder, batch)
        late = self._embed(encoder, batch.part(slice(None), slice(extra, frames)))
        early = self._embed(encoder, batch.part(slice(None), slice(0, frames - extra)))
        for space, z in whole.items():
            first, last = extra + encoder.past, frames - extra - encoder.future
            self._agree(late[space][:, encoder.past :], z[:, first:], f"space {space!r}, past={encoder.past}")
            self._agree(early[space][:, :last], z[:, :last], f"space {space!r}, future={encoder.future}")

    def test_a_recording_shorter_than_a_window_works(self) -> None:
        """Padding is masked: training stays finite, and one frame alone can be embedded."""
        spec = self.spec()
        encoder, batches = self.encoder(), toy_stream(spec)
        if spec.picture is None:  # images are never padded
            short = [r.keypoints[: spec.frames // 2] for r in toy_recordings(4, 20.0, spec.fps, spec.individuals)]
            padded = collate(short, spec.frames, spec.individuals, spec.fps)
            batches = lambda _: padded  # noqa: E731
        for progress in encoder.fit(batches, Budget(steps=2, device="cpu")):
            assert all(np.isfinite(v) for v in progress.metrics.values()), progress.metrics
        for frames in (1, 7):
            for z in self._embed(encoder.eval(), toy_batch(spec, frames)).values():
                assert z.shape[1] == frames and bool(z.isfinite().all())

    def _learns(self, steps: int, precision: Literal["float32", "bfloat16"] = "float32") -> Learner:
        """A learner after so many steps on one batch; the loss over the same draws is below that after one step."""
        batch, learner, losses = toy_stream(self.spec())(0), self.learner(), []
        for count in (1, steps):
            learner = self.learner()
            for progress in learner.fit(lambda _: batch, Budget(count, 10, 50, "cpu", precision)):
                assert all(np.isfinite(v) for v in progress.metrics.values()), progress.metrics
            with torch.no_grad():
                losses.append(np.mean([self._drawn(learner.train(), batch, seed) for seed in range(4)]))
        assert losses[1] < losses[0], losses
        return learner

    def _drawn(self, learner: Learner, batch: Batch, seed: int) -> float:
        torch.manual_seed(seed)
        return float(learner.loss(batch)["loss"])

    def _embed(self, encoder: Encoder, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            return encoder.embed(batch)

    def _agree(self, left: Tensor, right: Tensor, what: str) -> None:
        worst = float((left - right).abs().max())
        assert worst <= self.tolerance, f"{what}: embeddings differ by {worst:.2g}"
