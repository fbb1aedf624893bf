# /// script
# requires-python = ">=3.11"
# dependencies = ["ethoray"]
#
# [tool.uv.sources]
# ethoray = { path = "..", editable = true }
# ///
"""A walking Go1 robot's foot: force and a foot-mounted inertial sensor on labelled surfaces, a second a recording.

    python datasets/robot_foot.py --raw FOLDER --out robot_foot

Robot: Unitree Go1, a real quadruped; one foot. Files are csv without a header, seven columns: Fz (raw sensor units),
ax, ay, az (g), wx, wy, wz (degrees per second); units of the inertial sensor are inferred from its values at rest.
Keypoints are not places: each is a vector of three numbers over time. ``accelerometer`` is (ax, ay, az) in g,
``gyroscope`` (wx, wy, wz) in degrees per second, ``force`` (0, 0, Fz / 100). Use a method on raw channels (pca, gpt,
bams without an egocentric frame); a rotation or a distance between such keypoints means nothing.
Time: force comes at 500 Hz and the inertial sensor at 250 Hz, each column filled from its first row on, so that the
lower half of the sensor's columns is empty. Row i of the sensor is paired with row 2 i of the force, 250 frames per
second. The two clocks were not synchronised: their gait periods at the nominal rates differ by about 5 %.
Recording task: surface, known from the file's name (normal, soft: a mattress, slippery: greased, white: another);
there is no task where all files are of one surface.
Splits: every file is cut in seconds; the last third is for test, after a second that is left out (split "gap"). One
robot and one walk a surface: scores say whether surfaces differ here, not whether a robot knows them elsewhere.
Get the csv files of offline/data from https://github.com/MichaelMarav/ProbabilisticContactEstimation.
Licence: BSD. Citation: Maravgakis, Argiropoulos, Piperakis & Trahanias, Probabilistic contact state estimation for
legged robots using inertial information, ICRA 2023.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ethoray import store
from ethoray.ingest import Part, ingest
from ethoray.readers import ReadError
from ethoray.schema import Card, Kind, Recording, Skeleton, Task

SIZES = {"small": 6, "full": None}
FPS = 250.0
FOOT = Skeleton(("accelerometer", "gyroscope", "force"))
SURFACES = {
    "normal": "normal", "stroma": "soft", "mattress": "soft", "matress": "soft", "wd40": "slippery",
    "slippery": "slippery", "white": "white",
}  # fmt: skip
FORCE_UNIT = 100.0


def files(raw: Path) -> list[tuple[str, Path]]:
    """Surface and file of every csv whose name tells the surface."""
    paths = sorted(raw.glob("*.csv"))
    named = [(next((v for k, v in SURFACES.items() if k in p.name.lower()), None), p) for p in paths]
    found = [(surface, path) for surface, path in named if surface is not None]
    if not found:
        raise ReadError(f"{raw}: no csv file whose name tells a surface ({', '.join(SURFACES)})")
    return found


def read(path: Path) -> np.ndarray:
    """Accelerometer, gyroscope and force, float32 (time, keypoint, 3), at 250 Hz."""
    try:
        table = np.genfromtxt(path, delimiter=",", dtype=np.float64, missing_values=("", "NaN"), filling_values=np.nan)
    except ValueError as error:
        raise ReadError(f"{path}: rows of different lengths ({error})") from error
    if table.ndim != 2 or table.shape[1] != 7:
        raise ReadError(f"{path}: {table.shape} numbers; expected seven columns without a header")
    whole = np.isfinite(table[:, 1:]).all(1)
    frames = int(whole.sum())
    if not whole[:frames].all() or not frames or 2 * frames - 1 > len(table) or not np.isfinite(table[:, 0]).all():
        raise ReadError(f"{path}: the sensor's columns do not fill the first half of the rows, as two rates would")
    force = table[: 2 * frames : 2, 0] / FORCE_UNIT
    still = np.zeros_like(force)
    return np.stack(
        [table[:frames, 1:4], table[:frames, 4:7], np.stack([still, still, force], -1)], 1, dtype=np.float32,
        casting="same_kind",
    )  # fmt: skip


def card(name: str, surfaces: tuple[str, ...], found: list[Path]) -> Card:
    """The card of these files."""
    several = None
    if len(surfaces) > 1:
        kind: Kind = "multiclass" if len(surfaces) > 2 else "binary"
        several = Task("surface", kind, "recording", surfaces, "macro_recall")
    return Card(
        name=name,
        species="quadruped robot (Unitree Go1)",
        fps=FPS,
        skeleton=FOOT,
        tasks=() if several is None else (several,),
        split_rule="contiguous seconds of each file: the last third for test, after a second left out",
        unit="g, degrees per second, force in hundreds of raw units",
        licence="BSD",
        citation="Maravgakis, Argiropoulos, Piperakis & Trahanias, ICRA 2023",
        source="https://github.com/MichaelMarav/ProbabilisticContactEstimation",
        description=(__doc__ or "").partition("\n\n")[0],
        notes=("keypoints are vectors of sensors, not places", "force and inertial sensor run on clocks of their own"),
        checksums=tuple(f"{hashlib.sha256(p.read_bytes()).hexdigest()} {p.name}" for p in found),
    )


def recordings(found: list[tuple[str, Path]], surfaces: tuple[str, ...], most: int | None) -> Iterator[Recording]:
    """A second each; its subject is its file and side, since one walk is on both."""
    for surface, path in found:
        vectors, length = read(path), int(FPS)
        seconds = min(len(vectors) // length, most or len(vectors))
        if seconds < 3:
            raise ReadError(f"{path}: {len(vectors) / FPS:.1f} s; three are needed for train, gap and test")
        tested = max(seconds // 3, 1)
        for second in range(seconds):
            ahead = seconds - tested - 1 - second
            split = "train" if ahead > 0 else "gap" if ahead == 0 else "test"
            yield Recording(
                name=f"{path.stem}_{second:03d}s",
                subject=f"{path.stem}_{split}",
                fps=FPS,
                skeleton=FOOT,
                keypoints=vectors[second * length : (second + 1) * length, None],
                individuals=("foot",),
                split=split,
                labels={"surface": float(surfaces.index(surface))} if len(surfaces) > 1 else {},
            )


def main() -> None:
    """Write the dataset."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--raw", required=True, type=Path, metavar="FOLDER", help="holds the csv files")
    parser.add_argument("--out", required=True, metavar="NAME", help="the dataset's name in the store")
    parser.add_argument("--size", choices=SIZES, default="full", help=f"small: {SIZES['small']} seconds of each file")
    parser.add_argument("--root", help="folder or URL of the store (default: $ETHORAY_STORE or store)")
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset of that name")
    args = parser.parse_args()
    try:
        found = files(args.raw)
        surfaces = tuple(dict.fromkeys(surface for surface, _ in found))
        dataset = ingest(
            card(args.out, surfaces, [path for _, path in found]),
            [Part("seconds", lambda: recordings(found, surfaces, SIZES[args.size]))],
            store.place(args.out, args.root),
            overwrite=args.overwrite,
        )
    except (ReadError, store.StoreError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    print(f"{len(dataset.entries)} recordings in {dataset.uri}")


if __name__ == "__main__":
    main()
