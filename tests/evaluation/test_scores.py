"""ProcessBench's scores and the agreement of critiques, worked by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capo_lit.evaluation.judging.scores import (
    Agreement,
    ProcessBenchScores,
    critique_agreement,
    first_wrong,
    processbench_scores,
)


def test_a_worked_case() -> None:
    # Erroneous: labels 2, 0, 1, 3 against 2 (hit), 1 (too late), none, no verdict: 1 of 4.
    # Correct: four solutions, of which the judge clears three and blames step 0 of one: 3 of 4.
    # F1 = 2 * 0.25 * 0.75 / (0.25 + 0.75) = 0.375.
    labels = [2, 0, 1, 3, -1, -1, -1, -1]
    predictions = [2, 1, -1, None, -1, -1, 0, -1]
    assert processbench_scores(labels, predictions) == ProcessBenchScores(4, 4, 0.25, 0.75, 0.375, 1)


def test_no_verdict_on_a_correct_solution_is_a_wrong_answer() -> None:
    # 1 of 1 and 1 of 2: F1 = 2 * 1 * 0.5 / 1.5 = 2/3.
    scores = processbench_scores([0, -1, -1], [0, None, -1])
    assert (scores.accuracy_correct, scores.unanswered) == (0.5, 1)
    assert scores.f1 == pytest.approx(2 / 3)


def test_a_judge_that_is_always_wrong_has_f1_zero() -> None:
    assert processbench_scores([0, -1], [-1, 0]) == ProcessBenchScores(1, 1, 0.0, 0.0, 0.0, 0)


def test_solutions_of_one_kind_have_no_f1() -> None:
    assert processbench_scores([1, 0], [1, 1]) == ProcessBenchScores(2, 0, 0.5, None, None, 0)
    assert processbench_scores([-1], [-1]) == ProcessBenchScores(0, 1, None, 1.0, None, 0)
    assert processbench_scores([], []) == ProcessBenchScores(0, 0, None, None, None, 0)


def test_what_cannot_be_scored() -> None:
    with pytest.raises(ValueError, match="2 labels and 1 predictions"):
        processbench_scores([0, 1], [0])
    with pytest.raises(ValueError, match="step -2"):
        processbench_scores([0], [-2])


STEPS = st.integers(-1, 3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(STEPS, st.none() | STEPS), max_size=8), st.randoms(use_true_random=False))
def test_order_is_nothing_and_f1_lies_between_its_parts(pairs, random) -> None:
    scores = processbench_scores([label for label, _ in pairs], [step for _, step in pairs])
    assert scores.erroneous + scores.correct == len(pairs)
    if scores.f1 is not None:
        low, high = sorted([scores.accuracy_erroneous, scores.accuracy_correct])
        assert low - 1e-12 <= scores.f1 <= high + 1e-12
    random.shuffle(pairs)
    assert processbench_scores([label for label, _ in pairs], [step for _, step in pairs]) == scores


def test_first_wrong_step() -> None:
    assert [first_wrong(errors) for errors in ((0.0, 1.0, 1.0), (0.0, 0.0), (), (0.49, 0.5), (0.25, 0.25))] == [
        1,
        -1,
        -1,
        1,
        -1,
    ]


def test_agreement() -> None:
    # Pairs of (0, 0, -1): 0-0 agree, 0-(-1) twice not: 1/3. Pairs of (2, 2): 1. One valid critique has nobody to agree
    # with, so the 0.5 of the third does not count: means (1/3 + 1) / 2 = 2/3 and (0.7 + 0.9) / 2 = 0.8.
    agreement = critique_agreement([[0, 0, -1], [2, 2], [1], []], [0.7, 0.9, 0.5, 1.0])
    assert agreement.solutions == 2
    assert agreement.same_first == pytest.approx(2 / 3)
    assert agreement.steps == pytest.approx(0.8)
    assert critique_agreement([[1]], [1.0]) == Agreement(0, None, None)
