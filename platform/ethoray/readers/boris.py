"""BORIS behaviour labels: the event export, old or tabular, and the aggregated export.

A START without its STOP is refused: closing it at the end would label minutes that nobody saw. Behaviours of
several subjects are joined: a frame is positive when any animal shows the behaviour.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ethoray.readers.contents import Bouts, ReadError, decode, kept, number, rows, separator, stem

WHAT = "BORIS events (csv or tsv, event or aggregated export)"


def sniffs(head: bytes, path: Path) -> bool:
    """Whether a line heads a table of BORIS events."""
    return _head(decode(head)) is not None


def labels(path: Path, pose: str, ignore: Sequence[str] = ()) -> Bouts:
    """Read one file; when it holds several videos, only the events of the one that ``pose`` names."""
    text = decode(path.read_bytes())
    head = _head(text)
    if head is None:
        raise ReadError(f"{path}: no line that heads a table of BORIS events (Time,... or Start (s),...)")
    place, sep, columns = head
    _refuse_offset(path, text.splitlines()[:place])
    table = [
        (line, dict(zip(columns, cells, strict=False)))
        for line, cells in enumerate(rows("\n".join(text.splitlines()[place + 1 :]), sep), start=place + 2)
        if any(cells)
    ]
    table = _of_video(path, table, pose)
    wanted = set(kept(dict.fromkeys(row.get("behavior", "") for _, row in table), ignore))
    events = [(line, row) for line, row in table if row.get("behavior", "") in wanted]
    pairs = _aggregated(path, events) if "start (s)" in columns else _paired(path, events)
    bouts = {name: np.array(sorted(spans), dtype=np.float64) for name, spans in pairs.items()}
    return Bouts({"": bouts}, _fps(path, table))


def _head(text: str) -> tuple[int, str, list[str]] | None:
    """Line number (from 0), separator and lower-case column names of the table."""
    for place, line in enumerate(text.splitlines()[:200]):
        sep = separator(line)
        cells = [cell.lower() for cell in rows(line, sep)[0]] if line.strip() else []
        timed = "time" in cells and bool({"status", "behavior type"} & set(cells))
        if "behavior" in cells and (timed or {"start (s)", "stop (s)"} <= set(cells)):
            return place, sep, cells
    return None


def _refuse_offset(path: Path, preamble: list[str]) -> None:
    for line in preamble:
        cells = rows(line, separator(line))[0] if line.strip() else []
        if len(cells) > 1 and cells[0].lower().startswith("time offset") and cells[1] not in ("", "0", "0.0"):
            raise ReadError(
                f"{path}: a time offset of {cells[1]} s; its times do not count from the video's first frame: "
                "export again with offset 0"
            )


def _of_video(path: Path, table: list[tuple[int, dict[str, str]]], pose: str) -> list[tuple[int, dict[str, str]]]:
    column = next((c for c in ("media file path", "media file name", "media file") if table and c in table[0][1]), None)
    videos = {stem(row.get(column, "")) for _, row in table} if column else set()
    if column is None or len(videos) < 2:
        return table
    chosen = {v for v in videos if v and (v.startswith(stem(pose)) or stem(pose).startswith(v))}
    if len(chosen) != 1:
        raise ReadError(f"{path}: events of {', '.join(sorted(videos))}; not one of them is {stem(pose)!r}")
    return [(line, row) for line, row in table if stem(row.get(column, "")) in chosen]


def _paired(path: Path, events: list[tuple[int, dict[str, str]]]) -> dict[str, list[tuple[float, float]]]:
    pairs: dict[str, list[tuple[float, float]]] = {}
    running: dict[tuple[str, str], tuple[float, int]] = {}
    timed = [(number(row.get("time", ""), f"{path}, line {line}, column Time"), line, row) for line, row in events]
    for time, line, row in sorted(timed, key=lambda event: event[:2]):
        behaviour, key = row["behavior"], (row.get("subject", ""), row["behavior"])
        status = (row.get("status") or row.get("behavior type") or "").upper()
        where = f"{path}, line {line}: {behaviour!r} of {key[0] or 'no subject'!r}"
        if status == "POINT":
            pairs.setdefault(behaviour, []).append((time, time))
        elif status == "START" and key not in running:
            running[key] = (time, line)
        elif status == "STOP" and key in running:
            pairs.setdefault(behaviour, []).append((running.pop(key)[0], time))
        else:
            raise ReadError(f"{where} at {time:g} s: {status or 'no status'} out of turn; fix the pairs in BORIS")
    for (subject, behaviour), (time, line) in running.items():
        raise ReadError(
            f"{path}, line {line}: {behaviour!r} of {subject or 'no subject'!r} starts at {time:g} s and never "
            "stops; add the STOP in BORIS"
        )
    return pairs


def _aggregated(path: Path, events: list[tuple[int, dict[str, str]]]) -> dict[str, list[tuple[float, float]]]:
    pairs: dict[str, list[tuple[float, float]]] = {}
    for line, row in events:
        start = number(row["start (s)"], f"{path}, line {line}, column Start (s)")
        point = row.get("behavior type", "").upper() == "POINT"
        stop = start if point else number(row["stop (s)"], f"{path}, line {line}, column Stop (s)")
        if stop < start:
            raise ReadError(f"{path}, line {line}: stops at {stop:g} s, before it starts at {start:g} s")
        pairs.setdefault(row["behavior"], []).append((start, stop))
    return pairs


def _fps(path: Path, table: list[tuple[int, dict[str, str]]]) -> float | None:
    column = next((c for c in table[0][1] if c.startswith("fps")), None) if table else None
    stated = {row[column] for _, row in table if row.get(column or "") not in (None, "", "NA")} if column else set()
    values = {number(cell, f"{path}, column FPS") for cell in stated}
    if len(values) > 1:
        raise ReadError(f"{path}: several frame rates, {', '.join(map(str, sorted(values)))}")
    return values.pop() if values else None
