# /// script
# requires-python = ">=3.11"
# dependencies = ["ethoray"]
#
# [tool.uv.sources]
# ethoray = { path = "..", editable = true }
# ///
"""PoseR's bouts of larval zebrafish: 19 keypoints at 330 Hz, a swim bout a recording, sorted into classes.

    python datasets/poser_zebrafish.py --raw FOLDER --out poser_zebrafish --classes forward,left,right

Animals: zebrafish larvae, one a bout: nose, four points an eye, ten along the tail; x, y and confidence, 330 frames
per second, about 82 frames a bout, some tiled to 300. How many bouts the release holds was not checked here.
Recording task: bout, the class number (several classes: macro recall; two: F1). Negative numbers are unlabelled.
Splits: where the folder holds X_train.npy and X_test.npy (labels y_train.npy, y_test.npy), by file; else every npy
of bouts, with <name>_labels.npy beside it, is split by a hash of the bout's name, a fifth for test. Bouts do not tell
which fish they are of, so a fish may be on both sides of the latter.
Skeleton: bones are those the authors list; their own graph is shifted by one keypoint.
Get the npy files of "Datasets of larval zebrafish behaviour, Mullen et al., 2023" on Zenodo. They are plain numbers.
Licence: see the record. Citation: Mullen, Bowlby, Armstrong & Zwart, PoseR, Open Biology 16(1):250322, 2026.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ethoray import store
from ethoray.ingest import Part, ingest
from ethoray.readers import ReadError, poser
from ethoray.schema import Card, Recording, Task

SIZES = {"small": 1000, "full": None}
File = tuple[str | None, Path, Path | None]


def files(raw: Path) -> list[File]:
    """Split (None: by hash), bouts and labels, of each file of bouts in the folder."""
    named = [(s, raw / f"X_{s}.npy", raw / f"y_{s}.npy") for s in ("train", "test")]
    if all(bouts.is_file() for _, bouts, _ in named):
        return [(s, bouts, labels if labels.is_file() else None) for s, bouts, labels in named]
    found: list[File] = []
    for path in sorted(raw.glob("*.npy")):
        with path.open("rb") as file:
            if poser.sniffs(file.read(4096), path):
                labels = path.with_name(f"{path.stem}_labels.npy")
                found.append((None, path, labels if labels.is_file() else None))
    if not found:
        raise ReadError(
            f"{raw}: no npy of bouts (bout, channel, time, keypoint, animal); the recipe says where to look"
        )
    return found


def card(found: list[File], names: tuple[str, ...], fps: float) -> Card:
    """The card of these files; classes that have no name get their number."""
    labels = [poser.numbers(path) for _, _, path in found if path is not None]
    count = poser.classes(labels) if labels else 0
    if names and count > len(names):
        raise ReadError(f"--classes names {len(names)} classes, the labels hold {count}")
    names = names or tuple(f"class_{n}" for n in range(count))
    several = Task("bout", "multiclass", "recording", names, "macro_recall") if len(names) > 2 else None
    tasks = (several or Task("bout", "binary", "recording", names),) if labels else ()
    by_file = found[0][0] is not None
    return Card(
        name="poser_zebrafish",
        species="zebrafish larva",
        fps=fps,
        skeleton=poser.LARVA,
        tasks=tasks,
        split_rule="by file" if by_file else "by bout, a fifth for test; fish are unknown and may be on both sides",
        licence="see the record",
        citation="Mullen, Bowlby, Armstrong & Zwart, PoseR, Open Biology 16(1):250322, 2026",
        source="Zenodo, Datasets of larval zebrafish behaviour, Mullen et al., 2023",
        description=(__doc__ or "").partition("\n\n")[0],
    )


def recordings(found: list[File], fps: float, most: int | None) -> Iterator[Recording]:
    """The bouts of every file; at most so many of each file."""
    for split, path, labels in found:
        for count, bout in enumerate(poser.sequences(path, labels, fps=fps)):
            if most is not None and count >= most:
                break
            drawn = int(hashlib.sha256(bout.name.encode()).hexdigest(), 16) % 5
            yield replace(bout, split=split or ("train" if drawn else "test"))


def main() -> None:
    """Write the dataset."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--raw", required=True, type=Path, metavar="FOLDER", help="holds npy files of bouts and of labels"
    )
    parser.add_argument("--out", required=True, metavar="NAME", help="the dataset's name in the store")
    parser.add_argument("--size", choices=SIZES, default="full", help=f"small: {SIZES['small']} bouts of each file")
    parser.add_argument("--root", help="folder or URL of the store (default: $ETHORAY_STORE or store)")
    parser.add_argument("--classes", metavar="NAMES", help="names of classes 0, 1, ..., with commas between")
    parser.add_argument("--fps", type=float, default=poser.FPS, help="frames per second (default: 330)")
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset of that name")
    args = parser.parse_args()
    try:
        found = files(args.raw)
        names = tuple(name.strip() for name in args.classes.split(",")) if args.classes else ()
        dataset = ingest(
            card(found, names, args.fps),
            [Part("bouts", lambda: recordings(found, args.fps, SIZES[args.size]))],
            store.place(args.out, args.root),
            overwrite=args.overwrite,
        )
    except (ReadError, store.StoreError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    print(f"{len(dataset.entries)} recordings in {dataset.uri}")


if __name__ == "__main__":
    main()
