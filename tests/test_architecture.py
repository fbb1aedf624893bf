"""The shape of the house, by reading the source: nothing here imports what it judges."""

import ast
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "platform" / "ethoray"

LAYERS = (  # an import may only go to the same line or further up this list
    {"schema", "registry"},
    {
        "files", "shards", "parts", "packing", "dataset", "store", "meter", "readers", "writers", "cleaning", "quality",
        "video", "geometry", "social", "metrics",
    },
    {"batch", "stream", "ingest"},
    {"state", "monitors", "budget"},
    {"learning"},
    {"nn"},
    {"methods"},
    {"embedding", "probes", "reconstruction", "forecast", "submission", "mabe22"},
    {"experiment", "record", "tallies"},
    {"cluster", "cohort", "tracking", "unseen"},
    {"sweep", "leaderboard", "tables", "comparison", "published", "report", "figures", "moments"},
    {"cli", "examination", "judging", "wording", "testing", "__init__"},
)  # fmt: skip
DOORS = {
    "ray": {"stream", "ingest", "cluster", "sweep"},
    "ray.data": {"stream", "ingest"},
    "ray.train": {"cluster"},
    "ray.tune": {"sweep"},
    "optuna": {"sweep"},
    "mlflow": {"tracking"},
    "tyro": {"cli"},
    "av": {"video"},
}
WITHOUT_TORCH = LAYERS[0] | LAYERS[1]
BANNED = {
    "manager", "handler", "helper", "util", "common", "base", "core", "engine", "wrapper", "factory", "processor",
    "impl", "misc",
}  # fmt: skip
TOP_LEVEL = {
    "pyproject.toml", "platform", "sweeps", "clusters", "datasets", "reports", "tests", "README.md", "Makefile",
    "CHANGELOG.md", "LICENSE", "requirements.lock",
}  # fmt: skip


@dataclass(frozen=True)
class Import:
    """One imported name: who imports what, on which line, and whether loading the file runs it."""

    module: str
    target: str
    line: int
    at_load: bool

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def dotted(path: Path) -> str:
    """ethoray.nn.tcn, ethoray.nn for a package's __init__.py, and ethoray.__init__ for the root itself."""
    parts = list(path.relative_to(SOURCE.parent).with_suffix("").parts)
    if parts[-1] == "__init__" and len(parts) > 2:
        parts.pop()
    return ".".join(parts)


def place(module: str) -> str:
    """The part of the package a module belongs to: "nn" for ethoray.nn.tcn."""
    return [*module.split("."), "__init__"][1]


MODULES = {dotted(path): path for path in sources("platform")}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def statements(node: ast.AST, at_load: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or is_type_checking(child)
        yield child, at_load
        yield from statements(child, at_load and not later)


def targets(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    names = [f"{node.module}.{alias.name}" for alias in node.names]
    if node.module == "ethoray":  # either a submodule or one of the root's own names
        return [name if name in MODULES else "ethoray.__init__" for name in names]
    return [name if name in MODULES else str(node.module) for name in names] + names


@cache
def imports(module: str) -> tuple[Import, ...]:
    found = set()
    for node, at_load in statements(tree(MODULES[module])):
        if isinstance(node, ast.Import | ast.ImportFrom):
            assert not getattr(node, "level", 0), f"{module}:{node.lineno}: relative import; write the full name"
            found |= {Import(module, name, node.lineno, at_load) for name in targets(node)}
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "ray":
            found.add(Import(module, f"ray.{node.attr}", node.lineno, at_load))
    return tuple(sorted(found, key=lambda i: (i.line, i.target)))


def every_import() -> Iterator[Import]:
    for module in MODULES:
        yield from imports(module)


def within(target: str, name: str) -> bool:
    return target == name or target.startswith(f"{name}.")


def definitions(*folders: str) -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]]:
    for path in sources(*folders):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield path, node


@cache
def files() -> tuple[Path, ...]:
    """What a commit would hold: tracked files and those git does not ignore."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return tuple(Path(name) for name in listed.split("\0") if name and (ROOT / name).exists())


def words(name: str) -> set[str]:
    """The words of a snake_case or CamelCase name, in lower case and the singular."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    return {part.lower() for part in parts} | {part.lower().removesuffix("s") for part in parts}


def test_every_module_has_a_layer():
    known = set().union(*LAYERS)
    assert {place(module) for module in MODULES} <= known, "give the new module a line in LAYERS"


def test_imports_only_go_down():
    level = {name: depth for depth, names in enumerate(LAYERS) for name in names}
    inside = [i for i in every_import() if within(i.target, "ethoray") and place(i.module) != place(i.target)]
    wrong = [str(i) for i in inside if level[place(i.target)] > level[place(i.module)]]
    assert not wrong, "\n".join(wrong)


def test_no_import_cycle():
    graph = {m: {i.target for i in imports(m) if i.at_load and i.target in MODULES} - {m} for m in MODULES}
    while leaves := [module for module, needs in graph.items() if not needs]:
        for leaf in leaves:
            del graph[leaf]
        for needs in graph.values():
            needs.difference_update(leaves)
    assert not graph, f"these modules import each other in a circle: {sorted(graph)}"


def test_methods_never_import_each_other():
    wrong = [str(i) for i in every_import() if place(i.module) == "methods" and within(i.target, "ethoray.methods")]
    assert not wrong, f"what two methods share moves to nn/: {wrong}"


def test_experiment_knows_no_method():
    wrong = [str(i) for i in imports("ethoray.experiment") if within(i.target, "ethoray.methods")]
    assert not wrong, wrong


def test_each_big_dependency_has_its_door():
    wrong = [
        str(i)
        for i in every_import()
        for name, doors in DOORS.items()
        if within(i.target, name) and place(i.module) not in doors
    ]
    assert not wrong, "\n".join(wrong)


def test_the_doors_to_ray_data_import_without_ray():
    doors = [i for module in ("ethoray.stream", "ethoray.ingest") for i in imports(module)]
    wrong = [str(i) for i in doors if within(i.target, "ray") and i.at_load]
    assert not wrong, f"import ray inside the function that needs it: {wrong}"


def test_data_needs_no_torch():
    wrong = [str(i) for i in every_import() if within(i.target, "torch") and place(i.module) in WITHOUT_TORCH]
    assert not wrong, wrong


def test_the_package_never_imports_what_stands_on_it():
    outside = {"sweeps", "datasets", "reports", "tests", "clusters"}
    inside = {"ethoray.cli", "ethoray.testing", "ethoray.__init__"}
    wrong = [str(i) for i in every_import() if i.target.split(".")[0] in outside or i.target in inside]
    assert not wrong, wrong


def test_no_file_is_long():
    lengths = {p: len(p.read_text().splitlines()) for p in sources("platform", "sweeps")}
    long = [f"{p.relative_to(ROOT)}: {n}" for p, n in lengths.items() if n > 300 or (n >= 60 and "sweeps" in p.parts)]
    assert not long, f"at most 300 lines, and under 60 for a sweep: {long}"


def test_platform_is_not_a_package():
    assert not (ROOT / "platform" / "__init__.py").exists(), "it would shadow the standard library's platform"


def test_names_say_what_things_are():
    wrong = [str(p) for p in files() if p.suffix == ".py" and words(p.stem) & BANNED]
    wrong += [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path, node in definitions("platform", "sweeps", "datasets")
        if words(node.name) & BANNED
    ]
    assert not wrong, wrong


def test_there_are_no_callbacks():
    doors = set().union(*DOORS.values())
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path, node in definitions("platform")
        if node.name.startswith("on_") and place(dotted(path)) not in doors
    ]
    assert not wrong, f"fit yields, so nobody calls back: {wrong}"


def undocumented(node: ast.AST, name: str) -> Iterator[str]:
    if not ast.get_docstring(node):
        yield name
    for child in ast.iter_child_nodes(node):
        public = isinstance(child, ast.FunctionDef | ast.ClassDef) and not child.name.startswith("_")
        if public and not isinstance(node, ast.FunctionDef):
            yield from undocumented(child, f"{name}.{child.name}")


def test_every_public_name_is_documented():
    wrong = [name for module, path in MODULES.items() for name in undocumented(tree(path), module)]
    assert not wrong, wrong


def test_configuration_is_python():
    yaml = [p for p in files() if p.suffix in (".yaml", ".yml") and p.parts[0] != "clusters"]
    assert [str(p) for p in yaml] in ([], [".pre-commit-config.yaml"])


def test_there_are_no_notebooks():
    assert not [str(p) for p in files() if p.suffix == ".ipynb"]


def test_the_top_level_is_a_fixed_set():
    found = {p.parts[0] for p in files() if not p.parts[0].startswith(".")}
    assert found <= TOP_LEVEL, f"has no place at the top: {sorted(found - TOP_LEVEL)}"
    assert TOP_LEVEL - found <= {"clusters"}, f"missing: {sorted(TOP_LEVEL - found)}"
