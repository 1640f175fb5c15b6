"""Which cluster is meant, and what is said where there is none; nothing here needs Ray."""

from __future__ import annotations

from pathlib import Path

import pytest

from whisq.errors import ClusterError, MissingExtraError
from whisq.work import Account, Local, asked_address, executor_at
from whisq.work.cluster import RayCluster


def test_what_is_given_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WHISQ_RAY", raising=False)
    assert asked_address(None) is None
    monkeypatch.setenv("WHISQ_RAY", "auto")
    assert asked_address(None) == "auto"
    assert asked_address("10.0.0.5:6379") == "10.0.0.5:6379"
    monkeypatch.setenv("WHISQ_RAY", "")
    assert asked_address(None) is None
    assert isinstance(executor_at(None), Local)


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ray://10.0.0.5:10001", "is for Ray's client"),
        ("10.0.0.5:port", "is not an address of a Ray cluster"),
        (":6379", "is not an address of a Ray cluster"),
    ],
)
def test_an_address_that_is_none_is_told(address: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whisq.work.cluster.is_installed", lambda name: True)
    with pytest.raises(ClusterError, match=said):
        RayCluster(address)


def test_auto_on_a_machine_of_no_cluster_says_how_to_start_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whisq.work.cluster.is_installed", lambda name: True)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with pytest.raises(ClusterError, match="belongs to no Ray cluster") as caught:
        RayCluster("auto")
    assert "ray start --head" in str(caught.value.hint)


def test_without_ray_the_hint_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whisq.work.cluster.is_installed", lambda name: False)
    with pytest.raises(MissingExtraError, match="ray: not installed"):
        RayCluster("auto")


def test_the_summary_counts_cores_and_names_kinds() -> None:
    account = Account()
    assert account.summary() is None
    assert account.line() == ""
    account.add("one", "x86_64 avx2", 1800.0, 2)
    account.add("two", "aarch64 neon", 3600.0, 1, 1)
    account.add("two", "aarch64 neon", 3600.0, 1, 1)
    summary = account.summary()
    assert summary is not None
    assert summary["nodes"] == 2
    assert summary["units"] == 3
    assert summary["core_hours"] == 3.0
    assert summary["gpu_hours"] == 2.0
    assert summary["mixed_cpus"]
    assert account.line() == "one 1, two 2; 3.00 core-hours, 2.00 GPU-hours, 0 MB of files moved"
