"""GenPRM: streaming, seeds, deadlines, and failures that only ever abstain."""

import time
from collections.abc import Iterator

import pytest

from capo_lit.batch.facts import FinishReason, Rollout
from capo_lit.core.errors import EngineError
from capo_lit.core.seeding import derive_seed
from capo_lit.engines.base import Request
from capo_lit.genprm.judge import GenPRM
from capo_lit.genprm.render import step_tag
from tests.support.judging import SEED, content, judged, rollout
from tests.support.scripted_engine import NEVER, Reply, ScriptedEngine


def test_votes_of_k_critiques() -> None:
    # Step 0: 1 of 4 votes; step 1: 2 of 4; step 2: 4 of 4. Majority needs 2.
    replies = [r"\boxed{0, 1, 2}", r"\boxed{1, 2}", r"\boxed{2}", r"\boxed{2}"]
    (item,) = judged(ScriptedEngine(replies), [rollout()])
    assert item.verdict.step_error == (0.0, 1.0, 1.0)
    assert (item.verdict.valid, item.verdict.abstained) == (4, 0)
    assert item.spans == ((0, 8), (8, 17), (17, 23))
    assert [critique.wrong for critique in item.critiques] == [{0, 1, 2}, {1, 2}, {2}, {2}]
    assert [critique.reply for critique in item.critiques] == replies
    first = item.critiques[0]
    # "\boxed{0, 1, 2}" is three words and an end-of-sequence id; the script's prompts have 7 tokens and take 0.5 s.
    assert (first.prompt_tokens, first.completion_tokens, first.seconds, first.cause) == (7, 4, 0.5, "")


def test_requests_are_distinct_and_repeatable() -> None:
    runs = []
    for seed in (SEED, SEED, SEED + 1):
        engine = ScriptedEngine(lambda request: r"\boxed{none}")
        judged(engine, [rollout(0), rollout(1), rollout(2, sample=1)], seed)
        runs.append(engine.requests)
    first, again, other = runs
    assert first == again
    assert len({request.request_id for request in first}) == len({request.seed for request in first}) == 12
    assert not {request.request_id for request in first} & {request.request_id for request in other}
    assert not {request.seed for request in first} & {request.seed for request in other}
    assert first[1].seed == derive_seed(SEED, "task/0", 0, 1)
    # The k critiques of a rollout share one prompt, which an engine can read once; other rollouts have other nonces.
    assert len({content(request) for request in first}) == 3
    nonce = f"{derive_seed(SEED, 'task/0', 0, 'nonce'):016x}"[-8:]
    assert [content(first[0]).count(step_tag(index, nonce)[0]) for index in range(4)] == [1, 1, 1, 0]
    assert [content(request).count(nonce) > 0 for request in first] == [True] * 4 + [False] * 8


def test_each_rollout_is_submitted_before_the_next_is_pulled() -> None:
    engine = ScriptedEngine(lambda request: Reply(r"\boxed{1}", steps=2))
    seen = []

    def stream() -> Iterator[Rollout]:
        for row in range(4):
            seen.append((len(engine.requests), engine.steps))
            yield rollout(row)

    rows = [item.rollout.row for item in GenPRM(engine, k=2).judge(stream(), SEED)]
    # Two requests per rollout are out before the next pull, and the engine has moved once per arrival.
    assert seen == [(0, 0), (2, 1), (4, 2), (6, 3)]
    assert sorted(rows) == [0, 1, 2, 3]
    assert engine.timeouts[:4] == [0.0] * 4


def test_verdicts_come_while_the_stream_still_runs() -> None:
    engine = ScriptedEngine(lambda request: r"\boxed{1}")
    pulled = []

    def stream() -> Iterator[Rollout]:
        for row in range(3):
            pulled.append(row)
            yield rollout(row)

    verdicts = GenPRM(engine, k=1).judge(stream(), SEED)
    assert next(verdicts).rollout.row == 0
    assert pulled == [0]


def test_a_rollout_without_steps_asks_nothing() -> None:
    engine = ScriptedEngine(lambda request: r"\boxed{0}")
    empty, full = judged(engine, [rollout(0, text=""), rollout(1)], k=2)
    assert (empty.spans, empty.critiques, empty.verdict.step_error) == ((), (), ())
    assert full.verdict.step_error == (1.0, 0.0, 0.0)
    assert len(engine.requests) == 2


@pytest.mark.parametrize(
    ("scripted", "cause"),
    [
        ("I see no mistake.", "parse"),
        (r"\boxed{3}", "parse"),  # steps are 0 to 2
        (Reply("Step 0 is", finish_reason="length"), "length"),
        (
            EngineError("a prompt of 9000 tokens", "at most 4096"),
            "error: got a prompt of 9000 tokens; expected at most 4096",
        ),
        (RuntimeError("no memory"), "error: no memory"),
        (NEVER, "timeout"),
    ],
)
def test_a_failed_critique_abstains_and_the_others_vote(scripted: object, cause: str) -> None:
    engine = ScriptedEngine([r"\boxed{1}", scripted, r"\boxed{1, 2}"])
    (item,) = judged(engine, [rollout()], k=3, vote="intersection", deadline_s=0.05)
    assert [critique.wrong for critique in item.critiques] == [{1}, None, {1, 2}]
    assert [critique.cause for critique in item.critiques] == ["", cause, ""]
    # Intersection over the two valid critiques: only step 1 is in both.
    assert item.verdict.step_error == (0.0, 1.0, 0.0)
    assert (item.verdict.valid, item.verdict.abstained) == (2, 1)


def test_nothing_valid_means_no_penalty() -> None:
    (item,) = judged(ScriptedEngine(lambda request: "?"), [rollout()], vote="union")
    assert item.verdict.step_error == (0.0, 0.0, 0.0)
    assert (item.verdict.valid, item.verdict.abstained) == (0, 4)


def test_a_judge_that_never_answers_does_not_hang_and_is_cancelled() -> None:
    engine = ScriptedEngine(lambda request: NEVER)
    started = time.monotonic()
    items = judged(engine, [rollout(row) for row in range(3)], k=2, deadline_s=0.1)
    assert 0.1 <= time.monotonic() - started < 2
    assert [critique.cause for item in items for critique in item.critiques] == ["timeout"] * 6
    engine.step(0.0)
    assert len(engine.cancelled) == 6
    # No wait was longer than what was left until the deadline.
    assert max(engine.timeouts) <= 0.1


def test_the_deadline_counts_from_the_submission_of_each_rollout() -> None:
    engine = ScriptedEngine(
        lambda request: NEVER if "problem 0" in content(request) else Reply(r"\boxed{0}", steps=100)
    )

    def stream() -> Iterator[Rollout]:
        yield rollout(0)
        time.sleep(0.9)
        yield rollout(1)

    # 100 steps of 2 ms or more: rollout 1 is done after 1.1 s, past rollout 0's deadline and before its own at 1.9 s.
    items = list(GenPRM(engine, k=1, deadline_s=1.0).judge(stream(), SEED))
    assert {item.rollout.row: item.critiques[0].cause for item in items} == {0: "timeout", 1: ""}


def test_a_broken_engine_fails_its_critiques_but_no_rollout() -> None:
    engine = ScriptedEngine(lambda request: NEVER, step_error=EngineError("a dead engine", "a living one"))
    items = judged(engine, [rollout(0), rollout(1, text=""), rollout(2)], k=2)
    assert [item.rollout.row for item in items] == [0, 1, 2]
    causes = [critique.cause for item in items for critique in item.critiques]
    assert causes == ["error: got a dead engine; expected a living one"] * 4


def test_an_engine_that_refuses_requests_fails_its_critiques() -> None:
    class Refusing(ScriptedEngine):
        def submit(self, request: Request) -> None:
            raise EngineError("no connection", "a server")

    (item,) = judged(Refusing([]), [rollout()])
    assert [critique.cause for critique in item.critiques] == ["error: got no connection; expected a server"] * 4


def test_an_error_of_the_stream_passes_and_frees_the_engine() -> None:
    engine = ScriptedEngine(lambda request: NEVER)

    def stream() -> Iterator[Rollout]:
        yield rollout()
        raise EngineError("a dead policy", "a living one")

    with pytest.raises(EngineError, match="a dead policy"):
        list(GenPRM(engine).judge(stream(), SEED))
    assert engine.in_flight == []


def test_a_consumer_that_stops_early_frees_the_engine() -> None:
    engine = ScriptedEngine([r"\boxed{1}", NEVER])
    verdicts = GenPRM(engine, k=1).judge([rollout(0), rollout(1)], SEED)
    next(verdicts)
    verdicts.close()
    assert engine.in_flight == []


@pytest.mark.parametrize(
    ("finish_reason", "wrong", "cause"), [("stop", {2}, ""), ("length", None, "length")], ids=["stop", "length"]
)
def test_a_box_quoted_from_the_solution_is_no_verdict_of_a_cut_reply(
    finish_reason: FinishReason, wrong: set[int] | None, cause: str
) -> None:
    solution = "First.\n\nSecond.\n\nSo \\boxed{2}."
    engine = ScriptedEngine([Reply(r"\boxed{2}", finish_reason=finish_reason)])
    (item,) = judged(engine, [rollout(text=solution)], k=1)
    assert (item.critiques[0].wrong, item.critiques[0].cause) == (wrong, cause)


def test_a_cut_reply_with_a_verdict_of_its_own_counts() -> None:
    engine = ScriptedEngine([Reply(r"\boxed{2} and on it rambles", finish_reason="length")])
    (item,) = judged(engine, [rollout()], k=1)
    assert item.critiques[0].wrong == {2}


@pytest.mark.parametrize(("stands_still", "cause"), [(True, ""), (False, "timeout")])
def test_the_deadline_of_an_engine_that_stands_still_waits_with_it(stands_still: bool, cause: str) -> None:
    # The second rollout comes long after the first one's deadline; an engine in this process could not work meanwhile.
    engine = ScriptedEngine(lambda request: Reply(r"\boxed{0}", steps=3))
    engine.stands_still = stands_still

    def stream() -> Iterator[Rollout]:
        yield rollout(0)
        time.sleep(0.5)
        yield rollout(1)

    items = {item.rollout.row: item for item in GenPRM(engine, k=1, deadline_s=0.3).judge(stream(), SEED)}
    assert [critique.cause for critique in items[0].critiques] == [cause]
    assert [critique.cause for critique in items[1].critiques] == [""]
