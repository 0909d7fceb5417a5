"""What several of these scripts need: a slow judge, and rollouts to ask for. Run as files, they find it beside them."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from transformers import PreTrainedTokenizerBase

from capo_lit.arithmetic.task import ArithmeticSource
from capo_lit.batch.facts import Prompt
from capo_lit.batch.sampling import Sampling
from capo_lit.training.rollouts import PlannedRollout

PROBLEMS, GROUP = 8, 8


@contextmanager
def judge_server(seconds: float) -> Iterator[str]:
    """A chat-completions server that says "nothing wrong" after `seconds`, to as many at once as ask."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(seconds)
            choice = {"index": 0, "message": {"role": "assistant", "content": "\\boxed{none}"}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            body = {"id": "x", "object": "chat.completion", "created": 0, "model": "slow"}
            data = json.dumps({**body, "choices": [choice], "usage": usage}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Nothing: a line per request would be part of what is measured."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 1024  # all requests may come at once
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()


def planned_rollouts(tokenizer: PreTrainedTokenizerBase, max_tokens: int, seed: int) -> list[PlannedRollout]:
    """GROUP rollouts of each of PROBLEMS arithmetic problems."""
    planned = []
    for group, problem in enumerate(ArithmeticSource(size=PROBLEMS).load()):
        prompt = Prompt(problem.uid, problem.problem, tuple(tokenizer.encode(problem.problem)), problem.answer)
        for sample in range(GROUP):
            row, sampling = group * GROUP + sample, Sampling(max_tokens=max_tokens)
            planned.append(PlannedRollout(row, group, sample, prompt, sampling, seed * 1000 + row))
    return planned
