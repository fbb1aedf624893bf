"""Videos against a pipeline that seeks every frame and keeps PNG files: export, loading, decoding, and memory.

Run by path: ``python tests/bench/video.py``. CPU-seconds are those of this process and of its children, median of
interleaved rounds. The clip is made for this: a textured arena of 640 x 512 pixels, a moving animal, H.264 with a
key frame every 250 frames. The other pipeline seeks to the key frame before each wanted frame, decodes up to it,
writes it as PNG at full size, and reads and resizes that file every time a training step asks for it.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

import av
import numpy as np
from PIL import Image

from ethoray import store, video
from ethoray.schema import Card, Recording, Skeleton
from ethoray.video import View, anchors

FRAMES, WIDTH, HEIGHT, ANCHORS, SIDE = 1000, 640, 512, 60, 224


def spent() -> float:
    """CPU-seconds of this process and of the children it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def interleaved(work: Mapping[str, Callable[[], object]], rounds: int = 3) -> dict[str, float]:
    """Median CPU-seconds of each piece of work, children included."""
    found: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, do in work.items():
            before = spent()
            do()
            found[name].append(spent() - before)
    return {name: median(values) for name, values in found.items()}


def film(path: Path) -> Path:
    """The clip, in colour."""
    rng = np.random.default_rng(0)
    arena = rng.integers(60, 110, (HEIGHT // 4, WIDTH // 4, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=60)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"preset": "veryfast", "g": "250", "sc_threshold": "0"}
        for i in range(FRAMES):
            picture = arena + rng.integers(0, 6, arena.shape, dtype=np.uint8)
            x, y = int(290 + 220 * np.sin(i / 37)), int(220 + 170 * np.cos(i / 23))
            picture[y : y + 40, x : x + 70] = 230
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))
    return path


def seeking(path: Path, wanted: list[int], folder: Path) -> None:
    """Every wanted frame by a seek of its own, as PNG at full size."""
    folder.mkdir(exist_ok=True)
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        for index in wanted:
            at = round(index / stream.average_rate / stream.time_base)
            file.seek(at, stream=stream)
            for frame in file.decode(stream):
                if frame.pts >= at:
                    frame.to_image().save(folder / f"img{index:08d}.png")
                    break


def one_pass(path: Path, stretches: list[range], folder: Path) -> store.Dataset:
    """The same frames in one pass, resized, into a prepared dataset."""
    skeleton = Skeleton(())
    card = Card("bench", "block", 60.0, skeleton, simulated=True)

    def pieces():
        passing = video.frames(path, View((SIDE, SIDE), grey=False), only=[i for s in stretches for i in s])
        for stretch in stretches:
            images = np.stack([next(passing).image for _ in stretch])
            nothing = np.empty((len(stretch), 1, 0, 2))
            yield Recording("film", "film", 60.0, skeleton, nothing, start=stretch.start, images=images)

    return store.prepare(card, pieces(), folder, overwrite=True)


def main() -> None:
    """Print the ratios."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        path = film(root / "film.mp4")
        chosen = np.sort(np.random.default_rng(1).choice(np.arange(1, FRAMES - 1), ANCHORS, replace=False))
        stretches = anchors.context(chosen, 1, 0, FRAMES)
        wanted = [i for s in stretches for i in s]
        cost = interleaved(
            {
                "seek": lambda: seeking(path, wanted, root / "png"),
                "pass": lambda: one_pass(path, stretches, root / "store"),
            }
        )
        each = {name: 1000 * seconds / len(wanted) for name, seconds in cost.items()}
        print(f"export, CPU-ms a frame: one pass {each['pass']:.1f}, seeks and PNG {each['seek']:.1f}, ", end="")
        print(f"{each['seek'] / each['pass']:.1f} times as much")

        dataset = store.open(root / "store")
        (entry,) = dataset.entries
        files = [root / "png" / f"img{i:08d}.png" for i in wanted]
        cost = interleaved(
            {
                "png": lambda: [np.asarray(Image.open(f).convert("RGB").resize((SIDE, SIDE))) for f in files],
                "shard": lambda: [dataset.images(entry, clip) for clip in entry.clips],
            }
        )
        each = {name: 1000 * seconds / len(wanted) for name, seconds in cost.items()}
        print(f"loading, CPU-ms a frame: shards {each['shard']:.2f}, PNG {each['png']:.2f}, ", end="")
        print(f"{each['png'] / each['shard']:.1f} times as much")

        small, large = View((anchors.SIDE, anchors.SIDE)), View((SIDE, SIDE), grey=False)
        cost = interleaved(
            {s: lambda v=v: list(video.frames(path, v)) for s, v in (("32 grey", small), ("224 RGB", large))}
        )
        print("decoding: " + ", ".join(f"{name} {FRAMES / s:.0f} frames a CPU-second" for name, s in cost.items()))
    print("survey and 500 anchors of simulated grey thumbnails:")
    for count in (1_000, 10_000, 100_000, 1_000_000):
        done = subprocess.run([sys.executable, __file__, str(count)], check=True, capture_output=True, text=True)
        print(f"  {count:8} frames: {done.stdout.strip()}")


def peak() -> float:
    """The most memory this process has held, in MiB; the figure of getrusage also counts what its parent held."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def remember(count: int) -> None:
    """Print how much memory a survey and its anchors take, beyond what a survey of 100 frames takes."""
    pool = np.random.default_rng(0).integers(0, 255, (512, 32, 32, 1), dtype=np.uint8)
    before, started = 0.0, 0.0
    for number, want in ((100, 10), (count, min(500, count // 4))):
        before, started = peak(), time.process_time()
        frames = (
            video.Frame(i, i / 60, pool[(i * i + i // 7) % 512] ^ np.uint8(i // 512 % 256)) for i in range(number)
        )
        anchors.choose(anchors.survey(frames), want)
    print(f"{peak() - before:6.0f} MiB more, {time.process_time() - started:6.1f} CPU-seconds")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if len(sys.argv) == 2:
        remember(int(sys.argv[1]))
    else:
        main()
