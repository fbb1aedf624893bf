"""What the recipes of MABe 2022 share: files, official parts, labels and the command line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ethoray import store
from ethoray.ingest import Part, ingest
from ethoray.readers import ReadError, mabe22
from ethoray.schema import Card, Recording, Skeleton

PARTS = {"UserTrain": "user_train", "SubmissionTrain": "train", "publicTest": "test", "privateTest": "test"}
FOUR = PARTS | {"SubmissionTrain": "submission_train", "publicTest": "public_test", "privateTest": "private_test"}


@dataclass(frozen=True)
class Release:
    """One of the challenge's datasets.

    Attributes
    ----------
    about: the recipe's docstring: its first paragraph becomes the card's description.
    name, species, fps, skeleton, unit: of the card.
    files: tracks for training, tracks for the test, labels of the test, the evaluator's split file.
    small: clips of each part with --size small.
    """

    about: str
    name: str
    species: str
    fps: float
    skeleton: Skeleton
    unit: str
    files: tuple[str, str, str, str]
    small: int

    def card(self, answers: mabe22.Answers, four: bool) -> Card:
        """The card of the clips whose test labels these are."""
        rule = "SubmissionTrain is train, publicTest and privateTest are test, UserTrain is user_train"
        return Card(
            name=self.name,
            species=self.species,
            fps=self.fps,
            skeleton=self.skeleton,
            tasks=answers.tasks,
            split_rule=f"official, by clip: {'the four parts by name' if four else rule}",
            unit=self.unit,
            licence="see the record",
            citation="Sun et al., MABe22: a multi-species multi-task benchmark for learned representations, ICML 2023",
            source="https://data.caltech.edu/records/8kdn3-95j37",
            description=self.about.partition("\n\n")[0],
            notes=("which clips show the same animals is not published: a subject is a clip",),
        )

    def recordings(
        self, raw: Path, answers: mabe22.Answers, split: Mapping[str, str], four: bool, most: int | None
    ) -> Iterator[Recording]:
        """The train clips with their own labels, then the test clips with theirs; at most so many of a part."""
        names, taken = FOUR if four else PARTS, dict.fromkeys(PARTS, 0)
        for file in self.files[:2]:
            for clip in mabe22.sequences(raw / file):
                part = split.get(clip.name)
                if part is None or (part == "UserTrain") != (file == self.files[0]):
                    raise ReadError(f"{raw / file}: clip {clip.name!r} is in the split file as {part or 'no part'}")
                taken[part] += 1
                if most is not None and taken[part] > most:
                    continue
                labelled = answers.own(clip) if part == "UserTrain" else answers.of(clip)
                yield replace(labelled, split=names[part])

    def main(self) -> None:
        """Write the dataset that the command line asks for."""
        parser = argparse.ArgumentParser(description=self.about.partition("\n")[0])
        parser.add_argument("--raw", required=True, type=Path, metavar="FOLDER", help="holds " + ", ".join(self.files))
        parser.add_argument("--out", required=True, metavar="NAME", help="the dataset's name in the store")
        parser.add_argument(
            "--size", choices=("small", "full"), default="full", help=f"small: {self.small} clips of each part"
        )
        parser.add_argument("--root", help="folder or URL of the store (default: $ETHORAY_STORE or store)")
        parser.add_argument("--four-parts", action="store_true", help="keep the official parts as splits; none is test")
        parser.add_argument("--overwrite", action="store_true", help="replace a dataset of that name")
        args = parser.parse_args()
        lacking = [name for name in self.files if not (args.raw / name).is_file()]
        if lacking:
            parser.error(f"{args.raw} lacks {', '.join(lacking)}; the recipe's first lines say where to get them")
        most = self.small if args.size == "small" else None
        try:
            answers, split = mabe22.answers(args.raw / self.files[2]), parts(args.raw / self.files[3])
            dataset = ingest(
                self.card(answers, args.four_parts),
                [Part("clips", lambda: self.recordings(args.raw, answers, split, args.four_parts, most))],
                store.place(args.out, args.root),
                overwrite=args.overwrite,
            )
        except (ReadError, store.StoreError) as error:
            parser.exit(1, f"{parser.prog}: {error}\n")
        print(f"{len(dataset.entries)} clips in {dataset.uri}")


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
