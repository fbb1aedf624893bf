"""Between typed words and typed objects: the fields of a method, runs by their key, and what is printed."""

from __future__ import annotations

import difflib
import json
import math
import re
import time
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ethoray import leaderboard, methods, probes, record
from ethoray.files import Folder
from ethoray.learning import Budget, Method, Progress
from ethoray.probes import Probe
from ethoray.schema import Card, SchemaError, Task
from ethoray.store import PAGE, QUALITY, Dataset

if TYPE_CHECKING:
    from ethoray.experiment import Experiment


class WordingError(ValueError):
    """A word that names nothing; the message says what is nearest and what there is."""


def configure(name: str, preset: str | None = None, settings: Sequence[str] = ()) -> Method:
    """A method by name, its preset, and fields written as "name=value" on top; raises WordingError."""
    if name not in methods.names():
        raise WordingError(_unknown("method", name, methods.names()))
    kind = methods.load(name)
    values = filled(kind, name, preset, settings)
    for field, value in values.items():
        if isinstance(value, float) and not (math.isfinite(value) and (value > 0 or not field.endswith("lr"))):
            kind_of = "a positive number" if field.endswith("lr") else "a finite number"
            raise WordingError(f"{name}: {field} is {kind_of}, not {value!r}")
    try:
        return kind(**values)
    except ValueError as error:
        raise WordingError(f"{name}: {error}") from error


def filled(kind: Any, name: str, preset: str | None, settings: Sequence[str]) -> dict[str, Any]:
    """The fields of a method or a probe that a preset of it and "name=value" on top say; raises WordingError."""
    if preset is not None and preset not in kind.presets:
        raise WordingError(_unknown(f"preset of {name}", preset, kind.presets))
    values = dict(kind.presets[preset]) if preset is not None else {}
    hints, known = typing.get_type_hints(kind), [field.name for field in fields(kind)]
    for setting in settings:
        field, equals, text = setting.partition("=")
        if not equals:
            raise WordingError(f"--set {setting!r}: write field=value; fields of {name} are {', '.join(known)}")
        if field not in known:
            raise WordingError(_unknown(f"field of {name}", field, known))
        try:
            values[field] = understand(text, hints[field])
        except ValueError:
            raise WordingError(f"--set {setting!r}: {field} is {_kind(hints[field])}, not {text!r}") from None
    return values


def judged(names: Sequence[str]) -> tuple[Probe, ...]:
    """Probes by name, with their default settings; raises WordingError naming the nearest."""
    for name in names:
        if name not in probes.names():
            raise WordingError(_unknown("probe", name, probes.names()))
    return tuple(probes.load(name)() for name in dict.fromkeys(names))


def budget(**given: Any) -> Budget:
    """The default budget with the given fields; raises WordingError."""
    try:
        return Budget(**given)
    except ValueError as error:
        raise WordingError(str(error)) from error


def understand(text: str, hint: Any) -> Any:
    """The value of a type that a text stands for: "64,64" is (64, 64) for tuple[int, ...]; else ValueError."""
    options, origin = typing.get_args(hint), typing.get_origin(hint)
    if origin is Literal:
        return {str(option): option for option in options}[text] if text in map(str, options) else _refuse(text)
    if origin in (types.UnionType, typing.Union):
        for option in options:
            try:
                return understand(text, option)
            except ValueError:
                continue
        return _refuse(text)
    if origin is tuple:
        parts = [part for part in re.split(r"[,\s]+", text.strip("()[] ")) if part]
        return tuple(understand(part, options[0]) for part in parts)
    if hint is bool or hint is type(None):
        words = {"true": True, "false": False} if hint is bool else {"none": None}
        return words[text.lower()] if text.lower() in words else _refuse(text)
    return hint(text) if hint in (int, float, str) else _refuse(text)


def find(run: str, storage: Path) -> Path:
    """A run folder, given by path or by the beginning of its key."""
    if (Path(run) / "experiment.json").exists():
        return Path(run)
    there = sorted(path.parent.name for path in storage.glob("*/experiment.json"))
    matches = [name for name in there if name.startswith(run)]
    if len(matches) > 1:
        raise WordingError(f"run {run!r} could be {' or '.join(matches)}; write more of the key")
    if not matches:
        raise WordingError(_unknown(f"run in {storage}", run, there))
    return storage / matches[0]


def same_body(folder: Path, target: Dataset) -> None:
    """Raise SchemaError unless the encoder of a run can see a dataset."""
    here, there = record.load(folder)[1].skeleton.keypoints, target.card.skeleton.keypoints
    if here != there:
        raise SchemaError(
            f"the encoder of {folder.name} learned from keypoints {', '.join(here)}; "
            f"{target.card.name!r} has {', '.join(there)}"
        )


def prepared(dataset: Dataset, out: str, page: bool) -> Iterable[str]:
    """What is told of a dataset that was written under the word ``out``, with its ``page`` when one is wanted."""
    yield from describe(dataset)
    if page:
        yield f"quality: {quality(dataset)}"
    yield f"prepared {dataset.uri}"
    yield f"next: ethoray train {out} bams"


def describe(dataset: Dataset) -> Iterable[str]:
    """A short card: how much there is, what was counted, and every task with its positives on each side."""
    card, entries = dataset.card, dataset.entries
    minutes = sum(e.frames / e.fps for e in entries) / 60
    length = f"{minutes:.1f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"
    animals = sorted({len(e.individuals) for e in entries})
    counts = ", ".join(f"{sum(e.split == s for e in entries)} {s}" for s in dataset.splits)
    yield f"{card.name}: {len(entries)} recordings ({counts}), {length} at {card.fps:g} Hz"
    yield (
        f"  {sum(e.frames for e in entries):,} frames, {'-'.join(map(str, animals[:: max(len(animals) - 1, 1)]))} "
        f"individuals, {len(card.skeleton.keypoints)} keypoints"
    )
    yield f"  split: {card.split_rule}"
    labels = {s: [dataset.labels(e) for e in dataset.select(s)] for s in dataset.splits if s != "gap" and card.tasks}
    for task in card.tasks:
        sides = (f"{side} {_labelled(task, found)}" for side, found in labels.items())
        yield f"  task {task.name} ({task.kind}, {task.level}): {'; '.join(sides)}"
    for what, sentences in (("cleaning", card.cleaning), ("quality", card.quality), ("note", card.notes)):
        for sentence in sentences:
            yield f"  {what}: {sentence}"


def quality(dataset: Dataset) -> str:
    """Write the page about what was counted while a dataset was written, beside it; where it is."""
    from ethoray.quality.page import page

    folder = Folder(dataset.uri)
    document = json.loads(folder.read(QUALITY) or b"{}")
    folder.put(PAGE, page(dataset.card.name, dataset.card, document).encode())
    return f"{folder.uri}/{PAGE}"


def run(experiment: Experiment, folder: Path, workers: int) -> None:
    """An experiment's run here, or in several processes, telling how it goes every few seconds."""
    told = time.monotonic()

    def tell(progress: Progress) -> None:
        nonlocal told
        if time.monotonic() - told > 5 or progress.step == progress.steps:
            told = time.monotonic()
            terms = "  ".join(f"{name} {value:.4g}" for name, value in progress.metrics.items())
            print(f"  step {progress.step}/{progress.steps}  {progress.seconds:.0f} s  {terms}", flush=True)

    if workers == 1:
        from ethoray import experiment as alone

        alone.run(experiment, folder, tell)
    else:
        from ethoray.cluster import launch

        launch(experiment, folder, workers, log=tell)


def scores(folder: Path) -> Iterable[str]:
    """The scores of a finished run with their intervals over recordings, a line each."""
    document = json.loads((folder / "scores.json").read_text())
    rows = {name: (value, *document["intervals"][name]) for name, value in document["scores"].items()}
    return _lines(rows, {name: what["metric"] for name, what in document["tasks"].items()}, "over recordings")


def summary(folders: Sequence[Path], card: Card) -> Iterable[str]:
    """Mean scores of runs that differ in their seed, with intervals over seeds and recordings."""
    table = leaderboard.collect(folders, card)
    if table.empty:
        return
    metrics = dict(zip(table["score"], table["metric"], strict=True))
    yield f"{len(folders)} seeds together, on {card.name}"
    for row in leaderboard.leaderboard(table).rows:
        yield from _lines({n: (c.value, c.low, c.high) for n, c in row["cells"].items()}, metrics, "over seeds too")


def _lines(rows: Mapping[str, tuple[float, ...]], metrics: Mapping[str, str], over: str) -> Iterable[str]:
    if not rows:
        yield "  nothing to score: the data has no labels, or not on both sides of the split"
        return
    width = max(len(name) for name in rows)
    yield f"  {'task/space':<{width}}  score  [95 % interval {over}]"
    for name, (value, low, high) in rows.items():
        yield f"  {name:<{width}}  {value:.3f}  [{low:.3f}, {high:.3f}]  {metrics.get(name, '')}"


def _labelled(task: Task, labels: Sequence[Mapping[str, np.ndarray | float]]) -> str:
    known = np.concatenate([np.atleast_1d(np.asarray(found[task.name])) for found in labels])
    known = known[np.isfinite(known)]
    if task.kind == "binary":
        return f"{int((known > 0).sum())} of {len(known)} {task.level}s positive"
    return f"{len(known)} {task.level}s labelled"


def _unknown(what: str, word: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.3)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return f"no {what} is called {word!r}{hint} there {'are' if len(names) != 1 else 'is'} {', '.join(names) or 'none'}"


def _kind(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")


def _refuse(text: str) -> Any:
    raise ValueError(text)
