"""Alarms: which values leave their band, how often it is said, and what a resumed run remembers."""

import warnings
from types import SimpleNamespace

import pytest

from capo_lit.batch.facts import Critique, Prompt, Rollout
from capo_lit.batch.step import StepBatch
from capo_lit.core.errors import ConfigError
from capo_lit.evaluation.names import METRICS
from capo_lit.evaluation.reduction import reduced
from capo_lit.evaluation.step import critique_metrics, rollout_metrics
from capo_lit.genprm.base import critiqued
from capo_lit.training.callbacks.alarms import BANDS, AlarmCallback
from tests.support.scripted_engine import completion

PROMPT = Prompt("p", "1+1?", (1, 2), "2")
STEPS = {"rollout/steps_mean": (0.5, 2.0)}
FOUR = "a b\n\nc d\n\ne f\n\n\\boxed{2}"


def batch_of(text: str, step: int, wrong: frozenset[int] = frozenset({0}), judged: bool = True) -> StepBatch:
    """One rollout, with a verdict if it is judged."""
    rollout = Rollout(0, 0, 0, PROMPT, completion(text), 1.0)
    batch = StepBatch([PROMPT], step)
    batch.set_rollouts([rollout])
    if judged:
        batch.set_verdicts([critiqued(rollout, [Critique("", wrong)], "greedy")])
    return batch


def alarms(callback: AlarmCallback, *batches: StepBatch) -> tuple[list[float], list[str]]:
    """The metric at every step, and the warnings."""
    logged: list[float] = []
    module = SimpleNamespace(measure=lambda parts: logged.append(parts["rollout/alarms"]))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for batch in batches:
            callback.on_train_batch_end(None, module, None, batch, 0)
    return logged, [str(warning.message) for warning in said if "ALARM" in str(warning.message)]


def test_a_policy_that_packs_its_steps_into_one_raises_one_alarm() -> None:
    texts = [FOUR, FOUR, "a b\n\nc \\boxed{2}", *["all in one \\boxed{2}"] * 3, FOUR, "all in one \\boxed{2}"]
    logged, said = alarms(AlarmCallback(STEPS, 2), *[batch_of(text, step) for step, text in enumerate(texts)])
    # 4 steps at the start; 2 are at the edge of the band, 1 is out of it.
    assert logged == [0, 0, 0, 1, 1, 1, 0, 1]
    assert len(said) == 1
    assert "ALARM at step 3: rollout/steps_mean is 1, and was 4 over the first 2 steps (band 2 to 8)" in said[0]


def test_the_start_is_a_mean_over_the_first_steps_and_raises_nothing() -> None:
    texts = [FOUR, "x", FOUR, FOUR, "x"]
    # Mean of 4, 1, 4 and 4: 3.25; 1 is below its half.
    assert alarms(AlarmCallback(STEPS, 4), *map(batch_of, texts, range(5)))[0] == [0, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("name", "text", "wrong"),
    [
        ("rollout/answer_chars_mean", "a b\n\nc d\n\ne f\n\n\\boxed{2, for 1 and 1 is 2}", {0}),
        ("rollout/tokens_per_step_mean", FOUR.replace("a b", "a b " * 9), {0}),
        ("critique/wrong_step_frac", FOUR, set()),
        ("critique/wrong_step_frac", FOUR, {0, 1, 2, 3}),
        ("rollout/steps_mean", "ab \\boxed{2}", {0}),
    ],
)
def test_every_band_of_the_defaults_catches_its_dodge(name: str, text: str, wrong: set[int]) -> None:
    batches = [batch_of(FOUR, 0), batch_of(FOUR, 1), batch_of(text, 2, frozenset(wrong))]
    logged, said = alarms(AlarmCallback(first_steps=1), *batches)
    assert logged[1] == 0
    assert any(name in line for line in said)
    assert set(BANDS) <= set(METRICS)


def test_a_resumed_run_remembers_its_start_and_what_it_has_said() -> None:
    first = AlarmCallback(STEPS, 2)
    alarms(first, batch_of(FOUR, 0), batch_of(FOUR, 1), batch_of("x", 2))
    second = AlarmCallback({**STEPS, "rollout/tokens_per_step_mean": (0.5, 2.0)}, 2)
    second.load_state_dict(first.state_dict())
    # The steps were said already; the second metric is new, and its start is now.
    assert alarms(second, batch_of("x", 3), batch_of("x", 4)) == ([1, 1], [])
    fresh = AlarmCallback(STEPS, 2)
    fresh.load_state_dict(AlarmCallback(STEPS, 2).state_dict())
    assert alarms(fresh, batch_of("x", 3))[0] == [0]


def test_without_verdicts_the_rollouts_alone_are_watched() -> None:
    batches = [batch_of(FOUR, 0, judged=False), batch_of(FOUR.replace("2", "2" * 9), 1, judged=False)]
    logged, said = alarms(AlarmCallback(first_steps=1), *batches)
    assert logged == [0, 1]
    assert len(said) == 1
    assert "answer_chars_mean is 9, and was 1" in said[0]


def test_the_length_of_the_answer_is_that_of_what_is_stated() -> None:
    answers = ["\\boxed{12}", "no answer, so it has no length", "hm\n#### 1234", "\\boxed{never closed"]
    rollouts = [Rollout(row, 0, row, PROMPT, completion(text), 1.0) for row, text in enumerate(answers)]
    assert rollout_metrics(rollouts, 1.0)["rollout/answer_chars_mean"] == (2 + 4, 2)
    assert "rollout/answer_chars_mean" not in reduced(rollout_metrics(rollouts[1:2], 1.0))


def test_what_is_watched_is_what_is_logged() -> None:
    batch = batch_of(FOUR, 0)
    values = rollout_metrics(batch.require_rollouts(), 1.0) | critique_metrics(batch.require_verdicts(), 0.0)
    assert set(BANDS) <= set(values)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"first_steps": 0}, "first_steps 0"),
        ({"bands": {"rollout/step_mean": (0.5, 2.0)}}, "nearest: rollout/steps_mean"),
        ({"bands": {"policy/loss": (0.5, 2.0)}}, "policy/loss"),
        ({"bands": {"rollout/steps_mean": (2.0, 0.5)}}, "band 2.0 to 0.5"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AlarmCallback(**wrong)
