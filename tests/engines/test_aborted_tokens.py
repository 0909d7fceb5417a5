"""Tokens that an engine in this process had generated for requests that were cancelled."""

from pathlib import Path

import pytest

from capo_lit.batch.sampling import Sampling
from capo_lit.engines.base import Request
from capo_lit.engines.hf import HFEngine
from capo_lit.engines.vllm import VLLMEngine
from tests.support.tiny_llama import build


@pytest.mark.parametrize("kind", ["hf", pytest.param("vllm", marks=pytest.mark.slow)])
def test_tokens_of_cancelled_requests_are_counted(tmp_path: Path, kind: str) -> None:
    build(tmp_path)
    if kind == "hf":
        engine: HFEngine | VLLMEngine = HFEngine(str(tmp_path))
    else:
        pytest.importorskip("vllm")
        engine = VLLMEngine(str(tmp_path), dtype="float32", max_model_len=64, max_num_seqs=2, kv_cache_gib=0.1)
    lengths = (3, 40, 40)
    requests = [Request(str(n), (5, 6, 7), Sampling(max_tokens=length), n) for n, length in enumerate(lengths)]
    # The third one waits until the first is done in vLLM, which has two slots.
    futures = [engine.submit(request) for request in requests]
    for _ in range(6):
        engine.step()
    assert [future.done() for future in futures] == [True, False, False]
    for future in futures:
        future.cancel()
    # Every step gives one token to each that runs.
    assert engine.aborted_tokens == (6 + 6 if kind == "hf" else 6 + 3)
    engine.close()
