"""What quantizing cost, measured by transcribing with real runtimes: ``evaluate`` returns an ``Evaluation``."""

from whisq.evaluation.results import Evaluation, ModelResult, Summary, Utterance
from whisq.evaluation.results_json import from_json, read_results, to_json
from whisq.evaluation.run import EvaluationSettings, evaluate
from whisq.evaluation.which_file import Answer, MeasuredFile, Rung, WhichFile

__all__ = [
    "Answer",
    "Evaluation",
    "EvaluationSettings",
    "MeasuredFile",
    "ModelResult",
    "Rung",
    "Summary",
    "Utterance",
    "WhichFile",
    "evaluate",
    "from_json",
    "read_results",
    "to_json",
]
