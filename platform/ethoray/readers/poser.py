"""PoseR's bouts of larval zebrafish: one numeric array (bout, channel, time, keypoint, animal) and a file of labels.

Channels are x, y and, where there are three, the confidence. A time after a bout's end holds zeros in every keypoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ethoray.readers import safe
from ethoray.readers.contents import ReadError, Tracks
from ethoray.schema import Recording, Skeleton

WHAT = "PoseR bouts (npy of many recordings)"

LARVA = Skeleton(
    ("nose", *(f"eye_1_{i}" for i in range(1, 5)), *(f"eye_2_{i}" for i in range(1, 5)),
     *(f"tail_{i}" for i in range(10))),
    ((0, 1), (0, 5), (1, 2), (1, 4), (2, 3), (4, 3), (5, 6), (5, 8), (8, 7), (6, 7), (7, 9), (3, 9), (0, 9),
     *((k, k + 1) for k in range(9, 18))),
    front="nose",
    back="tail_9",
)  # fmt: skip
"""The 19 keypoints: nose, four points an eye, ten along the tail. Bones are PoseR's edges, not its shifted ones."""
FPS = 330.0


def sniffs(head: bytes, path: Path) -> bool:
    """Whether this is a numeric array of five axes, the second of two or three channels."""
    form = safe.header(head)
    return form is not None and form[1].kind in "fiu" and len(form[0]) == 5 and form[0][1] in (2, 3)


def tracks(path: Path, ignore: Sequence[str] = (), min_confidence: float = 0.0) -> Tracks:
    """Raise ReadError: such a file is no one recording, and a recipe prepares it."""
    raise ReadError(f"{path}: holds many recordings; python datasets/poser_zebrafish.py --raw {path.parent} --out NAME")


def sequences(
    path: str | Path, labels: str | Path | None = None, *, skeleton: Skeleton = LARVA, fps: float = FPS
) -> Iterator[Recording]:
    """Every bout, read from the file when it is asked for; label {"bout": class number} where there is a label file.

    A bout that is zero or missing throughout is left out, and the zeros after its end are cut off.
    """
    bouts = safe.load(path)
    if (
        not isinstance(bouts, np.ndarray)
        or bouts.ndim != 5
        or bouts.shape[1] not in (2, 3)
        or bouts.dtype.kind not in "fiu"
    ):
        shape = getattr(bouts, "shape", type(bouts).__name__)
        raise ReadError(f"{path}: {shape}, not (bout, 2 or 3 channels, time, keypoint, animal) of numbers")
    if bouts.shape[3] != len(skeleton.keypoints):
        raise ReadError(
            f"{path}: {bouts.shape[3]} keypoints, the skeleton has {len(skeleton.keypoints)}; give the skeleton it has"
        )
    classes = None if labels is None else numbers(labels, len(bouts))
    digits = len(str(max(len(bouts) - 1, 1)))
    for index in range(len(bouts)):
        found = bout(np.asarray(bouts[index], dtype=np.float32))
        if found is None:
            continue
        keypoints, confidence = found
        yield Recording(
            name=f"{Path(path).stem}_{index:0{digits}d}",
            subject=f"{Path(path).stem}_{index:0{digits}d}",
            fps=fps,
            skeleton=skeleton,
            keypoints=keypoints,
            confidence=confidence,
            individuals=tuple(f"fish_{i}" for i in range(keypoints.shape[1])),
            labels={} if classes is None else {"bout": float(classes[index])},
        )


def bout(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None] | None:
    """Keypoints (time, animal, keypoint, 2) and confidence of one (channel, time, keypoint, animal); None if empty."""
    axes = values.transpose(1, 3, 2, 0)
    known = np.isfinite(axes[..., :2]).all(-1) & (axes[..., :2] != 0).any(-1)
    moments = np.flatnonzero(known.any((1, 2)))
    if not moments.size:
        return None
    axes, known = axes[: moments[-1] + 1], known[: moments[-1] + 1]
    keypoints = np.where(known[..., None], axes[..., :2], np.float32(np.nan))
    return keypoints, None if axes.shape[-1] == 2 else np.ascontiguousarray(axes[..., 2])


def numbers(path: str | Path, bouts: int | None = None) -> np.ndarray:
    """The class number of every bout, float32 (bout,); a negative one is unclassified, NaN."""
    found = safe.load(path)
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiu" or bouts not in (None, found.size):
        shape = getattr(found, "shape", type(found).__name__)
        raise ReadError(f"{path}: {shape}; {bouts or 'all'} bouts need as many class numbers")
    classes = np.asarray(found, dtype=np.float32).reshape(-1)
    return np.where(classes < 0, np.float32(np.nan), classes)


def classes(found: Sequence[np.ndarray]) -> int:
    """How many classes label files tell, at least two."""
    return max(2, *(int(np.nanmax(f)) + 1 for f in found if np.isfinite(f).any()))
