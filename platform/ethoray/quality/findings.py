"""What the counts of a quality document say: sentences for the card, and warnings to look into before training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from ethoray.quality import motion, timing

Document = Mapping[str, Any]

MISSING = 0.2
"""A keypoint or an animal that is missing more often is warned of."""
UNSURE, UNSURE_SHARE = 0.5, 0.2
"""A keypoint of which more than a fifth lies below this confidence is warned of."""
JUMP_STEPS, JUMP_BODY = 5.0, 0.5
"""A jump is longer than five times nine tenths of a keypoint's steps, and than half a body."""
JUMPS = 1e-3
"""More jumps a step are warned of: one in a thousand."""
DRIFT = 0.01
"""A median interval that differs more from the stated frame rate is warned of."""
RARE = 20
"""Positive bouts (or recordings) below which a score in a split says little."""
SHOWN = 5
"""Names listed in one warning."""


def dense(counts: list[int], bins: int = motion.BINS) -> np.ndarray:
    """A packed histogram of the document with all its bins."""
    return motion.unpacked(counts, bins)


def share_missing(document: Document) -> dict[str, np.ndarray]:
    """Per individual, the share of frames in which each keypoint is missing."""
    return {name: np.array(m["missing"]) / max(m["frames"], 1) for name, m in document["individuals"].items()}


def body(document: Document) -> float:
    """The median body: the diagonal of the box around an animal's keypoints; 0 when there is one keypoint."""
    return float(np.nan_to_num(motion.quantile(dense(document["bodies"]), 0.5)))


def jumps(document: Document) -> dict[str, tuple[int, int, float]]:
    """Per keypoint: jumps, steps, and the length from which a step is a jump, in the unit of positions.

    The length is the larger of five times the keypoint's ninth decile of steps and half the median body, taken from
    histograms with eight bins to a doubling of the square, and rounded up to the next bin.
    """
    half, found, edges = JUMP_BODY * body(document), {}, motion.edges()
    for name, packed in zip(document["keypoints"], document["steps"], strict=True):
        counts = dense(packed)
        longest = max(half, JUMP_STEPS * float(np.nan_to_num(motion.quantile(counts, 0.9))))
        first = min(int(np.searchsorted(edges, longest)), len(edges) - 1)
        found[name] = int(counts[first:].sum()) if longest > 0 else 0, int(counts.sum()), float(edges[first])
    return found


def twins(document: Document, key: str = "sha256") -> list[list[str]]:
    """Groups of recordings with equal positions ("sha256") or equal first 300 frames ("head")."""
    groups: dict[str, list[str]] = {}
    for name, entry in document["recordings"].items():
        if len(entry["never_seen"]) < entry["individuals"]:
            groups.setdefault(entry[key], []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def interval(document: Document) -> float:
    """Median interval between timestamps, in frames of the stated rate; NaN without timestamps."""
    counts = dense(document["intervals"], timing.BINS)
    return float(np.searchsorted(counts.cumsum(), counts.sum() / 2)) / 1000 if counts.any() else float("nan")


def lines(document: Document) -> list[str]:
    """At most twelve sentences for the card."""
    entries = document["recordings"]
    lengths = [entry["frames"] for entry in entries.values()]
    if not lengths:
        return ["no recordings"]
    fps, unit = document["fps"], document["unit"]
    found = [
        f"{_many(len(lengths), 'recording')} of {min(lengths) / fps:.3g} to {max(lengths) / fps:.3g} s, "
        f"{sum(lengths)} frames, {sum(lengths) / fps / 3600:.3g} h"
    ]
    people = document["individuals"].values()
    if document["keypoints"]:
        lost, all_of = _missing(document)
        worst = int(np.argmax(lost))
        found.append(
            f"{100 * lost.sum() / max(all_of * len(lost), 1):.2g} % of keypoints are missing, "
            f"{document['keypoints'][worst]} most often ({100 * lost[worst] / max(all_of, 1):.2g} %)"
        )
        found.append(
            f"animals are out of sight {_many(sum(m['gaps'] for m in people), 'time')}, "
            f"at most for {max((m['longest_gap'] for m in people), default=0) / fps:.3g} s"
        )
        counted = jumps(document)
        total = sum(n for n, _, _ in counted.values())
        found.append(
            f"{_many(total, 'jump')} in {sum(n for _, n, _ in counted.values())} steps of keypoints "
            f"(the median body is {body(document):.3g} {unit})"
        )
        swaps = sum(entry["swaps"] for entry in entries.values())
        found.append(f"{_many(swaps, 'likely exchange')} of two animals' identities from one frame to the next")
    if document["box"]:
        low, high = document["box"]
        box = " x ".join(f"{a:.4g} to {b:.4g}" for a, b in zip(low, high, strict=True))
        found.append(f"positions lie within {box} {unit}")
    if not np.isnan(interval(document)):
        dropped = sum((entry["clock"] or {}).get("dropped", 0) for entry in entries.values())
        found.append(f"timestamps are {interval(document):.3f} frames apart (median); {dropped} frames are missing")
    found.append(f"{_many(sum(len(g) - 1 for g in twins(document)), 'recording')} repeat another one exactly")
    found += _labelled(document)
    return found[:12]


def _missing(document: Document) -> tuple[np.ndarray, int]:
    people = document["individuals"].values()
    lost = np.array([m["missing"] for m in people], dtype=np.int64).reshape(-1, len(document["keypoints"])).sum(0)
    return lost, sum(m["frames"] for m in people)


def _labelled(document: Document) -> Iterator[str]:
    for split, tasks in sorted(document["labels"].items()):
        shares = []
        for name, kind, _, _ in document["tasks"]:
            counts = tasks[name]["values"]
            if kind == "binary" and sum(counts):
                shares.append((counts[1] / sum(counts), name))
        if shares:
            low, high = min(shares), max(shares)
            yield f"{split}: positive labels from {low[0]:.2%} ({low[1]}) to {high[0]:.2%} ({high[1]})"


def warnings(document: Document) -> list[str]:
    """What to look into before training, most serious first; thresholds are this module's constants."""
    found: list[str] = []
    for check in (_leaks, _recordings, _tracking, _confidence, _moving, _clocks, _labels):
        found += check(document)
    return found


def _leaks(document: Document) -> Iterator[str]:
    entries = document["recordings"]
    exact = twins(document)
    for names in exact:
        splits = sorted({entries[name]["split"] for name in names})
        across = f", on both sides of the split ({', '.join(splits)})" if len(splits) > 1 else ""
        yield f"{_names(names)} are the same recording{across}; keep one"
    for names in twins(document, "head"):
        if names not in exact:
            yield f"{_names(names)} begin with the same frames; one may be a copy of the other"
    sides: dict[str, set[str]] = {}
    for entry in entries.values():
        sides.setdefault(entry["subject"], set()).add(entry["split"])
    if both := [subject for subject, splits in sorted(sides.items()) if len(splits) > 1]:
        yield f"{_names(both, 'subject')} are in more than one split; the split rule should say so"


def _recordings(document: Document) -> Iterator[str]:
    entries = document["recordings"]
    if single := [name for name, entry in entries.items() if entry["frames"] == 1]:
        yield f"{_names(single)} have one frame; nothing moves there"
    unseen = [f"{animal} in {name}" for name, entry in entries.items() for animal in entry["never_seen"]]
    if unseen:
        yield f"never seen: {_names(unseen, 'animal')}"
    still = [f"{point} of {animal} in {name}" for name, e in entries.items() for animal, point in e["constant"]]
    if still:
        yield f"never moving: {_names(still, 'keypoint')}; mark them as ignored if they are no part of an animal"
    if document["outside"]:
        width, height = document["image"]
        yield f"{_many(document['outside'], 'keypoint')} lie outside the image of {width} x {height}"


def _tracking(document: Document) -> Iterator[str]:
    if not document["keypoints"]:
        return
    lost, frames = _missing(document)
    often = [(n / max(frames, 1), k) for n, k in zip(lost, document["keypoints"], strict=True)]
    if worst := [f"{k} ({share:.0%})" for share, k in sorted(often, reverse=True) if share > MISSING]:
        yield f"missing in more than {MISSING:.0%} of frames: {_names(worst, 'keypoint')}"
    for name, mine in document["individuals"].items():
        if mine["absent"] > MISSING * mine["frames"]:
            yield f"{name} is out of sight in {mine['absent'] / mine['frames']:.0%} of its frames"


def _confidence(document: Document) -> Iterator[str]:
    if document["odd_confidence"]:
        yield f"{_many(document['odd_confidence'], 'confidence')} lie outside 0 to 1 or are missing"
    low = []
    for name, counts in zip(document["keypoints"], document["confidence"], strict=True):
        below = sum(counts[: round(UNSURE * len(counts))])
        if below > UNSURE_SHARE * max(sum(counts), 1):
            low.append(f"{name} ({below / sum(counts):.0%})")
    if low:
        yield f"below a confidence of {UNSURE:g} more than {UNSURE_SHARE:.0%} of the time: {_names(low, 'keypoint')}"


def _moving(document: Document) -> Iterator[str]:
    often = [
        (count / steps, name, count) for name, (count, steps, _) in jumps(document).items() if count > JUMPS * steps
    ]
    if often:
        told = [
            f"{name} {_many(count, 'time')} ({share:.1%} of its steps)" for share, name, count in sorted(often)[::-1]
        ]
        yield f"jumps from one frame to the next: {_names(told, 'keypoint')}; --outliers masks short ones"
    swapped = {name: entry for name, entry in document["recordings"].items() if entry["swaps"]}
    if swapped:
        most = sorted(swapped, key=lambda name: -swapped[name]["swaps"])
        frame, one, other = swapped[most[0]]["swapped"][0]
        total = sum(entry["swaps"] for entry in swapped.values())
        yield (
            f"{_many(total, 'likely identity exchange')} in {_names(most)}; "
            f"look at frame {frame} of {most[0]}, {one} and {other}"
        )


def _clocks(document: Document) -> Iterator[str]:
    median = interval(document)
    if abs(median - 1) > DRIFT:
        rate = document["fps"] / median if median else float("inf")
        yield f"timestamps say {rate:.4g} frames per second, the card says {document['fps']:.4g}"
    for name, entry in document["recordings"].items():
        clock = entry["clock"] or {"dropped": 0, "backwards": 0}
        if clock["dropped"]:
            yield f"{name} misses {_many(clock['dropped'], 'frame')} between its timestamps"
        if clock["backwards"]:
            yield f"{name} has {_many(clock['backwards'], 'timestamp')} that do not go forward"


def _labels(document: Document) -> Iterator[str]:
    for split, tasks in sorted(document["labels"].items()):
        for name, kind, level, classes in document["tasks"]:
            counts, bouts = tasks[name]["values"], tasks[name]["bouts"]
            if not sum(counts):
                yield f"{name} has no label in {split}"
            elif kind == "binary" and 0 in counts:
                yield f"{name} is {'never' if not counts[1] else 'always'} positive in {split}"
            elif kind == "multiclass" and 0 in counts:
                absent = [c for c, n in zip(classes, counts, strict=False) if not n]
                yield f"{name} has no {_names(absent, 'label')} in {split}"
            elif kind == "binary" and (bouts if level == "frame" else counts[1]) < RARE:
                what = "bout" if level == "frame" else "recording"
                number = bouts if level == "frame" else counts[1]
                yield f"{name} has {_many(number, f'positive {what}')} in {split}; fewer than {RARE} make scores unsure"


def _many(count: int, what: str) -> str:
    plural = "confidences" if what == "confidence" else f"{what}s"
    return f"{count} {what if count == 1 else plural}"


def _names(names: Iterable[str], what: str = "recording") -> str:
    listed = list(names)
    shown = ", ".join(listed[:SHOWN])
    return shown if len(listed) <= SHOWN else f"{len(listed)} {what}s ({shown}, ...)"
