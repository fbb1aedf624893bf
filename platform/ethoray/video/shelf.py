"""Videos kept in HDF5: the dataset ``video``, uint8 (frame, height, width) or (frame, height, width, 3)."""

from __future__ import annotations

from math import nan
from typing import Any

import h5py
import numpy as np

from ethoray.video.answer import MOST_PIXELS, Answer, Damage
from ethoray.video.picture import Painter, colours

ROWS = 64  # read at a time


def _opened(path: str) -> Any:
    """The dataset ``video`` of an HDF5 file, in the file itself."""
    file = h5py.File(path, "r")
    data = file["video"] if isinstance(file.get("video", getlink=True), h5py.HardLink) else None
    if not isinstance(data, h5py.Dataset) or data.external or data.is_virtual:
        raise Damage("holds no dataset called video")
    if data.dtype != np.uint8 or data.ndim not in (3, 4) or (data.ndim == 4 and data.shape[3] != 3):
        raise Damage(f"video is {data.dtype} {data.shape}; (frame, height, width) or (..., 3) of uint8 is read")
    if 0 in data.shape or data.shape[1] * data.shape[2] > MOST_PIXELS:
        raise Damage(f"video has shape {data.shape}")
    return data


def probe(answer: Answer) -> dict[str, Any]:
    """What an HDF5 video says of itself; it has no times."""
    data = _opened(answer.path)
    count, height, width = data.shape[:3]
    numbers = {"width": width, "height": height, "fps": nan, "frames": count, "promised": count, "uneven": 0.0}
    return {key: v if isinstance(v, float) else int(v) for key, v in numbers.items()} | {
        "rotation": 0,
        "codec": "hdf5",
        "pixels": "gray" if data.ndim == 3 else "rgb24",
    }


def film(answer: Answer) -> None:
    """The frames of an HDF5 video, a few rows at a time."""
    ask, data = answer.request, _opened(answer.path)
    painter = Painter(ask["size"], ask["grey"], ask["region"])
    pixels = "gray" if ask["grey"] else "rgb24"
    for first in range(0, int(min(len(data), answer.end)), ROWS):
        wanted = [i for i in range(first, min(first + ROWS, len(data))) if answer.wants(i)]
        rows = data[first : first + ROWS] if wanted else data[:0]
        for index in wanted:
            answer.send(index, nan, painter.cut(colours(rows[index - first], ask["grey"]), pixels))
        answer.say(b"T")
    answer.over(len(data))
