"""How much memory `whisq convert` holds: ``python benchmarks/memory.py [SIZE …]``.

Makes models of released sizes, f16, with files that are holes (no weights on disk), converts each in a process of its
own, and prints the most that the process held: all that was resident (VmHWM), and without pages of files (RssAnon).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import peers

from whisq.units import megabytes

WAYS = (
    ("huggingface", "bin"),
    ("huggingface", "gguf"),
    ("openai", "bin"),
    ("openai", "gguf"),
    ("ctranslate2", "bin"),
    ("ctranslate2", "gguf"),
    ("bin", "gguf"),
    ("gguf", "bin"),
)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sizes", nargs="*", default=["tiny", "small", "large-v3"])
    parser.add_argument("--folder", type=Path, help="where the output goes (large-v3: 3 GB); default: a temporary one")
    arguments = parser.parse_args()
    print(f"{'model':<16} {'way':<20} {'output MB':>10} {'resident MB':>11} {'held MB':>7}")
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            folder = Path(name)
            weights = peers.hollow_weights(peers.released(size))
            sources: dict[str, Path] = {}
            for source, container in WAYS:
                if source not in sources:
                    (folder / source).mkdir()
                    sources[source] = peers.WRITERS[source](folder / source, weights)
                output = folder / f"output.{container}"
                run = peers.run_whisq(["convert", "--quiet", str(sources[source]), str(output)])
                written, resident, held = (
                    megabytes(count) for count in (output.stat().st_size, run.resident_bytes, run.held_bytes)
                )
                way = f"{source} -> {container}"
                print(f"{size:<16} {way:<20} {written:>10.0f} {resident:>11.0f} {held:>7.0f}")
                if container == "gguf":
                    sources["gguf"] = output.replace(folder / "source.gguf")
                else:
                    output.unlink()


if __name__ == "__main__":
    main()
