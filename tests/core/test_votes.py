"""Voting: every rule by hand, and `settled` against brute force over all completions."""

import itertools
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capo_lit.core.votes import VOTES, Verdict, VoteRule, settled, tally

MANY = [rule for rule in VOTES if rule != "greedy"]
# Four critiques of four steps; flags per step: 4, 2, 1, 0.
FOUR = [frozenset({0, 1, 2}), frozenset({0, 1}), frozenset({0}), frozenset({0})]


def test_the_rules_are_the_literals():
    assert set(VOTES) == set(get_args(VoteRule))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("intersection", (1.0, 0.0, 0.0, 0.0)),  # 4 = 4 only
        ("majority", (1.0, 1.0, 0.0, 0.0)),  # 2 >= 4/2 counts: a tie is wrong
        ("union", (1.0, 1.0, 1.0, 0.0)),
        ("average", (1.0, 0.5, 0.25, 0.0)),
    ],
)
def test_each_rule_by_hand(rule, expected):
    # larger sides 4, 2, 3, 4 of 4: agreement (4 + 2 + 3 + 4) / 16
    assert tally(FOUR, 4, rule) == Verdict(expected, valid=4, abstained=0, agreement=13 / 16)


def test_odd_majority_needs_more_than_half():
    # v = 3: 1 < 1.5 <= 2
    assert tally([frozenset({0}), frozenset({0, 1}), frozenset()], 2, "majority").step_error == (1.0, 0.0)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("intersection", (1.0, 0.0)), ("majority", (1.0, 1.0)), ("union", (1.0, 1.0)), ("average", (1.0, 0.5))],
)
def test_abstentions_leave_the_denominator(rule, expected):
    # Two of five are valid: step 0 is flagged by 2 of 2, step 1 by 1 of 2 (of five it would be no majority).
    verdict = tally([None, frozenset({0, 1}), None, frozenset({0}), None], 2, rule)
    assert verdict == Verdict(expected, valid=2, abstained=3, agreement=0.75)


@pytest.mark.parametrize("rule", MANY)
@pytest.mark.parametrize("critiques", [[], [None, None, None]])
def test_no_valid_critique_penalises_nothing(rule, critiques):
    assert tally(critiques, 3, rule) == Verdict((0.0, 0.0, 0.0), 0, len(critiques), 1.0)


def test_greedy_is_one_critique():
    assert tally([frozenset({1})], 2, "greedy") == Verdict((0.0, 1.0), 1, 0, 1.0)
    assert tally([None], 2, "greedy") == Verdict((0.0, 0.0), 0, 1, 1.0)
    assert not settled([], 1, 2, "greedy")
    assert settled([frozenset({1})], 0, 2, "greedy")
    with pytest.raises(ValueError, match="2 critiques under the greedy rule"):
        tally([frozenset(), frozenset()], 2, "greedy")
    with pytest.raises(ValueError, match="greedy"):
        settled([frozenset()], 1, 2, "greedy")


def test_no_steps_have_an_empty_verdict():
    assert tally([frozenset(), None], 0, "majority") == Verdict((), 1, 1, 1.0)


@pytest.mark.parametrize("step", [-1, 2])
def test_a_step_out_of_range_is_refused(step):
    with pytest.raises(ValueError, match=rf"critique 1: got steps \[{step}\]; expected steps in \[0, 2\)"):
        tally([frozenset({0}), frozenset({step})], 2, "union")
    with pytest.raises(ValueError, match="critique 0"):
        settled([frozenset({step})], 1, 2, "union")


@pytest.mark.usefixtures("unchecked")
def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="expected one of intersection"):
        tally([], 1, "unanimous")
    with pytest.raises(ValueError, match="outstanding -1"):
        settled([], -1, 1, "union")
    with pytest.raises(ValueError, match="num_steps -1"):
        tally([], -1, "union")


def subsets(num_steps):
    steps = range(num_steps)
    return [frozenset(c) for size in range(num_steps + 1) for c in itertools.combinations(steps, size)]


def outcomes_of(critiques, outstanding, num_steps, rule):
    """Every step_error that some completion of the outstanding critiques leads to; order does not matter to a vote."""
    completions = itertools.combinations_with_replacement([None, *subsets(num_steps)], outstanding)
    return {tally([*critiques, *more], num_steps, rule).step_error for more in completions}


@pytest.mark.parametrize("rule", MANY)
def test_settled_is_brute_force_over_joint_completions(rule):
    for num_steps, k in [(0, 3), (1, 4), (2, 3)]:
        states = [None, *subsets(num_steps)]
        for seen in range(k + 1):
            for critiques in itertools.combinations_with_replacement(states, seen):
                expected = len(outcomes_of(critiques, k - seen, num_steps, rule)) == 1
                assert settled(critiques, k - seen, num_steps, rule) == expected, (critiques, k - seen)


@pytest.mark.parametrize("rule", MANY)
def test_settled_is_brute_force_over_every_step_up_to_five_critiques(rule):
    """Steps vote apart, so that the completions of s steps are settled iff those of each single step are."""
    alone = {}
    for total in range(6):
        for seen in range(total + 1):
            for flags in itertools.combinations_with_replacement("afc", seen):
                critiques = [{"a": None, "f": frozenset({0}), "c": frozenset()}[flag] for flag in flags]
                only = len(outcomes_of(critiques, total - seen, 1, rule)) == 1
                assert settled(critiques, total - seen, 1, rule) == only, (flags, total - seen)
                alone[(flags.count("f"), seen - flags.count("a"), total - seen)] = only
    for valid, outstanding in itertools.product(range(6), range(6)):
        if valid + outstanding > 5:
            continue
        for counts in itertools.combinations_with_replacement(range(valid + 1), 4):
            critiques = [frozenset(j for j, c in enumerate(counts) if voter < c) for voter in range(valid)]
            expected = all(alone[(c, valid, outstanding)] for c in counts)
            assert settled(critiques, outstanding, 4, rule) == expected, (counts, valid, outstanding)


CRITIQUE = st.none() | st.frozensets(st.integers(0, 3))


@given(st.lists(CRITIQUE, max_size=5), st.lists(CRITIQUE, max_size=3), st.sampled_from(MANY))
def test_once_settled_the_verdict_stands(critiques, more, rule):
    if settled(critiques, len(more), 4, rule):
        assert tally([*critiques, *more], 4, rule).step_error == tally(critiques, 4, rule).step_error


@given(st.lists(CRITIQUE, max_size=5).flatmap(lambda c: st.tuples(st.just(c), st.permutations(c))))
def test_the_order_of_critiques_does_not_matter(pair):
    for rule in MANY:
        assert tally(pair[0], 4, rule) == tally(pair[1], 4, rule)


@given(st.lists(CRITIQUE, max_size=5))
def test_intersection_is_within_majority_within_union(critiques):
    errors = [tally(critiques, 4, rule).step_error for rule in ("intersection", "majority", "union")]
    assert all(low <= mid <= high for low, mid, high in zip(*errors, strict=True))
