"""The methods: one file each; the file's name is the method's name everywhere, the folder is the registry."""

from __future__ import annotations

import difflib
import importlib
import pkgutil

from ethoray.learning import Method


def names() -> tuple[str, ...]:
    """Every method there is: the files of this folder."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def load(name: str) -> type[Method]:
    """The method's dataclass; an unknown name raises LookupError with the nearest one."""
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=1, cutoff=0.3)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise LookupError(f"no method {name!r}; {hint}methods are {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise LookupError(f"methods/{name}.py must define exactly one Method, it defines {len(found)}")
    return found[0]
