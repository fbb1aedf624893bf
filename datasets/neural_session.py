# /// script
# requires-python = ">=3.11"
# dependencies = ["ethoray"]
#
# [tool.uv.sources]
# ethoray = { path = "..", editable = true }
# ///
"""Sessions in which an animal's movement and the spikes of its neurons were recorded together, cut into trials.

    python datasets/neural_session.py --raw ../shared/data/monkey_reach_myow --out monkey_reach
    python datasets/neural_session.py --raw ../shared/data/rat_hippocampus_nelpy --out rat_hippocampus --bin 0.1
    python datasets/neural_session.py --raw FOLDER_OF_NWB --out sessions --label choice --align stim_on_time

A trial is a recording: keypoints (time, individual, keypoint, space) and spike counts (time, unit) in the same bins;
probes of neural encoding select by trial. Splits are by trial, never by bin: 70 % train, 10 % validation, 20 % test,
drawn by the trial's name within each class (or, where trials are blocks of time, within every ten blocks in a row).
The layout is told by what is in the files:

npz of binned rates (reaching monkey): one macaque, Chewie, 3 October 2013, 159 centre-out reaches of 0.9 to 1.4 s,
164 s in all, 174 units of motor cortex, bins of 100 ms (fps 10). Rates times the bin are whole counts, which is
checked. Four "keypoints" of two coordinates each: hand (a position) and velocity, acceleration and force, which are
vectors, not places: take them as features, never draw or rotate them with hand (--keypoints hand keeps hand alone).
Task: reach, eight directions, named by the angle of the mean movement. The pickle beside the npz is never opened.
Licence Apache-2.0. Source https://github.com/nerdslab/myow. Citation: Azabou et al., Mine your own view, 2021; data
Dyer et al., A cryptography-based approach for movement decoding, Nature Biomedical Engineering, 2017.

Trodes position with spikes.mat (rat hippocampus): one rat on a linear track and at rest after it, 33 minutes, CA1
units sorted on 13 tetrodes, camera about 60 frames/s. Both files tell the seconds of one clock of 30,000 ticks/s. The
position is put on a regular 60 Hz: each frame takes the nearest sample in time, none within 1.5 frames is missing. At
rest no light is seen and the tracker repeats its last pixel: a position that stands still for --frozen seconds is
missing, and blocks in which the animal is seen in less than half of the frames are left out. What is left is the run:
blocks of --block seconds with 1 s between. No label: the originals do not say when the run ends.
Licence MIT. Source https://github.com/nelpy/example-data. Citation: E. Ackermann, Kemere lab, nelpy example data.

NWB: every .nwb in the folder with a pose (ndx-pose) or position, a units table and perhaps trials; without trials,
blocks. --pose chooses among several, --label a column of the trials as task, --align a column of times around which
--before and --after seconds are cut, so that all trials have one length. Licence and citation: those of the files.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import neural_layouts
from neural_layouts import Choices, Session, Trial

from ethoray import store
from ethoray.ingest import Part, ingest
from ethoray.readers import ReadError
from ethoray.readers.spikes import factor, pooled
from ethoray.schema import Card, Recording, SchemaError, Skeleton, Task, check_name

SIZES = {"small": {"train": 28, "validation": 4, "test": 8}, "full": None}
PUBLISHED = {
    "derived/chewie_10032013_bin100ms.npz": "2b8c684a5f115b649c133d3df62bca53d8af1f88e7b8b1e16a072f2c9072bf24",
    "linear-track/spikes.mat": "615b05a9228a5eaea7f99d5fc5b11848a4d94fc154104612410c887875b65bc7",
    "linear-track/trajectory.videoPositionTracking": "10a883302c50e26d5f659ac4ee08d8901f7881c71f6800cd56d999a620b31cb5",
}
ABOUT = {
    "npz": {
        "species": "macaque",
        "licence": "Apache-2.0",
        "citation": "Azabou et al., Mine your own view, 2021; data of Dyer et al., Nature Biomedical Engineering, 2017",
        "source": "https://github.com/nerdslab/myow",
        "description": "hand position (hand) and the vectors velocity, acceleration, force of centre-out reaches, "
        "with binned spikes",
    },
    "trodes": {
        "species": "rat",
        "licence": "MIT",
        "citation": "E. Ackermann, Kemere lab, nelpy example data",
        "source": "https://github.com/nelpy/example-data",
        "description": "position of a light on a rat's head, with spikes of hippocampal units",
    },
    "nwb": {
        "species": "see the files",
        "licence": "see the files",
        "citation": "see the files",
        "source": "NWB files",
        "description": "tracks and spikes of NWB sessions",
    },
}
TASK = {"npz": "reach"}


def sides(trials: Sequence[Trial], by_time: bool) -> dict[str, str]:
    """The split of every trial: 70, 10 and 20 % of each class, or of ten blocks in a row, in an order by name."""
    groups: dict[str, list[str]] = {}
    for place, trial in enumerate(trials):
        groups.setdefault(f"tens {place // 10}" if by_time else str(trial.label), []).append(trial.name)
    found = {}
    for names in groups.values():
        drawn = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        test, validation = round(0.2 * len(names)), round(0.1 * len(names))
        for place, name in enumerate(drawn):
            found[name] = "test" if place < test else "validation" if place < test + validation else "train"
    return found


def binned(session: Session, seconds: float | None) -> int:
    """How many frames make a bin: one, unless a bin was asked for."""
    return 1 if seconds is None else factor(session.fps, seconds)


def kept(session: Session, names: Sequence[str]) -> Session:
    """The session with these keypoints alone; all of them when none is named."""
    lacking = [name for name in names if name not in session.names]
    if lacking:
        raise ReadError(f"{session.name}: no keypoint {', '.join(lacking)}; it has {', '.join(session.names)}")
    places = [session.names.index(name) for name in names or session.names]
    confidence = None if session.confidence is None else session.confidence[:, :, places]
    chosen = tuple(session.names[i] for i in places)
    return replace(session, names=chosen, keypoints=session.keypoints[:, :, places], confidence=confidence)


def recordings(session: Session, card: Card, seconds: float | None, most: dict[str, int] | None) -> Iterator[Recording]:
    """The trials of a session, binned, with their side of the split; at most so many of each."""
    size, split = binned(session, seconds), sides(session.trials, session.by_time)
    task = card.tasks[0] if card.tasks else None
    left = dict(most) if most is not None else None
    for trial in session.trials:
        cut, side = slice(trial.start, trial.stop), split[trial.name]
        if trial.stop - trial.start < size or (left is not None and not left[side]):
            continue
        if left is not None:
            left[side] -= 1
        label = task.classes.index(trial.label) if task and trial.label is not None else float("nan")
        yield Recording(
            name=check_name(trial.name, "trial"),
            subject=session.subject,
            fps=card.fps,
            skeleton=card.skeleton,
            keypoints=pooled(session.keypoints[cut], size, "mean"),
            confidence=None if session.confidence is None else pooled(session.confidence[cut], size, "mean"),
            individuals=session.individuals,
            split=side,
            labels={task.name: float(label)} if task else {},
            neural=pooled(session.counts[cut], size, "sum"),
        )


def card(kind: str, sessions: Iterator[Session], choices: Choices, seconds: float | None, checksums: list[str]) -> Card:
    """The card of these sessions, which need keypoints and frame rate in common; units may differ."""
    notes: list[str] = []
    units: list[str] = []
    classes: dict[str, None] = {}
    first: Session | None = None
    fps = 0.0
    for session in sessions:
        rate = session.fps / binned(session, seconds)
        if first is None:
            first, fps = session, rate
        elif session.names != first.names or abs(rate / fps - 1) > 1e-5:
            raise ReadError(
                f"{session.name}: {rate:g} bins a second of {', '.join(session.names)}; {first.name} has {fps:g} of "
                f"{', '.join(first.names)}; prepare them apart, or give --bin and --keypoints that they share"
            )
        short = sum(t.stop - t.start < binned(session, seconds) for t in session.trials)
        notes += [*session.notes, *([f"{session.name}: {short} trials shorter than a bin left out"] if short else [])]
        units.append(f"{session.counts.shape[1]} units of {session.name}")
        classes |= dict.fromkeys(sorted({t.label for t in session.trials if t.label is not None}))
    if first is None:
        raise ReadError("no session")
    if choices.label and len(classes) < 2:
        notes.append(f"column {choices.label} has {len(classes)} value, which makes no task")
    ordered = tuple(sorted(classes, key=_order))
    name = TASK.get(kind, choices.label)
    return Card(
        name="neural_session",
        fps=fps,
        skeleton=Skeleton(first.names),
        tasks=(Task(name, "multiclass", "recording", ordered, "macro_recall"),) if len(classes) > 1 else (),
        split_rule="by trial, each a block of its session; the same animal and units are on every side",
        unit=first.unit,
        notes=tuple(notes),
        cleaning=(f"bins of {1 / fps:.6g} s: spikes summed, keypoints averaged",) if seconds is not None else (),
        checksums=tuple(checksums),
        neural=f"spike counts in bins of {1 / fps:.6g} s; {', '.join(units)}",
        **ABOUT[kind],
    )


def _order(name: str) -> tuple[float, str]:
    """Numbers by size, then text."""
    try:
        return float(name.split(" ")[0]), name
    except ValueError:
        return float("inf"), name


def main() -> None:
    """Write the dataset."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--raw", required=True, type=Path, metavar="FOLDER", help="holds sessions of one of the three layouts")
    add("--out", required=True, metavar="NAME", help="the dataset's name in the store")
    add("--size", choices=SIZES, default="full", help="small: 40 trials of each session")
    add("--root", help="folder or URL of the store (default: $ETHORAY_STORE or store)")
    add("--bin", type=float, metavar="SECONDS", help="wider bins, a whole number of frames (default: one frame)")
    add("--keypoints", metavar="NAMES", help="keep these alone, with commas between")
    add("--block", type=float, default=15.0, metavar="SECONDS", help="length of blocks where there are no trials")
    add("--frozen", type=float, default=10.0, metavar="SECONDS", help="a position that long the same is none; 0: keep")
    add("--pose", default="", help="NWB: the pose to read, or several animals with commas between")
    add("--label", default="", metavar="COLUMN", help="NWB: column of the trials that becomes the task")
    add("--align", default="", metavar="COLUMN", help="NWB: column of the times around which trials are cut")
    add("--before", type=float, default=0.5, metavar="SECONDS", help="before that time")
    add("--after", type=float, default=1.5, metavar="SECONDS", help="after that time")
    add("--overwrite", action="store_true", help="replace a dataset of that name")
    args = parser.parse_args()
    if not args.block > 0 or (args.bin is not None and not args.bin > 0) or not args.before + args.after > 0:
        parser.error("--block, --bin and the time between --before and --after are seconds, more than 0")
    choices = Choices(args.block, args.frozen, args.pose, args.label, args.align, args.before, args.after)
    names = tuple(name.strip() for name in args.keypoints.split(",")) if args.keypoints else ()
    try:
        kind, paths = neural_layouts.found(args.raw)
        sums = [neural_layouts.checked(p, PUBLISHED) for path in paths for p in neural_layouts.sources(kind, path)]

        def session(path: Path) -> Session:
            return kept(neural_layouts.session(kind, path, choices), names)

        def trials(path: Path) -> Iterator[Recording]:
            return recordings(session(path), about, args.bin, SIZES[args.size])

        about = card(kind, map(session, paths), choices, args.bin, sums)
        dataset = ingest(
            about,
            [Part(str(path), partial(trials, path)) for path in paths],
            store.place(args.out, args.root),
            workers=1,
            overwrite=args.overwrite,
        )
    except (ReadError, SchemaError, store.StoreError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    print(f"{len(dataset.entries)} recordings in {dataset.uri}: {about.neural}")


if __name__ == "__main__":
    main()
