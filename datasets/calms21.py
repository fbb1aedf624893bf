# /// script
# requires-python = ">=3.11"
# dependencies = ["ethoray"]
#
# [tool.uv.sources]
# ethoray = { path = "..", editable = true }
# ///
"""CalMS21: a resident mouse and an intruder, labelled by people; tasks 1, 2 and 3 of the benchmark.

    python datasets/calms21.py --raw FOLDER --out calms21 --task 1

Animals: a black resident and a white intruder from above, seven keypoints each (MARS), 1024 x 570 px, 30 frames per
second. Task 1: 70 train and 19 test videos, 507,738 and 262,107 frames, 7 hours. Confidence is MARS's score.
Frame tasks: task 1 behaviour (attack, investigation, mount, other) by one annotator; task 2 behaviour_<annotator>, the
same by five others; task 3 one binary task for each new behaviour. Macro recall for several classes, F1 for two:
"other" is two thirds of all frames. The benchmark averages F1 over attack, investigation and mount.
Splits: by file, train and test hold different animals. Unlabelled videos, where they are in the folder and --unlabelled
is said, are the split "unlabelled", for encoders that train with --split all.
Traps: MARS swaps animals, so tracks jump; keypoints are whole pixels.
Get the zips of https://data.caltech.edu/records/s0vdx-0k302 and give the folder with calms21_task1_train.json and
calms21_task1_test.json (2, 3 alike), or the npy files made of them; npy files are read without running anything.
Licence: see the record. Citation: Sun et al., The multi-agent behavior dataset: mouse dyadic social interactions,
NeurIPS 2021 (datasets and benchmarks).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ethoray import store
from ethoray.ingest import Part, ingest
from ethoray.readers import ReadError, calms21
from ethoray.schema import Card, Recording, Task

SIZES = {"small": 12, "full": None}
KINDS = ("json", "npy")


def files(raw: Path, task: int, unlabelled: bool) -> list[tuple[str, Path]]:
    """The files of a task by split; ReadError naming what is missing."""
    found = []
    for split in ("train", "test"):
        names = [raw / f"calms21_task{task}_{split}.{kind}" for kind in KINDS]
        there = [path for path in names if path.is_file()]
        if not there:
            raise ReadError(f"{raw} lacks {' and '.join(path.name for path in names)}; give the folder that holds one")
        found.append((split, there[0]))
    if unlabelled:
        parts = sorted(p for kind in KINDS for p in raw.glob(f"calms21_unlabeled_videos_part*.{kind}"))
        found += [("unlabelled", path) for path in parts]
    return found


def tasks(path: Path) -> dict[str, Task]:
    """Per group of a file the task that its labels are."""
    found = calms21.vocabulary(path)
    made = {}
    for group, words in found.items():
        if len(words) > 2:
            name = "behaviour" if len(found) == 1 else f"behaviour_{group}"
            made[group] = Task(name, "multiclass", "frame", words, "macro_recall")
        else:
            made[group] = Task(group, "binary", "frame", words if words[0] == "other" else words[::-1])
    if not made:
        raise ReadError(f"{path}: no sequence is labelled")
    return made


def card(known: Mapping[str, Task], task: int) -> Card:
    """The card of one of the three tasks."""
    return Card(
        name="calms21",
        species="mouse",
        fps=calms21.FPS,
        skeleton=calms21.MOUSE,
        tasks=tuple(known.values()),
        split_rule="official, by file: train and test hold different animals",
        licence="see the record",
        citation="Sun et al., The multi-agent behavior dataset: mouse dyadic social interactions, NeurIPS 2021",
        source=f"https://data.caltech.edu/records/s0vdx-0k302, task {task}",
        description=(__doc__ or "").partition("\n\n")[0],
    )


def recordings(found: list[tuple[str, Path]], known: Mapping[str, Task], most: int | None) -> Iterator[Recording]:
    """The sequences of every file, labelled by the task of their group; at most so many of a split and group."""
    taken: dict[tuple[str, str], int] = {}
    for split, path in found:
        words = {} if split == "unlabelled" else calms21.vocabulary(path)
        for group, sequence in calms21.sequences(path):
            taken[split, group] = taken.get((split, group), 0) + 1
            if most is not None and taken[split, group] > most:
                continue
            name = sequence.name if len(words) < 2 else f"{group}.{sequence.name}"
            yield replace(labelled(sequence, group, words, known), name=name, split=split)


def labelled(
    sequence: Recording, group: str, words: Mapping[str, tuple[str, ...]], known: Mapping[str, Task]
) -> Recording:
    """The sequence with its labels under the name, and in the classes, of its group's task."""
    if "behaviour" not in sequence.labels or group not in words:
        return replace(sequence, labels={})
    if group not in known or sorted(words[group]) != sorted(known[group].classes):
        raise ReadError(f"{sequence.name}: {group} labels {', '.join(words[group])}; the train file does not")
    numbers = np.array([known[group].classes.index(word) for word in words[group]], dtype=np.float32)
    return replace(sequence, labels={known[group].name: numbers[np.asarray(sequence.labels["behaviour"]).astype(int)]})


def main() -> None:
    """Write the dataset."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--raw", required=True, type=Path, metavar="FOLDER", help="holds calms21_task1_train.json and its like"
    )
    parser.add_argument("--out", required=True, metavar="NAME", help="the dataset's name in the store")
    parser.add_argument(
        "--size", choices=SIZES, default="full", help=f"small: {SIZES['small']} sequences of each split and group"
    )
    parser.add_argument("--root", help="folder or URL of the store (default: $ETHORAY_STORE or store)")
    parser.add_argument("--task", type=int, choices=(1, 2, 3), default=1, help="of the benchmark")
    parser.add_argument("--unlabelled", action="store_true", help="also the unlabelled videos in the folder")
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset of that name")
    args = parser.parse_args()
    try:
        found = files(args.raw, args.task, args.unlabelled)
        known = tasks(found[0][1])
        dataset = ingest(
            card(known, args.task),
            [Part("sequences", lambda: recordings(found, known, SIZES[args.size]))],
            store.place(args.out, args.root),
            overwrite=args.overwrite,
        )
    except (ReadError, store.StoreError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    print(f"{len(dataset.entries)} recordings in {dataset.uri}")


if __name__ == "__main__":
    main()
