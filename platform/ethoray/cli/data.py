"""The verb that makes datasets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from ethoray.cli.words import Poses, Switch


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
    root = out if re.search(r"[/\\]", out) else store.place(out)
    store.claim(root, overwrite)
    card, parts = own(
        poses, labels, fps, re.split(r"[/\\]", out.rstrip("/\\"))[-1], subjects=subjects, ignore=ignore,
        ignore_behaviours=ignore_behaviours, front=front, back=back, cleaning=cleaning, test=test, blocks=blocks,
        gap=gap, seed=seed, labels_beyond=labels_beyond, species=species,
    )  # fmt: skip
    dataset = ingest(card, parts, root, workers=workers, overwrite=overwrite, force=force)
    print("\n".join(wording.prepared(dataset, out, report)))
