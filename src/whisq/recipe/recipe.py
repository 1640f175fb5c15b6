"""What a user asked for, as values: rules, selectors, recipes. Nothing here knows a model's bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, get_args

from whisq.errors import RecipeError, TypeNameError
from whisq.recipe.patterns import check_pattern, full_matches
from whisq.types import TensorType, parse_type, type_meant
from whisq.whisper import (
    MATRIX_ROLES,
    PROTECTED,
    TOKEN_EMBEDDING,
    Dialect,
    Dimensions,
    Role,
    Stack,
    TensorSpec,
    dialect_names,
)

OnMisfit = Literal["fallback", "error"]

ROLE_FAMILIES: dict[str, tuple[Role, ...]] = {
    "mlp": ("mlp.0", "mlp.2"),
    "attn": ("attn.query", "attn.key", "attn.value", "attn.out"),
    "cross_attn": ("cross_attn.query", "cross_attn.key", "cross_attn.value", "cross_attn.out"),
    "attention": tuple(role for role in MATRIX_ROLES if "attn" in role),
}
"""Names for several roles at once, as recipes write them."""


@dataclass(frozen=True, slots=True)
class Selector:
    """Tensors by what they are: roles, stack, and relative depth in the stack.

    ``depth`` is a range ``[from, to)`` of layer ÷ number of layers, so that ``(0, 1/3)`` means the first third of
    4 layers and of 32 alike. What is None does not limit.
    """

    roles: tuple[Role, ...] | None = None
    stack: Stack | None = None
    depth: tuple[float, float] | None = None

    def matches(self, spec: TensorSpec, dims: Dimensions) -> bool:
        """Return whether a tensor of a model with these dimensions is meant."""
        if not spec.is_matrix or spec.role == "token_embedding":
            # Roles speak of the matrices inside the blocks; all others are reached by name only.
            return False
        if self.roles is not None and spec.role not in self.roles:
            return False
        if self.stack is not None and spec.stack != self.stack:
            return False
        if self.depth is None:
            return True
        n_layers = dims.n_audio_layer if spec.stack == "encoder" else dims.n_text_layer
        return spec.layer is not None and self.depth[0] <= spec.layer / n_layers < self.depth[1]

    def __str__(self) -> str:
        parts = [_family_name(self.roles) if self.roles else "all matrices"]
        if self.stack:
            parts.append(f"of the {self.stack}")
        if self.depth:
            parts.append(f"at depth {self.depth[0]:.2f} to {self.depth[1]:.2f}")
        return " ".join(parts)


def _family_name(roles: tuple[Role, ...]) -> str:
    return next((name for name, members in ROLE_FAMILIES.items() if members == roles), " ".join(roles))


@dataclass(frozen=True, slots=True)
class Match:
    """That a rule matched, and under which dialect's name (None for a selector)."""

    dialect: Dialect | None
    name: str


@dataclass(frozen=True, slots=True)
class Rule:
    """Give the tensors that ``what`` means the type ``type``.

    ``what`` is a regular expression that must match a whole tensor name, or a ``Selector``.
    """

    what: str | Selector
    type: TensorType
    origin: str = "command line"
    reason: str = ""

    def match(self, spec: TensorSpec, dims: Dimensions) -> Match | None:
        """Return how this rule matches a tensor, canonical name first, or None."""
        if isinstance(self.what, Selector):
            return Match(None, spec.name) if self.what.matches(spec, dims) else None
        return match_name(self.what, spec.name)

    def __str__(self) -> str:
        what = f"'{self.what}'" if isinstance(self.what, str) else f"[{self.what}]"
        return f"{what}={self.type}"


@lru_cache(maxsize=256)
def check_expression(pattern: str) -> None:
    """Raise ``RecipeError`` for what is not a regular expression, with a glob's translation."""
    glob = glob_as_regex(pattern)
    escape = r"put a backslash before a character that is meant as itself: \( \) \[ \] \."
    check_pattern(pattern, f"it looks like a glob; as a regular expression: '{glob}'" if glob else escape)


@lru_cache(maxsize=65536)
def match_name(pattern: str, canonical: str) -> Match | None:
    """Return the dialect in which a pattern matches the whole of a tensor's name, canonical first.

    Raises ``RecipeError`` for a pattern that takes too long.
    """
    names = dialect_names(canonical)
    found = zip(names.items(), full_matches(pattern, tuple(names.values())), strict=True)
    return next((Match(dialect, name) for (dialect, name), matched in found if matched), None)


def glob_as_regex(pattern: str) -> str | None:
    """Return what a shell glob would be as a regular expression, or None when the text is not likely a glob.

    A star that follows nothing, or a dot that is not escaped, is a glob's; ``.*`` is not.
    """
    looks_like_glob = re.search(r"(^|[^.\])}\\\w])\*|(?<![\\.\])}])\w\*", pattern) is not None
    if not looks_like_glob or "\\" in pattern:
        return None
    parts = {"*": ".*", "?": ".", ".": r"\."}
    return "".join(parts.get(character, character) for character in pattern)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides a plan. Rules apply in order: the first that matches a tensor wins.

    ``default`` is the type of matrices that no rule matches. ``protect`` and ``unprotect`` are patterns like a
    rule's; a tensor that both match is protected. ``embedding`` lifts the token embedding's protection and is its type,
    whatever the rules say. ``on_misfit`` says what happens where rows do not fit a type.
    """

    default: TensorType
    rules: tuple[Rule, ...] = ()
    protect: tuple[str, ...] = ()
    unprotect: tuple[str, ...] = ()
    embedding: TensorType | None = None
    on_misfit: OnMisfit = "fallback"
    name: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        for rule in self.rules:
            if isinstance(rule.what, str):
                check_expression(rule.what)
        for pattern in (*self.protect, *self.unprotect):
            check_expression(pattern)
        if self.on_misfit not in get_args(OnMisfit):
            raise RecipeError(f"on_misfit is {self.on_misfit!r}", hint="use one of: fallback error")
        against = [pattern for pattern in self.protect if match_name(pattern, TOKEN_EMBEDDING)]
        if self.embedding is not None and against:
            raise RecipeError(
                f"embedding {self.embedding} and protect '{against[0]}' contradict each other: {TOKEN_EMBEDDING}",
                hint="leave one of them out",
            )

    def protects(self, spec: TensorSpec) -> bool:
        """Return whether a tensor is never quantized under this recipe."""
        if any(match_name(pattern, spec.name) for pattern in self.protect):
            return True
        if spec.name == TOKEN_EMBEDDING and self.embedding is not None:
            return False
        return spec.name in PROTECTED and not any(match_name(pattern, spec.name) for pattern in self.unprotect)

    def first_rule(self, spec: TensorSpec, dims: Dimensions) -> tuple[int, Match] | None:
        """Return the number of the first rule that matches, and how."""
        for number, rule in enumerate(self.rules):
            match = rule.match(spec, dims)
            if match is not None:
                return number, match
        return None

    def with_rules_first(self, rules: tuple[Rule, ...]) -> Recipe:
        """Return this recipe with rules before its own: those of the command line."""
        return replace(self, rules=rules + self.rules)


def parse_rule(text: str, origin: str = "command line") -> Rule:
    """Return the rule that ``PATTERN=TYPE`` says; the last ``=`` splits, and spaces around the two are none of theirs.

    Raises ``RecipeError`` when there is no ``=`` or no regular expression, ``TypeNameError`` for the type.
    """
    pattern, equals, type_name = text.rpartition("=")
    pattern, type_name = pattern if pattern.endswith("\\ ") else pattern.strip(), type_name.strip()
    if not equals or not pattern or not type_name:
        raise RecipeError(f"'{text}' is not a rule", hint=_rule_meant(text))
    if type_meant(type_name) is None and type_meant(pattern) is not None:
        raise RecipeError(f"in the rule '{text}' the type comes first", hint=f"write it last: '{type_name}={pattern}'")
    check_expression(pattern)
    try:
        return Rule(pattern, parse_type(type_name), origin)
    except TypeNameError as error:
        raise TypeNameError(f"in the rule '{text}': {error}", hint=error.hint) from None


def _rule_meant(text: str) -> str:
    """Return how to write a rule, of this pattern and type where another sign stands between them."""
    found = re.fullmatch(r"(.+?)\s*(?:[:\s]|->|=>)\s*(\S+)", text.strip())
    if found and (kind := type_meant(found[2])) is not None:
        return f"write it with an equals sign: '{found[1]}={kind.name}'"
    if "=" not in text and text and type_meant(text) is None:
        return f"it has no type; write PATTERN=TYPE as one word: '{text}=q4_0'"
    return r"write PATTERN=TYPE, for example '.*mlp.*\.weight=q4_0'"
