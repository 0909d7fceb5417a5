"""The built-in task: left-to-right additions and subtractions, one per line, with an optional systematic bug.

Problem `12+7-5+3-9?`; solution, one paragraph per operation and one for the answer:

    12+7=19

    19-5=14

    14+3=17

    17-9=8

    \\boxed{8}

Every value stays in 0..MAX_VALUE, so that a number is one token of the small vocabulary that belongs to the task.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from capo_lit.core.errors import ConfigError, DataError, check_settings
from capo_lit.core.seeding import derive_seed
from capo_lit.data.sources import Problem, PromptSource

MAX_VALUE = 20
MAX_OPERAND = 9
SEPARATOR = "\n\n"
BOX = "\\boxed{"

Split = Literal["train", "val", "test"]
Operation = tuple[str, int]

# Eight of ten problems are for training; which split a problem belongs to depends on its text alone.
_SPLIT_OF_BUCKET: tuple[Split, ...] = ("train",) * 8 + ("val", "test")
_PROBLEM = re.compile(r"[0-9]{1,9}(?:[+-][0-9]{1,9})+\?")
_OPERATION = re.compile(r"([+-])([0-9]+)")


@dataclass(frozen=True, slots=True)
class Expression:
    """A problem of the task, read.

    Attributes:
        start: the first number.
        operations: pairs of "+" or "-" and an operand, in order.
    """

    start: int
    operations: tuple[Operation, ...]

    @property
    def text(self) -> str:
        """The problem as the policy sees it, for example `12+7-5?`."""
        return str(self.start) + "".join(f"{op}{operand}" for op, operand in self.operations) + "?"

    @property
    def answer(self) -> int:
        """The true value."""
        value = self.start
        for op, operand in self.operations:
            value = apply(value, op, operand)
        return value


def parse_expression(problem: str) -> Expression:
    """Read a problem text such as `12+7-5?`.

    Raises:
        DataError: if the text is no problem of this task.
    """
    if not _PROBLEM.fullmatch(problem):
        raise DataError(f"problem {problem!r}", "a text like '12+7-5?'", "built-in arithmetic", "the prompt source")
    operations = tuple((op, int(operand)) for op, operand in _OPERATION.findall(problem))
    return Expression(int(re.split(r"[+-]", problem, maxsplit=1)[0]), operations)


def apply(value: int, op: str, operand: int) -> int:
    """The true result of one operation."""
    return value + operand if op == "+" else value - operand


def without_carry(value: int, op: str, operand: int) -> int | None:
    """The result when the carry into (or the borrow from) the tens is forgotten.

    Returns:
        The true result - 10 for a forgotten carry, + 10 for a forgotten borrow; None if the step has neither.
    """
    if op == "+":
        return value + operand - 10 if value % 10 + operand >= 10 else None
    return value - operand + 10 if value % 10 < operand else None


def split_of(problem: str) -> Split:
    """The split that a problem belongs to, by a hash of its text: 80 % train, 10 % val, 10 % test."""
    return _SPLIT_OF_BUCKET[derive_seed("arithmetic split", problem) % len(_SPLIT_OF_BUCKET)]


def demonstration(expression: Expression, carry_bug: float, rng: random.Random) -> str:
    """A solution whose every carry or borrow is dropped with probability `carry_bug`.

    The chain goes on from the wrong value. A step from which no continuation stays in 0..MAX_VALUE is never taken.

    Args:
        expression: the problem.
        carry_bug: in [0, 1]; 0 gives the right solution.
        rng: drawn from once per step that may go both ways.

    Returns:
        The text of the solution, without an end-of-sequence token.
    """
    viable = _viable_values(expression, carry_bug)
    value, lines = expression.start, []
    for (op, operand), allowed in zip(expression.operations, viable, strict=True):
        right, wrong = apply(value, op, operand), without_carry(value, op, operand)
        result = right
        if wrong in allowed and (right not in allowed or rng.random() < carry_bug):
            result = wrong
        lines.append(f"{value}{op}{operand}={result}")
        value = result
    return SEPARATOR.join([*lines, f"{BOX}{value}}}"])


def _viable_values(expression: Expression, carry_bug: float) -> list[set[int]]:
    """For every step, the results from which the rest of the chain can stay in range."""
    in_range = set(range(MAX_VALUE + 1))
    viable = [in_range]
    for op, operand in reversed(expression.operations[1:]):
        after = viable[0]
        results = {
            value: {apply(value, op, operand), without_carry(value, op, operand) if carry_bug else None}
            for value in in_range
        }
        viable.insert(0, {value for value in in_range if results[value] & after})
    return viable


def _draw(rng: random.Random, length: int) -> Expression:
    start = value = rng.randint(1, MAX_VALUE)
    operations: list[Operation] = []
    for _ in range(rng.randint(length, length)):  # drawn, so that the problems are those of the published results
        fitting = [
            (op, operand)
            for op in "+-"
            for operand in range(1, MAX_OPERAND + 1)
            if 0 <= apply(value, op, operand) <= MAX_VALUE
        ]
        op, operand = rng.choice(fitting)
        value = apply(value, op, operand)
        operations.append((op, operand))
    return Expression(start, tuple(operations))


class ArithmeticSource(PromptSource):
    """Problems of the built-in task; no problem is in two splits, whatever the seeds.

    Args:
        size: number of problems, all different.
        seed: of the problems and of the bug; a smaller size gives the first problems of a larger one.
        operations: of each problem.
        carry_bug: probability in [0, 1] that a demonstration drops a carry or borrow.
        split: "train", "val" or "test".
    """

    def __init__(
        self,
        size: int = 1024,
        seed: int = 0,
        operations: int = 5,
        carry_bug: float = 0.0,
        split: Split = "train",
    ) -> None:
        checks = (
            (size >= 1, f"size {size}", "an integer >= 1", "size"),
            (operations >= 1, f"operations {operations}", "an integer >= 1", "operations"),
            (0 <= carry_bug <= 1, f"carry_bug {carry_bug}", "a probability in [0, 1]", "carry_bug"),
            (split in get_args(Split), f"split {split!r}", f"one of {', '.join(get_args(Split))}", "split"),
        )
        check_settings(checks, "ArithmeticSource")
        self.size, self.seed, self.split = size, seed, split
        self.operations, self.carry_bug = operations, carry_bug
        self.right_references = carry_bug == 0

    def load(self) -> Sequence[Problem]:
        """The problems, with their true answers and their demonstrations as `reference`.

        Raises:
            ConfigError: if there are not `size` different problems to be found.
        """
        rng = random.Random(derive_seed("arithmetic problems", self.seed, self.operations, self.operations))
        found: dict[str, Expression] = {}
        tries = 100 * self.size + 1000
        for _ in range(tries):
            expression = _draw(rng, self.operations)
            if split_of(expression.text) == self.split:
                found.setdefault(expression.text, expression)
            if len(found) == self.size:
                return [self._problem(text, expression) for text, expression in found.items()]
        raise ConfigError(
            f"{len(found)} different problems after {tries} draws",
            f"{self.size} in split {self.split!r}",
            "ArithmeticSource",
            "size (smaller) or operations (more)",
        )

    def _problem(self, text: str, expression: Expression) -> Problem:
        bug = random.Random(derive_seed("arithmetic carry bug", self.seed, text))
        return Problem(
            uid=f"arithmetic:{text}",
            problem=text,
            answer=str(expression.answer),
            reference=demonstration(expression, self.carry_bug, bug),
        )
