"""BEAST: a training step at tiny and base, what it spends its time on, and embedding of video with its decoding.

    python tests/bench/beast.py                  # CPU-seconds of one thread
    python tests/bench/beast.py --only tiny
    python tests/bench/beast.py --device cuda    # seconds of a GPU, also in bfloat16 and compiled

A step is one of ``fit`` on images of 224 x 224 pixels in 196 patches, three quarters hidden: moving and normalising the
images, loss, backward pass, AdamW. "tiny" (encoder 192 wide, decoder 128 x 4) has 32 images a step, "base" (the
published ViT-B/16) has 8; on a GPU both have 256. Embedding is of a made film of 640 x 512 pixels, H.264, decoded in
a process of its own, as ``ethoray.video`` does, whose CPU-seconds count too. A product of two 1024 x 1024 matrices
says how fast the machine was meanwhile.
"""

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import av
import numpy as np
import torch

from ethoray import video
from ethoray.batch import Batch, Spec, picture_batch
from ethoray.learning import Budget
from ethoray.methods.beast import BEAST
from ethoray.nn import pictures
from ethoray.schema import Skeleton

FRAMES, WIDTH, HEIGHT, SIDE, AT_ONCE = 192, 640, 512, 224, 32
SIZES = {"tiny": (BEAST(**{**BEAST.presets["tiny"]}), 32), "base": (BEAST(), 8)}


def clock(device: str) -> float:
    """CPU-seconds of this process and of children that have ended; seconds after all work is done on a GPU."""
    if device != "cpu":
        torch.cuda.synchronize()
        return time.perf_counter()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def timed(do: Callable[[], object], device: str, rounds: int) -> float:
    """Median over some rounds, after one that does not count."""
    found = []
    for _ in range(rounds + 1):
        before = clock(device)
        do()
        found.append(clock(device) - before)
    return median(found[1:])


def images(count: int) -> Batch:
    """Pairs of noisy colour images."""
    drawn = torch.randint(0, 256, (count // 2, 2, SIDE, SIDE, 3), generator=torch.Generator().manual_seed(0))
    return picture_batch(drawn.to(torch.uint8), 30.0)


def steps(method: BEAST, budget: Budget, batch: Batch) -> float:
    """Seconds of a step, the median after the first two; the last one is left out, for it ends with a checkpoint."""
    torch.manual_seed(0)
    encoder = method.build(Spec(Skeleton(()), 1, 2, 30.0, 2, 0, (SIDE, SIDE, 3)))
    device, found = str(budget.torch_device()), []
    before = 0.0
    for progress in encoder.fit(lambda _: batch, budget):
        now = clock(device)
        if progress.step > 2:
            found.append(now - before)
        before = now
    return median(found[:-1])


def train(device: str, only: str, rounds: int) -> None:
    for name, (method, count) in SIZES.items():
        if only not in ("", name):
            continue
        batch = images(count if device == "cpu" else 256).to(device)
        pairs = len(batch)
        budget = Budget(steps=rounds + 3, log_every=1, save_every=1000, device=device)
        found = {"float32": steps(method, budget, batch)}
        if device != "cpu":
            found["bfloat16"] = steps(method, replace(budget, precision="bfloat16"), batch)
            found["bfloat16, compiled"] = steps(method, replace(budget, precision="bfloat16", compile=True), batch)
        for how, seconds in found.items():
            speed = 2 * pairs / seconds
            print(f"  {name:5s} {2 * pairs:4d} images  {how:20s} {seconds:7.3f} s a step  {speed:8.1f} images/s")
        raw, move = batch.images.flatten(0, 1), pictures.moves(pairs, 2, "crop", False, batch.mask.device)
        part = timed(partial(pictures.prepare, raw, (SIDE, SIDE), move), device, rounds)
        print(f"        of which moving and normalising {part:7.3f} s, {part / found['float32']:.1%} of a float32 step")
        parameters = [torch.nn.Parameter(torch.randn(p.shape, device=device)) for p in _built(method).parameters()]
        for p in parameters:
            p.grad = torch.randn_like(p)
        kinds = {fused: torch.optim.AdamW(parameters, fused=fused, foreach=False) for fused in (True, False)}
        fused, plain = (timed(kinds[kind].step, device, rounds) for kind in (True, False))
        print(f"        AdamW: fused {fused:.3f} s, parameter by parameter {plain:.3f} s", flush=True)


def _built(method: BEAST) -> torch.nn.Module:
    return method.build(Spec(Skeleton(()), 1, 2, 30.0, 2, 0, (SIDE, SIDE, 3)))


def film(path: Path) -> Path:
    """A textured arena in which something moves."""
    rng = np.random.default_rng(0)
    arena = rng.integers(60, 110, (HEIGHT // 4, WIDTH // 4, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=60)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"preset": "veryfast", "g": "250"}
        for i in range(FRAMES):
            picture = arena + rng.integers(0, 6, arena.shape, dtype=np.uint8)
            x, y = int(290 + 220 * np.sin(i / 37)), int(220 + 170 * np.cos(i / 23))
            picture[y : y + 40, x : x + 70] = 230
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode(None))
    return path


def chunks(path: Path, frames: int) -> Iterator[Batch]:
    """Frames of a film as batches to embed."""
    held: list[np.ndarray] = []
    for frame in video.frames(str(path), video.View((SIDE, SIDE))):
        held.append(frame.image)
        if len(held) == AT_ONCE:
            yield picture_batch(np.stack(held)[None], 60.0)
            held, frames = [], frames - AT_ONCE
        if frames <= 0:
            return


def embed(device: str, only: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = film(Path(folder) / "film.mp4")
        alone = timed(lambda: [0 for _ in chunks(path, FRAMES)], device, 1) / FRAMES
        print(f"  decoding alone         {1 / alone:8.1f} frames/s")
        for name, (method, _) in SIZES.items():
            if only not in ("", name):
                continue
            encoder, frames = _built(method).to(device).eval(), FRAMES if name == "tiny" or device != "cpu" else 64

            @torch.no_grad()
            def run(encoder: torch.nn.Module = encoder, frames: int = frames) -> None:
                for batch in chunks(path, frames):
                    encoder.embed(batch.to(device))["cls"].cpu()

            spent = timed(run, device, 1) / frames
            print(f"  {name:5s} with decoding    {1 / spent:8.1f} frames/s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--only", default="", choices=("", *SIZES))
    parser.add_argument("--rounds", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    left, right = torch.randn(2, 1024, 1024, device=chosen.device)
    product = timed(lambda: left @ right, chosen.device, 5)
    unit = "CPU-seconds, one thread" if chosen.device == "cpu" else torch.cuda.get_device_name()
    print(
        f"BEAST, 224 x 224 pixels, patches of 16, 75 % hidden; {unit}; a product runs at {2.147 / product:.0f} GFLOP/s"
    )
    train(chosen.device, chosen.only, chosen.rounds)
    print("Embedding of a film of 640 x 512 pixels")
    embed(chosen.device, chosen.only)


if __name__ == "__main__":
    main()
