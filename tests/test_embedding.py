"""Whole recordings through a frozen encoder: chunks, pooling, Parquet."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from ethoray import embedding
from ethoray.embedding import EmbeddingError, embed, pool, read, write
from ethoray.learning import Encoder
from ethoray.schema import Card, Recording, Skeleton
from ethoray.store import prepare

SKELETON = Skeleton(("nose", "centre", "tail"), front="nose", back="tail")


class Convolved(Encoder):
    """Two layers of convolution: "near" looks ``past`` back only, "wide" also ahead; zeros stand for NaN."""

    def __init__(self, past=4, future=6):
        super().__init__()
        self.past, self.future = past, future
        self.back = nn.ModuleList([nn.Conv1d(6, 5, past // 2 + 1), nn.Conv1d(5, 5, past // 2 + 1)])
        self.ahead = nn.Conv1d(5, 3, future + 1)
        self.noise = nn.Dropout(0.5)
        self.longest = 0

    def fit(self, stream, budget, resume=None):
        raise NotImplementedError

    def embed(self, batch):
        assert not torch.is_grad_enabled()
        x = batch.keypoints.nan_to_num().flatten(3)
        self.longest = max(self.longest, x.shape[1])
        rows, _, animals = x.shape[:3]
        h = x.permute(0, 2, 3, 1).flatten(0, 1)
        for layer in self.back:
            h = self.noise(layer(nn.functional.pad(h, (self.past // 2, 0))).relu())
        near, wide = h, self.ahead(nn.functional.pad(h, (0, self.future)))
        back = [z.unflatten(0, (rows, animals)).permute(0, 3, 1, 2) for z in (near, wide)]
        return {"near": back[0], "wide": back[1].masked_fill(~batch.mask[..., None], torch.nan)}


def store(folder, *shapes, fps=10.0):
    rng = np.random.default_rng(0)
    recordings = []
    for i, (frames, animals) in enumerate(shapes):
        keypoints = rng.normal(size=(frames, animals, 3, 2)).astype(np.float32)
        keypoints[rng.random((frames, animals, 3)) < 0.1] = np.nan
        recordings.append(Recording(f"r{i}", f"m{i}", fps, SKELETON, keypoints, split="train"))
    return prepare(Card("toy", "mouse", fps, SKELETON), recordings, folder, clip_seconds=1.0)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return Convolved()


@pytest.mark.parametrize("chunk", [2, 9, 40])
def test_chunks_equal_the_whole(tmp_path, encoder, chunk):
    dataset = store(tmp_path / "d", (41, 2), (1, 2), (7, 2))
    whole = list(embed(encoder, dataset, dataset.entries))
    assert encoder.longest == 41
    encoder.longest = 0
    chunked = list(embed(encoder, dataset, dataset.entries, chunk=chunk))
    assert encoder.longest <= chunk + encoder.past + encoder.future
    for one, other in zip(whole, chunked, strict=True):
        assert one.entry == other.entry and list(one.spaces) == list(other.spaces) == ["near", "wide", "all"]
        for space, values in one.spaces.items():
            assert values.shape[0] == one.entry.frames and values.dtype == np.float32
            np.testing.assert_allclose(values, other.spaces[space], atol=1e-6)


def test_all_is_every_space_side_by_side(tmp_path, encoder):
    dataset = store(tmp_path / "d", (20, 3))
    (embedded,) = embed(encoder, dataset, dataset.entries)
    assert {name: z.shape[1] for name, z in embedded.spaces.items()} == {"near": 10, "wide": 6, "all": 16}
    np.testing.assert_array_equal(embedded.spaces["all"][:, :10], embedded.spaces["near"])


def test_recordings_of_few_and_many_animals_share_their_features(tmp_path, encoder):
    dataset = store(tmp_path / "d", (20, 1), (20, 3))
    alone, three = embed(encoder, dataset, dataset.entries)
    assert alone.spaces["all"].shape == three.spaces["all"].shape
    assert not alone.spaces["near"][:, 5:].any()  # one animal differs from nobody


def test_one_individual_keeps_its_own_features(tmp_path, encoder):
    dataset = store(tmp_path / "d", (20, 1))
    (embedded,) = embed(encoder, dataset, dataset.entries)
    assert embedded.spaces["near"].shape == (20, 5)


def test_gradients_stay_as_they_were_for_the_consumer(tmp_path, encoder):
    dataset = store(tmp_path / "d", (5, 1), (5, 1))
    for _ in embed(encoder, dataset, dataset.entries):
        assert torch.is_grad_enabled()
        assert not encoder.training


def test_an_embedding_that_is_not_finite_names_recording_and_space(tmp_path, encoder):
    dataset = store(tmp_path / "d", (20, 2))
    nn.init.constant_(encoder.ahead.bias, torch.inf)
    with pytest.raises(EmbeddingError, match=r"recording 'r0': space 'wide' is not finite in 20 of 20 frames"):
        list(embed(encoder, dataset, dataset.entries))


def test_pool_is_mean_and_range_of_those_present():
    z = torch.tensor([[[1.0], [5.0], [torch.nan]], [[2.0], [9.0], [9.0]], [[7.0], [7.0], [7.0]]])
    mask = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    torch.testing.assert_close(pool(z, mask), torch.tensor([[3.0, 4.0], [2.0, 0.0], [0.0, 0.0]]))


def test_pool_does_not_mind_which_animal_is_which():
    z, mask = torch.randn(9, 4, 3), torch.rand(9, 4) < 0.7
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(pool(z, mask), pool(z[:, order], mask[:, order]))


def test_write_passes_on_and_keeps_two_frames_a_second(tmp_path, encoder):
    dataset = store(tmp_path / "d", (23, 2), (1, 2))
    embedded = list(embed(encoder, dataset, dataset.entries))
    assert list(write(embedded, tmp_path / "run=1" / "embeddings")) == embedded
    table = read(tmp_path / "run=1" / "embeddings")
    assert table.column_names == ["recording", "split", "frame", "time", "near", "wide", "all"]
    assert table["frame"].to_pylist() == [0, 5, 10, 15, 20, 0]
    assert table["time"].to_pylist() == [0, 0.5, 1, 1.5, 2, 0]
    kept = np.array(table["wide"].to_pylist(), np.float32)
    np.testing.assert_array_equal(kept, np.concatenate([e.spaces["wide"][::5] for e in embedded]))


def test_zero_seconds_keep_every_frame_in_several_parts(tmp_path, encoder, monkeypatch):
    monkeypatch.setattr(embedding, "PART_BYTES", 1)
    dataset = store(tmp_path / "d", (23, 2), (4, 2))
    for _ in write(embed(encoder, dataset, dataset.entries), tmp_path / "e", every=0):
        pass
    assert len(list((tmp_path / "e").iterdir())) == 2
    assert read(tmp_path / "e").num_rows == 27


def test_writing_again_replaces_what_was_there(tmp_path, encoder, monkeypatch):
    monkeypatch.setattr(embedding, "PART_BYTES", 1)
    dataset = store(tmp_path / "d", (23, 2), (4, 2))
    list(write(embed(encoder, dataset, dataset.entries), tmp_path / "e"))
    list(write(embed(encoder, dataset, dataset.entries[:1]), tmp_path / "e"))
    assert set(read(tmp_path / "e")["recording"].to_pylist()) == {"r0"}


def test_a_foreign_or_damaged_file_is_refused(tmp_path):
    with pytest.raises(EmbeddingError, match="no embeddings here"):
        read(tmp_path)
    path = tmp_path / "part-00000.parquet"
    pq.write_table(pa.table({"recording": ["a"]}), path)
    with pytest.raises(EmbeddingError, match="not written by ethoray"):
        read(tmp_path)
    path.write_bytes(b"torn")
    with pytest.raises(EmbeddingError, match=r"part-00000\.parquet: damaged"):
        read(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path, encoder):
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddingError, match="file/e: cannot be written"):
        list(write([], tmp_path / "file" / "e"))


def test_a_space_may_not_take_the_name_of_a_column(tmp_path, encoder):
    dataset = store(tmp_path / "d", (5, 1))
    (embedded,) = embed(encoder, dataset, dataset.entries)
    clash = dataclasses.replace(embedded, spaces={"time": embedded.spaces["near"]})
    with pytest.raises(EmbeddingError, match="may not be called 'time'"):
        list(write([clash], tmp_path / "e"))


class Coded(Convolved):
    """Two codes an animal: the signs of the first two features of "near", whatever the group."""

    def codewords(self, spaces):
        return (spaces["near"][..., :2] > 0).long()


def test_codewords_come_in_chunks_and_only_for_animals_that_are_there(tmp_path):
    torch.manual_seed(0)
    encoder = Coded()
    dataset = store(tmp_path / "d", (41, 2), (7, 3))
    whole = list(embed(encoder, dataset, dataset.entries))
    chunked = list(embed(encoder, dataset, dataset.entries, chunk=9))
    assert [e.codes.shape for e in whole] == [(41, 2, 2), (7, 3, 2)] and whole[0].codes.dtype == np.int32
    assert set(np.unique(whole[0].codes)) == {0, 1}
    for one, other in zip(whole, chunked, strict=True):
        np.testing.assert_array_equal(one.codes, other.codes)


def test_codes_are_a_column_of_their_own(tmp_path):
    torch.manual_seed(0)
    encoder = Coded()
    dataset = store(tmp_path / "d", (23, 2), (1, 3))
    embedded = list(write(embed(encoder, dataset, dataset.entries), tmp_path / "e"))
    table = read(tmp_path / "e")
    assert table.column_names == ["recording", "split", "frame", "time", "near", "wide", "all", "codes"]
    assert table.schema.field("codes").type.value_type == pa.int32()
    expected = [row for e in embedded for row in e.codes[::5].reshape(-1, e.codes[0].size).tolist()]
    assert table["codes"].to_pylist() == expected
    assert [len(row) for row in expected] == [4] * 5 + [6]


def test_an_encoder_without_codebook_has_no_codes(tmp_path, encoder):
    dataset = store(tmp_path / "d", (20, 2))
    (embedded,) = write(embed(encoder, dataset, dataset.entries), tmp_path / "e")
    assert embedded.codes is None and "codes" not in read(tmp_path / "e").column_names


def test_codewords_of_another_shape_are_refused(tmp_path, encoder, monkeypatch):
    dataset = store(tmp_path / "d", (20, 2))
    monkeypatch.setattr(Convolved, "codewords", lambda self, spaces: torch.zeros(1, 20, 3, 2), raising=False)
    with pytest.raises(EmbeddingError, match=r"recording 'r0': codewords are \(1, 20, 3, 2\)"):
        list(embed(encoder, dataset, dataset.entries))


def test_a_space_may_not_be_called_codes(tmp_path, encoder):
    dataset = store(tmp_path / "d", (5, 1))
    (embedded,) = embed(encoder, dataset, dataset.entries)
    clash = dataclasses.replace(embedded, spaces={"codes": embedded.spaces["near"]})
    with pytest.raises(EmbeddingError, match="may not be called 'codes'"):
        list(write([clash], tmp_path / "e"))
