r"""Recipes as TOML files, and the presets that ship as such.

A recipe file::

    [recipe]
    name = "mine"
    default = "q5_0"
    on_misfit = "fallback"
    embedding = "q8_0"

    [[rules]]
    pattern = '.*mlp.*\.weight'
    type = "q4_0"

    [[rules]]
    stack = "encoder"
    depth = [0, 0.34]
    roles = ["attention"]
    type = "q8_0"
    reason = "sees the raw audio"
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from whisq.documents import Document
from whisq.errors import RecipeError, WhisqError
from whisq.recipe.recipe import ROLE_FAMILIES, Recipe, Rule, Selector
from whisq.types import TensorType, parse_type, type_meant
from whisq.whisper import MATRIX_ROLES, Role

_RECIPE_KEYS = {"name", "description", "default", "embedding", "protect", "unprotect", "on_misfit", "provenance"}
_RULE_KEYS = {"pattern", "roles", "stack", "depth", "type", "reason"}
_FILE = Document("a recipe", RecipeError, "write a recipe in TOML, patterns in 'single quotes'", 1 << 20)


def preset_names() -> list[str]:
    """Return the names of the recipes that ship with whisq."""
    from importlib import resources

    folder = resources.files("whisq.recipe") / "presets"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Return a preset by its name, or the recipe in a TOML file.

    Raises ``RecipeError`` naming the file, the rule and what is wrong with it.
    """
    from importlib import resources

    text = str(name_or_path)
    preset = resources.files("whisq.recipe") / "presets" / f"{text}.toml"
    if text.isidentifier() and preset.is_file():
        return _parse(preset.read_text("utf-8"), f"recipe {text}")
    path = Path(name_or_path)
    if not _is_there(path):
        raise RecipeError(f"no recipe or file is called '{text}'", hint=_recipe_meant(text))
    return _parse(_FILE.text(path), str(path))


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _recipe_meant(text: str) -> str:
    import difflib

    presets = preset_names()
    if type_meant(text) is not None:
        return f"'{text}' is a type: whisq quantize takes it after OUTPUT; presets: {' '.join(presets)}"
    near = difflib.get_close_matches(text.lower().removesuffix(".toml"), presets, n=1, cutoff=0.6)
    meant = f" (did you mean {near[0]}?)" if near else ""
    return f"presets: {' '.join(presets)}; or name a .toml file{meant}"


def _parse(content: str, where: str) -> Recipe:
    document = _FILE.parse_toml(content, where)
    _check_keys(document, {"recipe", "rules"}, where)
    head = document.get("recipe", {})
    if not isinstance(head, dict) or "default" not in head:
        raise RecipeError(f"{where}: [recipe] has no default type", hint='add: default = "q5_0"')
    _check_keys(head, _RECIPE_KEYS, f"{where}: [recipe]")
    rules = document.get("rules", [])
    if not isinstance(rules, list):
        raise RecipeError(f"{where}: rules must be a list of tables", hint="write each rule under [[rules]]")
    try:
        return Recipe(
            default=_type(head, "default", where),
            rules=tuple(_rule(rule, f"{where}, rule {number}") for number, rule in enumerate(rules, 1)),
            protect=_strings(head, "protect", where),
            unprotect=_strings(head, "unprotect", where),
            embedding=_type(head, "embedding", where) if "embedding" in head else None,
            on_misfit=_string({"on_misfit": "fallback", **head}, "on_misfit", where),  # type: ignore[arg-type]  # checked by Recipe
            name=_string(head, "name", where),
            description=_string(head, "description", where),
        )
    except WhisqError as error:
        message = str(error) if str(error).startswith(where) else f"{where}: {error}"
        raise RecipeError(message, hint=error.hint) from None


def _rule(table: Any, where: str) -> Rule:
    if not isinstance(table, dict) or "type" not in table:
        raise RecipeError(f"{where}: has no type", hint='add: type = "q4_0"')
    _check_keys(table, _RULE_KEYS, where)
    selecting = {"roles", "stack", "depth"} & table.keys()
    if ("pattern" in table) == bool(selecting):
        raise RecipeError(f"{where}: needs either a pattern or some of roles, stack, depth", hint="use one of the two")
    kind = _type(table, "type", where)
    reason = _string(table, "reason", where)
    if "pattern" in table:
        return Rule(_string(table, "pattern", where), kind, where, reason)
    return Rule(_selector(table, where), kind, where, reason)


def _selector(table: dict[str, Any], where: str) -> Selector:
    roles: list[Role] = []
    for name in _strings(table, "roles", where):
        if name in ROLE_FAMILIES:
            roles += ROLE_FAMILIES[name]
        elif name in MATRIX_ROLES:
            roles.append(name)
        else:
            known = " ".join([*ROLE_FAMILIES, *MATRIX_ROLES])
            raise RecipeError(f"{where}: unknown role '{name}'", hint=f"roles: {known}")
    stack = table.get("stack")
    if stack not in (None, "encoder", "decoder"):
        raise RecipeError(f"{where}: unknown stack {_shown(stack)}", hint="stacks: encoder decoder")
    depth = table.get("depth")
    if depth is not None and not _is_depth(depth):
        raise RecipeError(f"{where}: depth is {_shown(depth)}", hint="give two numbers from 0 to 1, the smaller first")
    return Selector(tuple(roles) or None, stack, (float(depth[0]), float(depth[1])) if depth is not None else None)


def _is_depth(depth: Any) -> bool:
    if not isinstance(depth, list) or len(depth) != 2:
        return False
    return all(isinstance(x, int | float) for x in depth) and 0 <= depth[0] < depth[1] <= 1


def _string(table: dict[str, Any], key: str, where: str) -> str:
    value = table.get(key, "")
    if not isinstance(value, str):
        raise RecipeError(f"{where}: {key} is {_shown(value)}", hint=f"write {key} as text, in quotes")
    return value


def _type(table: dict[str, Any], key: str, where: str) -> TensorType:
    value = table[key]
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise RecipeError(f"{where}: {key} is {_shown(value)}", hint=f'write a type: {key} = "q5_0"')
    return parse_type(value)


def _shown(value: Any) -> str:
    return repr(value)[:60]


def _strings(table: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise RecipeError(f"{where}: {key} is {_shown(value)}", hint=f"write {key} as a list of strings")
    return tuple(value)


def _check_keys(table: dict[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(table.keys() - known)
    if unknown:
        raise RecipeError(f"{where}: unknown key '{unknown[0]}'", hint=f"known keys: {' '.join(sorted(known))}")


def save_recipe(recipe: Recipe, provenance: dict[str, str] | None = None) -> str:
    """Return a recipe as TOML that ``load_recipe`` reads back to equal rules."""
    lines = ["[recipe]"]
    if recipe.name:
        lines.append(f"name = {_quote(recipe.name)}")
    if recipe.description:
        lines.append(f"description = {_quote(recipe.description)}")
    lines += [f"default = {_quote(recipe.default.name)}", f"on_misfit = {_quote(recipe.on_misfit)}"]
    if recipe.embedding is not None:
        lines.append(f"embedding = {_quote(recipe.embedding.name)}")
    for key, patterns in (("protect", recipe.protect), ("unprotect", recipe.unprotect)):
        if patterns:
            lines.append(f"{key} = [{', '.join(_quote(pattern) for pattern in patterns)}]")
    if provenance:
        pairs = ", ".join(f"{key} = {_quote(value)}" for key, value in provenance.items())
        lines.append(f"provenance = {{ {pairs} }}")
    for rule in recipe.rules:
        lines += ["", "[[rules]]", *_rule_lines(rule)]
    return "\n".join(lines) + "\n"


def _rule_lines(rule: Rule) -> list[str]:
    lines = []
    if isinstance(rule.what, str):
        lines.append(f"pattern = {_quote(rule.what)}")
    else:
        if rule.what.roles:
            lines.append(f"roles = [{', '.join(_quote(role) for role in rule.what.roles)}]")
        if rule.what.stack:
            lines.append(f"stack = {_quote(rule.what.stack)}")
        if rule.what.depth:
            lines.append(f"depth = [{rule.what.depth[0]!r}, {rule.what.depth[1]!r}]")
        if len(lines) == 0:
            lines.append(f"roles = [{', '.join(_quote(role) for role in MATRIX_ROLES)}]")
    lines.append(f"type = {_quote(rule.type.name)}")
    if rule.reason:
        lines.append(f"reason = {_quote(rule.reason)}")
    return lines


def _quote(text: str) -> str:
    """Return a TOML string: literal (single quotes) where it can be, so that patterns stay readable."""
    if "'" not in text and all(character.isprintable() for character in text):
        return f"'{text}'"
    import json

    # TOML has no halves of surrogate pairs, and wants all control characters escaped.
    encodable = text.encode("utf-8", "backslashreplace").decode()
    return json.dumps(encodable, ensure_ascii=False).replace("\x7f", "\\u007f")
