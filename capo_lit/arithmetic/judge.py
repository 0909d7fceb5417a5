"""A verifier of steps for the built-in arithmetic: a rule in the place of a GenPRM, with settable error rates."""

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, get_args

from capo_lit.arithmetic.task import apply, parse_expression, without_carry
from capo_lit.batch.facts import Critique, CritiquedRollout, Rollout
from capo_lit.core.errors import check_settings
from capo_lit.core.seeding import derive_seed
from capo_lit.core.votes import VoteRule
from capo_lit.genprm.base import StepJudge, critiqued, step_texts
from capo_lit.records.inspect.record import Record

Kind = Literal["copy", "format", "carry", "arithmetic"]
KINDS: tuple[Kind, ...] = get_args(Kind)

# Nine digits hold every number of the task; an unbounded run is hostile, for int() refuses the very long ones.
_LINE = re.compile(r"(-?[0-9]{1,9})([+-])([0-9]{1,9})=(-?[0-9]{1,9})")
_BOX = re.compile(r"\\boxed\{(-?[0-9]{1,9})\}")


def check_steps(problem: str, steps: Sequence[str], kinds: Sequence[Kind] = KINDS) -> frozenset[int]:
    """The wrong steps of a solution, each judged by itself: an error carried forward is not wrong again.

    Step i < n is right if its left operand is the last result written before it (the problem's start for the first),
    its sign and operand are the problem's i-th, and its result is theirs. Step n is right if it boxes the last result.
    Malformed steps and steps after the n-th are wrong.

    Args:
        problem: such as `12+7-5?`, with n operations.
        steps: texts of the steps, as split; white space around them is ignored.
        kinds: the kinds of fault that count; all by default.

    Returns:
        0-based indices of the wrong steps.

    Raises:
        DataError: if `problem` is no problem of the built-in task.
    """
    return frozenset(index for index, fault in enumerate(step_faults(problem, steps)) if fault in kinds)


def step_faults(problem: str, steps: Sequence[str]) -> list[Kind | None]:
    """What is wrong with each step, the first kind that fits; None if nothing is.

    Args:
        problem: such as `12+7-5?`.
        steps: texts of the steps, as split.

    Returns:
        Of every step: `format` if it is malformed or too much; `copy` if its left operand, sign, operand or box does
        not copy what it must; `carry` if its result lacks the carry or borrow, and is otherwise right; `arithmetic` if
        its result is wrong in another way.

    Raises:
        DataError: if `problem` is no problem of the built-in task.
    """
    expression = parse_expression(problem)
    value, faults = expression.start, list[Kind | None]()
    for index, step in enumerate(steps):
        text = step.strip()
        if index < len(expression.operations):
            line = _LINE.fullmatch(text)
            faults.append(_line_fault(line, value, expression.operations[index]))
            value = int(line[4]) if line else value
        else:
            box = _BOX.fullmatch(text) if index == len(expression.operations) else None
            faults.append("format" if box is None else None if int(box[1]) == value else "copy")
    return faults


def _line_fault(line: re.Match[str] | None, value: int, operation: tuple[str, int]) -> Kind | None:
    if line is None:
        return "format"
    left, op, operand, result = int(line[1]), line[2], int(line[3]), int(line[4])
    if left != value or (op, operand) != operation:
        return "copy"
    if result == apply(left, op, operand):
        return None
    return "carry" if result == without_carry(left, op, operand) else "arithmetic"


class ArithmeticStepVerifier(StepJudge):
    """Checks the steps of the built-in arithmetic by rule, and errs at settable rates.

    Every critique flips each step's flag by itself, so that voting over k of them can be studied.

    Args:
        k: critiques per rollout.
        vote: how they are combined.
        false_positive: probability in [0, 1] that a critique flags a right step.
        false_negative: probability in [0, 1] that a critique clears a wrong step.

    Attributes:
        kinds: the kinds of fault that make a step wrong.

    Raises:
        ConfigError: if a setting is out of range, k > 1 critiques would all be the same, or k > 1 meets greedy.
    """

    kinds: tuple[Kind, ...] = KINDS

    def __init__(
        self,
        k: int = 1,
        vote: VoteRule = "greedy",
        false_positive: float = 0.0,
        false_negative: float = 0.0,
    ) -> None:
        noisy = false_positive > 0 or false_negative > 0
        checks = (
            (k >= 1, f"k {k}", "an integer >= 1", "k"),
            (vote in get_args(VoteRule), f"vote {vote!r}", f"one of {', '.join(get_args(VoteRule))}", "vote"),
            (0 <= false_positive <= 1, f"false_positive {false_positive}", "a probability", "false_positive"),
            (0 <= false_negative <= 1, f"false_negative {false_negative}", "a probability", "false_negative"),
            (k == 1 or vote != "greedy", f"k {k} with the greedy vote", "k 1", "k, or vote"),
            (
                k == 1 or noisy,
                f"k {k} critiques without errors",
                "k 1: all votes would be the same",
                "k, or an error rate",
            ),
        )
        check_settings(checks, "ArithmeticStepVerifier")
        self.k, self.vote = k, vote
        self.false_positive, self.false_negative = false_positive, false_negative

    def judge(self, rollouts: Iterable[Rollout], seed: int) -> Iterator[CritiquedRollout]:
        """Check each rollout when it arrives; see `StepJudge.judge`.

        Raises:
            DataError: if a prompt is no problem of the built-in task.
        """
        for rollout in rollouts:
            steps = step_texts(rollout.completion.text, rollout.spans)
            wrong = check_steps(rollout.prompt.problem, steps, self.kinds)
            seeds = (derive_seed(seed, rollout.prompt.uid, rollout.sample, index) for index in range(self.k))
            critiques = [self._critique(wrong, len(steps), critique_seed) for critique_seed in seeds] if steps else []
            yield critiqued(rollout, critiques, self.vote)

    def _critique(self, wrong: frozenset[int], num_steps: int, seed: int) -> Critique:
        rng = random.Random(seed)
        flagged = frozenset(step for step in range(num_steps) if self._flags(step in wrong, rng.random()))
        reply = ", ".join(map(str, sorted(flagged)))
        return Critique(reply=f"\\boxed{{{reply}}}", wrong=flagged)

    def _flags(self, is_wrong: bool, uniform: float) -> bool:
        return uniform >= self.false_negative if is_wrong else uniform < self.false_positive


class BlindToCarries(ArithmeticStepVerifier):
    """Takes dropped carries for right: shows when a cold start has learnt everything else."""

    kinds = ("copy", "format", "arithmetic")


def arithmetic_truth(record: Record) -> frozenset[int]:
    """The steps of a solution of the built-in arithmetic that are truly wrong, by rule.

    Args:
        record: of the built-in task, judged or not.

    Raises:
        DataError: if its problem is of another task.
    """
    return check_steps(record.row["problem"], step_texts(record.row["text"], record.spans))
