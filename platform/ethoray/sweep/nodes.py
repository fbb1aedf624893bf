"""Where trials run: a Ray cluster, joined or started, and how many trials its nodes can hold."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping

import ray

from ethoray.stream import start_ray
from ethoray.sweep.flags import Flags
from ethoray.sweep.trial import SweepError

_LOOK_AGAIN = 2.0  # seconds: nodes come and go while a sweep runs


def start(flags: Flags) -> Callable[[], float]:
    """Connect to Ray or start it; answers with how many trials fit now, asked again as nodes come and go.

    Raises SweepError when no node could run a trial, unless the flags say how many will run at a time.
    """
    os.environ.update(
        RAY_AIR_NEW_OUTPUT="0",
        TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
        TUNE_DISABLE_SIGINT_HANDLER="1",
        TUNE_DISABLE_STRICT_METRIC_CHECKING="1",  # a failed trial reports no value
        TUNE_MAX_PENDING_TRIALS_PG="1024",  # all workers start at once: proposals end where the slots do
    )
    _connect()
    if flags.at_once is not None:
        wanted = float(flags.at_once)
        return lambda: wanted
    if not fits(_there(), flags):
        cluster = ray.cluster_resources()
        raise SweepError(
            f"a trial needs {flags.workers} x ({flags.cpus} CPU and {flags.gpus:g} GPU) and no node can give that; the "
            f"cluster has {cluster.get('CPU', 0):g} CPU and {cluster.get('GPU', 0):g} GPU in all; lower --cpus, --gpus "
            "or --workers, or give --at-once where it grows on demand"
        )
    seen, looked = 0.0, -math.inf

    def slots() -> float:
        nonlocal seen, looked
        if time.monotonic() - looked > _LOOK_AGAIN:
            seen, looked = float(fits(_there(), flags)), time.monotonic()
        return max(seen, 1.0)

    return slots


def _connect() -> None:
    """Ray gives a new cluster half a minute to come up; a machine that is busy just then is asked once more."""
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    for last in (False, True):
        try:
            if "RAY_ADDRESS" in os.environ and not ray.is_initialized():
                ray.init(**quiet)
            return start_ray(**quiet)
        except Exception as error:
            ray.shutdown()
            if last:
                raise SweepError(f"Ray cannot be reached or started: {error}") from error


def _there() -> list[Mapping[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def fits(nodes: Iterable[Mapping[str, float]], flags: Flags) -> int:
    """How many trials these nodes (their resources) run at a time; a share of a GPU is a share of one GPU."""
    processes = 0
    for there in nodes:
        room = int(there.get("CPU", 0) / flags.cpus + 1e-9)
        gpus = int(there.get("GPU", 0))
        if 0 < flags.gpus < 1:
            room = min(room, gpus * int(1 / flags.gpus + 1e-9))
        elif flags.gpus:
            room = min(room, int(gpus / flags.gpus + 1e-9))
        processes += room
    return processes // flags.workers
