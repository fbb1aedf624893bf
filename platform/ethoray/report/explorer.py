"""What a page knows of its moments so that a reader can look around: a map to click, and movements to play."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ethoray import figures, moments
from ethoray.dataset import Dataset
from ethoray.moments import MISSING, Clips, Place
from ethoray.report.gallery import balanced
from ethoray.report.shown import Shown
from ethoray.schema import Task

BUDGET = 600_000
"""Bytes of base64 that the movements of a page may take."""
_POINTS, _EXAMPLES, _LABELS, _SIDE = 900, 5, 24, 1000


@dataclass(frozen=True)
class Strip:
    """Examples of one cluster or class: what it is, how often, and rows of ``Explorer.clips``."""

    kind: str
    name: str
    share: str
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Explorer:
    """Moments to look at: ``document`` is what the page's script reads; the clips are also drawn as strips."""

    document: dict[str, Any]
    strips: tuple[Strip, ...]
    clips: Clips


def explorer(dataset: Dataset, shown: Shown) -> Explorer | None:
    """The map's moments and five examples of every cluster and frame-level class; None without keypoints."""
    skeleton, found = dataset.card.skeleton, shown.moments
    if not skeleton.keypoints:
        return None
    cluster, distance = moments.clusters(found.spaces[shown.space])
    groups = _groups(dataset, shown, cluster, distance)
    examples = list(dict.fromkeys(place for *_, places in groups for place in places))
    animals = max(len(entry.individuals) for entry in found.entries)
    stride = max(1, round(dataset.card.fps / 10))
    one = (2 * max(1, round(dataset.card.fps / stride)) + 1) * animals * len(skeleton.keypoints) * 16 / 3
    many = max(30, min(_POINTS, int(BUDGET / one) - len(examples)))
    kept = np.unique(np.linspace(0, len(found) - 1, min(many, len(found))).round().astype(int))
    all_places = found.places()
    places = [all_places[i] for i in kept]
    row = {place: i for i, place in enumerate([*places, *(e for e in examples if e not in set(places))])}
    clips = moments.clips(dataset, found.entries, list(row))
    xy = figures.plane(found.spaces[shown.space])[kept]
    strips = tuple(Strip(kind, name, share, tuple(row[p] for p in places)) for kind, name, share, places in groups)
    colours = _colours(dataset, shown, cluster, kept)
    return Explorer(_document(dataset, shown, list(row), xy, colours, clips), strips, clips)


def _groups(dataset: Dataset, shown: Shown, cluster: np.ndarray, distance: np.ndarray) -> list[Any]:
    """(kind, name, share, places) of every cluster, then of every frame-level class that is seen."""
    found, groups = shown.moments, []
    for i in range(cluster.max() + 1):
        places = moments.nearest(found, cluster == i, distance, _EXAMPLES)
        groups.append(("cluster", f"cluster {i + 1}", _percent((cluster == i).mean()), places))
    for task in dataset.card.tasks:
        if task.level != "frame" or task.kind == "regression":
            continue
        seen = np.concatenate([np.asarray(track) for track in found.tracks[task.name]])
        known = max(int(np.isfinite(seen).sum()), 1)
        for value in range(1 if task.kind == "binary" else 0, len(task.classes) or 2):
            places = moments.longest(found, task, value, _EXAMPLES)
            name = task.name if task.kind == "binary" else f"{task.name}: {task.classes[value]}"
            if places:
                groups.append(("label", name, _percent((seen == value).sum() / known), places))
    return groups[: cluster.max() + 1 + _LABELS]


def _colours(dataset: Dataset, shown: Shown, cluster: np.ndarray, kept: np.ndarray) -> list[dict[str, Any]]:
    found = shown.moments
    told = [
        {
            "name": "cluster",
            "values": cluster[kept].tolist(),
            "classes": [f"cluster {i + 1}" for i in range(cluster.max() + 1)],
        }
    ]
    for task in balanced(dataset.card.tasks, found):
        told.append(
            {"name": task.name, "values": _plain(found.labels[task.name][kept]), "classes": _classes(task)},
        )
    seconds = found.frame[kept] / dataset.card.fps
    told.append({"name": "time (s)", "values": _plain(seconds), "classes": None})
    told.append({"name": "recording, in order", "values": found.recording[kept].tolist(), "classes": None})
    return told


def _classes(task: Task) -> Any:
    return None if task.kind == "regression" else list(task.classes or ("no", "yes"))


def _document(
    dataset: Dataset, shown: Shown, places: Sequence[Place], xy: np.ndarray, colours: list[dict[str, Any]], clips: Clips
) -> dict[str, Any]:
    low, high = xy.min(0), xy.max(0)
    flat = np.round((xy - low) / np.maximum(high - low, 1e-9) * _SIDE).astype(int)
    card, entries = dataset.card, shown.moments.entries
    return {
        "points": flat.tolist(),
        "places": [[recording, frame] for recording, frame in places],
        "recordings": [entry.name for entry in entries],
        "individuals": list(max(entries, key=lambda entry: len(entry.individuals)).individuals),
        "fps": card.fps,
        "clip_fps": clips.fps,
        "colours": colours,
        "bones": [list(bone) for bone in card.skeleton.bones],
        "keypoints": list(card.skeleton.keypoints),
        "shape": list(clips.values.shape),
        "missing": MISSING,
        "clips": base64.b64encode(clips.values.astype("<u2").tobytes()).decode(),
    }


def _plain(values: np.ndarray) -> list[float | None]:
    return [round(float(v), 3) if np.isfinite(v) else None for v in values]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"
