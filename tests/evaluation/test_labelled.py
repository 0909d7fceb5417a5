"""Labelled solutions: planted errors are where the label says, and nothing else is changed."""

import json
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capo_lit.arithmetic.judge import check_steps
from capo_lit.arithmetic.labelled import PlantedArithmeticErrors
from capo_lit.arithmetic.task import MAX_VALUE, ArithmeticSource
from capo_lit.core.errors import ConfigError, DataError
from capo_lit.data.sources import Problem, PromptSource
from capo_lit.evaluation.judging.labelled import LabelledFile, PlantedErrors, change_one_number


class References(PromptSource):
    """Problems with given reference solutions."""

    def __init__(self, *references):
        self.references = references

    def load(self):
        return [Problem(f"r{n}", f"problem {n}", "7", text) for n, text in enumerate(self.references)]


def test_in_the_arithmetic_every_other_solution_has_one_wrong_result_and_goes_on_from_it():
    solutions = PlantedArithmeticErrors(ArithmeticSource(size=40, seed=3, carry_bug=0.9)).load()
    assert [solution.label == -1 for solution in solutions] == [True, False] * 20
    for solution in solutions:
        wrong = check_steps(solution.problem, solution.steps)
        assert wrong == (frozenset() if solution.label == -1 else frozenset({solution.label}))
        numbers = [int(number) for step in solution.steps for number in re.findall(r"[0-9]+", step)]
        assert max(numbers) <= MAX_VALUE
    assert len({solution.label for solution in solutions}) > 3  # not always the same step
    again = PlantedArithmeticErrors(ArithmeticSource(size=40, seed=3, carry_bug=0.9)).load()
    assert solutions == again


def test_demonstrations_that_may_be_wrong_are_no_ground_for_labels():
    with pytest.raises(ConfigError, match="ArithmeticSource, whose references may be wrong"):
        PlantedErrors(ArithmeticSource(size=4, carry_bug=0.5))
    assert len(PlantedErrors(ArithmeticSource(size=4)).load()) == 4


def test_a_planted_number_is_a_result_where_there_is_one():
    steps = ["Step 1: she has 3 boxes.\n\n", "That is 3 * 4 = 12 eggs.\n\n", "The answer is 12."]
    seen = set()
    for seed in range(40):
        changed, label = change_one_number(steps, random.Random(seed))
        assert label == 1
        result = re.fullmatch(r"That is 3 \* 4 = (\d+) eggs\.\n\n", changed[1])
        seen.add(int(result[1]))
        assert [changed[0], changed[2]] == [steps[0], steps[2]]
    assert 12 not in seen
    assert len(seen) > 5


def test_without_a_result_any_number_but_a_steps_own_is_changed():
    steps = ["1. Nothing here.", "2. There are 5 of them, x2 and 1.5 each."]
    for seed in range(20):
        changed, label = change_one_number(steps, random.Random(seed))
        assert label == 1
        assert re.fullmatch(r"2\. There are (?!5 )\d+ of them, x2 and 1\.5 each\.", changed[1])
    with pytest.raises(DataError, match="without a number to change"):
        change_one_number(["1. Nothing.", "Nor here: x2."], random.Random(0))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.from_regex(r"[a-z]{1,5} = [0-9]{1,9}\n\n", fullmatch=True), min_size=1, max_size=6), st.integers())
def test_exactly_one_step_differs_and_it_is_the_labelled_one(steps, seed):
    changed, label = change_one_number(steps, random.Random(seed))
    assert [index for index, (a, b) in enumerate(zip(steps, changed, strict=True)) if a != b] == [label]


@pytest.mark.parametrize("between", ["\n\n", "\n"])
def test_reference_solutions_are_split_and_kept_as_they_are(between):
    text = between.join(("So 2 + 3 = 5.", "Then 5 + 2 = 7.", "It is 7."))
    right, wrong = PlantedErrors(References(text, text)).load()
    assert "".join(right.steps) == right.rollout(0).completion.text == text
    assert (right.label, right.reference, right.answer) == (-1, text, "7")
    assert wrong.label in (0, 1)
    assert [a == b for a, b in zip(right.steps, wrong.steps, strict=True)] == [wrong.label != n for n in range(3)]
    with pytest.raises(DataError, match="problem r0"):
        PlantedErrors(References(None)).load()


def test_a_file_in_processbenchs_form(tmp_path):
    path = tmp_path / "labelled.jsonl"
    rows = [{"id": f"a{n}", "problem": "?", "steps": ["x\n\ny", "z"], "label": -1 if n < 6 else 1} for n in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    solutions = LabelledFile(str(path)).load()
    assert [solution.label for solution in solutions] == [-1] * 6 + [1] * 6
    assert len(solutions[0].rollout(0).spans) == 2  # a blank line in a given step does not split it
    path.write_text(json.dumps({"problem": "?", "steps": ["x"]}) + "\n")
    with pytest.raises(DataError, match="without a label"):
        LabelledFile(str(path)).load()
