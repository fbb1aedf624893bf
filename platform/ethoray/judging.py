"""What ``ethoray score`` does: the scores of a run, its encoder on another dataset, or embeddings handed in."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ethoray import embedding, record, store, wording
from ethoray.experiment import evaluate, restore
from ethoray.mabe22 import CAPS, MABe22
from ethoray.readers import mabe22
from ethoray.schema import Card
from ethoray.store import Dataset, Entry
from ethoray.submission import Submission, SubmissionError, submission

if TYPE_CHECKING:
    import pandas as pd

_PARTS = {"SubmissionTrain": "submission_train", "publicTest": "public_test", "privateTest": "private_test"}
_ANIMALS = {"mabe22_mice": ("mouse", 30.0, mabe22.MICE), "mabe22_flies": ("fruit fly", 150.0, mabe22.FLIES)}
_SHOWN = ("task", "metric", "score", "low", "high", "public", "clips", "note")


@dataclass(frozen=True)
class Protocol:
    """How the MABe 2022 evaluator is asked to judge; None is what was not asked for."""

    vote: Literal["any", "majority"] | None = None
    standardise: bool = False
    space: str | None = None

    @property
    def asked(self) -> bool:
        """Whether anything was."""
        return self != Protocol()

    def table(self, given: Submission, dataset: Dataset) -> pd.DataFrame:
        """A row a task."""
        judge = MABe22(vote=self.vote or "any", standardise=self.standardise)
        return judge.score(given, dataset)


@dataclass(frozen=True)
class Answered(Dataset):
    """Clips and their labels without tracks: what the challenge's label file says of a dataset."""

    answers: mabe22.Answers

    def labels(self, entry: Entry) -> dict[str, np.ndarray | float]:
        """See ``Dataset.labels``."""
        rows = self.answers.values[:, slice(*self.answers.spans[entry.name])].astype(np.float32)
        tracks = dict(zip((task.name for task in self.card.tasks), rows, strict=True))
        return dict(mabe22.fitted(self.card.tasks, tracks))


def official(name: str, files: Sequence[str | Path]) -> Answered:
    """The test clips of a MABe 2022 dataset, of its published label file (.npy) and split file (.json).

    Raises SubmissionError when the name or the files are others or disagree, ReadError when one cannot be read.
    """
    if name not in _ANIMALS:
        raise SubmissionError(f"--labels are files of {' or '.join(_ANIMALS)}, not of {name!r}; prepare it instead")
    paths = {Path(file).suffix: Path(file) for file in files}
    if len(files) != 2 or set(paths) != {".npy", ".json"}:
        raise SubmissionError(
            "--labels are two files of the challenge: the labels of its test clips (.npy) and the evaluator's split "
            f"file (.json), not {', '.join(map(str, files))}"
        )
    answers, split = mabe22.answers(paths[".npy"]), _split(paths[".json"])
    strange = sorted(set(answers.spans) ^ set(split))
    if strange:
        raise SubmissionError(
            f"{paths['.json']}: {len(strange)} clips are not both in it and in {paths['.npy']}, such as {strange[0]!r}"
        )
    species, fps, skeleton = _ANIMALS[name]
    entries = tuple(
        Entry(clip, clip, split[clip], fps, stop - start, (), 2, ()) for clip, (start, stop) in answers.spans.items()
    )
    return Answered("", Card(name, species, fps, skeleton, answers.tasks), entries, (), "", answers)


def _split(path: Path) -> Mapping[str, str]:
    """Per clip the part of the test file it is in."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found = [(str(clip), name) for part, name in _PARTS.items() for clip in document[part]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SubmissionError(f"{path}: not the evaluator's split file ({error!r})") from error
    if len(dict(found)) != len(found):
        raise SubmissionError(f"{path}: a clip is in two parts")
    return dict(found)


def score(
    what: str,
    storage: Path,
    name: str | None = None,
    protocol: Protocol | None = None,
    out: Path | None = None,
    labels: Sequence[str | Path] = (),
) -> Iterator[str]:
    """Judge ``what``, a run or embeddings, on the dataset called ``name``; yields lines to print.

    A run without a dataset has its scores already. With one, its own probes judge its encoder there, or the
    evaluator of MABe 2022 when the dataset is one of that challenge or ``protocol`` asks for anything. Embeddings
    are a submission (.npy), a Parquet file or a folder of them, and are judged by the evaluator, against a prepared
    dataset or, when ``labels`` are given, against those two files alone. ``out`` is a csv. Raises what each of these
    raises; the messages say what to do.
    """
    protocol = protocol or Protocol()
    given = Path(what)
    if given.suffix in (".npy", ".parquet") or any(given.glob("part-*.parquet")):
        if name is None:
            raise SubmissionError(f"{what}: which dataset are these embeddings of? (--dataset mabe22_mice)")
        target = official(name, labels) if labels else store.open(name)
        with tempfile.TemporaryDirectory() as temporary:
            table = protocol.table(submission(_folder(given, Path(temporary)), protocol.space), target)
        yield from _lines(table, out)
        return
    if labels:
        raise SubmissionError(f"{what}: --labels judge embeddings (.npy, .parquet or a folder of them), not a run")
    yield from _of_run(wording.find(what, storage), name, protocol, out)


def _of_run(folder: Path, name: str | None, protocol: Protocol, out: Path | None) -> Iterator[str]:
    if name is None:
        if protocol.asked:
            raise SubmissionError("--vote, --standardise and --space are the evaluator's; say which --dataset")
        if record.finished(folder) is None:
            raise record.RecordError(f"{folder} is not finished; the command that started it continues it")
    else:
        target = store.open(name)
        wording.same_body(folder, target)
        elsewhere = folder / "elsewhere" / f"{target.card.name}-{target.key[:8]}"
        if protocol.asked or target.card.name in CAPS:
            yield from _lines(protocol.table(_embedded(folder, elsewhere, target, protocol), target), out)
            return
        if record.finished(elsewhere) is None:
            experiment, encoder = restore(folder)
            elsewhere.mkdir(parents=True, exist_ok=True)
            evaluate(experiment, encoder, target, elsewhere)
        folder = elsewhere
    if out is not None:
        from ethoray.leaderboard import collect

        _save(collect([folder]).filter(["task", "space", "metric", "value", "low", "high"]), out)
    yield from wording.scores(folder)


def _folder(given: Path, temporary: Path) -> Path:
    """A folder of parts, also for a Parquet file that stands alone."""
    if given.suffix != ".parquet" or given.is_dir():
        return given
    if not given.exists():
        raise SubmissionError(f"{given}: no such file")
    (temporary / "part-00000.parquet").symlink_to(given.resolve())
    return temporary


def _embedded(run: Path, place: Path, target: Dataset, protocol: Protocol) -> Submission:
    """Every frame of a dataset as the run's encoder sees it, written once."""
    frames = place / "frames"
    if not frames.exists():
        beside = place / f".frames.{os.getpid()}"
        _, encoder = restore(run)
        for _ in embedding.write(embedding.embed(encoder, target, target.entries), beside, every=0):
            pass
        beside.replace(frames)
    return submission(frames, protocol.space)


def _lines(table: pd.DataFrame, out: Path | None) -> Iterator[str]:
    if out is not None:
        _save(table, out)
    shown = table[[name for name in _SHOWN if name in table and not table[name].isna().all()]]
    yield from shown.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.3f}").splitlines()
    if out is not None:
        yield f"wrote {out}, every column"


def _save(table: pd.DataFrame, out: Path) -> None:
    record.write_text(out, table.to_csv(index=False))
