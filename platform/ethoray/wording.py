"""Between typed words and typed objects: the fields of a method, runs by their key, and what is printed."""

from __future__ import annotations

import difflib
import json
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ethoray import leaderboard, methods, record
from ethoray.learning import Budget, Method
from ethoray.schema import Card, Recording, SchemaError, Task
from ethoray.store import Dataset


class WordingError(ValueError):
    """A word that names nothing; the message says what is nearest and what there is."""


def configure(name: str, preset: str | None = None, settings: Sequence[str] = ()) -> Method:
    """A method by name, its preset, and fields written as "name=value" on top; raises WordingError."""
    if name not in methods.names():
        raise WordingError(_unknown("method", name, methods.names()))
    kind = methods.load(name)
    if preset is not None and preset not in kind.presets:
        raise WordingError(_unknown(f"preset of {name}", preset, kind.presets))
    values = dict(kind.presets[preset]) if preset is not None else {}
    hints = typing.get_type_hints(kind)
    known = [field.name for field in fields(typing.cast(Any, kind))]
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
    try:
        return kind(**values)
    except ValueError as error:
        raise WordingError(f"{name}: {error}") from error


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


def finished(storage: Path, name: str | None = None) -> dict[str, list[Path]]:
    """Finished run folders by the URI of their dataset, of all datasets or of the one called ``name``."""
    found: dict[str, list[Path]] = {}
    names = set()
    for path in sorted(storage.glob("*/scores.json")):
        dataset = json.loads((path.parent / "provenance.json").read_text())["dataset"]
        names.add(dataset["name"])
        if name in (None, dataset["name"]):
            found.setdefault(dataset["uri"], []).append(path.parent)
    if not found:
        raise WordingError(_unknown(f"dataset with finished runs in {storage}", name or "any", sorted(names)))
    return found


def same_body(folder: Path, target: Dataset) -> None:
    """Raise SchemaError unless the encoder of a run can see a dataset."""
    here, there = record.load(folder)[1].skeleton.keypoints, target.card.skeleton.keypoints
    if here != there:
        raise SchemaError(
            f"the encoder of {folder.name} learned from keypoints {', '.join(here)}; "
            f"{target.card.name!r} has {', '.join(there)}"
        )


def describe(card: Card, recordings: Sequence[Recording]) -> Iterable[str]:
    """A short card: how much there is, what is missing, and every task with its positives on each side."""
    minutes = sum(r.frames / r.fps for r in recordings) / 60
    animals = sorted({len(r.individuals) for r in recordings})
    missing = np.average(
        [float(np.isnan(r.keypoints[..., 0]).mean()) for r in recordings], weights=[r.frames for r in recordings]
    )
    splits = tuple(dict.fromkeys(r.split for r in recordings))
    counts = ", ".join(f"{sum(r.split == s for r in recordings)} {s}" for s in splits)
    yield f"{card.name}: {len(recordings)} recordings ({counts}), {minutes:.1f} minutes at {card.fps:g} Hz"
    yield (
        f"  {'-'.join(map(str, animals[:: max(len(animals) - 1, 1)]))} individuals, "
        f"{len(card.skeleton.keypoints)} keypoints, {missing:.1%} missing"
    )
    yield f"  split: {card.split_rule}"
    for task in card.tasks:
        sides = (f"{s} {_labelled(task, [r for r in recordings if r.split == s])}" for s in splits if s != "gap")
        yield f"  task {task.name} ({task.kind}, {task.level}): {'; '.join(sides)}"
    for note in card.notes:
        yield f"  note: {note}"


def scores(folder: Path) -> Iterable[str]:
    """The scores of a finished run with their intervals over recordings, a line each."""
    document = json.loads((folder / "scores.json").read_text())
    rows = {name: (value, *document["intervals"][name]) for name, value in document["scores"].items()}
    return _lines(rows, {name: what["metric"] for name, what in document["tasks"].items()}, "over recordings")


def summary(folders: Sequence[Path], card: Card) -> Iterable[str]:
    """Mean scores of runs that differ in their seed, with intervals over seeds and recordings."""
    table = leaderboard.collect(folders, card)
    metrics = dict(zip(table["score"], table["metric"], strict=True))
    for row in leaderboard.leaderboard(table).rows:
        yield from _lines({n: (c.value, c.low, c.high) for n, c in row["cells"].items()}, metrics, "over seeds too")


def _lines(rows: Mapping[str, tuple[float, ...]], metrics: Mapping[str, str], over: str) -> Iterable[str]:
    width = max((len(name) for name in rows), default=0)
    yield f"  {'task/space':<{width}}  score  [95 % interval {over}]"
    for name, (value, low, high) in rows.items():
        yield f"  {name:<{width}}  {value:.3f}  [{low:.3f}, {high:.3f}]  {metrics.get(name, '')}"


def _labelled(task: Task, recordings: Sequence[Recording]) -> str:
    values = [np.atleast_1d(np.asarray(r.labels[task.name])) for r in recordings if task.name in r.labels]
    known = np.concatenate(values) if values else np.zeros(0)
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
