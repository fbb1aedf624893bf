"""EthoRay: behaviour embeddings of animals, trained, swept and judged under one evaluator.

The three names here are found when they are first used, so that ``import ethoray`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ethoray.experiment import Experiment, run
    from ethoray.sweep import Sweep

__all__ = ["Experiment", "Sweep", "run"]

_HOME = {"Experiment": "experiment", "Sweep": "sweep", "run": "experiment"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ethoray' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(f"ethoray.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
