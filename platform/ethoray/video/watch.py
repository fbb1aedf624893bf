"""Whether a silent process hangs, or only waits for its turn on a busy machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass
class Silence:
    """How long a process has said nothing, in seconds that were its own fault.

    Seconds asleep count, and seconds of processor time; waiting for a processor does not, however long it lasts. So a
    decoder that sleeps for ever or computes for ever is found out, and one on a machine that has no time for it is not.
    """

    pid: int
    seconds: float = 0.0
    spent: float | None = None

    def lasted(self, step: float) -> float:
        """After another ``step`` seconds without a word: how long the silence is by now."""
        about = activity(self.pid)
        if about is None or not about[1]:
            self.seconds += step
        elif self.spent is not None:
            self.seconds += about[0] - self.spent
        self.spent = None if about is None else about[0]
        return self.seconds


def activity(pid: int) -> tuple[float, bool] | None:
    """Processor seconds that a process has used, and whether a thread of it runs or could; None where nobody says."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        threads = [Path(f"/proc/{pid}/task/{name}/stat") for name in os.listdir(f"/proc/{pid}/task")]
        states = [t.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0] for t in threads]
    except (OSError, IndexError):
        return None
    return (int(fields[11]) + int(fields[12])) / _TICK, "R" in states
