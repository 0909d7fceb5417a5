"""A server on loopback with the routes of vLLM's that rollouts need, whose every failure is scripted.

What it generates is a function of weights, prompt and seed, as a real one's in float32.
"""

import hashlib
import json
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from safetensors.torch import load_file

GENERATE = "/inference/v1/generate"
FAULTS = ("status 500", "cut", "hang", "garbage", "stale", "two versions", "aborted", "no logprobs")


class ScriptedRolloutServer:
    """Starts on entry and ends on exit; `stop` and `start` between them are a death and a new start.

    Args:
        delay_s: of a completion.
        settings: what /server_info shows differently from what is wanted.

    Attributes:
        faults: by route, what the next calls meet: one of FAULTS, or "status N".
        calls: routes in order of arrival, without queries.
        asked: bodies of requests to generate.
        tensors: what was loaded last, by name.
        most_running: requests that were computed at the same time.
    """

    def __init__(self, delay_s: float = 0.0, **settings: object) -> None:
        self.delay_s, self.settings = delay_s, settings
        self.faults: dict[str, deque[str]] = {}
        self.calls: list[str] = []
        self.asked: list[dict[str, Any]] = []
        self.closing, self.lock, self._port = Event(), Lock(), 0
        self.running = self.most_running = 0
        self._forget()

    def _forget(self) -> None:
        self.stamp, self.paused, self.updating = "default", False, False
        self.tensors: dict[str, Any] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> "ScriptedRolloutServer":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, on the port that it had before, with the weights of its first start."""
        self._forget()
        self.closing.clear()
        self._server = _Server(("127.0.0.1", self._port), _Handler)
        self._server.owner, self._port = self, self._server.server_address[1]
        Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening, and cut what is under way."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def fail(self, route: str, *faults: str) -> None:
        """Let the next calls to a route meet these faults."""
        self.faults.setdefault(route, deque()).extend(faults)

    def fate(self, route: str) -> str:
        """What the next call to a route meets."""
        with self.lock:
            self.calls.append(route)
            waiting = self.faults.get(route)
            return waiting.popleft() if waiting else "ok"

    def answer(self, route: str, query: dict[str, list[str]], body: dict[str, Any], fate: str) -> dict[str, Any]:
        """What a call is answered with; changes the server's state."""
        if route == GENERATE:
            return self._generate(body, fate)
        if route == "/server_info":
            model = {"logprobs_mode": "processed_logprobs", "dtype": "torch.float32", "max_model_len": 160}
            return {"vllm_config": {"model_config": model | self.settings, "weight_transfer_config": {"backend": "x"}}}
        if route == "/pause":
            self.paused = query == {"mode": ["abort"]}
        elif route == "/resume":
            self.paused = False
        elif route.endswith("_weight_update") or route == "/update_weights":
            self._update(route, body)
        return {"success": True, "weight_version": self.stamp, "is_paused": self.paused}

    def _update(self, route: str, body: dict[str, Any]) -> None:
        if route == "/start_weight_update":
            assert self.paused, "an update while requests may run kills a real server"
            if self.updating:
                raise RuntimeError("start_weight_update called while a weight update is already active")
            self.updating, self.tensors = True, {}
        elif route == "/update_weights":
            assert self.updating
            self.tensors |= load_file(body["update_info"]["path"])
        else:
            self.updating, self.stamp = False, body.get("weight_version", self.stamp)

    def _generate(self, body: dict[str, Any], fate: str) -> dict[str, Any]:
        with self.lock:
            self.asked.append(body)
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        time.sleep(self.delay_s)
        with self.lock:
            self.running -= 1
        params = body["sampling_params"]
        digest = hashlib.sha256(repr((body["token_ids"], params["seed"])).encode()).digest()
        ids = [3 + byte % 40 for byte in digest[: params["max_tokens"]]]
        content = [{"token_id": one, "logprob": -one / 10} for one in ids]
        spans = [{"version": self.stamp, "start": 0, "end": len(ids)}]
        if fate == "stale":
            spans[0]["version"] = "older"
        if fate == "two versions":
            spans = [{"version": "older", "start": 0, "end": 1}, {"version": self.stamp, "start": 1, "end": len(ids)}]
        choice = {
            "token_ids": ids,
            "finish_reason": "abort" if fate == "aborted" else "length",
            "logprobs": {"content": content[1:] if fate == "no logprobs" else content},
            "weight_versions": spans,
        }
        return {"choices": [choice], "usage": {"prompt_tokens": len(body["token_ids"])}}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    owner: ScriptedRolloutServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._reply({})

    def do_POST(self) -> None:
        self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}"))

    def _reply(self, body: dict[str, Any]) -> None:
        owner, parts = self.server.owner, urlsplit(self.path)
        fate = owner.fate(parts.path)
        if owner.closing.is_set() or fate == "cut":
            self.close_connection = True
            return
        if fate == "hang":
            owner.closing.wait(30.0)
            self.close_connection = True
            return
        status, content = 200, b"<html>no JSON</html>"
        if fate.startswith("status"):
            status, content = int(fate.split()[1]), b'{"error": "scripted"}'
        elif fate != "garbage":
            try:
                content = json.dumps(owner.answer(parts.path, parse_qs(parts.query), body, fate)).encode()
            except RuntimeError as error:
                status, content = 500, json.dumps({"error": str(error)}).encode()
        if owner.closing.is_set():
            self.close_connection = True
            return
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
