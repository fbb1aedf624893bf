"""A trained encoder of images on another prepared dataset gives what training gave."""

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
    with pytest.raises(ReadError, match="embeds one prepared dataset"):
        list(command.embed(tmp_path / "run", [films.uri, films.uri], tmp_path / "out"))
