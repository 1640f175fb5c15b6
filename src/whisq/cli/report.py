"""``whisq report``: the report of an evaluation again, without measuring."""

from __future__ import annotations

import argparse
from pathlib import Path

from whisq.cli.arguments import add_json, add_overwrite_and_quiet
from whisq.cli.console import Console
from whisq.cli.paths import Read, Written, WrittenReport
from whisq.errors import OutputError
from whisq.units import megabytes

_NOT_WRITTEN = frozenset({".pdf", ".doc", ".docx", ".odt", ".csv", ".tsv", ".xlsx", ".json", ".png", ".svg", ".tex"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("results", type=Read, metavar="RESULTS.json", help="what `whisq evaluate --json` wrote")
    parser.add_argument(
        "output",
        type=WrittenReport,
        metavar="REPORT",
        nargs="?",
        help="an .html page, or its tables as .md (default: RESULTS.html beside it)",
    )
    parser.add_argument(
        "--search", type=Read, metavar="FILE", help="show the curve of this search, too (its --sensitivity file)"
    )
    add_json(parser)
    add_overwrite_and_quiet(parser)


def more_outputs(args: argparse.Namespace) -> list[Written]:
    """Return the report's name where none is given."""
    return [] if args.output else [WrittenReport(Path(args.results).with_suffix(".html"))]


def check_report_name(name: str, *, tables: bool = False) -> None:
    """Raise ``OutputError`` for a report whose name says that it is of a kind that is not written."""
    suffix = Path(name).suffix.lower()
    if suffix in _NOT_WRITTEN or (suffix == ".md" and not tables):
        hint = "name it .html, or .md for its tables alone"
        if not tables:
            hint = "name it .html; tables in Markdown: --json results.json, then whisq report results.json report.md"
        raise OutputError(f"{name}: {suffix} is not written", hint=hint)


def run(args: argparse.Namespace, console: Console) -> int:
    """Write the report; returns the exit code."""
    from whisq.evaluation.results_json import read_results, which_file_document
    from whisq.report.page import write_report
    from whisq.report.texts import markdown_text
    from whisq.search import read_sensitivity
    from whisq.writing import check_writable, write_text

    output = args.output or str(Path(args.results).with_suffix(".html"))
    check_report_name(output, tables=True)
    check_writable(output)
    evaluation = read_results(args.results)
    curve = read_sensitivity(args.search).curve if args.search else ()
    if Path(output).suffix.lower() == ".md":
        text = markdown_text(evaluation)
        write_text(output, text)
        size_bytes = len(text.encode("utf-8"))
        console.data(f"{output}: tables in Markdown")
    else:
        size_bytes = write_report(evaluation, output, curve)
        console.data(f"{output}: report of {megabytes(size_bytes):.1f} MB")
    console.result(
        "report",
        {
            "output": output,
            "size_bytes": size_bytes,
            "made": evaluation.made,
            "which_file": which_file_document(evaluation.which_file),
        },
    )
    return 0
