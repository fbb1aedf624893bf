"""Spans of frames to hide (Joshi et al. 2020, "SpanBERT"), drawn for all sequences at once.

Lengths follow a geometric distribution cut at both ends; spans fall anywhere, may overlap, and are laid down
until the wanted share of frames is covered, the last one cut short. Of the spans 80 % are blanked, 10 % take the
content of other frames of their sequence, 10 % stay as they are: what stays must be predicted all the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ethoray.nn.parallel import rand_rows, shared_mean


@dataclass(frozen=True)
class Spans:
    """Which frames to hide and how.

    Attributes
    ----------
    share: of the frames of a sequence, rounded to whole frames.
    p: of the geometric distribution; larger means shorter spans.
    shortest, longest: bounds of a span, in frames.
    blanked, swapped: shares of the spans that are blanked and that are swapped; the rest is kept.
    """

    share: float = 0.7
    p: float = 0.2
    shortest: int = 3
    longest: int = 20
    blanked: float = 0.8
    swapped: float = 0.1

    def __post_init__(self) -> None:
        if not (0 < self.share < 1 and 0 < self.p < 1):
            raise ValueError(f"spans need a share and a p between 0 and 1, not {self.share!r} and {self.p!r}")
        if not 1 <= self.shortest <= self.longest:
            raise ValueError(f"spans are 1 frame or longer, not {self.shortest} to {self.longest}")
        if min(self.blanked, self.swapped) < 0 or self.blanked + self.swapped > 1:
            raise ValueError(f"blanked and swapped are shares of the spans, not {self.blanked} and {self.swapped}")

    def mean_length(self) -> float:
        """Expected length of a span before anything overlaps or is cut."""
        weights = [(1 - self.p) ** k for k in range(self.longest - self.shortest + 1)]
        return self.shortest + sum(k * w for k, w in enumerate(weights)) / sum(weights)

    def lengths(self, u: Tensor) -> Tensor:
        """Span lengths, int64, from uniform numbers in [0, 1): the inverse of the distribution function."""
        most = 1 - (1 - self.p) ** (self.longest - self.shortest + 1)
        steps = torch.log1p(-u.double() * most) / math.log1p(-self.p)
        return (self.shortest + steps.long()).clamp(max=self.longest)


@dataclass(frozen=True)
class Masks:
    """What happens to each frame of each sequence, (sequence, time).

    Attributes
    ----------
    chosen: bool, hidden from the input in one way or another; only these are predicted.
    blanked, swapped: bool, parts of ``chosen``; what is in neither is kept.
    donor: int64, the frame whose content a swapped frame takes.
    """

    chosen: Tensor
    blanked: Tensor
    swapped: Tensor
    donor: Tensor

    def apply(self, content: Tensor, blank: Tensor) -> Tensor:
        """The content (sequence, time, feature) with swapped frames and ``blank`` (feature) for blanked ones."""
        donor = self.donor[..., None].expand(content.shape)
        out = torch.where(self.swapped[..., None], content.gather(1, donor), content)
        return torch.where(self.blanked[..., None], blank.to(out.dtype), out)


def span_masks(rows: int, frames: int, spans: Spans, device: torch.device) -> Masks:
    """Masks of ``rows`` sequences; exactly ``round(share * frames)`` frames of each are chosen, at least one."""
    wanted = min(max(round(spans.share * frames), 1), frames)
    # 1 - exp(-k * mean / frames) of the frames are covered by k spans: enough spans for the share, twice over
    mean = min(spans.mean_length(), frames)
    count = math.ceil(2 * frames / mean * -math.log(1 - min(spans.share, 0.98))) + 8
    length_u, start_u, fate_u = rand_rows(rows, 3, count, device=device).unbind(1)
    lengths = spans.lengths(length_u).clamp(max=frames)
    starts = (start_u * (frames - lengths + 1)).long()
    times = torch.arange(frames, device=device)
    inside = (times >= starts[..., None]) & (times < (starts + lengths)[..., None])  # (row, span, time)
    number = torch.arange(count, device=device)[:, None]
    first = torch.where(inside, number, count).amin(1)  # the first span that covers a frame
    chosen = (first * frames + times).argsort(1).argsort(1) < wanted
    fate = fate_u.gather(1, first.clamp(max=count - 1))
    blanked = chosen & (fate < spans.blanked)
    swapped = chosen & (fate >= spans.blanked) & (fate < spans.blanked + spans.swapped)
    donor = (rand_rows(rows, frames, device=device) * frames).long()
    return Masks(chosen, blanked, swapped, donor)


def masked_error(predicted: Tensor, target: Tensor, where: Tensor) -> Tensor:
    """Mean squared error of the cells where it counts; 0 when there is none."""
    error = torch.where(where, predicted.float() - target.float(), 0.0)
    return shared_mean(error.square().sum(), where.sum())
