"""The methods: one file each; the file's name is the method's name everywhere, the folder is the registry."""

from __future__ import annotations

import sys

from ethoray import registry
from ethoray.learning import Method

_HERE = sys.modules[__name__]


def names(needs: str | None = None) -> tuple[str, ...]:
    """Every method there is, the files of this folder; or those that learn from "keypoints", or from "images"."""
    found = registry.names(_HERE)
    return found if needs is None else tuple(name for name in found if load(name).needs == needs)


def load(name: str) -> type[Method]:
    """The method's dataclass; an unknown name raises LookupError with the nearest one."""
    return registry.load(_HERE, name, Method)  # type: ignore[type-abstract]
