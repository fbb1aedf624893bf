"""One MSAE training step on 2 x 120 x 19 against an encoder of the same depth that keeps every joint as a token.

python tests/bench/msae.py [--rounds 5]

The opponent is a plain masked-token transformer as PyTorch offers it: hidden joints enter as mask tokens, all 2280
tokens of a clip go through nine pre-norm layers of width 128 and four of width 64, MLP ratio 2, and attend to all
segments at once (``nn.TransformerEncoderLayer``, fused attention). "segments" is the same with each token attending
to its segment of 114 only, which leaves the masking alone as the difference. All draw their masks, compute the loss
on hidden joints, go backward and step AdamW, in float32, without dropout.
"""

import argparse

import torch
from timing import interleaved
from torch import nn

from ethoray.batch import Batch, Spec
from ethoray.methods.msae import MSAE
from ethoray.schema import Skeleton

CLIPS, FRAMES, JOINTS, SEGMENT = 2, 120, 19, 6


class Dense(nn.Module):
    def __init__(self, encoder: tuple[int, ...], decoder: tuple[int, ...], heads: int, segments: bool) -> None:
        super().__init__()
        self.segments = segments
        self.point = nn.Linear(2, encoder[0])
        self.place = nn.Parameter(0.02 * torch.randn(FRAMES, JOINTS, encoder[0]))
        self.hidden = nn.Parameter(0.02 * torch.randn(encoder[0]))
        self.narrow = nn.Linear(encoder[-1], decoder[0])
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(w, heads, 2 * w, 0.0, "gelu", batch_first=True, norm_first=True)
            for w in (*encoder, *decoder)
        )
        self.head = nn.Linear(decoder[-1], 2)

    def loss(self, batch: Batch) -> torch.Tensor:
        x = batch.keypoints[:, :, 0]
        x = x - x[:, :1].mean(2, keepdim=True)
        hidden = (torch.rand(CLIPS, FRAMES, 1) < 0.4) | (torch.rand(CLIPS, FRAMES, JOINTS) < 0.5)
        y = torch.where(hidden[..., None], self.hidden, self.point(x)) + self.place
        shape = (CLIPS * FRAMES // SEGMENT, SEGMENT * JOINTS) if self.segments else (CLIPS, FRAMES * JOINTS)
        y = y.view(*shape, -1)
        for layer in self.layers:
            y = self.narrow(y) if y.shape[-1] != layer.norm1.weight.shape[0] else y
            y = layer(y)
        return (self.head(y).view_as(x) - x)[hidden].square().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    walk = torch.randn(CLIPS, FRAMES, 1, JOINTS, 2).cumsum(1)
    batch = Batch(walk, torch.ones(CLIPS, FRAMES, 1, dtype=torch.bool), 330.0)
    skeleton = Skeleton(tuple(f"k{i}" for i in range(JOINTS)), front="k0", back="k18")
    paper = MSAE(drop_path=0.0, loss_on="masked")
    settings = {
        "paper": {},
        "faithful": {**MSAE.presets["faithful"], "drop_path": 0.0},
        "larva": dict(MSAE.presets["larva"]),
    }

    def step(model: nn.Module, loss):
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, fused=True)

        def do() -> None:
            optimiser.zero_grad(set_to_none=True)
            loss(batch).backward()
            optimiser.step()

        return do

    work = {}
    for name, segments in (("dense, all to all", False), ("dense, segments", True)):
        model = Dense(paper.encoder, paper.decoder, paper.heads, segments)
        work[name] = step(model, model.loss)
    for name, chosen in settings.items():
        encoder = MSAE(**{"drop_path": 0.0, "loss_on": "masked", **chosen}).build(Spec(skeleton, 1, 2, 330.0, FRAMES))
        encoder.train()
        work[f"ours, {name}"] = step(encoder, lambda b, encoder=encoder: encoder.loss(b)["loss"])
    seconds = interleaved(work, rounds)
    print(f"One training step, {CLIPS} x {FRAMES} x {JOINTS}; CPU-seconds, 1 thread")
    for name, value in seconds.items():
        print(f"  {name:20s} {value:7.3f} s  {seconds['dense, all to all'] / value:5.2f} x as fast")


if __name__ == "__main__":
    main()
