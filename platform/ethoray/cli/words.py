"""The words that verbs share: what they take, and which folder and settings they mean."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import tyro

Poses = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="POSES...")]
Data = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
Named = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="METHOD")]
Run = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
Judged = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|EMBEDDINGS")]
Probed = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PROBE")]
Examined = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|EMBEDDINGS|keypoints|METHOD")]
Files = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILES...")]
AnyData = Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[DATASET]")]
Settings = Annotated[tuple[str, ...], tyro.conf.arg(name="set", metavar="FIELD=VALUE...")]
Switch = tyro.conf.FlagCreatePairsOff[bool]


def runs(storage: Path | None) -> Path:
    """The folder of the runs: the one given, $ETHORAY_RUNS, or runs/."""
    return Path(storage or os.environ.get("ETHORAY_RUNS") or "runs").resolve()


def given(**options: Any) -> dict[str, Any]:
    """The options that were typed; the others keep the defaults of whatever takes them."""
    return {name: value for name, value in options.items() if value is not None}
