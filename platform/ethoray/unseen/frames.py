"""Tables in memory, embedded like the files they could be written to."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa

from ethoray.batch import Spec
from ethoray.learning import Encoder
from ethoray.readers import ReadError, stem
from ethoray.readers.table_rows import columns
from ethoray.unseen import of_files, recall, rows


def embed_frame(
    encoder: Encoder,
    spec: Spec,
    cleaning: Sequence[str],
    table: pd.DataFrame,
    *,
    fps: float = 0.0,
    resample: bool = False,
    individuals: bool = False,
    as_is: bool = False,
) -> pd.DataFrame:
    """The rows of every recording of a long table, or of the pose files that its column path names.

    ``cleaning`` are the sentences of the training data's card, repeated here unless the tracks are clean ``as_is``.
    Raises ReadError when the table is neither, and what ``of_files`` raises.
    """
    table = table.dropna(axis=1, how="all")
    with tempfile.TemporaryDirectory() as folder:
        if "path" in table.columns:
            named = {Path(path): stem(path) for path in table["path"]}
        else:
            named = _written(table, Path(folder))
        steps = () if as_is else recall(cleaning)
        sources = of_files(list(named), spec, steps, fps=fps or None, resample=resample, names=list(named.values()))
        parts = [part for source in sources for part in rows(encoder, source, spec, individuals=individuals)]
    return pa.concat_tables(parts).to_pandas()


def _written(table: pd.DataFrame, folder: Path) -> dict[Path, str]:
    """A file for every recording of a table, and what the recording is called."""
    where = Path("table")
    named = columns(where, [str(name) for name in table.columns])
    lacking = [name for name in ("keypoint", "x", "y") if name not in named]
    lacking += [] if {"frame", "time"} & set(named) else ["frame or time"]
    if lacking:
        raise ReadError(
            f"the table has no column {', '.join(lacking)}; give a row for every frame, individual and keypoint, "
            "or the column path with pose files"
        )
    key = named.get("recording")
    groups = table.groupby(key, sort=False) if key else [("table", table)]
    written: dict[Path, str] = {}
    for name, group in groups:
        path = folder / f"{len(written)}.parquet"
        group.drop(columns=[key] if key else []).to_parquet(path, index=False)
        written[path] = str(name)
    return written
