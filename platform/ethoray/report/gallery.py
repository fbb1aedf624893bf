"""The pictures of a page: what the runs of a leaderboard learned, drawn from their folders and the dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ethoray import embedding, figures, moments, record, tallies
from ethoray.dataset import Dataset
from ethoray.moments import Moments
from ethoray.report import closeup
from ethoray.report.shown import FORESEEN, Picture, Shown, brief
from ethoray.report.verdict import shared_scores
from ethoray.schema import Task
from ethoray.tables import Leaderboard

_TASKS = 6
_FRAMES = 20_000  # of a recording that is embedded again for one picture


def of_scores(board: Leaderboard, folder: Path) -> Iterator[Picture]:
    """Pictures that need no dataset: cost, learning curves, confusion."""
    titles = [board.name(row) for row in board.rows]
    costs = [row["cost"].get("train_seconds", np.nan) + row["cost"].get("embed_seconds", 0) for row in board.rows]
    if len(board.rows) > 2 and np.isfinite(costs).any():
        files = figures.pareto(
            titles, costs, [row["rank"] for row in board.rows], "training, embedding and probing (s)", folder / "pareto"
        )
        yield Picture(
            "Score against cost",
            "Filled: nobody is both cheaper and better placed. Places are means over the scores all rows have.",
            tuple(files),
        )
    curves = {
        f"{title}/{seed}": record.read_metrics(path)
        for title, row in list(zip(titles, board.rows, strict=True))[:7]
        for seed, path in enumerate(row["folders"])
    }
    curves = {run: lines for run, lines in curves.items() if len(lines) > 1}
    if curves:
        files = figures.learning_curves(curves, folder / "learning")
        yield Picture(
            "Learning curves",
            "The loss and its terms over training steps, one line a run. Terms of different methods that share a name "
            "need not mean the same.",
            tuple(files),
        )


def of_runs(board: Leaderboard, dataset: Dataset, shown: Shown, folder: Path, notes: list[str]) -> Iterator[Picture]:
    """Pictures of what runs learned; what cannot be drawn, and why, goes to ``notes``."""
    yield from _confusions(board, dataset, shown, folder)
    yield from _map(dataset, shown, folder)
    entry = _entry(dataset, shown.moments)
    if entry is not None:
        yield from _foreseen(closeup.of_run(dataset, shown, shown.moments.entries[entry], folder), notes)
        yield from _foreseen(closeup.of_others(board, dataset, shown.moments.entries[entry], folder, notes), notes)
    yield from _codes(board, dataset, folder, notes)


def _foreseen(pictures: Iterator[Picture], notes: list[str]) -> Iterator[Picture]:
    try:
        yield from pictures
    except FORESEEN as error:
        notes.append(brief(error))


def _confusions(board: Leaderboard, dataset: Dataset, shown: Shown, folder: Path) -> Iterator[Picture]:
    tables = {}
    held = tallies.read(shown.folder)
    for score in shared_scores(board):
        own = shown.row["names"].get(score, score)
        task = next((t for t in dataset.card.tasks if t.name == own.rpartition("/")[0]), None)
        if task is None or task.kind == "regression" or own not in held or task.name in tables:
            continue
        tables[task.name] = held[own].values.sum(0), task.classes or ("no", "yes")
    if tables:
        files = figures.confusions(tables, folder / "confusion")
        yield Picture(
            f"Confusion: {shown.title}",
            "Shares of each true class over all test recordings, of one seed. White: the class did not occur.",
            tuple(files),
        )


def _map(dataset: Dataset, shown: Shown, folder: Path) -> Iterator[Picture]:
    found = shown.moments
    cluster, _ = moments.clusters(found.spaces[shown.space])
    seconds = found.frame / dataset.card.fps
    colours: dict[str, figures.Colouring] = {
        "k-means cluster": (cluster.astype(float), [f"{i + 1}" for i in range(cluster.max() + 1)]),
        "time (s)": (seconds, None),
    }
    if len(found.entries) > 1:
        colours["recording, in order"] = (found.recording.astype(float), None)
    for task in balanced(dataset.card.tasks, found)[:_TASKS]:
        words = None if task.kind == "regression" else task.classes or ("no", task.name)
        colours[task.name] = (found.labels[task.name], words)
    files = figures.scatter(figures.plane(found.spaces[shown.space]), colours, folder / "map")
    yield Picture(
        f"Moments of test recordings in the embedding of {shown.title}",
        f"{len(found):,} moments of {len(found.entries)} test recordings, space {shown.space}, first two principal "
        "components. The same map in every panel.",
        tuple(files),
    )


def balanced(tasks: Sequence[Task], found: Moments) -> list[Task]:
    """Tasks with two values or more among the moments: frame-level ones first, then the most even."""

    def worth(task: Task) -> tuple[bool, float]:
        values = found.labels[task.name]
        counts = np.unique(values[np.isfinite(values)], return_counts=True)[1]
        return task.level != "frame", -float(counts.min() / counts.sum()) if task.kind != "regression" else 0.0

    varied = [t for t in tasks if len(np.unique(found.labels[t.name][np.isfinite(found.labels[t.name])])) > 1]
    return sorted(varied, key=worth)


def _entry(dataset: Dataset, found: Moments) -> int | None:
    """The recording in which most frame-level behaviours are seen, among those that are not long; None without any."""
    scored = []
    for i, entry in enumerate(found.entries):
        if entry.frames <= _FRAMES:
            seen = [np.asarray(found.tracks[t.name][i]) for t in dataset.card.tasks if t.level == "frame"]
            spread = [min(float((v > 0).mean()), float((v == 0).mean())) for v in seen if np.isfinite(v).any()]
            scored.append((-sum(share > 0.02 for share in spread), -sum(spread), i))
    return min(scored)[2] if scored else None


def _codes(board: Leaderboard, dataset: Dataset, folder: Path, notes: list[str]) -> Iterator[Picture]:
    words: dict[str, Any] = {}
    for row in board.rows:
        for path in map(Path, row["folders"][:1]):
            try:
                codes = moments.sample(path, dataset, count=20_000).codes if _has_codes(path) else None
            except FORESEEN as error:
                notes.append(brief(error))
                continue
            if codes is not None:
                flat = codes.reshape(-1, codes.shape[-1])
                words[board.name(row)] = flat[(flat >= 0).all(1)]
    words = {title: flat for title, flat in words.items() if len(flat)}
    if not words:
        return
    title, flat = next(iter(words.items()))
    counts = np.stack([np.bincount(group, minlength=int(flat.max()) + 1) for group in flat.T])
    yield Picture(
        f"Codebook in use: {title}",
        f"{len(flat):,} codewords of animals at moments of test recordings. Codes above the largest that was seen are "
        "not shown.",
        tuple(figures.codebook(counts, folder / "codebook")),
    )
    yield Picture(
        "Codewords by rank",
        "How often each distinct codeword occurs among the same moments.",
        tuple(figures.rank_frequency(words, folder / "ranks")),
    )


def _has_codes(path: Path) -> bool:
    return embedding.CODES in embedding.read_part(embedding.parts(path / "embeddings")[0]).schema.names
