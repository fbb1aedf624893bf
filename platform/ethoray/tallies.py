"""What every test recording adds to every score of a run: kept, so that runs can be compared recording by recording.

One Parquet file a run, a row a score and recording: score, rule (a name in ``metrics.RULES``), recording, shape and
values. The values of all recordings, added up, are what the rule turns into the score.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ethoray import metrics
from ethoray.probes import Score

FILE = "tallies.parquet"
_SCHEMA = pa.schema(
    [
        ("score", pa.string()),
        ("rule", pa.string()),
        ("recording", pa.string()),
        ("shape", pa.list_(pa.int32())),
        ("values", pa.list_(pa.float64())),
    ]
)


@dataclass(frozen=True)
class Tallies:
    """Of one score: the recordings' names and, float64 (recording, ...), what each adds."""

    rule: str
    names: tuple[str, ...]
    values: np.ndarray

    def value(self) -> float:
        """The score itself."""
        return float(metrics.RULES[self.rule](self.values.sum(0)))


def write(folder: Path, scores: Iterable[Score]) -> None:
    """Keep the tallies of those scores that have them; whole or not at all."""
    rows = [
        (s.name, s.rule, name, list(values.shape), values.ravel().tolist())
        for s in scores
        if s.tallies is not None
        for name, values in zip(s.names, s.tallies, strict=True)
    ]
    arrays = [pa.array([row[i] for row in rows], field.type) for i, field in enumerate(_SCHEMA)]
    beside = folder / f".{FILE}.{os.getpid()}"
    pq.write_table(pa.table(arrays, schema=_SCHEMA), beside, compression="zstd", store_schema=False)
    beside.replace(folder / FILE)


def read(folder: str | Path) -> dict[str, Tallies]:
    """By score; empty for a run from before tallies were kept."""
    path = Path(folder) / FILE
    if not path.exists():
        return {}
    table = pq.ParquetFile(path).read()
    scores = np.asarray(table["score"].to_pylist(), dtype=object)
    recordings, rules = table["recording"].to_pylist(), table["rule"].to_pylist()
    shapes, values = table["shape"].to_pylist(), table["values"].to_pylist()
    found = {}
    for name in dict.fromkeys(scores):
        rows = np.flatnonzero(scores == name)
        stacked = np.asarray([values[i] for i in rows]).reshape(len(rows), *shapes[rows[0]])
        found[str(name)] = Tallies(rules[rows[0]], tuple(recordings[i] for i in rows), stacked)
    return found
