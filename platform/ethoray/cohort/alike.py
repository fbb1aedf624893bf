"""Which experiments can form a cohort: one method, one kind of data, one budget, and parameters of one shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from ethoray import store, stream
from ethoray.experiment import Experiment, build
from ethoray.learning import Encoder


class CohortError(ValueError):
    """Candidates that cannot train together; the message says which, and what differs."""


def built(experiment: Experiment, dataset: store.Dataset) -> Encoder:
    """A fresh encoder of an experiment on this data."""
    return build(experiment, stream.spec(experiment.data, dataset, experiment.seed))


def alike(one: Experiment, other: Experiment) -> bool:
    """Whether two experiments can form a cohort, as far as their settings tell: seeds and real numbers may differ."""
    mine, theirs = one.method, other.method
    if type(mine) is not type(theirs) or (one.data, one.budget, one.probes) != (other.data, other.budget, other.probes):
        return False
    pairs = ((getattr(mine, f.name), getattr(theirs, f.name)) for f in fields(cast(Any, mine)))
    return all(a == b or (isinstance(a, float) and isinstance(b, float)) for a, b in pairs)


def together(experiments: Sequence[Experiment]) -> list[list[int]]:
    """Which experiments can form cohorts: lists of places, by method, data, budget and shapes, in order.

    One that cannot be built is alone, and its training says why.
    """
    groups: dict[Any, list[int]] = {}
    datasets = {name: store.open(name) for name in {e.data.dataset for e in experiments}}
    for index, experiment in enumerate(experiments):
        try:
            shapes = _shapes(built(experiment, datasets[experiment.data.dataset]))
            name: Any = type(experiment.method), experiment.data, experiment.budget, tuple(sorted(shapes.items()))
        except Exception:
            name = index
        groups.setdefault(name, []).append(index)
    return list(groups.values())


def check(experiments: Sequence[Experiment], folders: Sequence[Path]) -> None:
    """Raise CohortError unless experiments are of one method, data and budget, each with a folder of its own."""
    if len({f.resolve() for f in folders}) < len(folders):
        raise CohortError("two candidates of a cohort have one run folder; give each its own")
    for index, experiment in enumerate(experiments[1:], start=1):
        first = experiments[0]
        if type(experiment.method) is not type(first.method):
            raise CohortError(
                f"candidate {index} is {experiment.method.name}, candidate 0 is {first.method.name}: a cohort is of "
                "one method"
            )
        for part in ("data", "budget"):
            mine, theirs = getattr(experiment, part), getattr(first, part)
            if mine != theirs:
                raise CohortError(
                    f"candidate {index} has {_difference(mine, theirs)}: candidates of a cohort share {part}; "
                    "train it in another"
                )


def check_shapes(candidates: Mapping[int, tuple[Experiment, Encoder]]) -> None:
    """Raise CohortError unless all encoders, by place in the list, have tensors of the same names and shapes."""
    if not candidates:
        return
    (place, (first, encoder)), *others = candidates.items()
    wanted = _shapes(encoder)
    for index, (experiment, encoder) in others:
        shapes = _shapes(encoder)
        odd = sorted(n for n in wanted.keys() | shapes.keys() if wanted.get(n) != shapes.get(n))
        if odd:
            name, what = odd[0], _difference(experiment.method, first.method)
            raise CohortError(
                f"candidate {index} ({what}) does not share the shapes of candidate {place}: {name} is "
                f"{shapes.get(name, 'absent')} there and {wanted.get(name, 'absent')} here; train it in another "
                "cohort (cohort.together says which fit)"
            )


def _shapes(encoder: Encoder) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in encoder.state_dict().items()}


def _difference(mine: Any, theirs: Any) -> str:
    """The fields of two dataclasses that differ, as a person would write them."""
    names = [f.name for f in fields(mine) if getattr(mine, f.name) != getattr(theirs, f.name)]
    return ", ".join(f"{n}={getattr(mine, n)!r} instead of {getattr(theirs, n)!r}" for n in names) or "another seed"
