"""The judge gate: a judge's score on labelled solutions decides whether the run goes on."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from capo_lit.batch.credit import CreditConfig
from capo_lit.batch.step import StepBatch
from capo_lit.core.errors import ConfigError, DataError, JudgeError
from capo_lit.evaluation.names import check_names
from capo_lit.genprm.judge import GenPRM
from capo_lit.training import rollouts
from capo_lit.training.callbacks.checkpoint import RunCheckpoint
from capo_lit.training.callbacks.critique import CritiqueCallback
from capo_lit.training.callbacks.gate import JudgeGateCallback
from capo_lit.training.callbacks.rollout import RolloutCallback
from capo_lit.training.capo import CapoModule
from capo_lit.training.settings import LossConfig, OptimConfig
from capo_lit.training.sft import SFTModule
from tests.support.builders import make_prompt, tiny_llama
from tests.support.gating import Given, Judge
from tests.support.loaders import Loader
from tests.support.scripted_engine import ScriptedEngine


@pytest.fixture(autouse=True)
def any_probe_gap(monkeypatch):
    """A scripted engine's logprobs are no policy's."""
    monkeypatch.setattr(rollouts, "LOW_PRECISION_GAP", 100.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama")
    tiny_llama(path)
    return str(path)


CONFIGS = Path(__file__).resolve().parents[2] / "configs"
QUICKSTART, GATE = CONFIGS / "quickstart.yaml", CONFIGS / "gate" / "arithmetic.yaml"


class Rest(Loader):
    """The last batches of an epoch, as a loader that goes on after a resume yields them."""

    def __init__(self, batches, epoch):
        super().__init__(batches)
        self.epoch = epoch

    def __len__(self):
        return self.epoch


def fit(folder, gate, judge=None, steps=4, start=0, w_process=1.0, ckpt=None, callbacks=(), root=None, names=()):
    engine = ScriptedEngine(lambda r: f"one\n\nso \\boxed{{{2 if r.seed % 2 == 0 else 3}}}")
    module = CapoModule(
        folder, OptimConfig(lr=1e-3), CreditConfig(w_process=w_process), LossConfig(importance_cap=None)
    )
    module.log_metrics = lambda values, batch_size: logged.append(check_names(values))
    logged: list[dict] = []
    batches = [StepBatch([make_prompt(f"p{step}")], step) for step in range(start, steps)]
    rollout = RolloutCallback(engine, group_size=4)
    trainer = Trainer(
        max_epochs=1, max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=bool(callbacks),
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=root,
        callbacks=[*([gate] if gate else []), rollout, CritiqueCallback(judge or Judge()), *callbacks],
    )  # fmt: skip
    trainer.fit(module, Rest(batches, epoch=6), ckpt_path=ckpt)
    scores = [values["critique/gate_f1"] for values in logged if "critique/gate_f1" in values]
    picked = [tuple(values[name] for name in names) for values in logged if set(names) & set(values)]
    return module, batches, scores, picked


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.policy.parameters()])


def test_a_good_judge_changes_nothing_in_the_run(folder):
    gated, _, scores, _ = fit(folder, JudgeGateCallback([Given()]))
    assert scores == [1.0] * 4
    assert torch.equal(weights(gated), weights(fit(folder, None)[0]))


def test_a_judge_below_the_threshold_stops_the_run_before_anything_is_sampled(folder):
    judge = Judge(misses=3)  # a = 1/4, F1 = 0.5 / 1.25
    with pytest.raises(JudgeError, match=r"before step 0.*F1 of 0\.400 on 8 labelled solutions.*at least 0\.5"):
        fit(folder, JudgeGateCallback([Given()], threshold=0.5), judge)
    assert len(judge.seeds) == 1
    # At the threshold itself the judge is good enough.
    assert fit(folder, JudgeGateCallback([Given()], threshold=0.4), Judge(misses=3), steps=1)[2] == [0.4]


def test_a_judge_that_gets_worse_stops_a_run_on_its_way(folder):
    class Spoils(Judge):
        def judge(self, rollouts, seed):
            self.misses = 4 if len(self.seeds) > 2 else 0
            yield from super().judge(rollouts, seed)

    with pytest.raises(JudgeError, match=r"before step 2.*F1 of 0\.000"):
        fit(folder, JudgeGateCallback([Given()], every_n_steps=2), Spoils())


def test_a_resumed_run_has_the_score_and_does_not_score_again(folder, tmp_path):
    settings = {"threshold": 0.6, "every_n_steps": 4}
    whole, _, scores, _ = fit(folder, JudgeGateCallback([Given()], **settings), Judge(2), steps=6)
    checkpoint = RunCheckpoint(every_n_steps=1)
    fit(folder, JudgeGateCallback([Given()], **settings), Judge(2), steps=3, callbacks=[checkpoint], root=tmp_path)
    judge = Judge(2)
    gate = JudgeGateCallback([Given()], **settings)
    last = tmp_path / "checkpoints" / "step=3.ckpt"
    resumed, _, later, _ = fit(folder, gate, judge, steps=6, start=3, ckpt=str(last), root=tmp_path)
    assert later == scores[3:]
    assert len(judge.seeds) == 4  # three steps, and the score before step 4
    assert torch.equal(weights(whole), weights(resumed))


def test_what_the_gate_asks_is_in_the_ledger_of_the_run(folder):
    gate = JudgeGateCallback([Given()], every_n_steps=2)
    logged = fit(folder, gate, steps=3, names=("critique/asked", "critique/judge_tokens_run"))[-1]
    # A critique of one token for each of 8 labelled solutions before steps 0 and 2, and of 4 rollouts in every step.
    assert logged == [(4, 8 + 4), (4, 8 + 8), (4, 2 * 8 + 12)]


def test_the_gate_is_idle_without_a_process_weight(folder):
    judge = Judge()
    _, _, scores, _ = fit(folder, JudgeGateCallback([Given()], every_n_steps=1), judge, steps=2, w_process=0.0)
    assert scores == []
    assert len(judge.seeds) == 2  # the rollouts of the two steps


def test_what_makes_no_sense_is_refused(folder):
    for wrong in ({"labelled": []}, {"every_n_steps": -1}, {"threshold": 1.2}):
        with pytest.raises(ConfigError, match="JudgeGateCallback"):
            JudgeGateCallback(**{"labelled": [Given()], **wrong})
    with pytest.raises(ConfigError, match="judge gate on SFTModule"):
        JudgeGateCallback([Given()]).setup(None, SFTModule(folder), "fit")


def test_a_judge_with_a_reference_needs_one_for_every_labelled_solution(folder):
    judge = GenPRM(ScriptedEngine(lambda request: "\\boxed{none}"), reference=True)
    with pytest.raises(DataError, match=r"8 labelled solutions without reference and answer \(first: s0\)"):
        fit(folder, JudgeGateCallback([Given()]), judge)


def test_the_shipped_gate_lies_over_the_quickstart():
    from capo_lit.cli.trainer import CapoCLI, build

    class ParseOnly(CapoCLI):
        def instantiate_classes(self):
            self.trainer = None

        def _run_subcommand(self, subcommand):
            pass

    configs = [word for path in (QUICKSTART, GATE) for word in ("--config", str(path))]
    fit = build(
        ["fit", *configs, "--policy", "a/model"], cli=ParseOnly, parser_kwargs={"exit_on_error": False}
    ).config.fit
    (gate,) = fit.trainer.callbacks
    assert gate.class_path == "capo_lit.JudgeGateCallback"
    (source,) = gate.init_args.labelled
    # What the judge is scored on is neither trained on nor validated with.
    assert source.init_args.problems.init_args.split == "test"
