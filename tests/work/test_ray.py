"""On a real Ray cluster of three nodes on this machine, which do not see each other's files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import whisq
from tests.support.cluster import Cluster
from tests.support.containers import write_huggingface
from tests.support.jobs import SquaresJob
from tests.support.models import TINY, tiny_weights
from tests.support.optimized import FEW
from tests.support.schema import checked
from whisq.calibration import Calibration
from whisq.errors import ClusterError, WeightError
from whisq.kernels import _core, available_isas
from whisq.work import Executor, Needs, Unit, executor_at

pytestmark = pytest.mark.slow


@pytest.fixture
def said() -> list[str]:
    """What a user is told."""
    return []


@pytest.fixture
def cluster(ray_cluster: Cluster, said: list[str]) -> Iterator[Executor]:
    """Joined by this process."""
    found = executor_at(ray_cluster.address, said.append)
    yield found
    found.close()


@pytest.fixture
def job(tmp_path: Path) -> SquaresJob:
    return job_in(tmp_path)


def job_in(folder: Path, **more: Any) -> SquaresJob:
    (folder / "offset").write_text("7")
    (folder / "journal").touch()
    return SquaresJob(folder / "journal", folder / "offset", **more)


def lines(job: SquaresJob) -> list[str]:
    return job.journal.read_text().splitlines()


def waiting(count: int) -> Iterator[Unit]:
    return (Unit(str(number), ("waits", number)) for number in range(count))


def test_units_are_shared_out_and_their_files_are_sent_once(
    cluster: Executor, job: SquaresJob, ray_cluster: Cluster
) -> None:
    found = {done.unit.key: done.value for done in cluster.run(job, waiting(12))}
    assert found == {str(number): number * number + 7 for number in range(12)}
    assert len(lines(job)) == 12
    assert {line.split()[2] for line in lines(job)} == {str(node.folder) for node in ray_cluster.nodes}
    account = cluster.account
    assert account.moved_bytes in (0, 3)  # one byte for each node, unless an earlier test has sent it
    before = account.moved_bytes
    list(cluster.run(job_in(job.journal.parent), waiting(3)))
    assert account.moved_bytes == before
    assert sum(node.units for node in account.nodes.values()) == 15


def test_a_unit_that_dies_every_time_is_named_and_the_others_are_done(cluster: Executor, job: SquaresJob) -> None:
    units = [Unit("bad", ("dies", 1)), Unit("worse", ("fails", 2)), *waiting(6)]
    found: list[str] = []
    with pytest.raises(ClusterError, match=r"2 units failed 3 times, all others are done") as caught:
        found.extend(done.unit.key for done in cluster.run(job, units))
    assert sorted(found) == [str(number) for number in range(6)]
    assert "bad: " in str(caught.value)
    assert "ValueError: 2 has no square" in str(caught.value)
    assert sum(line.startswith("dies") for line in lines(job)) == 3


def test_what_is_the_users_to_mend_comes_as_it_is(cluster: Executor, job: SquaresJob) -> None:
    with pytest.raises(WeightError, match="1 is not finite") as caught:
        list(cluster.run(job, [Unit("bad", ("refuses", 1)), *waiting(6)]))
    assert caught.value.hint == "convert it again"


def test_a_node_that_is_killed_costs_the_unit_that_it_had(
    cluster: Executor, job: SquaresJob, ray_cluster: Cluster, said: list[str]
) -> None:
    extra = ray_cluster.start()
    found, killing = {}, None
    time.sleep(5)  # it is looked for nodes so often
    for done in cluster.run(job, waiting(40)):
        assert done.unit.key not in found
        found[done.unit.key] = done.value
        if killing is None and str(extra.folder) in job.journal.read_text():
            killing = threading.Thread(target=extra.kill)
            killing.start()
    assert killing is not None
    killing.join()
    ray_cluster.nodes.remove(extra)
    assert found == {str(number): number * number + 7 for number in range(40)}
    assert len(lines(job)) <= 42


def test_what_a_node_cannot_do_is_said_and_it_gets_nothing(
    ray_cluster: Cluster, tmp_path: Path, said: list[str]
) -> None:
    full = ray_cluster.start(WHISQ_NODE_CACHE_GB="0.000000001")
    try:
        cluster = executor_at(ray_cluster.address, said.append)
        try:
            (tmp_path / "offset").write_text("7" + " " * 100)
            (tmp_path / "journal").touch()
            job = SquaresJob(tmp_path / "journal", tmp_path / "offset")
            assert len(list(cluster.run(job, waiting(8)))) == 8
            assert str(full.folder) not in job.journal.read_text()
            assert any("does not take part" in line and "do not fit" in line for line in said)
            for needs, why in ((Needs(10**11), "100000 MB"), (Needs(10**6, packages=("nonesuch",)), "lacks nonesuch")):
                with pytest.raises(ClusterError, match=rf"no node can do this: .*{why}"):
                    list(cluster.run(job_in(tmp_path, needs=needs), waiting(1)))
        finally:
            cluster.close()
    finally:
        full.kill()
        ray_cluster.nodes.remove(full)


# An editable install's finder is asked before any path: without it the copy beside this file is what is imported.
NO_FINDER = """import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if "Redirecting" not in type(finder).__name__]
"""


def test_another_whisq_on_a_node_is_refused_before_work(ray_cluster: Cluster, tmp_path: Path) -> None:
    shutil.copytree(Path(whisq.__file__).parent, tmp_path / "whisq")
    if Path(_core.__file__).parent != Path(whisq.__file__).parent / "kernels":
        shutil.copy(_core.__file__, tmp_path / "whisq" / "kernels")
    (tmp_path / "sitecustomize.py").write_text(NO_FINDER)
    with (tmp_path / "whisq" / "work" / "__init__.py").open("a") as stream:
        stream.write("# changed\n")
    other = ray_cluster.start(PYTHONPATH=os.pathsep.join([str(tmp_path), *[path for path in sys.path if path]]))
    try:
        with pytest.raises(ClusterError, match=r"of another source \(.*\), expected"):
            executor_at(ray_cluster.address)
    finally:
        other.kill()
        ray_cluster.nodes.remove(other)


@pytest.mark.parametrize("module", ["ray", "sys"])
def test_another_ray_or_python_than_the_clusters_is_refused_before_work(
    ray_cluster: Cluster, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    """Ray itself compares what the head has noted with what this process says of itself."""
    from ray._private import utils

    ray_version, python_version = utils.compute_version_info()
    other = ("0.0.1", python_version) if module == "ray" else (ray_version, "3.0.0")
    monkeypatch.setattr(utils, "compute_version_info", lambda: other)
    with pytest.raises(ClusterError, match="Version mismatch") as caught:
        executor_at(ray_cluster.address)
    assert other[module == "sys"] in str(caught.value)
    assert caught.value.hint == "install the same versions of Ray and Python on all nodes"
    monkeypatch.undo()
    executor_at(ray_cluster.address).close()


def test_another_kind_of_cpu_is_said_in_the_summary(ray_cluster: Cluster, job: SquaresJob) -> None:
    other = ray_cluster.start(WHISQ_FORCE_ISA=available_isas()[-1])
    try:
        cluster = executor_at(ray_cluster.address)
        try:
            list(cluster.run(job, waiting(16)))
            summary = cluster.account.summary()
        finally:
            cluster.close()
    finally:
        other.kill()
        ray_cluster.nodes.remove(other)
    assert summary is not None
    assert summary["mixed_cpus"]
    assert len(summary["cpus"]) == 2


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere.invalid"])
def test_a_wrong_address_is_told_at_once(address: str) -> None:
    started = time.monotonic()
    with pytest.raises(ClusterError, match="no Ray cluster answers there"):
        executor_at(address)
    assert time.monotonic() - started < 20


def test_a_calibration_in_units_has_the_bytes_of_one_process_with_its_driver_killed(
    ray_cluster: Cluster, tiny_en_bin: Path, speakers: Path, tmp_path: Path
) -> None:
    words = ["calibrate", str(tiny_en_bin), "--data", str(speakers), "--own-text"]

    def start(name: str, *more: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "whisq", *words, "-o", str(tmp_path / name), *more])

    assert start("local.calib", "--no-cache").wait() == 0
    more = ("--ray", ray_cluster.address, "--cache", str(tmp_path / "cache"))
    driver = start("ray.calib", *more)
    stages = tmp_path / "cache" / "calibrate"

    def layers_done() -> int:
        states = [path.read_text() for path in stages.rglob("state.json")]
        return max((json.loads(text)["stage"] for text in states if text), default=0)

    while driver.poll() is None and layers_done() < 2:
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    assert not (tmp_path / "ray.calib").exists()
    assert start("ray.calib", *more).wait() == 0
    assert (tmp_path / "ray.calib").read_bytes() == (tmp_path / "local.calib").read_bytes()
    assert not list(stages.rglob("*.npz"))


LATER = r"(en|de)coder\.blocks\.[123]\..*"


@pytest.mark.parametrize("method", ["feedback", "fit"])
def test_a_file_rounded_in_units_has_the_bytes_of_one_process(
    ray_cluster: Cluster, tiny_en_bin: Path, tiny_en_calibration: Calibration, tmp_path: Path, method: str
) -> None:
    words = ["quantize", str(tiny_en_bin), "q4_0", "--embedding", "q8_0", "--method", method, "--protect", LATER]
    words += ["--calibration", str(tiny_en_calibration.path)] if method == "feedback" else []
    files = {name: tmp_path / f"{name}.bin" for name in ("local", "ray")}
    for name, more in (("local", []), ("ray", ["--ray", ray_cluster.address])):
        done = subprocess.run(
            [sys.executable, "-m", "whisq", *words[:2], str(files[name]), *words[2:], *more],
            check=True,
            capture_output=True,
            text=True,
        )
    assert files["ray"].read_bytes() == files["local"].read_bytes()
    units = sum(int(part.split()[-1]) for part in done.stderr.partition("units by node: ")[2].split(";")[0].split(","))
    with whisq.open_model(tiny_en_bin) as model:
        plan = whisq.make_plan(
            model, whisq.Recipe(whisq.parse_type("q4_0"), protect=(LATER,), embedding=whisq.parse_type("q8_0"))
        )
    # A unit that took long on a busy machine is done a second time elsewhere.
    assert units >= sum(a.is_quantized_here for a in plan.assignments)


def test_weights_that_no_block_holds_are_told_as_here(ray_cluster: Cluster, tmp_path: Path) -> None:
    weights = tiny_weights(TINY)
    bad = ["encoder.blocks.0.mlp.0.weight", "decoder.blocks.0.attn.query.weight"]
    for name in bad:
        weights.arrays[name][0, 0] = np.nan
    with whisq.open_model(write_huggingface(tmp_path / "hf", weights)) as model:
        plan = whisq.make_plan(model, whisq.Recipe(whisq.parse_type("q4_0")), method="fit")
        cluster, told = executor_at(ray_cluster.address), []
        try:
            for executor in (None, cluster):
                with pytest.raises(WeightError) as caught:
                    whisq.quantize(plan, tmp_path / "q.bin", executor=executor)
                told.append(str(caught.value))
        finally:
            cluster.close()
    assert told[0] == told[1]
    assert all(f"{name}: 1 NaN" in told[0] for name in bad)
    assert not (tmp_path / "q.bin").exists()


def measured(path: Path) -> dict[str, Any]:
    """Return a sensitivity without what says when and where it was measured."""
    found = json.loads(path.read_text())
    for name in ("seconds", "work"):
        found["provenance"].pop(name, None)
    return found


def test_a_search_has_the_bytes_of_one_process_with_a_node_and_two_drivers_killed(
    ray_cluster: Cluster, tiny_en_bin: Path, tiny_en_calibration: Calibration, tmp_path: Path
) -> None:
    with whisq.open_model(tiny_en_bin) as model:
        recipe = whisq.Recipe(whisq.parse_type("q4_0"), protect=FEW)
        size = whisq.make_plan(model, recipe).size_bytes + 100_000
    words = ["search", str(tiny_en_bin), "--calibration", str(tiny_en_calibration.path), "--size", f"{size}B"]
    words += ["--types", "q4_0,q5_0,q8_0", "--probes", "1", *[word for each in FEW for word in ("--protect", each)]]

    def start(name: str, *more: str) -> subprocess.Popen[bytes]:
        outputs = ["-o", str(tmp_path / f"{name}.toml"), "--sensitivity", str(tmp_path / f"{name}.json")]
        return subprocess.Popen([sys.executable, "-m", "whisq", *words, *outputs, *more])

    assert start("local", "--no-cache").wait() == 0
    cache = tmp_path / "cache"
    more = ("--ray", ray_cluster.address, "--cache", str(cache))
    extra, n_kept = ray_cluster.start(), 0
    for _ in range(2):
        driver = start("ray", *more)
        while driver.poll() is None and kept(cache) < n_kept + 3:
            time.sleep(0.05)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        n_kept = kept(cache)
    driver = start("ray", *more)
    while driver.poll() is None and kept(cache) < n_kept + 2:
        time.sleep(0.05)
    extra.kill()
    ray_cluster.nodes.remove(extra)
    assert driver.wait() == 0
    assert (tmp_path / "ray.toml").read_bytes() == (tmp_path / "local.toml").read_bytes()
    assert measured(tmp_path / "ray.json") == measured(tmp_path / "local.json")
    (path,) = (cache / "sensitivities").iterdir()
    keys = [json.loads(line)["key"] for line in path.read_text().splitlines()]
    assert len(keys) == len(set(keys)), "a unit was counted twice"


def test_an_evaluation_has_the_results_of_one_process(
    ray_cluster: Cluster, transcribe_cpp: object, tiny_en_bin: Path, speakers: Path, tmp_path: Path
) -> None:
    with whisq.open_model(tiny_en_bin) as model:
        plan = whisq.make_plan(model, whisq.Recipe(whisq.parse_type("q4_0")))
        whisq.quantize(plan, tmp_path / "q4_0.bin")

    def evaluated(name: str, *more: str) -> dict[str, Any]:
        words = ["evaluate", str(tiny_en_bin), str(tmp_path / "q4_0.bin"), "--data", str(speakers), "--inside", "1"]
        words += ["--threads", "1", "--json", str(tmp_path / name), *more]
        assert subprocess.run([sys.executable, "-m", "whisq", *words], check=False).returncode == 0
        return dict(json.loads((tmp_path / name).read_text()))

    words = ["evaluate", str(tiny_en_bin), str(tmp_path / "q4_0.bin"), "--data", str(speakers), "--inside", "1"]
    told = subprocess.run(
        [sys.executable, "-m", "whisq", *words, "--threads", "1", "--no-cache", "--plan", "--json", "-"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert checked(told.stdout, "plan")["units"] == 3
    cache = tmp_path / "cache"
    local = evaluated("local.json", "--no-cache")
    shared = evaluated("ray.json", "--ray", ray_cluster.address, "--cache", str(cache))
    work = shared["provenance"]["work"]
    assert work["units"] == 3  # both models' clips, and the candidate's look inside
    assert without_times(shared) == without_times(local)
    again = evaluated("again.json", "--ray", ray_cluster.address, "--cache", str(cache))
    assert "work" not in again["provenance"]
    assert without_times(again) == without_times(local)
    for one in shared["models"]:
        assert all(utterance["timing"]["cpu_s"] > 0 for utterance in one["utterances"])


def without_times(results: dict[str, Any]) -> dict[str, Any]:
    """Return results without what differs from run to run on one machine, too."""
    found = {**results, "provenance": None, "models": []}
    for one in results["models"]:
        utterances = [{**each, "seconds": None, "timing": None} for each in one["utterances"]]
        times = dict.fromkeys(("load_s", "peak_bytes", "baseline_bytes"))
        found["models"].append({**one, **times, "utterances": utterances})
    found["summary"] = [
        None if one is None else {**one, "real_time_factor": None, "pace": None, "speed": None}
        for one in results["summary"]
    ]
    return found


def kept(cache: Path) -> int:
    """Return how many figures are in a cache."""
    return sum(len(path.read_bytes().splitlines()) for path in cache.glob("sensitivities/*"))
