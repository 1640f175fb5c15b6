"""``whisq report``: the HTML report of an evaluation again, without measuring."""

from __future__ import annotations

import argparse
from pathlib import Path

from whisq.cli.console import Console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("results", metavar="RESULTS.json", help="what `whisq evaluate --json` wrote")
    parser.add_argument("output", metavar="REPORT.html", nargs="?", help="default: RESULTS.html beside it")
    parser.add_argument("--quiet", action="store_true", help="print warnings and errors only")


def run(args: argparse.Namespace, console: Console) -> int:
    """Write the report; returns the exit code."""
    from whisq.cli.evaluate import check_writable
    from whisq.evaluate.results_json import read_results
    from whisq.report.page import write_report

    output = args.output or str(Path(args.results).with_suffix(".html"))
    check_writable(output)
    size_bytes = write_report(read_results(args.results), output)
    console.data(f"{output}: report of {size_bytes / (1 << 20):.1f} MiB")
    return 0
