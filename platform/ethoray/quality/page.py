"""A page about a dataset's quality before training: warnings first, then figures. One HTML file, without a network."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from ethoray.quality import findings, motion
from ethoray.schema import Card

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#999999"
"""Of Okabe & Ito (2008): told apart with every common colour blindness."""

_STYLE: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "text.parse_math": False}
_ROWS, _LETTERS = 40, 28  # of a heat map; of a name in a figure
_CSS = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .4rem; }
p, li { max-width: 46rem; } .quiet { color: #555; } figure { margin: .5rem 0; break-inside: avoid; }
figure img { max-width: 100%; } figcaption { color: #555; font-size: .9rem; max-width: 46rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; } tr { break-inside: avoid; }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #ddd; vertical-align: top;
  overflow-wrap: anywhere; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.mark { color: #D55E00; width: 1rem; }
@media print { body { margin: 0; font-size: 10pt; max-width: none; } h2 { break-after: avoid; } }
"""


def page(dataset: str, card: Card, document: Mapping[str, Any]) -> str:
    """The page as HTML; everything that came from files is escaped.

    Parameters
    ----------
    dataset: the name that heads it.
    card: what the dataset is, and how it was cleaned.
    document: what ``Quality.document`` gave.
    """
    fine = "Nothing was found that needs a look before training."
    warned = findings.warnings(document)
    told = f"{card.species}, {card.fps:g} frames per second, {card.split_rule}"
    parts = [
        f"<h1>{escape(dataset)}</h1><p class='quiet'>{escape(told)}</p>",
        "<h2>Look at this before training</h2>",
        _table([("", "mark"), ("", "")], [("&#9650;", escape(text)) for text in warned], False)
        if warned
        else f"<p>{fine}</p>",
        "<h2>What was counted</h2>" + _list(findings.lines(document)),
        "<h2>Cleaning</h2>"
        + (_list(card.cleaning) if card.cleaning else "<p>None; the tracks are as they were read.</p>"),
    ]
    if card.notes:
        parts.append("<h2>Notes</h2>" + _list(card.notes))
    for title, caption, figure in _figures(document):
        image = f"<img alt='{escape(title)}' src='data:image/svg+xml;base64,{_svg(figure)}'>"
        parts.append(f"<h2>{escape(title)}</h2><figure>{image}<figcaption>{escape(caption)}</figcaption></figure>")
    parts.append("<h2>Recordings</h2>" + _recordings(document))
    head = f"<meta charset='utf-8'><title>Quality of {escape(dataset)}</title><style>{_CSS}</style>"
    rules = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    policy = f'<meta http-equiv="Content-Security-Policy" content="{rules}">'
    body = "\n".join(parts)
    return f"<!doctype html>\n<html lang='en'><head>{policy}{head}</head>\n<body>\n{body}\n</body></html>\n"


def _list(texts: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"


def _table(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]], head: bool = True) -> str:
    """A table of cells that are HTML already."""
    top = "".join(f"<th class='{kind}'>{name}</th>" for name, kind in columns)
    cells = (
        "<tr>"
        + "".join(f"<td class='{kind}'>{cell}</td>" for cell, (_, kind) in zip(row, columns, strict=True))
        + "</tr>"
        for row in rows
    )
    return f"<table>{f'<thead><tr>{top}</tr></thead>' if head else ''}<tbody>{''.join(cells)}</tbody></table>"


def _recordings(document: Mapping[str, Any]) -> str:
    """The recordings that are worst tracked, with their longest step."""
    entries, points = document["recordings"], max(len(document["keypoints"]), 1)

    def lost(entry: Mapping[str, Any]) -> float:
        return float(sum(entry["missing"]) / max(entry["frames"] * points * entry["individuals"], 1))

    order = sorted(entries, key=lambda name: (-lost(entries[name]), name))
    rows = []
    for name in order[:_ROWS]:
        entry = entries[name]
        jumped = entry["jumped"] or ["", ""]
        where = f" ({escape(str(jumped[1]))}, frame {jumped[0]})" if entry["jumped"] else ""
        rows.append(
            (
                escape(name), escape(entry["split"]), f"{entry['frames'] / document['fps']:.1f}",
                f"{100 * lost(entry):.1f}", str(entry["swaps"]), f"{entry['longest_step']:.3g}{where}",
            )
        )  # fmt: skip
    unit = escape(document["unit"])
    names = ("recording", "split", "seconds", "% missing", "exchanges", f"longest step, {unit}")
    table = _table([(name, "number" if 1 < i < 5 else "") for i, name in enumerate(names)], rows)
    more = f"<p class='quiet'>The {_ROWS} that miss most of {len(order)}.</p>" if len(order) > _ROWS else ""
    return more + table


def _figures(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Figure]]:
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        if document["keypoints"]:
            yield "Missing keypoints", "Share of frames in which a keypoint is missing, in per cent.", _heat(document)
            if any(map(sum, document["confidence"])):
                caption = "How often a keypoint has each confidence; dark is often, each row on a scale of its own."
                yield "Confidence", caption, _confidence(document)
            caption = (
                "Steps of each keypoint between frames: median (dot), nine tenths and 99 % (line), longest (circle). "
                "The bar is where jumps begin: five times the ninth decile, and half a body at least."
            )
            yield "Steps and jumps", caption, _steps(document)
        if any(sum(task["values"]) for tasks in document["labels"].values() for task in tasks.values()):
            caption = "Positive share of the labelled frames or recordings, in per cent; behind it the number of bouts."
            if any(kind == "binary" for _, kind, _, _ in document["tasks"]):
                yield "Label balance", caption, _balance(document)
        if len(document["recordings"]) > 1:
            yield "Lengths", "How long the recordings are.", _lengths(document)


def _short(name: str) -> str:
    text = "".join(c if c.isprintable() else " " for c in name)
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS // 2]}...{text[-_LETTERS // 2 + 3 :]}"


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _heat(document: Mapping[str, Any]) -> Figure:
    """Keypoint by individual, or by recording when there is one individual a recording."""
    entries = document["recordings"]
    if len(document["individuals"]) > 1 or len(entries) == 1:
        rows = {name: 100 * share for name, share in findings.share_missing(document).items()}
    else:
        rows = {n: 100 * np.array(e["missing"]) / max(e["frames"] * e["individuals"], 1) for n, e in entries.items()}
    order = sorted(rows, key=lambda name: -float(np.sum(rows[name])))[:_ROWS] if len(rows) > _ROWS else list(rows)
    values = np.array([rows[name] for name in order])
    top = max(float(values.max()), 5.0)  # a dark cell is one to worry about
    figure, ax = _axes(min(1.8 + 0.42 * values.shape[1], 9), 1.5 + 0.26 * len(order))
    ax.imshow(values, cmap="cividis_r", vmin=0, vmax=top, aspect="auto")
    ax.set_yticks(range(len(order)), [_short(name) for name in order])
    points = range(values.shape[1])
    ax.set_xticks(
        points, [_short(name) for name in document["keypoints"]], rotation=45, ha="right", rotation_mode="anchor"
    )
    for side in ax.spines.values():
        side.set_visible(False)
    if values.shape[1] <= 20:
        for (row, column), value in np.ndenumerate(values):
            colour = "white" if value > 0.5 * top else "black"
            text = f"{value:.0f}" if not 0 < value < 9.95 else f"{value:.1f}"
            ax.text(column, row, text, ha="center", va="center", color=colour, fontsize=7)
    return figure


def _confidence(document: Mapping[str, Any]) -> Figure:
    counts = np.array(document["confidence"], dtype=np.float64)
    shares = counts / np.maximum(counts.max(1, keepdims=True), 1)
    figure, ax = _axes(6.0, 0.9 + 0.24 * len(counts))
    ax.imshow(shares, cmap="cividis_r", vmin=0, vmax=1, aspect="auto", extent=(0, 1, len(counts) - 0.5, -0.5))
    ax.set_yticks(range(len(counts)), [_short(name) for name in document["keypoints"]])
    ax.set_xlabel("confidence")
    return figure


def _steps(document: Mapping[str, Any]) -> Figure:
    from matplotlib.ticker import FuncFormatter

    names, jumps, edges = document["keypoints"], findings.jumps(document), motion.edges()
    figure, ax = _axes(6.5, 0.9 + 0.24 * len(names))
    for row, (name, packed) in enumerate(zip(names, document["steps"], strict=True)):
        counts = findings.dense(packed)
        if not counts.sum():
            continue
        middle, often, seldom = (motion.quantile(counts, q) for q in (0.5, 0.9, 0.99))
        count, _, begins = jumps[name]
        ax.plot([often, seldom], [row, row], color=BLUE, lw=2)
        ax.plot(middle, row, "o", color=BLUE, ms=5)
        ax.plot(edges[np.flatnonzero(counts)[-1]], row, "o", mfc="none", color=GREY, ms=5)
        if begins > 0:
            ax.plot(begins, row, "|", color=VERMILION, ms=11, mew=2)
        ax.text(1.02, row, f"{count}", transform=ax.get_yaxis_transform(), va="center", fontsize=8)
    ax.text(1.02, -1, "jumps", transform=ax.get_yaxis_transform(), va="center", fontsize=8, color=VERMILION)
    ax.set_xscale("symlog", linthresh=0.1)
    ax.set_xlim(left=0)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set_ylim(len(names) - 0.4, -0.7)
    ax.set_yticks(range(len(names)), [_short(name) for name in names])
    ax.set_xlabel(f"step from frame to frame, {document['unit']}")
    ax.grid(axis="x", color="0.9", linewidth=0.6)
    ax.set_axisbelow(True)
    return figure


def _balance(document: Mapping[str, Any]) -> Figure:
    tasks = [name for name, kind, _, _ in document["tasks"] if kind == "binary"]
    splits = sorted(document["labels"], key=lambda split: (split != "train", split))
    figure, ax = _axes(6.5, 1.0 + 0.2 * len(tasks) * max(len(splits), 1))
    height = 0.8 / max(len(splits), 1)
    for index, split in enumerate(splits):
        for row, name in enumerate(tasks):
            mine = document["labels"][split][name]
            total = sum(mine["values"])
            share = 100 * mine["values"][1] / total if total else 0.0
            place = row - 0.4 + (index + 0.5) * height
            ax.barh(place, share, height * 0.9, color=(BLUE, VERMILION, GREEN, GREY)[index % 4],
                    label=_short(split) if row == 0 else None)  # fmt: skip
            many = mine["bouts"] or (mine["values"][1] if total else 0)
            text = f" {share:.3g} % · {many}" if total else " no label"
            ax.text(share, place, text, va="center", fontsize=7)
    ax.set_yticks(range(len(tasks)), [_short(name) for name in tasks])
    ax.invert_yaxis()
    ax.margins(x=0.18)
    ax.set_xlim(left=0)
    ax.set_xlabel("positive, % of what is labelled")
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def _lengths(document: Mapping[str, Any]) -> Figure:
    seconds = np.array([entry["frames"] for entry in document["recordings"].values()]) / document["fps"]
    figure, ax = _axes(6.0, 2.0)
    span = (0.9 * seconds.min(), 1.1 * seconds.max()) if np.ptp(seconds) == 0 else None
    ax.hist(seconds, bins=30, range=span, color=BLUE)
    ax.set_xlabel("seconds")
    ax.set_ylabel("recordings")
    return figure


def _svg(figure: Figure) -> str:
    import matplotlib as mpl

    text = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "quality"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return base64.b64encode(text.getvalue()).decode()
