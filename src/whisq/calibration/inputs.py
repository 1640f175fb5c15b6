"""Which linear layers share an input: what is measured of it is measured once."""

from __future__ import annotations

import re

from whisq.whisper import Dimensions, expected_tensors

_MATRIX = re.compile(r"(encoder|decoder)\.blocks\.(\d+)\.(attn|cross_attn|mlp)\.(query|key|value|out|0|2)\.weight")

ENCODER_OUTPUT = "decoder.blocks.0.cross_attn.key"
EMBEDDING_INPUT = "decoder.token_embedding"


def input_of(matrix: str) -> str | None:
    """Return the name of the input that a weight matrix multiplies, None for a tensor that is not a matrix.

    It is the name, without ``.weight``, of the first layer that has this input: query, key and value share theirs,
    and every cross-attention key and value shares the encoder's output. The token embedding's is what it
    multiplies as the output layer.
    """
    if matrix == f"{EMBEDDING_INPUT}.weight":
        return EMBEDDING_INPUT
    match = _MATRIX.fullmatch(matrix)
    if match is None:
        return None
    stack, layer, module, part = match.groups()
    if module == "cross_attn" and part in ("key", "value"):
        return ENCODER_OUTPUT
    if part in ("key", "value"):
        part = "query"
    return f"{stack}.blocks.{layer}.{module}.{part}"


def inputs_of(dims: Dimensions) -> dict[str, int]:
    """Return the inputs of all matrices of a model, in the order of its layers, with their widths."""
    found: dict[str, int] = {}
    for spec in expected_tensors(dims).values():
        name = input_of(spec.name)
        if name is not None:
            found.setdefault(name, spec.shape[-1])
    return found


def is_taken_about_its_mean(source: str) -> bool:
    """True for inputs whose moments rounding takes about the mean: a constant shift of the outputs costs nothing there.

    It goes into the layer's bias, and one of the keys changes no attention. The encoder's output is weighted by
    attention, which has no one mean, and the output layer, which is the token embedding, has no bias: there the moments
    are as they are.
    """
    return source not in (ENCODER_OUTPUT, EMBEDDING_INPUT)
