"""What ``--json`` prints, held against docs/schema.json."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

SCHEMA = Path(__file__).parents[2] / "docs" / "schema.json"


@cache
def schema() -> dict[str, Any]:
    """Return the published schema; fails where it is none."""
    found: dict[str, Any] = json.loads(SCHEMA.read_text("utf-8"))
    Draft202012Validator.check_schema(found)
    return found


def checked(text: str, name: str) -> dict[str, Any]:
    """Return a document, which stdout holds nothing beside; fails where it is not as published under its name."""
    document: dict[str, Any] = json.loads(text)
    assert document["schema"] == f"whisq-{name}"
    Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": schema()["$defs"]}).validate(document)
    return document
