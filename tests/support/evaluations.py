"""An evaluation and a search made up in memory, with all that a report shows."""

import numpy as np

from whisq.clips.clip import Problem
from whisq.evaluation.results import (
    ClipRecord,
    DataRecord,
    Evaluation,
    InsideUtterance,
    ModelResult,
    TensorError,
    Utterance,
    count_types,
)
from whisq.evaluation.scoring import count_edits
from whisq.search import Mix
from whisq.types import TYPES
from whisq.whisper import Dimensions, expected_tensors

DIMS = Dimensions(51864, 1500, 256, 4, 3, 448, 256, 4, 3, 80)
SENTENCE = "the man who never turned his face to the wind and the sea spoke of <b>tea & toast</b> at noon"
WORDS = SENTENCE.split()


def made_model(label: str, types: dict[str, str], said: list[str], harm: float, seed: int) -> ModelResult:
    generator = np.random.default_rng(seed)
    tensors = []
    for spec in expected_tensors(DIMS).values():
        if len(spec.shape) < 2:
            continue
        kind = TYPES[types.get(spec.stack, "f16") if spec.is_matrix and spec.layer is not None else "f16"]
        weights = int(np.prod(spec.shape))
        noise = 0.0 if kind.name == "f16" else 10 ** (-kind.bits_per_weight * 0.6 + generator.normal(0, 0.2))
        tensors.append(
            TensorError(
                name=spec.name,
                stack=spec.stack,
                layer=spec.layer,
                role=spec.role,
                type=kind.name,
                reference_type="f16",
                n_weights=weights,
                size_bytes=int(weights * kind.bits_per_weight / 8),
                signal=1.0,
                noise=noise,
            )
        )
    utterances, inside = [], []
    for index, text in enumerate(said):
        words = [word if generator.random() > 0.05 + harm else "blue" for word in text.split()]
        written = " ".join(words) + (" thank you" * 12 if harm > 0.1 and index == 3 else "")
        utterances.append(Utterance(written, 0.8, count_edits(text, written, "en"), "stopped" if index == 4 else ""))
        divergences = tuple(float(value) for value in generator.gamma(1, 0.01 + harm, size=len(words)))
        inside.append(InsideUtterance(f"clip-{index}", divergences, len(words) - 1, harm, 1.0))
    return ModelResult(
        label=label,
        path=f"{label}.bin",
        container="bin",
        sha256="ab" * 32,
        size_bytes=sum(tensor.size_bytes for tensor in tensors),
        n_weights=sum(tensor.n_weights for tensor in tensors),
        types=count_types([tensor.type for tensor in tensors]),
        runtime="transcribe.cpp",
        runtime_version="0.4.1",
        failure="",
        load_s=0.2,
        peak_bytes=200 * 10**6,
        baseline_bytes=30 * 10**6,
        utterances=tuple(utterances),
        inside=tuple(inside) if label != "reference" else (),
        tensors=tuple(tensors) if label != "reference" else (),
    )


def made_evaluation() -> Evaluation:
    """Return an evaluation of four models, one of which no runtime took."""
    generator = np.random.default_rng(0)
    said = [" ".join(generator.choice(WORDS, size=generator.integers(5, 25))) for _ in range(40)]
    clips = tuple(ClipRecord(f"clip-{i}", text, "en", 6.0, f"{i:064x}") for i, text in enumerate(said))
    data = DataRecord("clips", "csv manifest", "cd" * 32, clips, (Problem("gone.wav", "audio missing"),))
    failed = made_model("broken", {}, said, 0.0, 9)
    models = (
        made_model("reference", {}, said, 0.0, 1),
        made_model("same", {"encoder": "q8_0", "decoder": "q8_0"}, said, 0.0, 2),
        made_model("harmed", {"encoder": "q4_0", "decoder": "q5_0"}, said, 0.3, 3),
        ModelResult(
            **{name: getattr(failed, name) for name in ModelResult.__slots__}
            | {
                "utterances": (),
                "inside": (),
                "tensors": (),
                "failure": "transcribe.cpp: it does not take q2_K",
                "runtime": None,
                "runtime_version": None,
                "load_s": None,
                "peak_bytes": None,
                "baseline_bytes": None,
            }
        ),
    )
    settings = {"seed": 0, "threads": 2, "jobs": 1, "decoding": "greedy"}
    made_with = {"whisq": "0", "packages": {"jiwer": "4"}, "python": "3", "platform": "Linux", "cpu": "a CPU",
                 "created": "2026-01-01T00:00:00+00:00"}  # fmt: skip
    return Evaluation(data, models, settings, made_with)


def made_curve() -> tuple[Mix, ...]:
    """Return a search's curve with measured and unmeasured mixes."""
    return (
        Mix("q4_0", "uniform", 50 * 10**6, 0.02, 0.021),
        Mix("mix of q4_0's size", "searched", 50 * 10**6, 0.01, 0.012),
        Mix("compact", "preset", 53 * 10**6, 0.015, None),
        Mix("q8_0", "uniform", 70 * 10**6, 0.0002, 0.0003),
        Mix("mix of q8_0's size", "searched", 70 * 10**6, 0.0001, 0.0001),
    )
