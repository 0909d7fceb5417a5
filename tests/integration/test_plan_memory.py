"""What `capo plan` says of a run on this machine, against what the run then holds."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from capo_lit.arithmetic.model import write_initial_model
from capo_lit.cli.compose import CONFIGS
from capo_lit.cli.memory import hardware, run_memory
from capo_lit.records.schema import read_records
from capo_lit.training.memory import memory_parts, totals
from tests.support.config_parser import fit_parser

pytestmark = [pytest.mark.slow, pytest.mark.nightly]
LIMIT_S = 300.0
# 2 x 8 rollouts of up to 96 tokens: activations, weights and engine are of like size.
FLAGS = ["--data.prompts_per_step", "2", "--rollout.group_size", "8", "--rollout.sampling.max_tokens", "96"]


def wide_policy(folder: Path) -> str:
    """The arithmetic's tokenizer with 27 million random weights."""
    write_initial_model(folder)
    config = AutoConfig.from_pretrained(folder)
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6, "head_dim": 64}
    for name, value in {**sizes, "num_attention_heads": 8, "num_key_value_heads": 8}.items():
        setattr(config, name, value)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(folder)
    return str(folder)


def peak_rss(command: list[str]) -> int:
    """Bytes that a process itself held at its highest; its verifier's workers are not the trainer."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    watched, peak, end = psutil.Process(process.pid), 0, time.monotonic() + LIMIT_S
    while process.poll() is None:
        if time.monotonic() > end:
            process.kill()
            pytest.fail(f"the run took longer than {LIMIT_S:g} s")
        try:
            peak = max(peak, watched.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(0.02)
    _, told = process.communicate()
    assert process.returncode == 0, told[-2000:]
    return peak


def test_a_run_holds_what_was_planned(tmp_path):
    policy = wide_policy(tmp_path / "policy")
    root = ["--trainer.default_root_dir", str(tmp_path / "run"), "--trainer.max_steps", "2"]
    words = ["--config", str(CONFIGS / "quickstart.yaml"), "--policy", policy, *FLAGS, *root]
    words += ["--validate_first", "false", "--trainer.limit_val_batches", "0"]
    config = fit_parser()(words).as_dict()
    run = run_memory(config, hardware(config))
    held = peak_rss([sys.executable, "-m", "capo_lit.cli", "fit", *words])
    # A plan is of the longest that the settings allow; here, of the longest that the policy wrote.
    rows = read_records([tmp_path / "run" / "records"], ["prompt_ids", "response_ids"]).to_pylist()
    lengths = [(len(row["prompt_ids"]), len(row["response_ids"])) for row in rows]
    prompt, response = (max(column) for column in zip(*lengths, strict=True))
    planned = max(totals(memory_parts(replace(run, row_tokens=prompt + response, response_tokens=response))))
    assert planned / 1.35 < held < planned * 1.35, (planned / 2**30, held / 2**30)
