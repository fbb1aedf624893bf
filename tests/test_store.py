import errno
import json
import os
import pickle
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ethoray import store
from ethoray.files import Folder
from ethoray.schema import Card, Recording, SchemaError, Skeleton, Task
from ethoray.store import StoreError

SKELETON = Skeleton(("nose", "hip", "tail"), ((0, 1),), "nose", "tail")
CARD = Card("toy", "mouse", 30, SKELETON, (Task("groom"), Task("strain", level="recording")), notes=("two",))


def recordings(count=4, seed=0):
    rng = np.random.default_rng(seed)
    for i in range(count):
        frames, animals = 70 + 37 * i, 1 + i % 3
        keypoints = rng.normal(size=(frames, animals, 3, 2))
        keypoints[rng.random(keypoints.shape[:3]) < 0.2] = np.nan
        labels = {"groom": (rng.random(frames) > 0.5).astype(float), "strain": i % 2}
        yield Recording(
            name=f"r{i}",
            subject=f"m{i}",
            fps=30,
            skeleton=SKELETON,
            keypoints=keypoints,
            confidence=rng.random(keypoints.shape[:3]) if i else None,
            split="train" if i < 3 else "test",
            labels=labels if i != 2 else {},
        )


def shards(folder):
    return sorted(p.name for p in (folder / "shards").iterdir())


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "toy"


@pytest.fixture
def dataset(folder):
    return store.prepare(CARD, recordings(), folder, clip_seconds=1.0, shard_mb=0.01)


def test_what_was_prepared_is_what_is_opened(dataset, folder):
    opened = store.open(folder)
    assert opened == dataset and opened.card == CARD and len(opened.shards) > 1
    assert [e.name for e in opened.entries] == ["r0", "r1", "r2", "r3"]
    for entry, given in zip(opened.entries, recordings(), strict=True):
        found = opened.recording(entry)
        np.testing.assert_array_equal(found.keypoints, given.keypoints)
        np.testing.assert_array_equal(found.labels["groom"], given.labels.get("groom", np.full(given.frames, np.nan)))
        np.testing.assert_equal(found.labels["strain"], given.labels.get("strain", np.nan))
        assert (found.individuals, found.subject, found.split) == (given.individuals, given.subject, given.split)
        assert (found.confidence is None) == (given.confidence is None)
        if given.confidence is not None:
            np.testing.assert_array_equal(found.confidence, given.confidence)
    assert opened.bytes == sum(r.keypoints.nbytes for r in recordings())


def test_any_stretch_of_frames_reads_as_a_slice(dataset):
    entry, whole = dataset.entries[3], list(recordings())[3].keypoints
    for start, stop in ((0, None), (25, 95), (30, 60), (59, 61), (-10, None), (90, 90), (95, 20)):
        np.testing.assert_array_equal(dataset.keypoints(entry, start, stop), whole[start:stop])
    for clip in entry.clips:
        np.testing.assert_array_equal(dataset.clip(clip, entry), whole[clip.start : clip.start + clip.frames])


def test_splits_are_selected_by_name(dataset):
    assert dataset.splits == ("train", "test")
    assert [e.name for e in dataset.select("test")] == ["r3"] and len(dataset.select("all")) == 4
    with pytest.raises(StoreError, match="no split 'validation'; it has train, test, all"):
        dataset.select("validation")


def test_a_dataset_travels_and_its_key_names_the_data(dataset, tmp_path):
    assert pickle.loads(pickle.dumps(dataset)) == dataset
    again = store.prepare(CARD, recordings(), tmp_path / "again", clip_seconds=1.0, shard_mb=0.01)
    other = store.prepare(CARD, recordings(seed=1), tmp_path / "other", clip_seconds=1.0, shard_mb=0.01)
    renamed = store.prepare(replace(CARD, species="rat"), recordings(), tmp_path / "rat", clip_seconds=1.0)
    assert again.key == dataset.key and len({dataset.key, other.key, renamed.key}) == 3


def test_a_name_is_looked_up_in_the_store(dataset, tmp_path, monkeypatch):
    assert store.open("toy", tmp_path) == dataset
    monkeypatch.setenv("ETHORAY_STORE", str(tmp_path))
    assert store.open("toy") == dataset
    with pytest.raises(StoreError, match=r"no dataset 'tou' in .*did you mean 'toy'\?.*holds toy"):
        store.open("tou")
    with pytest.raises(StoreError, match="no prepared dataset at"):
        store.open("./nowhere")


def test_one_flipped_byte_is_found(dataset, folder):
    dataset.verify()
    victim = folder / dataset.shards[1].file
    data = bytearray(victim.read_bytes())
    data[len(data) // 3] ^= 1
    victim.write_bytes(data)
    with pytest.raises(StoreError, match=victim.name):
        dataset.verify()
    victim.unlink()
    with pytest.raises(StoreError, match="missing"):
        dataset.verify()
    with pytest.raises(StoreError, match=victim.name):
        [dataset.recording(e) for e in dataset.entries]


def test_a_dataset_is_replaced_only_when_asked_and_then_whole(dataset, folder):
    with pytest.raises(StoreError, match="already holds"):
        store.prepare(CARD, recordings(seed=1), folder)
    replaced = store.prepare(CARD, recordings(seed=1), folder, overwrite=True)
    assert replaced.key != dataset.key and [f"shards/{s}" for s in shards(folder)] == [s.file for s in replaced.shards]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_prepare_that_is_interrupted_leaves_the_old_dataset(dataset, folder, error):
    def broken():
        yield from recordings(seed=1)
        raise error

    before = shards(folder)
    with pytest.raises(error):
        store.prepare(CARD, broken(), folder, overwrite=True, clip_seconds=1.0, shard_mb=0.01)
    assert store.open(folder) == dataset and shards(folder) == before


def test_an_interrupt_just_after_the_commit_leaves_the_new_dataset(dataset, folder, monkeypatch):
    commit = Folder.commit

    def interrupted(*given):
        commit(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(Folder, "commit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.prepare(CARD, recordings(seed=1), folder, overwrite=True)
    opened = store.open(folder)
    opened.verify()
    assert opened.key != dataset.key


def test_a_prepare_that_is_killed_leaves_no_dataset(folder):
    script = (
        "import os, signal, numpy as np\n"
        "from ethoray import schema, store\n"
        "s = schema.Skeleton(('a',))\n"
        "def some():\n"
        "    for i in range(9):\n"
        "        yield schema.Recording(f'r{i}', 'm', 30, s, np.random.rand(900, 1, 1, 2))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"store.prepare(schema.Card('t', 'm', 30, s), some(), {str(folder)!r}, shard_mb=0.01)\n"
    )
    source = Path(store.__file__).parents[1]
    killed = subprocess.run([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": str(source)}, check=False)
    assert killed.returncode == -9 and shards(folder)
    with pytest.raises(StoreError, match="no prepared dataset"):
        store.open(folder)
    assert len(store.prepare(CARD, recordings(), folder).entries) == 4


def test_a_full_disk_commits_nothing(dataset, folder, monkeypatch):
    sync, before = os.fsync, shards(folder)
    for writes in range(len(dataset.shards) + 2):  # every shard, the card, the manifest
        left = iter(range(writes))

        def full(handle, left=left):
            if next(left, None) is None:
                raise OSError(errno.ENOSPC, "No space left on device")
            sync(handle)

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="No space left on device; nothing was committed"):
            store.prepare(CARD, recordings(seed=1), folder, overwrite=True, clip_seconds=1.0, shard_mb=0.01)
        assert store.open(folder) == dataset and shards(folder) == before
        assert not list(folder.rglob(".*"))


def test_a_read_only_folder_is_a_clear_error(folder, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(StoreError, match=r"cannot write .*Permission denied"):
        store.prepare(CARD, recordings(), folder)


def test_an_output_that_is_a_file_is_a_clear_error(folder):
    folder.write_text("a file")
    with pytest.raises(StoreError, match=r"cannot write .*toy"):
        store.prepare(CARD, recordings(), folder)


def race(root):
    """Two writers that both began before either ended; the inner one commits first."""

    def slow():
        yield from recordings(seed=1)
        store.prepare(CARD, recordings(seed=2), root, overwrite=True)

    with pytest.raises(StoreError, match="another writer committed"):
        store.prepare(CARD, slow(), root, overwrite=True)
    won = store.open(root)
    won.verify()
    np.testing.assert_array_equal(won.keypoints(won.entries[0]), next(recordings(seed=2)).keypoints)


@pytest.mark.parametrize("existing", [False, True])
def test_of_two_writers_one_wins_and_the_other_is_told(folder, existing):
    if existing:
        store.prepare(CARD, recordings(), folder)
    race(folder)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda r: [], "no recordings"),
        (lambda r: [r[0], r[0]], "'r0' is given twice"),
        (lambda r: [replace(r[0], fps=25)], "25 frames per second, the card says 30"),
        (lambda r: [replace(r[0], skeleton=Skeleton(("nose", "hip", "ear")))], "differ from the card's in ear, tail"),
        (lambda r: [r[0], replace(r[1], keypoints=np.zeros((9, 1, 3, 3)), labels={}, confidence=None,
                                  individuals=())], "3 coordinates"),
        (lambda r: [replace(r[0], subject="m3"), r[3]], "subject 'm3' is in train .* and in test"),
        (lambda r: [r[0], replace(r[0], name="copy", subject="n", split="test")], "are the same track"),
    ],
)  # fmt: skip
def test_recordings_that_do_not_belong_together_are_refused(folder, given, message):
    with pytest.raises(StoreError, match=message):
        store.prepare(CARD, given(list(recordings())), folder)
    assert not list(folder.rglob("*.parquet")) and not (folder / "manifest.json").exists()


def test_labels_the_card_does_not_know_are_refused(folder):
    with pytest.raises(SchemaError, match="no such task"):
        store.prepare(replace(CARD, tasks=()), recordings(), folder)


def test_blocks_of_one_animal_may_be_on_both_sides_when_the_card_says_so(folder):
    first, *_, last = recordings()
    card = replace(CARD, split_rule="contiguous blocks")
    assert len(store.prepare(card, [first, replace(last, subject=first.subject)], folder).entries) == 2


def test_a_shard_with_arrow_types_of_its_own_is_refused(dataset, folder):
    victim = folder / dataset.entries[0].clips[0].shard
    table = pq.read_table(victim)
    metadata = {"ARROW:extension:name": "some.type", "ARROW:extension:metadata": "\x80\x04"}
    fields = [f.with_metadata(metadata) if f.name == "keypoints" else f for f in table.schema]
    pq.write_table(table.cast(pa.schema(fields)), victim)
    with pytest.raises(StoreError, match="Arrow schema of its own"):
        dataset.keypoints(dataset.entries[0])


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + struct.pack("<I", 2**31) + b"PAR1"])
def test_a_torn_shard_is_a_clear_error(dataset, folder, data):
    (folder / dataset.entries[0].clips[0].shard).write_bytes(data)
    with pytest.raises(StoreError, match="not a whole Parquet file"):
        dataset.keypoints(dataset.entries[0])


@pytest.mark.parametrize("manifest", ["", "[]", '{"format": 99}', '{"format": 1}'])
def test_a_manifest_of_another_kind_is_refused(folder, manifest):
    folder.mkdir()
    (folder / "manifest.json").write_text(manifest)
    with pytest.raises(StoreError, match="toy"):
        store.open(folder)


def test_a_manifest_cannot_point_outside(dataset, folder):
    document = json.loads((folder / "manifest.json").read_text())
    document["shards"][0][0] = "shards/../../secret.parquet"
    (folder / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(StoreError, match="outside the dataset"):
        store.open(folder)


@pytest.fixture
def bucket(monkeypatch):
    server_module = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    server = server_module.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    shelf = f"shelf-{port}"
    s3fs.S3FileSystem().mkdir(shelf)
    yield f"s3://{shelf}"
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_an_object_store_holds_datasets_like_a_folder_does(bucket, dataset):
    stored = store.prepare(CARD, recordings(), f"{bucket}/toy", clip_seconds=1.0, shard_mb=0.01)
    assert stored.key == dataset.key and stored.uri == f"{bucket}/toy" and store.open("toy", bucket) == stored
    stored.verify()
    for entry, given in zip(stored.entries, recordings(), strict=True):
        np.testing.assert_array_equal(stored.recording(entry).keypoints, given.keypoints)
    with pytest.raises(StoreError, match="already holds"):
        store.prepare(CARD, recordings(), f"{bucket}/toy")
    with pytest.raises(StoreError, match="did you mean 'toy'"):
        store.open("toi", bucket)
    race(f"{bucket}/toy")


def test_an_object_store_refuses_a_second_creation(bucket):
    race(f"{bucket}/fresh")


def test_an_object_store_itself_refuses_a_writer_who_looked_too_early(bucket, monkeypatch):
    store.prepare(CARD, recordings(), f"{bucket}/toy")
    folder, expect = Folder(f"{bucket}/toy"), Folder.expect
    looks = iter([lambda *_: None])
    monkeypatch.setattr(Folder, "expect", lambda *given: next(looks, expect)(*given))
    with pytest.raises(StoreError, match="another writer committed"):
        folder.commit("manifest.json", b"{}", None)
    assert len(store.open("toy", bucket).entries) == 4


def test_a_missing_bucket_is_a_clear_error(bucket):
    with pytest.raises(StoreError, match="nowhere"):
        store.prepare(CARD, recordings(), "s3://nowhere/toy")
