"""Says which pages of a folder are stale: ``python -m ethoray.report.check reports``; status 1 when there are any."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from ethoray.report.stamp import check


def main(words: Sequence[str] | None = None) -> int:
    """Print a line a stale page; the status is 0 without any, 1 with some, 2 for a folder that is not there."""
    folders = [Path(word) for word in (sys.argv[1:] if words is None else words)] or [Path("reports")]
    for folder in folders:
        if not folder.is_dir():
            print(f"{folder}: no such folder", file=sys.stderr)
            return 2
    found = [line for folder in folders for line in check(folder)]
    print("\n".join(found) if found else "no stale page")
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
