"""F1 of a judge on labelled solutions."""

import pytest

from capo_lit.arithmetic.judge import ArithmeticStepVerifier
from capo_lit.arithmetic.labelled import PlantedArithmeticErrors
from capo_lit.arithmetic.task import ArithmeticSource
from capo_lit.core.errors import DataError
from capo_lit.evaluation.judging.solutions import Solution
from capo_lit.genprm.judge import GenPRM
from capo_lit.training.callbacks.gate import judge_f1
from tests.support.gating import Given, Judge
from tests.support.scripted_engine import ScriptedEngine


def test_the_score_is_the_harmonic_mean_of_the_two_accuracies():
    solutions = Given().load()
    assert judge_f1(Judge(), solutions, 0) == 1.0
    # One of four wrong ones missed: a = 3/4, b = 1, F1 = 2 * 0.75 / 1.75 = 6/7.
    assert judge_f1(Judge(misses=1), solutions, 0) == pytest.approx(6 / 7)
    assert judge_f1(Judge(misses=4), solutions, 0) == 0.0
    assert judge_f1(Judge(mute=True), solutions, 0) == 0.0  # saying nothing is not calling it right
    with pytest.raises(DataError, match="3 labelled solutions with a wrong step and 0 without"):
        judge_f1(Judge(), Given(right=0, wrong=3).load(), 0)


def test_the_rule_judge_is_perfect_on_planted_errors_and_a_blind_one_is_not():
    solutions = PlantedArithmeticErrors(ArithmeticSource(size=30, seed=5)).load()
    assert judge_f1(ArithmeticStepVerifier(), solutions, 0) == 1.0
    assert judge_f1(ArithmeticStepVerifier(false_negative=1.0), solutions, 0) == 0.0


def test_a_genprm_is_scored_on_the_steps_as_given():
    def reply(request):
        text = request.prompt[0]["content"]
        assert text.count("<step_2 key=") == 1
        assert text.count("<step_3 key=") == 0
        return "\\boxed{1}"

    # It always says step 1: right on all wrong ones, wrong on all right ones.
    solutions = [Solution("x", "?", ("a\n\nb", "c", "d"), "\n\n", label) for label in (1, 1, -1)]
    engine = ScriptedEngine(reply)
    assert judge_f1(GenPRM(engine, k=2), solutions, 0) == 0.0
    assert len(engine.requests) == 6
