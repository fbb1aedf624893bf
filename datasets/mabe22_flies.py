# /// script
# requires-python = ">=3.11"
# dependencies = ["ethoray"]
#
# [tool.uv.sources]
# ethoray = { path = "..", editable = true }
# ///
"""MABe22's groups of flies: 969 clips of 30 s, 11 places for flies, the many tasks of the benchmark.

    python datasets/mabe22_flies.py --raw FOLDER --out mabe22_flies

Animals: groups of 9 to 11 fruit flies in an arena of 26.7 mm radius, 150 frames per second, 4,500 frames a clip,
8 hours in all. A fly is 24 pairs of numbers: 19 keypoints, then position, orientation, axes and measures of its image.
A place without a fly, NaN in the files, stays NaN.
Recording tasks: which line or condition a clip shows (control, courtship, aggression, 71G01, ...), how light stimulates
("..._offvson", ...), female of each fly. Frame tasks: perframe_aggression, _chase, _courtship, _highfence2, _wingext,
_wingflick of each fly. A task that is called a recording's but changes within a clip becomes a frame task. The second
task called "control" is control_any here; the official evaluator scores the first twice. Average a behaviour's
tasks over flies for the official 50 rows. The train file brings labels of three tasks.
Splits, by clip: UserTrain 426 clips, SubmissionTrain 217 ("train"), publicTest 147 and privateTest 179 ("test");
UserTrain is "user_train". Train an encoder with --split all for the transductive setting (no labels are seen) and
with --split user_train for the inductive one. --four-parts keeps the four as they are.
Get fly_group_train.npy, fly_group_test.npy and fly_groups_test_labels.npy from
https://data.caltech.edu/records/8kdn3-95j37 and flies_split.json from round1/metadata of the evaluator,
https://github.com/damaggu/MABe2022. They are read without running anything in them.
Licence: see the record. Citation: Sun et al., MABe22: a multi-species multi-task benchmark for learned
representations of behavior, ICML 2023.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from ethoray import store
from ethoray.ingest import Part, ingest
from ethoray.readers import ReadError, mabe22
from ethoray.schema import Card, Recording

FILES = ("fly_group_train.npy", "fly_group_test.npy", "fly_groups_test_labels.npy", "flies_split.json")
PARTS = {"UserTrain": "user_train", "SubmissionTrain": "train", "publicTest": "test", "privateTest": "test"}
FOUR = PARTS | {"SubmissionTrain": "submission_train", "publicTest": "public_test", "privateTest": "private_test"}
SIZES = {"small": 40, "full": None}


def parts(path: Path) -> dict[str, str]:
    """Per clip the official part it is in, out of the evaluator's split file."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found = {clip: part for part in PARTS for clip in document[part]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReadError(f"{path}: not the evaluator's split file ({error!r}); the recipe says where it is") from error
    if len(found) != sum(len(document[part]) for part in PARTS):
        raise ReadError(f"{path}: a clip is in two parts")
    return found


def card(answers: mabe22.Answers, four: bool) -> Card:
    """The card of the clips whose test labels these are."""
    rule = "SubmissionTrain is train, publicTest and privateTest are test, UserTrain is user_train"
    return Card(
        name="mabe22_flies",
        species="fruit fly",
        fps=150.0,
        skeleton=mabe22.FLIES,
        tasks=answers.tasks,
        split_rule=f"official, by clip: {'the four parts by name' if four else rule}",
        unit="mm",
        licence="see the record",
        citation="Sun et al., MABe22: a multi-species multi-task benchmark for learned representations, ICML 2023",
        source="https://data.caltech.edu/records/8kdn3-95j37",
        description=(__doc__ or "").partition("\n\n")[0],
        notes=("which clips show the same animals is not published: a subject is a clip",),
    )


def recordings(
    raw: Path, answers: mabe22.Answers, split: Mapping[str, str], four: bool, most: int | None
) -> Iterator[Recording]:
    """The train clips with their own labels, then the test clips with theirs; at most so many of a part."""
    names, taken = FOUR if four else PARTS, dict.fromkeys(PARTS, 0)
    for file in FILES[:2]:
        for clip in mabe22.sequences(raw / file):
            part = split.get(clip.name)
            if part is None or (part == "UserTrain") != (file == FILES[0]):
                raise ReadError(f"{raw / file}: clip {clip.name!r} is in the split file as {part or 'no part'}")
            taken[part] += 1
            if most is not None and taken[part] > most:
                continue
            labelled = answers.own(clip) if part == "UserTrain" else answers.of(clip)
            yield replace(labelled, split=names[part])


def main() -> None:
    """Write the dataset."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--raw", required=True, type=Path, metavar="FOLDER", help="holds " + ", ".join(FILES))
    parser.add_argument("--out", required=True, metavar="NAME", help="the dataset's name in the store")
    parser.add_argument("--size", choices=SIZES, default="full", help=f"small: {SIZES['small']} clips of each part")
    parser.add_argument("--root", help="folder or URL of the store (default: $ETHORAY_STORE or store)")
    parser.add_argument("--four-parts", action="store_true", help="keep the official parts as splits; none is test")
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset of that name")
    args = parser.parse_args()
    lacking = [name for name in FILES if not (args.raw / name).is_file()]
    if lacking:
        parser.error(f"{args.raw} lacks {', '.join(lacking)}; the recipe's first lines say where to get them")
    try:
        answers, split = mabe22.answers(args.raw / FILES[2]), parts(args.raw / FILES[3])
        dataset = ingest(
            card(answers, args.four_parts),
            [Part("clips", lambda: recordings(args.raw, answers, split, args.four_parts, SIZES[args.size]))],
            store.place(args.out, args.root),
            overwrite=args.overwrite,
        )
    except (ReadError, store.StoreError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    print(f"{len(dataset.entries)} clips in {dataset.uri}")


if __name__ == "__main__":
    main()
