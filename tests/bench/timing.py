"""CPU-seconds of alternatives, interleaved so that a noisy machine is noisy for all of them alike."""

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any


def interleaved(work: Mapping[str, Callable[[], Any]], rounds: int = 5) -> dict[str, float]:
    """Median CPU-seconds of each piece of work over several rounds, after one round that does not count."""
    spent: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(rounds + 1):
        for name, do in work.items():
            started = time.process_time()
            do()
            if turn:
                spent[name].append(time.process_time() - started)
    return {name: median(values) for name, values in spent.items()}
