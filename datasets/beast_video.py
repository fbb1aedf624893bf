# /// script
# requires-python = ">=3.11"
# dependencies = ["ethoray[video]", "pillow"]
#
# [tool.uv.sources]
# ethoray = { path = "..", editable = true }
# ///
"""Videos of animals as frames to learn from, chosen the way BEAST chooses them.

    python datasets/beast_video.py --raw FOLDER --out NAME --size small

Animals: whatever the videos in FOLDER show (mp4, mov, avi, mkv, webm, wmv, mpg at any depth, and HDF5 files with a
dataset ``video``, uint8 (frame, height, width)). Every video is a recording without keypoints.
Frames: anchors, 100 a video (small) or 500 (full, as in BEAST), each with its neighbours, as 224 x 224 pixels without
keeping proportions. Distinct anchors move more than the median frame and lie nearest the centres of k-means clusters
of 32 x 32 thumbnails; uniform anchors are drawn from stretches of equal length. ``--every`` writes all frames.
Every stretch of neighbouring frames is a clip; its start is the frame's number in the video as it is shown.
``frames/<video>.parquet`` beside the shards has a row a written frame: video, recording, frame, time (seconds as the
file states them, also where the rate varies) and whether it is an anchor.
Split: every fifth video, or the last one, is for test; a single video is cut into two blocks with a gap.
Labelled frames: where FOLDER (or ``--labelled FOLDER``) holds a DeepLabCut or Lightning Pose project's CollectedData
csv and its pictures, NAME_labelled gets one recording a picture; keypoints are in pixels of the stored picture, and
the card says what one of them is in the original.
Damage: what cannot be decoded is left out and said in the card (``--damage skip``), or ends the run (``stop``).
What it is not: behaviour labels. Licence and citation are those of the videos.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from functools import partial
from math import isfinite
from pathlib import Path

import film_frames
import labelled_frames
import numpy as np
from film_frames import PIECE, SKELETON, Plan, extract

from ethoray import store, video
from ethoray.dataset import Dataset
from ethoray.ingest import Part, ingest
from ethoray.readers import hdf5
from ethoray.schema import Card, SchemaError

SIZES = {"small": 100, "full": 500}
SUFFIXES = {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".wmv", ".mpg", ".mpeg", ".h5", ".hdf5"}


def films(raw: Path) -> dict[str, Path]:
    """The videos at or under a path, by a name that is unique: the file's, or the path to it where two are alike."""
    if raw.is_file():
        return {raw.stem: raw}
    found = sorted(p for p in raw.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file() and _is_film(p))
    stems = [p.stem for p in found]
    paths = (p.relative_to(raw).with_suffix("") for p in found)
    return {p.name if stems.count(p.name) == 1 else "-".join(p.parts): f for p, f in zip(paths, found, strict=True)}


def _is_film(path: Path) -> bool:
    """Pose files are HDF5 too; anything that merely claims to be a video is one that must be reported."""
    if path.suffix.lower() not in (".h5", ".hdf5"):
        return True
    with path.open("rb") as file:
        return hdf5.holds(file.read(16), path, "video")


def blocks(name: str, place: int, films: int, first: int, last: int, gap: int) -> tuple[tuple[str, str, int, int], ...]:
    """Which side a video is on; a single one is cut into a block to train on, a gap, and the last fifth to test on."""
    if films > 1:
        test = place % 5 == 4 or (films < 5 and place == films - 1)
        return ((name, "test" if test else "train", first, last),)
    cut = first + (last - first) * 4 // 5
    return ((f"{name}_train", "train", first, max(first + 1, cut - gap)), (f"{name}_test", "test", cut, last))


def rate(found: dict[str, video.Probe], stated: float | None) -> float:
    """The frames per second of the dataset; videos that differ by more than 1 % cannot be in one."""
    if stated is not None:
        return stated
    rates = {name: about.fps for name, about in found.items()}
    mute = [name for name, fps in rates.items() if not isfinite(fps)]
    if mute:
        raise SchemaError(f"{', '.join(mute[:8])}: states no frames per second; say the true rate with --fps")
    middle = float(np.median(list(rates.values())))
    odd = [f"{name} {fps:g}" for name, fps in rates.items() if abs(fps / middle - 1) > 0.01]
    if odd:
        raise SchemaError(
            f"frames per second differ by more than 1 %: {', '.join(odd[:8])}; the middle is {middle:g}. "
            "Prepare them apart, or say the true rate with --fps"
        )
    return middle


def card(name: str, fps: float, notes: tuple[str, ...], single: bool) -> Card:
    """The card of videos."""
    return Card(
        name=name,
        species="see the videos",
        fps=fps,
        skeleton=SKELETON,
        split_rule="contiguous blocks of one video with a gap" if single else "by video",
        licence="that of the videos",
        source="a folder of videos",
        description=" ".join((__doc__ or "").partition("\n\n")[0].split()),
        notes=notes,
    )


def main() -> None:
    """Write the dataset, and that of labelled frames where there are any."""
    args = arguments().parse_args()
    try:
        run(args, store.place(args.out, args.root))
    except (ValueError, OSError, ImportError) as error:  # of the files, the settings or the store; each says what to do
        sys.exit(f"beast_video: {error}")


def run(args: argparse.Namespace, root: str) -> None:
    """What the command does, with its settings read."""
    if args.rgb and args.grey:
        raise SchemaError("--rgb and --grey exclude each other")
    if args.every and (args.stride > 1 or args.exclude):
        raise SchemaError("--every writes all frames; --stride and --exclude are about anchors")
    size, notes = (args.pixels, args.pixels), []
    found: dict[str, video.Probe] = {}
    paths = films(Path(args.raw))
    for name, path in paths.items():
        try:
            found[name] = video.probe(path)
        except video.VideoError as error:
            if args.damage == "stop":
                raise
            notes.append(f"{name}: left out. {error}")
    project = labelled_frames.project(Path(args.labelled or args.raw))
    if args.labelled and project is None:
        raise SchemaError(f"{args.labelled} holds no CollectedData csv")
    if not found and project is None:
        raise SchemaError("; ".join([f"{args.raw} holds no video that can be read", *notes]))
    if found:
        done = write(args, root, paths, found, notes)
        print("\n".join([*done.card.notes, f"{len(done.entries)} recordings in {done.uri}"]))
    elif notes:
        print("\n".join(notes))
    if project is not None:
        done = labelled_frames.write(project, f"{root}_labelled", size, grey=not args.rgb, overwrite=args.overwrite)
        print(f"{len(done.entries)} labelled frames in {done.uri}")


def write(
    args: argparse.Namespace, root: str, paths: dict[str, Path], found: dict[str, video.Probe], notes: list[str]
) -> Dataset:
    """The dataset of the videos that could be read."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    fps = rate(found, args.fps)
    workers = args.workers or min(cores, len(found))
    args.folder, args.threads = root, max(1, cores // workers)
    plans = [plan(args, fps, place, paths, found) for place in range(len(found))]
    stamps = [f"{s.st_size} {s.st_mtime_ns}" for s in (paths[p.name].stat() for p in plans)]
    parts = [Part(p.name, partial(extract, p), 0, stamp) for p, stamp in zip(plans, stamps, strict=True)]
    if workers > 1:  # processes that do not have this folder
        from ray import cloudpickle

        cloudpickle.register_pickle_by_value(film_frames)
    about = card(args.out, fps, tuple(notes), len(found) == 1)
    seconds = (PIECE if args.every else 1024) / fps
    try:
        return ingest(about, parts, root, workers=workers, overwrite=args.overwrite, clip_seconds=seconds)
    except store.StoreError as error:
        if args.damage == "skip" and "no recordings" in str(error):
            raise SchemaError(f"{error}: every video was left out; --damage stop says why") from error
        raise


def plan(
    args: argparse.Namespace, fps: float, place: int, paths: dict[str, Path], found: dict[str, video.Probe]
) -> Plan:
    """What the settings ask for of one video."""
    name = list(found)[place]
    around = round(float(args.context[:-1]) * fps) if args.context.endswith("s") else int(args.context)
    last = min(found[name].frames, args.stop or found[name].frames)
    if args.start >= last:
        raise SchemaError(f"{name} has {found[name].frames} frames, none from {args.start} to {args.stop}")
    shape = (found[name].width, found[name].height)
    if args.region and any(args.region[i] + args.region[i + 2] > shape[i] for i in (0, 1)):
        raise SchemaError(f"{name} is {shape[0]} x {shape[1]} pixels; --region {args.region} leaves it")
    return Plan(
        path=str(paths[name].resolve()),
        name=name,
        about=found[name],
        fps=fps,
        blocks=blocks(name, place, len(found), args.start, last, max(round(fps), around + 1)),
        count=args.frames or SIZES[args.size],
        policy=args.policy,
        around=around,
        view=video.View((args.pixels, args.pixels), not args.rgb, args.region, args.start, args.stop, args.stride),
        every=args.every,
        exclude=excluded(args.exclude).get(name, ()),
        skip=args.damage == "skip",
        threads=args.threads,
        seed=args.seed,
        folder=args.folder,
    )


def excluded(path: str | None) -> dict[str, tuple[tuple[int, int], ...]]:
    """By video the stretches of a csv with the columns video, first, last (frames, both included)."""
    out: dict[str, tuple[tuple[int, int], ...]] = {}
    if path is None:
        return out
    with open(path, newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            try:
                out[row["video"]] = (*out.get(row["video"], ()), (int(row["first"]), int(row["last"])))
            except (KeyError, TypeError, ValueError):
                raise SchemaError(
                    f"{path}, line {number}: needs video, first, last, as name and frame numbers"
                ) from None
    return out


def arguments() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--raw", required=True, metavar="FOLDER", help="videos, at any depth, or one video")
    add("--out", required=True, metavar="NAME", help="the dataset's name in the store")
    add("--size", choices=SIZES, default="small", help="100 or 500 anchors a video")
    add("--root", help="folder or URL of the store (default: $ETHORAY_STORE or store)")
    add("--frames", type=_positive, metavar="N", help="anchors a video, instead of the size's number")
    add("--policy", choices=("distinct", "uniform"), default="distinct", help="which frames become anchors")
    add("--context", type=_context, default="1", metavar="K", help="frames around an anchor, or seconds: 1, 0.1s")
    add("--pixels", type=_positive, default=224, help="width and height of what is stored")
    add("--rgb", action="store_true", help="three channels instead of one")
    add("--grey", action="store_true", help="one channel (the default)")
    add("--every", action="store_true", help="all frames instead of anchors, to embed or judge with")
    add("--fps", type=float, help="the true rate, where files state none (h5) or another (slow motion)")
    add("--start", type=int, default=0, metavar="FRAME", help="first frame that is used of every video")
    add("--stop", type=_positive, metavar="FRAME", help="frame after the last one used")
    add("--stride", type=_positive, default=1, help="only every so many frames may be anchors")
    add("--region", type=_region, metavar="X,Y,W,H", help="part of the picture, in pixels as it is shown")
    add("--exclude", metavar="CSV", help="columns video, first, last: stretches where no anchor may lie")
    add("--labelled", metavar="FOLDER", help="a project with CollectedData csv, where it is not in --raw")
    add("--damage", choices=("skip", "stop"), default="skip", help="leave out and say so, or stop")
    add("--workers", type=_positive, help="videos at a time (default: one a core)")
    add("--seed", type=int, default=0)
    add("--overwrite", action="store_true", help="replace a dataset of that name")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _context(text: str) -> str:
    try:
        good = float(text[:-1]) >= 0 if text.endswith("s") else int(text) >= 0
    except ValueError:
        good = False
    if not good:
        raise argparse.ArgumentTypeError(f"{text!r} is neither frames (1) nor seconds (0.1s)")
    return text


def _region(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if len(parts) != 4 or not all(p.strip().isdigit() for p in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not x,y,width,height in whole pixels")
    return tuple(int(p) for p in parts)


if __name__ == "__main__":
    main()
