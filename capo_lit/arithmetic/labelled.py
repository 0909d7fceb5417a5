"""Solutions of the built-in arithmetic whose wrong step is known, to measure a judge."""

import random

from capo_lit.arithmetic.task import MAX_VALUE, SEPARATOR, ArithmeticSource, Expression, apply, parse_expression
from capo_lit.core.errors import DataError
from capo_lit.core.seeding import derive_seed
from capo_lit.data.sources import Problem
from capo_lit.evaluation.judging.labelled import PlantedErrors
from capo_lit.evaluation.judging.scores import NO_WRONG_STEP
from capo_lit.evaluation.judging.solutions import Solution


class PlantedArithmeticErrors(PlantedErrors):
    """Right solutions of the built-in arithmetic, every other one with one wrong result, from which the chain goes on.

    They are computed, not taken from the source's demonstrations, which may drop carries.

    Args:
        problems: of the built-in task; one solution for each.
    """

    def __init__(self, problems: ArithmeticSource) -> None:
        self.problems = problems

    def solution(self, problem: Problem, wrong: bool) -> Solution:
        rng = random.Random(derive_seed("planted error", 0, problem.uid)) if wrong else None
        steps, label = solve_arithmetic(parse_expression(problem.problem), rng)
        return Solution(problem.uid, problem.problem, tuple(steps), SEPARATOR, label, problem.answer, problem.reference)


def solve_arithmetic(expression: Expression, rng: random.Random | None = None) -> tuple[list[str], int]:
    """The steps of a solution of the built-in arithmetic, right but for one result if there is an rng.

    Args:
        expression: the problem.
        rng: draws the wrong step and its result; None makes no error.

    Returns:
        The steps, box included, and the wrong one (-1: none). Every value stays in 0..MAX_VALUE, also after the error.
    """
    places = [(step, result) for step in range(len(expression.operations)) for result in range(MAX_VALUE + 1)]
    if rng is None:
        return _chain(expression, None)[0], NO_WRONG_STEP
    rng.shuffle(places)
    right = _chain(expression, None)[1]
    for step, result in places:  # the last step may have any result, so that there is always one that fits
        steps, values = _chain(expression, (step, result))
        if result != right[step] and all(0 <= value <= MAX_VALUE for value in values[step:]):
            return steps, step
    raise DataError("no wrong result that fits", f"one in 0..{MAX_VALUE}", expression.text, "the prompt source")


def _chain(expression: Expression, planted: tuple[int, int] | None) -> tuple[list[str], list[int]]:
    """Steps and results; the result of one step may be given."""
    value, lines, results = expression.start, list[str](), list[int]()
    for step, (op, operand) in enumerate(expression.operations):
        result = planted[1] if planted and planted[0] == step else apply(value, op, operand)
        lines.append(f"{value}{op}{operand}={result}")
        results.append(result)
        value = result
    return [*lines, f"\\boxed{{{value}}}"], results
