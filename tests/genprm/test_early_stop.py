"""Early stopping: the verdict of the full vote, whatever comes first, and nothing asked or counted that need not be."""

import random
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capo_lit.batch.facts import Completion, Critique
from capo_lit.batch.sampling import Sampling
from capo_lit.core.errors import ConfigError
from capo_lit.core.votes import VoteRule, tally
from capo_lit.engines.base import Request
from capo_lit.evaluation.reduction import reduced
from capo_lit.evaluation.step import critique_metrics
from capo_lit.genprm.base import critiqued
from capo_lit.genprm.judge import GenPRM
from capo_lit.records.table import batch_table
from tests.support.judging import judged, rollout
from tests.support.scripted_engine import NEVER, Reply, Scripted, ScriptedEngine, completion
from tests.support.trained_batch import trained

RULES: tuple[VoteRule, ...] = ("intersection", "majority", "union", "average")
COLD = Sampling(temperature=0.0)


def box(wrong: frozenset[int] | None) -> str:
    return "no verdict" if wrong is None else f"\\boxed{{{', '.join(map(str, sorted(wrong))) or 'none'}}}"


def by_index(replies: Sequence[Scripted]) -> ScriptedEngine:
    """Critique i of every rollout gets reply i, whenever it is asked."""

    def script(request: Request) -> Scripted:
        return replies[int(request.request_id.rsplit("-", 1)[1])]

    return ScriptedEngine(script)


# A critique: the wrong ones of three steps, or an abstention; and the engine step at which it comes.
CRITIQUE = st.tuples(st.none() | st.frozensets(st.integers(0, 2)), st.integers(0, 4))


@settings(deadline=None, max_examples=150)
@given(st.data(), st.lists(CRITIQUE, min_size=1, max_size=6), st.sampled_from((*RULES, "greedy")))
def test_the_verdict_is_that_of_the_full_vote(
    data: st.DataObject, script: list[tuple[frozenset[int] | None, int]], rule: VoteRule
) -> None:
    script = script[:1] if rule == "greedy" else script
    k = len(script)
    first_wave = data.draw(st.none() | st.integers(1, k), "first_wave")
    engine = by_index([Reply(box(wrong), steps=steps) for wrong, steps in script])
    sampling = COLD if rule == "greedy" else Sampling(temperature=0.8)
    (item,) = judged(engine, [rollout()], k=k, vote=rule, sampling=sampling, first_wave=first_wave)

    votes = [wrong for wrong, _ in script]
    assert item.verdict.step_error == tally(votes, 3, rule).step_error
    # What is there is what was scripted, and the counters count what was answered, neither aborted nor unasked.
    answered = [critique for critique in item.critiques if not critique.aborted]
    assert item.verdict.valid == sum(critique.wrong is not None for critique in answered)
    assert item.verdict.abstained == sum(critique.cause == "parse" for critique in answered)
    assert len(item.critiques) == len(engine.requests) <= k
    for critique, request in zip(item.critiques, engine.requests, strict=True):
        expected = votes[int(request.request_id.rsplit("-", 1)[1])]
        assert critique.aborted or critique.wrong == expected
    if rule == "average":
        assert len(answered) == k  # every further vote can move a fraction


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("first_wave", [None, 2])
def test_the_verdict_of_recorded_critiques_is_the_recorded_one(rule: VoteRule, first_wave: int | None) -> None:
    """Twenty-four recorded rollouts of four critiques each, given again in other orders and stopped early."""
    order, asked = random.Random(0), 0
    for step in range(3):
        for row in batch_table(trained(rule, step=step), "run").to_pylist():
            votes = [None if one["wrong"] is None else frozenset(one["wrong"]) for one in row["critiques"]]
            engine = by_index([Reply(box(wrong), steps=order.randrange(5)) for wrong in votes])
            (item,) = judged(engine, [rollout(text=row["text"])], vote=rule, first_wave=first_wave)
            assert pa.array(item.verdict.step_error, pa.float32()).to_pylist() == row["step_error"]
            asked += item.verdict.valid + item.verdict.abstained
    # Eighteen of them have steps, and so 72 critiques in all; only the average needs every one.
    assert asked == 72 if rule == "average" else 18 <= asked < 72


def test_outstanding_critiques_are_aborted_as_soon_as_the_vote_is_settled() -> None:
    # Union over three steps: the first reply that flags all of them decides.
    engine = ScriptedEngine([NEVER, r"\boxed{0, 1, 2}", NEVER])
    (item,) = judged(engine, [rollout()], k=3, vote="union", deadline_s=30.0)
    assert [critique.cause for critique in item.critiques] == ["aborted", "", "aborted"]
    assert item.verdict.step_error == (1.0, 1.0, 1.0)
    assert (item.verdict.valid, item.verdict.abstained) == (1, 0)
    engine.step(0.0)
    assert len(engine.cancelled) == 2


def test_without_early_stop_every_critique_is_waited_for() -> None:
    engine = ScriptedEngine([Reply(r"\boxed{0}", steps=5), r"\boxed{0, 1, 2}", Reply("?", steps=3)])
    (item,) = judged(engine, [rollout()], k=3, vote="union", early_stop=False)
    assert [critique.cause for critique in item.critiques] == ["", "", "parse"]
    assert (item.verdict.valid, item.verdict.abstained) == (2, 1)


def test_the_second_wave_is_asked_only_where_the_first_does_not_settle_the_vote() -> None:
    # Majority of 4: two votes for step 0 and against the others leave 2c = 4 >= 2 + 2 for step 0, but the others
    # (c = 0, 0 + 2 < 2 is false) are open; three clear them (0 + 1 < 3).
    engine = by_index([r"\boxed{0}"] * 4)
    (item,) = judged(engine, [rollout()], first_wave=3)
    assert (len(engine.requests), len(item.critiques), item.verdict.valid) == (3, 3, 3)
    engine = by_index([r"\boxed{0}"] * 4)
    (item,) = judged(engine, [rollout()], first_wave=2)
    assert len(engine.requests) == 4
    # An abstention leaves the vote open: (c, v) = (0, 2) with one out gives 0 + 1 < 2, so the third is enough again.
    engine = by_index(["?", r"\boxed{none}", r"\boxed{none}", NEVER])
    (item,) = judged(engine, [rollout()], first_wave=3, deadline_s=30.0)
    assert [critique.cause for critique in item.critiques] == ["parse", "", ""]
    assert (item.verdict.valid, item.verdict.abstained) == (2, 1)


def test_a_first_wave_that_hangs_does_not_keep_the_rest_from_being_asked() -> None:
    engine = by_index([NEVER, r"\boxed{1}", r"\boxed{1}"])
    (item,) = judged(engine, [rollout()], k=3, vote="majority", first_wave=1, deadline_s=0.4)
    # 2c = 4 >= 2 + 1 for step 1, and 0 + 1 < 2 for the others: settled without the one that hangs.
    assert [critique.cause for critique in item.critiques] == ["aborted", "", ""]
    assert item.verdict.step_error == (0.0, 1.0, 0.0)


def test_critiques_that_are_too_late_to_be_asked_abstain() -> None:
    engine = by_index([NEVER] * 3)
    (item,) = judged(engine, [rollout()], k=3, first_wave=1, deadline_s=0.05)
    assert [critique.cause for critique in item.critiques] == ["timeout"] * 3
    assert (item.verdict.valid, item.verdict.abstained) == (0, 3)


def test_aborted_critiques_are_no_abstentions_in_the_metrics() -> None:
    def critiqued_with(*critiques: Critique) -> object:
        return critiqued(rollout(), critiques, "majority")

    aborted = Critique("", None, "aborted")
    items = [
        # 100 + 10 tokens asked, one aborted; and 50 + 5 that were stored.
        critiqued_with(Critique("", frozenset(), "", 100, 10), aborted),
        critiqued_with(Critique("", frozenset({0}), "", 50, 5, cached=True), Critique("?", None, "parse", 60, 6)),
    ]
    values = reduced(critique_metrics(items, 1.5))
    # Three answered critiques, of which one abstains; four in all, of which one was stored.
    assert values["critique/abstain_frac"] == values["critique/parse_fail_frac"] == pytest.approx(1 / 3)
    assert values["critique/aborted"] == 1
    assert values["critique/asked"] == 3
    assert values["critique/cached_frac"] == 1 / 4
    assert values["critique/judge_prompt_tokens"] == 160
    assert values["critique/judge_completion_tokens"] == 16


@pytest.mark.parametrize(
    ("given_settings", "names"),
    [
        ({"first_wave": 0}, "first_wave 0"),
        ({"first_wave": 5}, "first_wave 5; expected 1 to k = 4"),
        ({"first_wave": 2, "early_stop": False}, "first_wave 2 without early_stop"),
    ],
)
def test_waves_that_make_no_sense_are_refused(given_settings: dict[str, object], names: str) -> None:
    with pytest.raises(ConfigError, match=names):
        GenPRM(ScriptedEngine([]), **given_settings)


def test_tokens_that_a_server_counts_stand_in_the_critique() -> None:
    class Counting(ScriptedEngine):
        def submit(self, request: Request) -> "Future[Completion]":
            future: Future[Completion] = Future()
            future.set_result(replace(completion(r"\boxed{none}"), ids=(), completion_tokens=77))
            return future

    (item,) = judged(Counting([]), [rollout()], k=1)
    assert item.critiques[0].completion_tokens == 77
