"""The command line: prepare, train, embed, score, judge, report, ui.

    ethoray prepare tracks.csv --labels events.csv --fps 30 --out cage
    ethoray train cage bams --steps 2000 --seeds 0 1 2

Whatever takes long to import is imported by the verb that needs it, so that --help answers at once. An error
that the package foresees is one line on stderr and exit status 2; ``--debug`` shows where it came from.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence

import tyro

from ethoray.cli.data import prepare
from ethoray.cli.running import report, train, ui
from ethoray.cli.using import embed, judge, score

VERBS: dict[str, Callable[..., None]] = {v.__name__: v for v in (prepare, train, embed, score, judge, report, ui)}


def main(words: Sequence[str] | None = None) -> None:
    """The ``ethoray`` command; ends the process with status 0, 2 (a foreseen error), 1 (any other) or 130."""
    words = list(sys.argv[1:] if words is None else words)
    debug = "--debug" in words or os.environ.get("ETHORAY_DEBUG") == "1"
    logging.basicConfig(format="%(message)s", level=logging.INFO if debug else logging.WARNING)
    try:
        tyro.extras.subcommand_cli_from_dict(
            VERBS,
            prog="ethoray",
            description="Behaviour embeddings of animals: trained, swept and judged under one evaluator.",
            args=[word for word in words if word != "--debug"],
        )
    except KeyboardInterrupt:
        print("\ninterrupted; the same command continues", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if debug or not _foreseen(error):
            traceback.print_exc()
            sys.exit(2 if _foreseen(error) else 1)
        print(f"ethoray: {error}", file=sys.stderr)
        sys.exit(2)


def _foreseen(error: Exception) -> bool:
    """Whether the message is written for the user: the package's own errors, and the operating system's."""
    return type(error).__module__.split(".")[0] == "ethoray" or isinstance(error, OSError)
