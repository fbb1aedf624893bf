"""Datasets written part by part: the same bytes however, restarted where stopped, memory that does not grow."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from ethoray import ingest as ingesting
from ethoray import store, stream
from ethoray.ingest import Part, ingest
from ethoray.meter import Meter
from ethoray.parts import gather
from ethoray.readers.own import own
from ethoray.schema import Card, Recording, Skeleton, Task
from ethoray.store import StoreError

SKELETON = Skeleton(("nose", "tail"), front="nose", back="tail")
CARD = Card("herd", "mouse", 10.0, SKELETON, (Task("rear"), Task("old", level="recording")))
SOURCE = Path(store.__file__).parents[1]


def recording(index=0, frames=95, *, split="train", subject=None, **companions) -> Recording:
    rng = np.random.default_rng(index)
    keypoints = rng.normal(size=(frames, 2, 2, 2)).astype(np.float32)
    keypoints[rng.random(keypoints.shape[:3]) < 0.2] = np.nan
    labels = {"rear": (rng.random(frames) < 0.3).astype(np.float32), "old": float(index % 2)}
    confidence = rng.random(keypoints.shape[:3])
    name, subject = f"r{index}", subject or f"m{index}"
    return Recording(name, subject, 10.0, SKELETON, keypoints, confidence, ("a", "b"), split, labels, **companions)


def cut(whole: Recording, *edges: int) -> list[Recording]:
    """The pieces of a recording between frames 0, edges and the end."""
    ends = [0, *edges, whole.frames]
    pieces = []
    for start, stop in pairwise(ends):
        labels = {k: v[start:stop] if isinstance(v, np.ndarray) else v for k, v in whole.labels.items()}
        arrays = {
            n: None if getattr(whole, n) is None else getattr(whole, n)[start:stop]
            for n in ("keypoints", "confidence", "neural", "images")
        }
        pieces.append(replace(whole, labels=labels, start=start, **arrays))
    return pieces


def some(indices: tuple[int, ...], diary: str = "", dies: int = -1) -> Iterable[Recording | str]:
    """Recordings by number, each written into a diary; dies of SIGKILL at one of them while there is a fuse."""
    for index in indices:
        if diary:
            with Path(diary).open("a") as file:
                file.write(f"{index}\n")
            fuse = Path(f"{diary}.fuse")
            if index == dies and fuse.exists():
                fuse.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        yield recording(index, split="test" if index % 3 == 2 else "train")
        yield f"r{index} was made"


def parts(*groups: tuple[int, ...], **how) -> list[Part]:
    return [Part(f"part {i}", partial(some, group, **how), frames=95 * len(group)) for i, group in enumerate(groups)]


def hashes(dataset) -> list[str]:
    return [shard.sha256 for shard in dataset.shards]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "herd"


def short(made, folder, **options):
    return ingest(CARD, made, folder, clip_seconds=3.0, shard_mb=0.01, progress=False, **options)


def test_parts_become_one_dataset_in_their_order(folder):
    dataset = short(parts((4, 0), (1,), (2, 3)), folder)
    assert [e.name for e in dataset.entries] == ["r4", "r0", "r1", "r2", "r3"]
    assert dataset.card.notes == ("r4 was made", "r0 was made", "r1 was made", "r2 was made", "r3 was made")
    for entry in dataset.entries:
        given = recording(int(entry.name[1:]))
        np.testing.assert_array_equal(dataset.recording(entry).keypoints, given.keypoints)
    dataset.verify()
    assert sorted(p.name for p in folder.iterdir()) == ["card.json", "manifest.json", "quality.json", "shards"]
    assert {f"shards/{p.name}" for p in (folder / "shards").iterdir()} == {s.file for s in dataset.shards}


KILLED = """
import sys
sys.path[:0] = [{source!r}, {tests!r}]
import test_ingest as t
t.short(t.parts((0,), (1, 2), (3, 4), diary={diary!r}, dies=4), t.Path({folder!r}), overwrite=True)
"""


def run(script: str, **where) -> subprocess.CompletedProcess:
    script = script.format(source=str(SOURCE), tests=str(Path(__file__).parent), **where)
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    return subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("existing", [False, True])
def test_a_killed_ingest_leaves_what_was_there_and_restarts_where_it_stopped(tmp_path, folder, existing):
    old = store.prepare(CARD, [recording(7)], folder) if existing else None
    diary = tmp_path / "diary"
    Path(f"{diary}.fuse").touch()
    where = {"diary": str(diary), "folder": str(folder)}
    assert run(KILLED, **where).returncode == -9
    assert diary.read_text().split() == ["0", "1", "2", "3", "4"]
    if old is None:
        with pytest.raises(StoreError, match="no prepared dataset"):
            store.open(folder)
    else:
        assert store.open(folder) == old
        old.verify()
    again = run(KILLED, **where)
    assert again.returncode == 0, again.stderr
    assert diary.read_text().split()[5:] == ["3", "4"], "only the unfinished part is made again"
    dataset = store.open(folder)
    dataset.verify()
    assert hashes(dataset) == hashes(short(parts((0,), (1, 2), (3, 4)), tmp_path / "fresh"))
    assert {f"shards/{p.name}" for p in (folder / "shards").iterdir()} == {s.file for s in dataset.shards}
    assert not (folder / "journal").exists()


def failing(diary: str) -> Iterable[Recording]:
    if not Path(diary).exists():
        yield recording(1)
        raise ZeroDivisionError("a bug")
    yield recording(1)


def test_an_error_names_its_part_and_leaves_the_others_done(tmp_path, folder):
    diary, fixed = tmp_path / "diary", tmp_path / "fixed"
    made = [*parts((0,), diary=str(diary)), Part("second", partial(failing, str(fixed)))]
    with pytest.raises(ZeroDivisionError, match="a bug") as raised:
        short(made, folder)
    assert raised.value.__notes__ == ["while part 'second' was made"]
    with pytest.raises(StoreError, match="no prepared dataset"):
        store.open(folder)
    fixed.touch()
    assert len(short(made, folder).entries) == 2 and diary.read_text().split() == ["0"]


@pytest.mark.parametrize(
    "change",
    [
        lambda made: [replace(made[0], stamp="newer file")],
        lambda made: [replace(made[0], make=partial(some, (0,), diary=made[0].make.keywords["diary"], dies=99))],
        lambda made: [replace(made[0], name="another")],
    ],
)
def test_what_is_not_the_same_part_is_made_again(tmp_path, folder, change):
    diary = tmp_path / "diary"
    made = parts((0,), diary=str(diary))
    broken = Part("broken", partial(failing, str(tmp_path / "never")))
    with pytest.raises(ZeroDivisionError):
        short([*made, broken], folder)
    with pytest.raises(ZeroDivisionError):
        short([*change(made), broken], folder)
    assert diary.read_text().split() == ["0", "0"]


def test_a_journal_whose_shards_are_gone_or_that_is_torn_is_not_believed(tmp_path, folder):
    diary = tmp_path / "diary"
    made = [*parts((0,), diary=str(diary)), Part("broken", partial(failing, str(tmp_path / "never")))]
    for damage in ("shards/*", "journal/*"):
        with pytest.raises(ZeroDivisionError):
            short(made, folder)
        for victim in folder.glob(damage):
            victim.unlink() if damage == "shards/*" else victim.write_text("{")
    with pytest.raises(ZeroDivisionError):
        short(made, folder)
    assert diary.read_text().split() == ["0"] * 3


def one(given: Recording) -> Iterable[Recording]:
    yield given


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(
    ("second", "fact"),
    [
        (recording(1, split="test", subject="m0"), "subject 'm0' is in train ('r0') and in test ('r1')"),
        (replace(recording(0), name="copy", subject="x", split="test"),
         "recordings 'r0' (train) and 'copy' (test) are the same track"),
    ],
)  # fmt: skip
def test_a_leak_is_refused_unless_forced(tmp_path, folder, second, fact, together):
    given = [recording(0), second]
    made = [Part("all", partial(list, given))] if together else [Part(g.name, partial(one, g)) for g in given]
    with pytest.raises(StoreError) as raised:
        short(made, folder)
    assert fact in str(raised.value) and not (folder / "manifest.json").exists()
    assert short(made, folder, force=True).card.notes == (f"leak check forced: {fact}",)
    assert store.prepare(CARD, given, tmp_path / "serial", force=True).card.notes == (f"leak check forced: {fact}",)


def test_the_same_track_under_two_names_on_one_side_is_noted(folder):
    copy = replace(recording(0), name="copy")
    made = [Part("one", partial(one, recording(0))), Part("two", partial(list, cut(copy, 40, 41)))]
    assert short(made, folder).card.notes == ("recordings 'r0' and 'copy' are the same track",)


def test_tracks_that_were_never_seen_are_no_duplicates(folder):
    blank = np.full((9, 1, 2, 2), np.nan)
    made = [Recording(f"r{i}", f"m{i}", 10.0, SKELETON, blank, split=s) for i, s in enumerate(("train", "test"))]
    assert short([Part("all", partial(list, made))], folder).card.notes == ()


@pytest.mark.parametrize(
    ("made", "options", "message"),
    [
        ([], {}, "no recordings"),
        (parts((0,), (0,)), {}, "'r0' is given twice"),
        ([Part("a", partial(some, (0,))), Part("a", partial(some, (1,)))], {}, "parts named twice: a"),
        (parts((0,)), {"workers": 0}, "workers is a number of processes, not 0"),
        ([Part("odd", partial(one, replace(recording(), fps=30.0)))], {}, "odd: recording 'r0' has 30.0 frames"),
    ],
)
def test_what_cannot_be_prepared_is_refused(folder, made, options, message):
    with pytest.raises(StoreError, match=message):
        short(made, folder, **options)
    assert not (folder / "manifest.json").exists()


def test_a_dataset_is_not_replaced_unasked(folder):
    short(parts((0,)), folder)
    with pytest.raises(StoreError, match="already holds a dataset"):
        short(parts((1,)), folder)
    assert short(parts((1,)), folder, overwrite=True).entries[0].name == "r1"


def test_of_two_ingests_one_wins_and_the_other_is_told(folder):
    def slow():
        yield recording(0)
        short(parts((1,)), folder)

    with pytest.raises(StoreError, match="another writer committed"):
        short([Part("slow", slow)], folder)
    store.open(folder).verify()
    assert [e.name for e in store.open(folder).entries] == ["r1"]


def test_workers_are_chosen_by_what_there_is_to_do(monkeypatch):
    asked = []
    monkeypatch.setattr(ingesting, "_spread", lambda job, todo, workers: asked.append((len(todo), workers)) or iter(()))
    monkeypatch.setattr(ingesting.Job, "work", lambda *_: iter(()))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4))
    job = ingesting.Job("nowhere", CARD, 10, 1, False)
    made = [(i, part, "") for i, part in enumerate(parts((0,), (1,), (2,)))]

    def choose(todo, frames=0, workers=None):
        asked.clear()
        list(ingesting._run(job, todo, frames, workers))
        return asked

    assert choose(made) == [] and choose(made[:1], 10**9) == [] and choose(made, 10**9, workers=1) == []
    assert choose(made, 10**9) == [(3, 3)] and choose(made, workers=2) == [(3, 2)]
    monkeypatch.setattr(ingesting, "_PATIENCE", -1.0)
    assert choose(made) == [(3, 3)]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_meter_rewrites_one_line_on_a_terminal_and_is_calm_elsewhere(monkeypatch):
    now = iter(np.arange(0, 1000, 1.0))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    terminal, log = Terminal(), io.StringIO()
    for out in (terminal, log):
        with Meter(2, 4_000_000, out=out) as meter:
            for _ in range(20):
                meter.advance(100_000)
            meter.advance(0, 1)
    assert "50%  2.00 of 4.00 million frames  1 of 2 parts" in terminal.getvalue() and "left" in terminal.getvalue()
    assert terminal.getvalue().count("\n") == 1 and terminal.getvalue().count("\r") > 10
    assert 2 < log.getvalue().count("\n") < 10 and "\r" not in log.getvalue()
    silent = io.StringIO()
    with Meter(1, 0, shown=False, out=silent) as meter:
        meter.advance(10**6, 1)
    assert silent.getvalue() == "" and "1.00 million frames  1 of 1 parts" in meter.line()


FLAT = """
import resource, sys
sys.path[:0] = [{source!r}, {tests!r}]
import test_ingest as t
t.long_recording(t.Path({folder!r}), int({pieces!r}))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def endless(pieces: int) -> Iterable[Recording]:
    rng = np.random.default_rng(0)
    base = rng.normal(size=(5000, 2, 2, 2)).astype(np.float32)
    for i in range(pieces):
        yield Recording("day", "m", 10.0, SKELETON, base + np.float32(i), start=5000 * i)


def long_recording(folder: Path, pieces: int) -> None:
    card = replace(CARD, tasks=())
    ingest(card, [Part("day", partial(endless, pieces))], folder, shard_mb=2, progress=False)


def test_memory_does_not_grow_with_the_recording(tmp_path):
    peaks = []
    for pieces in (25, 200):  # 4 MB and 32 MB of keypoints
        done = run(FLAT, folder=str(tmp_path / str(pieces)), pieces=pieces)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))
    assert peaks[1] < peaks[0] + 16


def write_track(path: Path, frames: int, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    rows = ["scorer,n,n,n,n,n,n", "bodyparts" + ",nose" * 3 + ",tail" * 3, "coords" + ",x,y,likelihood" * 2]
    values = rng.normal(100, 9, (frames, 6)).round(2)
    values[:, [2, 5]] = rng.random((frames, 2)).round(2)
    path.write_text("\n".join([*rows, *(f"{t}," + ",".join(map(str, row)) for t, row in enumerate(values))]))
    return path


def test_own_files_are_cleaned_in_pieces_like_the_whole(tmp_path, monkeypatch):
    from ethoray import cleaning, readers

    files = [write_track(tmp_path / f"m{i}.csv", 400 + 50 * i, i) for i in range(3)]
    labels = tmp_path / "m1_labels.csv"
    labels.write_text("start,stop,type\n5,8,rear\n30,33,rear\n")
    steps = cleaning.steps(min_confidence=0.3, interpolate=0.5, resample=5.0, mm_per_pixel=0.5)
    card, made = own(files, [labels], 10.0, "mine", cleaning=steps)
    assert (card.fps, card.unit, len(card.cleaning)) == (5.0, "mm", 4)
    whole = gather(made)
    inner = readers.pieces
    monkeypatch.setattr(readers, "pieces", lambda path, **how: inner(path, **how, frames=37))
    dataset = ingest(card, made, tmp_path / "mine", progress=False, clip_seconds=7.0)
    assert [e.frames for e in dataset.entries] == [200, 225, 250]
    for entry, expected in zip(dataset.entries, whole, strict=True):
        found = dataset.recording(entry)
        np.testing.assert_array_equal(found.keypoints, expected.keypoints)
        np.testing.assert_array_equal(found.labels["rear"], expected.labels["rear"])
    assert np.flatnonzero(whole[1].labels["rear"]).tolist() == [*range(25, 40), *range(150, 165)]
    assert any("below confidence 0.3 masked" in note for note in dataset.card.notes)


def test_a_file_that_changed_is_read_again_and_one_that_did_not_is_not(tmp_path, folder, monkeypatch):
    from ethoray import readers
    from ethoray.readers import own as owned

    monkeypatch.setattr(owned, "_PART_BYTES", 1)
    files = [write_track(tmp_path / f"m{i}.csv", 300, i) for i in range(3)]
    read, inner = [], readers.pieces

    def watched(path, **how):
        read.append(path.stem)
        if path.stem == "m2" and not (tmp_path / "mended").exists():
            raise readers.ReadError(f"{path}: torn")
        return inner(path, **how)

    monkeypatch.setattr(readers, "pieces", watched)
    for _ in range(2):
        with pytest.raises(readers.ReadError, match=r"^[^:]*m2.csv: torn\n"):
            ingest(*own(files, (), 10.0), folder, progress=False)
    assert read == ["m0", "m1", "m2", "m2"]
    (tmp_path / "mended").touch()
    write_track(files[1], 310, 9)
    assert len(ingest(*own(files, (), 10.0), folder, progress=False).entries) == 3
    assert read[4:] == ["m1", "m2"]


def test_a_file_cut_short_after_it_was_counted_is_an_error(tmp_path, folder):
    file = write_track(tmp_path / "m0.csv", 300, 0)
    card, made = own([file], (), 10.0)
    write_track(file, 200, 0)
    with pytest.raises(Exception, match=r"m0.csv: 200 frames were read, 300 were counted"):
        ingest(card, made, folder, progress=False)


@pytest.fixture(scope="module")
def cluster():
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    stream.start_ray(num_cpus=2, object_store_memory=200 << 20)
    yield
    ray.shutdown()


@pytest.mark.cluster
def test_two_processes_write_what_one_writes_and_leave_their_finished_parts(tmp_path, folder, cluster):
    diary = tmp_path / "diary"
    made = parts((0, 1), (2,), (3, 4), diary=str(diary))
    broken = [*made, Part("broken", partial(failing, str(tmp_path / "never")))]
    with pytest.raises(ZeroDivisionError, match="a bug"):
        short(broken, folder, workers=2)
    before = len(diary.read_text().split())
    two = short(made, folder, workers=2)
    assert len(diary.read_text().split()) - before <= 3, "the fourth part began when two were finished"
    alone = short(parts((0, 1), (2,), (3, 4)), tmp_path / "alone", workers=1)
    assert hashes(alone) == hashes(two) and alone.key == two.key and alone.card == two.card
    assert [e.name for e in two.entries] == [f"r{i}" for i in range(5)]
    wrong = [*parts((0,)), Part("odd", partial(one, replace(recording(9), fps=30.0)))]
    with pytest.raises(StoreError, match="odd: recording 'r9' has 30"):
        short(wrong, tmp_path / "wrong", workers=2)
