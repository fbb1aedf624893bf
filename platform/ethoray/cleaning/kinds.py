"""The steps of cleaning: what each does to tracks, says of itself and looks at, in seconds, pixels and mm."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from ethoray.cleaning import filters
from ethoray.readers.contents import Counted, Tracks

_ROUNDING = 1e-6  # frames: 0.1 s at 30 fps is three frames, whatever floats make of it


class CleaningError(ValueError):
    """A cleaning step that makes no sense by itself or at this frame rate; the message names the option."""


@dataclass(frozen=True)
class Step(ABC):
    """One declared change of tracks; its fields are its numbers, in units."""

    @abstractmethod
    def describe(self) -> str:
        """One sentence for the card, with numbers and units."""

    @abstractmethod
    def reach(self, fps: float) -> int:
        """How many frames before and after a frame its result depends on; CleaningError when there is no sense."""

    @abstractmethod
    def apply(self, tracks: Tracks, fps: float) -> np.ndarray:
        """Keypoints after the step, float32; within a reach of a border that is not the recording's they are off."""

    def note(self, before: np.ndarray, after: np.ndarray) -> str:
        """What the step did to these frames, counted."""
        lost = filters.seen(before) & ~filters.seen(after)
        return Counted(f"{{}} of {{}} keypoints {self._did()}", int(lost.sum()), lost.size)

    def _did(self) -> str:
        return "masked"


@dataclass(frozen=True)
class Confidence(Step):
    """Keypoints that the tracker was less sure of than ``minimum`` are missing; without confidence nothing changes."""

    minimum: float

    def describe(self) -> str:
        """One sentence for the card."""
        return f"keypoints with a confidence below {self.minimum:g} are missing"

    def reach(self, fps: float) -> int:
        """No other frame is looked at."""
        return 0

    def apply(self, tracks: Tracks, fps: float) -> np.ndarray:
        """Keypoints with unsure ones NaN."""
        keypoints = tracks.keypoints.copy()
        if tracks.confidence is not None:
            keypoints[tracks.confidence < self.minimum] = np.nan
        return keypoints

    def _did(self) -> str:
        return f"below confidence {self.minimum:g} masked"


@dataclass(frozen=True)
class Outliers(Step):
    """Keypoints far from where they are around that time are missing: the Hampel identifier.

    A keypoint is an outlier when its distance from its running median position over ``seconds`` (at least five
    frames) exceeds ``times`` robust deviations. The deviation is 1.4826 times the median distance of the window's
    frames from that position, and at least one hundredth of the body (the diagonal of the box around the animal's
    keypoints, its running median), because the jitter of a resting animal is no error. A median follows any steady
    movement however fast, so a dart is kept and only excursions shorter than half the window that come back are lost.
    Windows with fewer than three seen frames are left alone.

    Running medians against tracking errors are what the field uses (Anipose, movement), a part of the body as the
    yardstick is SimBA's; the rule itself is Davies & Gather (1993, J. Am. Stat. Assoc. 88, 782) as a filter.
    """

    times: float
    seconds: float = 0.5

    def describe(self) -> str:
        """One sentence for the card."""
        return (
            f"keypoints farther than {self.times:g} robust deviations (of at least 1 % of the body) from their running "
            f"median over {self.seconds:g} s are missing"
        )

    def reach(self, fps: float) -> int:
        """Half the window."""
        return max(2, round(self.seconds * fps / 2))

    def apply(self, tracks: Tracks, fps: float) -> np.ndarray:
        """Keypoints with outliers NaN."""
        keypoints = tracks.keypoints.copy()
        keypoints[filters.outliers(tracks.keypoints, self.reach(fps), self.times)] = np.nan
        return keypoints

    def _did(self) -> str:
        return f"beyond {self.times:g} robust deviations masked"


@dataclass(frozen=True)
class Interpolate(Step):
    """Gaps of a keypoint that last up to ``seconds`` are filled linearly between the frames around them.

    Longer gaps, and those that begin or end the recording, stay. The confidence stays the tracker's.
    """

    seconds: float

    def describe(self) -> str:
        """One sentence for the card."""
        return f"gaps of a keypoint up to {self.seconds:g} s are filled linearly"

    def reach(self, fps: float) -> int:
        """The longest gap that is filled; CleaningError when that is less than a frame."""
        frames = int(self.seconds * fps + _ROUNDING)
        if frames < 1:
            raise CleaningError(f"--interpolate {self.seconds:g} s is less than a frame at {fps:g} fps")
        return frames

    def apply(self, tracks: Tracks, fps: float) -> np.ndarray:
        """Keypoints with short gaps filled."""
        return filters.interpolated(tracks.keypoints, self.reach(fps))

    def note(self, before: np.ndarray, after: np.ndarray) -> str:
        """How many missing keypoints were filled."""
        missing = ~filters.seen(before)
        filled = int((missing & filters.seen(after)).sum())
        return Counted(
            f"{{}} of {{}} missing keypoints filled over gaps up to {self.seconds:g} s", filled, int(missing.sum())
        )


@dataclass(frozen=True)
class Smooth(Step):
    """A polynomial of ``order`` fitted to ``seconds`` around each frame takes its place (Savitzky & Golay, 1964).

    The window is the nearest odd number of frames. Gaps stay gaps, and no window reaches over one: at the ends of
    every seen stretch the polynomial of the first or last full window is evaluated there. Stretches shorter than the
    window stay as they are.
    """

    seconds: float
    order: int = 3

    def describe(self) -> str:
        """One sentence for the card."""
        return f"positions are smoothed by Savitzky-Golay polynomials of order {self.order} over {self.seconds:g} s"

    def reach(self, fps: float) -> int:
        """A window less one frame; CleaningError when the polynomial would pass through every point."""
        frames = 2 * round((self.seconds * fps - 1) / 2 + _ROUNDING) + 1
        if frames <= self.order:
            raise CleaningError(
                f"--smooth {self.seconds:g} s is {max(frames, 1)} frames at {fps:g} fps, and a polynomial of order "
                f"{self.order} (--smooth-order) smooths only what is longer than {self.order} frames"
            )
        return frames - 1

    def apply(self, tracks: Tracks, fps: float) -> np.ndarray:
        """Smoothed keypoints."""
        return filters.smoothed(tracks.keypoints, self.reach(fps) + 1, self.order)

    def note(self, before: np.ndarray, after: np.ndarray) -> str:
        """How many seen keypoints were smoothed."""
        seen = filters.seen(before)
        moved = (seen & (before != after).any(-1)).sum()
        return Counted(
            f"{{}} of {{}} keypoints moved by smoothing over {self.seconds:g} s", int(moved), int(seen.sum())
        )


@dataclass(frozen=True)
class Resample(Step):
    """Another frame rate: frame j of the result is at j / fps seconds.

    To a higher rate positions are interpolated linearly. To a lower one each is a triangularly weighted mean over
    one new frame to either side, which keeps faster movement from posing as slower (aliasing). Missing where the
    nearest frame is missing. Labels go along by ``places``: they are those of the nearest frame.
    """

    fps: float

    def describe(self) -> str:
        """One sentence for the card."""
        return f"resampled to {self.fps:g} frames per second; labels are those of the nearest frame"

    def ratio(self, fps: float) -> Fraction:
        """Frames before for one frame after, exactly, so that nothing drifts over hours."""
        return (Fraction(fps).limit_denominator(10**6) / Fraction(self.fps).limit_denominator(10**6)).limit_denominator(
            10**6
        )

    def reach(self, fps: float) -> int:
        """One frame of the slower of both rates, in frames before."""
        return max(math.ceil(self.ratio(fps)), 1)

    def apply(self, tracks: Tracks, fps: float) -> np.ndarray:
        """Keypoints of a whole track at the new rate."""
        ratio = self.ratio(fps)
        return filters.resampled(tracks.keypoints, ratio, 0, filters.length(len(tracks.keypoints), ratio))


@dataclass(frozen=True)
class Scale(Step):
    """Positions in millimetres instead of pixels."""

    mm_per_pixel: float

    def describe(self) -> str:
        """One sentence for the card."""
        return f"positions are in mm, {self.mm_per_pixel:g} mm a pixel"

    def reach(self, fps: float) -> int:
        """No other frame is looked at."""
        return 0

    def apply(self, tracks: Tracks, fps: float) -> np.ndarray:
        """Keypoints in mm."""
        return np.asarray(tracks.keypoints * np.float32(self.mm_per_pixel), dtype=np.float32)

    def note(self, before: np.ndarray, after: np.ndarray) -> str:
        """How many keypoints were scaled."""
        return Counted(f"{{}} keypoints scaled by {self.mm_per_pixel:g} mm a pixel", int(filters.seen(before).sum()))
