"""LMEvalCallback over the transformers engine: when it runs, on which weights, and that it leaves no trace."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from capo_lit.batch.sampling import Sampling
from capo_lit.batch.step import StepBatch
from capo_lit.core.errors import ConfigError
from capo_lit.engines.hf import HFEngine
from capo_lit.training.callbacks.lm_eval import LMEvalCallback
from capo_lit.training.callbacks.rollout import RolloutCallback
from capo_lit.training.capo import CapoModule
from tests.support.builders import make_prompt
from tests.support.loaders import Loader
from tests.support.tiny_llama import build

TASKS = Path(__file__).resolve().parents[1] / "support" / "lm_eval_tasks"
FACTS, SUMS = str(TASKS / "facts.yaml"), str(TASKS / "sums.yaml")
ACC, NORM = "val/lm_eval/test_facts/acc", "val/lm_eval/test_facts/acc_norm"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("llama")
    build(folder)
    return str(folder)


@pytest.fixture
def rollout(path: str) -> Iterator[RolloutCallback]:
    callback = RolloutCallback(HFEngine(path, dtype="float32"), 2, Sampling(max_tokens=2), 1)
    yield callback
    callback.verifier.close()


def validate(path: str, *callbacks: Callback, version: int = 0) -> tuple[CapoModule, dict[str, float]]:
    module = CapoModule(path)
    with torch.no_grad():
        for parameter in module.policy.parameters():
            parameter.add_(0.01 * version)
    module.updates.fill_(version)
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks),
    )  # fmt: skip
    return module, dict(trainer.validate(module, Loader([StepBatch([make_prompt()], 0)]), verbose=False)[0])


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def seed() -> None:
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)


def test_validation_logs_what_the_tasks_measure_beside_its_own_metrics(path: str, rollout: RolloutCallback) -> None:
    _, values = validate(path, rollout, LMEvalCallback([FACTS], limit=3))
    assert 0.0 <= values[ACC] <= 1.0
    assert values[ACC] * 3 == pytest.approx(round(values[ACC] * 3))  # of three problems
    assert NORM in values
    assert "val/avg_at_k" in values


@pytest.mark.slow
def test_random_states_go_on_as_if_no_task_had_run(path: str, rollout: RolloutCallback) -> None:
    class Seeded(Callback):
        def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            seed()

    found = []
    for callbacks in ([Seeded()], [Seeded(), LMEvalCallback([FACTS], limit=2)]):
        validate(path, rollout, *callbacks)
        found.append(draws())
    seed()
    assert found == [draws()] * 2


class Due:
    """As much of a trainer as the callback asks."""

    def __init__(self, callbacks: list[Callback], fn: TrainerFn, sanity_checking: bool = False) -> None:
        self.callbacks, self.sanity_checking, self.global_rank, self.world_size = callbacks, sanity_checking, 0, 1
        self.state = type("State", (), {"fn": fn})


def run(callback: LMEvalCallback, module: CapoModule, rollout: RolloutCallback, fn: TrainerFn, **kw: Any) -> bool:
    """Whether the hook logs anything; its weights must be the module's then."""
    logged: dict[str, float] = {}
    module.log_metrics = lambda values, batch_size: logged.update(values)  # type: ignore[method-assign,assignment]
    callback.on_validation_epoch_end(Due([rollout, callback], fn, **kw), module)  # type: ignore[arg-type]
    if logged:
        pushed = dict(rollout.sampler.engine._module.named_parameters())  # type: ignore[attr-defined]
        assert rollout.sampler.engine.version == module.version
        assert all(torch.equal(pushed[name], tensor) for name, tensor in module.engine_weights())
    return bool(logged)


@pytest.mark.slow
def test_in_a_fit_it_runs_every_n_steps_and_in_a_validation_always(path: str, rollout: RolloutCallback) -> None:
    module, _ = validate(path, rollout)
    callback = LMEvalCallback([FACTS], limit=1, every_n_steps=3)
    ran = [run(callback, module, rollout, TrainerFn.FITTING)]
    for version in (1, 2, 3, 6):
        module.updates.fill_(version)
        with torch.no_grad():
            module.policy.model.norm.weight.add_(0.1)
        ran.append(run(callback, module, rollout, TrainerFn.FITTING))
    assert ran == [True, False, False, True, True]
    module.updates.fill_(7)
    assert run(callback, module, rollout, TrainerFn.VALIDATING)
    assert not run(callback, module, rollout, TrainerFn.FITTING)
    module.updates.fill_(9)
    assert not run(callback, module, rollout, TrainerFn.FITTING, sanity_checking=True)
    assert not run(LMEvalCallback(), module, rollout, TrainerFn.VALIDATING)  # no tasks: off


def test_what_was_run_can_be_put_into_a_manifest() -> None:
    described = LMEvalCallback([FACTS, SUMS], limit=3, seed=4).describe()
    assert (described["limit"], described["apply_chat_template"], described["seed"]) == (3, False, 4)
    facts, sums = described["tasks"]["test_facts"], described["tasks"]["test_sums"]
    assert (facts["problems"], facts["num_fewshot"], facts["sampling"]) == (10, 0, {})
    assert (sums["problems"], sums["num_fewshot"], sums["sampling"]["max_gen_toks"]) == (8, 2, 24)
    assert facts["sha256"] != sums["sha256"]
    assert facts["version"] == "1.0"


def test_it_needs_the_rollouts_engine(path: str) -> None:
    callback = LMEvalCallback([FACTS])
    with pytest.raises(ConfigError, match="no RolloutCallback"):
        callback.on_validation_epoch_end(Due([], TrainerFn.VALIDATING), CapoModule(path))  # type: ignore[arg-type]


@pytest.mark.parametrize("setting", ["every_n_steps", "limit"])
def test_settings_that_cannot_be_are_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match=f"{setting} 0"):
        LMEvalCallback([FACTS], **{setting: 0})
