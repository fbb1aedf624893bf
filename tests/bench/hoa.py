"""Future-histogram targets of a batch of 32 x 1800 frames, 9 actions: ours against a plain per-step loop.

python tests/bench/hoa.py
"""

import torch
from timing import interleaved

from ethoray.nn.histogram import future_counts


def loop(bins: torch.Tensor, horizon: int, classes: int) -> torch.Tensor:
    """One pass over the batch for every step ahead, as it is usually written."""
    frames = bins.shape[1] - horizon
    onehot = torch.nn.functional.one_hot(bins.long(), classes).float()
    out = torch.zeros(*onehot[:, :frames].shape)
    for ahead in range(1, horizon + 1):
        out += onehot[:, ahead : ahead + frames]
    return out / horizon


def indexed(bins: torch.Tensor, horizon: int, classes: int) -> torch.Tensor:
    """The same without a one-hot array: scatter every step ahead into the counts, sequence by sequence."""
    sequences, frames, quantities = bins.shape
    out = torch.zeros(sequences, frames - horizon, quantities, classes)
    index = bins.long()[..., None]
    one = torch.ones(1).expand(frames - horizon, quantities, 1)
    for s in range(sequences):
        for ahead in range(1, horizon + 1):
            out[s].scatter_add_(-1, index[s, ahead : ahead + frames - horizon], one)
    return out / horizon


def main() -> None:
    torch.set_num_threads(1)
    bins = torch.randint(0, 32, (32, 1800, 9), dtype=torch.uint8)
    exact = future_counts(bins, 30, 32)
    for other in (loop, indexed):
        assert torch.allclose(other(bins, 30, 32).cumsum(-1), exact.float() / 30, atol=1e-5)
    anchors = torch.arange(150, 1770, 10)
    seconds = interleaved(
        {
            "loop over steps, scattering": lambda: indexed(bins, 30, 32),
            "loop over steps, one-hot": lambda: loop(bins, 30, 32),
            "ours, every frame": lambda: future_counts(bins, 30, 32),
            "ours, every tenth frame": lambda: future_counts(bins, 30, 32, anchors),
        },
        rounds=5,
    )
    ours = seconds["ours, every frame"]
    print("Histogram-of-actions targets, 32 x 1800 frames, 9 actions, 32 bins, 30 frames ahead; CPU-seconds, 1 thread")
    for name, value in seconds.items():
        print(f"  {name:32s} {value:8.4f} s   {value / ours:6.1f} x ours")


if __name__ == "__main__":
    main()
