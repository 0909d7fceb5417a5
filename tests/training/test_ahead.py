"""What is gathered ahead: it is there when its step comes, its failure too, and nothing is pushed meanwhile."""

import threading

import pytest
import torch
from lightning.pytorch import Trainer

from capo_lit.batch.credit import CreditConfig
from capo_lit.batch.step import StepBatch
from capo_lit.core.errors import ConfigError, EngineError
from capo_lit.data.loader import PromptLoader
from capo_lit.genprm.judge import GenPRM
from capo_lit.training import rollouts
from capo_lit.training.ahead import Ahead
from capo_lit.training.callbacks.critique import CritiqueCallback
from capo_lit.training.callbacks.rollout import RolloutCallback
from capo_lit.training.capo import CapoModule
from capo_lit.training.settings import LossConfig, OptimConfig
from tests.support.builders import make_prompt, make_rollout, tiny_llama
from tests.support.loaders import Loader
from tests.support.scripted_engine import ScriptedEngine

PROMPTS = [make_prompt()]


def test_a_batch_is_filled_beside_the_caller_and_taken_once():
    go, seen = threading.Event(), []

    def fill(batch):
        go.wait(5)
        seen.append(threading.current_thread() is threading.main_thread())
        batch.set_rollouts([make_rollout(0)])

    ahead = Ahead(fill)
    assert not ahead.take(StepBatch(PROMPTS, 0))
    ahead.launch(StepBatch(PROMPTS, 0))
    go.set()
    batch = StepBatch(PROMPTS, 0)
    assert ahead.take(batch)
    assert len(batch.require_rollouts()) == 1
    assert seen == [False]
    assert not ahead.take(StepBatch(PROMPTS, 1))


def test_what_fails_fails_at_its_own_step_and_stays_out_of_checkpoints():
    def fill(batch):
        raise EngineError("no server", "one")

    ahead = Ahead(fill)
    ahead.launch(StepBatch(PROMPTS, 0))
    ahead.wait()
    assert ahead.state() == []
    with pytest.raises(EngineError, match="no server"):
        ahead.take(StepBatch(PROMPTS, 0))


def test_a_checkpoint_waits_for_what_is_under_way_and_brings_it_back():
    ahead = Ahead(lambda batch: batch.set_rollouts([make_rollout(0)]))
    ahead.launch(StepBatch(PROMPTS, 3))
    states = ahead.state()
    assert [state["step"] for state in states] == [3]
    assert ahead.take(StepBatch(PROMPTS, 3))  # saving takes nothing away
    resumed = Ahead(lambda batch: pytest.fail("sampled again"))
    resumed.restore(states)
    batch = StepBatch(PROMPTS, 3)
    assert resumed.take(batch)
    assert batch.require_rollouts() == (make_rollout(0),)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama")
    tiny_llama(path)
    return str(path)


@pytest.fixture(autouse=True)
def any_probe_gap(monkeypatch):
    """A scripted engine's logprobs are no policy's."""
    monkeypatch.setattr(rollouts, "LOW_PRECISION_GAP", 100.0)


def fit(folder, engine, critique=None, cap=2.0, loader=None, steps=4):
    module = CapoModule(folder, OptimConfig(lr=1e-3), CreditConfig(w_process=0.0), LossConfig(importance_cap=cap))
    callbacks = [RolloutCallback(engine, group_size=3, ahead=1), *([critique] if critique else [])]
    trainer = Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=callbacks,
    )  # fmt: skip
    prompts = [make_prompt(f"p{index}") for index in range(6)]
    names = [prompt.uid for prompt in prompts]
    trainer.fit(module, loader or PromptLoader(prompts, names, StepBatch, 2, seed=5))
    return trainer


def say(request):
    return f"so \\boxed{{{2 if request.seed % 2 == 0 else 3}}}"


def test_every_version_is_pushed_once_and_samples_the_batch_after_its_own(folder):
    engine = ScriptedEngine(say)
    asked = []
    load, submit = engine.load_weights, engine.submit
    engine.load_weights = lambda tensors, version: (asked.append(version), load(tensors, version))[1]
    engine.submit = lambda request: (asked.append(request.request_id), submit(request))[1]
    fit(folder, engine)
    sampled = [item for item in asked if item != "probe"]
    rows = ["0", "1", "2", "3", "4", "5"]
    # Version 0 samples the first two batches; the last batch, of step 3, is sampled by version 2.
    assert sampled == [0, *rows, *rows, 1, *rows, 2, *rows, 3]


def test_it_crosses_from_one_epoch_into_the_next_as_the_loader_does(folder):
    engine = ScriptedEngine(say)
    prompts = [make_prompt(f"p{index}", ids=(1, 2 + index)) for index in range(6)]
    loader = PromptLoader(prompts, [prompt.uid for prompt in prompts], StepBatch, 2, seed=5)
    plain = PromptLoader(prompts, [prompt.uid for prompt in prompts], StepBatch, 2, seed=5)
    fit(folder, engine, loader=loader, steps=5)
    drawn = [batch for _ in range(2) for batch in plain][:5]
    expected = [prompt.ids for batch in drawn for prompt in batch.prompts for _ in range(3)]
    assert [request.prompt for request in engine.requests if request.request_id != "probe"] == expected
    assert (loader.epoch, loader.position) == (1, 2)


def test_what_stands_still_or_would_stay_uncorrected_is_refused(folder, monkeypatch):
    still = ScriptedEngine(say)
    still.stands_still = True
    with pytest.raises(ConfigError, match="ahead 1 with ScriptedEngine"):
        RolloutCallback(still, ahead=1)
    with pytest.raises(ConfigError, match="importance_cap null"):
        fit(folder, ScriptedEngine(say), cap=None)
    with pytest.raises(ConfigError, match="batches from Loader"):
        fit(folder, ScriptedEngine(say), loader=Loader([StepBatch(PROMPTS, 0)]))
    with pytest.raises(ConfigError, match=r"a judge in ScriptedEngine.*--critique\.judge\.engine"):
        fit(folder, ScriptedEngine(say), CritiqueCallback(GenPRM(still)))


def test_it_trains_alike_every_time(folder):
    ends = []
    for _ in range(2):
        trainer = fit(folder, ScriptedEngine(say))
        ends.append(torch.cat([p.detach().flatten() for p in trainer.lightning_module.parameters()]))
    assert torch.equal(*ends)
