"""Pictures on which people marked keypoints (a DeepLabCut or Lightning Pose project) as recordings of one frame.

A csv with the header rows scorer, bodyparts, coords names a picture a row, in one column or in three (DeepLabCut since
2.2: labeled-data, video, file). Pictures are resized without keeping proportions; keypoints are in pixels of the
stored picture, where the centre of the first pixel is 0: x' = (x + 1/2) * stored width / original width - 1/2.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from ethoray.dataset import Dataset
from ethoray.ingest import Part, ingest
from ethoray.readers.contents import ReadError
from ethoray.schema import Card, Recording, Skeleton


@dataclass(frozen=True)
class Project:
    """Hand labels: by picture, a path beside the csv, float32 (keypoint, 2) with NaN where one is missing."""

    file: Path
    keypoints: tuple[str, ...]
    points: dict[str, np.ndarray]


def project(folder: Path) -> Project | None:
    """The labels of a folder, or None where it holds no CollectedData csv; ReadError when there are several."""
    files = sorted(folder.glob("CollectedData*.csv")) if folder.is_dir() else []
    files = files or (sorted(folder.glob("labeled-data/*/CollectedData*.csv")) if folder.is_dir() else [])
    if not files:
        return None
    read = [_read(file, folder) for file in files]
    odd = [p for p in read if p.keypoints != read[0].keypoints]
    if odd:
        raise ReadError(f"{odd[0].file}: its bodyparts differ from those of {read[0].file}")
    return Project(files[0], read[0].keypoints, {name: values for p in read for name, values in p.points.items()})


def _read(path: Path, folder: Path) -> Project:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row]
    heads = {row[0].strip().lower(): row for row in rows[:4]}
    if "individuals" in heads:
        raise ReadError(f"{path}: labels of several individuals are not read here")
    if "bodyparts" not in heads or "coords" not in heads:
        raise ReadError(f"{path}: no header rows bodyparts and coords; is it a CollectedData csv?")
    first = next((i for i, word in enumerate(heads["coords"]) if word.strip() == "x"), 0)
    names, coords = heads["bodyparts"][first:], [word.strip() for word in heads["coords"][first:]]
    if first not in (1, 3) or coords != ["x", "y"] * (len(coords) // 2) or names[::2] != names[1::2]:
        raise ReadError(f"{path}: columns are not x, y of one bodypart after another")
    points = {}
    for number, row in enumerate(rows, start=1):
        if row[0].strip().lower() in ("scorer", "bodyparts", "coords"):
            continue
        try:
            values = [float(word) if word.strip() else np.nan for word in row[first:]]
            marks = np.array(values, np.float32).reshape(len(names) // 2, 2)
        except ValueError as error:
            raise ReadError(
                f"{path}, row {number}: {len(names)} numbers are needed after the picture's name"
            ) from error
        marks[np.isnan(marks).any(1)] = np.nan
        points["/".join(row[:first])] = marks
    if not points:
        raise ReadError(f"{path}: no labelled pictures")
    return Project(path, tuple(names[::2]), points)


def write(found: Project, root: str, size: tuple[int, int], *, grey: bool, overwrite: bool) -> Dataset:
    """The dataset of labelled pictures, split by folder, or where it is one in blocks of their order."""
    names = sorted(found.points)
    groups = sorted({str(PurePosixPath(name).parent) for name in names})
    if len(groups) > 1:
        held = set(groups[4::5] or groups[-1:])
        sides = {name: "test" if str(PurePosixPath(name).parent) in held else "train" for name in names}
    else:
        sides = {name: "test" if i >= len(names) * 4 // 5 else "train" for i, name in enumerate(names)}
    about = Card(
        name=root.rpartition("/")[2],
        species="see the pictures",
        fps=1.0,
        skeleton=Skeleton(found.keypoints),
        split_rule="by video" if len(groups) > 1 else "contiguous blocks of the pictures' order, one video",
        unit=f"pixel of the stored {size[0]} x {size[1]} picture",
        licence="that of the pictures",
        source="a project of labelled pictures",
        description="Pictures with keypoints marked by hand, one a recording; fps means nothing here.",
    )
    make = partial(pictures, found, sides, size, grey)
    return ingest(about, [Part("labelled pictures", make, len(names))], root, overwrite=overwrite, progress=False)


def pictures(found: Project, sides: dict[str, str], size: tuple[int, int], grey: bool) -> Iterator[Recording | str]:
    """A recording of one frame for every picture; then how large the originals were."""
    from PIL import Image

    skeleton = Skeleton(found.keypoints)
    sizes: dict[tuple[int, int], int] = {}
    for name, side in sides.items():
        path = _inside(found.file, name)
        try:
            with Image.open(path, formats=("PNG", "JPEG", "BMP", "TIFF")) as picture:
                original = picture.size
                pixels = np.asarray(picture.convert("L" if grey else "RGB").resize(size, Image.Resampling.BILINEAR))
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise ReadError(f"{path}: the picture that {found.file.name} names cannot be read ({error})") from error
        scale = np.array(size) / original
        marks = (found.points[name] + 0.5) * scale - 0.5
        sizes[original] = sizes.get(original, 0) + 1
        where = PurePosixPath(name)
        yield Recording(
            name="-".join(where.with_suffix("").parts),
            subject="-".join(where.parent.parts) or "pictures",
            fps=1.0,
            skeleton=skeleton,
            keypoints=marks[None, None].astype(np.float32),
            split=side,
            images=pixels.reshape(1, size[1], size[0], -1),
        )
    for (width, height), count in sorted(sizes.items()):
        yield (
            f"{count} pictures were {width} x {height} pixels: a stored pixel is {width / size[0]:.6g} wide and "
            f"{height / size[1]:.6g} high in pixels of the original"
        )


def _inside(file: Path, name: str) -> Path:
    """The picture of a row, beside the csv or above it, never outside the project."""
    for folder in (file.parent, *file.parent.parents[:2]):
        path = (folder / name).resolve()
        if path.is_file() and path.is_relative_to(folder.resolve()):
            return path
    raise ReadError(f"{file}: names the picture {name!r}, which is not there")
