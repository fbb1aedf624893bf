"""Which label file belongs to which pose file: by the recordings it mentions, else by its name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ethoray import readers
from ethoray.readers.contents import ReadError, stem


def match(labels: Sequence[Path], poses: Sequence[Path]) -> dict[Path, Path]:
    """The label file of every pose file that has one; raises ReadError naming both when it is not certain."""
    matched: dict[Path, Path] = {}
    for label in labels:
        mentioned = readers.recordings(label)
        owners = [p for p in poses if stem(p) in mentioned]
        if not owners:
            owners = list(poses) if len(labels) == len(poses) == 1 else [_owner(label, poses)]
        for pose in owners:
            if pose in matched:
                raise ReadError(f"{matched[pose]} and {label} both label {pose.name}; give one, or join them")
            matched[pose] = label
    return matched


def _owner(label: Path, poses: Sequence[Path]) -> Path:
    likeness = [_likeness(stem(label), stem(p)) for p in poses]
    best = [p for p, words in zip(poses, likeness, strict=True) if words == max(likeness)]
    if max(likeness) == 0:
        raise ReadError(
            f"{label} belongs to none of the pose files ({', '.join(p.name for p in poses[:3])}); leave it out, "
            "or rename it to begin like its pose file"
        )
    if len(best) > 1:
        raise ReadError(f"{label} could belong to {best[0].name} or {best[1].name}; rename it to begin like one")
    return best[0]


def _likeness(one: str, other: str) -> int:
    """How many words two names begin with in common; none when they go on with different numbers."""
    words = [re.findall(r"[a-z0-9]+", name.casefold()) for name in (one, other)]
    common = next((i for i, (a, b) in enumerate(zip(*words, strict=False)) if a != b), min(map(len, words)))
    ahead = [rest[common] for rest in words if len(rest) > common]
    apart = len(ahead) == 2 and all(re.search(r"\d", word) for word in ahead)
    return 0 if apart else common
