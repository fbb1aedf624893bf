"""Pairs of images: which frames meet, which never do, and what it costs to say so."""

import itertools
import sys
from collections import Counter

import numpy as np
import pytest

from ethoray.schema import SchemaError
from ethoray.stream.pairs import Pairs

TRIPLETS = [[(start, 3) for start in range(10, 10 + 50 * 20, 20)], [(start, 3) for start in range(0, 30 * 9, 9)]]
"""Anchors and their neighbours of two recordings: 50 and 30 of them."""
RUNS = [[(0, 16), (16, 16), (40, 5)], [(3, 1), (9, 2)], [(0, 31)]]
"""Two clips of one stretch, a gap, an image alone, two neighbours, one clip."""


def frames(clips):
    """Of every stored image of each recording the number of its frame."""
    return [[start + k for start, count in recording for k in range(count)] for recording in clips]


def epoch(pairs, number=0):
    first = number * pairs.steps_per_epoch
    return np.concatenate([pairs.rows(step) for step in range(first, first + pairs.steps_per_epoch)])


@pytest.mark.parametrize("clips", [TRIPLETS, RUNS])
@pytest.mark.parametrize("window", [1, 2, 5])
@pytest.mark.parametrize("pool", [1, 7, 4096])
def test_no_image_comes_twice_in_an_epoch_and_partners_are_near(clips, window, pool):
    pairs, place = Pairs(clips, 4, 0, window=window, pool=pool), frames(clips)
    for number in range(4):
        rows = epoch(pairs, number)
        used = [(recording, image) for recording, *images in rows.tolist() for image in images]
        assert len(set(used)) == len(used) == 2 * len(rows) == 8 * pairs.steps_per_epoch
        for recording, first, second in rows.tolist():
            here = place[recording]
            assert 1 <= abs(here[first] - here[second]) <= window
            low, high = sorted((first, second))
            assert here[high] - here[low] == high - low, "a gap lies between them"


def test_batch_n_is_a_function_of_seed_and_n():
    pairs, again = Pairs(TRIPLETS, 8, 3), Pairs(TRIPLETS, 8, 3)
    late = [again.rows(step) for step in (29, 3, 11)]
    assert all(np.array_equal(a, pairs.rows(step)) for a, step in zip(late, (29, 3, 11), strict=True))
    assert not np.array_equal(pairs.rows(3), Pairs(TRIPLETS, 8, 4).rows(3))
    assert not np.array_equal(epoch(pairs, 0), epoch(pairs, 1))


def test_an_epoch_of_triplets_visits_every_one_of_them():
    pairs = Pairs(TRIPLETS, 8, 0)
    rows = epoch(pairs)
    assert pairs.steps_per_epoch == 10
    assert {(r, min(a, b) // 3) for r, a, b in rows.tolist()} == {(0, k) for k in range(50)} | {
        (1, k) for k in range(30)
    }


def test_the_partner_is_drawn_uniformly_among_those_within_the_window():
    pairs = Pairs([[(0, 40)]], 1, 0, window=2)
    apart = Counter()
    for number in range(400):
        for _, first, second in pairs.rows(number * pairs.steps_per_epoch).tolist():  # the first pair: all are free
            if 2 <= first < 38:
                apart[second - first] += 1
    total = sum(apart.values())
    assert set(apart) == {-2, -1, 1, 2}
    assert all(abs(count / total - 0.25) < 0.08 for count in apart.values())


def test_batches_mix_recordings():
    rows = Pairs(TRIPLETS, 16, 0).rows(0)
    assert len(set(rows[:, 0])) == 2 and len({(r, first // 3) for r, first, _ in rows.tolist()}) == 16


def smallest_walk(length, window):
    """The fewest pairs that any walk over so many consecutive images can end with, by trying all sets of pairs."""
    edges = [(a, b) for a, b in itertools.combinations(range(length), 2) if b - a <= window]
    best = length
    stack = [((), frozenset())]
    while stack:
        chosen, taken = stack.pop()
        free = [edge for edge in edges if not taken & set(edge)]
        if not free:
            best = min(best, len(chosen))
        stack += [((*chosen, e), taken | set(e)) for e in free if not chosen or e > chosen[-1]]
        if free and all(chosen and e < chosen[-1] for e in free):
            continue  # reached in another order
    return best


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("window", [1, 2, 3])
def test_the_number_of_batches_is_what_any_walk_can_fill(length, window):
    least = Pairs([[(0, length), (100, 50)]], 1, 0, window=window).steps_per_epoch
    least -= Pairs([[(100, 50)]], 1, 0, window=window).steps_per_epoch
    assert least <= smallest_walk(length, window)
    if window == 1:
        assert least == smallest_walk(length, 1), "and no smaller"


def test_any_two_images_of_a_recording_may_be_a_pair():
    pairs, spans = Pairs(RUNS, 3, 0, pairs="video"), []
    for number in range(20):
        rows = epoch(pairs, number)
        used = [(recording, image) for recording, *images in rows.tolist() for image in images]
        assert len(set(used)) == len(used)
        spans += [abs(a - b) for recording, a, b in rows.tolist() if recording == 2]
    assert max(spans) > 24 and np.mean(spans) == pytest.approx(32 / 3, abs=1.5)  # two of 31 are so far apart
    assert {row[0] for row in epoch(pairs).tolist()} == {0, 1, 2}


def test_pairs_of_a_batch_come_from_clips_that_are_read_together():
    clips = [[(start, 10) for start in range(0, 2000, 10)] for _ in range(5)]
    pairs = Pairs(clips, 8, 0, pairs="video", pool=100)
    held, reads = [], 0
    for step in range(pairs.steps_per_epoch):
        for recording, *images in pairs.rows(step).tolist():
            for clip in {(recording, image // 10) for image in images}:
                reads += clip not in held
                held = [*[other for other in held if other != clip][-29:], clip]
    assert reads < 1.5 * 1000, "with room for three pools of ten clips, each of a thousand is read about once"


def test_single_images_come_once_each():
    pairs = Pairs(RUNS, 5, 0, pairs="none")
    assert pairs.columns == ("recording", "first") and pairs.steps_per_epoch == (37 + 3 + 31) // 5
    rows = epoch(pairs)
    assert rows.shape == (70, 2) and len({tuple(row) for row in rows.tolist()}) == 70


def lines(count):
    """Lines of ``_near`` that drawing an epoch of so many images runs."""
    pairs, ran = Pairs([[(0, count)]], 8, 0, pool=256), 0

    def within(frame, event, _):
        nonlocal ran
        ran += event == "line"
        return within

    before = sys.gettrace()
    sys.settrace(lambda frame, *_: within if frame.f_code.co_name == "_near" else None)
    try:
        pairs.rows(0)
    finally:
        sys.settrace(before)
    return ran


def test_the_work_of_an_epoch_is_in_proportion_to_its_images():
    small, large = lines(1000), lines(8000)
    assert 6.5 < large / small < 9.5 and large < 8 * 8000


@pytest.mark.parametrize(
    ("clips", "how", "words"),
    [
        ([[(0, 1), (5, 1)]], {}, 'write frames with a context, or use pairs="none"'),
        ([[(0, 9)]], {}, "gives only 3, none of which may come twice; use a batch_size of at most 3"),
        ([[(0, 1)], [(0, 1)]], {"pairs": "video"}, "pairs of images and an epoch of these 2 images gives only 0"),
        ([[(0, 3)]], {"pairs": "none"}, "a batch holds 4 images and an epoch of these 3 images gives only 3"),
        ([[]], {}, "no images"),
    ],
)
def test_a_batch_that_an_epoch_cannot_fill_is_refused(clips, how, words):
    with pytest.raises(SchemaError, match=words):
        Pairs(clips, 4, 0, **how)
