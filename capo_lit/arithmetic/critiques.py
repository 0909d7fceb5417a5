"""Critiques of built-in arithmetic, to teach a small judge: solutions with planted errors, and what to say of each.

Problem `12+7-5?` with the steps `12+7=9`, `9-5=4` and `\\boxed{4}`; its critique redoes every step from what was
written before it, and then names the wrong ones:

    0:12+7=19 wrong
    1:9-5=4 ok
    2:=4 ok
    \\boxed{0}
"""

import random
import re
from collections.abc import Sequence

from capo_lit.arithmetic.judge import check_steps
from capo_lit.arithmetic.model import PIECES, WORDS
from capo_lit.arithmetic.task import (
    BOX,
    MAX_VALUE,
    SEPARATOR,
    ArithmeticSource,
    Expression,
    Split,
    apply,
    parse_expression,
    without_carry,
)
from capo_lit.core.seeding import derive_seed
from capo_lit.core.steps import split_steps
from capo_lit.data.sources import Problem
from capo_lit.genprm.prompts import load_template
from capo_lit.genprm.render import render_messages

OK, WRONG = " ok", " wrong"
NOTHING = "none"
_KINDS = ("result", "left", "operand", "sign")
# Share of the solutions in which errors are planted, and of their steps that go wrong: many to learn from; few, as the
# policy has them, to be measured on.
_FLAWS: dict[Split, tuple[float, float]] = {"train": (0.9, 0.5), "val": (0.6, 0.3), "test": (0.6, 0.3)}
# Of every word of a solution, in parts of the rate at which steps go wrong.
_SLIPS = 0.05
# What the policy confuses most: whether another step or the box follows a blank line.
_MISTAKEN = {SEPARATOR: SEPARATOR + BOX, SEPARATOR + BOX: SEPARATOR}


class ArithmeticCritiqueSource(ArithmeticSource):
    """Judge prompts over solutions of the built-in arithmetic, some of them with planted errors, and their critiques.

    Its settings are those of the problems, each of which has one solution; a carry_bug changes nothing, since their
    demonstrations are not used.
    """

    def solutions(self) -> Sequence[tuple[str, list[str]]]:
        """Pairs of a problem's text and the steps of one solution of it.

        Raises:
            ConfigError: if there are not `size` different problems to be found.
        """
        return [(problem.problem, self._solution(problem.problem)) for problem in super().load()]

    def load(self) -> Sequence[Problem]:
        """What the judge is shown, the indices of the wrong steps as `answer`, and the critique as `reference`.

        Raises:
            ConfigError: if there are not `size` different problems to be found.
        """
        template = load_template()
        return [
            Problem(
                uid=f"arithmetic critique:{problem}",
                # Without a nonce: the judge's tokenizer drops it.
                problem=render_messages(problem, steps, template=template)[0]["content"],
                answer=_listed(check_steps(problem, steps)),
                reference=critique(problem, steps),
            )
            for problem, steps in self.solutions()
        ]

    def _solution(self, problem: str) -> list[str]:
        rng = random.Random(derive_seed("arithmetic critique", self.seed, problem))
        flawed, step_error = _FLAWS[self.split]
        rate = step_error if rng.random() < flawed else 0.0
        return flawed_solution(parse_expression(problem), rate, rng)


def critique(problem: str, steps: Sequence[str]) -> str:
    """The critique that a perfect judge writes.

    Every line redoes its step from the last result that was written before it, and says whether the step is that.

    Args:
        problem: such as `12+7-5?`.
        steps: texts of the steps, as split.

    Returns:
        One line per step, and the box with the indices of the wrong ones, or with `none`.

    Raises:
        DataError: if `problem` is no problem of the built-in task.
    """
    expression = parse_expression(problem)
    wrong, malformed = check_steps(problem, steps), check_steps(problem, steps, ["format"])
    value, lines = expression.start, []
    for index, step in enumerate(steps):
        redone = ""
        if index < len(expression.operations):
            op, operand = expression.operations[index]
            redone = f"{value}{op}{operand}={apply(value, op, operand)}"
            value = value if index in malformed else int(step.rpartition("=")[2])
        elif index == len(expression.operations):
            redone = f"={value}"
        lines.append(f"{index}:{redone}{WRONG if index in wrong else OK}")
    return "\n".join([*lines, f"{BOX}{_listed(wrong)}}}"])


def _listed(wrong: frozenset[int]) -> str:
    return ",".join(str(index) for index in sorted(wrong)) or NOTHING


def flawed_solution(expression: Expression, rate: float, rng: random.Random) -> list[str]:
    """The steps of a solution in which each step goes wrong with probability `rate`, and words slip now and then.

    The chain goes on from what was written. Results stay in 0..MAX_VALUE, as the policy knows no other numbers: where
    the right one does not, the step is wrong whatever the rate.

    Args:
        expression: the problem.
        rate: in [0, 1]; 0 gives the right solution.
        rng: where the errors are drawn from.

    Returns:
        Texts of the steps, the box as the last; some are missing or too many where the format has gone wrong.
    """
    value, steps = expression.start, list[str]()
    for op, operand in expression.operations:
        kind = _kind(value, op, operand, rng) if rng.random() < rate else ""
        step, value = _line(value, op, operand, kind, rng)
        steps.append(step)
    boxed = rng.randint(0, MAX_VALUE) if rng.random() < rate else value
    steps.append(f"{BOX}{boxed}}}")
    if rng.random() < rate / 5:
        # A step twice, or some too few before the box.
        first, last = sorted(rng.choices(range(len(steps)), k=2))
        steps[first:last] = [steps[first]] if first == last else []
    text = _slips(SEPARATOR.join(steps), rate, rng)
    return [text[start:end].strip() for start, end in split_steps(text)]


def _slips(text: str, rate: float, rng: random.Random) -> str:
    """The text with words left out, doubled, mistaken and put in, or cut off: how a policy errs that samples words."""
    words = list[str]()
    for word in re.findall(PIECES, text):
        other = _MISTAKEN.get(word) or rng.choice(WORDS)
        slip = rng.choice(([], [word, word], [other], [other, word])) if rng.random() < _SLIPS * rate else [word]
        words += slip
    if rng.random() < rate / 5:
        words = words[: rng.randint(1, len(words))]
    slipped = "".join(words)
    # Two numbers that have become one are none of the task's.
    sound = all(number in WORDS for number in re.findall("[0-9]+", slipped))
    return slipped if sound and slipped.strip() else text


def _kind(value: int, op: str, operand: int, rng: random.Random) -> str:
    # A dropped carry is what the quickstart's policy does most, and few steps have one: half of the errors there.
    if without_carry(value, op, operand) in range(MAX_VALUE + 1) and rng.random() < 0.5:
        return "carry"
    return rng.choice(_KINDS)


def _line(value: int, op: str, operand: int, kind: str, rng: random.Random) -> tuple[str, int]:
    """One step with an error of a kind, or "" for none; and the value to go on from."""
    left, other = value, operand
    if kind == "left":
        left = rng.randint(0, MAX_VALUE)
    elif kind == "operand":
        other = rng.randint(0, MAX_VALUE)
    elif kind == "sign":
        op = "-" if op == "+" else "+"
    result: int | None = apply(left, op, other)
    if kind == "carry":
        result = without_carry(left, op, other)
    if kind == "result" or result is None or not 0 <= result <= MAX_VALUE:
        result = rng.randint(0, MAX_VALUE)
    return f"{left}{op}{other}={result}", result
