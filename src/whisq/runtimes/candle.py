"""candle's quantized Whisper, of candle-transformers: by its loader's source, and by files that its reader read.

Sources: ``quantized_model.rs`` (kernels, norms, positions and the embedding are dequantized, other matrices multiplied
as they are), ``GgmlDType::from_u32`` in candle-core's ``quantized/mod.rs`` for the types. The Python package candle-nn
0.4.2 carries the reader and the products, not the model: tests/runtimes/test_candle.py reads and multiplies with it.
"""

from __future__ import annotations

from whisq.runtimes.runtime import Runtime, types_named

CANDLE = Runtime(
    name="candle",
    title="candle (by its loader's source; its GGUF reader run: candle-nn 0.4.2)",
    types=types_named("f32 f16 bf16 q4_0 q4_1 q5_0 q5_1 q8_0 q2_K q3_K q4_K q5_K q6_K"),
    loads_mixes=True,
    containers=("candle",),
    aliases=("candle-transformers",),
    reads_its_own=True,
)
