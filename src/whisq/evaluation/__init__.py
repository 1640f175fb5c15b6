"""What quantizing cost, measured by transcribing with real runtimes: ``evaluate`` returns an ``Evaluation``."""

from whisq.evaluation.results import Evaluation, ModelResult, Summary, Utterance
from whisq.evaluation.results_json import from_json, read_results, to_json
from whisq.evaluation.run import EvaluationSettings, evaluate

__all__ = [
    "Evaluation",
    "EvaluationSettings",
    "ModelResult",
    "Summary",
    "Utterance",
    "evaluate",
    "from_json",
    "read_results",
    "to_json",
]
