"""`capo plan` and the start of `capo fit`: what they read from a config, and what they refuse."""

import re
from shutil import copytree

import pytest

from capo_lit.cli.commands import main
from capo_lit.cli.compose import CONFIGS
from capo_lit.cli.memory import hardware, run_memory
from capo_lit.training.memory import GIB
from tests.support.config_parser import fit_parser
from tests.support.shapes import write_shape

PAPER = ["experiment=capo", "scale=paper", "genprm=qwen2.5_72b"]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_shape(tmp_path_factory.mktemp("shapes"), "qwen2.5_1.5b")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return write_shape(tmp_path_factory.mktemp("shapes"), "qwen2.5_7b")


@pytest.fixture(scope="module")
def parse():
    return fit_parser()


def planned(parse, path, *flags, gib=80.0):
    config = parse(["--config", str(CONFIGS / "quickstart.yaml"), "--policy", path, *flags]).as_dict()
    return run_memory(config, hardware(config, gib))


def test_a_policy_that_fits_is_planned_in_parts(small, capsys):
    assert main(["plan", *PAPER, "hardware=gpu1", "--policy", small, "--gpu_gib", "80"]) == 0
    shown = capsys.readouterr().out
    for part in ("policy's weights, float32", "AdamW's moments", "gradients", "rollout.engine: weights", "in all"):
        assert part in shown
    assert "1 x 80.0 GiB (--gpu_gib)" in shown


def test_one_that_cannot_fit_exits_with_what_would(large, capsys):
    assert main(["plan", *PAPER, "hardware=gpu1", "--policy", large, "--gpu_gib=80"]) == 1
    captured = capsys.readouterr()
    assert "in all" in captured.out  # the table is there all the same
    assert re.search(r"needs 1\d\d\.\d GiB while the policy trains.*hardware=gpu8_fsdp over \d GPUs", captured.err)


@pytest.mark.parametrize("given", ["-1", "0", "inf"])
def test_a_gpu_of_no_size_is_refused(given, small, capsys):
    assert main(["plan", *PAPER, "--policy", small, f"--gpu_gib={given}"]) == 1
    assert "GiB of one GPU, a number > 0" in capsys.readouterr().err


def test_a_wrong_setting_is_told_as_capo_fit_tells_it(small, capsys):
    assert main(["plan", *PAPER, "--policy", small, "--model.update.epochs", "many"]) == 1
    assert "model.update.epochs" in capsys.readouterr().err


def test_precision_strategy_and_devices_decide_what_is_split(parse, small):
    alone = planned(parse, small)
    assert (alone.shards, alone.compute_bytes, alone.stream_bytes, alone.gradient_copy) == (1, 4, 4, False)
    ddp = planned(
        parse, small, "--trainer.devices", "8", "--trainer.strategy", "ddp", "--trainer.precision", "bf16-mixed"
    )
    assert (ddp.shards, ddp.compute_bytes, ddp.stream_bytes, ddp.gradient_copy) == (1, 2, 4, True)
    assert ddp.rows == -(-alone.rows // 8)
    split = ["--trainer.strategy", "ModelParallelStrategy", "--trainer.strategy.data_parallel_size", "8"]
    fsdp = planned(parse, small, "--trainer.devices", "8", "--trainer.precision", "bf16-mixed", *split)
    assert (fsdp.shards, fsdp.stream_bytes, fsdp.gradient_copy) == (8, 2, False)


def test_a_reference_is_counted_where_there_is_one(parse, small):
    assert not planned(parse, small).reference
    assert planned(parse, small, "--model.loss.kl_coef", "0.1").reference


def test_a_judge_that_is_the_initial_policy_is_a_second_engine_that_does_not_sleep(parse, small):
    judge = ["--critique.judge", "capo_lit.GenPRM", "--critique.judge.engine", "capo_lit.PolicyEngine"]
    run = planned(parse, small, *judge, "--critique.judge.engine.weights", "initial")
    assert [(engine.name, engine.sleeps) for engine in run.engines] == [
        ("rollout.engine", True),
        ("critique.judge.init_args.engine.init_args.engine", False),
    ]
    shared = planned(parse, small, *judge, "--critique.judge.engine.weights", "current")
    assert len(shared.engines) == 1


def test_adapters_take_slots_of_vllm_and_their_base_is_the_initial_judge(parse, small):
    judge = ["--critique.judge", "capo_lit.GenPRM", "--critique.judge.engine", "capo_lit.PolicyEngine"]
    judge += ["--critique.judge.engine.weights", "initial"]
    engine = planned(parse, small, "--model.lora_rank", "9").engines[0]
    assert engine.adapter == 2 * engine.shape.adapter(16)  # vLLM has room for rank 8 or 16
    assert planned(parse, small).engines[0].adapter == 0
    alone = planned(parse, small, "--model.lora_rank", "9", *judge)
    assert [one.name for one in alone.engines] == ["rollout.engine"]
    # Engines that hold no adapters have no base of them.
    for other in (["capo_lit.HFEngine", "--rollout.engine.model", small], ["capo_lit.VLLMServers"]):
        run = planned(parse, small, "--model.lora_rank", "9", *judge, "--rollout.engine", *other)
        assert run.engines[-1].name == "critique.judge.init_args.engine.init_args.engine"
        assert all(engine.adapter == 0 for engine in run.engines)
    # One that is asked for is there.
    own = ["--critique.judge.engine.engine", "capo_lit.VLLMEngine"]
    assert len(planned(parse, small, "--model.lora_rank", "9", *judge, *own).engines) == 2


def test_processes_of_one_machine_share_its_memory(parse, small):
    config = parse(
        ["--config", str(CONFIGS / "quickstart.yaml"), "--policy", small, "--trainer.devices", "2"]
    ).as_dict()
    alone = parse(["--config", str(CONFIGS / "quickstart.yaml"), "--policy", small]).as_dict()
    assert hardware(config).capacity == hardware(alone).capacity / 2


def test_a_fit_that_cannot_fit_is_refused_before_anything_is_loaded(large, tmp_path, capsys):
    config = ["fit", "--config", str(CONFIGS / "quickstart.yaml"), "--policy", large]
    assert main([*config, "--trainer.default_root_dir", str(tmp_path / "run")]) == 1
    told = capsys.readouterr().err
    assert "ConfigError: memory" in told
    assert "capo plan" in told
    assert not (tmp_path / "run").exists()


def test_a_gpu_that_is_not_here_is_assumed_and_said_to_be(parse, small):
    config = parse(["--config", str(CONFIGS / "quickstart.yaml"), "--policy", small, "--trainer.accelerator", "gpu"])
    machine = hardware(config.as_dict())
    assert machine.capacity == 80 * GIB
    assert "--gpu_gib" in machine.source


def test_splits_of_eight_gpus_from_a_run_that_is_shipped(small, tmp_path, capsys):
    run = tmp_path / "run"
    copytree(CONFIGS.parent / "notebooks" / "data" / "capo", run)
    (run / "config.yaml").write_text("data: {init_args: {prompts_per_step: 8}}\nrollout: {group_size: 8}\n")
    assert main(["plan", *PAPER, "hardware=gpu8", "--policy", small, "--gpu_gib", "80", "--split", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "8 train and sample in turn" in shown
    assert re.search(r"\d train, \d sample ahead", shown)


def test_a_folder_without_a_run_cannot_be_split(small, tmp_path, capsys):
    assert main(["plan", *PAPER, "--policy", small, "--split", str(tmp_path)]) == 1
    assert "--split" in capsys.readouterr().err
