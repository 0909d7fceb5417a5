"""The callbacks over a scripted engine: what is synced, sampled, refused and counted."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer

from capo_lit.batch.credit import CreditConfig
from capo_lit.batch.facts import Critique
from capo_lit.batch.sampling import Sampling
from capo_lit.batch.step import StepBatch
from capo_lit.core.errors import ConfigError, EngineError, JudgeError
from capo_lit.engines.http.engine import HTTPEngine
from capo_lit.genprm.base import StepJudge, critiqued
from capo_lit.training import rollouts
from capo_lit.training.callbacks.critique import CritiqueCallback
from capo_lit.training.callbacks.rollout import RolloutCallback
from capo_lit.training.capo import CapoModule
from capo_lit.training.settings import LossConfig, OptimConfig
from tests.support.builders import make_prompt, tiny_llama
from tests.support.loaders import Loader
from tests.support.scripted_engine import ScriptedEngine


@pytest.fixture(autouse=True)
def any_probe_gap(monkeypatch):
    """A scripted engine's logprobs are no policy's."""
    monkeypatch.setattr(rollouts, "LOW_PRECISION_GAP", 100.0)


class FirstStepWrong(StepJudge):
    """Flags the first step of every rollout, or says nothing."""

    def __init__(self, mute=False):
        self.mute, self.seeds = mute, []

    def judge(self, rollouts, seed):
        self.seeds.append(seed)
        for rollout in rollouts:
            wrong = None if self.mute else frozenset({0})
            critique = Critique("no idea", wrong, "parse" if self.mute else "")
            yield critiqued(rollout, [critique], "greedy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama")
    tiny_llama(path)
    return str(path)


def say(request):
    """Right with an even seed, wrong with an odd one; greedy is right."""
    right = request.sampling.temperature == 0 or request.seed % 2 == 0
    return f"step one\n\nso \\boxed{{{2 if right else 3}}}"


def run(folder, rollout, critique=None, batches=2, w_process=1.0, cap=None, validate=False):
    module = CapoModule(folder, OptimConfig(lr=1e-3), CreditConfig(w_process=w_process), LossConfig(importance_cap=cap))
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[rollout, *([critique] if critique else [])],
    )  # fmt: skip
    data = [StepBatch([make_prompt(f"p{step}"), make_prompt(f"q{step}")], step) for step in range(batches)]
    if validate:
        return trainer.validate(module, Loader(data), verbose=False)[0]
    trainer.fit(module, Loader(data))
    return data


def test_weights_are_pushed_once_a_version_and_rollouts_carry_it(folder):
    engine = ScriptedEngine(say)
    pushed = []
    load = engine.load_weights
    engine.load_weights = lambda tensors, version: (pushed.append(version), load(tensors, version))[1]
    rollout = RolloutCallback(engine, group_size=3)
    data = run(folder, rollout, CritiqueCallback(FirstStepWrong()), batches=3)
    assert pushed == [0, 1, 2]
    for step, batch in enumerate(data):
        rollouts = batch.require_rollouts()
        assert [r.completion.version for r in rollouts] == [step] * 6
        assert [(r.row, r.group, r.sample) for r in rollouts] == [(3 * g + s, g, s) for g in (0, 1) for s in range(3)]
        assert [item.verdict.step_error for item in batch.require_verdicts()] == [(1.0, 0.0)] * 6
    seeds = [request.seed for request in engine.requests[1:]]  # the first request is the probe
    assert len(set(seeds)) == len(seeds) == 18


def test_seeds_are_a_function_of_run_step_prompt_and_sample(folder):
    first, second, other = ScriptedEngine(say), ScriptedEngine(say), ScriptedEngine(say)
    for engine, seed in ((first, 5), (second, 5), (other, 6)):
        run(
            folder,
            RolloutCallback(engine, 2, seed=seed),
            CritiqueCallback(FirstStepWrong()),
        )
    seeds = [[request.seed for request in engine.requests] for engine in (first, second, other)]
    assert seeds[0] == seeds[1]
    assert not set(seeds[0][1:]) & set(seeds[2][1:])


def test_an_engine_that_does_not_have_the_policys_weights_is_found_out(folder, monkeypatch):
    monkeypatch.setattr(rollouts, "LOW_PRECISION_GAP", 0.15)
    rollout = RolloutCallback(ScriptedEngine(say))  # it says -1 for every token
    with pytest.raises(EngineError, match=r"logprob difference.*does not compute with the policy's weights"):
        run(folder, rollout, CritiqueCallback(FirstStepWrong()))


def test_the_limit_of_the_gap_is_that_of_the_less_precise_side(monkeypatch):
    monkeypatch.setattr(rollouts, "LOW_PRECISION_GAP", 0.15)
    monkeypatch.setattr(ScriptedEngine, "dtype", torch.float32)  # it says -1 for every token

    def gap(dtype):
        policy = SimpleNamespace(compute_dtype=dtype, score=lambda _, rows: [[-1.01] * len(row) for row in rows])
        return rollouts.probe_gap(ScriptedEngine(say), policy, make_prompt("p"))

    assert gap(torch.bfloat16) == pytest.approx(0.01)
    with pytest.raises(EngineError, match=r"at most 0\.001"):
        gap(torch.float32)


def test_truncated_sampling_is_refused_while_the_importance_correction_is_on(folder):
    rollout = RolloutCallback(ScriptedEngine(say), sampling=Sampling(top_p=0.9))
    with pytest.raises(ConfigError, match=r"top_p 0\.9.*importance_cap null"):
        run(folder, rollout, CritiqueCallback(FirstStepWrong()), cap=2.0)
    run(folder, rollout, CritiqueCallback(FirstStepWrong()), cap=None)


def test_greedy_groups_and_groups_of_one_are_refused():
    with pytest.raises(ConfigError, match="temperature 0"):
        RolloutCallback(ScriptedEngine(say), sampling=Sampling(temperature=0.0))
    with pytest.raises(ConfigError, match="group_size 1"):
        RolloutCallback(ScriptedEngine(say), group_size=1)


def test_a_process_penalty_without_a_judge_is_refused_before_sampling(folder):
    engine = ScriptedEngine(say)
    with pytest.raises(ConfigError, match=r"no judge and w_process 1\.0"):
        run(folder, RolloutCallback(engine), CritiqueCallback())
    assert not engine.requests
    run(folder, RolloutCallback(engine), CritiqueCallback(), w_process=0.0)


def test_a_judge_that_says_nothing_stops_the_run(folder):
    rollout = RolloutCallback(ScriptedEngine(say), group_size=2)
    with pytest.raises(JudgeError, match=r"no idea.*4 of 4 critiques without a verdict \(causes: 4 x parse\)"):
        run(folder, rollout, CritiqueCallback(FirstStepWrong(mute=True)))
    run(folder, rollout, CritiqueCallback(FirstStepWrong(mute=True), max_abstain_frac=1.0))


def test_validation_counts_samples_and_the_greedy_answer_apart(folder):
    engine = ScriptedEngine(say)
    rollout = RolloutCallback(engine, eval_samples=3)
    got = run(folder, rollout, CritiqueCallback(eval_judge=FirstStepWrong()), validate=True)
    sampled = [r for r in engine.requests[1:] if r.sampling.temperature > 0]
    right = torch.tensor([r.seed % 2 == 0 for r in sampled]).reshape(4, 3)
    assert got["val/avg_at_k"] == pytest.approx(right.double().mean().item())
    assert got["val/pass_at_k"] == pytest.approx(right.any(1).double().mean().item())
    assert got["val/greedy_accuracy"] == 1.0
    assert got["val/step_error_frac"] == pytest.approx(0.5)  # the first of two steps, in every sample
    assert got["val/format_rate"] == 1.0


class EveryStepWrong(FirstStepWrong):
    """Flags every step."""

    def judge(self, rollouts, seed):
        for item in super().judge(rollouts, seed):
            verdict = replace(item.verdict, step_error=tuple(1.0 for _ in item.spans))
            yield replace(item, verdict=verdict)


def test_the_training_judge_is_measured_against_the_one_that_knows(folder):
    rollout = RolloutCallback(ScriptedEngine(say), eval_samples=3)
    critique = CritiqueCallback(EveryStepWrong(), FirstStepWrong(), score_judge=True)
    got = run(folder, rollout, critique, validate=True)
    # Of two steps it flags both, and one is wrong: precision 1/2, recall 1, F1 2/3.
    assert got["val/judge_precision"] == 0.5
    assert got["val/judge_recall"] == 1.0
    assert got["val/judge_f1"] == pytest.approx(2 / 3)
    with pytest.raises(ConfigError, match="score_judge without two judges"):
        CritiqueCallback(EveryStepWrong(), score_judge=True)


def test_a_run_without_a_judge_says_how_many_steps_its_rollouts_have(folder):
    logged = {}

    class Seen(CapoModule):
        def log_metrics(self, values, batch_size):
            logged.update(values)

    rollout = RolloutCallback(ScriptedEngine(say), group_size=2)
    module = Seen(folder, credit=CreditConfig(w_process=0.0))
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[rollout],
    )  # fmt: skip
    batch = StepBatch([make_prompt()], 0)
    trainer.fit(module, Loader([batch]))
    assert logged["rollout/steps_mean"] == 2.0
    tokens = sum(len(rollout.completion.ids) for rollout in batch.require_rollouts())
    assert logged["rollout/tokens_per_step_mean"] == tokens / 4
    assert batch.require_credit().step_of_token.max() == 1
    assert module.sampler is rollout.sampler


def test_the_style_of_the_rollouts_cuts_their_steps(folder):
    engine = ScriptedEngine(lambda request: "one\ntwo\n\n\\boxed{2}")
    rollout = RolloutCallback(engine, group_size=2, style="line")
    (batch,) = run(folder, rollout, CritiqueCallback(FirstStepWrong()), batches=1)
    assert [item.spans for item in batch.require_verdicts()] == [((0, 4), (4, 9), (9, 18))] * 4
    with pytest.raises(ConfigError, match=r"style 'sentence'.*--rollout\.style"):
        RolloutCallback(engine, style="sentence")


def test_an_engine_that_takes_no_weights_is_refused():
    with pytest.raises(ConfigError, match="HTTPEngine, whose weights cannot follow"):
        RolloutCallback(HTTPEngine("m", ["http://127.0.0.1:1/v1"]))
