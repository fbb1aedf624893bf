"""What a method learned, as figures: forecasts beside what came, codebooks in use, reconstructed poses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ethoray.figures.style import SEQUENTIAL, FigureError, bare, colour, logarithmic, save, sheet, shown, style
from ethoray.schema import Skeleton

_QUANTITIES = 6


def forecast(
    told: np.ndarray,
    true: np.ndarray,
    edges: np.ndarray,
    names: Sequence[str],
    seconds: Sequence[float],
    path: str | Path,
) -> list[Path]:
    """Forecast against true histograms of the second that follows, as BAMS' figures 8 and 9; SVG and PNG.

    Parameters
    ----------
    told, true: shares (moment, quantity, bin); a histogram of nothing is NaN.
    edges: between bins (quantity, bins - 1).
    names: of the quantities; the first six are drawn, a row each.
    seconds: of the moments, a column each.
    """  # fmt: skip
    if told.shape != true.shape or told.shape[:2] != (len(seconds), len(names)) or told.ndim != 3:
        raise FigureError(f"forecasts {told.shape} and truth {true.shape} are not (moment, quantity, bin)")
    few = min(len(names), _QUANTITIES)
    with style():
        figure, axes = sheet(1.55 * len(seconds) + 0.8, 1.05 * few + 0.7, few, len(seconds), sharey="row", sharex="row")
        for q in range(few):
            step = float(np.diff(edges[q]).mean())
            walls = np.concatenate([[edges[q][0] - step], edges[q], [edges[q][-1] + step]])
            for m, ax in enumerate(axes[q]):
                ax.stairs(np.nan_to_num(true[m, q]), walls, fill=True, color="0.78", linewidth=0, label="what came")
                ax.stairs(told[m, q], walls, color=colour(1), lw=1.2, label="forecast")
                ax.tick_params(labelsize=6)
                if q == 0:
                    ax.set_title(f"after {seconds[m]:.1f} s", fontsize=8)
            axes[q, 0].set_ylabel(shown(names[q]), fontsize=7, rotation=0, ha="right", va="center")
        handles, words = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, words, loc="outside lower center", ncols=2, frameon=False)
        return save(figure, path)


def codebook(counts: np.ndarray, path: str | Path) -> list[Path]:
    """How often each code of each group is used, (group, code), as a heat map; SVG and PNG.

    The codes of a group are sorted by use and shown as shares on a logarithmic scale; white was never used. Perplexity,
    at the right, is how many codes would do if all were used alike.
    """
    counts = np.asarray(counts, dtype=np.float64)
    share = np.sort(counts / np.maximum(counts.sum(1, keepdims=True), 1), axis=1)[:, ::-1]
    logs = np.log10(np.where(share > 0, share, 1))
    with style():
        figure, axes = sheet(6.4, max(1.9, 0.9 + 0.13 * len(counts)))
        ax = axes[0, 0]
        shades = np.ma.masked_where(share <= 0, logs)
        low = float(shades.min()) if shades.count() else -1.0
        picture = ax.imshow(
            shades, aspect="auto", cmap=SEQUENTIAL, vmin=min(low, -0.1), vmax=0, interpolation="nearest"
        )
        ax.set(xlabel="code, most used first", ylabel="group of the codebook")
        ax.set_yticks(range(len(counts)) if len(counts) <= 8 else range(0, len(counts), 8))
        for y, mine in enumerate(share if len(counts) <= 16 else ()):
            ax.annotate(
                f"{perplexity(mine):.1f}", (1.01, y), xycoords=("axes fraction", "data"), fontsize=7, va="center"
            )
        if len(counts) <= 16:
            ax.annotate("perplexity", (1.01, 1.02), xycoords="axes fraction", fontsize=7)
        bar = figure.colorbar(picture, ax=ax, pad=0.09 if len(counts) <= 16 else 0.03, shrink=0.9)
        bar.set_label("share of the group (log10)", fontsize=8)
        return save(figure, path)


def rank_frequency(codewords: Mapping[str, np.ndarray], path: str | Path) -> list[Path]:
    """Counts of distinct codewords, most frequent first, on logarithmic axes, a line a name; SVG and PNG.

    ``codewords`` are integers (window, group); a codeword is the whole row. The thin line is Zipf's law, 1 / rank.
    """
    with style():
        figure, axes = sheet(4.6, 3.2)
        ax = axes[0, 0]
        for i, (name, words) in enumerate(codewords.items()):
            counts = frequencies(words)
            if len(counts):
                once = int((counts == 1).sum())
                text = f"{shown(name)}: {len(counts):,} codewords, {once:,} used once"
                ax.plot(np.arange(1, len(counts) + 1), counts, color=colour(i), lw=1.6, label=text)
        top = max((frequencies(words)[:1].sum() for words in codewords.values()), default=1)
        longest = max((len(frequencies(words)) for words in codewords.values()), default=1)
        ranks = np.array([1, max(longest, 2)])
        ax.plot(ranks, max(top, 1) / ranks, color="0.7", lw=0.8, ls="--", label="1 / rank")
        ax.set(xlabel="rank of a codeword", ylabel="windows", ylim=(0.7, None))
        logarithmic(ax.xaxis)
        logarithmic(ax.yaxis)
        ax.legend(fontsize=7, frameon=False)
        return save(figure, path)


def frequencies(words: np.ndarray) -> np.ndarray:
    """How often each distinct row of (window, group) occurs, largest first."""
    words = np.ascontiguousarray(words)
    return np.sort(np.unique(words, axis=0, return_counts=True)[1])[::-1] if words.size else np.zeros(0, dtype=int)


def perplexity(share: np.ndarray) -> float:
    """exp(entropy) of shares that add up to one; 0 where nothing is used."""
    used = share[share > 0]
    return float(np.exp(-(used * np.log(used)).sum())) if used.size else 0.0


def poses(
    rows: Mapping[str, Sequence[np.ndarray]], skeleton: Skeleton, path: str | Path, *, upright: bool = True
) -> list[Path]:
    """A row of example movements a name: keypoints (time, individual, keypoint, 2), earlier poses paler; SVG and PNG.

    Every example has its own frame, which holds all of its animals; ``upright`` puts the second axis upwards, which
    image coordinates are not.
    """
    columns = max((len(examples) for examples in rows.values()), default=1)
    with style():
        figure, axes = sheet(1.3 * columns + 1.2, 1.3 * max(len(rows), 1), max(len(rows), 1), max(columns, 1))
        for ax in axes.flat:
            bare(ax)
        for line, (name, examples) in zip(axes, rows.items(), strict=False):
            line[0].set_ylabel(shown(name), rotation=0, ha="right", va="center", fontsize=8)
            for ax, clip in zip(line, examples, strict=False):
                for t, frame in enumerate(clip):
                    for animal, points in enumerate(frame):
                        faint = (t + 1) / len(clip)
                        for a, b in skeleton.bones:
                            ax.plot(*points[[a, b]].T, color=colour(animal), lw=0.9, alpha=faint)
                        if not skeleton.bones:
                            ax.plot(*points.T, ".", ms=2, color=colour(animal), alpha=faint)
                ax.set_aspect("equal", adjustable="datalim")
                if not upright:
                    ax.invert_yaxis()
        return save(figure, path)


def rebuilt(images: np.ndarray, seen: np.ndarray, made: np.ndarray, path: str | Path) -> list[Path]:
    """Images, what a masked autoencoder was shown of them, and what it made of that, a column an image; SVG and PNG.

    All are uint8 (image, height, width, 3).
    """
    with style():
        figure, axes = sheet(1.3 * len(images), 4.1, rows=3, columns=len(images))
        for row, (title, pictures) in zip(axes, (("image", images), ("shown", seen), ("rebuilt", made)), strict=True):
            for ax, picture in zip(row, pictures, strict=True):
                ax.imshow(picture, interpolation="nearest")
                bare(ax)
            row[0].set_ylabel(title, fontsize=9)
        return save(figure, path)
