"""The house rules that a machine can count: sizes of files and functions, and what ``import whisq`` promises."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import whisq

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
