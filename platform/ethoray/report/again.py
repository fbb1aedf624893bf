"""Pages that are made again from runs, and one page over all datasets that a question was asked on.

A sweep leaves its page in ``<storage>/<sweep>/<dataset>/`` with a memo of what it was made of. From the memos every
page is written again, in another folder, as long as the runs are there.
"""

from __future__ import annotations

import difflib
import json
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from ethoray import store
from ethoray.leaderboard import collect, leaderboard
from ethoray.report import page, stamp
from ethoray.report.html import document, paragraphs, table_of
from ethoray.report.verdict import shared_scores, verdict
from ethoray.schema import Card, check_name
from ethoray.tables import Leaderboard
from ethoray.tracking.naming import MEMO

SMOKE = "-smoke"


class PageError(ValueError):
    """Nothing to make pages of; the message says where was looked."""


@dataclass(frozen=True)
class Memo:
    """What a page was made of.

    Attributes
    ----------
    title, question: its head.
    dataset: the name of the dataset.
    runs: names of the run folders, which are siblings of the folder of the sweep, and what it drew for each, in words.
    command: makes the runs and the page.
    pictures: files beside the memo.
    """

    title: str
    question: str
    dataset: str
    runs: Mapping[str, str]
    command: tuple[str, ...]
    pictures: tuple[str, ...] = ()

    def write(self, folder: Path) -> None:
        """Put it beside the page."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MEMO).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Memo:
        """The memo of a file; PageError when it is none."""
        try:
            told: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(path.read_text()).items()
            }
            for name in (*told["runs"], *told.get("pictures", ())):
                check_name(name, "file")  # a memo may come from a server
            return cls(**{**told, "runs": dict(told["runs"])})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise PageError(f"{path}: not the memo of a page ({error}); run its sweep again") from None


@dataclass(frozen=True)
class Made:
    """A page that was written: its memo, what it judged, and its files."""

    memo: Memo
    board: Leaderboard
    card: Card
    files: tuple[Path, ...]


def sweeps(storage: Path, name: str | None = None) -> dict[str, list[Path]]:
    """Memos in the folder of the runs by the title of their sweep: of all that are no smoke test, or of one."""
    found: dict[str, list[Path]] = {}
    for path in sorted(storage.glob(f"*/*/{MEMO}")):
        title = path.parent.parent.name
        if title == name or (name is None and not title.endswith(SMOKE)):
            found.setdefault(title, []).append(path)
    return found


def rewrite(storage: Path, out: Path, name: str | None = None) -> Iterator[Path]:
    """Write the pages of all sweeps, or of one, under ``out``; gives every file.

    A sweep's pages are ``out/<sweep>/<dataset>/leaderboard.*``, the one over all its datasets ``out/<sweep>.*``.
    Raises PageError when there is no memo, or none of a page's runs is finished.
    """
    found = sweeps(storage, name)
    if not found:
        raise PageError(f"{storage}: no sweep {name or ''} has a page there; run one first (sweeps/)")
    for title, memos in found.items():
        pages = []
        for path in memos:
            made = _again(Memo.read(path), path.parent, storage, out / title / path.parent.name)
            yield from made.files
            pages.append(made)
        yield from overview(out, title, pages)


def pages(storage: Path, out: Path, name: str | None = None) -> Iterator[Path]:
    """Write the pages of a sweep or a dataset; without a name of all sweeps, and of the datasets that none was run on.

    A dataset's page is ``out/<dataset>/leaderboard.*`` and holds all its finished runs. Raises PageError when nothing
    of that name was run.
    """
    found = sweeps(storage, name)
    if found:
        yield from rewrite(storage, out, name)
    if name is not None and found:
        return
    asked = {storage / run for memos in found.values() for path in memos for run in Memo.read(path).runs}
    runs: dict[str, list[Path]] = {}
    names: dict[str, str] = {}
    for scores in sorted(storage.glob("*/scores.json")):
        told = json.loads((scores.parent / "provenance.json").read_text())["dataset"]
        runs.setdefault(told["uri"], []).append(scores.parent)
        names[told["uri"]] = told["name"]
    chosen = [uri for uri in runs if (names[uri] == name if name is not None else not asked & {*runs[uri]})]
    if not chosen and not found:
        known = sorted({*names.values(), *sweeps(storage)})
        near = difflib.get_close_matches(name or "", known, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise PageError(f"{storage}: no finished runs of {name or 'any dataset'}{hint} (there are: {', '.join(known)})")
    for uri in chosen:
        card = store.reopen(uri).card
        question = f"Which method tells the behaviours of {card.name} apart best?"
        command = ["ethoray", "report", card.name]
        yield from page(out / card.name, card.name, question, collect(runs[uri], card), card, command)


def _again(memo: Memo, beside: Path, storage: Path, out: Path) -> Made:
    folders = [storage / run for run in memo.runs if (storage / run / "scores.json").exists()]
    if not folders:
        raise PageError(f"{beside / MEMO}: none of its {len(memo.runs)} runs is finished in {storage}")
    told = json.loads((folders[0] / "provenance.json").read_text())["dataset"]
    card = store.reopen(told["uri"]).card
    scores = collect(folders, card, memo.runs)
    out.mkdir(parents=True, exist_ok=True)
    pictures = [out / picture for picture in memo.pictures if (beside / picture).exists()]
    for picture in pictures:
        shutil.copyfile(beside / picture.name, picture)
    title, board = f"{memo.title}: {memo.dataset}", leaderboard(scores)
    files = page(out, title, memo.question, scores, card, memo.command, pictures, board=board)
    return Made(memo, board, card, (*files, *pictures))


def overview(out: Path, title: str, pages: Sequence[Made]) -> list[Path]:
    """One page over the datasets of a sweep, as ``<title>.md``, ``.html`` and ``.csv``: who is best, and how often.

    A score counts for a candidate when it is the best there or not worse than the best by the paired tests.
    """
    table = summary({made.memo.dataset: made.board for made in pages})
    question = pages[0].memo.question.strip()
    commands = [shlex.join(made.memo.command) for made in pages]
    told = [(made, verdict(made.board), _about(made.card)) for made in pages]
    shown = _shown(table)
    lines = [
        f"# {title}\n",
        question + "\n",
        *(
            f"**On {made.memo.dataset}** ({about}): {words} [The page]({title}/{made.memo.dataset}/leaderboard.md).\n"
            for made, words, about in told
        ),
        _RULE + "\n",
        _markdown(shown),
        "Made by:\n",
        *(f"    {command}" for command in dict.fromkeys(commands)),
    ]
    body = [f"<h1>{escape(title)}</h1>", *paragraphs(question)]
    for made, words, about in told:
        link = f"{title}/{made.memo.dataset}/leaderboard.html"
        body.append(f"<h2>{escape(made.memo.dataset)}</h2><p>{escape(about)}</p>")
        body.append(f'<p class="verdict">{escape(words)}</p><p><a href="{escape(link)}">the page</a></p>')
    body += [
        "<h2>All together</h2>",
        f'<p class="quiet">{escape(_RULE)}</p>',
        table_of(list(shown.columns), shown.to_numpy().tolist()),
    ]
    body += ["<h2>Make it again</h2>", *(f"<pre>{escape(command)}</pre>" for command in dict.fromkeys(commands))]
    raw = table.to_csv(index=False, lineterminator="\n")
    out.mkdir(parents=True, exist_ok=True)
    texts = {".md": "\n".join(lines) + "\n", ".csv": raw, ".html": stamp.stamped(document(title, "\n".join(body)), raw)}
    written = [out / f"{title}{suffix}" for suffix in texts]
    for file, text in zip(written, texts.values(), strict=True):
        file.write_bytes(text.encode())
    return written


_RULE = (
    "Per dataset: in how many of the scores that every candidate has it is the best, or not worse than the best at 5 % "
    "after Holm's correction, and its mean place. Sorted by the share of all scores, then by place."
)


def summary(boards: Mapping[str, Leaderboard]) -> pd.DataFrame:
    """A row a candidate and dataset: candidate, dataset, best (a count), scores (of how many), place (mean)."""
    rows = []
    for dataset, board in boards.items():
        scores = shared_scores(board)
        for row in board.rows:
            good = sum(score in row["ties"] for score in scores)
            rows.append((board.name(row), dataset, good, len(scores), float(row["rank"])))
    return pd.DataFrame(rows, columns=["candidate", "dataset", "best", "scores", "place"])


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """The summary as text, a column a dataset."""
    counted = table.groupby("candidate")[["best", "scores"]].sum()
    counted["share"] = counted["best"] / counted["scores"].clip(lower=1)
    counted["place"] = table.groupby("candidate")["place"].mean()
    order = counted.sort_values(["share", "place"], ascending=[False, True], kind="stable").index
    text = table.assign(told=[f"{r.best} of {r.scores}, place {r.place:.1f}" for r in table.itertuples()])
    wide = text.pivot_table(index="candidate", columns="dataset", values="told", aggfunc="first", sort=False)
    wide = wide.reindex(order).fillna("–")
    wide["all"] = [f"{int(counted['best'][c])} of {int(counted['scores'][c])}" for c in wide.index]
    return wide.reset_index()


def _markdown(table: pd.DataFrame) -> str:
    rows = [list(table.columns), ["---"] * table.shape[1], *table.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(c).replace("|", "\\|") for c in row) + " |" for row in rows) + "\n"


def _about(card: Card) -> str:
    return f"{card.species}, {'simulated' if card.simulated else 'recorded'}; {card.split_rule}"
