"""k critiques of one rollout -> one verdict, and when no further critique can change it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

VoteRule = Literal["intersection", "majority", "union", "average", "greedy"]
Critiques = Sequence[frozenset[int] | None]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the critiques of one rollout say together.

    Attributes:
        step_error: e of every step, s floats in [0, 1]; 0 or 1 except under the average vote.
        valid: critiques that voted.
        abstained: critiques that did not (no parseable verdict, judge failed).
        agreement: mean over steps of max(c, v - c) / v in [0.5, 1], where c of the v valid critiques flag the step:
            the share that stands on the larger side, whatever the rule makes of it. 1.0 if there are no steps or at
            most one valid critique, for then nobody disagrees.
    """

    step_error: tuple[float, ...]
    valid: int
    abstained: int
    agreement: float


@dataclass(frozen=True, slots=True)
class Vote:
    """One rule, for one step that c of v >= 1 valid critiques flag.

    Attributes:
        error: (c, v) -> step error in [0, 1].
        settled: (c, v, o) -> whether o >= 1 further critiques, each of which may flag the step, clear it or abstain,
            leave the error as it is.
    """

    error: Callable[[int, int], float]
    settled: Callable[[int, int, int], bool]


def _majority_settled(count: int, valid: int, outstanding: int) -> bool:
    # A flagged step falls soonest if all o clear it: 2c < v + o. A clear one rises soonest if all o flag it:
    # 2(c + o) >= v + o. Abstentions only make either harder.
    return 2 * count >= valid + outstanding or 2 * count + outstanding < valid


VOTES: dict[VoteRule, Vote] = {
    # One critique that cleared the step is enough for good; unanimous ones can still be contradicted.
    "intersection": Vote(lambda c, v: float(c == v), lambda c, v, o: c < v),
    "majority": Vote(lambda c, v: float(2 * c >= v), _majority_settled),
    "union": Vote(lambda c, v: float(c >= 1), lambda c, v, o: c >= 1),
    # c/v = (c+1)/(v+1) only for c = v, and c/v = c/(v+1) only for c = 0: one more vote can always move the fraction.
    "average": Vote(lambda c, v: c / v, lambda c, v, o: False),
    # The one critique has voted, so that none can be outstanding (_check sees to it).
    "greedy": Vote(lambda c, v: float(c), lambda c, v, o: True),
}


def tally(critiques: Critiques, num_steps: int, rule: VoteRule) -> Verdict:
    """Vote: c critiques flag a step, v are valid.

    e = [c == v] (intersection), [c >= v/2] (majority), [c >= 1] (union), c/v (average), the one critique's word
    (greedy); e = 0 for every step if v == 0.

    Args:
        critiques: 0-based wrong steps of every critique; None abstains.
        num_steps: s.
        rule: how to vote.

    Returns:
        The verdict over s steps.

    Raises:
        ValueError: if a critique names a step outside [0, s), the rule is unknown, or greedy gets several critiques.

    Source:
        CAPO (arXiv 2508.02298), voting over generative critiques; abstentions are this project's.
    """
    vote = _check(critiques, 0, num_steps, rule)
    counts, valid = _count(critiques, num_steps)
    abstained = len(critiques) - valid
    if valid == 0:
        return Verdict((0.0,) * num_steps, 0, abstained, 1.0)
    sides = [max(count, valid - count) for count in counts]
    agreement = sum(sides) / (valid * num_steps) if num_steps else 1.0
    return Verdict(tuple(vote.error(count, valid) for count in counts), valid, abstained, agreement)


def settled(critiques: Critiques, outstanding: int, num_steps: int, rule: VoteRule) -> bool:
    """Whether every possible outcome of the outstanding critiques gives tally the same step_error.

    Args:
        critiques: those that have come in, as for `tally`.
        outstanding: number of critiques still out; each may flag any steps, or abstain.
        num_steps: s.
        rule: how to vote.

    Returns:
        True only if waiting cannot change a step's error; `agreement` and the counters still may.

    Raises:
        ValueError: as `tally`, or if `outstanding` is negative.
    """
    vote = _check(critiques, outstanding, num_steps, rule)
    if outstanding == 0 or num_steps == 0:
        return True
    counts, valid = _count(critiques, num_steps)
    if valid == 0:
        # If all abstain nothing is wrong; if one votes, anything may be.
        return False
    return all(vote.settled(count, valid, outstanding) for count in counts)


def _count(critiques: Critiques, num_steps: int) -> tuple[list[int], int]:
    """Flags of every step, and the number of valid critiques."""
    votes = [critique for critique in critiques if critique is not None]
    return [sum(step in critique for critique in votes) for step in range(num_steps)], len(votes)


def _check(critiques: Critiques, outstanding: int, num_steps: int, rule: VoteRule) -> Vote:
    """The rule's functions, after the arguments were found sound."""
    if rule not in VOTES:
        raise ValueError(f"got vote rule {rule!r}; expected one of {', '.join(get_args(VoteRule))}")
    if num_steps < 0 or outstanding < 0:
        raise ValueError(f"got num_steps {num_steps}, outstanding {outstanding}; expected neither below 0")
    if rule == "greedy" and len(critiques) + outstanding > 1:
        raise ValueError(f"got {len(critiques) + outstanding} critiques under the greedy rule; expected at most 1")
    for number, critique in enumerate(critiques):
        outside = sorted(step for step in critique or () if not 0 <= step < num_steps)
        if outside:
            raise ValueError(f"critique {number}: got steps {outside}; expected steps in [0, {num_steps})")
    return VOTES[rule]
