"""Embedding the images of a recording, also where frames were left out between them."""

import numpy as np
import pytest
import torch

from ethoray import embedding, methods, store
from ethoray.batch import picture_batch
from ethoray.methods.pixel_pca import PixelPCA
from ethoray.schema import Card, Recording, SchemaError, Skeleton, Task
from ethoray.testing import toy_films, toy_spec

KEPT = [*range(4, 7), *range(20, 23), *range(23, 30)]
"""Which frames of the film were stored, in clips of at most four."""


@pytest.fixture(scope="module")
def film():
    return toy_films(1, 4.0)[0]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, film):
    def pieces():
        for start, stop in ((4, 7), (20, 30)):
            yield Recording(
                "film", "mouse", film.fps, film.skeleton, film.keypoints[start:stop], start=start,
                images=film.images[start:stop], labels={"running": film.labels["running"][start:stop]},
            )  # fmt: skip

    card = Card("films", "mouse", film.fps, Skeleton(()), (Task("running"),))
    return store.prepare(card, pieces(), tmp_path_factory.mktemp("store") / "films", clip_seconds=0.4)


@pytest.fixture(scope="module")
def encoder():
    made = PixelPCA(components=3, side=8).build(toy_spec(needs="images"))
    torch.manual_seed(0)
    made.axes.normal_()
    return made


def expected(encoder, film):
    return encoder.embed(picture_batch(film.images[None, KEPT], film.fps))["pixels"][0, :, 0].numpy()


@pytest.mark.parametrize("at_once", [1, 3, 64])
def test_every_stored_image_is_embedded_by_itself(dataset, encoder, film, monkeypatch, at_once):
    monkeypatch.setattr(embedding, "PICTURES", at_once)
    (found,) = embedding.embed(encoder, dataset, dataset.entries)
    assert found.frames.tolist() == KEPT and found.entry.frames == len(KEPT)
    np.testing.assert_allclose(found.spaces["pixels"], expected(encoder, film), rtol=1e-5, atol=1e-5)


def test_labels_follow_the_rows(dataset, encoder, film):
    (found,) = embedding.embed(encoder, dataset, dataset.entries)
    labels = found.of(dataset.labels(dataset.entries[0]))
    np.testing.assert_array_equal(labels["running"], film.labels["running"][KEPT])
    assert found.of({"lively": 1.0}) == {"lively": 1.0}


def test_what_is_written_says_which_frames_it_is(dataset, encoder, film, tmp_path):
    list(embedding.write(embedding.embed(encoder, dataset, dataset.entries), tmp_path, every=0))
    rows = embedding.read(tmp_path)
    assert rows["frame"].to_pylist() == KEPT
    assert rows["time"].to_pylist() == pytest.approx([frame / film.fps for frame in KEPT])
    np.testing.assert_allclose(np.stack(rows["pixels"].to_numpy()), expected(encoder, film), rtol=1e-5, atol=1e-5)
    list(embedding.write(embedding.embed(encoder, dataset, dataset.entries), tmp_path, every=0.5))
    assert embedding.read(tmp_path)["frame"].to_pylist() == [4, 5, 20, 25]


def test_whole_films_have_a_row_for_every_frame(encoder, tmp_path):
    films = toy_films(2, 1.0)
    dataset = store.prepare(Card("whole", "mouse", 10.0, Skeleton(()), (Task("running"),)), films, tmp_path / "whole")
    found = list(embedding.embed(encoder, dataset, dataset.entries))
    assert all(item.frames is None and len(item.spaces["pixels"]) == 10 for item in found)


def test_an_encoder_of_images_needs_images(encoder, toy):
    with pytest.raises(SchemaError, match=f"recording {toy.entries[0].name!r} has no images, which PixelPCAEncoder"):
        list(embedding.embed(encoder, toy, toy.entries))


def test_an_encoder_of_keypoints_needs_keypoints(dataset):
    raw = methods.load("pca")(components=2).build(toy_spec())
    with pytest.raises(SchemaError, match="has no keypoints, which"):
        list(embedding.embed(raw, dataset, dataset.entries))
