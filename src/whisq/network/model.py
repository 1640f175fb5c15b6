"""A whisq Model as ``transformers``' own Whisper, its weights dequantized: for what no runtime shows.

Needs the optional extra ``calibrate`` (torch and transformers); nothing here is imported before it is used.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from whisq.errors import FormatError
from whisq.extras import require_torch
from whisq.model import Model
from whisq.network.tokens import LONGEST_TEXT, special_tokens
from whisq.whisper import Dimensions, name_in_dialect

if TYPE_CHECKING:
    import torch
    from transformers import WhisperConfig, WhisperForConditionalGeneration


def whisper_config(dims: Dimensions) -> WhisperConfig:
    """Return the ``WhisperConfig`` of a model with these dimensions.

    Raises ``FormatError`` for encoder and decoder of different width, which transformers cannot express.
    """
    require_torch()
    from transformers import WhisperConfig

    if dims.n_audio_state != dims.n_text_state:
        raise FormatError(
            f"encoder width {dims.n_audio_state} and decoder width {dims.n_text_state} differ",
            hint="transformers' Whisper has one width for both",
        )
    special = special_tokens(dims)
    return WhisperConfig(
        vocab_size=dims.n_vocab,
        num_mel_bins=dims.n_mels,
        d_model=dims.n_audio_state,
        encoder_layers=dims.n_audio_layer,
        encoder_attention_heads=dims.n_audio_head,
        encoder_ffn_dim=4 * dims.n_audio_state,
        decoder_layers=dims.n_text_layer,
        decoder_attention_heads=dims.n_text_head,
        decoder_ffn_dim=4 * dims.n_text_state,
        max_source_positions=dims.n_audio_ctx,
        max_target_positions=dims.n_text_ctx,
        decoder_start_token_id=special["startoftranscript"],
        bos_token_id=special["endoftext"],
        eos_token_id=special["endoftext"],
        pad_token_id=special["endoftext"],
        scale_embedding=False,
        tie_word_embeddings=True,
    )


def load_torch_whisper(
    model: Model, *, dtype: torch.dtype | None = None, device: str = "cpu"
) -> WhisperForConditionalGeneration:
    """Return transformers' Whisper in eval mode with the weights of ``model``, dequantized to ``dtype``.

    ``dtype`` is float32 unless given. The weights are read tensor by tensor and the file's pages let go, so
    the peak is one copy of the model in ``dtype`` and one tensor in float32. Raises ``FormatError`` with the
    names of the tensors that are missing.
    """
    config = whisper_config(model.dims)
    import torch
    from transformers import WhisperForConditionalGeneration

    dtype = dtype or torch.float32
    with torch.device("meta"):
        network = WhisperForConditionalGeneration(config)
    state: dict[str, torch.Tensor] = {}
    for tensor in model.tensors:
        weights = torch.from_numpy(np.array(model.array(tensor), dtype=np.float32, copy=True))
        state[name_in_dialect(tensor.name, "huggingface")] = weights.to(dtype=dtype, device=device)
        model.release(tensor)
    embedding = name_in_dialect("decoder.token_embedding.weight", "huggingface")
    if embedding in state:
        state["proj_out.weight"] = state[embedding]
    missing, unexpected = network.load_state_dict(state, strict=False, assign=True)
    if missing or unexpected:
        raise FormatError(
            f"{model.path}: not a whole Whisper: missing {', '.join(missing) or 'nothing'}; "
            f"unknown {', '.join(unexpected) or 'nothing'}",
            hint="open the file with `whisq inspect` to see what it holds",
        )
    network.tie_weights()
    network.requires_grad_(False)
    return network.eval()


@dataclass(slots=True)
class Network:
    """One model in torch."""

    model: Model
    network: WhisperForConditionalGeneration

    def encode(self, mel: torch.Tensor) -> torch.Tensor:
        """Return the encoder's output, ``[1, frames, width]``."""
        encoded: torch.Tensor = self.network.model.encoder(mel).last_hidden_state
        return encoded

    def log_probabilities(self, encoded: torch.Tensor, ids: list[int]) -> torch.Tensor:
        """Return the log-probabilities after each of ``ids``, ``[len(ids), vocabulary]``."""
        import torch

        decoded = self.network.model.decoder(
            input_ids=torch.tensor([ids], device=encoded.device), encoder_hidden_states=encoded
        ).last_hidden_state
        return torch.log_softmax(self.network.proj_out(decoded)[0].double(), dim=-1)

    def write(self, encoded: torch.Tensor, prompt: list[int], longest: int | None = None) -> list[int]:
        """Return the prompt and what the model writes greedily after it, the end token included.

        Together they are at most ``longest`` tokens; by default the text is at most ``LONGEST_TEXT``.
        """
        import torch

        special = special_tokens(self.model.dims)
        # transformers renamed it in 5.24.
        accepted = inspect.signature(type(self.network.model.decoder).forward).parameters
        cache = "cache" if "cache" in accepted else "past_key_values"
        end, ids, past = special["endoftext"], list(prompt), None
        fresh = ids
        longest = len(prompt) + LONGEST_TEXT if longest is None else longest
        while len(ids) < longest:
            step = self.network.model.decoder(
                input_ids=torch.tensor([fresh], device=encoded.device),
                encoder_hidden_states=encoded,
                use_cache=True,
                **{cache: past},
            )
            past = step[cache]
            logits = self.network.proj_out(step.last_hidden_state[0, -1])
            # Text tokens and the end only: all control tokens come after the end.
            token = int(logits[: end + 1].argmax())
            fresh = [token]
            ids.append(token)
            if token == end:
                break
        return ids
