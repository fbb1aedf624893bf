# /// script
# requires-python = ">=3.11"
# dependencies = ["ethoray"]
#
# [tool.uv.sources]
# ethoray = { path = "..", editable = true }
# ///
"""ZebraZoom's results: swim bouts of zebrafish larvae in wells, a bout a recording.

    python datasets/zebrazoom.py --raw FOLDER --out zebrazoom --fps 160

Animals: larvae, one or more a well; head and the points of the tail (often ten), in pixels of the video, as many
frames as the bout lasts. Points are ordered away from the head.
Labels: none; ZebraZoom finds bouts and does not name them.
Splits: by well and animal, a fifth for test, drawn by a hash of the name; at least one animal on each side. Videos of
one folder may show the same fish again: the files do not tell.
Frame rate: --fps; without it the one that each file states, which in the programme's examples is a placeholder.
Raw: the folder with results_<video>.txt, each as ZebraZoom wrote it (https://github.com/oliviermirat/ZebraZoom).
Licence: of whoever recorded them. Citation: Mirat, Sternberg, Severi & Wyart, ZebraZoom, Frontiers in Neural
Circuits 7:107, 2013.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ethoray import store
from ethoray.ingest import Part, ingest
from ethoray.readers import ReadError, zebrazoom
from ethoray.schema import Card, Recording, Skeleton

SIZES = {"small": 20, "full": None}


def files(raw: Path) -> list[Path]:
    """The files of results in the folder, known by what is inside them."""
    found = []
    for path in sorted(p for p in raw.glob("*") if p.suffix in (".txt", ".json") and p.is_file()):
        with path.open("rb") as file:
            if zebrazoom.sniffs(file.read(4096), path):
                found.append(path)
    if not found:
        raise ReadError(f"{raw}: no results_<video>.txt of ZebraZoom")
    return found


def rate(found: list[Path], fps: float | None) -> float:
    """The given frame rate, else the one that every file states."""
    stated = {zebrazoom.stated_fps(path) for path in found} if fps is None else {fps}
    if len(stated) > 1 or None in stated:
        raise ReadError(f"{found[0].parent}: the files state no one frame rate; give it (--fps 160)")
    return float(next(iter(stated)) or 0.0)


def card(name: str, skeleton: Skeleton, found: list[Path], fps: float, given: bool) -> Card:
    """The card of these files."""
    return Card(
        name=name,
        species="zebrafish larva",
        fps=fps,
        skeleton=skeleton,
        split_rule="by well and animal, a fifth for test",
        citation="Mirat, Sternberg, Severi & Wyart, ZebraZoom, Frontiers in Neural Circuits 7:107, 2013",
        source="https://github.com/oliviermirat/ZebraZoom",
        description=(__doc__ or "").partition("\n\n")[0],
        notes=() if given else (f"frame rate {fps:g} as the files state it; check it against the camera's",),
        checksums=tuple(f"{hashlib.sha256(p.read_bytes()).hexdigest()} {p.name}" for p in found),
    )


def recordings(found: list[Path], fps: float, most: int | None) -> Iterator[Recording]:
    """The bouts of every file, at most so many of each, split by animal."""
    bouts = [bout for path in found for bout in itertools.islice(zebrazoom.sequences(path, fps), most)]
    drawn = sorted({b.subject for b in bouts}, key=lambda s: hashlib.sha256(s.encode()).hexdigest())
    tested = set(drawn[: max(len(drawn) // 5, 1)]) if len(drawn) > 1 else set()
    for bout in bouts:
        yield replace(bout, split="test" if bout.subject in tested else "train")


def main() -> None:
    """Write the dataset."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--raw", required=True, type=Path, metavar="FOLDER", help="holds results_<video>.txt")
    parser.add_argument("--out", required=True, metavar="NAME", help="the dataset's name in the store")
    parser.add_argument("--size", choices=SIZES, default="full", help=f"small: {SIZES['small']} bouts of each file")
    parser.add_argument("--root", help="folder or URL of the store (default: $ETHORAY_STORE or store)")
    parser.add_argument("--fps", type=float, help="frames per second (default: what the files state)")
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset of that name")
    args = parser.parse_args()
    try:
        found = files(args.raw)
        fps = rate(found, args.fps)
        bouts = list(recordings(found, fps, SIZES[args.size]))
        dataset = ingest(
            card(args.out, bouts[0].skeleton, found, fps, args.fps is not None),
            [Part("bouts", lambda: bouts)],
            store.place(args.out, args.root),
            overwrite=args.overwrite,
        )
    except (ReadError, store.StoreError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    print(f"{len(dataset.entries)} recordings in {dataset.uri}")


if __name__ == "__main__":
    main()
