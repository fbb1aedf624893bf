"""A recipe or a sweep as a module, to test what is in it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType


@contextmanager
def script(path: str | Path) -> Iterator[ModuleType]:
    """The script at ``path``, loaded as ``python path`` would: its folder comes first when it imports.

    Afterwards the folder, and every module that was loaded from it, is forgotten. Raises FileNotFoundError.
    """
    path = Path(path).resolve()
    folder, before = str(path.parent), set(sys.modules)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.exists():
        raise FileNotFoundError(f"{path}: no such script")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, folder)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(folder)
        for name in {*sys.modules} - before | {path.stem}:
            if str(getattr(sys.modules.get(name), "__file__", "") or "").startswith(folder):
                del sys.modules[name]
