"""Two trainer processes on the same servers: each samples its own, one pushes, and an error is everybody's."""

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from transformers import LlamaForCausalLM

from capo_lit.core.errors import EngineError
from capo_lit.engines.servers import VLLMServers
from tests.support.ranks import run_two
from tests.support.scripted_rollout_server import ScriptedRolloutServer
from tests.support.tiny_llama import MAX_LEN, build, requests, run

pytestmark = pytest.mark.slow


def work(rank: int, port: int, folder: Path, urls: list[str]) -> None:
    """Push, sample, fail to push, push again and sample."""
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    model = LlamaForCausalLM.from_pretrained(folder / "model")
    names = dict(model.named_parameters())
    engine = VLLMServers(
        str(folder / "model"), urls, dtype="float32", max_model_len=MAX_LEN, transfer=str(folder), timeout_s=60.0
    )
    asked = requests(16)[rank::2]
    engine.load_weights(names.items(), version=0)
    found = {"first": [one.ids for one in run(engine, asked)]}
    # One process alone finds something wrong with its weights: none may be left waiting.
    with pytest.raises(EngineError, match="parameters missing"):
        engine.load_weights(list(names.items())[rank:], version=1)
    engine.load_weights(names.items(), version=1)
    again = run(engine, asked)
    found |= {"second": [one.ids for one in again], "versions": [one.version for one in again]}
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    engine.close()
    dist.destroy_process_group()


def test_each_process_samples_its_own_and_the_first_pushes(tmp_path: Path):
    build(tmp_path / "model")
    with ScriptedRolloutServer() as one, ScriptedRolloutServer() as other:
        run_two(work, tmp_path, [one.url, other.url], deadline_s=240.0)
        pushes = [server.calls.count("/finish_weight_update") for server in (one, other)]
        asked = len(one.asked) + len(other.asked)
    assert pushes == [2, 2]  # the one that failed reached no server
    assert asked == 2 * 16
    for rank in (0, 1):
        found = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert len(found["first"]) == 8
        assert found["first"] == found["second"]
        assert found["versions"] == [1] * 8
