"""Training step, embedding and peak memory of every method at its default size, the one of its paper.

    python tests/bench/methods.py                 # every method, CPU-seconds of one thread
    python tests/bench/methods.py bams byol       # some of them
    python tests/bench/methods.py --device cuda   # seconds on a GPU, and its memory

A step is one of ``fit``: loss, backward pass, optimiser, in float32, on 2 windows of 10 s of 3 toy mice with 12
keypoints at 30 Hz; on one window where that would take over a minute, and on longer ones where the method reads
more than 10 s at once. Its frames per second are mouse-frames of the batch, those of embedding are mouse-frames of
one recording of 3 mice: a minute, and shorter where that would take over 15 s. Each method has a process of its
own; memory is the peak of that process, interpreter and PyTorch (the row "nothing") included, and on a GPU what
tensors took.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

ALONE = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
FPS, MICE = 30.0, 3
SECONDS, WINDOWS = (10.0, 20.0, 60.0), (1, 2)
"""Lengths of a window, the first that the method can read is taken; windows of the first step and of those after."""
RECORDINGS = (60, 300, 1800)
"""Frames of the recordings that are embedded in turn, while there is time."""
STEP_LIMIT, EMBED_LIMIT = 60.0, 15.0


def clock(device: str) -> float:
    """CPU-seconds of this process; on a GPU the seconds after all its work is done."""
    if device != "cuda":
        return time.process_time()
    import torch

    torch.cuda.synchronize()
    return time.perf_counter()


def peak(device: str) -> float:
    """MiB."""
    if device != "cuda":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    import torch

    return torch.cuda.max_memory_allocated() / 2**20


def spent(work: Callable[[], object], device: str) -> float:
    started = clock(device)
    work()
    return clock(device) - started


def measure(name: str, device: str) -> dict[str, Any]:
    """The numbers of one method, in this process."""
    import torch

    torch.set_num_threads(1)
    if name == "nothing":
        return {"peak": peak("cpu")}
    from ethoray import methods
    from ethoray.budget import Budget
    from ethoray.schema import SchemaError
    from ethoray.testing import toy_batch, toy_spec

    torch.manual_seed(0)
    for seconds in SECONDS:
        spec = toy_spec(seconds=seconds, fps=FPS, individuals=MICE)
        try:
            encoder = methods.load(name)().build(spec)
            break
        except SchemaError:
            if seconds == SECONDS[-1]:
                raise
    learns = any(p.requires_grad for p in encoder.parameters())
    found: dict[str, Any] = {"parameters": sum(p.numel() for p in encoder.parameters())}
    small, full = (toy_batch(spec, spec.frames, windows) for windows in WINDOWS)
    chosen, done = [small if learns else full], 0
    started = clock(device)
    for progress in encoder.fit(lambda _: chosen[0], Budget(5, log_every=1, save_every=10**9, device=device)):
        took, batch = (clock(device) - started) / (progress.step - done), chosen[0]
        found["step"] = {"seconds": took, "shape": [len(batch), batch.mask.shape[2], batch.mask.shape[1]]}
        if progress.step == 3 or (progress.step > 1 and took > 5):
            break  # before the pause that looks at monitors
        if took * full.mask.numel() / small.mask.numel() < STEP_LIMIT:
            chosen[0] = full
        started, done = clock(device), progress.step
    encoder.eval()
    with torch.no_grad():
        for frames in RECORDINGS:
            recording = toy_batch(spec, frames).to(encoder.device())
            took = spent(lambda recording=recording: encoder.embed(recording), device)
            found["embed"] = {"seconds": took, "frames": frames}
            if 5 * took > EMBED_LIMIT:
                break
    found["peak"] = peak(device)
    assert "ray" not in sys.modules
    return found


def row(name: str, found: dict[str, Any]) -> str:
    """One line of the table."""
    if "error" in found:
        return f"  {name:10s} {found['error']}"
    if "step" not in found:
        return f"  {name:10s} {'':>10s} {'':>42s} {'':>30s} {found['peak']:7.0f} MiB"
    windows, mice, frames = found["step"]["shape"]
    step, embed = found["step"]["seconds"], found["embed"]["seconds"]
    batch = f"{windows} x {mice} x {frames / FPS:g} s"
    speed = f"{windows * mice * frames / step:,.0f} /s" if step > 1e-3 else "nothing to fit"
    return (
        f"  {name:10s} {found['parameters']:10,d} {batch:>14s} {step:8.3f} s {speed:>15s}"
        f"   {found['embed']['frames'] / FPS:6g} s {MICE * found['embed']['frames'] / embed:14,.0f} /s"
        f" {found['peak']:9.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="methods; all by default")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.here:
        print(json.dumps(measure(chosen.names[0], chosen.device)))
        return
    from ethoray import methods

    what = "CPU-seconds, 1 thread" if chosen.device == "cpu" else "seconds, GPU"
    print(f"Every method at its default size, float32; {what}")
    print(f"  {'':10s} {'parameters':>10s} {'batch':>14s} {'step':>10s} {'mouse-frames':>15s}   "
          f"{'embeds':>8s} {'mouse-frames':>17s} {'peak':>13s}", flush=True)  # fmt: skip
    for name in chosen.names or ("nothing", *methods.names("keypoints")):
        command = [sys.executable, __file__, name, "--here", "--device", chosen.device]
        done = subprocess.run(command, env=ALONE, capture_output=True, text=True)
        last = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()[-1:] or [""]
        print(row(name, json.loads(last[0]) if done.returncode == 0 else {"error": last[0]}), flush=True)


if __name__ == "__main__":
    main()
