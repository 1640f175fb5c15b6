"""Which module of whisq imports which, and where: read from the source, nothing is imported."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

SOURCE = Path(__file__).parent.parent.parent / "src"


@dataclass(frozen=True)
class Import:
    """One import: the module that is imported, and whether it stands in a function."""

    target: str
    in_function: bool
    line: int


class Package:
    """The modules below a folder, by their dotted names; imports for type checkers only are left out."""

    def __init__(self, source: Path = SOURCE) -> None:
        paths = sorted(path for path in source.rglob("*.py*") if path.suffix in (".py", ".pyi"))
        self._paths = {_name(path.relative_to(source)): path for path in paths}

    @cached_property
    def imports(self) -> dict[str, list[Import]]:
        """Every module's imports."""
        trees = {name: ast.parse(path.read_text("utf-8")) for name, path in self._paths.items()}
        return {name: list(self._found(tree, in_function=False)) for name, tree in trees.items()}

    def _found(self, node: ast.AST, *, in_function: bool) -> Iterator[Import]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, in_function, node.lineno) for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            targets = dict.fromkeys(name if name in self._paths else node.module for name in names)
            yield from (Import(target, in_function, node.lineno) for target in targets)
        inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.iter_child_nodes(node):
            yield from self._found(child, in_function=inside)

    def loads(self, module: str) -> set[str]:
        """Return all that importing a module loads, whisq's modules and others, the module itself included."""
        found: set[str] = set()
        left = [module]
        while left:
            name = left.pop()
            if name in found:
                continue
            found.add(name)
            left += [name.rpartition(".")[0]] if "." in name and name in self._paths else []
            left += [one.target for one in self.imports.get(name, []) if not one.in_function]
        return found

    def cycles(self) -> list[list[str]]:
        """Return every set of modules that reach each other, by imports in functions too."""
        edges = {
            name: {one.target for one in found if one.target in self._paths and one.target != name}
            for name, found in self.imports.items()
        }
        reached = {name: _reached(name, edges) for name in edges}
        circles = {frozenset(other for other in reached[name] if name in reached[other]) for name in edges}
        return sorted(sorted(circle) for circle in circles if circle)


def _reached(start: str, edges: dict[str, set[str]]) -> set[str]:
    """Return what can be reached from a module in one step or more."""
    found: set[str] = set()
    left = list(edges[start])
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += edges[name]
    return found


def _name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
