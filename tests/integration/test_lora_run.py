"""`capo fit` with adapters: engine and trainer agree, a checkpoint is small, a resumed run is the same to the bit."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from capo_lit.records.curves import read_curves
from tests.support.commands import ONE_WORKER, call, capo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
pytest.importorskip("vllm")
STEPS, EVERY = 4, 2
SETTINGS = {
    **ONE_WORKER,
    "model.lora_rank": 4,
    "model.loss.kl_coef": 0.1,
    "model.optim.lr": 1e-3,
    "rollout.group_size": 4,
    "rollout.sampling.max_tokens": 16,
    "data.prompts_per_step": 4,
    "checkpoint.every_n_steps": EVERY,
    "checkpoint.keep": 2,
    "trainer.limit_val_batches": 0,
    "validate_first": "false",
}


def train(cwd, policy, root, steps=STEPS, **more):
    config = ["--config", "configs/quickstart.yaml", "--policy", str(policy), "--trainer.default_root_dir", str(root)]
    capo(cwd, "fit", *config, **SETTINGS, **{"trainer.max_steps": steps}, **more)
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory, initial, request):
    return train(request.config.rootpath, initial, tmp_path_factory.mktemp("lora") / "run")


def test_the_engine_has_the_merged_policy(run):
    gap = read_curves(run)["policy/engine_logp_gap_max"]
    assert len(gap) == STEPS
    assert max(gap.values()) < 1e-4
    assert max(read_curves(run)["policy/kl_ref"].values()) > 0  # of the frozen weights, with the adapters off


def test_a_checkpoint_holds_adapters_and_their_moments_alone(run):
    state = torch.load(run / "checkpoints" / f"step={STEPS}.ckpt", weights_only=True)
    names = set(state["state_dict"]) - {"updates"}
    assert names
    assert all(".lora_" in name for name in names)
    moments = state["optimizer_states"][0]["state"]
    assert len(moments) == len(names)


def test_the_exported_policy_is_merged_and_loads_as_any_model(run, initial):
    before, after = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (initial, run / "policy"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("proj" in name for name in changed)  # embeddings and norms are frozen


def test_a_resumed_run_ends_with_the_same_weights(run, initial, tmp_path, request):
    root = train(request.config.rootpath, initial, tmp_path / "run", steps=EVERY)
    train(request.config.rootpath, initial, root, **{"ckpt_path": "last"})
    one, two = (AutoModelForCausalLM.from_pretrained(path / "policy").state_dict() for path in (run, root))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_adapters_in_shards_are_refused(initial, tmp_path, request):
    config = ["--config", "configs/quickstart.yaml", "--policy", str(initial), "--model.lora_rank", "4"]
    split = ["--trainer.strategy", "ModelParallelStrategy", "--trainer.strategy.data_parallel_size", "1"]
    root = ["--trainer.default_root_dir", str(tmp_path / "run")]
    told = call(request.config.rootpath, "fit", *config, *split, *root)
    assert told.status == 1
    assert "adapters on a policy in shards" in told.err
