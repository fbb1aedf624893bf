"""MLflow's pages on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from ethoray.tracking.connection import DATABASE, address

START = "#/experiments?workflowType=machine_learning"
"""Where to begin: MLflow otherwise shows its pages for language models."""
PATIENCE = 15.0
"""Seconds that the server may take to end."""


def serve(storage: Path, port: int) -> None:
    """Show the runs of a storage folder at a port, until interrupted; all that was started is ended.

    With MLFLOW_TRACKING_URI naming a server there is nothing to start, and its address is printed. Raises
    FileNotFoundError when nothing was tracked, OSError when the port is taken.
    """
    uri = address(storage)
    if uri.startswith(("http://", "https://")):
        print(f"MLflow: {uri.rstrip('/')}/{START} (MLFLOW_TRACKING_URI)", flush=True)
        return
    if uri == f"sqlite:///{storage.resolve() / DATABASE}" and not (storage / DATABASE).exists():
        raise FileNotFoundError(
            f"{storage / DATABASE}: nothing was tracked yet; train first, or choose another --storage"
        )
    print(f"MLflow: http://127.0.0.1:{port}/{START} (stop with Ctrl-C)", flush=True)
    words = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    process = subprocess.Popen(
        [sys.executable, *words, "--backend-store-uri", uri], env=quiet | os.environ, start_new_session=True
    )
    previous = signal.signal(signal.SIGTERM, _interrupted)
    try:
        if status := process.wait():
            raise OSError(f"MLflow ended with status {status}; is port {port} taken? choose another --port")
    finally:
        signal.signal(signal.SIGTERM, previous)
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and its own processes, which are in its group: first asked, after a while not."""
    for order in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, order)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt
