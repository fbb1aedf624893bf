"""Decoded frames become what is wanted of them: a part, a size, colours, the right way up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ethoray.video.answer import Damage


@dataclass
class Painter:
    """Turns decoded frames into what is wanted of them: part, size, colours, the right way up."""

    size: tuple[int, int] | None
    grey: bool
    region: tuple[int, int, int, int] | None

    def paint(self, frame: Any) -> np.ndarray:
        """The picture of an ``av.VideoFrame``; it is resized by the converter itself, in one step, where it can be."""
        pixels, turns = "gray" if self.grey else "rgb24", turns_of(frame.rotation)
        size = self.size[::-1] if self.size and turns % 2 else self.size
        if self.region is None:
            return np.rot90(resized(frame, size, pixels), -turns)
        picture = np.rot90(resized(frame, None, pixels), -turns)
        return self.cut(picture, pixels)

    def cut(self, picture: np.ndarray, pixels: str) -> np.ndarray:
        """The region of a picture that is the right way up, resized."""
        import av

        if self.region is not None:
            x, y, width, height = self.region
            if x + width > picture.shape[1] or y + height > picture.shape[0]:
                raise Damage(f"region {tuple(self.region)} leaves the picture of {picture.shape[1::-1]} pixels")
            picture = picture[y : y + height, x : x + width]
        if self.size is None or tuple(self.size) == picture.shape[1::-1]:
            return picture
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format=pixels)
        return resized(frame, self.size, pixels)


def resized(frame: Any, size: tuple[int, int] | None, pixels: str) -> np.ndarray:
    """A frame in other colours and, where a size is given, of another size; averaged over what a pixel covers."""
    width, height = size or (frame.width, frame.height)
    shrinks = width * 2 < frame.width and height * 2 < frame.height
    how = "AREA" if shrinks else "BILINEAR"
    picture: np.ndarray = frame.reformat(width, height, pixels, interpolation=how, threads=1).to_ndarray()
    return picture


def turns_of(rotation: float) -> int:
    """Quarter turns clockwise that set a picture upright; FFmpeg counts degrees counter-clockwise."""
    return -round(rotation / 90) % 4


def colours(picture: np.ndarray, grey: bool) -> np.ndarray:
    """A picture in one channel or in three; grey is the luma of ITU-R BT.601."""
    if grey and picture.ndim == 3:
        return np.round(picture @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    return picture if grey or picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
