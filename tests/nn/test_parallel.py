import socket

import torch
import torch.multiprocessing as mp

from ethoray.nn.parallel import WeightedBatchNorm, gather, rand_rows, random_bytes, shared_mean, total


def test_alone_everything_is_plain():
    torch.manual_seed(0)
    x = torch.randn(6, 3)
    assert torch.equal(total(x), x) and torch.equal(gather(x), x)
    assert shared_mean(x.sum(), torch.tensor(0)).item() == x.sum().item()
    assert random_bytes(5, 7, 3, device=torch.device("cpu")).shape == (5, 7, 3)


def test_random_bytes_are_uniform():
    torch.manual_seed(0)
    drawn = random_bytes(1000, 301, device=torch.device("cpu")).flatten().long()
    counts = torch.bincount(drawn, minlength=256).float()
    assert (counts / counts.mean() - 1).abs().max() < 0.15


def test_weighted_batch_norm_ignores_rows_of_weight_zero():
    torch.manual_seed(0)
    norm, reference = WeightedBatchNorm(4), torch.nn.BatchNorm1d(4)
    x = torch.randn(20, 4) * 3 + 1
    weights = torch.ones(20)
    torch.testing.assert_close(norm(x, weights), reference(x))
    weights[12:] = 0
    torch.testing.assert_close(norm(x, weights)[:12], reference(x[:12]))


def compute(rows: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    norm = WeightedBatchNorm(3)
    slope = torch.ones(3, requires_grad=True)
    torch.manual_seed(7)
    noise = rand_rows(len(rows), 3, device=rows.device)
    mask = random_bytes(len(rows), 3, device=rows.device) > 50
    out = norm(rows * slope.square() + noise, weights).tanh() * mask
    loss = shared_mean((out * weights[:, None]).sum(), weights.sum())
    loss.backward()
    return loss.detach(), slope.grad


def worker(rank: int, port: int, rows: torch.Tensor, weights: torch.Tensor, out) -> None:
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    half = slice(rank * 4, rank * 4 + 4)
    loss, grad = compute(rows[half], weights[half])
    torch.distributed.all_reduce(loss)
    torch.distributed.all_reduce(grad)
    gathered = gather(rows[half][: 2 + rank])
    if rank == 0:
        out.put((loss.numpy() / 2, grad.numpy() / 2, gathered.numpy()))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_workers_compute_what_one_computes():
    torch.manual_seed(0)
    rows, weights = torch.randn(8, 3), torch.tensor([1.0, 1, 0, 1, 1, 0, 0, 1])
    loss, grad = compute(rows, weights)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.get_context("spawn")
    out = context.Queue()
    workers = [context.Process(target=worker, args=(rank, port, rows, weights, out)) for rank in range(2)]
    for process in workers:
        process.start()
    shared_loss, shared_grad, gathered = out.get(timeout=120)
    for process in workers:
        process.join(60)
    torch.testing.assert_close(torch.as_tensor(shared_loss), loss)
    torch.testing.assert_close(torch.as_tensor(shared_grad), grad)
    assert torch.equal(torch.as_tensor(gathered), torch.cat([rows[:2], rows[4:7]]))
