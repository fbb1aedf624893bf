"""The loop of a stack of learners, and the trial that says whether stacking is worth it."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ethoray.batch import Batch, Stream
from ethoray.budget import Budget, Progress
from ethoray.cohort.stacking import Stack, StackError
from ethoray.learning import Learner, averages, load_training, step_seed, training_state
from ethoray.state import State, TrainingError

Value = TypeVar("Value")

TOLERANCE = 1e-4
"""How far, relative to the largest of a tensor, a stacked loss or gradient may be from that of a learner alone."""

GAIN = 1.1
"""How many times as fast stacking must be to be taken."""

LONG = 0.25
"""Seconds of a step alone from which on stacking is not tried: it would save calls, which are few, and need memory."""


def fit_stacked(
    stack: Stack, stream: Stream, budget: Budget, resumes: Sequence[State | None]
) -> Iterator[list[Progress | Exception]]:
    """What ``Learner.fit`` does, for all learners at once, from the same step: one entry a learner at every pause.

    A learner whose loss is not finite ends with a TrainingError at each pause from then on; the others go on.
    """
    device, learners = budget.torch_device(), stack.learners
    for learner, resume in zip(learners, resumes, strict=True):
        learner.to(device).train()
        if resume is None:
            with torch.no_grad():
                learner.calibrate(stream)
    optimisers = [learner.optimiser(learner.groups(learner.lr)) for learner in learners]
    firsts = [0 if r is None else load_training(x, o, r) for x, o, r in zip(learners, optimisers, resumes, strict=True)]
    if firsts[0] < budget.steps:
        stack.join(stream(firsts[0]).to(device))
    mixed = partial(torch.autocast, device.type, torch.bfloat16, budget.precision == "bfloat16")
    rates = [[group["lr"] for group in optimiser.param_groups] for optimiser in optimisers]
    sums: list[dict[str, Tensor]] = [{} for _ in learners]
    broken: dict[int, Exception] = {}
    spent, counted = 0.0, 0
    for step in range(firsts[0], budget.steps):
        started = time.perf_counter()
        batch = stream(step).to(device)
        for learner, optimiser, base in zip(learners, optimisers, rates, strict=True):
            factor = learner.rate(step / budget.steps)
            for group, lr in zip(optimiser.param_groups, base, strict=True):
                group["lr"] = lr * factor
        torch.manual_seed(step_seed(learners[0].seed, step))
        terms = stack.step(batch, mixed)
        drawn = torch.get_rng_state()
        for index, (learner, optimiser) in enumerate(zip(learners, optimisers, strict=True)):
            torch.set_rng_state(drawn)
            found = _advance(learner, optimiser, {name: value[index] for name, value in terms.items()}, step)
            for name, value in found.items():
                sums[index][name] = sums[index].get(name, torch.zeros((), device=device)) + value
        stack.check()
        counted += 1
        spent += (time.perf_counter() - started) / len(learners)
        done = step + 1
        if budget.pauses(done):
            told = [_told(x, s, counted, budget, done, batch, mixed) for x, s in zip(learners, sums, strict=True)]
            pauses = [
                _progress(x, o, m, budget, done, spent) for x, o, m in zip(learners, optimisers, told, strict=True)
            ]
            broken |= {i: p for i, p in enumerate(pauses) if i not in broken and isinstance(p, Exception)}
            yield [broken.get(i, p) for i, p in enumerate(pauses)]
            for learner in learners:
                learner.train()
            sums, counted = [{} for _ in learners], 0
    for learner in learners:
        learner.eval()


def _advance(
    learner: Learner, optimiser: torch.optim.Optimizer, terms: dict[str, Tensor], step: int
) -> dict[str, Tensor]:
    weights = [p for group in optimiser.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(weights, learner.clip_norm, foreach=True)
    optimiser.step()
    learner.after_step(step)
    return {**terms, "gradient_norm": norm.detach()}


def _told(
    learner: Learner, sums: dict[str, Tensor], counted: int, budget: Budget, done: int, batch: Batch, mixed: Any
) -> dict[str, float]:
    metrics = averages(sums, counted)
    return metrics | learner.watched(batch, mixed) if budget.saves(done) and np.isfinite(metrics["loss"]) else metrics


def _progress(
    learner: Learner,
    optimiser: torch.optim.Optimizer,
    metrics: dict[str, float],
    budget: Budget,
    done: int,
    spent: float,
) -> Progress | Exception:
    if not np.isfinite(metrics["loss"]):
        return TrainingError(f"the loss is {metrics['loss']} at step {done}: {metrics}")
    state = partial(training_state, learner, optimiser, done)
    return Progress(done, budget.steps, metrics, spent, budget.saves(done), state)


def faster(stack: Stack, stream: Stream, budget: Budget, first: int, long: float = LONG) -> bool:
    """Whether stacking is at least ``GAIN`` times as fast here; raises StackError as ``costs`` does."""
    together, apart = costs(stack, stream, budget, first, long)
    return together * GAIN < apart


def costs(stack: Stack, stream: Stream, budget: Budget, first: int, long: float = math.inf) -> tuple[float, float]:
    """Seconds of a step of all learners, stacked and one after the other; copies are tried, on batch ``first``.

    The first and the last learner are also computed alone. Raises StackError when they cannot be stacked, or when
    losses, gradients or buffers of those two are not the same within ``TOLERANCE``. Where a step alone takes ``long``
    seconds, all of them are not tried, and infinity stands for what they would take.
    """
    device = budget.torch_device()
    mixed = partial(torch.autocast, device.type, torch.bfloat16, budget.precision == "bfloat16")
    batch = stream(first).to(device)
    with torch.random.fork_rng():
        _tried(stack.learners[:2], batch.part(slice(0, 2)), mixed)
        trial = Stack([learner.to(device).train() for learner in copy.deepcopy(stack.learners)])
        for learner in trial.learners:
            with torch.no_grad():
                learner.calibrate(stream)
        ends = [0, len(trial.learners) - 1]
        alone = {index: copy.deepcopy(trial.learners[index]) for index in ends}
        found = {index: _timed(partial(_alone, x, batch, mixed), device) for index, x in alone.items()}
        if (shortest := min(seconds for _, seconds in found.values())) > long:
            return math.inf, shortest * len(trial.learners)
        trial.join(batch)
        losses = _attempt(trial, batch, mixed)["loss"].tolist()
        for index, learner in alone.items():
            _compare("loss", torch.tensor(losses[index]), torch.tensor(found[index][0]))
            others = dict(trial.learners[index].named_parameters())
            for name, p in learner.named_parameters():
                _compare(f"gradient of {name}", others[name].grad, p.grad)
            for (name, b), (_, c) in zip(learner.named_buffers(), trial.learners[index].named_buffers(), strict=True):
                _compare(name, c, b)
        apart = len(trial.learners) * min(_timed(partial(_alone, x, batch, mixed), device)[1] for x in alone.values())
        together = math.inf
        for _ in range(4):  # the first ones still wait for memory
            together = min(together, _timed(partial(_attempt, trial, batch, mixed), device)[1])
            if together * GAIN < apart:
                break
    return together, apart


def _tried(learners: Sequence[Learner], batch: Batch, mixed: Any) -> None:
    """Raise StackError, soon, where one step of a few learners as they are built is not possible."""
    few = Stack([learner.to(batch.mask.device).train() for learner in copy.deepcopy(list(learners))])
    few.join(batch)
    _attempt(few, batch, mixed)


def _attempt(stack: Stack, batch: Batch, mixed: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    try:
        return stack.step(batch, mixed)
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0][:160]
        raise StackError(f"{type(stack.learners[0]).__name__} cannot be one program ({reason})") from error


def _alone(learner: Learner, batch: Batch, mixed: Any) -> float:
    torch.manual_seed(0)
    learner.zero_grad(set_to_none=True)
    with mixed():
        loss = learner.loss(batch)["loss"]
    loss.backward()
    return float(loss.detach())


def _timed(work: Callable[[], Value], device: torch.device) -> tuple[Value, float]:
    """What work gives, and its seconds: of the processor where that computes, as others who use it do not count."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    started = clock()
    return work(), clock() - started


def _compare(what: str, stacked: Tensor | None, alone: Tensor | None) -> None:
    if stacked is None and alone is None:
        return
    if stacked is None or alone is None:
        there = alone if stacked is None else stacked
        if there is None or not bool((there != 0).any()):
            return
        raise StackError(f"stacked, the {what} is {'missing' if stacked is None else 'not'} there")
    one, other = stacked.detach().double(), alone.detach().double()
    finite = other.isfinite()
    if not torch.equal(finite, one.isfinite()):
        raise StackError(f"stacked, the {what} is finite in other places")
    if not bool(finite.any()):
        return
    size, apart = float(other[finite].abs().max()), float((one - other)[finite].abs().max())
    if apart > TOLERANCE * max(size, 1e-3):
        raise StackError(f"stacked, the {what} differs by {apart:.2g} where it is {size:.2g}")
