"""Quality counts against planted flaws and plain loops; pieces and merged parts against the whole; a safe page."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ethoray.quality import Quality, findings, motion
from ethoray.quality.page import page
from ethoray.schema import Card, Recording, SchemaError, Skeleton, Task

TASKS = (Task("sniff"), Task("run"), Task("state", "multiclass", classes=("a", "b", "c")),
         Task("strain", "binary", "recording"), Task("speed", "regression", metric="mse"))  # fmt: skip
SKELETON = Skeleton(("nose", "back", "tail"))


def recording(name="one", frames=120, seed=0, split="train", skeleton=SKELETON):
    rng = np.random.default_rng(seed)
    keypoints = rng.normal(0, 1, (frames, 2, 3, 2)).cumsum(0) + rng.uniform(50, 400, (2, 1, 2))
    keypoints = (keypoints + np.arange(3)[:, None] * 20).astype(np.float32)
    keypoints[rng.random((frames, 2, 3)) < 0.1] = np.nan
    keypoints[rng.random((frames, 2)) < 0.15] = np.nan
    labels = {
        "sniff": (rng.random(frames) < 0.3).astype(np.float32),
        "run": np.where(rng.random(frames) < 0.2, np.nan, rng.random(frames) < 0.5),
        "state": rng.integers(0, 3, frames), "strain": 1.0, "speed": rng.random(frames),
    }  # fmt: skip
    scores = rng.uniform(-0.01, 1, (frames, 2, 3)).astype(np.float32)
    return Recording(name, f"subject {name}", 30, skeleton, keypoints, scores, ("ann", "bob"), split, labels)


def part(whole, start, stop):
    labels = {k: v if np.ndim(v) == 0 else v[start:stop] for k, v in whole.labels.items()}
    scores = None if whole.confidence is None else whole.confidence[start:stop]
    return replace(whole, keypoints=whole.keypoints[start:stop], confidence=scores, labels=labels, start=start)


def counted(*recordings, image=(300, 300)):
    quality = Quality.start(SKELETON, 30, TASKS, image=image)
    for each in recordings:
        quality.add(each)
    return quality


def bare(keypoints, **changes):
    keypoints = np.asarray(keypoints, dtype=np.float32)
    skeleton = Skeleton(tuple("abcdef"[: keypoints.shape[2]]))
    return Recording("bare", "s", 30, skeleton, keypoints, **changes)


def herd(frames=60):
    """Two animals of three keypoints that stay apart and move a little."""
    t = np.arange(frames)[:, None, None, None] * 0.5
    shape = np.array([[0, 0], [10, 3], [20, 0]]) + np.array([[[50, 50]], [[50, 120]]])
    return (shape + t * np.array([1, 0])).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(cuts=st.sets(st.integers(1, 119), max_size=10))
def test_pieces_give_the_document_of_the_whole(cuts):
    whole, times = recording(), np.arange(120) / 30 + np.random.default_rng(1).normal(0, 0.002, 120)
    one, cut = counted(), counted()
    one.add(whole, times)
    borders = [0, *sorted(cuts), 120]
    for start, stop in itertools.pairwise(borders):
        cut.add(part(whole, start, stop), times[start:stop])
    assert one.document() == cut.document()


def test_merged_parts_give_the_document_of_all_and_json_keeps_it():
    recordings = [recording(str(n), 50 + n, n, "test" if n % 2 else "train") for n in range(5)]
    whole = counted(*recordings).document()
    merged = counted(*recordings[:2]).merge(counted(*recordings[2:]))
    assert merged.document() == whole
    read = Quality.from_document(json.loads(json.dumps(counted(*recordings[2:]).document())))
    assert counted(*recordings[:2]).merge(read).document() == whole


def test_missing_gaps_steps_and_confidence_are_those_of_plain_loops():
    whole = recording()
    found, lost = counted(whole).document(), np.isnan(whole.keypoints[..., 0])
    for i, name in enumerate(("ann", "bob")):
        gaps, longest, run = 0, 0, 0
        for gone in lost[:, i].all(1):
            run = run + 1 if gone else 0
            gaps, longest = gaps + (run == 1), max(longest, run)
        mine = found["individuals"][name]
        assert (mine["gaps"], mine["longest_gap"]) == (gaps, longest)
        assert mine["missing"] == lost[:, i].sum(0).tolist() and mine["absent"] == lost[:, i].all(1).sum()
    lengths = np.linalg.norm(np.diff(whole.keypoints.astype(float), axis=0), axis=-1)
    edges = motion.edges()
    for k in range(3):
        steps = lengths[:, :, k][~np.isnan(lengths[:, :, k])]
        expected = np.bincount(np.searchsorted(edges, steps, "right") - 1, minlength=motion.BINS)
        assert abs(findings.dense(found["steps"][k]) - expected).sum() <= 2  # a step at a bin's edge
        scores = whole.confidence[:, :, k]
        np.testing.assert_array_equal(found["confidence"][k], np.histogram(scores[scores >= 0], 20, (0, 1))[0])
    assert found["odd_confidence"] == (whole.confidence < 0).sum()
    assert found["recordings"]["one"]["longest_step"] == pytest.approx(np.nanmax(lengths))
    assert found["outside"] == ((whole.keypoints < 0) | (whole.keypoints > 300)).any(-1).sum()


def test_planted_jumps_are_counted_and_located():
    keypoints = herd()
    keypoints[30, 1, 2] += 400  # there and back
    found = Quality.of(bare(keypoints)).document()
    assert [n for n, _, _ in findings.jumps(found).values()] == [0, 0, 2]
    assert found["recordings"]["bare"]["jumped"] == [30, "c"]
    assert findings.body(found) == pytest.approx(20, rel=0.1)


@pytest.mark.parametrize("lost", [0, 5, 20])
def test_planted_exchanges_are_found_also_behind_short_gaps(lost):
    keypoints = herd()
    keypoints[30:] = keypoints[30:, ::-1]
    keypoints[30 - lost : 30] = np.nan
    found = Quality.of(bare(keypoints)).document()["recordings"]["bare"]
    expected = [[30, "individual_0", "individual_1"]] if lost < 15 else []  # half a second
    assert found["swapped"] == expected and found["swaps"] == len(expected)
    assert not motion.exchanges(herd(), 0, 15)


def test_labels_are_balanced_by_split_with_bouts_and_overlap():
    values = np.array([0, 1, 1, 0, np.nan, 1])
    one = replace(
        recording(frames=6), labels={"sniff": values, "run": np.ones(6), "strain": 1.0, "state": [0, 0, 1, 1, 0, 0]}
    )
    found = counted(one, replace(one, name="two", split="test", labels={})).document()
    mine = found["labels"]["train"]
    assert mine["sniff"] == {"unlabelled": 1, "bouts": 2, "values": [2, 3], "low": 0.0, "high": 1.0}
    assert mine["state"]["values"] == [4, 2, 0] and mine["state"]["bouts"] == 3
    assert mine["strain"]["values"] == [0, 1] and found["overlap"] == {"train": [0, 3, 3], "test": [6]}
    assert found["labels"]["test"]["sniff"]["unlabelled"] == 6
    said = findings.warnings(found)
    assert "run is always positive in train" in said and "state has no c in train" in said
    assert "sniff has no label in test" in said and any("fewer than 20" in text for text in said)


def test_clocks_that_drift_and_drop_frames_are_noticed():
    times = np.arange(121) / 25.0
    times = np.delete(times, 60)
    quality = counted()
    quality.add(recording(), times)
    found = quality.document()
    clock = found["recordings"]["one"]["clock"]
    assert clock["count"] == 120 and clock["dropped"] == 1 and clock["backwards"] == 0
    assert clock["longest"] == pytest.approx(2.4) and findings.interval(found) == pytest.approx(1.2)
    assert "timestamps say 25 frames per second, the card says 30" in findings.warnings(found)
    with pytest.raises(SchemaError, match="timestamps are 120 finite"):
        counted().add(recording(), times[:5])


def test_copies_lost_and_still_animals_and_single_frames_are_named():
    one = recording("one", 400)
    still = one.keypoints.copy()
    still[:, 0], still[:, 1, 2] = np.nan, 7
    others = [replace(one, name="copy", split="test"), replace(part(one, 0, 350), name="head"),
              replace(one, name="still", keypoints=still), recording("short", 1, 4)]  # fmt: skip
    found = counted(one, *others).document()
    assert findings.twins(found) == [["copy", "one"]]
    said = "\n".join(findings.warnings(found))
    assert "copy, one are the same recording, on both sides of the split (test, train)" in said
    assert "copy, head, one begin with the same frames" in said and "short have one frame" in said
    assert "ann in still" in said and "never moving: tail of bob in still" in said
    assert len(findings.lines(found)) <= 12


def test_pieces_out_of_order_and_strangers_are_refused():
    quality = counted(part(recording(), 0, 60))
    with pytest.raises(SchemaError, match=r"from frame 50 cannot follow one of 2 up to frame 60"):
        quality.add(part(recording(), 50, 120))
    quality.add(recording("two"))
    with pytest.raises(SchemaError, match="'one' comes twice"):
        quality.add(recording("one"))
    with pytest.raises(SchemaError, match="'two' comes twice"):
        quality.merge(counted(recording("two")))
    with pytest.raises(SchemaError, match="keypoints are not those"):
        quality.add(bare(herd()))
    with pytest.raises(SchemaError, match="unit is 'pixel' and 'mm'"):
        quality.merge(Quality.start(SKELETON, 30, TASKS, "mm", (300, 300)))


def test_video_without_keypoints_is_counted():
    images = np.random.default_rng(0).integers(0, 255, (20, 8, 8, 1), dtype=np.uint8)
    video = bare(np.zeros((20, 1, 0, 2)), images=images)
    found = Quality.of(video).document()
    assert found["recordings"]["bare"]["frames"] == 20 and not findings.warnings(found)
    assert "<h1>" in page("video", Card("video", "mouse", 30, Skeleton(())), found)


def test_the_page_is_one_safe_file():
    bad = "<script>alert(1)<" + "\u200bscript> $x_{$"
    skeleton, task = Skeleton((bad, "b", "c")), Task(bad)
    one = replace(recording(bad, skeleton=skeleton), labels={bad: np.arange(120) % 2}, individuals=(bad, "ann"))
    card = Card("d", bad, 30, skeleton, (task,), cleaning=(bad,), notes=(bad,))
    quality = Quality.start(skeleton, 30, (task,), unit=bad)
    quality.add(one)
    quality.add(replace(one, name="two", split=bad.strip()))
    text = page(bad, card, quality.document())
    assert "<script" not in text and "http://" not in text and "https://" not in text
    assert text.count("data:image/svg+xml;base64,") == 5 and "are the same recording" in text
