"""maj@k, intervals over problems, and what an evaluation reports of a batch worked by hand."""

import math
from collections import Counter
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capo_lit.batch.facts import CritiquedRollout, Rollout
from capo_lit.batch.step import StepBatch
from capo_lit.core.errors import BatchError
from capo_lit.core.votes import tally
from capo_lit.evaluation.at_k import MajAtK
from capo_lit.evaluation.interval import MeanInterval
from capo_lit.evaluation.validation import Evaluation
from capo_lit.verifier.exact import answer_key
from tests.support.builders import make_completion, make_prompt


def majority(answers, outcomes) -> float:
    metric = MajAtK()
    metric.update(answers, outcomes)
    return metric.compute().item()


def test_the_most_frequent_answer_decides() -> None:
    assert majority([["7", "7", "8"]], [[1.0, 1.0, 0.0]]) == 1.0
    assert majority([["7", "8", "8"]], [[1.0, 0.0, 0.0]]) == 0.0


def test_ties_count_their_share_and_silence_does_not_vote() -> None:
    # 7 (right) and 8 (wrong) twice each: one half
    assert majority([["7", "7", "8", "8", None, None, None]], [[1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]]) == 0.5
    assert majority([[None, None]], [[0.0, 0.0]]) == 0.0


def test_a_majority_of_unknown_outcome_is_left_out() -> None:
    metric = MajAtK()
    metric.update([["7", "7", "8"], ["1", "1"]], [[None, None, 0.0], [1.0, None]])
    assert metric.compute().item() == 1.0  # the second problem alone
    assert metric.problems.item() == 1


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=7), st.sampled_from("abc"))
def test_a_tie_is_the_mean_over_all_ways_to_break_it(keys: list[str], right: str) -> None:
    counts = Counter(keys)
    winners = [key for key in counts if counts[key] == max(counts.values())]
    expected = sum(winner == right for winner in winners) / len(winners)
    assert majority([keys], [[float(key == right) for key in keys]]) == pytest.approx(expected)


def test_one_number_has_one_key_and_two_formulas_have_two() -> None:
    assert answer_key("025") == answer_key("25") == answer_key("25.0") == "25"
    assert answer_key("1/2") == answer_key("0.5") == answer_key(r"\frac{1}{2}")
    assert answer_key("x + 1") == answer_key("x+1") != answer_key("1+x")


def interval(values: list[float]) -> list[float]:
    metric = MeanInterval()
    metric.update(torch.tensor(values))
    return metric.compute().tolist()


def test_the_interval_is_the_bootstraps() -> None:
    # Of three problems, 27 equally likely resamples: their means are 0 (1/27), 1/3 (6/27), 2/3 (12/27), 1 (8/27);
    # the 2.5 % quantile of that is 0 and the 97.5 % quantile 1.
    means = sorted(sum(picked) / 3 for picked in product([0.0, 1.0, 1.0], repeat=3))
    assert (means[0], means[-1], Counter(round(3 * mean) for mean in means)[2]) == (0.0, 1.0, 12)
    assert interval([0.0, 1.0, 1.0]) == pytest.approx([2 / 3, 0.0, 1.0])


def test_the_interval_narrows_with_the_problems_and_is_the_normal_one_of_many() -> None:
    mean, low, high = interval([0.0, 1.0, 1.0, 1.0] * 100)
    half = 1.96 * math.sqrt(0.75 * 0.25 / 400)
    assert mean == 0.75
    assert low == pytest.approx(mean - half, abs=0.005)
    assert high == pytest.approx(mean + half, abs=0.005)


def test_one_set_of_values_has_one_interval_in_any_order_whatever_was_drawn_before() -> None:
    values = [float(index % 3 == 0) for index in range(50)]
    first = interval(values)
    torch.manual_seed(1)
    torch.rand(3)
    assert interval(values[::-1]) == first


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_an_interval_of_nothing_is_nan_and_of_equal_values_a_point() -> None:
    assert all(math.isnan(value) for value in MeanInterval().compute().tolist())
    assert interval([1.0, 1.0]) == [1.0, 1.0, 1.0]
    with pytest.raises(BatchError, match=r"shape \(problems,\)"):
        MeanInterval().update(torch.zeros(2, 2))


def sample(row: int, group: int, text: str, outcome: float | None, greedy: bool = False) -> Rollout:
    return Rollout(row, group, row, make_prompt(), make_completion(pieces=(text, "")), outcome, greedy)


def critiqued(rollout: Rollout, *critiques: frozenset[int] | None) -> CritiquedRollout:
    return CritiquedRollout(rollout, (), tally(list(critiques), len(rollout.spans), "majority"))


def test_an_evaluation_by_hand() -> None:
    rollouts = [
        sample(0, 0, "a\n\nb\n\n\\boxed{7}", 1.0),
        sample(1, 0, "a\n\n\\boxed{7}", 1.0),
        sample(2, 0, "a\n\n\\boxed{8}", 0.0),
        sample(3, 1, "no answer", 0.0),
        sample(4, 1, "\\boxed{5}", 0.0),
        sample(5, 1, "\\boxed{6}", None),
        sample(6, 0, "\\boxed{7}", 1.0, greedy=True),
        sample(7, 1, "\\boxed{6}", 0.0, greedy=True),
    ]
    batch = StepBatch([make_prompt("p"), make_prompt("q")], step=0)
    batch.set_rollouts(rollouts)
    wrong = {0: {1, 2}, 2: {1}, 3: {0}}
    votes = {4: (frozenset({0}), frozenset({0}), frozenset[int]())}  # agreement 2/3, flagged
    batch.set_verdicts(
        critiqued(rollout, *votes.get(rollout.row, (frozenset(wrong.get(rollout.row, set())),))) for rollout in rollouts
    )
    evaluation = Evaluation(samples=2)
    evaluation.add(batch)
    values = evaluation.compute()
    assert values["avg_at_k"] == pytest.approx((2 / 3 + 0) / 2)
    assert values["pass_at_k"] == pytest.approx((1 + 0) / 2)  # 1 - C(1,2)/C(3,2) = 1; two known, none right
    # 7 twice; then 5 (wrong) and 6 (unknown) once each: left out
    assert values["maj_at_k"] == 1.0
    assert (values["greedy_accuracy"], values["greedy_accuracy_low"], values["greedy_accuracy_high"]) == (0.5, 0.0, 1.0)
    assert values["format_rate"] == pytest.approx(5 / 6)
    # steps 3 + 2 + 2 + 1 + 1 + 1; wrong 2 + 1 + 1 + 1
    assert values["step_error_frac"] == pytest.approx(5 / 10)
    # first wrong steps 1, 1, 0, 0 of the four samples that have one
    assert values["first_error_step"] == pytest.approx(2 / 4)
    assert values["judge_agreement"] == pytest.approx((5 + 2 / 3) / 6)
    assert values["unknown_frac"] == pytest.approx(1 / 8)
    evaluation.reset()
    assert "maj_at_k" not in evaluation.compute()
