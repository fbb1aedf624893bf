"""The command line: prepare, train, embed, score, report, ui.

    ethoray prepare tracks.csv --labels events.csv --fps 30 --out cage
    ethoray train cage bams --steps 2000 --seeds 0 1 2

Whatever takes long to import is imported by the verb that needs it, so that --help answers at once. An error
that the package foresees is one line on stderr and exit status 2; ``--debug`` shows where it came from.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

Poses = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="POSES...")]
Data = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
Named = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="METHOD")]
Run = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
AnyData = Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[DATASET]")]
Settings = Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="FIELD=VALUE...")]
Switch = tyro.conf.FlagCreatePairsOff[bool]


def prepare(
    poses: Poses,
    out: str,
    labels: tuple[Path, ...] = (),
    fps: float | None = None,
    subjects: tuple[str, ...] = (),
    ignore: tuple[str, ...] = (),
    ignore_behaviours: tuple[str, ...] = (),
    front: str | None = None,
    back: str | None = None,
    min_confidence: float | None = None,
    outliers: float | None = None,
    interpolate: float | None = None,
    smooth: float | None = None,
    smooth_order: int = 3,
    resample: float | None = None,
    mm_per_pixel: float | None = None,
    test: float = 0.33,
    blocks: int | None = None,
    gap: float = 1.0,
    seed: int = 0,
    labels_beyond: Literal["error", "cut"] = "error",
    species: str = "unstated",
    workers: int | None = None,
    report: bool = True,
    force: Switch = False,
    overwrite: Switch = False,
) -> None:
    """Make a dataset of your own pose and label files.

    The same command continues what was interrupted. Tracks are only changed by the cleaning that is asked for.

    Args:
        poses: pose files of any format the readers know; a file is a recording.
        out: name in the store ($ETHORAY_STORE or store/), or a folder or URL.
        labels: label files; each goes to the recording it names.
        fps: frames per second, unless the label files state it.
        subjects: the animal of each pose file; by default each file is another one.
        ignore: keypoints to leave out, such as the corners of the arena.
        ignore_behaviours: labels that are no behaviour.
        front: keypoint at the front of the body axis; guessed by default.
        back: keypoint at the back of it.
        min_confidence: cleaning: keypoints below it count as missing.
        outliers: cleaning: keypoints so many robust deviations from their running median count as missing.
        interpolate: cleaning: fill gaps up to so many seconds.
        smooth: cleaning: Savitzky-Golay smoothing over so many seconds.
        smooth_order: of its polynomials.
        resample: cleaning: change to so many frames per second.
        mm_per_pixel: cleaning: turn pixels into millimetres.
        test: share of the recordings or blocks on the test side.
        blocks: cut every recording into so many contiguous blocks; by default only when recordings are few.
        gap: seconds left out between blocks.
        seed: of the split.
        labels_beyond: what to do with labels more than a second longer than the track.
        species: for the card.
        workers: processes; by default one a core when there is enough to do.
        report: write quality.html beside the dataset.
        force: only note, in the card, an animal or a track that is in train and in test.
        overwrite: replace a dataset of this name.
    """
    from ethoray import store, wording
    from ethoray.cleaning import steps
    from ethoray.ingest import ingest
    from ethoray.readers.own import own

    cleaning = steps(
        min_confidence=min_confidence, outliers=outliers, interpolate=interpolate, smooth=smooth,
        smooth_order=smooth_order, resample=resample, mm_per_pixel=mm_per_pixel,
    )  # fmt: skip
    root = out if re.search(r"[/\\]", out) else f"{os.environ.get('ETHORAY_STORE') or 'store'}/{out}"
    store.claim(root, overwrite)
    card, parts = own(
        poses, labels, fps, re.split(r"[/\\]", out.rstrip("/\\"))[-1], subjects=subjects, ignore=ignore,
        ignore_behaviours=ignore_behaviours, front=front, back=back, cleaning=cleaning, test=test, blocks=blocks,
        gap=gap, seed=seed, labels_beyond=labels_beyond, species=species,
    )  # fmt: skip
    dataset = ingest(card, parts, root, workers=workers, overwrite=overwrite, force=force)
    print("\n".join(wording.describe(dataset)))
    if report:
        print(f"quality: {wording.quality(dataset)}")
    print(f"prepared {dataset.uri}\nnext: ethoray train {out} bams")


def train(
    dataset: Data,
    method: Named,
    preset: str | None = None,
    settings: Settings = (),
    seconds: float | None = None,
    batch_size: int | None = None,
    steps: int | None = None,
    seeds: tuple[int, ...] = (0,),
    split: str = "train",
    workers: int = 1,
    precision: str | None = None,
    compiled: Switch = False,
    storage: Path | None = None,
) -> None:
    """Train a method on a dataset, embed it and score it, once for every seed.

    The same command continues what was interrupted and does not repeat what is finished.

    Args:
        dataset: a prepared dataset's name, folder or URL.
        method: its name, such as bams or pca.
        preset: named settings of the method.
        settings: fields of the method, such as lr=0.001 or long_channels=64,64,32.
        seconds: length of a training window.
        batch_size: windows in a step, over all workers.
        steps: optimiser steps.
        seeds: one run each.
        split: which recordings to train on.
        workers: processes that share each batch; more than one starts Ray Train.
        precision: float32, or bfloat16 for mixed precision.
        compiled: let torch.compile make one program of the loss.
        storage: folder of the runs ($ETHORAY_RUNS or runs/).
    """
    from ethoray import record, store, wording
    from ethoray.batch import Windows
    from ethoray.experiment import Experiment
    from ethoray.probes.linear import Linear
    from ethoray.tracking import Mirror

    opened = store.open(dataset)
    place = _runs(storage)
    mirror = Mirror(opened.card.name, place)
    windows = Windows(opened.uri, split=split, **_given(seconds=seconds, batch_size=batch_size))
    budget = wording.budget(**_given(steps=steps, precision=precision, compile=compiled or None))
    chosen = wording.configure(method, preset, settings)
    folders = []
    for seed in seeds:
        experiment = Experiment(windows, chosen, (Linear(),), budget, seed)
        folder = place / record.key(experiment, opened)
        print(f"{method} on {opened.card.name}, seed {seed}: {folder}", flush=True)
        wording.run(experiment, folder, workers)
        mirror.follow([folder], insist=True)
        print("\n".join(wording.scores(folder)), flush=True)
        folders.append(folder)
    if len(folders) > 1:
        print(f"{method} on {opened.card.name}, {len(folders)} seeds")
        print("\n".join(wording.summary(folders, opened.card)))
    print(f"compare: ethoray report {opened.card.name}\nbrowse:  ethoray ui")


def embed(run: Run, dataset: Data, out: Path, every: float = 0.0, storage: Path | None = None) -> None:
    """Embed the recordings of a dataset with the encoder of a run, into Parquet files.

    Args:
        run: a run's folder, or the beginning of its key.
        dataset: what to embed: a prepared dataset's name, folder or URL.
        out: folder for the Parquet files.
        every: seconds between two frames that are written; 0 writes every frame.
        storage: folder of the runs ($ETHORAY_RUNS or runs/).
    """
    from ethoray import embedding, store, wording
    from ethoray.experiment import restore

    folder, target = wording.find(run, _runs(storage)), store.open(dataset)
    wording.same_body(folder, target)
    _, encoder = restore(folder)
    frames = 0
    for item in embedding.write(embedding.embed(encoder, target, target.entries), out, every=every):
        frames += item.entry.frames
        print(f"{item.entry.name}: {item.entry.frames} frames", flush=True)
    print(f"embedded {frames} frames of {len(target.entries)} recordings into {out}")


def score(run: Run, dataset: AnyData = None, storage: Path | None = None) -> None:
    """Print the scores of a run, or judge its encoder on another dataset.

    Args:
        run: a run's folder, or the beginning of its key.
        dataset: another prepared dataset: its train recordings fit the probes, its test recordings judge.
        storage: folder of the runs ($ETHORAY_RUNS or runs/).
    """
    from ethoray import record, store, wording
    from ethoray.experiment import evaluate, restore

    folder = wording.find(run, _runs(storage))
    if dataset is not None:
        target = store.open(dataset)
        wording.same_body(folder, target)
        experiment, encoder = restore(folder)
        folder = folder / "elsewhere" / f"{target.card.name}-{target.key[:8]}"
        if record.finished(folder) is None:
            folder.mkdir(parents=True, exist_ok=True)
            evaluate(experiment, encoder, target, folder)
    elif record.finished(folder) is None:
        raise record.RecordError(f"{folder} is not finished; the command that started it continues it")
    print("\n".join(wording.scores(folder)))


def report(name: AnyData = None, storage: Path | None = None, out: Path | None = None) -> None:
    """Write the leaderboard of the finished runs on a dataset: a page and a table.

    Args:
        name: a dataset's name; by default every dataset has its table.
        storage: folder of the runs ($ETHORAY_RUNS or runs/).
        out: folder for the files; by default reports/ inside the storage.
    """
    from ethoray import leaderboard, store, wording
    from ethoray.report import page

    place = _runs(storage)
    for uri, folders in wording.finished(place, name).items():
        card = store.open(uri).card
        question = f"Which method tells the behaviours of {card.name} apart best?"
        table, command = leaderboard.collect(folders, card), ["ethoray", "report", card.name]
        for path in page((out or place / "reports") / card.name, card.name, question, table, card, command):
            print(path)


def ui(port: int = 5000, storage: Path | None = None) -> None:
    """Browse runs in MLflow, on this machine only, until interrupted.

    Args:
        port: of the page.
        storage: folder of the runs ($ETHORAY_RUNS or runs/).
    """
    database = _runs(storage) / "mlflow.db"
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None and not database.exists():
        raise FileNotFoundError(f"{database}: nothing was tracked yet; train first, or choose another --storage")
    print(f"MLflow: http://127.0.0.1:{port} (stop with Ctrl-C)", flush=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port)]
    subprocess.run([*command, "--backend-store-uri", uri or f"sqlite:///{database}"], check=True)


VERBS: dict[str, Callable[..., None]] = {v.__name__: v for v in (prepare, train, embed, score, report, ui)}


def main(words: Sequence[str] | None = None) -> None:
    """The ``ethoray`` command; ends the process with status 0, 2 (a foreseen error), 1 (any other) or 130."""
    words = list(sys.argv[1:] if words is None else words)
    debug = "--debug" in words or os.environ.get("ETHORAY_DEBUG") == "1"
    logging.basicConfig(format="%(message)s", level=logging.INFO if debug else logging.WARNING)
    try:
        tyro.extras.subcommand_cli_from_dict(
            VERBS,
            prog="ethoray",
            description="Behaviour embeddings of animals: trained, swept and judged under one evaluator.",
            args=[word for word in words if word != "--debug"],
        )
    except KeyboardInterrupt:
        print("\ninterrupted; the same command continues", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if debug or not _foreseen(error):
            traceback.print_exc()
            sys.exit(2 if _foreseen(error) else 1)
        print(f"ethoray: {error}", file=sys.stderr)
        sys.exit(2)


def _foreseen(error: Exception) -> bool:
    """Whether the message is written for the user: the package's own errors, and the operating system's."""
    return type(error).__module__.split(".")[0] == "ethoray" or isinstance(error, OSError)


def _runs(storage: Path | None) -> Path:
    return Path(storage or os.environ.get("ETHORAY_RUNS") or "runs").resolve()


def _given(**options: Any) -> dict[str, Any]:
    """The options that were typed; the others keep the defaults of whatever takes them."""
    return {name: value for name, value in options.items() if value is not None}
