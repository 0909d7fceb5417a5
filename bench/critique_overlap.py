"""How much of a slow judge's time hides behind the rollouts? One step with and without streaming, in one run.

    .venv/bin/python bench/critique_overlap.py [--seconds 2] [--rounds 3]

The policy is the quickstart's small Llama (untrained) in the real vLLM, with so few slots that its rollouts finish one
after another, as those of a batch larger than the engine's do. The judge is a loopback server that takes a fixed time
per critique and works on 16 at a time. The same rollouts (same seeds) are judged once after all have finished, and once
as each finishes.
"""

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from transformers import PreTrainedTokenizerFast

from capo_lit.arithmetic.model import build_tokenizer, write_initial_model
from capo_lit.arithmetic.task import ArithmeticSource
from capo_lit.batch.facts import Prompt, Rollout
from capo_lit.batch.sampling import Sampling
from capo_lit.batch.step import StepBatch
from capo_lit.engines.http.engine import HTTPEngine
from capo_lit.engines.vllm import VLLMEngine
from capo_lit.genprm.judge import GenPRM
from capo_lit.training.rollouts import PlannedRollout, stream_rollouts
from capo_lit.verifier.pool import Verifier

PROBLEMS, GROUP, SLOTS = 8, 8, 2
AT_ONCE = 16


@contextmanager
def judge_server(seconds: float) -> Iterator[str]:
    """A chat-completions server that says "nothing wrong" after `seconds`; the client keeps to AT_ONCE requests."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(seconds)
            message = {"role": "assistant", "content": "\\boxed{none}"}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            body = {"id": "x", "object": "chat.completion", "created": 0, "model": "slow", "choices": [choice]}
            data = json.dumps({**body, "usage": usage}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Nothing: a line per request would be part of what is measured."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 256  # all requests may come at once

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()


def draws_of(tokenizer: PreTrainedTokenizerFast, seed: int) -> list[PlannedRollout]:
    """GROUP rollouts of each of PROBLEMS arithmetic problems."""
    draws = []
    for group, problem in enumerate(ArithmeticSource(size=PROBLEMS).load()):
        prompt = Prompt(problem.uid, problem.problem, tuple(tokenizer.encode(problem.problem)), problem.answer)
        for sample in range(GROUP):
            row = group * GROUP + sample
            draws.append(PlannedRollout(row, group, sample, prompt, Sampling(max_tokens=100), seed * 1000 + row))
    return draws


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one critique")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    folder = tempfile.TemporaryDirectory()
    model = write_initial_model(Path(folder.name) / "model")
    engine = VLLMEngine(str(model), dtype="float32", max_model_len=200, max_num_seqs=SLOTS, kv_cache_gib=0.1)
    times: dict[str, list[float]] = {"rollouts alone": [], "then the judge": [], "streamed": []}
    with judge_server(args.seconds) as url, Verifier() as verifier:
        judge = GenPRM(HTTPEngine("slow", [url], max_concurrency=AT_ONCE), k=1, vote="union", early_stop=False)
        list(stream_rollouts(engine, verifier, draws_of(build_tokenizer(), 0)[:GROUP]))  # warm-up
        for round_ in range(args.rounds):
            for name in times:
                batch = StepBatch([], round_)
                started = time.perf_counter()
                batch.set_rollouts(stream_rollouts(engine, verifier, draws_of(build_tokenizer(), round_)))
                rollouts: Iterator[Rollout] = batch.stream_rollouts()
                if name != "streamed":
                    rollouts = iter(batch.require_rollouts())
                if name != "rollouts alone":
                    batch.set_verdicts(judge.judge(rollouts, round_))
                times[name].append(time.perf_counter() - started)
    median = {name: statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        print(f"{name:16s} {median[name]:6.2f} s   (of {', '.join(f'{value:.2f}' for value in values)})")
    exposed = median["then the judge"] - median["rollouts alone"]
    hidden = (median["then the judge"] - median["streamed"]) / exposed
    print(f"judge's time after the rollouts {exposed:.2f} s, of which streaming hides {hidden:.0%}")


if __name__ == "__main__":
    main()
