"""The journal of what was proposed, safe from writers that die."""

from __future__ import annotations

import logging
from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

_PATIENCE = 10  # seconds: a lock that old was left by a process that was killed, an entry takes milliseconds
_log = logging.getLogger(__name__)


def open_journal(path: Path) -> JournalStorage:
    """The journal of proposals, which several sweeps may write at a time; a line torn by a crash is cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = JournalFileSymlinkLock(str(path), grace_period=_PATIENCE)
    lock.acquire()
    try:
        content = path.read_bytes() if path.exists() else b""
        if content and not content.endswith(b"\n"):
            _log.warning("%s: the last line was torn by a crash and is left out", path)
            with path.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)
    finally:
        lock.release()
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
