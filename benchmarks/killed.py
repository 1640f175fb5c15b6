"""Whether a cluster that loses nodes and its driver still gives one machine's results, and counts no unit twice.

    python benchmarks/killed.py MODEL CALIBRATION CLIPS

Three nodes are started on this machine (Linux), which do not see each other's files. ``search`` and ``evaluate`` run on
them, while at random moments nodes are killed by SIGKILL, another taking each one's place, and the driver is, which is
then started again. Fails where a file differs from that of one process, or anything was measured twice.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.cluster import Cluster, cluster_of  # noqa: E402 - of the checkout

_FOLDERS = ("sensitivities", "transcripts", "divergences")
"""Of the cache, in which units' results are kept, a line each."""
_OF_A_RUN = {"seconds", "timing", "work", "created", "load_s", "peak_bytes", "baseline_bytes", "real_time_factor"}
_OF_A_RUN |= {"pace", "speed", "provenance"}
"""What differs from run to run on one machine, too."""


class Run:
    """One command, run here and then on a cluster that is disturbed; ``outputs`` are its files by their options."""

    def __init__(self, folder: Path, words: list[str], outputs: dict[str, str]) -> None:
        self.folder, self.words, self.outputs = folder, words, outputs

    def start(self, name: str, *more: str) -> subprocess.Popen[bytes]:
        """Start it, with a cache of its own and files of that name."""
        files = [word for option, suffix in self.outputs.items() for word in (option, str(self.path(name, suffix)))]
        cache = ["--cache", str(self.folder / f"{name}.cache")]
        return subprocess.Popen([sys.executable, "-m", "whisq", *self.words, *files, *cache, "--quiet", *more])

    def path(self, name: str, suffix: str) -> Path:
        """Return where a file of a run is."""
        return self.folder / f"{self.words[0]}-{name}{suffix}"

    def kept(self, name: str) -> list[tuple[str, str]]:
        """Return what is in a run's cache: file and key of each line; not what was heard again here for its time."""
        found = []
        for folder in _FOLDERS:
            for path in sorted((self.folder / f"{name}.cache" / folder).glob("*.jsonl")):
                for line in path.read_bytes().splitlines():
                    try:
                        entry = json.loads(line)
                    except ValueError:
                        continue  # a killed driver's last line
                    if name == "here" or "seconds" not in entry["value"]:
                        found.append((path.name, str(entry["key"])))
        return [entry for entry in found if entry[1] not in ("settings", "session")]

    def result(self, name: str) -> Any:
        """Return all files of a run, without what differs from run to run."""
        read = [self.path(name, suffix) for suffix in self.outputs.values()]
        return [steady(json.loads(p.read_text())) if p.suffix == ".json" else p.read_text() for p in read]


def steady(value: Any) -> Any:
    """Return JSON without what differs from run to run on one machine, too."""
    if isinstance(value, dict):
        return {key: steady(one) for key, one in value.items() if key not in _OF_A_RUN}
    return [steady(one) for one in value] if isinstance(value, list) else value


def disturbed(run: Run, cluster: Cluster, events: list[tuple[float, str]], total: int) -> dict[str, int]:
    """Run on the cluster, and do what is to be done when so large a share of the work is; returns what was done."""
    done = {"node": 0, "driver": 0}
    more = ("--ray", cluster.address)
    driver = run.start("ray", *more)
    for share, what in events:
        while driver.poll() is None and len(run.kept("ray")) < share * total:
            time.sleep(0.05)
        if driver.poll() is not None:
            break
        done[what] += 1
        if what == "driver":
            driver.send_signal(signal.SIGKILL)
            driver.wait()
            driver = run.start("ray", *more)
        else:
            node = cluster.nodes[1]  # the first is the head, whose end is the cluster's
            node.kill()
            cluster.nodes.remove(node)
            cluster.start()
    if driver.wait() != 0:
        raise SystemExit(f"{run.words[0]}: exit code {driver.returncode}")
    return done


def measure(run: Run, cluster: Cluster, nodes: int, drivers: int, drawn: random.Random) -> bool:
    """Run both ways and print what came of it; returns whether they agree."""
    started = time.perf_counter()
    if run.start("here").wait() != 0:
        raise SystemExit(f"{run.words[0]} fails on this machine")
    here_s, total = time.perf_counter() - started, len(run.kept("here"))
    kinds = ["node"] * nodes + ["driver"] * drivers
    drawn.shuffle(kinds)
    events = list(zip(sorted(drawn.uniform(0.02, 0.95) for _ in kinds), kinds, strict=True))
    started = time.perf_counter()
    done = disturbed(run, cluster, events, total)
    took_s = time.perf_counter() - started
    kept = run.kept("ray")
    twice, same = len(kept) - len(set(kept)), run.result("ray") == run.result("here")
    print(
        f"{run.words[0]}: {total} results; here {here_s:.0f} s; on three nodes {took_s:.0f} s with {done['node']} nodes"
        f" and {done['driver']} drivers killed; files {'equal' if same else 'DIFFER'}, counted twice: {twice}",
        flush=True,
    )
    return same and not twice and done == {"node": nodes, "driver": drivers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("calibration")
    parser.add_argument("clips")
    parser.add_argument("--type", default="q5_0", help="of the file that is evaluated beside it (default: %(default)s)")
    parser.add_argument("--size", default="70MB", help="that is searched for (default: %(default)s)")
    parser.add_argument("--limit", default="24", help="clips to evaluate on (default: %(default)s)")
    parser.add_argument("--inside", default="6", help="clips to look inside on (default: %(default)s)")
    parser.add_argument("--probes", default="2", help="to search on (default: %(default)s)")
    parser.add_argument("--nodes", type=int, default=5, help="nodes that are killed (default: 5)")
    parser.add_argument("--drivers", type=int, default=2, help="times that the driver is (default: 2)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    drawn = random.Random(args.seed)
    # Ray's sockets have names of 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="killed-", dir="/tmp") as name:
        folder = Path(name)
        made = folder / f"{args.type}.bin"
        subprocess.run(
            [sys.executable, "-m", "whisq", "quantize", args.model, str(made), args.type, "--quiet"], check=True
        )
        search = ["search", args.model, "--calibration", args.calibration, "--size", args.size, "--probes", args.probes]
        evaluate = ["evaluate", args.model, str(made), "--data", args.clips, "--limit", args.limit, "--threads", "1"]
        evaluate += ["--inside", args.inside]
        (folder / "ray").mkdir()
        with cluster_of(3, folder / "ray") as cluster:
            agree = [
                measure(Run(folder, words, outputs), cluster, args.nodes, args.drivers, drawn)
                for words, outputs in (
                    (evaluate, {"--json": ".json"}),
                    (search, {"-o": ".toml", "--sensitivity": ".sensitivity.json"}),
                )
            ]
    if not all(agree):
        raise SystemExit("not all agree, or not all was done")


if __name__ == "__main__":
    main()
