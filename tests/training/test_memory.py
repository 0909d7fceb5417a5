"""The memory of a run, against sizes computed by hand for published models, and what is said of one that cannot fit."""

from dataclasses import replace

import pytest

from capo_lit.core.errors import ConfigError
from capo_lit.training.memory import GIB, EngineMemory, RunMemory, memory_parts, totals
from capo_lit.training.memory_advice import advices, check_memory, troubles
from capo_lit.training.model_shape import model_shape
from tests.support.shapes import write_shape

# GiB, of a micro-batch of 16,384 tokens with a float32 residual stream under autocast: weights, gradients and moments;
# activations kept; those of one layer; bf16 weights of the engine. KiB of key-value cache for one token.
BY_HAND = {
    "qwen2.5_1.5b": (23.0, 2.6, 1.9, 2.9, 28),
    "llama3.2_3b": (47.9, 5.2, 2.4, 6.0, 112),
    "qwen2.5_7b": (113.5, 6.1, 4.2, 14.2, 56),
    "qwen2.5_32b": (488.0, 20.0, 6.1, 61.0, 256),
}


def paper_run(path: str, **changes) -> RunMemory:
    """A policy on one GPU of 80 GiB, at the paper's scale."""
    shape = model_shape(path)
    engine = EngineMemory("rollout.engine", shape, dtype_bytes=2, context=4096, gpu_share=0.4)
    settings = {
        "policy": shape,
        "rows": 512,
        "row_tokens": 4096,
        "response_tokens": 3072,
        "budget": 16384,
        "checkpointing": True,
        "compute_bytes": 2,
        "capacity": 80.0 * GIB,
        "gpu": True,
        "engines": (engine,),
    }
    return RunMemory(**{**settings, **changes})


@pytest.mark.parametrize("name", BY_HAND)
def test_the_parts_are_those_computed_by_hand(name, tmp_path):
    states, kept, layer, engine, kv_kib = BY_HAND[name]
    run = paper_run(write_shape(tmp_path, name))
    training = {part: peaks[1] / GIB for part, peaks in memory_parts(run).items()}
    held = sum(training[part] for part in ("policy's weights, float32", "gradients", "AdamW's moments"))
    assert held == pytest.approx(states, rel=0.01)
    assert training["activations: checkpoints"] == pytest.approx(kept, rel=0.03)
    assert training["activations: the layer that is recomputed"] == pytest.approx(layer, rel=0.08)
    assert run.engines[0].weights / GIB == pytest.approx(engine, rel=0.03)
    assert run.engines[0].kv_token == kv_kib * 1024


def test_what_is_split_over_eight_gpus(tmp_path):
    run = paper_run(write_shape(tmp_path, "qwen2.5_7b"))
    split = replace(run, shards=8)
    whole, parts = memory_parts(run), memory_parts(split)
    for part in ("policy's weights, float32", "gradients", "AdamW's moments"):
        assert parts[part][1] == whole[part][1] / 8
    assert parts["activations: checkpoints"] == whole["activations: checkpoints"]
    # Embedding, head and one layer are gathered whole.
    assert parts["gathered weights"][1] == 4 * (2 * run.policy.head + run.policy.layer)


def test_weights_that_are_cast_to_bf16_halve_the_stream_and_what_is_gathered(tmp_path):
    run = paper_run(write_shape(tmp_path, "qwen2.5_7b"), shards=8)
    cast = memory_parts(replace(run, stream_bytes=2))
    for part in ("activations: checkpoints", "gathered weights"):
        assert cast[part][1] == memory_parts(run)[part][1] / 2


def test_an_engine_that_does_not_sleep_is_there_while_the_policy_trains(tmp_path):
    run = paper_run(write_shape(tmp_path, "qwen2.5_1.5b"))
    judge = replace(run.engines[0], name="critique.judge.init_args.engine", gpu_share=0.3, sleeps=False)
    sampling, training = totals(memory_parts(run))
    with_judge = totals(memory_parts(replace(run, engines=(*run.engines, judge))))
    assert with_judge == (pytest.approx(sampling + 24 * GIB), pytest.approx(training + 24 * GIB))


def test_one_microbatch_does_not_hold_gradients_beside_its_activations(tmp_path):
    run = paper_run(write_shape(tmp_path, "qwen2.5_1.5b"), rows=4, checkpointing=False)
    assert "gradients" not in memory_parts(run)
    assert "gradients" in memory_parts(replace(run, rows=5))


def test_a_policy_that_fits_is_not_refused(tmp_path):
    check_memory(paper_run(write_shape(tmp_path, "qwen2.5_1.5b")))


@pytest.mark.parametrize("name", ["qwen2.5_7b", "qwen2.5_32b"])
def test_what_cannot_fit_is_refused_with_settings_that_would(name, tmp_path):
    run = paper_run(write_shape(tmp_path, name))
    with pytest.raises(
        ConfigError, match=r"needs .* GiB while the policy trains.*at most 80.0 GiB.*hardware=gpu8_fsdp"
    ):
        check_memory(run)
    for advice in advices(run):
        assert not troubles(advice.run)


def test_smaller_microbatches_are_named_where_they_suffice(tmp_path):
    run = paper_run(write_shape(tmp_path, "qwen2.5_1.5b"), checkpointing=False, budget=32_768)
    assert totals(memory_parts(run))[1] > run.capacity
    first = advices(run)[0]
    assert first.change.startswith("--model.update.tokens_per_microbatch")
    assert first.run.budget < run.budget


def test_an_engine_whose_share_cannot_hold_one_response_is_refused(tmp_path):
    run = paper_run(write_shape(tmp_path, "qwen2.5_1.5b"))
    tight = replace(run, engines=(replace(run.engines[0], gpu_share=0.05),))
    with pytest.raises(ConfigError, match=r"rollout.engine, whose share of 0.05 .*gpu_memory_utilization 0\.\d+"):
        check_memory(tight)


def test_engines_and_trainer_that_exceed_the_gpu_together_get_a_smaller_share(tmp_path):
    run = paper_run(write_shape(tmp_path, "llama3.2_3b"))
    greedy = replace(run, engines=(replace(run.engines[0], gpu_share=0.8),))
    assert any("while the engines sample" in trouble for trouble in troubles(greedy))
    [advice, *_] = [advice for advice in advices(greedy) if "gpu_memory_utilization" in advice.change]
    assert totals(memory_parts(advice.run))[0] <= run.capacity


def test_no_advice_is_said_to_be_none(tmp_path):
    run = replace(paper_run(write_shape(tmp_path, "qwen2.5_7b")), gpu=False, capacity=16.0 * GIB, engines=())
    with pytest.raises(ConfigError, match="no setting here makes this one fit"):
        check_memory(run)


def test_a_config_that_is_not_there_names_its_setting():
    with pytest.raises(ConfigError, match=r"config.json does not load.*Change: --rollout.engine.init_args.model"):
        model_shape("/nonexistent/model", "--rollout.engine.init_args.model")


def test_adapters_alone_have_gradients_and_moments(tmp_path):
    run = paper_run(write_shape(tmp_path, "qwen2.5_7b"))
    # 28 layers: q and o 2 x 3584, k and v 3584 + 512, gate, up and down 3584 + 18944, inputs and outputs.
    adapter = 16 * 28 * (2 * 7168 + 2 * 4096 + 3 * 22528)
    assert run.policy.adapter(16) == adapter
    parts = memory_parts(replace(run, adapter=adapter, weight_bytes=2, reference=True))
    assert parts["policy's weights, bfloat16"][1] / GIB == pytest.approx(14.2, rel=0.01)
    assert parts["AdamW's moments"][1] == 8 * adapter
    assert parts["adapters, float32"][1] == 4 * adapter
    assert not any("reference" in name for name in parts)  # the frozen weights are it


def test_slots_for_adapters_are_a_part_of_the_engines_share(tmp_path):
    run = paper_run(write_shape(tmp_path, "qwen2.5_7b"))
    slots = 2 * run.policy.adapter(16)
    holding = replace(run, engines=(replace(run.engines[0], adapter=slots),))
    parts = memory_parts(holding)
    assert parts["rollout.engine: slots for adapters"] == (2 * slots, 0.0)  # bf16, and asleep while the policy trains
    assert totals(parts) == pytest.approx(totals(memory_parts(run)))
    alone = memory_parts(replace(holding, gpu=False))
    assert alone["rollout.engine: slots for adapters"] == (2 * slots, 2 * slots)


def test_adapters_are_named_where_they_make_it_fit(tmp_path):
    run = paper_run(write_shape(tmp_path, "qwen2.5_7b"))
    [advice] = [advice for advice in advices(run) if "lora" in advice.change]
    assert advice.change == "--model.lora_rank 16"
    assert not troubles(advice.run)
