# /// script
# requires-python = ">=3.11"
# dependencies = ["ethoray[video]", "pillow"]
#
# [tool.uv.sources]
# ethoray = { path = "..", editable = true }
# ///
"""Simulated videos of a mouse on a treadmill, with its behaviour, its keypoints and the spikes of its neurons known.

    python datasets/simulated_video.py --size small --out cage
    python datasets/simulated_video.py --size small --out cage --video FOLDER --write anchors --pixels 96

Animals: none. One simulated mouse a film, seen from its right side: 256 x 192 pixels, 30 frames per second, H.264 in
colour, 6 films of 80 s (small) or 30 of 300 s (full). Mice differ in size, fur, ears, speed, rhythms, tastes, and in
where the camera stands. cage_life.py decides what they do and feel, cage_mouse.py where their parts are, cage_film.py
what the camera sees, cage_neurons.py what their neurons fire; cage_canvas.py paints, cage_session.py puts a film and
its truth together, cage_project.py writes the truth in other programs' formats.
Behaviours: still, walk, groom, rear, sniff, from a semi-Markov machine; a cue that is not seen, half a second into
every trial of 2 s, widens the pupil and may start something else.
To mislead: bars that drift over a screen, a lamp that blinks, a reflection, a light that flickers and drifts, noise,
things on the wall. None of it has to do with the mouse or its neurons.
Keypoints: 10, true places; NAME_frames and NAME_trials give confidence 1 where one is seen and 0 where it is hidden.
Neurons: 40 to 80 units a film, Poisson, log-linear in states, speed, phases of paws, arousal, head or cue, with slow
drift, mean 1 to 20 spikes/s; 15 % follow nothing. The card says what the true rates and a PSTH reach in bits per spike.
Written, through the films and the decoder of real ones:
  NAME           anchors and neighbours, as beast_video.py chooses them, to learn from; split by film
  NAME_frames    every second frame of whole films: pictures, behaviour, keypoints, spike counts; split by film
  NAME_trials    the same cut into trials; split by trial, 70 % train, 10 % validation, 20 % test of each film
  NAME_labelled  40 or 100 pictures a film with the keypoints that are seen; split by film
  NAME_films     (--video) film_00.mp4, its truth film_00.npz (states, keypoints, latents, spike counts, rates; a row a
                 frame), film_00_pose.csv, film_00_behaviour.csv, and labeled-data/, a DeepLabCut project
Split by film: every third is for test. beast_video.py --raw NAME_films reads these films as any other.
What it is not: evidence about mice. Nothing was fitted to recordings. Licence Apache-2.0.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import cage_project
import cage_session
import film_frames
import numpy as np
from cage_life import FPS, STATES, TRIAL
from cage_mouse import BONES, HEIGHT, KEYPOINTS, WIDTH
from cage_neurons import cut, limits
from cage_session import Truth, Wanted, labelled, trials, whole

from ethoray import store, video
from ethoray.ingest import Part, ingest
from ethoray.schema import Card, Recording, Skeleton, Task

SIZES = {"small": (6, 80.0), "full": (30, 300.0)}
"""Films and seconds of each."""
ANCHORS, PICTURES = {"small": 100, "full": 500}, {"small": 40, "full": 100}
WRITES = ("anchors", "frames", "trials", "labelled")
SKELETON = Skeleton(KEYPOINTS, BONES, "nose", "tail_base")
FRAMES = round(TRIAL * FPS)
BY_FILM = "by film: every third film, which is an animal, is for test"
BEHAVIOUR = Task("behaviour", "multiclass", "frame", STATES)

Maker = Callable[[Wanted], Iterator[Recording]]


def split(index: int) -> str:
    """Which side film ``index`` is on."""
    return "test" if index % 3 == 2 else "train"


def films(folder: Path, args: argparse.Namespace, workers: int) -> list[Path]:
    """The films of a simulation, made where they are not there yet; each depends on seed, index and seconds alone."""
    folder.mkdir(parents=True, exist_ok=True)
    marked = args.labelled or PICTURES[args.size]
    jobs = [
        (str(folder / f"film_{index:02d}.mp4"), args.seed, index, args.seconds, marked, args.overwrite)
        for index in range(args.films)
    ]
    if workers == 1 or args.films == 1:
        return [Path(cage_project.make(*job)) for job in jobs]
    with ProcessPoolExecutor(min(workers, args.films), multiprocessing.get_context("spawn")) as pool:
        return [Path(path) for path in pool.map(cage_project.make, *zip(*jobs, strict=True))]


def reach(truths: Sequence[Truth], every: int) -> tuple[float, float]:
    """Bits per spike over test trials of the true rates and of the PSTH of train trials, mean over all units."""
    found = []
    for truth in truths:
        used = truth.side != cage_session.KEPT.index("validation")
        starts, train = truth.trials[used], truth.side[used] == 0
        rates = cut(truth.rates.astype(np.float64) / FPS, starts, every, FRAMES)
        found.append(limits(rates, cut(truth.counts.astype(np.int64), starts, every, FRAMES), train))
    true, psth = (float(np.nanmean(np.concatenate(values))) for values in zip(*found, strict=True))
    return true, psth


def card(kind: str, paths: Sequence[Path], args: argparse.Namespace) -> Card:
    """The card of one of WRITES."""
    truths = [Truth.of(path.with_suffix(".npz")) for path in paths] if kind in ("frames", "trials") else []
    units, notes = [str(t.counts.shape[1]) for t in truths], [f"{len(paths)} films of {args.seconds:g} s"]
    if truths:
        true, psth = reach(truths, args.every)
        notes.append(
            f"bits per spike over test trials, bins of {args.every / FPS:.4g} s, mean over units: "
            f"true rates {true:.3f}, which no predictor beats on average, PSTH of train trials alone {psth:.3f}"
        )
        share = np.bincount(np.concatenate([t.state for t in truths]), minlength=len(STATES))
        shares = zip(STATES, share / share.sum(), strict=True)
        notes.append("share of frames: " + ", ".join(f"{name} {part:.0%}" for name, part in shares))
    stretch = (
        f"a stored pixel is {WIDTH / args.pixels:.6g} wide and {HEIGHT / args.pixels:.6g} high in pixels of the film"
    )
    return Card(
        name="simulated_video" if kind == "anchors" else f"simulated_video_{kind}",
        species="mouse (simulated)",
        fps={"anchors": float(FPS), "labelled": 1.0}.get(kind, FPS / args.every),
        skeleton=film_frames.SKELETON if kind == "anchors" else SKELETON,
        tasks=(BEHAVIOUR,) if truths else (),
        split_rule="by trial, each a block of its film; the same animal and units are on every side"
        if kind == "trials"
        else BY_FILM,
        unit=f"pixel of the stored {args.pixels} x {args.pixels} picture",
        licence="Apache-2.0",
        source=f"datasets/simulated_video.py, {kind}, seed {args.seed}",
        simulated=True,
        description=" ".join((__doc__ or "").partition("\n\n")[0].split())
        + " No animal was recorded; it tests methods and is no evidence about mice.",
        notes=(*notes, stretch),
        neural=f"spike counts in bins of {args.every / FPS:.6g} s; {', '.join(units)} units a film" if truths else "",
    )


def anchored(path: Path, index: int, root: str, args: argparse.Namespace) -> film_frames.Plan:
    """The plan of a film's anchors and their neighbours."""
    about = video.probe(path)
    return film_frames.Plan(
        path=str(path.resolve()),
        name=path.stem,
        about=about,
        fps=float(FPS),
        blocks=((path.stem, split(index), 0, about.frames),),
        count=args.anchors or ANCHORS[args.size],
        policy="distinct",
        around=1,
        view=video.View((args.pixels, args.pixels), args.grey),
        every=False,
        exclude=(),
        skip=False,
        threads=1,
        seed=args.seed,
        folder=root,
    )


def wanted(path: Path, index: int, args: argparse.Namespace) -> Wanted:
    """What is cut out of a film."""
    return Wanted(
        film=str(path.resolve()),
        name=path.stem,
        subject=f"mouse_{index:02d}",
        split=split(index),
        skeleton=SKELETON,
        fps=FPS,
        every=args.every,
        trial=FRAMES,
        pixels=args.pixels,
        grey=args.grey,
        count=args.labelled or PICTURES[args.size],
    )


def parts(kind: str, paths: Sequence[Path], root: str, args: argparse.Namespace) -> list[Part]:
    """A part a film."""
    frames = round(args.seconds * FPS)
    make: dict[str, Maker] = {"frames": whole, "trials": trials, "labelled": labelled}
    found = []
    for index, path in enumerate(paths):
        mark = cage_session.stamp(args.seed, index, args.seconds)
        if kind == "anchors":
            plan = anchored(path, index, root, args)
            found.append(Part(path.stem, partial(film_frames.extract, plan), 0, mark))
        else:
            job = partial(make[kind], wanted(path, index, args))
            found.append(Part(path.stem, job, frames // args.every if kind == "frames" else 0, mark))
    return found


def write(args: argparse.Namespace, root: str, folder: Path) -> None:
    """Make the films, then the datasets that were asked for."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    paths = films(folder, args, args.workers or cores)
    if args.workers != 1 and len(paths) > 1:
        from ray import cloudpickle

        for module in (cage_session, film_frames):  # processes elsewhere do not have this folder
            cloudpickle.register_pickle_by_value(module)
    for kind in WRITES:
        if kind not in args.write:
            continue
        place = root if kind == "anchors" else f"{root}_{kind}"
        dataset = ingest(
            card(kind, paths, args),
            parts(kind, paths, place, args),
            place,
            workers=args.workers,
            overwrite=args.overwrite,
        )
        print(f"{len(dataset.entries)} recordings ({kind}) in {dataset.uri}")


def main() -> None:
    """Write the films and the datasets."""
    parser = arguments()
    args = parser.parse_args()
    size = SIZES[args.size]
    args.films, args.seconds = args.films or size[0], args.seconds or size[1]
    args.grey = not args.rgb
    if args.seconds < 12:
        parser.error(f"--seconds {args.seconds:g}: at least 12, so that there are trials to train and test with")
    if FRAMES % args.every:
        parser.error(f"--every {args.every}: a trial of {FRAMES} frames must hold a whole number of them")
    if args.seed < 0:
        parser.error(f"--seed {args.seed}: a seed is not negative")
    try:
        root = store.place(args.out, args.root)
        if args.video is not None or "://" not in root:
            write(args, root, args.video or Path(f"{root}_films"))
        else:
            with tempfile.TemporaryDirectory(prefix="films-") as folder:
                write(args, root, Path(folder))
    except (ValueError, OSError, ImportError) as error:  # of settings, films or store; each says what to do
        sys.exit(f"simulated_video: {error}")


def arguments() -> argparse.ArgumentParser:
    """The flags."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--out", default="simulated_video", metavar="NAME", help="the datasets' name (default: %(default)s)")
    add("--size", choices=SIZES, default="small", help="6 films of 80 s, or 30 of 300 s")
    add("--root", help="folder or URL of the store (default: $ETHORAY_STORE or store)")
    add(
        "--video", type=Path, metavar="FOLDER", help="where films and truth are kept (default: NAME_films in the store)"
    )
    add("--write", nargs="+", choices=WRITES, default=WRITES, help="which datasets (default: all)")
    add("--films", type=_positive, metavar="N", help="instead of the size's number")
    add("--seconds", type=float, help="of a film, instead of the size's number")
    add("--anchors", type=_positive, metavar="N", help="anchors a film, instead of the size's number (100 or 500)")
    add("--labelled", type=_positive, metavar="N", help="pictures a film, instead of the size's number (40 or 100)")
    add("--every", type=_positive, default=2, metavar="N", help="frames of the film to one that is stored (default 2)")
    add("--pixels", type=_positive, default=224, help="width and height of what is stored")
    colour = parser.add_mutually_exclusive_group()
    colour.add_argument("--rgb", action="store_true", help="three channels instead of one")
    colour.add_argument("--grey", action="store_true", help="one channel (the default)")
    add("--workers", type=_positive, help="processes (default: one a core)")
    add("--seed", type=int, default=0)
    add("--overwrite", action="store_true", help="replace datasets of that name")
    return parser


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


if __name__ == "__main__":
    main()
