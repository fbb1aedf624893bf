"""Results of ZebraZoom: swim bouts of zebrafish larvae, well by well, as JSON.

wellPoissMouv[well][animal][bout] has BoutStart and BoutEnd (frames), HeadX, HeadY (time,) and TailX_VideoReferential,
TailY_VideoReferential (time, point). A bout is a recording: its keypoints are the head and the tail's points, in the
order away from the head, whichever end the file begins with.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ethoray.readers.contents import ReadError, Tracks, stem
from ethoray.schema import Recording, Skeleton

WHAT = "ZebraZoom results (json of many bouts)"

_ARRAYS = ("HeadX", "HeadY", "TailX_VideoReferential", "TailY_VideoReferential")


def sniffs(head: bytes, path: Path) -> bool:
    """Whether a dict begins with wells and bouts."""
    return head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"{") and b'"wellPoissMouv"' in head


def tracks(path: Path, ignore: Sequence[str] = (), min_confidence: float = 0.0) -> Tracks:
    """Raise ReadError: such a file is no one recording, and a recipe prepares it."""
    raise ReadError(f"{path}: holds many bouts; python datasets/zebrazoom.py --raw {path.parent} --out NAME")


def skeleton(points: int) -> Skeleton:
    """A head and so many points of the tail, joined in a line."""
    names = ("head", "tail_base", *(f"tail_{i:02d}" for i in range(1, points)))
    return Skeleton(names, tuple((i, i + 1) for i in range(points)), front="head", back="tail_base")


def stated_fps(path: str | Path) -> float | None:
    """The frame rate in the file's ``organization``, None where there is none."""
    organization = _document(Path(path)).get("organization")
    fps = organization.get("fps") if isinstance(organization, dict) else None
    return float(fps) if isinstance(fps, int | float) and fps > 0 else None


def sequences(path: str | Path, fps: float) -> Iterator[Recording]:
    """Every bout; its subject is the animal of its well, whose bouts must stay on one side of a split."""
    path = Path(path)
    wells = _document(path)["wellPoissMouv"]
    if not isinstance(wells, list):
        raise ReadError(f"{path}: wellPoissMouv is no list of wells")
    found = list(_bouts(path, wells))
    if not found:
        raise ReadError(f"{path}: no bout in {len(wells)} wells")
    ends = np.array([_nearer_end(points) for _, _, points in found])
    backwards = float(np.nanmean(ends)) > 0.5
    for subject, name, points in found:
        ordered = np.concatenate([points[:, :1], points[:, :0:-1]], 1) if backwards else points
        yield Recording(name, subject, fps, skeleton(points.shape[1] - 1), ordered[:, None], individuals=("larva",))


def _bouts(path: Path, wells: Sequence[Any]) -> Iterator[tuple[str, str, np.ndarray]]:
    points = 0
    for w, well in enumerate(wells):
        for a, animal in enumerate(well if isinstance(well, list) else ()):
            for b, bout in enumerate(animal if isinstance(animal, list) else ()):
                where = f"{path}, well {w}, animal {a}, bout {b}"
                found = _points(where, bout)
                points = points or found.shape[1]
                if found.shape[1] != points:
                    raise ReadError(f"{where}: {found.shape[1] - 1} points of the tail, bouts before it {points - 1}")
                subject = f"{stem(path)}_well{w:02d}_animal{a}"
                yield subject, f"{subject}_bout{b:03d}", found


def _points(where: str, bout: Any) -> np.ndarray:
    """Head and tail (time, point, 2), NaN where a point is missing."""
    if not isinstance(bout, Mapping):
        raise ReadError(f"{where}: is no dict")
    try:
        x, y, tail_x, tail_y = (np.array(bout[key], dtype=np.float32) for key in _ARRAYS)
        frames = int(bout["BoutEnd"]) - int(bout["BoutStart"]) + 1
    except KeyError as error:
        raise ReadError(f"{where}: no {error.args[0]}") from None
    except (ValueError, TypeError) as error:
        raise ReadError(f"{where}: holds something else than numbers ({error})") from error
    if tail_x.ndim != 2 or not tail_x.size or tail_x.shape != tail_y.shape or not len(x) == len(y) == len(tail_x):
        raise ReadError(f"{where}: heads {x.shape} {y.shape} and tails {tail_x.shape} {tail_y.shape} do not fit")
    if frames != len(x):
        raise ReadError(f"{where}: BoutStart and BoutEnd make {frames} frames, its track has {len(x)}")
    points = np.stack([np.column_stack([x, tail_x]), np.column_stack([y, tail_y])], -1)
    points[~np.isfinite(points).all(-1)] = np.nan
    return points


def _nearer_end(points: np.ndarray) -> float:
    """In which share of the frames the tail's last point is nearer to the head than its first."""
    first, last = (np.linalg.norm(points[:, i] - points[:, 0], axis=-1) for i in (1, -1))
    return float((last < first).mean())


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise ReadError(f"{path}: not readable JSON ({error}); is the file cut off?") from error
    if not isinstance(document, dict) or "wellPoissMouv" not in document:
        raise ReadError(f"{path}: no wellPoissMouv; it is not a result of ZebraZoom")
    return document
