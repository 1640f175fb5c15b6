"""How much memory `whisq convert` holds: ``python benchmarks/memory.py [SIZE …]``.

Makes models of released sizes, f16, with files that are holes (no weights on disk), converts each in a process of its
own, and prints the most that the process held: all of it (VmHWM), and without pages of files (RssAnon).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.support.containers import WRITERS, hollow_weights, released
from tests.support.process import held

WAYS = (
    ("huggingface", "bin"), ("huggingface", "gguf"), ("openai", "bin"), ("openai", "gguf"), ("ctranslate2", "bin"),
    ("ctranslate2", "gguf"), ("bin", "gguf"), ("gguf", "bin"),
)  # fmt: skip


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sizes", nargs="*", default=["tiny", "small", "large-v3"])
    parser.add_argument("--folder", type=Path, help="where the output goes (large-v3: 3 GB); default: a temporary one")
    arguments = parser.parse_args()
    print(f"{'model':<16} {'way':<20} {'output MB':>10} {'VmHWM MB':>9} {'RssAnon MB':>11}")
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            folder = Path(name)
            weights = hollow_weights(released(size))
            sources: dict[str, Path] = {}
            for source, container in WAYS:
                if source not in sources:
                    (folder / source).mkdir()
                    sources[source] = WRITERS[source](folder / source, weights)
                output = folder / f"output.{container}"
                most = held(["convert", "--quiet", str(sources[source]), str(output)])
                megabytes = output.stat().st_size / (1 << 20)
                way = f"{source} -> {container}"
                print(f"{size:<16} {way:<20} {megabytes:>10.0f} {most['VmHWM']:>9.0f} {most['RssAnon']:>11.0f}")
                if container == "gguf":
                    sources["gguf"] = output.replace(folder / "source.gguf")
                else:
                    output.unlink()


if __name__ == "__main__":
    main()
