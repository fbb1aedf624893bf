"""What keeps one process from another's folder, and a process that hangs from hanging for ever.

The kernel keeps both promises: it lets go of a lock when the process that held it dies, however it dies, and it
needs no interpreter that answers to end a process whose time is up.
"""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HUNG = "hung.txt"
"""File of a run folder: what every thread was doing when its process was ended."""

_LONGEST = 10 * 365 * 86400.0  # seconds; a clock in C has an end


class Taken(OSError):
    """Another living process holds this place."""


@contextmanager
def alone(place: Path, wait: bool = True) -> Iterator[None]:
    """Work in a folder, or under a file, as the only process that does.

    Waits until the one before has ended, or raises Taken when it is not to ``wait``. Where the file system knows
    no such lock, nothing is held.
    """
    if place.suffix:
        place.parent.mkdir(parents=True, exist_ok=True)
        held = os.open(place, os.O_RDWR | os.O_CREAT, 0o644)
    else:
        place.mkdir(parents=True, exist_ok=True)
        held = os.open(place, os.O_RDONLY)
    try:
        _lock(held, wait, place)
        yield
    finally:
        os.close(held)


def _lock(held: int, wait: bool, place: Path) -> None:
    try:
        import fcntl  # absent on Windows

        fcntl.flock(held, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise Taken(f"{place} is held by another process") from None
    except (ImportError, OSError):
        return


@contextmanager
def signs_of_life(trace: Path, seconds: float) -> Iterator[Callable[[], None]]:
    """End this process when what is yielded has not been called for so long; the file ``trace`` then says where.

    A thread in C waits, so a loop that never returns to the interpreter is ended too.
    """
    with trace.open("w") as file:

        def alive() -> None:
            faulthandler.dump_traceback_later(min(seconds, _LONGEST), exit=True, file=file)

        alive()
        try:
            yield alive
        finally:
            faulthandler.cancel_dump_traceback_later()
    trace.unlink(missing_ok=True)


def hung(folder: Path) -> str:
    """What the last process in this run folder was doing when it was ended for a hang, told once; else empty."""
    trace = folder / HUNG
    text = trace.read_text() if trace.exists() else ""
    trace.unlink(missing_ok=True)
    return text
