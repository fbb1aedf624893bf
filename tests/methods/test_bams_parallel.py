import socket
from dataclasses import replace

import torch
import torch.multiprocessing as mp

from ethoray.batch import Batch, Spec, rank_rows
from ethoray.geometry import MOUSE_KEYPOINTS
from ethoray.learning import Budget
from ethoray.methods.bams import BAMS
from ethoray.schema import Skeleton

TINY = BAMS(short_channels=(8, 8), long_channels=(8, 8, 8), head=(16,), warmup=1.0, anchor_stride=3, calibration=2)
ALL = replace(
    TINY, recent_channels=(4,), pairs_in=True, pairs_out=True, teacher_momentum=0.9, head_sees_input=True,
    objective="sequential", norm_first=False, decoupled_decay=True, neighbour_past=False,
)  # fmt: skip
BUDGET = Budget(steps=4, log_every=1, device="cpu")


def stream(rank: int, world: int):
    def batch(step: int) -> Batch:
        generator = torch.Generator().manual_seed(step)
        body = 30 * torch.randn(12, 2, generator=torch.Generator().manual_seed(99))
        walk = torch.randn(4, 120, 2, 1, 2, generator=generator).cumsum(1)
        keypoints = 300 + body + walk + torch.randn(4, 120, 2, 12, 2, generator=generator)
        keypoints[0, 40:90, 1] = torch.nan  # workers have unequal numbers of moments that count
        mine = keypoints[rank_rows(torch.arange(4).numpy(), rank, world)]
        return Batch(mine, torch.ones(mine.shape[:3], dtype=torch.bool), 30.0)

    return batch


def trained(rank: int, world: int) -> tuple[list[dict[str, float]], torch.Tensor]:
    losses, weights = [], []
    for method in (TINY, ALL):
        torch.manual_seed(0)
        encoder = method.build(Spec(Skeleton(MOUSE_KEYPOINTS), 2, 2, 30.0, 120))
        losses += [dict(progress.metrics) for progress in encoder.fit(stream(rank, world), BUDGET)]
        weights += [p.detach().flatten() for p in encoder.parameters()]
    return losses, torch.cat(weights)


def worker(rank: int, port: int, out) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    losses, weights = trained(rank, 2)
    if rank == 0:
        out.put((losses, weights.numpy()))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_workers_train_bams_as_one_with_the_whole_batch_does():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.get_context("spawn")
    out = context.Queue()
    workers = [context.Process(target=worker, args=(rank, port, out)) for rank in range(2)]
    for process in workers:
        process.start()
    shared, weights = out.get(timeout=240)
    for process in workers:
        process.join(60)
    alone, expected = trained(0, 1)
    for here, there in zip(alone, shared, strict=True):
        assert here.keys() == there.keys()
        for term in here:
            if term.startswith("monitor/"):  # a worker looks at its own share
                continue
            assert abs(here[term] - there[term]) < 1e-4 * max(1.0, abs(here[term])), (term, here, there)
    assert (torch.as_tensor(weights) - expected).abs().max() < 1e-3
