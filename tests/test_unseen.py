"""A trained encoder on new files: the bits of training, rows beside frames, and no silent misfit."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ethoray import embedding, record, store, testing, unseen
from ethoray.batch import Windows
from ethoray.cleaning import Confidence, Interpolate, Outliers, Resample, Scale, Smooth
from ethoray.embedding import EmbeddingError
from ethoray.experiment import Experiment, restore, run
from ethoray.learning import Budget
from ethoray.probes.linear import Linear
from ethoray.readers import ReadError, Tracks
from ethoray.schema import SchemaError
from ethoray.unseen import command
from ethoray.wording import configure
from ethoray.writers import write_table


def trained(folder, dataset, method="pca", *settings, preset=None):
    """A run folder with a trained encoder."""
    chosen = configure(method, preset, settings)
    run(Experiment(Windows(dataset.uri, 7.0, 4), chosen, (Linear(),), Budget(steps=2)), folder)
    return folder


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return testing.toy_dataset(tmp_path_factory.mktemp("own") / "toy", seconds=8.0, fps=10.0)


@pytest.fixture(scope="module")
def pca(toy, tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "pca", toy, "pca", "components=4")


def tracks_of(dataset, place=0) -> tuple[str, Tracks]:
    entry = dataset.entries[place]
    recording = dataset.recording(entry)
    return entry.name, Tracks(recording.keypoints, None, entry.individuals, dataset.card.skeleton.keypoints)


def written(tmp_path, dataset, places=(0,), name=None, fps=None, change=lambda tracks: tracks):
    paths = []
    for place in places:
        called, tracks = tracks_of(dataset, place)
        paths.append(tmp_path / f"{name or called}.parquet")
        write_table(change(tracks), paths[-1], recording=paths[-1].stem, fps=fps or dataset.card.fps)
    return paths


def told(folder, words, out, **options) -> str:
    return "\n".join(command.embed(folder, [str(word) for word in words], out, **options))


def spaces_of(table: pa.Table) -> list[str]:
    return [field.name for field in table.schema if pa.types.is_list(field.type)]


@pytest.mark.parametrize(
    ("method", "preset", "settings"),
    [("pca", None, ("components=4",)), ("bams", "small", ()), ("vqvame", "small", ()), ("pointnet", "small", ())],
)
def test_a_file_gives_the_bits_of_training(toy, tmp_path, method, preset, settings):
    folder = trained(tmp_path / "run", toy, method, *settings, preset=preset)
    _, encoder = restore(folder)
    whole = list(embedding.write(embedding.embed(encoder, toy, toy.entries), tmp_path / "every", every=0))
    assert len(whole) == len(toy.entries)
    known = embedding.read(tmp_path / "every")
    told(folder, written(tmp_path, toy, range(len(toy.entries))), tmp_path / "new.parquet")
    found = pq.read_table(tmp_path / "new.parquet")
    assert spaces_of(found) == spaces_of(known) and spaces_of(found)
    for name in ("recording", "frame", *spaces_of(known)):
        assert found[name].to_pylist() == known[name].to_pylist(), name
    stored = embedding.read(folder / "embeddings").to_pandas()  # what training left, a frame every half second
    new = (
        found.to_pandas()
        .set_index(["recording", "frame"])
        .loc[pd.MultiIndex.from_frame(stored[["recording", "frame"]])]
    )
    for space in spaces_of(known):
        assert np.array_equal(np.stack(new[space]), np.stack(stored[space]))


def test_rows_stand_beside_frames(pca, toy, tmp_path):
    def hide(tracks):
        confidence = np.full(tracks.keypoints.shape[:3], 0.5, np.float32)
        confidence[1] = np.nan
        tracks.keypoints[:3] = 1.0
        tracks.keypoints[2, 0, 0] = np.nan
        return Tracks(tracks.keypoints, confidence, tracks.individuals, tracks.names)

    (path,) = written(tmp_path, toy, name="new", change=hide)
    assert "1 recordings" in told(pca, [path], tmp_path / "new.parquet")
    table = pd.read_parquet(tmp_path / "new.parquet")
    frames, points = toy.entries[0].frames, len(toy.card.skeleton.keypoints)
    assert table["frame"].tolist() == list(range(frames))
    assert table["time"].tolist() == [frame / toy.card.fps for frame in range(frames)]
    assert set(table["recording"]) == {"new"} and set(table["individual"]) == {unseen.GROUP}
    assert table["validity"][0] == 1 and table["validity"][2] == pytest.approx(1 - 1 / (2 * points))
    assert table["confidence"][0] == 0.5 and np.isnan(table["confidence"][1])


def test_a_row_an_animal_pools_to_a_row_a_frame(pca, toy, tmp_path):
    (path,) = written(tmp_path, toy)
    told(pca, [path], tmp_path / "group.parquet")
    told(pca, [path], tmp_path / "each.parquet", individuals=True)
    group, each = pd.read_parquet(tmp_path / "group.parquet"), pd.read_parquet(tmp_path / "each.parquet")
    animals = toy.entries[0].individuals
    assert each["individual"].tolist()[:4] == [*animals, *animals] and each["frame"].tolist()[:4] == [0, 0, 1, 1]
    z = np.stack(each["pca"]).reshape(len(group), len(animals), -1)
    by_hand = np.concatenate([z.mean(1), z.max(1) - z.min(1)], axis=1)
    np.testing.assert_allclose(np.stack(group["pca"]), by_hand, rtol=1e-6)


@pytest.mark.parametrize("chunk", [1, 7, 30, 4096])
@pytest.mark.parametrize("every", [0.0, 0.5])
def test_chunks_and_pieces_do_not_matter(pca, toy, chunk, every):
    (spec, (_, encoder)) = record.load(pca)[1], restore(pca)
    source = unseen.of_dataset(toy, spec)[0]
    whole = pa.concat_tables(unseen.rows(encoder, source, spec, every=every))
    parts = pa.concat_tables(unseen.rows(encoder, source, spec, every=every, chunk=chunk))
    assert parts.drop_columns("pca").equals(whole.drop_columns("pca"))
    np.testing.assert_allclose(np.stack(parts["pca"].to_pylist()), np.stack(whole["pca"].to_pylist()), atol=1e-4)
    if every:
        assert whole["frame"].to_pylist() == list(range(0, toy.entries[0].frames, 5))


def test_keypoints_are_matched_by_name(pca, toy, tmp_path):
    def shuffled(tracks):
        more = np.concatenate([tracks.keypoints[:, :, ::-1], tracks.keypoints[:, :, :1]], axis=2)
        return Tracks(more, None, tracks.individuals, (*tracks.names[::-1], "corner"))

    (plain,) = written(tmp_path, toy)
    (other,) = written(tmp_path, toy, name="other", change=shuffled)
    told(pca, [plain, other], tmp_path / "both.parquet")
    table = pd.read_parquet(tmp_path / "both.parquet").groupby("recording")["pca"].apply(np.stack)
    assert np.array_equal(table["other"], table[plain.stem])


def cut_keypoint(tracks):
    return Tracks(tracks.keypoints[:, :, 1:], None, tracks.individuals, tracks.names[1:])


def third_animal(tracks):
    return Tracks(tracks.keypoints[:, [0, 1, 0]], None, ("a", "b", "c"), tracks.names)


def upright(tracks):
    deep = np.concatenate([tracks.keypoints, tracks.keypoints[..., :1]], axis=-1)
    return Tracks(deep, None, tracks.individuals, tracks.names)


@pytest.mark.parametrize(
    ("change", "fps", "message"),
    [
        (cut_keypoint, None, "which the encoder learned from; it has"),
        (third_animal, None, "3 animals .a, b, c., the encoder learned from at most 2"),
        (upright, None, "3 coordinates, the encoder learned from 2"),
        (lambda tracks: tracks, 25.0, r"25 frames per second, the encoder learned from 10; change them .--resample."),
    ],
)
def test_a_misfit_is_an_error_that_names_the_file(pca, toy, tmp_path, change, fps, message):
    (path,) = written(tmp_path, toy, name="new", change=change, fps=fps)
    with pytest.raises(ReadError, match=rf"new\.parquet: .*{message}"):
        told(pca, [path], tmp_path / "new.parquet2")
    assert not (tmp_path / "new.parquet2").exists()


def test_words_that_are_no_files(pca, toy, tmp_path):
    (path,) = written(tmp_path, toy)
    with pytest.raises(ReadError, match=r"gone.csv: no such file"):
        told(pca, [path, "gone.csv"], tmp_path / "out")
    with pytest.raises(ReadError, match="both recording"):
        told(pca, [path, path], tmp_path / "out")
    with pytest.raises(ReadError, match="has its labels"):
        told(pca, [toy.uri], tmp_path / "out", fps=10.0)
    with pytest.raises(store.StoreError):
        told(pca, ["gone"], tmp_path / "out")


def test_another_frame_rate_is_changed_when_asked(pca, toy, tmp_path):
    (path,) = written(tmp_path, toy, name="fast", fps=20.0)
    said = told(pca, [path], tmp_path / "slow", resample=True)
    table = embedding.read(tmp_path / "slow")
    assert "at 10 frames per second" in said and table.num_rows == (toy.entries[0].frames + 1) // 2
    assert table["time"].to_pylist()[:3] == [0.0, 0.1, 0.2]


def test_a_table_without_a_rate_needs_one(pca, toy, tmp_path):
    (path,) = written(tmp_path, toy)
    bare = tmp_path / "bare.csv"
    pd.read_parquet(path).drop(columns="time").to_csv(bare, index=False)
    with pytest.raises(ReadError, match=r"bare.csv: it does not state its frame rate"):
        told(pca, [bare], tmp_path / "out")
    told(pca, [bare], tmp_path / "out", fps=10.0)
    with pytest.raises(ReadError, match="contradict: 30 and 10"):
        told(pca, [path], tmp_path / "out", fps=30.0)


def test_labels_stand_beside_the_rows(pca, toy, tmp_path):
    one, two = written(tmp_path, toy, (0, 1))
    bouts = tmp_path / f"{one.stem}_labels.csv"
    bouts.write_text("start,stop,behaviour\n0.5,1.0,groom\n")
    told(pca, [one, two], tmp_path / "out.parquet", labels=[bouts])
    table = pd.read_parquet(tmp_path / "out.parquet").groupby("recording")["label:groom"].apply(np.asarray)
    assert np.flatnonzero(table[one.stem]).tolist() == [5, 6, 7, 8, 9]
    assert np.isnan(table[two.stem]).all()


def test_a_label_named_like_a_script_is_a_column(pca, toy, tmp_path):
    (path,) = written(tmp_path, toy)
    bouts, name = tmp_path / f"{path.stem}_labels.csv", "<script>alert(1)</script>"
    bouts.write_text(f"start,stop,behaviour\n0.5,1.0,{name}\n")
    told(pca, [path], tmp_path / "out.parquet", labels=[bouts])
    assert pd.read_parquet(tmp_path / "out.parquet")[f"label:{name}"].sum() == 5


def test_a_dataset_brings_its_labels_and_splits(pca, toy, tmp_path):
    told(pca, [toy.uri], tmp_path / "out.parquet")
    table = pd.read_parquet(tmp_path / "out.parquet")
    entry = toy.entries[2]
    mine = table[table["recording"] == entry.name]
    labels = toy.labels(entry)
    assert set(mine["split"]) == {entry.split}
    assert np.array_equal(mine["label:running"], labels["running"]) and set(mine["label:lively"]) == {labels["lively"]}


STEPS = (Confidence(0.35), Outliers(6.5, 0.5), Interpolate(0.25), Smooth(0.5, 2), Resample(12.5), Scale(0.125))


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
def test_cleaning_is_recalled_from_its_sentence(step):
    assert unseen.recall([step.describe()]) == (step,)


def test_cleaning_that_cannot_be_repeated_is_refused_unless_files_are_clean(pca, toy, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    document = json.loads((pca / "experiment.json").read_text()) | {"cleaning": ["a person looked at 3 frames"]}
    (folder / "experiment.json").write_text(json.dumps(document))
    (folder / "checkpoint.safetensors").write_bytes((pca / "checkpoint.safetensors").read_bytes())
    (path,) = written(tmp_path, toy)
    with pytest.raises(ReadError, match=r"a person looked at 3 frames.*--as-is"):
        told(folder, [path], tmp_path / "out")
    told(folder, [path], tmp_path / "out", as_is=True)
    assert "note: toy was not cleaned like" in told(folder, [toy.uri], tmp_path / "out")


def test_cleaning_of_the_training_data_is_repeated(toy, tmp_path):
    from ethoray import cleaning
    from ethoray.ingest import ingest
    from ethoray.readers.own import own

    steps = cleaning.steps(outliers=4.0, smooth=0.5, smooth_order=2, mm_per_pixel=0.25)
    paths = written(tmp_path, toy, (0, 1, 2))
    card, parts = own(paths, name="own", cleaning=steps)
    clean = ingest(card, parts, tmp_path / "own", progress=False)
    folder = trained(tmp_path / "run", clean, "pca", "components=4")
    assert record.cleaning(folder) == tuple(step.describe() for step in steps)
    told(folder, paths, tmp_path / "new.parquet")
    found = pd.read_parquet(tmp_path / "new.parquet").set_index(["recording", "frame"])["pca"]
    stored = embedding.read(folder / "embeddings").to_pandas()
    again = found.loc[pd.MultiIndex.from_frame(stored[["recording", "frame"]])]
    assert np.array_equal(np.stack(again), np.stack(stored["pca"]))


def test_parts_are_replaced_when_all_is_written(pca, toy, tmp_path, monkeypatch):
    monkeypatch.setattr(unseen, "PART_BYTES", 1)
    paths, out = written(tmp_path, toy, (0, 1)), tmp_path / "out"
    told(pca, paths, out)
    assert len(embedding.parts(out)) == 2
    told(pca, paths[:1], out)
    assert len(embedding.parts(out)) == 1
    told(pca, paths[1:], out / "one.parquet")
    with pytest.raises(ReadError):
        told(pca, [paths[0], "gone"], out)
    assert set(embedding.read(out)["recording"].to_pylist()) == {paths[0].stem}
    assert not list(out.glob(".*"))


def test_an_embedding_that_is_not_finite_names_its_frame(pca, toy, tmp_path):
    _, encoder = restore(pca)
    spec, real = record.load(pca)[1], encoder.embed

    def broken(batch):
        z = {name: values.clone() for name, values in real(batch).items()}
        z["pca"][:, 12] = float("nan")
        return z

    encoder.embed = broken
    with pytest.raises(EmbeddingError, match="space 'pca' is not finite, first in frame 12"):
        list(unseen.rows(encoder, unseen.of_dataset(toy, spec)[0], spec))


def test_a_dataset_that_does_not_fit(pca, toy):
    from dataclasses import replace

    spec = record.load(pca)[1]
    with pytest.raises(SchemaError, match="has no keypoint 'horn'"):
        unseen.of_dataset(
            toy, replace(spec, skeleton=replace(spec.skeleton, keypoints=("horn",), bones=(), front=None, back=None))
        )
    with pytest.raises(ReadError, match="10 frames per second, the encoder learned from 30"):
        unseen.of_dataset(toy, replace(spec, fps=30.0))
    with pytest.raises(ValueError, match="every must be"):
        next(unseen.rows(restore(pca)[1], unseen.of_dataset(toy, spec)[0], spec, every=-1))
