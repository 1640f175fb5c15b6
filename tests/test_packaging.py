"""What is built for everyone else: wheels, their workflow, and the container. Nothing is built here."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_wheels_are_built_for_every_python_that_is_taken():
    oldest = re.search(r">=3\.(\d+)", PROJECT["project"]["requires-python"])[1]
    stable = PROJECT["tool"]["scikit-build"]["wheel"]["py-api"]
    # The oldest for itself where it is before the stable ABI, and the one wheel for all from there on.
    assert PROJECT["tool"]["cibuildwheel"]["build"] == [f"cp3{oldest}-*", f"{stable}-*"]
    assert stable == f"cp3{int(oldest) + 1}"


def test_every_program_is_there():
    import whisq.__main__

    for target in PROJECT["project"]["scripts"].values():
        module, _, function = target.partition(":")
        assert module == "whisq.__main__"
        assert callable(getattr(whisq.__main__, function))
    assert PROJECT["project"]["scripts"]["quantize"] == PROJECT["project"]["scripts"]["whisq-quantize"]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_what_is_there(workflow):
    text = workflow.read_text("utf-8")
    for script in re.findall(r"(?<![\w/])(\.ci/\w+)", text):
        assert (ROOT / script).stat().st_mode & 0o100, script
    # Each action at a version, and no more than reading unless a job says so.
    assert all("@" in action for action in re.findall(r"uses: (\S+)", text))
    assert re.search(r"^permissions:\n  contents: read\n", text, re.MULTILINE)


def test_only_a_tag_publishes_and_no_password_is_kept():
    text = (ROOT / ".github" / "workflows" / "wheels.yml").read_text("utf-8")
    publish = text.partition("\n  publish:\n")[2]
    assert "if: startsWith(github.ref, 'refs/tags/v')" in publish
    assert "needs: [wheels, sdist]" in publish
    assert {"id-token: write", "attestations: write"} <= {line.strip() for line in publish.splitlines()}
    assert "secrets." not in text


def test_the_container_is_of_two_stages_and_not_roots():
    lines = (ROOT / "Dockerfile").read_text("utf-8").splitlines()
    assert len([line for line in lines if line.startswith("FROM ")]) == 2
    last = "\n".join(lines).rpartition("\nFROM ")[2]
    assert re.search(r"^USER (?!root)\w+$", last, re.MULTILINE)
    assert "g++" not in last
