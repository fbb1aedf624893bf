"""Toy recordings whose labels show in movement, and the contract every method keeps, to be inherited.

A package with a method of its own tests it in three lines::

    class TestSmallest(MethodContract):
        def method(self):
            return Smallest()
"""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import SkipTest

import numpy as np
import torch
from torch import Tensor

from ethoray import geometry, store
from ethoray.batch import Batch, Plan, Spec, Stream, Windows, collate
from ethoray.learning import Budget, Encoder, Learner, Method, State
from ethoray.schema import Card, Recording, Skeleton, Task

TOY_SKELETON = Skeleton(geometry.MOUSE_KEYPOINTS, front="nose", back="tail_base")
"""The 12-keypoint mouse, so that every feature set applies."""

_BODY = np.array(
    [(40, 0), (28, 10), (28, -10), (24, 0), (20, 9), (20, -9), (0, 0), (-18, 11), (-18, -11), (-28, 0),
     (-50, 0), (-72, 0)],
    dtype=np.float64,
)  # fmt: skip
_STEPPING = np.isin(geometry.MOUSE_KEYPOINTS, [k for k in geometry.MOUSE_KEYPOINTS if "paw" in k])


def toy_card(fps: float = 30.0) -> Card:
    """Two binary tasks: "running" at every frame and "lively" for the whole recording."""
    return Card(
        name="toy",
        species="toy mouse",
        fps=fps,
        skeleton=TOY_SKELETON,
        tasks=(Task("running"), Task("lively", level="recording")),
        licence="CC0-1.0",
        simulated=True,
        description="Mice that run in bouts along smooth paths; lively groups run twice as fast and turn more.",
    )


def toy_recordings(
    recordings: int = 6, seconds: float = 20.0, fps: float = 30.0, individuals: int = 2,
    *, seed: int = 0, missing: float = 0.02, ragged: bool = False
) -> list[Recording]:  # fmt: skip
    """Recordings of as many subjects; every third is "test", every other is lively.

    ``missing`` is the share of keypoints that tracking lost. Ragged recordings differ in length, down to half.
    """
    made = []
    for index in range(recordings):
        rng = np.random.default_rng((seed, index))
        share = 1 - 0.5 * (index % 4) / 3 if ragged else 1.0
        frames = max(2, round(seconds * fps * share))
        lively = index % 2
        running = np.stack([_bouts(rng, frames, fps) for _ in range(individuals)], 1)
        keypoints = _track(rng, running, fps, lively)
        keypoints[rng.random(keypoints.shape[:3]) < missing] = np.nan
        made.append(
            Recording(
                name=f"toy_{index:03d}",
                subject=f"group_{index:03d}",
                fps=fps,
                skeleton=TOY_SKELETON,
                keypoints=keypoints.astype(np.float32),
                split="test" if index % 3 == 2 else "train",
                labels={"running": np.asarray(running.any(1), dtype=np.float32), "lively": float(lively)},
            )
        )
    return made


def toy_dataset(root: str | Path, *, clip_seconds: float = 8.0, **shape: Any) -> store.Dataset:
    """``toy_recordings(**shape)`` prepared at ``root``; clips are short, so that windows span several."""
    made = toy_recordings(**shape)
    return store.prepare(toy_card(made[0].fps), made, root, clip_seconds=clip_seconds)


def toy_spec(seconds: float = 8.0, fps: float = 10.0, individuals: int = 2, seed: int = 0) -> Spec:
    """What a method is told about the toy stream."""
    return Spec(TOY_SKELETON, individuals, 2, fps, Windows("toy", seconds).frames(fps), seed)


def toy_stream(spec: Spec, batch_size: int = 4) -> Stream:
    """Batches of toy windows, a pure function of the step."""
    tracks = [r.keypoints for r in toy_recordings(4, 3 * spec.frames / spec.fps, spec.fps, spec.individuals)]
    plan = Plan([len(track) for track in tracks], spec.frames, batch_size, spec.seed)

    def batch(step: int) -> Batch:
        windows = [tracks[recording][first : first + spec.frames] for recording, first in plan.rows(step)]
        return collate(windows, spec.frames, spec.individuals, spec.fps)

    return batch


def toy_batch(spec: Spec, frames: int, windows: int = 1, seed: int = 1) -> Batch:
    """Whole toy recordings of ``frames`` frames as one batch."""
    made = toy_recordings(windows, frames / spec.fps, spec.fps, spec.individuals, seed=seed)
    return collate([r.keypoints[:frames] for r in made], frames, spec.individuals, spec.fps)


def _bouts(rng: np.random.Generator, frames: int, fps: float) -> np.ndarray:
    """Bool (time,): running bouts of about a second and a half, with rests of twice that."""
    period, phase = rng.uniform(3.5, 5.5), rng.uniform(0, 1)
    return (np.arange(frames) / fps / period + phase) % 1 < 0.35


def _track(rng: np.random.Generator, running: np.ndarray, fps: float, lively: int) -> np.ndarray:
    """Keypoints (time, individual, keypoint, 2) in pixels of animals that run when told to."""
    frames, animals = running.shape
    speed = np.where(running, 120.0 * (1 + lively), 4.0) / fps
    turning = rng.normal(0.0, 0.4 + 0.8 * lively, (frames, animals)) / np.sqrt(fps)
    heading = np.cumsum(turning, 0) + rng.uniform(0, 2 * np.pi, animals)
    path = np.cumsum(speed[..., None] * np.stack([np.cos(heading), np.sin(heading)], -1), 0)
    path += rng.uniform(200, 600, (animals, 2))
    gait = 8.0 * np.sin(np.cumsum(speed, 0) / 15.0)[..., None] * _STEPPING * (-1.0) ** np.arange(len(_BODY))
    body = np.broadcast_to(_BODY, (frames, animals, *_BODY.shape)).copy()
    body[..., 0] += gait
    return np.asarray(geometry.rotate(body, heading) + path[:, :, None] + rng.normal(0, 0.3, body.shape))


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
        """What it is built for: by default two toy mice and windows of eight seconds at 10 Hz."""
        return toy_spec()

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
        """Each space is float32 (batch, time, individual, feature)."""
        batch = toy_batch(self.spec(), frames=50, windows=2)
        for space, z in self._embed(self.fitted(), batch).items():
            assert z.shape[:3] == batch.mask.shape and z.ndim == 4, f"{space}: {tuple(z.shape)}"
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
        dead = [n for n, p in learner.named_parameters() if p.grad is None or not (p.grad != 0).any()]
        assert not dead, f"no gradient reaches {', '.join(dead)}"

    def test_the_loss_falls_on_one_batch(self) -> None:
        """Shown one batch again and again, it learns it."""
        learner = self.learner()
        batch = toy_stream(self.spec())(0)
        losses = [p.metrics["loss"] for p in learner.fit(lambda _: batch, Budget(40, 5, 50, "cpu"))]
        assert losses[-1] < losses[0], losses

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
            self._agree(self._embed(encoder, turned)[space], z[:, :, order], f"space {space!r}, permuted")

    def test_chunks_with_context_equal_the_whole(self) -> None:
        """``past`` and ``future`` are enough context to embed a long recording in pieces."""
        encoder, extra = self.fitted(), 40
        batch = toy_batch(self.spec(), frames=encoder.past + encoder.future + 2 * extra)
        frames = batch.mask.shape[1]
        whole = self._embed(encoder, batch)
        late = self._embed(encoder, _cut(batch, extra, frames))
        early = self._embed(encoder, _cut(batch, 0, frames - extra))
        for space, z in whole.items():
            first, last = extra + encoder.past, frames - extra - encoder.future
            self._agree(late[space][:, encoder.past :], z[:, first:], f"space {space!r}, past={encoder.past}")
            self._agree(early[space][:, :last], z[:, :last], f"space {space!r}, future={encoder.future}")

    def test_a_recording_shorter_than_a_window_works(self) -> None:
        """Padding is masked: training stays finite, and one frame alone can be embedded."""
        spec = self.spec()
        short = [r.keypoints[: spec.frames // 2] for r in toy_recordings(4, 20.0, spec.fps, spec.individuals)]
        padded = collate(short, spec.frames, spec.individuals, spec.fps)
        encoder = self.encoder()
        for progress in encoder.fit(lambda _: padded, Budget(steps=2, device="cpu")):
            assert all(np.isfinite(v) for v in progress.metrics.values()), progress.metrics
        for frames in (1, 7):
            for z in self._embed(encoder.eval(), toy_batch(spec, frames)).values():
                assert z.shape[1] == frames and bool(z.isfinite().all())

    def _embed(self, encoder: Encoder, batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            return encoder.embed(batch)

    def _agree(self, left: Tensor, right: Tensor, what: str) -> None:
        worst = float((left - right).abs().max())
        assert worst <= self.tolerance, f"{what}: embeddings differ by {worst:.2g}"


def _cut(batch: Batch, first: int, last: int) -> Batch:
    return replace(batch, keypoints=batch.keypoints[:, first:last], mask=batch.mask[:, first:last])
