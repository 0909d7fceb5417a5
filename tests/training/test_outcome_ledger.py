"""What a judge of outcomes did in a step, as metrics of RolloutCallback."""

from types import SimpleNamespace

import pytest

from capo_lit.batch.sampling import Sampling
from capo_lit.batch.step import StepBatch
from capo_lit.core.errors import EngineError
from capo_lit.evaluation.names import METRICS
from capo_lit.evaluation.reduction import reduced
from capo_lit.evaluation.step import outcome_metrics
from capo_lit.genprm.outcome import GenORM
from capo_lit.training.callbacks.rollout import RolloutCallback
from capo_lit.training.rollouts import PlannedRollout, stream_rollouts
from capo_lit.verifier.outcomes import NoisyOutcomes
from tests.support.builders import make_prompt
from tests.support.http_world import engines
from tests.support.misbehaving_server import MisbehavingServer
from tests.support.scripted_engine import NEVER, ScriptedEngine

YES, NO, MUTE = "\\boxed{yes}", "\\boxed{no}", "hm"


def step(callback: RolloutCallback, number: int = 0, rollouts: int = 1) -> dict[str, float]:
    """The metrics of one step, without a Trainer."""
    prompt = make_prompt()
    draws = [PlannedRollout(row, 0, row, prompt, Sampling(max_tokens=4), seed=row) for row in range(rollouts)]
    batch = StepBatch([prompt], number)
    batch.set_rollouts(stream_rollouts(callback.sampler.engine, callback.outcomes or callback.verifier, draws))
    seen: dict[str, float] = {}
    callback._started = 0.0
    module = SimpleNamespace(measure=lambda parts: seen.update(reduced(parts)))
    callback.on_train_batch_end(None, module, None, batch, 0)
    assert set(seen) <= set(METRICS)
    return {name.removeprefix("outcome/"): value for name, value in seen.items() if name.startswith("outcome/")}


def callback_with(outcomes) -> RolloutCallback:
    return RolloutCallback(ScriptedEngine(lambda request: "so \\boxed{2}"), outcomes=outcomes)


def test_the_critiques_of_a_step_by_how_they_ended() -> None:
    # Two rollouts of five: no, no, no settle the first vote; the second has one of each, and waits for the
    # last one, which could still outvote the tie.
    script = [NO, NO, NO, NEVER, NEVER, YES, MUTE, EngineError("no room", "room"), NEVER, NO]
    seen = step(callback_with(GenORM(ScriptedEngine(script), k=5, deadline_s=0.1)), rollouts=2)
    assert seen["asked"] == 10
    # Of the eight that were not aborted: one unreadable, one failed, one too late.
    assert seen["abstain_frac"] == 3 / 8
    # Six came, of seven prompt tokens each, of a word and an end token.
    assert (seen["judge_prompt_tokens"], seen["judge_completion_tokens"]) == (42, 12)
    assert seen["judge_tokens_run"] == 54


def test_counts_are_those_of_the_step_and_the_run_s_tokens_go_on_when_it_is_resumed() -> None:
    first = callback_with(GenORM(ScriptedEngine(lambda request: YES), k=2))
    assert [step(first, number)["judge_prompt_tokens"] for number in (0, 1)] == [14, 14]
    resumed = callback_with(GenORM(ScriptedEngine(lambda request: YES), k=2))
    resumed.load_state_dict(first.state_dict())
    seen = step(resumed, 2)
    # Seven read and two written for each of two critiques, three times.
    assert (seen["asked"], seen["judge_tokens_run"]) == (2, 3 * 18)


def test_failed_attempts_of_its_server_show() -> None:
    with engines() as make, MisbehavingServer(script=("status 429",), reply=lambda body: YES) as server:
        callback = callback_with(GenORM(make(server.url), k=2))
        first, second = step(callback), step(callback, 1)
    assert (first["failed_attempts"], first["abstain_frac"]) == (1, 0)
    assert second["failed_attempts"] == 0


@pytest.mark.parametrize("outcomes", [None, "noisy"])
def test_a_rule_asks_nobody(outcomes: str | None) -> None:
    assert step(callback_with(NoisyOutcomes() if outcomes else None)) == {}


def test_a_step_in_which_nobody_was_asked_has_no_shares() -> None:
    assert "outcome/abstain_frac" not in reduced(outcome_metrics({"empty": 3}, {}))
