"""Whisper in transformers, built from a whisq Model: an independent forward pass to compare with."""

from typing import Any

import numpy as np
import pytest

from tests.support.containers import hf_config
from whisq.model import Model
from whisq.whisper import name_in_dialect


def load_transformers(model: Model) -> Any:
    """Return transformers' Whisper in eval mode with the weights of ``model``, in float32; skip without it."""
    torch = pytest.importorskip("torch", reason="needs the extra 'gpu'")
    transformers = pytest.importorskip("transformers", reason="an oracle of the tests")
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"), 0)
    with torch.device("meta"):
        config = transformers.WhisperConfig(**hf_config(model.dims), **ids)
        network = transformers.WhisperForConditionalGeneration(config)
    state = {
        name_in_dialect(tensor.name, "huggingface"): torch.from_numpy(np.array(model.array(tensor), np.float32))
        for tensor in model.tensors
    }
    state["proj_out.weight"] = state[name_in_dialect("decoder.token_embedding.weight", "huggingface")]
    network.load_state_dict(state, assign=True)
    network.tie_weights()
    return network.requires_grad_(False).eval()
