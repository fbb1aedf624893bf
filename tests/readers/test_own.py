from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ethoray import store
from ethoray.ingest import ingest
from ethoray.parts import gather
from ethoray.readers import ReadError
from ethoray.readers import own as owned
from ethoray.readers.matching import match
from ethoray.readers.splits import assign

DATA = Path("../shared/data")


def own(*given, **options):
    """The card and the recordings in memory."""
    card, parts = owned.own(*given, **options)
    return card, gather(parts)


def pose(folder, name="m1", seconds=60, points=("nose", "tail_base"), fps=10, seed=0, missing=None):
    rng = np.random.default_rng(seed)
    frames = seconds * fps
    values = rng.normal(100, 20, size=(frames, 2 * len(points))).round(2).astype(str)
    if missing is not None:
        values[:, 2 * missing : 2 * missing + 2] = ""
    names = ",".join(p for p in points for _ in "xy")
    rows = [f"{t}," + ",".join(row) for t, row in enumerate(values)]
    path = folder / f"{name}DLC_net.csv"
    path.write_text("\n".join(["scorer" + ",n" * 2 * len(points), f"bodyparts,{names}",
                               "coords" + ",x,y" * len(points), *rows]))  # fmt: skip
    return path


def bouts(folder, name="m1_labels", rows=((5, 8, "rear"), (30, 33, "rear"))):
    path = folder / f"{name}.csv"
    path.write_text("start,stop,type\n" + "".join(f"{a},{b},{c}\n" for a, b, c in rows))
    return path


def test_one_recording_is_cut_in_blocks_and_nothing_is_lost(tmp_path):
    file = pose(tmp_path)
    card, recordings = own([file], [bouts(tmp_path)], 10, "mine")
    _, again = own([file], [bouts(tmp_path)], 10, "mine")
    assert card.split_rule.startswith("contiguous blocks of 11.2 s with a gap of 1 s: one recording")
    assert sum(r.frames for r in recordings) == 600
    assert [r.split for r in recordings[1::2]] == ["gap"] * 4 and all(r.frames == 10 for r in recordings[1::2])
    assert {r.split for r in recordings[::2]} == {"train", "test"}
    assert [(r.name, r.split) for r in again] == [(r.name, r.split) for r in recordings]
    assert len({r.name for r in recordings}) == 9 and recordings[0].name == "m1@000.00-011.20s"
    whole = np.concatenate([r.labels["rear"] for r in recordings])
    assert np.flatnonzero(whole).tolist() == [*range(50, 80), *range(300, 330)]
    for side in ("train", "test"):
        assert any((r.labels["rear"] == 1).any() for r in recordings if r.split == side)
    assert len(store.prepare(card, recordings, tmp_path / "mine").entries) == 9


def test_three_animals_are_split_by_subject(tmp_path):
    files = [pose(tmp_path, f"m{i}", seed=i) for i in range(4)]
    labels = [bouts(tmp_path, f"m{i}_labels") for i in (0, 2, 3)]
    card, recordings = own(files, labels, 10, "mine", test=0.5)
    assert (
        card.split_rule.startswith("by subject") and sorted(r.split for r in recordings) == ["test"] * 2 + ["train"] * 2
    )
    assert np.isnan(recordings[1].labels["rear"]).all() and "m1: unlabelled" in card.notes
    store.prepare(card, recordings, tmp_path / "mine")


def test_two_recordings_of_one_animal_never_stand_on_two_sides(tmp_path):
    files = [pose(tmp_path, f"m{i}", seed=i) for i in range(4)]
    _, recordings = own(files, (), 10, "mine", subjects=("a", "a", "b", "b"))
    assert len({(r.subject, r.split) for r in recordings}) == 2
    card, recordings = own(files, (), 10, "mine", subjects=("a",) * 4)
    assert "4 recordings, so scores are within-recording" in card.split_rule and len(recordings) == 4 * 9


def test_the_body_axis_is_guessed_and_can_be_told(tmp_path):
    card, _ = own([pose(tmp_path, points=("Left Ear", "Snout", "Tail_Base"))], (), 10)
    assert (card.skeleton.front, card.skeleton.back) == ("Snout", "Tail_Base")
    card, _ = own([pose(tmp_path, points=("a", "b"))], (), 10)
    assert card.skeleton.front is None and any("no body axis" in n for n in card.notes)
    card, _ = own([pose(tmp_path, points=("a", "b"))], (), 10, front="b", back="a")
    assert (card.skeleton.front, card.skeleton.back) == ("b", "a")
    with pytest.raises(ReadError, match="name the back too"):
        own([pose(tmp_path, points=("a", "b"))], (), 10, front="b")
    with pytest.raises(ReadError, match="no keypoint 'snot' for the body axis; did you mean 'snout'"):
        own([pose(tmp_path, points=("snout", "b"))], (), 10, front="snot", back="b")


def test_a_keypoint_that_one_file_lacks_is_named_with_the_fix(tmp_path):
    files = [pose(tmp_path, "m1"), pose(tmp_path, "m2", points=("nose", "ear", "tail_base"))]
    with pytest.raises(ReadError, match=r"m1DLC_net.csv: no keypoint 'ear'.*--ignore 'ear'"):
        own(files, (), 10)
    assert own(files, (), 10, ignore=("ear",))[0].skeleton.keypoints == ("nose", "tail_base")


def test_the_frame_rate_comes_from_somewhere_and_only_one(tmp_path):
    file = pose(tmp_path)
    with pytest.raises(ReadError, match="frame rate is in none of the files"):
        own([file], [bouts(tmp_path)])
    labels = tmp_path / "m1_boris.csv"
    labels.write_text("Time,FPS,Subject,Behavior,Status\n1,10.0,a,rear,START\n2,10.0,a,rear,STOP\n")
    assert own([file], [labels])[0].fps == 10
    with pytest.raises(ReadError, match="the one given is 25, the labels of m1 say 10"):
        own([file], [labels], 25)


def test_labels_longer_than_the_track_are_an_error_or_a_counted_cut(tmp_path):
    file, labels = pose(tmp_path), bouts(tmp_path, rows=((5, 8, "rear"), (58, 75, "rear")))
    with pytest.raises(ReadError, match=r"the labels last 75\.0 s, the track 60\.0 s"):
        own([file], [labels], 10)
    card, recordings = own([file], [labels], 10, labels_beyond="cut")
    assert "m1: labels cut at the track's end, 15.0 s of them lost" in card.notes
    assert sum(int(r.labels["rear"].sum()) for r in recordings) == 50


def test_an_individual_that_is_never_seen_is_kept_and_counted(tmp_path):
    file = tmp_path / "m1.csv"
    rows = [f"{t},{t},1,," for t in range(300)]
    file.write_text("\n".join(["scorer,n,n,n,n", "individuals,a,a,b,b", "bodyparts,p,p,p,p", "coords,x,y,x,y", *rows]))
    card, parts = owned.own([file], (), 10)
    recordings = gather(parts)
    assert recordings[0].individuals == ("a", "b") and np.isnan(recordings[0].keypoints[:, 1]).all()
    dataset = ingest(card, parts, tmp_path / "mine", progress=False)
    assert "m1: individual 'b' has no position in any frame; kept, masked" in dataset.card.notes


def test_a_behaviour_that_cannot_be_a_task_is_named_with_the_fix(tmp_path):
    labels = bouts(tmp_path, rows=((5, 8, "rear"), (1, 2, "Start/End")))
    with pytest.raises(ReadError, match="--ignore-behaviours 'Start/End'"):
        own([pose(tmp_path)], [labels], 10)
    assert [t.name for t in own([pose(tmp_path)], [labels], 10, ignore_behaviours=("start/end",))[0].tasks] == ["rear"]


def test_a_task_without_positives_on_a_side_is_noted(tmp_path):
    card, _ = own([pose(tmp_path)], [bouts(tmp_path, rows=((5, 8, "rear"),))], 10)
    assert any(n.startswith("rear: ") and n.endswith("cannot be scored") for n in card.notes)


@pytest.mark.parametrize("arguments", [{"gap": 20.0}, {"blocks": 100}, {"blocks": 1}])
def test_a_recording_too_short_for_its_blocks_is_an_error(tmp_path, arguments):
    with pytest.raises(ReadError, match=r"recording 'm1': 60\.0 s do not give"):
        own([pose(tmp_path)], (), 10, **{"blocks": 5} | arguments)


def test_labels_find_their_poses_by_name(tmp_path):
    poses = [tmp_path / f"m{i}DLC_net.csv" for i in (1, 10)]
    labels = [bouts(tmp_path, "m10_rater"), bouts(tmp_path, "m1_rater")]
    assert match(labels, poses) == {poses[1]: labels[0], poses[0]: labels[1]}
    both = tmp_path / "all.csv"
    both.write_text("start,stop,type,video\n1,2,rear,m1.mp4\n1,2,rear,m10.mp4\n")
    assert match([both], poses) == {poses[0]: both, poses[1]: both}
    assert match([bouts(tmp_path, "anything")], poses[:1]) == {poses[0]: tmp_path / "anything.csv"}


@pytest.mark.parametrize(
    ("labels", "poses", "message"),
    [
        (["m3_x"], ["m1", "m2"], "m3_x.csv belongs to none of the pose files"),
        (["day_x"], ["day_a", "day_b"], "day_x.csv could belong to day_a.csv or day_b.csv"),
        (["m1_a", "m1_b"], ["m1"], "m1_a.csv and .*m1_b.csv both label m1.csv"),
    ],
)
def test_labels_that_could_be_anybodys_are_an_error(tmp_path, labels, poses, message):
    with pytest.raises(ReadError, match=message):
        match([bouts(tmp_path, name) for name in labels], [tmp_path / f"{p}.csv" for p in poses])


def test_two_files_of_one_name_are_an_error(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    with pytest.raises(ReadError, match="would both be recording 'm1'"):
        own([pose(tmp_path / "a"), pose(tmp_path / "b")], (), 10)


@given(st.integers(2, 30), st.floats(0.05, 0.95), st.integers(0, 5))
def test_both_sides_are_filled_for_any_fraction(groups, test, seed):
    counts = np.random.default_rng(seed).integers(0, 9, size=(groups, 3, 2))
    sides = assign(counts, test, seed)
    assert 1 <= sides.sum() <= groups - 1 and abs(sides.sum() - test * groups) <= 1
    np.testing.assert_array_equal(sides, assign(counts, test, seed))


@pytest.mark.skipif(not DATA.is_dir(), reason="recordings are not here")
@pytest.mark.parametrize(
    ("poses", "labels", "arguments", "tasks"),
    [
        ("mouse_pair_ethome/*.csv", "mouse_pair_ethome/boris/*122332*.csv", {}, {"interact"}),
        (
            "mouse_freezing_behaviordepot/demo1/*.csv",
            "mouse_freezing_behaviordepot/demo1/hB_*.mat",
            {"fps": 50},
            {"Freezing"},
        ),
        ("mouse_freezing_behaviordepot/demo6/*.csv", "nothing", {"fps": 50}, set()),
        (
            "mouse_oft_rearing/*DeepCut*.csv",
            "mouse_oft_rearing/*labels*.csv",
            {
                "fps": 25,
                "ignore": ("tl", "tr", "bl", "br", "centre"),
                "ignore_behaviours": ("Start/End", "StartEnd", "Grooming"),
                "labels_beyond": "cut",
            },
            {"Supported", "Unsupported"},
        ),
    ],
)
def test_real_recordings_become_a_dataset_with_positives_on_both_sides(tmp_path, poses, labels, arguments, tasks):
    card, recordings = own(sorted(DATA.glob(poses)), sorted(DATA.glob(labels)), name="real", **arguments)
    assert {t.name for t in card.tasks} == tasks and card.skeleton.front
    assert not any("cannot be scored" in note for note in card.notes)
    dataset = store.prepare(card, recordings, tmp_path / "real")
    assert set(dataset.splits) == {"train", "test", "gap"}
