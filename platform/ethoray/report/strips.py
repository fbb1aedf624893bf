"""Small drawings of movements for a page: inline SVG, a pose every tenth of a second, earlier ones paler."""

from __future__ import annotations

from html import escape

import numpy as np

from ethoray.figures import OKABE_ITO
from ethoray.moments import MISSING
from ethoray.report.explorer import Explorer

_POSES = 4
_SIDE = 120


def pose(explorer: Explorer, row: int, words: str) -> str:
    """One clip up to its moment, as a button that plays it."""
    clips, bones = explorer.clips, explorer.document["bones"]
    last = int(clips.middle[row])
    stride = max(1, round(clips.fps / 2 / _POSES))
    steps = [step for step in range(last - (_POSES - 1) * stride, last + 1, stride) if step >= 0]
    piece = clips.values[row][steps]
    there = piece != MISSING
    spots = np.zeros(piece.shape, dtype=int)
    if there.any():
        low, high = piece[there.all(-1)].min(0).astype(float), piece[there.all(-1)].max(0).astype(float)
        side = max(float((high - low).max()), 1.0) * 1.1
        spots = np.where(there, np.round((piece - (low + high) / 2) / side * _SIDE + _SIDE / 2), 0).astype(int)
    drawn = []
    for t in range(len(steps)):
        faint = f"{(t + 1) / len(steps) if t + 1 == len(steps) else 0.12 + 0.4 * t / len(steps):.2g}"
        for animal in range(piece.shape[1]):
            path = _path(spots[t, animal], there[t, animal].all(-1), bones)
            if path:
                ink = OKABE_ITO[animal % len(OKABE_ITO)]
                drawn.append(f'<path d="{path}" stroke="{ink}" opacity="{faint}"/>')
    return (
        f'<button type="button" data-moment="{row}" aria-label="{escape(words)}" title="play {escape(words)}">'
        f'<svg viewBox="0 0 {_SIDE} {_SIDE}" fill="none" stroke-width="1.6" stroke-linecap="round">'
        f"{''.join(drawn)}</svg>"
        "</button>"
    )


def _path(spots: np.ndarray, there: np.ndarray, bones: list[list[int]]) -> str:
    """Bones whose ends are there; without bones a dot a keypoint."""
    if not bones:
        return "".join(f"M{x} {y}h.1" for x, y in spots[there])
    return "".join(
        f"M{spots[a][0]} {spots[a][1]}L{spots[b][0]} {spots[b][1]}" for a, b in bones if there[a] and there[b]
    )
