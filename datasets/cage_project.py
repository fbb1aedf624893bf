"""The truth of a film of simulated_video.py in files that other programs read, beside the film.

film_00_pose.csv: tracks as DeepLabCut writes them, in pixels of the film; likelihood is 1 where a keypoint is seen and
0 where it is hidden. film_00_behaviour.csv: a row a frame, a column a behaviour, 0 or 1. labeled-data/film_00: pictures
and their CollectedData csv, as in a DeepLabCut project; keypoints that are hidden are empty.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from cage_session import Truth, drawn, shoot

from ethoray import video

SCORER = "truth"


def make(path: str, seed: int, index: int, seconds: float, count: int, overwrite: bool = False) -> str:
    """A film with its truth, made where it is not there yet, and ``count`` marked pictures of it; returns the path."""
    import cage_life
    import cage_mouse

    film = Path(shoot(path, seed, index, seconds, overwrite))
    truth, name = Truth.of(film.with_suffix(".npz")), film.stem
    tracks = np.dstack([truth.keypoints, truth.visible.astype(np.float32)]).reshape(len(truth.state), -1)
    heads = _heads(cage_mouse.KEYPOINTS, ("x", "y", "likelihood"), [""])
    rows = ([i, *_cells(row)] for i, row in enumerate(tracks))
    _write(film.with_name(f"{name}_pose.csv"), [*heads, *rows])
    of_state = np.eye(len(cage_life.STATES), dtype=int)[truth.state]
    shown = ([i, *row] for i, row in enumerate(of_state.tolist()))
    _write(film.with_name(f"{name}_behaviour.csv"), [["frame", *cage_life.STATES], *shown])
    _mark(film, truth, drawn(truth, count), cage_mouse.KEYPOINTS)
    return path


def _mark(film: Path, truth: Truth, frames: np.ndarray, keypoints: tuple[str, ...]) -> None:
    """The marked pictures of a film, at its own size and in colour; those of an earlier draw are replaced."""
    from PIL import Image

    folder = film.parent / "labeled-data" / film.stem
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("img*.png"):
        old.unlink()
    rows: list[list[object]] = []
    for found in video.frames(film, video.View(None, grey=False), only=frames.tolist()):
        picture = f"img{found.index:06d}.png"
        Image.fromarray(found.image).save(folder / picture)
        points = np.where(truth.visible[found.index][:, None], truth.keypoints[found.index], np.nan)
        rows.append(["labeled-data", film.stem, picture, *_cells(points.ravel())])
    _write(folder / f"CollectedData_{SCORER}.csv", [*_heads(keypoints, ("x", "y"), ["", "", ""]), *rows])


def _heads(keypoints: tuple[str, ...], coords: tuple[str, ...], lead: list[str]) -> list[list[str]]:
    """DeepLabCut's header rows behind as many columns as ``lead`` has."""
    bodyparts = [name for name in keypoints for _ in coords]
    columns = {"scorer": [SCORER] * len(bodyparts), "bodyparts": bodyparts, "coords": [*coords] * len(keypoints)}
    return [[word, *lead[1:], *cells] for word, cells in columns.items()]


def _cells(values: np.ndarray) -> list[str]:
    return ["" if np.isnan(v) else f"{v:.6g}" for v in values.tolist()]


def _write(path: Path, rows: Iterable[list[object] | list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
