"""What a report is made of, once a session."""

import pytest

from tests.support.evaluations import made_curve, made_evaluation
from whisq.evaluation.results import Evaluation
from whisq.search import Mix


@pytest.fixture(scope="session")
def made() -> Evaluation:
    return made_evaluation()


@pytest.fixture(scope="session")
def curve() -> tuple[Mix, ...]:
    return made_curve()
