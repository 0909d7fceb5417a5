"""Judges on the policy's own engine, or on the policy as training found it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer

from capo_lit.batch.credit import CreditConfig
from capo_lit.batch.facts import CritiquedRollout, Prompt
from capo_lit.batch.sampling import Sampling
from capo_lit.batch.step import StepBatch
from capo_lit.core.errors import ConfigError, JudgeError
from capo_lit.engines.base import Engine, Request, as_completed
from capo_lit.engines.hf import HFEngine
from capo_lit.engines.policy import PolicyEngine, bind_policy
from capo_lit.engines.vllm import VLLMEngine
from capo_lit.genprm.base import StepJudge
from capo_lit.genprm.judge import GenPRM
from capo_lit.genprm.outcome import GenORM
from capo_lit.training import rollouts
from capo_lit.training.callbacks.critique import CritiqueCallback
from capo_lit.training.callbacks.rollout import RolloutCallback
from capo_lit.training.capo import CapoModule
from capo_lit.training.rollouts import PlannedRollout, stream_rollouts
from capo_lit.training.settings import LossConfig, OptimConfig
from capo_lit.verifier.outcomes import OutcomeSource
from capo_lit.verifier.pool import Verifier
from tests.support.builders import make_prompt
from tests.support.byte_llama import build, write_template
from tests.support.judging import SEED, rollout
from tests.support.loaders import Loader
from tests.support.scripted_engine import ScriptedEngine

SHORT = Sampling(max_tokens=6)


@pytest.fixture(autouse=True)
def any_probe_gap(monkeypatch):
    """A scripted engine's logprobs are no policy's."""
    monkeypatch.setattr(rollouts, "LOW_PRECISION_GAP", 100.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build(tmp_path_factory.mktemp("policy")))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_template(tmp_path_factory.mktemp("template") / "short.txt", schema=False)


def short(folder: str) -> HFEngine:
    """An engine whose context is too short for a critique."""
    engine = HFEngine(folder)
    engine.max_model_len = 32
    return engine


def replies(items: list[CritiquedRollout]) -> dict[int, list[str]]:
    return {item.rollout.row: [critique.reply for critique in item.critiques] for item in items}


def shifted(folder: str) -> list[tuple[str, torch.Tensor]]:
    """The policy's weights after an update, as it were."""
    engine = HFEngine(folder)
    list(as_completed(engine, [Request("r", (1, 2), SHORT, 0)]))
    return [(name, parameter + 0.2) for name, parameter in engine._module.named_parameters()]


@pytest.mark.parametrize("weights", ["current", "initial"])
def test_without_a_run_there_is_no_policy(weights: str) -> None:
    with pytest.raises(ConfigError, match=r"without a policy.*name its model"):
        list(GenPRM(PolicyEngine(weights)).judge([rollout()], SEED))
    with pytest.raises(ConfigError, match="without a policy"):
        GenORM(PolicyEngine(weights)).submit(make_prompt(), "2")


def test_settings_that_contradict_each_other() -> None:
    with pytest.raises(ConfigError, match="weights 'latest'"):
        PolicyEngine("latest")
    with pytest.raises(ConfigError, match="an engine beside weights current"):
        PolicyEngine("current", HFEngine)


def test_rollouts_and_critiques_share_one_engine_and_each_gets_its_own_reply(folder: str, template: Path) -> None:
    prompts = [Prompt(f"p{row}", f"problem {row}", tuple(range(40 + row, 50 + row)), "GOLD") for row in range(5)]
    # Some responses end long before others.
    draws = [
        PlannedRollout(row, row, 0, prompt, Sampling(max_tokens=4 + 6 * row), row) for row, prompt in enumerate(prompts)
    ]

    def judge(engine: Engine) -> GenPRM:
        return GenPRM(engine, template, k=3, sampling=SHORT, early_stop=False)

    together: list[set[str]] = []

    class Watched(HFEngine):
        def step(self, timeout_s: float = 1.0) -> None:
            together.append({request_id.split("-")[0] for request_id in self._flights})
            super().step(timeout_s)

    engine, own = Watched(folder), PolicyEngine()
    own.bind(engine, folder)
    with Verifier() as verifier:
        items = list(judge(own).judge(stream_rollouts(engine, verifier, draws), SEED))
        alone = list(stream_rollouts(HFEngine(folder), verifier, draws))
    assert any("critique" in kinds and len(kinds) > 1 for kinds in together)
    texts = {item.rollout.row: item.rollout.completion.text for item in items}
    assert texts == {one.row: one.completion.text for one in alone}
    assert replies(items) == replies(list(judge(HFEngine(folder)).judge(alone, SEED)))
    assert len({reply for said in replies(items).values() for reply in said}) > 10


def test_the_current_policy_moves_with_every_push_and_the_initial_one_stays(folder: str, template: Path) -> None:
    engine = HFEngine(folder)
    current, initial = PolicyEngine("current"), PolicyEngine("initial", HFEngine)
    for one in (current, initial):
        one.bind(engine, folder)

    def said(judging: Engine) -> dict[int, list[str]]:
        return replies(list(GenPRM(judging, template, k=2, sampling=SHORT, early_stop=False).judge([rollout()], SEED)))

    before = said(current)
    assert said(initial) == before
    engine.load_weights(shifted(folder), version=1)
    assert said(initial) == before
    assert said(current) == said(engine) != before
    assert (current.version, initial.version) == (1, None)
    # A second setup of the run (validate, then fit) keeps the engine; a run of another policy has another.
    kept = initial.bound
    initial.bind(engine, folder)
    assert initial.bound is kept
    initial.bind(engine, f"{folder}/.")
    assert initial.bound is not kept
    assert initial.bound.model == f"{folder}/."


def test_an_initial_judge_can_keep_its_replies_and_a_current_one_cannot(folder: str, template: Path, tmp_path: Path):
    engine = HFEngine(folder)
    engine.load_weights(shifted(folder), version=1)

    def judge(own: PolicyEngine) -> list[CritiquedRollout]:
        own.bind(engine, folder)
        settings = {"k": 2, "sampling": SHORT, "early_stop": False, "store": tmp_path / "store.db"}
        return list(GenPRM(own, template, **settings).judge([rollout()], SEED))

    (first,), (again,) = judge(PolicyEngine("initial", HFEngine)), judge(PolicyEngine("initial", HFEngine))
    assert [critique.cached for critique in (*first.critiques, *again.critiques)] == [False, False, True, True]
    with pytest.raises(ConfigError, match=r"weights change \(version 1\)"):
        judge(PolicyEngine("current"))


def test_a_policy_that_cannot_judge_is_refused_at_setup(folder: str, tmp_path: Path) -> None:
    silent = str(build(tmp_path / "silent", chat=False))
    with pytest.raises(ConfigError, match="no chat template"):
        PolicyEngine().bind(HFEngine(silent), silent)
    with pytest.raises(ConfigError, match="no chat template"):
        PolicyEngine("initial", HFEngine).bind(HFEngine(folder), silent)
    own = PolicyEngine()
    judge = GenPRM(own, "json")
    own.bind(HFEngine(folder), folder)
    with pytest.raises(ConfigError, match="JSON schema"):
        list(judge.judge([rollout()], SEED))


def test_other_judges_are_left_alone(folder: str) -> None:
    engine = ScriptedEngine([])
    judge = GenPRM(engine)
    bind_policy(None, HFEngine(folder), folder)
    bind_policy(judge, HFEngine(folder), folder)
    assert judge.engine is engine


def say(request: Request) -> str:
    """A judge of steps that flags the first, a judge of outcomes that says yes, and a policy that errs at times."""
    if isinstance(request.prompt[0], int):
        return "one\n\ntwo" if request.seed % 2 else "one"
    return r"\boxed{yes}" if request.request_id.startswith("outcome") else r"\boxed{0}"


def run(folder: str, engine: Engine, judge: StepJudge, outcomes: OutcomeSource | None) -> list[StepBatch]:
    module = CapoModule(folder, OptimConfig(lr=1e-3), CreditConfig(), LossConfig(importance_cap=None))
    callbacks = [
        RolloutCallback(engine, group_size=3, sampling=SHORT, outcomes=outcomes),
        CritiqueCallback(judge),
    ]
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=callbacks,
    )  # fmt: skip
    data = [StepBatch([make_prompt(f"p{step}")], step) for step in range(2)]
    trainer.fit(module, Loader(data))
    return data


def test_a_run_in_which_the_policy_judges_itself(folder: str) -> None:
    engine = ScriptedEngine(say)
    versions: list[tuple[int | None, str]] = []
    submit: Callable[[Request], object] = engine.submit
    engine.submit = lambda request: (versions.append((engine.version, request.request_id)), submit(request))[1]
    judge, outcomes = GenPRM(PolicyEngine(), k=2), GenORM(PolicyEngine(), k=2)
    first, second = run(folder, engine, judge, outcomes)
    assert judge.engine.bound is outcomes.engine.bound is engine
    for step, batch in enumerate((first, second)):
        asked = [request_id for version, request_id in versions if version == step and request_id != "probe"]
        kinds = [request_id.split("-")[0] for request_id in asked]
        # Three rollouts, two votes on the outcome of each, and two critiques of each: all by this step's weights.
        assert sorted(kinds) == sorted(["0", "1", "2", *["outcome"] * 6, *["critique"] * 6])
        assert len(set(asked)) == len(asked)
        assert [item.rollout.outcome for item in batch.require_verdicts()] == [1.0] * 3
        assert all(item.verdict.step_error[0] == 1.0 for item in batch.require_verdicts())


@pytest.mark.slow
def test_a_context_too_short_for_critiques_stops_the_run_and_says_so(folder: str, template: Path) -> None:
    settings = {"k": 2, "sampling": SHORT}
    with pytest.raises(JudgeError, match=r"raise the engine's max_model_len"):
        run(folder, short(folder), GenPRM(PolicyEngine(), template, **settings), None)
    outcomes = GenORM(PolicyEngine(), **settings)
    with pytest.raises(JudgeError, match=r"'error': 6.*raise the engine's max_model_len"):
        run(folder, short(folder), GenPRM(PolicyEngine(), template), outcomes)


def test_the_config_names_both_by_class_path(folder: str) -> None:
    parser = ArgumentParser()
    parser.add_argument("--judge", type=StepJudge)
    template = {"class_path": "capo_lit.engines.hf.HFEngine", "init_args": {"dtype": "float32"}}

    def engine(**init_args: object) -> PolicyEngine:
        policy = {"class_path": "capo_lit.engines.policy.PolicyEngine", "init_args": init_args}
        judge = {"class_path": "capo_lit.genprm.judge.GenPRM", "init_args": {"engine": policy, "k": 2}}
        return parser.instantiate_classes(parser.parse_object({"judge": judge})).judge.engine

    assert engine().weights == "current"
    initial = engine(weights="initial", engine=template)
    initial.bind(HFEngine(folder), folder)
    assert isinstance(initial.bound, HFEngine)
    assert (initial.bound.model, initial.bound.precision) == (folder, "float32")
    plain = engine(weights="initial")
    plain.bind(HFEngine(folder), folder)
    assert isinstance(plain.bound, VLLMEngine)
    assert plain.bound.model == folder
    with pytest.raises(ConfigError, match="beside weights current"):
        engine(engine=template)


def test_its_numbers_are_those_of_the_engine(folder: str) -> None:
    engine, own = HFEngine(folder), PolicyEngine()
    own.bind(engine, folder)
    (through,) = as_completed(own, [Request("r", (40, 41), SHORT, seed=3)])
    (direct,) = as_completed(engine, [Request("r", (40, 41), SHORT, seed=3)])
    assert (through.ids, through.logprobs, through.request_id) == (direct.ids, direct.logprobs, "r")
    assert (own.dtype, own.prompt_tokens) == (torch.float32, engine.prompt_tokens)
