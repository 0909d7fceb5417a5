"""What the engines of judges count, as metrics: failed attempts by cause over HTTP, and the prefix cache."""

from types import SimpleNamespace

import pytest

from capo_lit.batch.step import StepBatch
from capo_lit.evaluation.cost import Growth, Ledger, cost_metrics, engine_counts
from capo_lit.evaluation.names import METRICS
from capo_lit.evaluation.reduction import reduced
from capo_lit.genprm.judge import GenPRM
from capo_lit.training.callbacks.critique import CritiqueCallback
from tests.support.builders import make_rollout
from tests.support.http_world import ask, engines
from tests.support.misbehaving_server import FAULTS, MisbehavingServer
from tests.support.scripted_engine import ScriptedEngine

NAMES = {
    "status 500": "http_5xx",
    "status 429": "http_429",
    "hang": "timeout",
    "cut": "connection",
    "empty": "unreadable",
    "truncated": "unreadable",
    "garbage": "unreadable",
}
"""What the metrics call each of the server's faults."""


def step(callback: CritiqueCallback, number: int = 0) -> dict[str, float]:
    """The metrics of one step of one rollout."""
    batch = StepBatch([make_rollout(0).prompt], number)
    batch.set_rollouts([make_rollout(0)])
    seen: dict[str, float] = {}
    module = SimpleNamespace(measure=lambda parts: seen.update(reduced(parts)))
    callback.on_train_batch_start(None, module, batch, 0)
    callback.on_train_batch_end(None, module, None, batch, 0)
    assert set(seen) <= set(METRICS)
    return seen


def failures(seen: dict[str, float]) -> dict[str, float]:
    """Failed attempts by cause, without those that did not happen."""
    prefix = "critique/failed_"
    return {name.removeprefix(prefix): value for name, value in seen.items() if name.startswith(prefix) and value}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_a_server_shows_in_the_metrics_of_its_step(fault: str) -> None:
    with engines() as make, MisbehavingServer(script=(fault,)) as server:
        engine = make(server.url, timeout_s=1.0 if fault == "hang" else 20.0)
        callback = CritiqueCallback(GenPRM(engine, k=2))
        first, second = step(callback), step(callback, 1)
    assert failures(first) == {"attempts": 1, NAMES[fault]: 1}
    # It was tried again, so that no critique was lost; and the next step had none.
    assert first["critique/error_frac"] == first["critique/abstain_frac"] == 0
    assert failures(second) == {}


def test_a_server_that_only_fails_costs_its_critiques_and_the_count_says_why() -> None:
    with engines() as make, MisbehavingServer(mix={"empty": 1.0}) as server:
        callback = CritiqueCallback(GenPRM(make(server.url, max_retries=2), k=2), max_abstain_frac=1.0)
        seen = step(callback)
    assert failures(seen) == {"attempts": 6, "unreadable": 6}
    assert seen["critique/error_frac"] == seen["critique/abstain_frac"] == 1
    assert seen["critique/parse_fail_frac"] == seen["critique/timeout_frac"] == 0


def test_every_cause_has_a_metric_and_none_is_lost() -> None:
    causes = {"status 429": 1, "status 500": 2, "status 503": 3, "status 404": 4, "status 302": 5, "timeout": 6, "?": 7}
    engine = ScriptedEngine([])
    engine.failed_attempts = causes
    values = cost_metrics(engine_counts(engine), "critique")
    assert set(values) <= set(METRICS)
    assert values["critique/failed_attempts"] == sum(causes.values())
    by_cause = {name: values[f"critique/failed_{name}"] for name in ("http_429", "http_5xx", "timeout", "other")}
    assert by_cause == {"http_429": 1, "http_5xx": 2 + 3, "timeout": 6, "other": 4 + 5 + 7}


def test_the_share_of_the_prefix_cache_is_that_of_the_step() -> None:
    engine = ScriptedEngine(lambda request: "\\boxed{none}")
    callback = CritiqueCallback(GenPRM(engine, k=1))
    assert "critique/prefix_cached_frac" not in step(callback)  # an engine that does not count
    engine.prompt_tokens, engine.cached_tokens = 100, 80
    assert step(callback, 1)["critique/prefix_cached_frac"] == 0.8
    engine.prompt_tokens, engine.cached_tokens = 200, 100
    assert step(callback, 2)["critique/prefix_cached_frac"] == 0.2


def test_an_engine_over_http_counts_the_tokens_of_its_prompts() -> None:
    with engines() as make, MisbehavingServer() as server:
        engine = make(server.url)
        engine.submit(ask()).result(timeout=20)
        assert engine_counts(engine)["prefix_tokens"] == engine.prompt_tokens > 0


def test_growth_is_since_the_last_look() -> None:
    growth = Growth()
    assert [growth.of({"a": 3}), growth.of({"a": 5, "b": 1}), growth.of({"a": 5, "b": 1})] == [
        {"a": 3},
        {"a": 2, "b": 1},
        {"a": 0, "b": 0},
    ]


def test_two_judges_on_one_engine_count_its_failures_once() -> None:
    engine, ledger = ScriptedEngine([]), Ledger()
    engine.failed_attempts = {"timeout": 2}
    one, other = GenPRM(engine), GenPRM(engine)
    assert ledger.add_critiques(one, [], trained=True)["failed_attempts"] == 2
    assert ledger.add_critiques(other, [], trained=True)["failed_attempts"] == 0
