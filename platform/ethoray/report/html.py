"""One self-contained page: no network, all text escaped, and no script runs but its own."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from pathlib import Path
from textwrap import dedent

import pandas as pd

from ethoray.report.board import board_table, runs_of
from ethoray.report.explorer import Explorer, Strip
from ethoray.report.shown import Picture
from ethoray.report.strips import pose
from ethoray.report.verdict import doubts, verdict
from ethoray.schema import Card
from ethoray.tables import Leaderboard

_RANKED = (
    "Mean over seeds with a 95 % interval over seeds and test recordings together. Bold: the best, and all that are "
)
_RANKED += "not worse than it at 5 % after Holm's correction. The place is averaged over the scores that every row has."

_FOUND = (
    "A run's folder has the name of its key; MLflow finds it by searching for <code>tags.`ethoray.key` = 'KEY'</code>."
)

_STAGE = """<div class="explorer"><div>
<div class="controls"><label>Colour by <select id="colour"></select></label></div>
<canvas id="map" width="1040" height="800" tabindex="0" role="application"
 aria-label="Map of moments. Arrow keys go to the next one, Enter plays."></canvas><div id="key"></div></div>
<div><div class="controls"><button id="play" type="button">Play</button></div>
<canvas id="stage" width="760" height="760" role="img" aria-label="The movement around the chosen moment"></canvas>
<p id="told" aria-live="polite"></p></div></div>"""


@dataclass(frozen=True)
class Content:
    """Everything a page says.

    Attributes
    ----------
    question: why the runs were made; its first paragraph heads the page.
    pictures, notes: figures, and what could not be drawn and why.
    origin: of the code, packages and data, as (what, words).
    runs: (seed, key) of every run of every row.
    published: what ``published.beside`` gave, empty when nothing is published.
    """

    title: str
    question: str
    board: Leaderboard
    card: Card | None
    command: Sequence[str]
    pictures: Sequence[Picture] = ()
    notes: Sequence[str] = ()
    origin: Sequence[tuple[str, str]] = ()
    runs: Sequence[Sequence[tuple[int, str]]] = ()
    explorer: Explorer | None = None
    shown: str = ""
    published: pd.DataFrame = field(default_factory=pd.DataFrame)


def html(content: Content) -> str:
    """The page, without its stamp."""
    parts = [
        f"<h1>{escape(content.title)}</h1>",
        *paragraphs(content.question),
        f'<p class="verdict" id="verdict">{escape(verdict(content.board))}</p>',
        *(f'<p class="doubt">Read with care: {escape(doubt)}.</p>' for doubt in doubts(content.board)),
        "<h2>Leaderboard</h2>",
        board_table(content.board),
        f'<p class="quiet">{escape(_RANKED + _lower(content))}</p>',
        *_published(content.published),
        *_explorer(content),
        *(["<h2>Figures</h2>"] if content.pictures else []),
        *(_figure(picture) for picture in content.pictures),
    ]
    if content.notes:
        parts += ["<h3>Not shown</h3>", _list(dict.fromkeys(content.notes))]
    if content.card is not None:
        parts += ["<h2>Data</h2>", _definitions(_card(content.card))]
    parts += ["<h2>Where it comes from</h2>", _definitions(content.origin)]
    if content.runs:
        parts += ["<h3>Runs</h3>", f'<p class="quiet">{_FOUND}</p>', runs_of(content.board, content.runs)]
    parts += ["<h2>Make it again</h2>", f"<pre>{escape(shlex.join(content.command))}</pre>"]
    return document(content.title, "\n".join(parts), content.explorer)


def paragraphs(text: str) -> list[str]:
    """Plain text as HTML: a paragraph where a line is empty; what is indented stays as it is, as in Markdown."""
    parts = [part.strip("\n") for part in text.strip().split("\n\n") if part.strip()]
    return [
        f"<pre>{escape(dedent(part))}</pre>" if part.startswith("    ") else f"<p>{escape(part)}</p>" for part in parts
    ]


def document(title: str, body: str, explorer: Explorer | None = None) -> str:
    """A whole page around its body, which is HTML already; only the explorer's own script may run."""
    script, policy = (
        "",
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'",
    )
    if explorer is not None:
        code = _asset("page.js")
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
        document = json.dumps(explorer.document, separators=(",", ":"), allow_nan=False)
        for letter in "<>&\u2028\u2029":
            document = document.replace(letter, f"\\u{ord(letter):04x}")
        script = f'<script id="moments" type="application/json">{document}</script>\n<script>{code}</script>\n'
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_asset('page.css')}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n{script}</body>\n</html>\n"
    )


def _asset(file: str) -> str:
    return (files("ethoray.report") / file).read_text(encoding="utf-8")


def _lower(content: Content) -> str:
    """The tasks whose scores are errors."""
    errors = [task.name for task in content.card.tasks if not task.higher_is_better] if content.card else []
    return f" Lower is better: {', '.join(errors)}." if errors else ""


def _published(table: pd.DataFrame) -> list[str]:
    """Published scores, marked as such, with ours of the same method and space and the difference."""
    if table.empty:
        return []
    rows = []
    for _, row in table.iterrows():
        ours = "–" if pd.isna(row["ours"]) else f"{row['ours']:.3f}"
        apart = "–" if pd.isna(row["difference"]) else f"{row['difference']:+.3f}"
        where = f"{row['source']}, table {row['table']}"
        rows.append((f"{row['name']} (published)", where, row["task"], f"{row['value']:g}", ours, apart, row["note"]))
    heads = ("published", "where", "task", "value", "ours", "difference", "note")
    return ["<h3>Beside what is published</h3>", table_of(heads, rows)]


def _explorer(content: Content) -> list[str]:
    if content.explorer is None:
        return []
    parts = [
        "<h2>Look around</h2>",
        f"<p>Every dot is a moment of a test recording in the embedding of {escape(content.shown)}, in the plane of "
        'its first two principal components. <span class="screen">Click one, or walk with the arrow keys, to see a '
        "second before and after it.</span></p>",
        _STAGE,
    ]
    for kind, title, words in (
        ("cluster", "What the clusters look like", "k-means of the embedding; the moments nearest to each centre."),
        ("label", "What the labels look like", "The middle of the longest bouts that were labelled."),
    ):
        rows = [strip for strip in content.explorer.strips if strip.kind == kind]
        if rows:
            how = f"{words} Half a second up to the moment, earlier poses paler."
            lines = "".join(_strip(content.explorer, strip) for strip in rows)
            parts += [f'<h3>{title}</h3><p class="quiet">{how}</p>', f'<div class="strips">{lines}</div>']
    return parts


def _strip(found: Explorer, strip: Strip) -> str:
    of = "moments" if strip.kind == "cluster" else "frames"
    drawn = (pose(found, row, f"{strip.name}, example {i + 1}") for i, row in enumerate(strip.rows))
    told = f"{escape(strip.name)}<small>{escape(strip.share)} of the {of}</small>"
    return f'<div class="name">{told}</div><div class="row">{"".join(drawn)}</div>'


def _figure(picture: Picture) -> str:
    """The SVG inside an image: its ids and text cannot meet the page's, and nothing in it can run."""
    drawing = next(path for path in picture.files if Path(path).suffix == ".svg")
    data = base64.b64encode(Path(drawing).read_bytes()).decode()
    image = f'<img alt="{escape(picture.title)}" src="data:image/svg+xml;base64,{data}">'
    caption = f"<figcaption>{escape(picture.caption)}</figcaption>" if picture.caption else ""
    return f"<figure><h3>{escape(picture.title)}</h3>{image}{caption}</figure>"


def _card(card: Card) -> list[tuple[str, str]]:
    points = len(card.skeleton.keypoints)
    told = [
        ("dataset", f"{card.name}, {card.species}, {'simulated' if card.simulated else 'recorded'}"),
        ("what it is", card.description),
        ("frames", f"{card.fps:g} a second; {points} keypoints in {card.unit}: {', '.join(card.skeleton.keypoints)}"),
        ("neural", card.neural),
        ("tasks", "; ".join(f"{t.name} ({t.kind}, {t.level}, {t.metric})" for t in card.tasks)),
        ("split", card.split_rule),
        *(("cleaning", step) for step in card.cleaning),
        *(("quality", line) for line in card.quality),
        *(("note", note) for note in card.notes),
        ("licence", card.licence),
        ("citation", card.citation),
        ("source", card.source),
        *(("checksum", line) for line in card.checksums),
    ]
    return [(what, words) for what, words in told if words]


def _definitions(pairs: Iterable[tuple[str, str]]) -> str:
    before, lines = "", []
    for what, words in pairs:
        lines.append(f"<dt>{escape(what) if what != before else ''}</dt><dd>{escape(words)}</dd>")
        before = what
    return f"<dl>{''.join(lines)}</dl>"


def table_of(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain text as HTML."""
    top = "".join(f"<th>{escape(head)}</th>" for head in heads)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _list(texts: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>"
