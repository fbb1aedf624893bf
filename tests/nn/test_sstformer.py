import math

import pytest
import torch

from ethoray.nn.masking import draw, everything, mask
from ethoray.nn.sstformer import STSE, Aggregation, Gates, SegmentAttention, Segments, SSTFormer, TupleAttention

LENGTH, JOINTS, WIDTH = 2, 3, 8


def input_of(share=1.0, frames=6, joints=JOINTS):
    torch.manual_seed(0)
    there = torch.rand(2, 6, JOINTS) < share
    cells = draw(there, frames, joints)
    segments = Segments.of(cells, LENGTH)
    x = torch.randn(2, frames // LENGTH, LENGTH * joints, WIDTH, dtype=torch.float64)
    return x, segments, cells


def test_segments_name_frame_and_joint():
    _, segments, cells = input_of(frames=4, joints=2)
    for row in range(2):
        for segment in range(2):
            joints = cells.joints[row, 2 * segment : 2 * segment + 2]
            assert segments.slot[row, segment].tolist() == [*joints[0].tolist(), *(joints[1] + JOINTS).tolist()]
    assert segments.known is None


def test_the_embedding_adds_time_and_joint():
    torch.manual_seed(0)
    embedding, cells = STSE(2, 6, JOINTS, WIDTH), draw(torch.ones(1, 6, JOINTS, dtype=torch.bool), 4, 2)
    x = torch.randn(1, 6, JOINTS, 2)
    z = embedding(mask(x, cells), cells)
    t, v = int(cells.frames[0, 3]), int(cells.joints[0, 3, 1])
    expected = embedding.point.weight @ x[0, t, v] + embedding.point.bias + embedding.time[t] + embedding.joint[v]
    assert torch.allclose(z[0, 3, 1], expected, atol=1e-6)


def test_softmax_attention_stays_in_its_segment():
    x, segments, _ = input_of(share=0.6)
    attention = SegmentAttention(WIDTH, 2).double()
    y = attention(x, segments)
    q, k, v = attention.query_key_value(x).unflatten(-1, (3, 2, WIDTH // 2)).unbind(3)
    for row in range(2):
        for s in range(3):
            known = segments.known[row, s]
            heads = []
            for h in range(2):
                score = q[row, s, :, h] @ k[row, s, known, h].T / math.sqrt(WIDTH // 2)
                heads.append(score.softmax(-1) @ v[row, s, known, h])
            if known.any():
                assert torch.allclose(y[row, s], attention.out(torch.cat(heads, -1)), atol=1e-9)
    assert y.isfinite().all()


@pytest.mark.parametrize("share", [1.0, 0.6])
def test_the_stt_map_against_a_loop(share):
    x, segments, _ = input_of(share, frames=4, joints=2)
    attention = TupleAttention(WIDTH, 3, LENGTH * JOINTS).double()
    torch.nn.init.normal_(attention.constant)
    y = attention(x, segments)
    d, slots = WIDTH // 4, LENGTH * JOINTS
    for row in range(2):
        tokens = [
            (s, int(segments.slot[row, s, u]), x[row, s, u], u)
            for s in range(2)
            for u in range(4)
            if segments.known is None or segments.known[row, s, u]
        ]
        score = torch.zeros(3, slots, slots, dtype=torch.float64)
        for s, a, left, _ in tokens:
            for other, b, right, _ in tokens:
                if s == other:
                    q = attention.query_key(left).view(2, 3, d)[0]
                    k = attention.query_key(right).view(2, 3, d)[1]
                    score[:, a, b] += (q * k).sum(-1) / (d * 2)
        maps = attention.strength[:, None, None] * torch.tanh(score) + attention.constant
        for s, b, _, u in tokens:
            mixed = sum(maps[:, a, b, None] * left for other, a, left, _ in tokens if other == s)
            expected = attention.out.weight[..., 0] @ mixed.flatten() + attention.out.bias
            assert torch.allclose(y[row, s, u], expected, atol=1e-9)


def test_a_new_map_is_the_mean_over_slots():
    x, segments, _ = input_of()
    attention = TupleAttention(WIDTH, 3, LENGTH * JOINTS).double()
    torch.nn.init.zeros_(attention.query_key.weight)
    torch.nn.init.zeros_(attention.query_key.bias)
    expected = x.mean(2).repeat(1, 1, 3) @ attention.out.weight[..., 0].T + attention.out.bias
    assert torch.allclose(attention(x, segments), expected[:, :, None].expand_as(x), atol=1e-9)


@pytest.mark.parametrize("by", ["mean", "position"])
def test_aggregation_against_a_convolution(by):
    x, segments, _ = input_of(share=0.7)
    link = Aggregation(WIDTH, by).double()
    y, tokens = link(x, segments).expand_as(x), x.shape[2]
    known = segments.known
    for row in range(2):
        for u in range(tokens):
            if by == "mean":
                means = [x[row, s, known[row, s]].mean(0) for s in range(3)]
                column = torch.stack([link.norm(m) if known[row, s].any() else 0 * m for s, m in enumerate(means)])
            else:
                column = link.norm(x[row, :, u]) * known[row, :, u, None]
            expected = torch.nn.functional.leaky_relu(link.conv(column.nan_to_num(0.0).T), 0.1).T
            assert torch.allclose(y[row, :, u], expected, atol=1e-9)


def test_gates_that_know_nothing_change_nothing():
    x, segments, _ = input_of()
    gates = Gates(WIDTH).double()
    for parameter in gates.parameters():
        torch.nn.init.zeros_(parameter)
    assert torch.allclose(gates(x, segments), torch.ones(1, dtype=torch.float64))


@pytest.mark.parametrize("settings", [{}, {"attention": "stt", "kernel": 5, "by": "position"}, {"by": "position"}])
def test_what_holds_nothing_changes_nothing(settings):
    x, segments, _ = input_of(share=0.6)
    former = SSTFormer(WIDTH, (WIDTH, 12), 2, LENGTH * JOINTS, **settings).double().eval()
    other = torch.where(segments.known[..., None], x, 100 * torch.randn_like(x))
    known = segments.known
    assert torch.allclose(former(x, segments)[known], former(other, segments)[known], atol=1e-9)
    full = everything(torch.ones(2, 6, JOINTS, dtype=torch.bool))
    marked = Segments.of(full, LENGTH, whole=False)
    assert torch.allclose(former(x, marked), former(x, Segments.of(full, LENGTH)), atol=1e-9)


def test_rows_never_mix_and_drop_path_spares_evaluation():
    x, segments, _ = input_of()
    former = SSTFormer(WIDTH, (WIDTH,), 2, LENGTH * JOINTS, drop=0.5).double()
    former.eval()
    alone = former(x[:1], Segments(segments.slot[:1], None))
    assert torch.allclose(former(x, segments)[:1], alone, atol=1e-12)
    former.train()
    assert not torch.equal(former(x, segments), former(x, segments))


def test_bad_settings_say_what_is_possible():
    with pytest.raises(ValueError, match="softmax or stt"):
        SSTFormer(8, (8,), 2, 6, attention="linear")
    with pytest.raises(ValueError, match="divide"):
        SegmentAttention(8, 3)
