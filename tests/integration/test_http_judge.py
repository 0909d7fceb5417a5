"""A judge over HTTP: behind a server that misbehaves, in a training run, and behind a real `vllm serve`."""

import json
import os
import re
import runpy
import signal
import socket
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from capo_lit.batch.sampling import Sampling
from capo_lit.engines.base import Request, as_completed
from capo_lit.engines.http.engine import HTTPEngine
from capo_lit.genprm.judge import GenPRM
from capo_lit.records.curves import read_curves
from capo_lit.records.schema import read_records
from tests.support import forked
from tests.support.commands import ONE_WORKER, capo
from tests.support.http_world import wait_for
from tests.support.judging import SEED, rollout
from tests.support.misbehaving_server import EVEN_30, FAULTS, MisbehavingServer
from tests.support.tiny_llama import build

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

REPO = Path(__file__).resolve().parents[2]
START_LIMIT_S, STOP_LIMIT_S = 240.0, 20.0
SEQUENCES = 2  # that the real server runs at once
ROLLOUTS, K = 24, 4


def verdict(body: dict[str, Any]) -> str:
    """A reply that flags the first step of about half of the critiques, by the request's seed."""
    return "Looked at it. \\boxed{0}" if body["seed"] % 2 else "All is well. \\boxed{none}"


@pytest.mark.parametrize("retries", [0, 8])
def test_no_rollout_is_lost_and_every_failure_is_counted(retries: int) -> None:
    deadline_s = 60.0
    with MisbehavingServer(mix=EVEN_30, reply=verdict, seed=4) as server:
        engine = HTTPEngine("judge", [server.url], timeout_s=2.0)
        engine.max_retries = retries
        judge = GenPRM(engine, k=K, deadline_s=deadline_s, early_stop=False)
        started = time.monotonic()
        result = list(judge.judge([rollout(row) for row in range(ROLLOUTS)], SEED))
        assert time.monotonic() - started < deadline_s
        engine.close()
    assert sorted(item.rollout.row for item in result) == list(range(ROLLOUTS))
    critiques = [critique for item in result for critique in item.critiques]
    assert len(critiques) == ROLLOUTS * K
    mute = [critique for critique in critiques if critique.wrong is None]
    faults = sum(server.replies[fault] for fault in FAULTS)
    assert sum(engine.failed_attempts.values()) >= faults > 10
    if retries:
        assert mute == []
        assert all(item.verdict.valid == K for item in result)
        return
    # Without retries every failed attempt is one abstention, and each names its cause.
    assert len(mute) == sum(engine.failed_attempts.values())
    said = Counter(re.search(r"HTTP \d+|no reply|empty|no chat completion|no connection", c.cause)[0] for c in mute)
    assert said["HTTP 500"] == engine.failed_attempts["status 500"]
    assert said["no reply"] == engine.failed_attempts["timeout"]
    assert said["no chat completion"] == engine.failed_attempts["unreadable"]
    assert all(item.verdict.valid + item.verdict.abstained == K for item in result)


def test_a_silent_server_costs_the_deadline_and_no_more() -> None:
    with MisbehavingServer(script=("ok", *["hang"] * 100)) as server:
        engine = HTTPEngine("judge", [server.url], timeout_s=60.0, max_concurrency=16)
        # The client's first request takes a moment of its own.
        list(as_completed(engine, [Request("first", ({"role": "user", "content": "hi"},), Sampling(), 0)]))
        started = time.monotonic()
        result = list(GenPRM(engine, k=K, deadline_s=4.0).judge([rollout(row) for row in range(8)], SEED))
        # One look at the clock per second at most, after the deadline.
        assert 4.0 <= time.monotonic() - started < 7
        assert [critique.cause for item in result for critique in item.critiques] == ["timeout"] * 8 * K
        assert all(item.verdict.valid == 0 for item in result)
        # What was given up is not left in the server, and most of what waited for a slot is never sent: on a busy
        # machine the last rollouts come a moment later, and get the slots of the first for that moment.
        assert wait_for(lambda: server.running == 0, 5)
        assert 16 <= server.disconnects == len(server.bodies) - 1 < 8 * K
        engine.close()


def test_training_goes_on_with_a_judge_that_misbehaves(tmp_path: Path, initial: Path) -> None:
    deadline_s = 20.0
    with MisbehavingServer(mix=EVEN_30, reply=verdict, seed=5) as server:
        engine = {"model": "judge", "base_urls": [server.url], "timeout_s": 2.0}
        judge = {
            "engine": {"class_path": "capo_lit.engines.http.engine.HTTPEngine", "init_args": engine},
            "deadline_s": deadline_s,
            "early_stop": False,
        }
        overlay = {"critique": {"judge": {"class_path": "capo_lit.genprm.judge.GenPRM", "init_args": judge}}}
        (tmp_path / "judge.yaml").write_text(yaml.safe_dump(overlay))
        small = {
            "policy": initial,
            "trainer.default_root_dir": tmp_path / "run",
            "trainer.max_steps": 3,
            "trainer.limit_val_batches": 0,
            "validate_first": "false",
            "data.prompts_per_step": 2,
            "rollout.group_size": 4,
            **ONE_WORKER,
        }
        configs = ["--config", str(REPO / "configs" / "quickstart.yaml"), "--config", str(tmp_path / "judge.yaml")]
        capo(tmp_path, "fit", *configs, **small)
    assert sum(server.replies[fault] for fault in FAULTS) > 10
    curves = read_curves(tmp_path / "run")
    assert sorted(curves["policy/loss"]) == [1, 2, 3]
    assert max(curves["time/critique_s"].values()) < deadline_s + 2
    rows = read_records(tmp_path / "run" / "records").to_pylist()
    assert [(row["step"], row["row"]) for row in rows] == [(step, row) for step in range(3) for row in range(8)]
    critiques = [critique for row in rows for critique in row["critiques"]]
    mute = [critique for critique in critiques if critique["wrong"] is None]
    # Two attempts fail with probability 0.09: some critiques do, and they are counted as what they are.
    assert 0 < max(curves["critique/abstain_frac"].values()) < 0.5
    by_cause = [sum(curves[name].values()) for name in curves if "/failed_" in name and "attempts" not in name]
    assert sum(by_cause) == sum(curves["critique/failed_attempts"].values()) > 10
    assert all(critique["cause"].startswith(("error: ", "timeout")) for critique in mute)


@dataclass
class Served:
    """A running `vllm serve`, and how long its start took, seconds."""

    root: str
    seconds: float

    def gauge(self, name: str) -> float:
        with urllib.request.urlopen(f"{self.root}/metrics", timeout=10) as reply:
            text = reply.read().decode()
        return float(re.search(rf"^vllm:{name}\{{.*\}} (.*)$", text, re.MULTILINE)[1])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    pytest.importorskip("vllm")
    folder = tmp_path_factory.mktemp("served")
    build(folder)
    # Rotary positions have no weights: a longer context is only a number.
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = {"model": folder, "served-model-name": "tiny", "host": "127.0.0.1", "port": port, "dtype": "float32"}
    flags |= {"max-num-seqs": SEQUENCES, "max-model-len": 4096, "kv-cache-memory-bytes": 2**27}
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    env = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "DO_NOT_TRACK": "1"}
    started = time.monotonic()
    process = forked.start(serve, [*words, "--enforce-eager"], folder, **env)
    try:
        root = f"http://127.0.0.1:{port}"
        up = wait_for(lambda: not process.is_alive() or _healthy(root), START_LIMIT_S, every=0.2)
        assert up, f"no server within {START_LIMIT_S} s"
        assert process.is_alive(), (folder / "log.txt").read_text()[-3000:]
        yield Served(root, time.monotonic() - started)
    finally:
        process.terminate()
        process.join(STOP_LIMIT_S)
        # Its workers too, if it did not end them; none is left when it did.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.join(5)


def serve(words: list[str]) -> None:
    """`vllm serve`, as its own module starts it."""
    sys.argv = ["vllm", *words]
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")


def _healthy(root: str) -> bool:
    try:
        return urllib.request.urlopen(f"{root}/health", timeout=5).status == 200
    except OSError:
        return False


@pytest.fixture
def engine(served: Served) -> Iterator[HTTPEngine]:
    # The model is random and ends soon by chance, unless it is told not to.
    engine = HTTPEngine("tiny", [f"{served.root}/v1"], timeout_s=60.0, extra={"ignore_eos": True})
    yield engine
    engine.close()


def test_a_real_server_answers_and_its_seeds_decide(
    served: Served, engine: HTTPEngine, record_property: Callable[[str, object], None]
) -> None:
    record_property("vllm_serve_start_s", served.seconds)
    sampling = Sampling(max_tokens=24)
    judge = GenPRM(engine, k=K, deadline_s=60.0, sampling=sampling)
    result = list(judge.judge([rollout(row) for row in range(4)], SEED))
    again = list(judge.judge([rollout(row) for row in range(4)], SEED))
    replies = {item.rollout.row: [critique.reply for critique in item.critiques] for item in result}
    assert len(replies) == 4
    assert {item.rollout.row: [critique.reply for critique in item.critiques] for item in again} == replies
    critiques = [critique for item in result for critique in item.critiques]
    # Words of a random model hold no verdict: all abstain, having been cut at 24 tokens.
    assert {(critique.wrong, critique.cause) for critique in critiques} == {(None, "length")}
    assert {critique.completion_tokens for critique in critiques} == {24}
    assert min(critique.prompt_tokens for critique in critiques) > 100
    assert len({critique.reply for critique in critiques}) == len(critiques)


def test_cancelled_requests_leave_a_real_server(
    served: Served, engine: HTTPEngine, record_property: Callable[[str, object], None]
) -> None:
    prompt = ({"role": "user", "content": "w7 w8"},)
    count, length = 40, 3900
    long = Sampling(max_tokens=length)
    futures = [engine.submit(Request(f"long-{index}", prompt, long, index)) for index in range(count)]
    # Some may end early by an end token; most must still wait behind those that run.
    assert wait_for(lambda: served.gauge("num_requests_waiting") >= count / 4, 60)
    assert served.gauge("num_requests_running") > 0
    written = served.gauge("generation_tokens_total")
    assert sum(future.cancel() for future in futures) >= count / 4
    # Their tokens, tens of thousands, would stand before this one.
    started = time.monotonic()
    (short,) = as_completed(engine, [Request("short", prompt, Sampling(max_tokens=5), 1)])
    assert short.completion_tokens == 5
    record_property("short_after_cancel_s", time.monotonic() - started)
    assert time.monotonic() - started < 20
    assert wait_for(lambda: served.gauge("num_requests_running") == served.gauge("num_requests_waiting") == 0, 5)
    assert served.gauge("generation_tokens_total") - written < length * count / 4


def test_a_real_server_refuses_what_it_cannot_do(engine: HTTPEngine) -> None:
    futures = [
        engine.submit(Request("r", ({"role": "user", "content": "w7 " * 5000},), Sampling(max_tokens=5), 1)),
        engine.submit(Request("s", ({"role": "user", "content": "w7"},), Sampling(max_tokens=5), 1)),
    ]
    assert wait_for(lambda: all(future.done() for future in futures), 30)
    assert re.search(r"HTTP 400 .*at attempt 1;.*Change: sampling", str(futures[0].exception()), re.DOTALL)
    assert futures[1].result().completion_tokens == 5
