"""Learners of one seed as one program: their parameters are stacked and ``torch.func.vmap`` computes all losses.

Each learner stays what it is: its parameters and buffers become views into the stack, so that its own optimiser,
clipping, moving averages, monitors and checkpoint work on it as they always do. Random draws are those of the seed,
the same for all of them, as each would draw alone. Numbers in which learners differ (the fields of a method, or
what a module keeps of them) are stacked beside the parameters. Buffers that are the same for all, and that no step
writes to, are not stacked: what follows from them and the data alone, such as the targets, is computed once.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ethoray.batch import Batch
from ethoray.learning import Learner, Objective

Versions = dict[str, tuple[dict[str, Tensor | None], Tensor, int]]

_MODULE = vars(nn.Module()).keys()
_OPTIMISER = ("lr", "weight_decay", "clip_norm")  # a learner's own, which no loss reads


class StackError(RuntimeError):
    """Learners that cannot be one program; the message says why."""


class Stack:
    """Learners, and the tensors that hold the parameters and buffers of all of them, (learner, ...).

    Raises StackError when they differ in more than numbers.
    """

    def __init__(self, learners: Sequence[Learner]) -> None:
        self.learners = list(learners)
        self.numbers = _numbers(self.learners)

    def join(self, batch: Batch) -> None:
        """Make views of every learner's parameters and buffers; what they hold stays. A step on a batch is tried."""
        parameters = [dict(x.named_parameters()) for x in self.learners]
        buffers = [dict(x.named_buffers()) for x in self.learners]
        apart = _written(self.learners[0], batch)
        apart |= {n for n, b in buffers[0].items() if not all(torch.equal(b, others[n]) for others in buffers)}
        self.parameters = {
            n: _joined([own[n] for own in parameters], p.requires_grad) for n, p in parameters[0].items()
        }
        self.buffers = {n: _joined([own[n] for own in buffers], False) for n in sorted(apart)}
        self._owns = {n: [own[n] for own in parameters] for n in parameters[0]}
        self._same = [_versions(learner, buffers[0].keys() - apart) for learner in self.learners]
        self._objective = Objective(self.learners[0])

    def check(self) -> None:
        """Raise StackError when a buffer that was taken for one of all learners has been written to."""
        for index, same in enumerate(self._same):
            for name in _changed(same):
                raise StackError(f"{name} of learner {index} has changed, which a first step left alone")

    def step(self, batch: Batch, mixed: Any) -> dict[str, Tensor]:
        """The loss terms of all learners, each (learner,), and their gradients into their parameters."""
        for value in self.parameters.values():
            value.grad = None
        with mixed():
            terms: dict[str, Tensor] = vmap(partial(self._alone, batch), randomness="same")(
                self.parameters, self.buffers, {n: v.clone() for n, v in self.numbers.items()}
            )
        terms["loss"].sum().backward()
        for name, value in self.parameters.items():
            grads = [None] * len(self.learners) if value.grad is None else value.grad.unbind()
            for own, grad in zip(self._owns[name], grads, strict=True):
                own.grad = grad
        return {name: value.detach() for name, value in terms.items()}

    def _alone(
        self,
        batch: Batch,
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        numbers: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        named = {f"learner.{n}": v for n, v in (*parameters.items(), *buffers.items())}
        with _Varied(self.learners[0], numbers):
            terms: dict[str, Tensor] = functional_call(self._objective, named, (batch,))
        return terms


class _Varied:
    """Tensors in the place of the numbers in which learners differ, for as long as one is computed."""

    def __init__(self, learner: Learner, numbers: Mapping[str, Tensor]) -> None:
        self._places = []
        for name, value in numbers.items():
            path, _, attribute = name.rpartition(":")
            self._places.append((learner.get_submodule(path), attribute, value))
        self._before: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def __enter__(self) -> None:
        for module, attribute, value in self._places:
            if "." not in attribute:
                self._put(vars(module), attribute, value)
                continue
            holder, field = attribute.split(".")
            varied = copy.copy(vars(module)[holder])
            object.__setattr__(varied, field, value)  # a method is frozen; this is a copy of it
            self._put(vars(module), holder, varied)

    def __exit__(self, *_: object) -> None:
        for space, held in reversed(self._before):
            space.update(held)

    def _put(self, space: dict[str, Any], name: str, value: Any) -> None:
        self._before.append((space, {name: space[name]}))
        space[name] = value


def _written(learner: Learner, batch: Batch) -> set[str]:
    """The buffers that a training step writes to."""
    tried = copy.deepcopy(learner)
    before = _versions(tried, dict(tried.named_buffers()))
    with torch.random.fork_rng():
        tried.loss(batch)
        tried.after_step(0)
    return set(_changed(before))


def _changed(known: Versions) -> list[str]:
    """The buffers that have been written to or replaced since."""
    return [n for n, (at, b, version) in known.items() if at[n.rpartition(".")[2]] is not b or b._version != version]


def _versions(learner: Learner, names: Iterable[str]) -> Versions:
    """Buffers by name, with what holds them and how often they have been written to."""
    found = {}
    for name in names:
        buffer, holder = learner.get_buffer(name), learner.get_submodule(name.rpartition(".")[0])._buffers
        found[name] = holder, buffer, buffer._version
    return found


def _joined(tensors: Sequence[Tensor], learns: bool) -> Tensor:
    """Tensors of all learners as one, of which each becomes a view."""
    stacked = torch.stack([t.detach() for t in tensors])
    for index, tensor in enumerate(tensors):
        tensor.data = stacked[index]
    return stacked.requires_grad_(learns)


def _numbers(learners: Sequence[Learner]) -> dict[str, Tensor]:
    """What differs beside tensors: "module:attribute" or "module:attribute.field", float32 (learner,).

    Raises StackError when it is anything but numbers.
    """
    found: dict[str, Tensor] = {}
    for path, module in learners[0].named_modules():
        others = [learner.get_submodule(path) for learner in learners]
        for attribute in vars(module).keys() - _MODULE:
            if path == "" and attribute in _OPTIMISER:
                continue
            for name, values in _differing(attribute, [vars(m).get(attribute) for m in others]):
                if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
                    raise StackError(f"they differ in {name}, which is no number: {values[0]!r:.60} and others")
                found[f"{path}:{name}"] = torch.tensor(values, dtype=torch.float32)
    return found


def _differing(name: str, values: list[Any]) -> Iterator[tuple[str, list[Any]]]:
    """The values of an attribute, or of the fields of a dataclass, where they are not all equal."""
    if all(v is values[0] or _content(v) == _content(values[0]) for v in values):
        return
    if is_dataclass(values[0]) and len({type(v) for v in values}) == 1:
        for f in fields(values[0]):
            held = [getattr(v, f.name) for v in values]
            if any(_content(h) != _content(held[0]) for h in held):
                yield f"{name}.{f.name}", held
        return
    yield name, values


def _content(value: Any) -> bytes:
    try:
        return pickle.dumps(value)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise StackError(f"{value!r:.60} cannot be compared between learners") from error
