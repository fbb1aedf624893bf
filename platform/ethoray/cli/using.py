"""The verbs that use what was trained: embed, score and judge."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ethoray.cli.words import AnyData, Examined, Files, Judged, Probed, Run, Settings, Switch, runs


def embed(
    run: Run, files: Files, out: Path, labels: tuple[Path, ...] = (), fps: float | None = None,
    resample: Switch = False, as_is: Switch = False, individuals: Switch = False, every: float = 0.0,
    storage: Path | None = None,
) -> None:  # fmt: skip
    """Embed new recordings with the encoder of a run: a row of Parquet for every frame.

    Args:
        run: a run's folder, or the beginning of its key.
        files: pose files of any format the readers know, videos where the encoder learned from images, or one prepared
            dataset's name, folder or URL.
        out: a file that ends in .parquet, or a folder.
        labels: label files, for columns beside the embedding; each goes to the recording it names.
        fps: frames per second of files that do not state it.
        resample: change other frame rates to the encoder's.
        as_is: do not repeat the cleaning that the training data went through.
        individuals: a row for every animal in a frame, instead of one for the group.
        every: seconds between two frames that are written; 0 writes every frame.
        storage: folder of the runs ($ETHORAY_RUNS or runs/).
    """
    from ethoray import wording
    from ethoray.unseen import command

    for line in command.embed(
        wording.find(run, runs(storage)), files, out, labels=labels, fps=fps, resample=resample, as_is=as_is,
        individuals=individuals, every=every,
    ):  # fmt: skip
        print(line, flush=True)


def score(
    run: Judged, other: AnyData = None, dataset: str | None = None, labels: tuple[Path, ...] = (),
    vote: Literal["any", "majority"] | None = None, standardise: Switch = False, space: str | None = None,
    out: Path | None = None, storage: Path | None = None,
) -> None:  # fmt: skip
    """Print the scores of a run, judge its encoder on another dataset, or judge embeddings by the MABe 2022 rules.

    Args:
        run: a run's folder, or the beginning of its key; or embeddings: an npy submission, or what embed wrote.
        other: the same as --dataset.
        dataset: a prepared dataset: its train recordings fit the probes, its test recordings judge.
        labels: MABe 2022: instead of preparing it, its published label file (.npy) and split file (.json).
        vote: MABe 2022: a task is positive where any of three draws says so, as in published scores, or most.
        standardise: MABe 2022: z-score every feature at every frame index first.
        space: MABe 2022: which space of the embeddings; all of them by default.
        out: also write the table, as csv.
        storage: folder of the runs ($ETHORAY_RUNS or runs/).
    """
    from ethoray.judging import Protocol, score

    if other is not None and dataset not in (None, other):
        raise FileNotFoundError(f"two datasets are given, {other!r} and --dataset {dataset!r}; choose one")
    for line in score(run, runs(storage), dataset or other, Protocol(vote, standardise, space), out, labels):
        print(line)


def judge(
    probe: Probed, what: Examined, dataset: AnyData = None, preset: str | None = None, settings: Settings = (),
    seeds: tuple[int, ...] = (0, 1, 2), space: str | None = None, patches: Switch = False, workers: int = 1,
    out: Path | None = None, storage: Path | None = None,
) -> None:  # fmt: skip
    """Judge an encoder, embeddings or bare positions: neurons (neural), poses (pose), actions (action).

    Args:
        probe: neural, pose or action, or any other probe.
        what: a run's folder or the beginning of its key; a folder of embeddings, as embed writes it; the word
            keypoints, for positions as they were recorded; or a method, or method:preset, for an encoder that
            learned nothing.
        dataset: a prepared dataset's name, folder or URL; by default the one the run learned from.
        preset: named settings of the probe.
        settings: fields of the probe, such as models=rrr or epochs=200.
        seeds: everything random in the probe, and in an encoder that learned nothing, once for each; of pose those
            of the heads, which are judged together.
        space: of the embeddings; all of them by default.
        patches: action learns from the patches of an encoder of images instead of its embeddings.
        workers: processes among which fits are shared.
        out: also write everything that was found, as JSON.
        storage: folder of the runs ($ETHORAY_RUNS or runs/).
    """
    from ethoray.examination import answers

    for line in answers(
        probe, what, dataset, preset=preset, settings=settings, seeds=seeds, space=space, patches=patches,
        workers=workers, out=out, storage=runs(storage),
    ):  # fmt: skip
        print(line, flush=True)
