"""The mistakes that people make with rules, found before work starts.

Each finding names its rule and has a hint that fixes it. Rules that select by role are written to fit every model,
so they are held to less: they may match nothing, or fall back, without a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from whisq.errors import RecipeError
from whisq.recipe.patterns import full_matches
from whisq.recipe.recipe import Recipe, Rule, glob_as_regex, match_name
from whisq.types import TensorType
from whisq.whisper import PROTECTED, TOKEN_EMBEDDING, Dimensions, TensorSpec

_PEER_NAMES = {
    r"attn_q(?![a-z])": r"attn\.query", r"attn_k(?![a-z])": r"attn\.key", r"attn_v(?![a-z])": r"attn\.value",
    r"attn_out(put)?": r"attn\.out", r"attn\\?\.q(?![a-z])": r"attn\.query", r"attn\\?\.k(?![a-z])": r"attn\.key",
    r"attn\\?\.v(?![a-z])": r"attn\.value", r"[qkv]_proj": r"attn\.(query|key|value)",
    r"ffn_up|fc1|ffn_gate": r"mlp\.0", r"ffn_down|fc2": r"mlp\.2", r"ffn(?![_a-z])|feed_forward": "mlp",
    r"token_embd|embed_tokens": "token_embedding", r"layers": "blocks", r"(?<![a-z])enc(?![a-z])": "encoder",
    r"(?<![a-z])dec(?![a-z])": "decoder", r"blk": "blocks",
}  # fmt: skip
"""What other projects call Whisper's parts → what they are called here."""


_LONGEST_COMPARED = 300
"""Looking for the nearest name takes the square of a pattern's length."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One warning. ``code`` is for scripts; ``rule`` is the rule's number from 0, None where no rule is at fault."""

    code: str
    message: str
    hint: str
    rule: int | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """What became of one tensor, as far as the rules are concerned."""

    spec: TensorSpec
    is_changed: bool
    asked: TensorType | None
    type: TensorType
    rule: int | None


def findings_of(
    recipe: Recipe, dims: Dimensions, tensors: Sequence[Finished], size_before: int, size_after: int
) -> list[Finding]:
    """Return everything that is probably not what the user meant, in the order of the rules."""
    found: list[Finding] = []
    for number, rule in enumerate(recipe.rules):
        if isinstance(rule.what, str):
            found += _rule_findings(recipe, dims, tensors, number, rule, rule.what)
    found += _misfit_findings(recipe, tensors)
    found += _protection_findings(recipe, tensors)
    if size_after > size_before:
        found.append(
            Finding(
                "larger",
                f"the result is larger than its source: {size_before} bytes -> {size_after} bytes",
                "choose types smaller than the source's",
            )
        )
    return found


def _rule_findings(
    recipe: Recipe, dims: Dimensions, tensors: Sequence[Finished], number: int, rule: Rule, pattern: str
) -> Iterator[Finding]:
    matched = [t for t in tensors if rule.match(t.spec, dims) is not None]
    if not matched:
        yield Finding(
            "no-match", f"rule {rule} matches no tensor", nearest_names(pattern, [t.spec.name for t in tensors]), number
        )
        return
    protected = [t.spec.name for t in matched if recipe.protects(t.spec) and t.spec.is_matrix]
    open_to_it = [t for t in matched if t.spec.is_matrix and not recipe.protects(t.spec)]
    if not open_to_it:
        names = ", ".join(t.spec.name for t in matched[:3]) + (", …" if len(matched) > 3 else "")
        hint = "only weight matrices are quantized: match names like decoder.blocks.0.mlp.0.weight"
        if protected:
            hint = f"{protected[0]} is protected; {_lifting(rule, protected[0])} lifts that"
        yield Finding(
            "never-quantized", f"rule {rule} matches only tensors that are never quantized: {names}", hint, number
        )
        return
    if protected:
        yield _reaches_protected(rule, pattern, protected[0], number)
    if all(t.rule is not None and t.rule < number for t in open_to_it):
        takers = sorted({t.rule for t in open_to_it if t.rule is not None})
        named = ", ".join(str(recipe.rules[taker]) for taker in takers)
        yield Finding(
            "shadowed",
            f"rule {rule} can change nothing: the first match wins, and earlier rules take all"
            f" {len(open_to_it)} matrices it matches ({named})",
            f"put it first: --tensor-type {rule} before --tensor-type {recipe.rules[takers[0]]}",
            number,
        )


def _reaches_protected(rule: Rule, pattern: str, name: str, number: int) -> Finding:
    stack = "decoder" if pattern.startswith("decoder") else None
    narrower = rf"{stack}\.blocks\..*\.weight" if stack else r".*\.blocks\..*\.weight"
    return Finding(
        "protected",
        f"rule {rule} reaches for {name}, which is protected and will be skipped",
        f"match the blocks only: '{narrower}'={rule.type}; or lift the protection: {_lifting(rule, name)}",
        number,
    )


def _lifting(rule: Rule, name: str) -> str:
    return f"--embedding {rule.type}" if name == TOKEN_EMBEDDING else f"--unprotect '{re.escape(name)}'"


def nearest_names(pattern: str, names: Sequence[str]) -> str:
    """Return a hint for a pattern that matches none of these names; a pattern that it offers matches some."""
    if len(pattern) > _LONGEST_COMPARED:
        return f"the names are like {', '.join(names[:3])}"
    if pattern != pattern.strip() and _matching(pattern.strip(), names):
        return f"leave out the spaces: '{pattern.strip()}'"
    glob = glob_as_regex(pattern)
    if glob and _matching(glob, names):
        return f"it looks like a glob; as a regular expression: '{glob}'"
    renamed = pattern
    for theirs, ours in _PEER_NAMES.items():
        renamed = re.sub(theirs, lambda _, ours=ours: ours, renamed)  # type: ignore[misc]  # binds the loop's value
    plain = re.sub(r"\\(.)", r"\1", renamed)
    for offered in (renamed, _anywhere(renamed)) if renamed != pattern else ():
        if matching := _matching(offered, names):
            more = f" and {len(matching) - 1} more" if len(matching) > 1 else ""
            return f"the names are different here: '{offered}' would match {matching[0]}{more}"
    if _matching(_anywhere(pattern), names):
        return f"a pattern must match the whole name: '{_anywhere(pattern)}' would"
    import difflib

    close = difflib.get_close_matches(plain.replace(".*", ""), names, n=3, cutoff=0.3)
    return f"the nearest names: {', '.join(close or names[:3])}"


def _anywhere(pattern: str) -> str:
    return f".*({pattern}).*" if "|" in pattern else f".*{pattern}.*"


def _matching(pattern: str, names: Sequence[str]) -> list[str]:
    try:
        return [name for name, matched in zip(names, full_matches(pattern, names), strict=True) if matched]
    except RecipeError:
        return []


def _misfit_findings(recipe: Recipe, tensors: Sequence[Finished]) -> Iterator[Finding]:
    groups: dict[int | None, list[Finished]] = {}
    for t in tensors:
        if t.asked is not None and t.asked is not t.type:
            groups.setdefault(t.rule, []).append(t)
    for number, misfits in groups.items():
        if number is not None and not isinstance(recipe.rules[number].what, str):
            continue
        first = misfits[0]
        assert first.asked is not None
        by = f"rule {recipe.rules[number]}" if number is not None else f"the default type {first.asked}"
        columns = ", ".join(str(c) for c in sorted({t.spec.shape[-1] for t in misfits}))
        yield Finding(
            "misfit",
            f"{by} does not fit {len(misfits)} tensors with rows of {columns}: {first.asked} has blocks of"
            f" {first.asked.block_size}; they become {first.type}",
            f"ask for {first.type} there to say so yourself, or refuse with --on-misfit error",
            number,
        )


def _protection_findings(recipe: Recipe, tensors: Sequence[Finished]) -> Iterator[Finding]:
    for pattern in recipe.unprotect:
        lifted = [t for t in tensors if t.spec.name in PROTECTED and match_name(pattern, t.spec.name)]
        if not lifted:
            yield Finding(
                "no-match",
                f"--unprotect '{pattern}' lifts nothing",
                f"protected by default: {', '.join(PROTECTED)}",
            )
        elif not any(t.spec.is_matrix for t in lifted):
            yield Finding(
                "never-quantized",
                f"--unprotect '{pattern}' changes nothing: {lifted[0].spec.name} stays f32 in every format",
                "of the protected tensors only decoder.token_embedding.weight can be quantized",
            )
    for pattern in recipe.protect:
        if not any(match_name(pattern, t.spec.name) for t in tensors):
            yield Finding(
                "no-match",
                f"--protect '{pattern}' matches no tensor",
                nearest_names(pattern, [t.spec.name for t in tensors]),
            )
