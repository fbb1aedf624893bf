"""What product codebooks of different shapes were used for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ethoray import embedding
from ethoray.figures.style import SEQUENTIAL, FigureError, save, sheet, style
from ethoray.probes._codebook import Usage, statistics

_SHOWN = {
    "codewords": "different codewords",
    "share_seen": "of what could occur (share)",
    "once": "used exactly once (share)",
    "perplexity": "perplexity of a group",
    "evenness": "entropy of the most possible (share)",
    "skewness": "skewness of the counts",
}


def codebook_usage(scores: pd.DataFrame, path: str | Path) -> list[Path]:
    """Six heat maps over groups and variables, means over seeds; SVG, PNG, and a csv with a row a run.

    Parameters
    ----------
    scores: what ``leaderboard.collect`` gave of runs with ``method.groups`` and ``method.variables``; codewords are
        those of test recordings in the stored embeddings.
    path: without a suffix.

    The grid of Baevski et al. 2020 (vq-wav2vec). Raises FigureError when no run has codewords.
    """
    runs = scores.drop_duplicates("folder")
    table = pd.DataFrame([found for _, run in runs.iterrows() if (found := _used(run))])
    if table.empty:
        raise FigureError(f"none of {len(runs)} runs stored codewords")
    with style():
        figure, axes = sheet(9.6, 4.6, rows=2, columns=3)
        for ax, (column, title) in zip(axes.flat, _SHOWN.items(), strict=True):
            grid = table.pivot_table(index="groups", columns="variables", values=column)
            values = grid.to_numpy()
            ax.imshow(values, cmap=SEQUENTIAL, aspect="auto", interpolation="nearest")
            low, high = np.nanmin(values), np.nanmax(values)
            for (y, x), value in np.ndenumerate(values):
                bright = value > (low + high) / 2
                ax.text(x, y, _brief(value), ha="center", va="center", fontsize=7, color="black" if bright else "white")
            ax.set_title(title, loc="left", fontsize=9)
            ax.set_xticks(range(len(grid.columns)), grid.columns)
            ax.set_yticks(range(len(grid.index)), grid.index)
            ax.set(xlabel="variables of a group", ylabel="groups")
        files = save(figure, path)
    raw = Path(f"{path}.csv")
    raw.write_text(table.sort_values(["groups", "variables", "seed"]).to_csv(index=False, lineterminator="\n"))
    return [*files, raw]


def _brief(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _used(run: pd.Series) -> dict[str, float]:
    """The statistics of one run's codewords; empty when it stored none."""
    groups, variables = int(run["method.groups"]), int(run["method.variables"])
    usage = Usage()
    for part in embedding.parts(Path(run["folder"]) / "embeddings"):
        rows = embedding.read_part(part)
        if embedding.CODES not in rows.schema.names:
            return {}
        lists = rows.filter(np.array(rows["split"].to_pylist()) == "test")[embedding.CODES].combine_chunks()
        codes = lists.flatten().to_numpy(zero_copy_only=False).reshape(-1, groups).astype(np.int32)
        codes = codes[(codes >= 0).all(1)]
        usage.add(codes, np.zeros((len(codes), 0)))
    words, counts, _ = usage.counted()
    if not len(words):
        return {}
    told = statistics(words, counts, variables)
    return {
        "groups": groups,
        "variables": variables,
        "seed": int(run["seed"]),
        "windows": told["vectors"],
        "codewords": told["codewords"],
        "share_possible": told["share_possible"],
        "share_seen": told["share_seen"],
        "once": told["once"] / told["codewords"],
        "perplexity": float(np.mean(told["perplexity"])),
        "evenness": told["entropy"] / told["entropy_most"] if told["entropy_most"] else 0.0,
        "skewness": told["skewness"],
    }
