"""Where the outcomes of a stream of rollouts come from: a GenORM, or the rule verifier."""

import time
from concurrent.futures import CancelledError, Future
from types import SimpleNamespace

import pytest
from lightning.pytorch import Trainer

from capo_lit.batch.credit import CreditConfig
from capo_lit.batch.facts import Prompt
from capo_lit.batch.sampling import Sampling
from capo_lit.batch.step import StepBatch
from capo_lit.core.errors import EngineError, JudgeError
from capo_lit.genprm.outcome import GenORM
from capo_lit.training import rollouts
from capo_lit.training.callbacks.rollout import RolloutCallback
from capo_lit.training.capo import CapoModule
from capo_lit.training.rollouts import PlannedRollout, stream_rollouts
from capo_lit.training.settings import LossConfig
from capo_lit.verifier.outcomes import OutcomeSource, outcome_source
from capo_lit.verifier.pool import Verifier
from tests.support.builders import make_prompt, tiny_llama
from tests.support.loaders import Loader
from tests.support.scripted_engine import NEVER, Reply, ScriptedEngine

YES = "Fine.\n\\boxed{yes}"
PROMPT = Prompt("task/0", "1+1?", (1, 2), answer="GOLD")


@pytest.fixture(autouse=True)
def any_probe_gap(monkeypatch):
    """A scripted engine's logprobs are no policy's."""
    monkeypatch.setattr(rollouts, "LOW_PRECISION_GAP", 100.0)


def draws(count, prompt=PROMPT):
    return [PlannedRollout(row, 0, row, prompt, Sampling(max_tokens=4), seed=100 + row) for row in range(count)]


def test_outcomes_of_a_stream_come_from_the_genorm_while_the_policy_still_samples():
    judge = ScriptedEngine(lambda request: Reply(YES, steps=2))
    policy = ScriptedEngine([Reply("so 2", steps=1), Reply("so 2", steps=40)])
    stream = stream_rollouts(policy, GenORM(judge, k=2), draws(2))
    first = next(stream)
    # The first one is judged before the second one has been sampled: the judge's engine moves with the policy's.
    assert (first.row, first.outcome) == (0, 1.0)
    assert policy.in_flight == ["1"]
    assert [(rollout.row, rollout.outcome) for rollout in stream] == [(1, 1.0)]


def test_a_stream_with_a_silent_judge_ends_at_its_deadline():
    judge, policy = ScriptedEngine(lambda request: NEVER), ScriptedEngine(lambda request: "so 2")
    started = time.monotonic()
    lenient = GenORM(judge, k=2, deadline_s=0.1)
    lenient.max_unknown_frac = 1.0
    stream = stream_rollouts(policy, lenient, draws(3))
    assert [rollout.outcome for rollout in stream] == [None] * 3
    assert time.monotonic() - started < 5
    with pytest.raises(JudgeError, match="3 of 3 outcomes unknown"):
        list(stream_rollouts(policy, GenORM(judge, k=2, deadline_s=0.1), draws(3)))


def test_a_stream_that_is_given_up_frees_both_engines():
    judge = ScriptedEngine([YES, NEVER])
    policy = ScriptedEngine([Reply("so 2", steps=1), Reply("so 2", steps=3), NEVER])
    genorm = GenORM(judge, k=1)
    stream = stream_rollouts(policy, genorm, draws(3))
    assert next(stream).outcome == 1.0
    genorm.submit(PROMPT, "another one")  # of another reader, and not the stream's to cancel
    stream.close()
    policy.step(0.0)
    assert policy.in_flight == []
    assert policy.cancelled == ["1", "2"]
    assert judge.in_flight == ["outcome-2-0"]


def test_a_policy_that_fails_frees_the_judge():
    judge = ScriptedEngine(lambda request: NEVER)
    policy = ScriptedEngine([Reply("so 2"), Reply(error=EngineError("a long prompt", "a short one"), steps=3)])
    genorm = GenORM(judge, k=2)
    with pytest.raises(EngineError, match="a long prompt"):
        list(stream_rollouts(policy, genorm, draws(2)))
    assert len(judge.in_flight) == 2
    genorm.step(0.0)  # sees that nobody wants it any more
    assert judge.in_flight == []


# The rule verifier is a source too.


def test_the_rule_verifier_is_an_outcome_source():
    with Verifier() as verifier:
        source = outcome_source(verifier)
        prompt = Prompt("p", "1+1?", (1,), answer="2")
        assert [source.submit(prompt, f"\\boxed{{{n}}}", seed=9).result() for n in (2, 3)] == [1.0, 0.0]
        assert outcome_source(source) is source
        policy = ScriptedEngine(["\\boxed{2}", "\\boxed{3}", "nothing"])
        got = {rollout.row: rollout.outcome for rollout in stream_rollouts(policy, verifier, draws(3, prompt))}
        assert got == {0: 1.0, 1: 0.0, 2: 0.0}


def test_a_rule_outcome_that_takes_long_is_waited_for_without_spinning():
    slow: Future = Future()
    source = outcome_source(SimpleNamespace(submit=lambda gold, response: slow))
    assert source.submit(PROMPT, "x") is slow
    started = time.monotonic()
    source.step(0.1)
    assert time.monotonic() - started > 0.08
    slow.set_result(1.0)
    started = time.monotonic()
    source.step(5.0)
    assert time.monotonic() - started < 1


class ByHand:
    """A verifier whose answers are given by the test, by gold."""

    def __init__(self) -> None:
        self.asked: dict[str, Future] = {}

    def submit(self, gold: str, response: str) -> Future:
        self.asked[gold] = Future()
        return self.asked[gold]


@pytest.mark.parametrize(
    ("outcomes", "outcome"),
    [((0.0, 1.0, None), 1.0), ((1.0, 0.0, 0.0), 1.0), ((0.0, None, 0.0), None), ((0.0, 0.0, 0.0), 0.0)],
)
def test_of_several_gold_answers_any_is_right_and_unknown_only_if_none_is(outcomes, outcome):
    verifier = ByHand()
    future = outcome_source(verifier).submit(Prompt("p", "?", (1,), "a or b or c", answers=("a", "b", "c")), "x")
    assert list(verifier.asked) == ["a", "b", "c"]
    for asked, one in zip(reversed(verifier.asked.values()), reversed(outcomes), strict=True):
        assert not future.done()
        asked.set_result(one)
    assert future.result(timeout=0) == outcome


def test_what_asks_several_gold_answers_frees_them_when_it_is_given_up_and_passes_errors_on():
    two = Prompt("p", "?", (1,), "a or b", answers=("a", "b"))
    verifier = ByHand()
    assert outcome_source(verifier).submit(two, "x").cancel()
    assert all(asked.cancelled() for asked in verifier.asked.values())
    for end in (lambda asked: asked.cancel(), lambda asked: asked.set_exception(JudgeError("a", "b"))):
        future = outcome_source(verifier).submit(two, "x")
        verifier.asked["b"].set_result(1.0)
        end(verifier.asked["a"])
        with pytest.raises((CancelledError, JudgeError)):
            future.result(timeout=0)


def test_a_stream_takes_any_of_several_gold_answers(patient):
    prompt = Prompt("p", "?", (1,), "3 or x+1", answers=("3", "x+1"))
    policy = ScriptedEngine(["\\boxed{3}", "\\boxed{1+x}", "\\boxed{3, x+1}", "\\boxed{4}"])
    got = {rollout.row: rollout.outcome for rollout in stream_rollouts(policy, patient, draws(4, prompt))}
    assert got == {0: 1.0, 1: 1.0, 2: 0.0, 3: 0.0}


def test_an_outcome_source_must_submit_and_step():
    with pytest.raises(TypeError, match="abstract"):
        OutcomeSource()


# In a run.


def test_a_genorm_gives_the_outcomes_of_training_and_the_rule_those_of_evaluation(tmp_path):
    tiny_llama(tmp_path)
    judge = ScriptedEngine(lambda request: "\\boxed{no}" if "say so" in request.prompt[0]["content"] else YES)
    policy = ScriptedEngine(lambda r: f"\\boxed{{{2 if r.seed % 2 else 3}}}" + " say so" * (r.seed % 3 == 0))
    genorm = GenORM(judge, k=3)
    rollout = RolloutCallback(policy, 4, eval_samples=2, outcomes=genorm)
    module = CapoModule(
        str(tmp_path),
        credit=CreditConfig(w_process=0.0, estimator="sequence"),
        loss=LossConfig(importance_cap=None),
    )
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[rollout],
    )  # fmt: skip
    batches = [StepBatch([make_prompt(f"p{step}")], step) for step in range(3)]
    trainer.fit(module, Loader(batches))
    rollouts = [r for batch in batches for r in batch.require_rollouts()]
    assert [r.outcome for r in rollouts] == [float("say so" not in r.completion.text) for r in rollouts]
    assert {r.outcome for r in rollouts} == {0.0, 1.0}
    asked = len(judge.requests)
    assert asked == 3 * 12
    held_out = StepBatch([make_prompt(f"q{n}") for n in range(4)], 0)
    trainer.validate(module, Loader([held_out]), verbose=False)
    for r in held_out.require_rollouts():
        assert r.outcome == float("boxed{2}" in r.completion.text)
    assert len(judge.requests) == asked
