"""A trained encoder of images on another prepared dataset gives what training gave."""

import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from ethoray import embedding, testing
from ethoray.batch import Windows
from ethoray.experiment import Experiment, restore, run
from ethoray.learning import Budget
from ethoray.probes.linear import Linear
from ethoray.readers import ReadError
from ethoray.unseen import command
from ethoray.wording import configure


def test_an_encoder_of_images_embeds_a_prepared_dataset_as_training_did(tmp_path):
    films = testing.toy_film_dataset(tmp_path / "films")
    method = configure("pixel_pca", None, ["components=4"])
    run(Experiment(Windows(films.uri, batch_size=4), method, (Linear(),), Budget(steps=2)), tmp_path / "run")
    lines = list(command.embed(tmp_path / "run", [films.uri], tmp_path / "out"))
    assert f"embedded {len(films.entries)} recordings" in lines[-1]
    rows = pq.read_table(tmp_path / "out").to_pandas().set_index(["recording", "frame"])
    assert len(rows) == sum(clip.frames for entry in films.entries for clip in entry.clips)
    stored = tmp_path / "stored"
    _, encoder = restore(tmp_path / "run")
    for _ in embedding.write(embedding.embed(encoder, films, films.entries), stored, every=0):
        pass
    pd.testing.assert_frame_equal(rows, pq.read_table(stored).to_pandas().set_index(["recording", "frame"]))
    with pytest.raises(ReadError, match="give videos, or one prepared dataset"):
        list(command.embed(tmp_path / "run", [films.uri, films.uri], tmp_path / "out"))


@pytest.fixture
def learned(tmp_path):
    """A run on the toy films, and these."""
    films = testing.toy_film_dataset(tmp_path / "films")
    method = configure("pixel_pca", None, ["components=4"])
    run(Experiment(Windows(films.uri, batch_size=4), method, (Linear(),), Budget(steps=2)), tmp_path / "run")
    return tmp_path / "run", films


def film(path, images, fps=None):
    """An h5 video of these images, or a lossless one with times where there is a rate."""
    if fps is None:
        with h5py.File(path, "w") as file:
            file["video"] = images[..., 0]
        return path
    av = pytest.importorskip("av", reason="the extra video is not installed")
    with av.open(str(path), "w") as out:
        track = out.add_stream("ffv1", rate=fps)
        track.height, track.width, track.pix_fmt = *images.shape[1:3], "gray"
        for image in images:
            out.mux(track.encode(av.VideoFrame.from_ndarray(image[..., 0], format="gray")))
        out.mux(track.encode())
    return path


@pytest.mark.parametrize(("suffix", "fps"), [(".h5", None), (".mkv", 25)])
def test_a_video_is_embedded_as_the_same_pictures_in_a_dataset_are(learned, tmp_path, suffix, fps):
    folder, films = learned
    entry = films.entries[0]
    images = np.concatenate([films.images(entry, clip) for clip in entry.clips])
    path = film(tmp_path / f"mine{suffix}", images, fps)
    said = list(command.embed(folder, [str(path)], tmp_path / "mine.parquet"))
    assert said == [
        f"mine: {len(images)} frames",
        f"embedded 1 videos into {tmp_path}/mine.parquet, {len(images)} frames",
    ]
    rows = pd.read_parquet(tmp_path / "mine.parquet")
    assert list(rows.frame) == list(range(len(images))) and set(rows.recording) == {"mine"}
    (stored,) = embedding.embed(restore(folder)[1], films, [entry])
    for space, values in stored.spaces.items():
        assert np.allclose(np.stack(rows[space]), values, rtol=1e-4, atol=1e-5), space  # batches are cut elsewhere
    if fps:
        assert np.allclose(rows.time, np.arange(len(images)) / fps)
        list(command.embed(folder, [str(path)], tmp_path / "few.parquet", every=0.08))
        assert list(pd.read_parquet(tmp_path / "few.parquet").frame) == list(range(0, len(images), 2))
    else:
        assert rows.time.isna().all()


def test_what_an_encoder_of_images_cannot_embed_is_refused(learned, tmp_path):
    folder = learned[0]
    (tmp_path / "poses.csv").write_text("frame,x\n")
    path = film(tmp_path / "mine.h5", np.zeros((3, 8, 8, 1), np.uint8))
    (tmp_path / "else").mkdir()
    twin = film(tmp_path / "else" / "mine.h5", np.zeros((3, 8, 8, 1), np.uint8))
    for words, options, message in (
        ([tmp_path / "poses.csv"], {}, "poses.csv: no video"),
        ([path, twin], {}, "both recording 'mine'"),
        ([path, tmp_path / "gone.mp4"], {}, "gone.mp4: no such file"),
        ([path], {"fps": 30.0}, "pictures as they are"),
    ):
        with pytest.raises(ReadError, match=message):
            list(command.embed(folder, [str(word) for word in words], tmp_path / "out.parquet", **options))
    assert not (tmp_path / "out.parquet").exists()
