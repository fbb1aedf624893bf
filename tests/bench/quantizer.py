"""The product quantiser and VAME's clustering term against their straightforward forms.

python tests/bench/quantizer.py [--rounds 5]

Forward and backward pass with both losses, one thread, float32. The straightforward quantiser holds the
differences of all vectors to all codes in one tensor (code x batch x time x channel), as the formula is written;
the straightforward clustering term decomposes the batch x batch matrix. Peak memory is that of a process each.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch
from timing import interleaved
from torch import nn

from ethoray.nn.quantizer import KMeansQuantizer
from ethoray.nn.recurrent import nuclear_norm

SHAPES = {"256 x 1 x 512": (256, 1, 512), "256 x 30 x 256": (256, 30, 256)}
GROUPS, CODES, REPEATS = 32, 120, 10


class Plain(nn.Module):
    """Grouped 1 x 1 convolution, group norm, all differences, one-hot perplexity."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.projection = nn.Conv1d(dim, dim, 1, groups=GROUPS, bias=False)
        self.norm = nn.GroupNorm(GROUPS, dim)
        self.codes = nn.Parameter(0.01 * torch.randn(CODES, GROUPS, dim // GROUPS))

    def forward(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        y = self.norm(self.projection(z.transpose(1, 2))).transpose(1, 2)
        grouped = y.unflatten(2, (GROUPS, -1))
        apart = (grouped - self.codes[:, None, None]).norm(dim=-1)
        indices = apart.argmin(0)
        chosen = torch.stack([self.codes[indices[..., g], g] for g in range(GROUPS)], 2).flatten(2)
        share = nn.functional.one_hot(indices, CODES).float().mean((0, 1))
        perplexity = torch.exp(-(share * (share + 1e-7).log()).sum(-1)).sum()
        loss = (chosen - y.detach()).square().mean() + 0.25 * (y - chosen.detach()).square().mean()
        return y + (chosen - y).detach(), loss, perplexity


class Ours(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.quantiser = KMeansQuantizer(dim, CODES, GROUPS)

    def forward(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        out = self.quantiser(z)
        return out.values, out.loss, out.perplexity.sum()


def step(kind: type[nn.Module], shape: tuple[int, int, int]):
    torch.manual_seed(0)
    model, z = kind(shape[2]), torch.randn(shape, requires_grad=True)

    def do() -> None:
        values, loss, _ = model(z)
        (values.sum() + loss).backward()

    return do


def clustering(literal: bool):
    torch.manual_seed(0)
    z = torch.randn(256, 30, requires_grad=True)

    def do() -> None:
        for _ in range(REPEATS):
            if literal:
                (0.1 * torch.linalg.svd(z @ z.T / 256)[1][:30].sqrt().sum()).backward()
            else:
                nuclear_norm(z, 30).backward()

    return do


def highest() -> int:
    """KiB: the most this process ever had in memory. What getrusage says includes the parent's."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


def peak(kind: str, shape: str) -> float:
    """MiB that a process needs beyond what it needs before the first step."""
    command = [sys.executable, __file__, "--peak", kind, shape]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.peak:
        do = step({"plain": Plain, "ours": Ours}[arguments.peak[0]], SHAPES[arguments.peak[1]])
        before = highest()
        do()
        print((highest() - before) / 1024)
        return
    print(f"Quantiser, {GROUPS} groups of {CODES} codes; CPU-seconds and peak memory of forward and backward, 1 thread")
    for name, shape in SHAPES.items():
        rounds = arguments.rounds if shape[1] == 1 else 2
        times = interleaved({"plain": step(Plain, shape), "ours": step(Ours, shape)}, rounds)
        for kind, seconds in times.items():
            fast = times["plain"] / seconds
            print(f"  {name:16s} {kind:6s} {1e3 * seconds:8.1f} ms {peak(kind, name):7.0f} MiB {fast:6.1f} x as fast")
    print("Clustering term of 256 x 30 latents, value and gradient")
    times = interleaved({"plain": clustering(True), "ours": clustering(False)}, arguments.rounds)
    for kind, seconds in times.items():
        print(f"  {kind:6s} {1e3 * seconds / REPEATS:8.2f} ms {times['plain'] / seconds:6.1f} x as fast")


if __name__ == "__main__":
    main()
