"""The promise every method keeps, and the one training loop.

A ``Method`` is a frozen dataclass of hyper-parameters; ``build`` answers with an ``Encoder``. ``fit`` yields
``Progress`` and so leaves logging, saving, probing and pruning to whoever calls it. Resumed from a saved state, a
run on a CPU ends with bit-identical weights: batch n is a pure function of n, and so is all randomness of step n.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ethoray.batch import Batch, Spec, Stream
from ethoray.budget import Budget, Progress
from ethoray.monitors import collapse
from ethoray.schema import SchemaError
from ethoray.state import State, TrainingError, load_encoder

__all__ = ["Budget", "Encoder", "Learner", "Method", "Progress", "State", "TrainingError", "check_needs"]


class Method(ABC):
    """Hyper-parameters of one method: a frozen dataclass in a file of the same name under methods/."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Named settings of the fields, chosen with --preset; "paper" follows the publication."""

    needs: ClassVar[Literal["keypoints", "images"]] = "keypoints"
    """What a batch has to hold."""

    @property
    def name(self) -> str:
        """The file's name, which is the method's name everywhere."""
        return type(self).__module__.rpartition(".")[2]

    @abstractmethod
    def build(self, spec: Spec) -> Encoder:
        """A fresh encoder whose initial weights depend on ``spec.seed`` only."""


def check_needs(method: Method, spec: Spec) -> None:
    """Raise SchemaError when a method of keypoints is given images, or the other way round."""
    if (method.needs == "images") != (spec.picture is not None):
        held = "images" if spec.picture is not None else "keypoints"
        where = {"images": "datasets/beast_video.py", "keypoints": "ethoray prepare"}[method.needs]
        raise SchemaError(
            f"{method.name} learns from {method.needs} and batches of this dataset hold {held}; prepare one with "
            f"{where}, or choose inputs={method.needs!r} where a dataset holds both"
        )


class Encoder(nn.Module, ABC):
    """What a method learns; all of it lives in parameters and buffers, even PCA's.

    Attributes
    ----------
    past, future: frames of context before and after a frame that its embedding depends on; embedding a long
        recording in chunks with this much context equals embedding it at once.
    hop: frames that share a window, for methods that embed window by window; chunks begin at multiples of it,
        and ``past`` is one.
    needs: what its batches hold, as of its method.
    """

    needs: Literal["keypoints", "images"] = "keypoints"
    past: int = 0
    future: int = 0
    hop: int = 1

    @abstractmethod
    def fit(self, stream: Stream, budget: Budget, resume: State | None = None) -> Iterator[Progress]:
        """Learn from batches, pausing by yielding; ``resume`` is a state that an earlier pause gave."""

    @abstractmethod
    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """Named spaces, each (batch, time, individual, feature) float32; finite wherever the mask is True.

        A space of the group as a whole has one place on its individual axis.
        """

    def codewords(self, spaces: Mapping[str, Tensor]) -> Tensor | None:
        """Codes int32 (batch, time, individual, group) of spaces that ``embed`` gave; None without a codebook."""
        return None

    def device(self) -> torch.device:
        """Where the parameters and buffers are."""
        for tensor in (*self.parameters(), *self.buffers()):
            return tensor.device
        return torch.device("cpu")


class Learner(Encoder):
    """An encoder trained by gradient descent: it gives the loss, the loop is here.

    Attributes
    ----------
    seed: of everything random in training.
    lr, weight_decay: of the optimiser (Adam, decay added to the gradient as in the papers).
    clip_norm: bound on the norm of the gradient; infinite means none.
    """

    seed: int = 0
    lr: float = 1e-3
    weight_decay: float = 0.0
    clip_norm: float = math.inf

    @abstractmethod
    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Scalar terms; "loss" is the one that is minimised, the others are logged."""

    def calibrate(self, stream: Stream) -> None:
        """Fit statistics (scales, histogram edges) from the first batches, into buffers; nothing by default."""

    def groups(self, lr: float) -> list[dict[str, Any]]:
        """Parameter groups of the optimiser, each with its own "lr"."""
        return [{"params": [p for p in self.parameters() if p.requires_grad], "lr": lr}]

    def optimiser(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimiser of these groups; a method whose paper uses another one answers with that."""
        return torch.optim.Adam(groups, weight_decay=self.weight_decay, fused=True)

    def watch(self, batch: Batch) -> dict[str, Tensor]:
        """What is looked at whenever a checkpoint is due: whether each space has collapsed. Scalars by name."""
        return {
            f"monitor/{space}/{name}": value
            for space, z in self.embed(batch).items()
            for name, value in collapse(z, batch.mask).items()
        }

    def rate(self, fraction: float) -> float:
        """Factor on every learning rate when this fraction of the budget is spent; constant by default."""
        return 1.0

    def after_step(self, step: int) -> None:
        """What follows an optimiser step, such as a moving average; nothing by default."""

    def fit(self, stream: Stream, budget: Budget, resume: State | None = None) -> Iterator[Progress]:
        """Train for ``budget.steps`` in all, counting those done before ``resume``."""
        device = budget.torch_device()
        self.to(device).train()
        if resume is None:
            with torch.no_grad():
                self.calibrate(stream)
        optimiser = self.optimiser(self.groups(self.lr))
        first = 0 if resume is None else load_training(self, optimiser, resume)
        objective = _parallel(Objective(self), device)
        if budget.compile:
            objective = torch.compile(objective)  # type: ignore[assignment]
        mixed = partial(torch.autocast, device.type, torch.bfloat16, budget.precision == "bfloat16")
        weights = [p for group in optimiser.param_groups for p in group["params"]]
        base = [group["lr"] for group in optimiser.param_groups]
        sums: dict[str, Tensor] = {}
        counted, spent = 0, 0.0
        for step in range(first, budget.steps):
            started = time.perf_counter()
            torch.manual_seed(step_seed(self.seed, step))
            for group, lr in zip(optimiser.param_groups, base, strict=True):
                group["lr"] = lr * self.rate(step / budget.steps)
            batch = stream(step).to(device)
            with mixed():
                terms = objective(batch)
            optimiser.zero_grad(set_to_none=True)
            terms["loss"].backward()
            norm = nn.utils.clip_grad_norm_(weights, self.clip_norm, foreach=True)
            optimiser.step()
            self.after_step(step)
            for name, value in {**terms, "gradient_norm": norm}.items():
                sums[name] = sums.get(name, torch.zeros((), device=device)) + value.detach()
            counted += 1
            done = step + 1
            if not budget.pauses(done):
                spent += time.perf_counter() - started
                continue
            metrics = averages(sums, counted)
            if not np.isfinite(metrics["loss"]):
                raise TrainingError(f"the loss is {metrics['loss']} at step {done}: {metrics}")
            if budget.saves(done):
                metrics |= self.watched(batch, mixed)
            spent += time.perf_counter() - started
            sums, counted = {}, 0
            state = partial(training_state, self, optimiser, done)
            yield Progress(done, budget.steps, metrics, spent, budget.saves(done), state)
            self.train()
        self.eval()

    @torch.no_grad()
    def watched(self, batch: Batch, mixed: Callable[[], Any]) -> dict[str, float]:
        """What ``watch`` tells of a batch, seen as an encoder in use sees it."""
        self.eval()
        with mixed():
            seen = self.watch(batch)
        self.train()
        return {name: float(value) for name, value in seen.items()}


class Objective(nn.Module):
    """The loss as a forward pass, which is what data-parallel training can wrap."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The loss terms of a batch."""
        return self.learner.loss(batch)


def _parallel(module: nn.Module, device: torch.device) -> nn.Module:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return module
    if torch.distributed.get_world_size() == 1:
        return module
    ids = [device.index or 0] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(module, device_ids=ids)


def averages(sums: Mapping[str, Tensor], counted: int) -> dict[str, float]:
    """Averages over steps and workers, so that all of them see one loss, and a broken one together."""
    values, workers = torch.stack(list(sums.values())), 1
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(values)
        workers = torch.distributed.get_world_size()
    return dict(zip(sums, (values / (counted * workers)).tolist(), strict=True))


def step_seed(seed: int, step: int) -> int:
    """A 63-bit seed for step ``step`` of a run, unrelated to those of other steps and seeds."""
    high, low = np.random.SeedSequence((seed, step)).generate_state(2)
    return (int(high) << 31) ^ int(low)


def training_state(learner: Learner, optimiser: torch.optim.Optimizer, step: int) -> State:
    """A copy of what training goes on from after so many steps: weights, the optimiser's slots and the step."""
    state: State = {f"encoder/{k}": v.detach().clone() for k, v in learner.state_dict().items()}
    for index, slots in optimiser.state_dict()["state"].items():
        for slot, value in slots.items():
            state[f"optimiser/{index}/{slot}"] = torch.as_tensor(value).detach().clone()
    state["step"] = torch.tensor(step)
    return state


def load_training(learner: Learner, optimiser: torch.optim.Optimizer, state: State) -> int:
    """Put back what ``training_state`` gave; the step it was at."""
    load_encoder(learner, state)
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        if key.startswith("optimiser/"):
            _, index, slot = key.split("/")
            slots.setdefault(int(index), {})[slot] = value.clone()
    optimiser.load_state_dict({"state": slots, "param_groups": optimiser.state_dict()["param_groups"]})
    return int(state["step"])
