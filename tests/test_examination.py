"""``ethoray judge``: words in, scores out, for neurons, poses and actions; and what is said about wrong words."""

import json

import numpy as np
import pytest

from ethoray import cli, embedding, examination, store, testing
from ethoray.examination import ExaminationError, answers
from ethoray.experiment import restore
from ethoray.probes import ProbeError
from ethoray.schema import Card, Recording, Skeleton
from ethoray.submission import SubmissionError
from ethoray.tracking import Mirror

SHORT = ("hidden=8", "layers=2", "lags=1", "seconds=2", "epochs=2", "members=1", "tasks=running")


@pytest.fixture
def cells(tmp_path):
    """Trials of three units that fire where the one keypoint is far to the right."""
    rng = np.random.default_rng(0)
    skeleton = Skeleton(("hand",))

    def trials():
        for i in range(20):
            x = np.cumsum(rng.normal(size=(24, 2)), 0).astype(np.float32)
            rate = np.exp(np.clip(x[:, :1] / 3, -3, 1.5))
            yield Recording(
                f"trial_{i:02d}", "a", 50.0, skeleton, x[:, None, None], split="test" if i % 4 == 3 else "train",
                neural=rng.poisson(np.tile(rate, 3)).astype(np.float32),
            )  # fmt: skip

    card = Card("cells", "none", 50.0, skeleton, split_rule="blocks of trials", neural="spike counts per frame")
    return store.prepare(card, trials(), f"{tmp_path}/store/cells")


@pytest.fixture
def pictures(tmp_path):
    """Pictures of 32 x 32 pixels with a bright spot that is marked."""
    rng = np.random.default_rng(0)
    skeleton = Skeleton(("spot",))

    def recordings():
        for i in range(8):
            point = rng.uniform(4, 27, 2).astype(np.float32)
            y, x = np.mgrid[:32, :32]
            image = 200 * np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / 8)
            yield Recording(
                f"p{i}", "pictures", 1.0, skeleton, point[None, None, None], split="test" if i > 5 else "train",
                images=image.astype(np.uint8)[None, ..., None],
            )  # fmt: skip

    card = Card("spots", "none", 1.0, skeleton, unit="pixel", split_rule="blocks")
    return store.prepare(card, recordings(), f"{tmp_path}/store/spots")


@pytest.fixture
def toy_run(tmp_path, monkeypatch):
    """The folder of a run on the toy dataset."""
    monkeypatch.setattr(Mirror, "follow", lambda *_, **__: True)
    testing.toy_dataset(tmp_path / "store" / "toy", seconds=8.0, fps=10.0)
    cli.main(["train", "toy", "pca", "--set", "components=4", "--seconds", "5", "--steps", "4"])
    return next((tmp_path / "runs").glob("*/scores.json")).parent


def test_neurons_from_positions(cells, tmp_path):
    out = tmp_path / "scores.json"
    said = "\n".join(
        answers("neural", "keypoints", "cells", settings=("models=rrr", "min_rate=0"), seeds=(0, 1), out=out)
    )
    assert said.startswith("neural on cells from keypoints, seed 0")
    assert "2 seeds" in said
    assert f"wrote {out}" in said
    document = json.loads(out.read_text())
    assert document["settings"]["models"] == ["rrr"]
    scores = {s["task"]: s["value"] for s in document["seeds"][0]["scores"]}
    assert scores["neural_rrr"] > scores["neural_psth"]
    assert document["seeds"][1]["about"]["neural_rrr/keypoints"]["units"] == 3


def test_processes_answer_in_the_order_of_the_jobs():
    with examination._spread(2) as spread:
        assert list(spread(abs, [-3, 1, -2])) == [3, 1, 2]


def test_poses_from_an_encoder_that_learned_nothing(pictures, tmp_path):
    out = tmp_path / "pose.json"
    settings = ("epochs=1", "milestones=", "frames=4")
    lines = list(answers("pose", "beast:tiny", "spots", settings=settings, seeds=(3, 5), out=out))
    assert lines[0] == "pose on spots from beast:tiny, seeds 3 5"
    about = json.loads(out.read_text())["seeds"][0]["about"]["pose_frozen/patches"]
    assert list(about["single"]) == ["3", "5"]
    assert about["frames"] == 4
    assert sum("most disputed" in line for line in lines) == len(about["spread"]) == 6


def test_actions_from_a_run_and_from_what_it_embedded(toy_run, tmp_path):
    of_run = list(answers("action", str(toy_run), settings=SHORT, seeds=(0,)))
    dataset, encoder = store.open("toy"), restore(toy_run)[1]
    for _ in embedding.write(embedding.embed(encoder, dataset, dataset.entries), tmp_path / "frames", every=0):
        pass
    of_folder = list(answers("action", str(tmp_path / "frames"), "toy", settings=SHORT, seeds=(0,)))
    assert of_run[1:] == of_folder[1:]
    assert "running/pca" in of_run[1]
    chosen = list(
        answers("action", toy_run.name[:8], "toy", settings=SHORT, seeds=(0,), space="pca", storage=toy_run.parent)
    )
    assert chosen[1:] == of_run[1:]


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (("nural", "keypoints", "cells"), LookupError, "nural"),
        (("neural", "keypoints"), ExaminationError, "of which dataset"),
        (("neural", "keypoints", "cells", "models=glm"), ExaminationError, "models=glm"),
        (("neural", "keypoints", "cells", "rank"), ExaminationError, "write field=value; fields of neural are models"),
        (("neural", "keypoints", "cells", "rank=0"), ExaminationError, "at least 1"),
        (("pose", "keypoints", "cells"), ExaminationError, "need an encoder of images"),
        (("neural", "nobody", "cells"), LookupError, "nobody"),
        (("neural", "keypoints", "nowhere"), store.StoreError, "nowhere"),
        (("neural", "keypoints", "spots"), ProbeError, "no spike counts"),
    ],
)
def test_wrong_words_are_named(cells, pictures, words, error, message):
    with pytest.raises((error, ValueError), match=message):
        list(answers(*words[:3], settings=words[3:]))


def test_wrong_options_are_named(cells, tmp_path):
    for options, message in (
        ({"preset": "best"}, "no preset of neural is called 'best'; there is paper"),
        ({"seeds": ()}, "at least one"),
        ({"seeds": (1, 1)}, "each once"),
        ({"space": "short"}, "no space 'short'; it has keypoints"),
        ({"workers": 0}, "at least 1"),
        ({"patches": True}, "need an encoder"),
    ):
        with pytest.raises(ExaminationError, match=message):
            list(answers("neural", "keypoints", "cells", **options))
    for _ in embedding.write([], tmp_path / "none", every=0):
        pass
    (tmp_path / "bad.npy").write_bytes(b"no")
    with pytest.raises(ExaminationError, match="which dataset"):
        list(answers("neural", str(tmp_path / "bad.npy")))
    with pytest.raises(SubmissionError, match=r"bad\.npy"):
        list(answers("neural", str(tmp_path / "bad.npy"), "cells"))


def test_embeddings_without_a_recording_are_named(cells, tmp_path):
    rows = {"frame_number_map": {"trial_00": (0, 24)}, "embeddings": np.zeros((24, 2), np.float32)}
    np.save(tmp_path / "mine.npy", rows, allow_pickle=True)
    with pytest.raises(ExaminationError, match="0 rows of recording 'trial_01', 24 needed"):
        list(answers("neural", str(tmp_path / "mine.npy"), "cells"))


def test_it_is_a_verb(monkeypatch):
    given = {}
    monkeypatch.setattr(examination, "answers", lambda *words, **options: given.update(options, words=words) or ())
    cli.main(["judge", "neural", "keypoints", "cells", "--set", "models=rrr", "rank=2", "--seeds", "0", "4"])
    assert given["words"] == ("neural", "keypoints", "cells")
    assert given["settings"] == ("models=rrr", "rank=2")
    assert given["seeds"] == (0, 4)
