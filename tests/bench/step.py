"""One exact BAMS training step on 32 x 1800 frames, 67 inputs, 9 actions, against a straightforward build.

python tests/bench/step.py [--rounds 3]

The straightforward build is the same network as PyTorch offers it: Conv1d padded on both sides and cut, weight
norm by parametrisation, the head on every frame, a softmax, two cumulative sums, one-hot targets summed in a
loop over the steps ahead, predictors on every row. Both include the targets, the losses, the backward pass
and the optimiser, with dropout on, in float32.
"""

import argparse

import torch
from timing import interleaved
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from ethoray.batch import Spec
from ethoray.methods.bams import BAMS
from ethoray.nn.tcn import TCN
from ethoray.schema import Skeleton

SEQUENCES, FRAMES, INPUTS, ACTIONS, HORIZON, START = 32, 1800, 67, 9, 30, 150


class PlainBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, dilation: int) -> None:
        super().__init__()
        self.cut = 2 * dilation
        self.first = weight_norm(nn.Conv1d(inputs, outputs, 3, padding=self.cut, dilation=dilation))
        self.second = weight_norm(nn.Conv1d(outputs, outputs, 3, padding=self.cut, dilation=dilation))
        self.shortcut = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.activations = nn.ModuleList(nn.PReLU(init=0.1) for _ in range(3))
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.dropout(self.activations[0](self.first(x)[..., : -self.cut]))
        y = self.dropout(self.activations[1](self.second(y)[..., : -self.cut]))
        return self.activations[2](y + self.shortcut(x))


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList()
        for channels, growth in (((64, 64, 32, 32), 2), ((64, 64, 64, 32, 32), 4)):
            widths = (INPUTS, *channels)
            blocks = [PlainBlock(widths[i], widths[i + 1], growth**i) for i in range(len(channels))]
            self.nets.append(nn.Sequential(*blocks))
        self.predictors = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 128, bias=False), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 32))
            for _ in range(2)
        )
        widths = (64, 256, 512, 512, 512, ACTIONS * 32)
        layers: list[nn.Module] = []
        for i in range(5):
            layers += [nn.Linear(widths[i], widths[i + 1]), nn.PReLU()]
        self.head = nn.Sequential(*layers[:-1])

    def loss(self, inputs: torch.Tensor, bins: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        z = [net(inputs.transpose(1, 2)).transpose(1, 2) for net in self.nets]
        logits = self.head(torch.cat(z, -1)).view(SEQUENCES, FRAMES, ACTIONS, 32)
        usable = FRAMES - HORIZON
        onehot = F.one_hot(bins.long(), 32).float()
        target = torch.zeros(SEQUENCES, usable, ACTIONS, 32)
        seen = torch.zeros(SEQUENCES, usable)
        for ahead in range(1, HORIZON + 1):
            target += onehot[:, ahead : ahead + usable] / HORIZON
            seen += valid[:, ahead : ahead + usable].float() / HORIZON
        weights = (seen >= 0.8).float()
        weights[:, :START] = 0
        gap = torch.softmax(logits, -1).cumsum(-1)[:, :usable] - target.cumsum(-1)
        total = ((gap**2).sum((-1, -2)) * weights).sum() / weights.sum()
        row = torch.arange(SEQUENCES)[:, None]
        for i in range(2):
            predicted = self.predictors[i](z[i].reshape(-1, 32)).view(SEQUENCES, FRAMES, 32)
            now, then = torch.randint(START, FRAMES, (2, SEQUENCES, 8))
            apart = 2 - 2 * F.cosine_similarity(predicted[row, now], z[i][row, then].detach(), dim=-1)
            total = total + 0.15 * apart.mean()
        return total


def ours(stride: int) -> nn.Module:
    skeleton = Skeleton(tuple(f"k{i}" for i in range(13)))
    targets = tuple(f"k{i}_dx" for i in range(ACTIONS))
    method = BAMS(features="generic", targets=targets, anchor_stride=stride)
    encoder = method.build(Spec(skeleton, 1, 2, 30.0, FRAMES))
    encoder.short, encoder.long = TCN(INPUTS, method.short_channels, 2), TCN(INPUTS, method.long_channels, 4)
    return encoder.train()


def our_loss(encoder, inputs: torch.Tensor, bins: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    z = encoder.encode(inputs)
    times = encoder.anchors(FRAMES)
    boot = encoder.bootstrap_loss("short", z, valid) + encoder.bootstrap_loss("long", z, valid)
    there = {space: part[:, times] for space, part in z.items()}
    return encoder.histogram_loss(there, bins, valid, times) + 0.15 * boot


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    inputs = torch.randn(SEQUENCES, FRAMES, INPUTS)
    bins = torch.randint(0, 32, (SEQUENCES, FRAMES, ACTIONS), dtype=torch.uint8)
    valid = torch.rand(SEQUENCES, FRAMES) > 0.02

    def step(model: nn.Module, loss, **fused):
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=4e-5, **fused)

        def do() -> None:
            optimiser.zero_grad(set_to_none=True)
            loss(model, inputs, bins, valid).backward()
            optimiser.step()

        return do

    seconds = interleaved(
        {
            "straightforward": step(Plain(), Plain.loss),
            "ours, exact": step(ours(1), our_loss, fused=True),
            "ours, anchor stride 10": step(ours(10), our_loss, fused=True),
        },
        rounds,
    )
    print("One training step, 32 x 1800 frames, 67 inputs, 9 actions; CPU-seconds, 1 thread")
    for name, value in seconds.items():
        speed = SEQUENCES * FRAMES / value / 1e3
        print(
            f"  {name:24s} {value:7.2f} s  {speed:6.1f} k frames/s  {seconds['straightforward'] / value:5.2f} x as fast"
        )


if __name__ == "__main__":
    main()
