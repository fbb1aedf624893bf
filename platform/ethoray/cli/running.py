"""The verbs that make runs and show them."""

from __future__ import annotations

from pathlib import Path

from ethoray.cli.words import AnyData, Data, Named, Settings, Switch, given, runs


def train(
    dataset: Data,
    method: Named,
    preset: str | None = None,
    settings: Settings = (),
    seconds: float | None = None,
    batch_size: int | None = None,
    pairs: str | None = None,
    window: int | None = None,
    anchors: str | None = None,
    count: int | None = None,
    steps: int | None = None,
    seeds: tuple[int, ...] = (0,),
    split: str = "train",
    probes: tuple[str, ...] = ("linear",),
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
        pairs: of images: near, video or none.
        window: the most frames between the two images of a near pair.
        anchors: which stored images make pairs: all, distinct or uniform.
        count: of distinct or uniform anchors in a recording.
        steps: optimiser steps.
        seeds: one run each.
        split: which recordings to train on.
        probes: how the embedding is judged: linear, knn, few_labels, logistic, codewords, clusters.
        workers: processes that share each batch; more than one starts Ray Train.
        precision: float32, or bfloat16 for mixed precision.
        compiled: let torch.compile make one program of the loss.
        storage: folder of the runs ($ETHORAY_RUNS or runs/).
    """
    from ethoray import record, store, wording
    from ethoray.batch import Windows
    from ethoray.experiment import Experiment
    from ethoray.tracking import Mirror

    opened = store.open(dataset)
    place = runs(storage)
    cut = dict(seconds=seconds, batch_size=batch_size, pairs=pairs, window=window, anchors=anchors, count=count)
    mirror = Mirror(opened.card.name, place)
    windows = Windows(opened.uri, split=split, **given(**cut))
    budget = wording.budget(**given(steps=steps, precision=precision, compile=compiled or None))
    chosen, judged = wording.configure(method, preset, settings), wording.judged(probes)
    folders = []
    for seed in seeds:
        experiment = Experiment(windows, chosen, judged, budget, seed)
        folder = place / record.key(experiment, opened)
        print(f"{method} on {opened.card.name}, seed {seed}: {folder}", flush=True)
        wording.run(experiment, folder, workers)
        mirror.follow([folder], insist=True)
        print("\n".join(wording.scores(folder)), flush=True)
        folders.append(folder)
    if len(folders) > 1:
        print("\n".join(wording.summary(folders, opened.card)))
    print(f"compare: ethoray report {opened.card.name}\nbrowse:  ethoray ui")


def report(name: AnyData = None, storage: Path | None = None, out: Path | None = None, mlflow: Switch = False) -> None:
    """Write pages of finished runs: leaderboard, figures, moments, tables.

    Args:
        name: a dataset or a sweep; by default every sweep and every dataset that no sweep was run on.
        storage: folder of the runs ($ETHORAY_RUNS or runs/).
        out: folder for the files; by default reports/ inside the storage.
        mlflow: first bring what the storage lacks from MLflow (MLFLOW_TRACKING_URI, or its own database).
    """
    from ethoray.report import again

    place = runs(storage)
    if mlflow:
        from ethoray.tracking.fetch import fetch

        for folder in fetch(place, name):
            print(f"from MLflow: {folder}", flush=True)
    for path in again.pages(place, out or place / "reports", name):
        print(path)


def ui(port: int = 5000, storage: Path | None = None) -> None:
    """Browse runs in MLflow, on this machine only, until interrupted.

    Args:
        port: of the page.
        storage: folder of the runs ($ETHORAY_RUNS or runs/).
    """
    from ethoray.tracking.server import serve

    serve(runs(storage), port)
