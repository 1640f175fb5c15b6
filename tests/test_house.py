"""The house rules that a machine can check: sizes of files and functions, public names, imports."""

import ast
import importlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import whisq
from tests.support.imports import Package

ROOT = Path(__file__).parent.parent
LONGEST_FILE = 400
LONGEST_FUNCTION = 60
NO_FUNCTION = ("namespace", "struct", "class", "enum", "extern", "if", "for", "while", "switch", "}", "//")


def sources() -> list[Path]:
    return [
        *sorted((ROOT / "src").rglob("*.py")),
        *sorted((ROOT / "native").glob("*.[ch]*")),
        *sorted((ROOT / "tests").rglob("*.py")),
        *sorted((ROOT / "benchmarks").glob("*.py")),
        *sorted((ROOT / "documentation").glob("*.py")),
    ]


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Yield every function of a file, by name, and its lines."""
    text = path.read_text("utf-8")
    if path.suffix != ".py":
        yield from functions_in_cpp(text.splitlines())
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.end_lineno - node.lineno + 1


def functions_in_cpp(lines: list[str]) -> Iterator[tuple[str, int]]:
    """Yield what is in braces and no type, namespace or statement; its last line begins in the column of its first."""
    begun = 0
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        continued = indent > 4 and lines[number - 1].endswith((",", "("))
        if not continued:
            begun = number
        first = lines[begun].lstrip()
        if line.endswith("{") and not first.startswith(NO_FUNCTION):
            closing = " " * (len(lines[begun]) - len(first)) + "}"
            end = next(n for n in range(number, len(lines)) if lines[n].startswith(closing))
            yield first, end - begun + 1


def test_no_file_is_too_long() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in sources()}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def test_no_function_is_too_long() -> None:
    long = {
        f"{path.relative_to(ROOT)}: {name}": length
        for path in sources()
        for name, length in functions(path)
        if length > LONGEST_FUNCTION
    }
    assert long == {}


def test_public_names_are_where_a_type_checker_is_told_they_are() -> None:
    tree = ast.parse((ROOT / "src" / "whisq" / "__init__.py").read_text("utf-8"))
    (checking,) = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    told = {alias.name: node.module for node in checking.body for alias in node.names}
    assert told.pop("kernels") == "whisq"
    assert told.keys() == set(whisq.__all__) - {"__version__", "kernels"}
    for name, module in told.items():
        assert getattr(whisq, name) is getattr(importlib.import_module(module), name)


def test_no_modules_import_each_other(tmp_path: Path) -> None:
    assert Package().cycles() == []
    (tmp_path / "a.py").write_text("def late():\n    import b\n")
    (tmp_path / "b.py").write_text("from typing import TYPE_CHECKING\nimport c\nif TYPE_CHECKING:\n    import d\n")
    (tmp_path / "c.py").write_text("import a\n")
    (tmp_path / "d.py").write_text("import b\n")
    assert Package(tmp_path).cycles() == [["a", "b", "c"]]


HEAVY = {"numpy", "ray", "torch"}
"""What takes long to import: a module that loads one of them may be imported where it is used."""

LATE_FOR_ANOTHER_REASON: dict[tuple[str, str], str] = {
    ("whisq.__main__", "whisq.cli"): "signals are handled by then",
}
"""(module, what it imports in a function): why. Readers and packages that are chosen by a name go by ``importlib``."""


def test_imports_in_functions_spare_a_start_something() -> None:
    """Outside the commands, which are all loaded when asked for, and load what they run in ``run``."""
    package = Package()
    late = {
        (name, one.target)
        for name, found in package.imports.items()
        for one in found
        if one.in_function and one.target.startswith("whisq") and not name.startswith("whisq.cli")
    }
    assert late
    spares_nothing = {
        (name, target) for name, target in late if not (package.loads(target) - package.loads(name)) & HEAVY
    }
    assert spares_nothing == set(LATE_FOR_ANOTHER_REASON)


def layers() -> list[set[str]]:
    """Return the layers of the contract in pyproject.toml, from the top."""
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    (contract,) = configured["tool"]["importlinter"]["contracts"]
    return [set(layer.split(" | ")) for layer in contract["layers"] if layer != "__main__"]


def test_the_architecture_states_the_contract() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    (arrows,) = re.findall(r"(?:^    [^\n]*→[^\n]*\n)+", page, re.MULTILINE)
    assert [{name.strip() for name in layer.split(",")} for layer in arrows.split("→")] == layers()


def test_the_architecture_lists_the_rooms_in_their_order() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rooms = page.partition("src/whisq/\n")[2].partition("\nnative/")[0]
    # What a line says of its rooms begins after two spaces.
    listed = [name.rstrip("/") for line in rooms.splitlines() for name in line.strip().partition("  ")[0].split()]
    depth = {name: number for number, layer in enumerate(reversed(layers())) for name in layer}
    assert set(listed) == set(depth)
    assert listed == sorted(listed, key=depth.__getitem__)
