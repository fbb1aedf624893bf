"""One recording up close: what a run says of it from frame to frame, and what its encoder expects and fills in."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ethoray import embedding, figures, geometry, moments, reconstruction
from ethoray.batch import collate
from ethoray.dataset import Dataset, Entry
from ethoray.embedding import ALL
from ethoray.experiment import restore
from ethoray.figures.style import style
from ethoray.forecast import Forecasts, histograms
from ethoray.learning import Encoder
from ethoray.report.shown import FORESEEN, Picture, Shown, brief
from ethoray.schema import Task
from ethoray.tables import Leaderboard

SECONDS = 60.0
_TRAINED, _ROWS = 4000, 10


def of_run(dataset: Dataset, shown: Shown, entry: Entry, folder: Path) -> Iterator[Picture]:
    """Ethogram, strips over time and a map by individual of the run a page looks into."""
    _, encoder = restore(shown.folder)
    (seen,) = embedding.embed(encoder, dataset, [entry])
    labels = dataset.labels(entry)
    tasks = [t for t in dataset.card.tasks if t.level == "frame" and t.kind != "regression"]
    tasks = [t for t in tasks if np.nan_to_num(labels[t.name]).any()][:_ROWS]
    window = _window([np.asarray(labels[t.name]) for t in tasks], entry)
    began = window.start / entry.fps
    where = f"{entry.name}, {began:.0f} to {began + (window.stop - window.start) / entry.fps:.0f} s"
    guessed = _predicted(dataset, shown, tasks, seen.spaces[shown.space])
    tracks = {t.name: {"labelled": np.asarray(labels[t.name])[window], **guessed(t, window)} for t in tasks}
    if tracks:
        classes = {t.name: t.classes for t in tasks if t.classes}
        files = figures.ethogram(tracks, entry.fps, folder / "ethogram", classes)
        yield Picture(
            f"Labelled and predicted: {shown.title}",
            f"Test recording {where}. Predicted is a balanced ridge probe on space {shown.space}, fitted to at most "
            f"{_TRAINED:,} moments of training recordings.",
            tuple(files),
        )
    spaces = {n: z[window] for n, z in seen.spaces.items() if n != ALL or len(seen.spaces) == 1}
    widest = max(tasks, key=lambda t: float(np.nanvar(np.asarray(labels[t.name])[window])), default=None)
    bouts = None if widest is None else np.nan_to_num(np.asarray(labels[widest.name])[window]) > 0
    files = figures.strips(spaces, entry.fps, folder / "strips", bouts)
    grey = "" if widest is None else f" The band on top is black where {widest.name} is labelled."
    yield Picture(
        f"What the embedding does over time: {shown.title}",
        f"Test recording {where}. Features of each space, the quickest on top.{grey}",
        tuple(files),
    )
    yield from _individuals(dataset, shown, entry, encoder, folder)


def _window(tracks: list[np.ndarray], entry: Entry) -> slice:
    """The minute in which most changes, from the beginning in steps of half a minute."""
    length = min(entry.frames, round(SECONDS * entry.fps))
    starts = range(0, entry.frames - length + 1, max(1, length // 2))
    changes = [np.concatenate([[0], np.abs(np.diff(np.nan_to_num(track))) > 0]) for track in tracks]
    best = max(starts, key=lambda s: sum(float(c[s : s + length].sum()) for c in changes))
    return slice(best, best + length)


def _predicted(dataset: Dataset, shown: Shown, tasks: list[Task], z: np.ndarray) -> Any:
    """By task: {"predicted": classes of a window}; nothing where training has one class only."""
    from sklearn.linear_model import RidgeClassifier

    train = moments.sample(shown.folder, dataset, count=_TRAINED, split="train") if "train" in dataset.splits else None

    def guess(task: Task, window: slice) -> dict[str, np.ndarray]:
        if train is None:
            return {}
        y = train.labels[task.name]
        known = np.isfinite(y)
        if len(np.unique(y[known])) < 2:
            return {}
        ridge = RidgeClassifier(alpha=1.0, class_weight="balanced").fit(train.spaces[shown.space][known], y[known])
        return {"predicted": ridge.predict(z[window]).astype(np.float64)}

    return guess


@torch.no_grad()
def _individuals(dataset: Dataset, shown: Shown, entry: Entry, encoder: Encoder, folder: Path) -> Iterator[Picture]:
    """Each animal on its own, before they are pooled; nothing for one animal or an encoder of groups."""
    if len(entry.individuals) < 2:
        return
    length = min(entry.frames, round(SECONDS * entry.fps) + encoder.past)
    batch = collate([dataset.keypoints(entry, 0, length)], length, len(entry.individuals), entry.fps)
    z = list(encoder.embed(batch.to(encoder.device())).values())
    if any(part.shape[2] != len(entry.individuals) for part in z):
        return
    every = max(1, length // 300)
    flat = torch.cat(z, -1)[0, min(encoder.past, length // 2) :: every].cpu().numpy()
    rows, animals = flat.shape[:2]
    who = np.tile(np.arange(animals, dtype=float), rows)
    seconds = np.repeat(np.arange(rows) * every / entry.fps, animals)
    xy = figures.plane(flat.reshape(rows * animals, -1))
    # with two names the first would be taken for an absence
    names = list(entry.individuals) if animals > 2 else [entry.individuals[0], entry.individuals[1], "nobody"]
    files = figures.scatter(xy, {"individual": (who, names), "time (s)": (seconds, None)}, folder / "individuals")
    yield Picture(
        f"Each animal on its own: {shown.title}",
        f"Test recording {entry.name}, before animals are pooled. Animals that do alike lie together.",
        tuple(files),
    )


def of_others(board: Leaderboard, dataset: Dataset, entry: Entry, folder: Path, notes: list[str]) -> Iterator[Picture]:
    """The first row whose encoder forecasts, and the first that fills in keypoints."""
    told = filled = False
    for row in board.rows:
        title = board.name(row)
        if not row["folders"] or (told and filled):
            continue
        try:
            _, encoder = restore(row["folders"][0])
            found = [] if told else list(_forecast(dataset, title, entry, encoder, folder))
            told = told or bool(found)
            more = [] if filled else list(_overlay(dataset, title, entry, encoder, folder))
            filled = filled or bool(more)
            yield from (*found, *more)
        except FORESEEN as error:
            notes.append(f"{title}: {brief(error)}")


def _forecast(dataset: Dataset, title: str, entry: Entry, encoder: Any, folder: Path) -> Iterator[Picture]:
    if not isinstance(encoder, Forecasts) or entry.frames < encoder.horizon + 60:
        return
    length = min(entry.frames, 4096)
    times = np.linspace(length // 3, length - encoder.horizon - 1, 5).astype(int).tolist()
    found = histograms(encoder, dataset.keypoints(entry, 0, length), entry.fps, times)
    if found is None:
        return
    names = list(encoder.features.quantities)
    edges, seconds = encoder.edges.cpu().numpy(), [t / entry.fps for t in times]
    yield Picture(
        f"Forecast of the next {encoder.horizon / entry.fps:g} s: {title}",
        f"Test recording {entry.name}, {entry.individuals[0]}: how often each action takes which value in what "
        "follows.",
        tuple(figures.forecast(*found, edges, names, seconds, folder / "forecast")),
    )


def _overlay(dataset: Dataset, title: str, entry: Entry, encoder: Any, folder: Path) -> Iterator[Picture]:
    """True and reconstructed poses of the animal and second that moves most; keypoints are hidden where it can be."""
    reconstruct = getattr(encoder, "reconstruct", None)
    if reconstruct is None or entry.space != 2:
        return
    length = min(entry.frames, round(20 * entry.fps))
    x = torch.as_tensor(dataset.keypoints(entry, 0, length))[None]
    batch = collate([x[0].numpy()], length, x.shape[2], entry.fps)
    hides = "hidden" in inspect.signature(reconstruct).parameters
    share = torch.rand(x.shape[1:4], generator=torch.Generator().manual_seed(0)) < 0.4
    hidden = share[None] if hides else torch.zeros(x.shape[:4], dtype=torch.bool)
    told = (reconstruct(batch, hidden) if hides else reconstruct(batch)).detach()[0].numpy()
    truth = x[0].numpy()
    animal = int(np.nanargmax(np.nanmean(np.abs(np.diff(np.nanmean(truth, 2), axis=0)), (0, 2))))
    whole = np.isfinite(truth[:, animal]).all((1, 2)) & np.isfinite(told[:, animal]).all((1, 2))
    times = np.flatnonzero(whole)
    if len(times) < 5:
        return
    middle = times[(times >= length // 3)][:: max(1, round(entry.fps / 5))][:5]
    times = middle if len(middle) == 5 else times[np.linspace(0, len(times) - 1, 5).astype(int)]
    visible = ~hidden[0, :, animal].numpy()
    body = geometry.length(torch.as_tensor(truth[:, animal] - told[:, animal]))
    error = float(np.nanmean(body.numpy()[~visible] if hides else body.numpy()))
    unit = dataset.card.unit
    with style():
        files = reconstruction.draw(
            truth[:, animal], visible, told[:, animal], dataset.card.skeleton, times.tolist(), folder / "poses", unit
        )
    what = "40 % of the keypoints were hidden" if hides else "Every pose went through the codebook and back"
    yield Picture(
        f"Reconstruction: {title}",
        f"Test recording {entry.name}, {entry.individuals[animal]}. {what}; "
        f"mean error over {length / entry.fps:.0f} s: {error:.3g} {unit}.",
        tuple(files),
    )
