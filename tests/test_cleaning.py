"""Every cleaning step against plain loops and SciPy, and any cut into pieces against the whole, bit for bit."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import savgol_filter

from ethoray import cleaning
from ethoray.cleaning import (
    CleaningError,
    Confidence,
    Interpolate,
    Outliers,
    Resample,
    Scale,
    Smooth,
    clean,
    filters,
    steps,
)
from ethoray.readers.contents import Tracks, added, joined

NAN = float("nan")


def tracks(frames=200, animals=2, points=3, space=2, seed=0, missing=0.15, confidence=True):
    rng = np.random.default_rng(seed)
    keypoints = rng.normal(0, 1, (frames, animals, points, space)).cumsum(0).astype(np.float32) + np.float32(100)
    keypoints += (np.arange(points) * 20).astype(np.float32)[:, None]
    lost = rng.random((frames, animals, points)) < missing
    lost |= np.roll(lost, 1, 0) & (rng.random(lost.shape) < 0.6)
    keypoints[rng.random(lost.shape) < 0.02] += 300
    keypoints[lost] = np.nan
    scores = rng.random((frames, animals, points)).astype(np.float32) if confidence else None
    return Tracks(keypoints, scores, ("a", "b")[:animals], tuple("xyz")[:points], ("read",), 30.0)


def line(*values):
    """One keypoint of one animal that moves along x."""
    keypoints = np.array(values, dtype=np.float32)[:, None, None, None].repeat(2, -1)
    return Tracks(keypoints, None, ("a",), ("x",))


def pieces(whole, cuts):
    borders = [0, *sorted(cuts), len(whole.keypoints)]
    for place, (start, stop) in enumerate(itertools.pairwise(borders)):
        scores = None if whole.confidence is None else whole.confidence[start:stop]
        notes = whole.notes if place == 0 else ()
        yield Tracks(whole.keypoints[start:stop], scores, whole.individuals, whole.names, notes, whole.fps)


def cleaned(whole, *wanted, fps=30.0, cuts=()):
    return joined("test", clean(pieces(whole, cuts), wanted, fps))


def x(result):
    return result.keypoints[:, 0, 0, 0]


ALL = (
    Confidence(0.1), Outliers(4.0, 0.4), Interpolate(0.2), Smooth(0.3, 2), Resample(12.5), Scale(0.25),
)  # fmt: skip
CHAINS = [(step,) for step in ALL] + [
    ALL,
    (Resample(50.0),),
    (Resample(29.97), Smooth(0.5)),
    (Resample(7.0), Scale(2.0)),
]


@pytest.mark.parametrize("chain", CHAINS, ids=lambda c: "+".join(type(s).__name__ for s in c))
@settings(max_examples=12, deadline=None)
@given(cuts=st.sets(st.integers(0, 90), max_size=12), frames=st.integers(1, 90), seed=st.integers(0, 3))
def test_any_cut_into_pieces_gives_the_bits_of_the_whole(chain, cuts, frames, seed):
    whole = tracks(frames, seed=seed)
    one = joined("test", clean([whole], chain, 30.0))
    cut = joined("test", clean(pieces(whole, {min(c, frames) for c in cuts}), chain, 30.0))
    assert one.keypoints.tobytes() == cut.keypoints.tobytes() and one.keypoints.dtype == np.float32
    assert one.confidence.tobytes() == cut.confidence.tobytes()
    assert one.notes == cut.notes and one.fps == cut.fps


def test_long_recordings_in_small_and_large_pieces_have_the_bits_of_the_whole():
    whole = tracks(6000, missing=0.05)
    one = cleaned(whole, *ALL)
    assert one.keypoints.tobytes() == cleaned(whole, *ALL, cuts=range(137, 6000, 137)).keypoints.tobytes()
    assert one.keypoints.tobytes() == cleaned(whole, *ALL, cuts=(1, 2, 5900)).keypoints.tobytes()


def test_what_waits_in_memory_does_not_grow_with_the_recording():
    waiting, longest = 0, 0

    def source():
        nonlocal waiting, longest
        for seed in range(100):
            waiting += 50
            longest = max(longest, waiting)
            yield tracks(50, seed=seed)

    for piece in clean(source(), ALL[:4], 30.0):
        waiting -= len(piece.keypoints)
    assert waiting == 0 and longest <= 50 + 3 * cleaning.reach(ALL[:4], 30.0)


def test_confidence_masks_and_counts():
    whole = tracks(50)
    result = cleaned(whole, Confidence(0.5))
    expected = np.where((whole.confidence < 0.5)[..., None], np.nan, whole.keypoints)
    np.testing.assert_array_equal(result.keypoints, expected)
    masked = int((np.isnan(expected) & ~np.isnan(whole.keypoints))[..., 0].sum())
    assert result.notes == ("read", f"{masked} of 300 keypoints below confidence 0.5 masked")


def test_confidence_without_confidence_says_that_nothing_was_masked():
    result = cleaned(tracks(50, confidence=False), Confidence(0.5), cuts=(10, 30))
    assert result.notes == ("read", "no confidence in the file, so --min-confidence 0.5 masked nothing")


def test_gaps_are_filled_up_to_the_seconds_and_not_at_the_ends():
    whole = line(NAN, 0, NAN, NAN, 6, NAN, NAN, NAN, 10, NAN)
    result = cleaned(whole, Interpolate(0.2), fps=10)
    np.testing.assert_array_equal(x(result), [NAN, 0, 2, 4, 6, NAN, NAN, NAN, 10, NAN])
    assert result.notes == ("2 of 7 missing keypoints filled over gaps up to 0.2 s",)


@pytest.mark.parametrize("order", [0, 2, 3])
def test_smoothing_is_scipys_within_every_seen_stretch(order):
    whole = tracks(300, missing=0.02)
    result = cleaned(whole, Smooth(0.25, order), fps=30).keypoints  # seven frames
    for animal, point, axis in itertools.product(range(2), range(3), range(2)):
        track, mine = whole.keypoints[:, animal, point, axis], result[:, animal, point, axis]
        expected = track.copy()
        for there, run in itertools.groupby(range(300), key=lambda t, track=track: not np.isnan(track[t])):
            run = list(run)
            if there and len(run) >= 7:
                expected[run] = savgol_filter(track[run].astype(float), 7, order)
        np.testing.assert_allclose(mine, expected, rtol=2e-5, equal_nan=True)


def test_smoothing_leaves_polynomials_of_its_order_alone():
    t = np.arange(40, dtype=np.float64)
    whole = line(*(5 + 2 * t - 0.1 * t**2 + 0.001 * t**3))
    np.testing.assert_allclose(x(cleaned(whole, Smooth(0.5, 3))), x(whole), rtol=1e-5)


def hampel(whole, half, times):
    """The documented rule, frame by frame."""
    keypoints = whole.keypoints.astype(np.float64)
    frames, animals, points, _ = keypoints.shape
    found = np.zeros((frames, animals, points), dtype=bool)
    for t, i, k in np.ndindex(found.shape):
        window = slice(max(0, t - half), t + half + 1)
        here = keypoints[window, i, k]
        here = here[~np.isnan(here).any(-1)]
        if np.isnan(keypoints[t, i, k, 0]) or len(here) < 3:
            continue
        boxes = []
        for s in range(max(0, t - half), min(frames, t + half + 1)):
            body = keypoints[s, i][~np.isnan(keypoints[s, i]).any(-1)]
            boxes += [np.hypot(*(body.max(0) - body.min(0)))] if len(body) else []
        centre = np.median(here, 0)
        spread = 1.4826 * np.median(np.hypot(*(here - centre).T))
        least = 0.01 * np.median(boxes) if len(boxes) >= 3 else 0
        found[t, i, k] = np.hypot(*(keypoints[t, i, k] - centre)) > times * max(spread, least)
    return found


def test_outliers_are_those_of_the_rule_frame_by_frame():
    whole = tracks(150, missing=0.3)
    expected = hampel(whole, 6, 4.0)
    assert 5 < expected.sum() < 100
    np.testing.assert_array_equal(filters.outliers(whole.keypoints, 6, 4.0), expected)


def test_outliers_keep_a_dart_and_lose_an_excursion():
    still = [50.0] * 20
    dart = line(*still, 90, 170, 240, *[260.0] * 20)
    assert not np.isnan(cleaned(dart, Outliers(5)).keypoints).any()
    excursion = line(*still, 250, 250, *still)
    assert np.flatnonzero(np.isnan(x(cleaned(excursion, Outliers(5))))).tolist() == [20, 21]


def test_resampling_up_is_linear_interpolation_and_nothing_drifts():
    whole = line(*range(0, 100, 2))
    result = cleaned(whole, Resample(60), fps=30)
    assert result.fps == 60 and len(result.keypoints) == 99
    np.testing.assert_allclose(x(result), np.arange(99))
    day = Resample(29.97).ratio(30.0)
    assert filters.length(30 * 86400, day) == 29.97 * 86400  # 24 h


def test_resampling_down_averages_what_would_alias():
    fast = line(*np.tile([0.0, 10.0], 100))
    slow = x(cleaned(fast, Resample(15), fps=30))
    assert len(slow) == 100
    np.testing.assert_allclose(slow[1:-1], 5)
    np.testing.assert_allclose(x(cleaned(line(*range(200)), Resample(15), fps=30))[1:-1], np.arange(2, 198, 2))


def test_resampling_keeps_gaps_where_the_nearest_frame_is_missing():
    result = cleaned(line(0, 1, NAN, 3, 4, 5, 6), Resample(5), fps=10)
    np.testing.assert_array_equal(np.isnan(x(result)), [False, True, False, False])


def test_labels_go_along_as_those_of_the_nearest_frame():
    for before, after, frames in ((30, 25, 100), (25, 30, 77), (30, 29.97, 5000), (100, 100, 9)):
        places = cleaning.places(frames, (Scale(2), Resample(after)), before)
        expected = np.arange(len(places)) * before / after
        assert np.abs(places - expected).max() <= 0.5 + 1e-6 and places.max() < frames
        assert len(places) == len(cleaned(tracks(frames), Resample(after), fps=before).keypoints)
        np.testing.assert_array_equal(cleaning.places(frames, (Resample(after),), before, 3, 7), places[3:7])
    np.testing.assert_array_equal(cleaning.places(5, (), 30), range(5))


def test_millimetres():
    whole = tracks(20)
    np.testing.assert_allclose(cleaned(whole, Scale(0.5)).keypoints, whole.keypoints / 2)
    assert cleaning.unit("pixel", (Scale(0.5),)) == "mm" and cleaning.unit("pixel", ()) == "pixel"
    assert cleaning.rate(30, (Resample(25), Scale(1))) == 25


def test_nothing_is_cleaned_that_was_not_asked_for():
    whole = tracks(30)
    assert steps() == steps(min_confidence=0, interpolate=0, smooth=0) == ()
    result = cleaned(whole, cuts=(3, 9))
    assert result.keypoints.tobytes() == whole.keypoints.tobytes() and result.notes == whole.notes


def test_steps_come_in_the_order_that_makes_sense_and_describe_themselves():
    wanted = steps(min_confidence=0.6, outliers=5, interpolate=0.1, smooth=0.2, resample=25, mm_per_pixel=0.5)
    assert wanted == (Confidence(0.6), Outliers(5), Interpolate(0.1), Smooth(0.2, 3), Resample(25), Scale(0.5))
    numbers = ("0.6", "5 robust", "0.1 s", "0.2 s", "25 frames per second", "0.5 mm a pixel")
    assert all(number in step.describe() for number, step in zip(numbers, wanted, strict=True))


@pytest.mark.parametrize(
    ("option", "value"),
    [("min_confidence", 1.5), ("min_confidence", -0.1), ("outliers", 0), ("outliers", NAN), ("interpolate", -1),
     ("smooth", NAN), ("smooth_order", -1), ("resample", 0), ("mm_per_pixel", -2), ("mm_per_pixel", float("inf"))],
)  # fmt: skip
def test_values_that_make_no_sense_are_refused_by_name(option, value):
    with pytest.raises(CleaningError, match="--" + option.replace("_", "-")):
        steps(**{option: value})


def test_times_that_are_too_short_for_the_frame_rate_are_refused_before_anything_is_read():
    with pytest.raises(CleaningError, match=r"--interpolate 0\.01 s is less than a frame at 30 fps"):
        clean(iter(()), (Interpolate(0.01),), 30)
    with pytest.raises(CleaningError, match=r"--smooth 0\.1 s is 3 frames at 30 fps.*order 3 \(--smooth-order\)"):
        clean(iter(()), (Smooth(0.1),), 30)


def test_notes_of_pieces_add_up():
    whole = tracks(100)
    found = [piece.notes for piece in clean(pieces(whole, (20, 40)), ALL, 30.0)]
    assert added(note for notes in found for note in notes) == cleaned(whole, *ALL).notes
