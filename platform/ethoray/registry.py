"""A folder as a registry: each file defines one class of a kind, and the file's name is its name everywhere."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from types import ModuleType
from typing import TypeVar

Kind = TypeVar("Kind")


def names(package: ModuleType) -> tuple[str, ...]:
    """The files of a package, without those that begin with an underscore."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.name[0] != "_"))


def load(package: ModuleType, name: str, kind: type[Kind]) -> type[Kind]:
    """The one class of ``kind`` that file ``name`` defines; an unknown name raises LookupError with the nearest."""
    word, known = kind.__name__.lower(), names(package)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.3)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise LookupError(f"no {word} {name!r}; {hint}there are {', '.join(known)}")
    module = importlib.import_module(f"{package.__name__}.{name}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, kind) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise LookupError(f"{package.__name__}.{name} must define exactly one {kind.__name__}, it defines {len(found)}")
    return found[0]
