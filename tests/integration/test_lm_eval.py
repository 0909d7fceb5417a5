"""EngineLM against lm-eval's own transformers backend, and in several processes."""

import random
import socket
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from datasets import Dataset, DatasetDict
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import manager
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from capo_lit.cli import smollm2
from capo_lit.engines.hf import HFEngine
from capo_lit.engines.scores import ScoresPrompts
from capo_lit.engines.vllm import VLLMEngine
from capo_lit.evaluation.benchmarks.model import EngineLM
from capo_lit.evaluation.benchmarks.tasks import load_tasks, run_tasks
from tests.support.ranks import run_two
from tests.support.tiny_llama import MAX_LEN, build

pytestmark = pytest.mark.slow

REPO = Path(__file__).resolve().parents[2]
TASKS = REPO / "tests" / "support" / "lm_eval_tasks"


def instances(length: int) -> dict[str, list[Instance]]:
    """Requests of all three kinds over the words of the tiny model, some longer than `length`."""
    rng = random.Random(0)

    def words(count: int) -> str:
        return " ".join(f"w{rng.randrange(45)}" for _ in range(count))

    def make(kind: str, *arguments: Any) -> Instance:
        return Instance(kind, {}, arguments, 0, metadata=("task", 0, 1))

    pairs = [(words(rng.randrange(1, 40)) + " " * (n % 3), " " + words(rng.randrange(1, 5))) for n in range(24)]
    pairs += [("", words(4)), (words(length - 4), " " + words(4)), (words(2 * length), " " + words(5))]
    pairs += [(pairs[0][0], f" w{n}") for n in range(45)]  # one of these is what greedy decoding writes
    until = {"until": ["w26", "w3 "], "max_gen_toks": 40}
    return {
        "loglikelihood": [make("loglikelihood", *pair) for pair in pairs],
        "generate_until": [make("generate_until", words(rng.randrange(1, 40)), until) for _ in range(20)]
        + [make("generate_until", words(2 * length), {"until": "w7", "max_gen_toks": 30, "do_sample": False})],
        "loglikelihood_rolling": [make("loglikelihood_rolling", words(n)) for n in (5, length, 3 * length)],
    }


def assert_same(engine: ScoresPrompts, path: Path, length: int) -> None:
    mine = EngineLM(engine, max_length=length)
    theirs = HFLM(str(path), device="cpu", dtype="float32", batch_size=7, max_length=length)
    requests = instances(length)
    answers = mine.generate_until(requests["generate_until"])
    assert answers == theirs.generate_until(requests["generate_until"], disable_tqdm=True)
    assert len({len(answer) for answer in answers}) > 5  # some were stopped early
    scores = mine.loglikelihood(requests["loglikelihood"], disable_tqdm=True)
    expected = theirs.loglikelihood(requests["loglikelihood"], disable_tqdm=True)
    assert [score for score, _ in scores] == pytest.approx([score for score, _ in expected], abs=1e-4)
    assert [greedy for _, greedy in scores] == [greedy for _, greedy in expected]
    assert any(greedy for _, greedy in scores)
    rolled = mine.loglikelihood_rolling(requests["loglikelihood_rolling"])
    assert rolled == pytest.approx(theirs.loglikelihood_rolling(requests["loglikelihood_rolling"]), abs=1e-2)


@pytest.mark.parametrize("begins", [False, True])
def test_the_transformers_engine_equals_lm_evals_own_backend(tmp_path: Path, begins: bool) -> None:
    build(tmp_path)
    if begins:  # a tokenizer that puts a token before every text
        tokenizer = AutoTokenizer.from_pretrained(tmp_path)
        tokenizer.add_special_tokens({"bos_token": "<unk>"})
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<unk> $A", special_tokens=[("<unk>", tokenizer.bos_token_id)]
        )
        tokenizer.save_pretrained(tmp_path)
        assert AutoTokenizer.from_pretrained(tmp_path).encode("w1") == [2, 4]
    engine = HFEngine(str(tmp_path), dtype="float32")
    engine.max_model_len = 100
    assert_same(engine, tmp_path, 100)


def test_vllm_equals_lm_evals_own_backend(engine: VLLMEngine, path: Path) -> None:
    assert_same(engine, path, MAX_LEN - 2)
    assert engine.longest_scored == MAX_LEN - 1
    assert EngineLM(engine).max_length == MAX_LEN


def test_scores_follow_the_weights(engine: VLLMEngine, path: Path) -> None:
    pair = ((3, 4, 5), (6, 7))
    before = engine.score([pair])
    changed = build(path.parent / "other", seed=5)
    engine.load_weights(changed.named_parameters(), version=1)
    changed.name_or_path = str(path)
    own = HFEngine(changed).score([pair])
    assert engine.score([pair])[0].logprob == pytest.approx(own[0].logprob, abs=1e-4)
    assert abs(before[0].logprob - own[0].logprob) > 0.1


def answered(tasks: dict[str, Any]) -> dict[str, list[Any]]:
    return {name: [item.resps[0] for item in task.instances] for name, task in tasks["tasks"].items()}


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_smollm2_in_vllm_scores_as_in_lm_evals_own_backend() -> None:
    folder = str(smollm2.prepare())
    names = [str(TASKS / f"{name}.yaml") for name in ("sums", "facts", "text")]
    engine = VLLMEngine(folder, dtype="float32", max_model_len=512, max_num_seqs=16, kv_cache_gib=0.25)
    theirs = HFLM(folder, device="cpu", dtype="float32", batch_size=8, max_length=510)
    results, answers = [], []
    for lm in (EngineLM(engine, max_length=510), theirs):
        tasks = load_tasks(names)
        results.append(run_tasks(lm, tasks))
        answers.append(answered(tasks))
    engine.close()
    assert answers[0]["test_sums"] == answers[1]["test_sums"]
    mine, expected = ([score for score, _ in found["test_facts"]] for found in answers)
    assert mine == pytest.approx(expected, abs=1e-3)
    accuracies = [name for name in results[0] if "perplexity" not in name and "bits" not in name]
    assert {name: results[0][name] for name in accuracies} == {name: results[1][name] for name in accuracies}
    assert results[0] == pytest.approx(results[1], rel=1e-4)
    assert set(accuracies) == {
        "test_sums/exact_match/number", "test_sums/exact_match/strict", "test_facts/acc", "test_facts/acc_norm"
    }  # fmt: skip
    # Neither all right nor all wrong, or equality would say little.
    assert 0 < results[0]["test_sums/exact_match/number"] < 1
    assert 0 < results[0]["test_facts/acc"] < 1


def share(rank: int, port: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    lm = EngineLM(HFEngine(folder, dtype="float32"), part=(rank, 2))
    requests = instances(60)
    found = {
        "generate_until": lm.generate_until(requests["generate_until"][:5]),
        "loglikelihood": lm.loglikelihood(requests["loglikelihood"][:1], disable_tqdm=True),  # one rank has none
        "tokens": lm.generated_tokens,
    }
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_generate_a_part_each_and_know_all(tmp_path: Path) -> None:
    build(tmp_path)
    run_two(share, str(tmp_path))
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1)]
    alone, requests = EngineLM(HFEngine(str(tmp_path), dtype="float32")), instances(60)
    assert parts[0]["generate_until"] == parts[1]["generate_until"]
    assert parts[0]["generate_until"] == alone.generate_until(requests["generate_until"][:5])
    assert parts[0]["loglikelihood"] == parts[1]["loglikelihood"]
    assert parts[0]["tokens"] + parts[1]["tokens"] == alone.generated_tokens
    assert min(parts[0]["tokens"], parts[1]["tokens"]) > 0


def test_a_task_of_lm_evals_own_runs_by_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    choices = {"text": ["w1", "w2", "w3", "w4"], "label": ["A", "B", "C", "D"]}
    rows = [{"question": f"w{n} w{n + 1}", "choices": choices, "answerKey": "ABCD"[n % 4]} for n in range(6)]
    splits = DatasetDict(dict.fromkeys(("train", "validation", "test"), Dataset.from_list(rows)))
    monkeypatch.setattr("datasets.load_dataset", lambda **_: splits)
    # This folder of lm-eval's own tasks alone: all 14,000 take 20 s to index, and are indexed at night.
    monkeypatch.setattr(manager, "__file__", str(Path(manager.__file__).parent / "arc" / "manager.py"))
    build(tmp_path)
    theirs = HFLM(str(tmp_path), device="cpu", dtype="float32", max_length=200)
    tasks = load_tasks(["arc_easy"], num_fewshot=3)
    found = [
        run_tasks(lm, deepcopy(tasks))
        for lm in (EngineLM(HFEngine(str(tmp_path), dtype="float32"), max_length=200), theirs)
    ]
    assert found[0] == found[1]
    assert set(found[0]) == {"arc_easy/acc", "arc_easy/acc_norm"}


def test_local_tasks_never_reach_for_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    build(tmp_path)
    lm = EngineLM(HFEngine(str(tmp_path), dtype="float32"))
    assert set(run_tasks(lm, load_tasks([str(TASKS / "facts.yaml")]))) == {"test_facts/acc", "test_facts/acc_norm"}
