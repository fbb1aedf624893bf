"""What is wrong with tracks and labels, counted while they stream by: in bounded memory, and mergeable.

Every number is a count, a smallest, a largest or a hash, so a recording in pieces, and recordings in parts that are
merged, give the same document as all at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ethoray.quality import motion, timing
from ethoray.quality.balance import Balance
from ethoray.schema import Recording, SchemaError, Skeleton, Task

CONFIDENCE_BINS = 20
HEAD = 300  # frames that two recordings share when one is a copy of the other's beginning
UNSEEN = 0.5  # seconds an animal may be out of sight and still be compared with where it was
_BLOCK = 1 << 22  # numbers looked at together
_EVERY = 8  # body size is measured in every eighth frame


@dataclass
class _Now:
    """The recording that is being read."""

    name: str
    stop: int
    tail: np.ndarray  # the last frames, as many as the longest time out of sight
    away: np.ndarray  # frames that each animal has been out of sight
    seen: np.ndarray  # frames in which each animal was seen
    low: np.ndarray  # smallest and largest coordinates (individual, keypoint, space)
    high: np.ndarray
    whole: Any = field(default_factory=hashlib.sha256)
    head: Any = field(default_factory=hashlib.sha256)


class Quality:
    """Counts of a dataset's flaws; ``document`` holds them as JSON, ``findings`` puts them into words."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._doc = document
        self._now: _Now | None = None
        points = len(document["keypoints"])
        self._confidence = np.array(document["confidence"], dtype=np.int64).reshape(points, CONFIDENCE_BINS)
        self._steps = np.array([motion.unpacked(row, motion.BINS) for row in document["steps"]]).reshape(
            points, motion.BINS
        )
        self._bodies = motion.unpacked(document["bodies"], motion.BINS)
        self._intervals = motion.unpacked(document["intervals"], timing.BINS)
        self._balance = Balance(document["labels"], document["overlap"])

    @classmethod
    def start(
        cls,
        skeleton: Skeleton,
        fps: float,
        tasks: Sequence[Task] = (),
        unit: str = "pixel",
        image: tuple[int, int] | None = None,
    ) -> Quality:
        """Nothing counted yet; ``image`` is the width and height within which every keypoint should lie."""
        return cls(
            {
                "version": 1,
                "fps": float(fps),
                "unit": unit,
                "image": list(image) if image else None,
                "keypoints": list(skeleton.keypoints),
                "tasks": [[t.name, t.kind, t.level, list(t.classes)] for t in tasks],
                "recordings": {},
                "individuals": {},
                "confidence": [[0] * CONFIDENCE_BINS for _ in skeleton.keypoints],
                "odd_confidence": 0,
                "steps": [[0] for _ in skeleton.keypoints],
                "bodies": [0],
                "intervals": [0],
                "outside": 0,
                "box": None,
                "labels": {},
                "overlap": {},
            }
        )

    @classmethod
    def of(cls, recording: Recording, tasks: Sequence[Task] = (), unit: str = "pixel") -> Quality:
        """The counts of one recording."""
        quality = cls.start(recording.skeleton, recording.fps, tasks, unit)
        quality.add(recording)
        return quality

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Quality:
        """The counts that ``document`` gave, to be merged with others."""
        if document.get("version") != 1:
            raise SchemaError(f"a quality document of version {document.get('version')!r}; this program reads 1")
        return cls(deepcopy(dict(document)))

    def document(self) -> dict[str, Any]:
        """Everything counted so far, for JSON."""
        found = deepcopy(self._doc)
        found["confidence"] = self._confidence.tolist()
        found["steps"] = [motion.packed(row) for row in self._steps]
        found["bodies"], found["intervals"] = motion.packed(self._bodies), motion.packed(self._intervals)
        found["labels"], found["overlap"] = deepcopy(self._balance.labels), deepcopy(self._balance.overlap)
        for part in ("recordings", "individuals"):
            found[part] = dict(sorted(found[part].items()))
        return found

    def add(self, recording: Recording, times: np.ndarray | None = None) -> None:
        """Count a recording or its next piece; ``times`` are its frames' timestamps in seconds, where there are any.

        Raises SchemaError when a piece does not follow the one before, or a name comes back.
        """
        if tuple(self._doc["keypoints"]) != recording.skeleton.keypoints:
            raise SchemaError(f"recording {recording.name!r}: its keypoints are not those of the other recordings")
        entry = self._entry(recording)
        now = self._now
        assert now is not None
        self._balance.add(recording, self._doc["tasks"], now.stop == recording.start and bool(recording.start))
        step = max(1, _BLOCK // max(int(np.prod(recording.keypoints.shape[1:])), 1))
        for start in range(0, recording.frames, step):
            part = slice(start, start + step)
            scores = None if recording.confidence is None else recording.confidence[part]
            self._block(entry, now, recording, recording.keypoints[part], scores)
        if recording.images is not None:
            _hash(now, recording.images, entry["frames"] - recording.frames)  # pictures in place of keypoints
        if times is not None:
            times = timing.checked(recording.name, times, recording.frames)
            entry["clock"] = timing.ticked(entry["clock"], times, self._doc["fps"], self._intervals)
        entry["sha256"], entry["head"] = now.whole.hexdigest(), now.head.hexdigest()
        names = recording.individuals
        entry["never_seen"] = [name for name, seen in zip(names, now.seen, strict=True) if not seen]
        still = (now.low == now.high).all(-1) if entry["frames"] > 1 else np.zeros(now.low.shape[:2], dtype=bool)
        entry["constant"] = [[names[i], self._doc["keypoints"][k]] for i, k in np.argwhere(still)]

    def _entry(self, recording: Recording) -> dict[str, Any]:
        """What is known of the recording, which is now the one being read."""
        known, now = self._doc["recordings"], self._now
        if now is not None and now.name == recording.name:
            if recording.start < now.stop or recording.keypoints.shape[1] != len(now.seen):
                raise SchemaError(
                    f"recording {recording.name!r}: a piece of {recording.keypoints.shape[1]} individuals from frame "
                    f"{recording.start} cannot follow one of {len(now.seen)} up to frame {now.stop}"
                )
            if recording.start > now.stop:
                now.tail, now.away[:], now.stop = now.tail[:0], 0, recording.start
            followed: dict[str, Any] = known[recording.name]
            return followed
        if recording.name in known:
            raise SchemaError(f"recording {recording.name!r} comes twice; a name belongs to one recording")
        shape = recording.keypoints.shape[1:]
        empty = np.full(shape, np.nan, dtype=np.float32)
        zeros = np.zeros(shape[0], dtype=np.int64)
        tail = recording.keypoints[:0]
        self._now = _Now(recording.name, recording.start, tail, zeros, zeros.copy(), empty, empty.copy())
        entry: dict[str, Any] = {"subject": recording.subject, "split": recording.split, "frames": 0, "swaps": 0}
        entry |= {"swapped": [], "longest_step": 0.0, "jumped": None, "clock": None, "individuals": shape[0]}
        known[recording.name] = entry | {"missing": [0] * len(self._doc["keypoints"])}
        begun: dict[str, Any] = known[recording.name]
        return begun

    def _block(
        self, entry: dict[str, Any], now: _Now, recording: Recording, keypoints: np.ndarray, scores: np.ndarray | None
    ) -> None:
        """Count consecutive frames."""
        if not keypoints.shape[2]:
            entry["frames"] += len(keypoints)
            now.stop += len(keypoints)
            now.seen += len(keypoints)
            return
        missing = np.asarray(np.isnan(keypoints[..., 0]))
        lost = missing.sum(0)
        entry["missing"] = (np.array(entry["missing"], dtype=np.int64) + lost.sum(0)).tolist()
        self._gaps(now, recording.individuals, missing, lost)
        now.low = np.fmin(now.low, np.fmin.reduce(keypoints, axis=0))
        now.high = np.fmax(now.high, np.fmax.reduce(keypoints, axis=0))
        self._doc["box"] = _box(self._doc["box"], now)
        if self._doc["image"]:
            beyond = keypoints[..., :2] > np.array(self._doc["image"], dtype=np.float32)
            self._doc["outside"] += int((beyond | (keypoints[..., :2] < 0)).any(-1).sum())
        if scores is not None:
            self._scores(scores)
        window = np.concatenate([now.tail, keypoints])
        context = len(now.tail)
        self._walk(entry, now, window, context, now.stop - context)
        eighth = motion.binned(motion.bodies(keypoints[-now.stop % _EVERY :: _EVERY]))
        self._bodies += np.bincount(eighth, minlength=motion.BINS)
        longest = max(1, round(UNSEEN * self._doc["fps"]))
        for frame, *pair in motion.exchanges(window, context, longest):
            entry["swaps"] += 1
            names = [recording.individuals[i] for i in pair]
            entry["swapped"] = [*entry["swapped"], [frame + now.stop - context, *names]][:5]
        if recording.images is None:
            _hash(now, keypoints, entry["frames"])
        entry["frames"] += len(keypoints)
        now.stop += len(keypoints)
        now.tail = window[-longest:].copy()

    def _gaps(self, now: _Now, names: Sequence[str], missing: np.ndarray, lost: np.ndarray) -> None:
        """Missing keypoints and whole-animal gaps of every individual."""
        absent = np.asarray(missing.all(-1))
        now.seen += (~absent).sum(0)
        frames = len(missing)
        index = np.arange(1, frames + 1)
        for i, name in enumerate(names):
            mine = self._doc["individuals"].setdefault(
                name, {"frames": 0, "missing": [0] * missing.shape[2], "gaps": 0, "absent": 0, "longest_gap": 0}
            )
            mine["frames"] += frames
            mine["missing"] = (np.array(mine["missing"], dtype=np.int64) + lost[i]).tolist()
            gone = np.asarray(absent[:, i])
            mine["absent"] += int(gone.sum())
            before = np.concatenate([np.array([now.away[i] > 0]), gone[:-1]])
            mine["gaps"] += int((gone & ~before).sum())
            back = np.maximum.accumulate(np.where(gone, -int(now.away[i]), index))
            run = np.where(gone, index - back, 0)
            mine["longest_gap"] = max(mine["longest_gap"], int(run.max(initial=0)))
            now.away[i] = run[-1]

    def _walk(self, entry: dict[str, Any], now: _Now, window: np.ndarray, context: int, offset: int) -> None:
        """Steps of keypoints that are seen in two frames one after the other."""
        start = max(context - 1, 0)
        squares = motion.squared(window[start + 1 :], window[start:-1])
        for k in range(squares.shape[2]):
            mine = squares[:, :, k]
            there = ~np.isnan(mine)
            self._steps[k] += np.bincount(motion.binned(mine[there]), minlength=motion.BINS)
        longest = float(np.sqrt(np.fmax.reduce(squares, axis=None, initial=0.0)))
        if longest > entry["longest_step"]:
            at = [int(place) for place in np.unravel_index(np.nanargmax(squares), squares.shape)]
            frame = at[0] + start + 1 + offset
            entry["longest_step"], entry["jumped"] = longest, [frame, self._doc["keypoints"][at[2]]]

    def _scores(self, scores: np.ndarray) -> None:
        """Confidence histograms; what is not a number between 0 and 1 is counted apart."""
        fine = (scores >= 0) & (scores <= 1)
        self._doc["odd_confidence"] += int(fine.size - fine.sum())
        for k in range(scores.shape[2]):
            places = (scores[:, :, k][fine[:, :, k]] * np.float32(CONFIDENCE_BINS)).astype(np.int64)
            found = np.bincount(np.minimum(places, CONFIDENCE_BINS - 1), minlength=CONFIDENCE_BINS)
            self._confidence[k] += found

    def merge(self, other: Quality) -> Quality:
        """Counts of both, of different recordings of one dataset; SchemaError when they do not belong together."""
        mine, theirs = self.document(), other.document()
        for part in ("fps", "unit", "image", "keypoints", "tasks"):
            if mine[part] != theirs[part]:
                raise SchemaError(f"quality of two datasets: {part} is {mine[part]!r} and {theirs[part]!r}")
        if twice := sorted(set(mine["recordings"]) & set(theirs["recordings"])):
            raise SchemaError(f"recording {twice[0]!r} comes twice; a name belongs to one recording")
        for name, counts in theirs["individuals"].items():
            before = mine["individuals"].setdefault(name, counts)
            if before is not counts:
                mine["individuals"][name] = {k: _sum(k, before[k], counts[k]) for k in counts}
        mine["recordings"] |= theirs["recordings"]
        mine["box"] = _around(mine["box"], theirs["box"])
        for part in ("outside", "odd_confidence"):
            mine[part] += theirs[part]
        merged = Quality(mine)
        merged._confidence += other._confidence
        merged._steps += other._steps
        merged._bodies += other._bodies
        merged._intervals += other._intervals
        merged._balance.merge(other._balance)
        return merged


def _sum(name: str, one: Any, other: Any) -> Any:
    if name == "longest_gap":
        return max(one, other)
    return [a + b for a, b in zip(one, other, strict=True)] if isinstance(one, list) else one + other


def _hash(now: _Now, values: np.ndarray, before: int) -> None:
    now.whole.update(np.ascontiguousarray(values).data)
    now.head.update(np.ascontiguousarray(values[: max(HEAD - before, 0)]).data)


def _box(box: list[list[float]] | None, now: _Now) -> list[list[float]] | None:
    if np.isnan(now.low).all():
        return box
    low, high = np.fmin.reduce(now.low, axis=(0, 1)), np.fmax.reduce(now.high, axis=(0, 1))
    return _around(box, [low.tolist(), high.tolist()])


def _around(one: list[list[float]] | None, other: list[list[float]] | None) -> list[list[float]] | None:
    if one is None or other is None:
        return one or other
    return [[pick(a, b) for a, b in zip(x, y, strict=True)] for pick, x, y in zip((min, max), one, other, strict=True)]
