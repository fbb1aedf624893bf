"""Every reader of tracks: MB/s and frames/s, and the memory that reading in pieces needs.

python tests/bench/readers.py [--frames 100000] [--rounds 3]

The files are written here, in the published layouts: random walks of two animals of eight keypoints (twelve where
the format says so) with confidence. CPU-seconds of one thread. Beside each reader stands the obvious way to the
same numbers: pandas for tables, h5py's whole arrays for HDF5, NumPy's own load for npy; neither masks, names or
checks anything. Peak memory is that of a process that goes through the pieces of a file once.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as arrow_csv
from timing import interleaved

from ethoray import readers
from ethoray.readers import Tracks, calms21, mabe22
from ethoray.writers import write_table

ANIMALS, POINTS = 2, 8


def walk(frames: int, animals: int = ANIMALS, points: int = POINTS, space: int = 2) -> Tracks:
    rng = np.random.default_rng(0)
    keypoints = 300 + rng.normal(size=(frames, animals, points, space)).cumsum(0)
    names = tuple(f"point {k}" for k in range(points))
    confidence = rng.uniform(size=keypoints.shape[:-1]).astype(np.float32)
    return Tracks(keypoints.astype(np.float32), confidence, tuple(f"m{i}" for i in range(animals)), names)


def columns(tracks: Tracks) -> np.ndarray:
    """Float64 (frame, column), the columns x, y[, z], confidence of every keypoint of every animal."""
    joined = np.concatenate([tracks.keypoints, tracks.confidence[..., None]], axis=-1)
    return joined.reshape(len(joined), -1).astype(float)


def write_sheet(path: Path, head: str, values: np.ndarray) -> None:
    table = pa.table([pa.array(np.arange(len(values))), *values.T], [f"c{i}" for i in range(values.shape[1] + 1)])
    with path.open("wb") as file:
        file.write(head.encode())
        arrow_csv.write_csv(table, file, arrow_csv.WriteOptions(include_header=False))


def deeplabcut(path: Path, frames: int) -> None:
    tracks = walk(frames)
    places = [(i, k, c) for i in tracks.individuals for k in tracks.names for c in ("x", "y", "likelihood")]
    rows = [["scorer", *["net"] * len(places)]]
    rows += [[label, *(p[n] for p in places)] for n, label in enumerate(("individuals", "bodyparts", "coords"))]
    write_sheet(path, "".join(",".join(row) + "\n" for row in rows), columns(tracks))


def simba(path: Path, frames: int) -> None:
    names = [f"p{k}_{i}_{c}" for i in (1, 2) for k in range(POINTS) for c in "xyp"]
    write_sheet(path, ",".join(["", *names]) + "\n", columns(walk(frames)))


def anipose(path: Path, frames: int) -> None:
    names = [f"p{k}_{c}" for k in range(POINTS) for c in ("x", "y", "z", "score")]
    write_sheet(path, ",".join(["fnum", *names]) + "\n", columns(walk(frames, 1, space=3)))


def pandas_frame(fixed: bool) -> Callable[[Path, int], None]:
    """DeepLabCut's h5 as pandas writes it, columns named without its pickles (fixed) or by a plain one (table)."""

    def write(path: Path, frames: int) -> None:
        tracks = walk(frames)
        levels = ("net",), tracks.individuals, tracks.names, ("x", "y", "likelihood")
        labels = np.indices([len(level) for level in levels]).reshape(4, -1)
        with h5py.File(path, "w") as file:
            group = file.create_group("df_with_missing")
            group.attrs["pandas_type"] = b"frame" if fixed else b"frame_table"
            if fixed:
                group["block0_values"] = columns(tracks)
                for n, level in enumerate(levels):
                    group[f"block0_items_level{n}"] = np.array(level, dtype="S")
                    group[f"block0_items_label{n}"] = labels[n]
                return
            named = ("".join(f"V{levels[n][i]}\n" for n, i in enumerate(place)) for place in labels.T)
            steps = "".join(f"({text}ta" for text in named)
            group.attrs["non_index_axes"] = np.bytes_(f"(lp0\n(I1\n(lp1\n{steps}tp2\na.")
            rows = np.zeros(frames, dtype=[("index", "i8"), ("values_block_0", "f8", (labels.shape[1],))])
            rows["values_block_0"] = columns(tracks)
            group.create_dataset("table", data=rows, chunks=(min(1024, frames),))

    return write


def jabs(path: Path, frames: int) -> None:
    tracks = walk(frames, points=12)
    with h5py.File(path, "w") as file:
        pose = file.create_group("poseest")
        points = tracks.keypoints[..., ::-1].clip(0, 2000).astype(np.uint16)
        pose.create_dataset("points", data=points, chunks=(min(1024, frames), *points.shape[1:]), compression="gzip")
        pose["confidence"] = tracks.confidence
        pose["instance_count"] = np.full(frames, ANIMALS, dtype=np.uint8)
        pose["instance_embed_id"] = np.tile(np.arange(1, ANIMALS + 1, dtype=np.uint32), (frames, 1))
        pose["id_mask"] = np.zeros((frames, ANIMALS), dtype=bool)


def sleap_analysis(path: Path, frames: int) -> None:
    tracks = walk(frames)
    with h5py.File(path, "w") as file:
        file.create_dataset("tracks", data=tracks.keypoints.astype(float).transpose(1, 3, 2, 0), compression="gzip")
        file["point_scores"] = tracks.confidence.transpose(1, 2, 0)
        file["node_names"], file["track_names"] = np.array(tracks.names, "S"), np.array(tracks.individuals, "S")


def sleap_project(path: Path, frames: int) -> None:
    tracks = walk(frames)
    count = frames * ANIMALS
    video = np.zeros(frames, dtype=[("frame_id", "u8"), ("video", "u4"), ("frame_idx", "u8")])
    video["frame_id"] = video["frame_idx"] = np.arange(frames)
    keys = ("instance_type", "frame_id", "track", "point_id_start", "point_id_end")
    instances = np.zeros(count, dtype=list(zip(keys, ("u1", "u8", "i4", "u8", "u8"), strict=True)))
    instances["instance_type"], instances["track"] = 1, np.tile(np.arange(ANIMALS), frames)
    instances["frame_id"] = np.repeat(np.arange(frames), ANIMALS)
    instances["point_id_start"] = np.arange(count) * POINTS
    instances["point_id_end"] = instances["point_id_start"] + POINTS
    points = np.zeros(count * POINTS, dtype=[("x", "f8"), ("y", "f8"), ("visible", "?"), ("score", "f8")])
    points["x"], points["y"] = tracks.keypoints.reshape(-1, 2).T
    points["visible"], points["score"] = True, tracks.confidence.reshape(-1)
    nodes = [{"name": name} for name in tracks.names]
    document = {"nodes": nodes, "skeletons": [{"nodes": [{"id": k} for k in range(POINTS)]}]}
    with h5py.File(path, "w") as file:
        file["frames"], file["instances"], file["pred_points"], file["points"] = video, instances, points, points[:0]
        file["tracks_json"] = np.array([json.dumps([0, name]) for name in tracks.individuals], "S")
        group = file.create_group("metadata")
        group.attrs["format_id"], group.attrs["json"] = 1.2, json.dumps(document)


def table(path: Path, frames: int) -> None:
    write_table(walk(frames), path, recording=path.stem, fps=30)


def mabe(path: Path, frames: int) -> None:
    points = walk(1800, 3, 12).keypoints
    clips = {f"clip{i}": {"keypoints": points.copy()} for i in range(-(-frames // 1800))}
    document = np.empty((), dtype=object)
    document[()] = {"sequences": clips, "vocabulary": []}
    np.save(path, document, allow_pickle=True)


def calms(path: Path, frames: int) -> None:
    tracks = walk(10_000, 2, 7)
    one = {"keypoints": tracks.keypoints.transpose(0, 1, 3, 2).round(3).tolist(), "scores": tracks.confidence.tolist()}
    group = {f"task1/train/mouse{i:03}": one for i in range(-(-frames // 10_000))}
    path.write_text(json.dumps({"annotator-id_0": group}))


def arrays(path: Path) -> None:
    def read(_: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            np.asarray(item)

    with h5py.File(path) as file:
        file.visititems(read)


FILES: dict[str, tuple[str, Callable[[Path, int], None], Callable[[Path], object]]] = {
    "DeepLabCut csv": ("csv", deeplabcut, lambda p: pd.read_csv(p, header=[0, 1, 2, 3], index_col=0)),
    "SimBA csv": ("csv", simba, pd.read_csv),
    "Anipose csv": ("csv", anipose, pd.read_csv),
    "long table csv": ("csv", table, pd.read_csv),
    "long table Parquet": ("parquet", table, pd.read_parquet),
    "DeepLabCut h5 table": ("h5", pandas_frame(False), arrays),
    "DeepLabCut h5 fixed": ("h5", pandas_frame(True), arrays),
    "JABS h5": ("h5", jabs, arrays),
    "SLEAP analysis.h5": ("h5", sleap_analysis, arrays),
    "SLEAP slp": ("slp", sleap_project, arrays),
    "MABe22 npy": ("npy", mabe, lambda p: np.load(p, allow_pickle=True)),
    "CalMS21 json": ("json", calms, lambda p: json.loads(p.read_bytes())),
}
MANY = {"MABe22 npy": mabe22.sequences, "CalMS21 json": calms21.sequences}


def through(name: str, path: Path) -> int:
    """Read all of a file in pieces; how many frames there were."""
    if name not in MANY:
        return sum(len(piece.keypoints) for piece in readers.pieces(path))
    found: Iterator = MANY[name](path)
    return sum((r[1] if isinstance(r, tuple) else r).frames for r in found)


def highest() -> int:
    """KiB: the most this process ever had in memory. What getrusage says includes the parent's."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


def peak(name: str, path: Path) -> float:
    """MiB that a process needs to go through the pieces of a file, beyond what it needs for a tiny one."""
    command = [sys.executable, __file__, "--peak", name, str(path)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="readers whose name holds this")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    pa.set_cpu_count(1)
    if arguments.peak:
        name, path = arguments.peak[0], Path(arguments.peak[1])
        before = highest()
        through(name, path)
        print((highest() - before) / 1024)
        return
    print(f"{arguments.frames} frames; CPU-seconds, one thread; memory of pieces at this length and at four times it")
    print(f"{'':20s} {'MB':>6s} {'MB/s':>7s} {'frames/s':>9s} {'obvious way':>12s} {'MiB':>6s} {'MiB x4':>7s}")
    with tempfile.TemporaryDirectory() as folder:
        for name, (ending, write, obvious) in FILES.items():
            if arguments.only not in name:
                continue
            path, long = (Path(folder) / f"{size}.{ending}" for size in ("one", "four"))
            write(path, arguments.frames)
            write(long, 4 * arguments.frames)
            frames, size = through(name, path), path.stat().st_size / 1e6
            work = {"ours": lambda n=name, p=path: through(n, p), "obvious": lambda o=obvious, p=path: o(p)}
            times = interleaved(work, arguments.rounds)
            needs = [peak(name, p) for p in (path, long)]
            print(
                f"{name:20s} {size:6.1f} {size / times['ours']:7.1f} {frames / times['ours']:9.0f} "
                f"{times['obvious'] / times['ours']:9.2f} x {needs[0]:6.0f} {needs[1]:7.0f}",
                flush=True,
            )
            path.unlink()
            long.unlink()


if __name__ == "__main__":
    main()
