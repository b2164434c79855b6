"""The product's sources as the house's tests read them: modules, classes and imports, by syntax tree only."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeAlias

ROOT = Path(__file__).resolve().parents[2]
COMPONENTS = ("client", "broker", "workers", "ops")


@dataclass(frozen=True)
class Import:
    """One name that a module imports.

    `name` is a module of the product, or for anything else the dotted name: "time", "time.monotonic".
    `type_only` imports are under `if TYPE_CHECKING`: nothing of them is loaded when the product runs.
    """

    name: str
    line: int
    type_only: bool


@dataclass(frozen=True)
class Module:
    """One source file; `name` is its dotted name, that of the package for an `__init__`."""

    name: str
    file: str  # relative to the root
    lines: int
    classes: tuple[tuple[str, int], ...]  # with the line of each, nested ones included
    imports: tuple[Import, ...]
    escapes: tuple[int, ...]  # lines of relative imports that leave the package

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]

    def at(self, line: int) -> str:
        """Return the place as messages name it: file and line."""
        return f"{self.file}:{line}"


Modules: TypeAlias = Mapping[str, Module]


@cache
def product() -> Modules:
    """Read this repository."""
    return read(ROOT)


def read(root: Path) -> Modules:
    """Map the dotted names of all modules of the packages in the components' folders to the modules."""
    paths = {
        ".".join(path.relative_to(root / component).with_suffix("").parts).removesuffix(".__init__"): path
        for component in COMPONENTS
        for package in sorted((root / component).glob("*/__init__.py"))
        for path in sorted(package.parent.rglob("*.py"))
    }
    return {name: _read(root, name, path, paths) for name, path in paths.items()}


def imported(modules: Modules, module: Module, *, type_only: bool) -> dict[str, Import]:
    """Map the product's modules that `module` imports to the first import of each.

    Imports inside functions count, those under `if TYPE_CHECKING` with `type_only`.
    """
    found: dict[str, Import] = {}
    for entry in module.imports:
        if entry.name in modules and entry.name != module.name and (type_only or not entry.type_only):
            found.setdefault(entry.name, entry)
    return found


def ways(modules: Modules, start: str, *, type_only: bool) -> dict[str, tuple[str, ...]]:
    """Map each module that `start` reaches through its imports to a shortest way there, both ends included.

    Loading a module also runs the `__init__` of its packages: that is not followed, as an `__init__` that
    only re-exports would lead from every module of the package to every other.
    """
    found: dict[str, tuple[str, ...]] = {start: (start,)}
    edge = [start]
    while edge:
        last, edge = edge, []
        for name in last:
            for target in imported(modules, modules[name], type_only=type_only):
                if target not in found:
                    found[target] = (*found[name], target)
                    edge.append(target)
    return found


def cycles(modules: Modules) -> list[tuple[str, ...]]:
    """List the import cycles, type-only imports included.

    Each is the set of all modules that reach each other, sorted.
    """
    reached = {name: ways(modules, name, type_only=True) for name in modules}
    knots = {tuple(sorted(other for other in reached[name] if name in reached[other])) for name in modules}
    return sorted(knot for knot in knots if len(knot) > 1)


def _read(root: Path, name: str, path: Path, paths: Mapping[str, Path]) -> Module:
    text = path.read_text(encoding="utf-8")
    parts = name.split(".")
    package = parts if path.name == "__init__.py" else parts[:-1]
    classes: list[tuple[str, int]] = []
    imports: list[Import] = []
    escapes: list[int] = []
    for node, type_only in _nodes(ast.parse(text, str(path))):
        if isinstance(node, ast.ClassDef):
            classes.append((node.name, node.lineno))
        elif isinstance(node, ast.Import):
            imports.extend(Import(alias.name, node.lineno, type_only) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level > len(package):
                escapes.append(node.lineno)
                continue
            base = package[: len(package) + 1 - node.level] if node.level else []
            source = ".".join([*base, node.module] if node.module else base)
            for alias in node.names:
                full = f"{source}.{alias.name}"
                target = source if source in paths and full not in paths else full
                imports.append(Import(target, node.lineno, type_only))
        elif isinstance(node, ast.Attribute) and node.attr == "urandom":
            imports.append(Import("os.urandom", node.lineno, type_only))
    return Module(
        name=name,
        file=str(path.relative_to(root)),
        lines=text.count("\n"),
        classes=tuple(classes),
        imports=tuple(sorted(imports, key=lambda entry: entry.line)),
        escapes=tuple(escapes),
    )


def _nodes(tree: ast.Module) -> Iterator[tuple[ast.AST, bool]]:
    """Yield each node, with whether it is under `if TYPE_CHECKING`."""
    rest: list[tuple[ast.AST, bool]] = [(tree, False)]
    while rest:
        node, type_only = rest.pop()
        yield node, type_only
        if isinstance(node, ast.If) and _is_type_checking(node.test):
            rest.extend((child, True) for child in node.body)
            rest.extend((child, type_only) for child in node.orelse)
        else:
            rest.extend((child, type_only) for child in ast.iter_child_nodes(node))


def _is_type_checking(test: ast.expr) -> bool:
    named = test.id if isinstance(test, ast.Name) else test.attr if isinstance(test, ast.Attribute) else ""
    return named == "TYPE_CHECKING"
