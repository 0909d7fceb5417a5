"""A real HTTP server on loopback that speaks chat completions, and misbehaves by a seeded script.

with MisbehavingServer(mix={"status 500": 0.1, "hang": 0.1}, seed=3) as server:
    HTTPEngine("judge", [server.url])

What an attempt meets depends on the seed, the request's body and how often that body has come, not on timing.
"""

import json
import random
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Any, Literal, get_args

Fault = Literal["status 500", "status 429", "hang", "cut", "empty", "truncated", "garbage"]
FAULTS: tuple[Fault, ...] = get_args(Fault)
EVEN_30: dict[str, float] = {fault: 0.3 / len(FAULTS) for fault in FAULTS}
"""30 % of the replies are faults, all kinds alike."""

_POLL_S = 0.01


class MisbehavingServer:
    """Starts on entry, ends on exit, both without a wait.

    Args:
        mix: share of each fault among the replies; the rest are right. "status N" is any status.
        reply: the content of a right reply, from the request's body; or its whole choice, as a dict.
        script: faults ("ok" for none) in order of arrival, instead of the mix; right replies after its end.
        seed: of the mix.
        delay_s: of a right reply.
        retry_after: header of replies with status 429.

    Attributes:
        replies: how often each fault, and "ok", was chosen.
        bodies: of all requests, in order of arrival.
        headers: of all requests; `paths` too, with their queries.
        arrivals: time.monotonic() of every request.
        connections: TCP connections accepted; `open_connections` of them not closed yet.
        disconnects: requests whose client was gone before the reply.
        running: requests under way; `most_running` at the same time.
    """

    def __init__(
        self,
        mix: Mapping[str, float] | None = None,
        reply: Callable[[dict[str, Any]], str | dict[str, Any]] = lambda body: "\\boxed{none}",
        script: tuple[str, ...] = (),
        seed: int = 0,
        delay_s: float = 0.0,
        retry_after: str = "0.05",
    ) -> None:
        self.mix, self.reply, self.script, self.seed = dict(mix or {}), reply, script, seed
        self.delay_s, self.retry_after = delay_s, retry_after
        self.replies: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.arrivals: list[float] = []
        self.connections = self.open_connections = self.disconnects = self.running = self.most_running = 0
        self.closing, self._lock, self._seen = Event(), Lock(), Counter[bytes]()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> "MisbehavingServer":
        Thread(target=self._server.serve_forever, args=(_POLL_S,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def arrive(self, raw: bytes, path: str, headers: dict[str, str]) -> tuple[dict[str, Any], str]:
        """Count a request; its body, and what becomes of it."""
        body = json.loads(raw)
        with self._lock:
            place, self._seen[raw] = len(self.bodies), self._seen[raw] + 1
            self.bodies.append(body)
            self.headers.append(headers)
            self.paths.append(path)
            self.arrivals.append(time.monotonic())
            self.running += 1
            self.most_running = max(self.most_running, self.running)
            fate = self._fate(place, raw)
            self.replies[fate] += 1
        return body, fate

    def leave(self, disconnected: bool) -> None:
        """Count the end of a request."""
        with self._lock:
            self.running -= 1
            self.disconnects += disconnected

    def _fate(self, place: int, raw: bytes) -> str:
        if self.script:
            return self.script[place] if place < len(self.script) else "ok"
        drawn = random.Random(f"{self.seed} {self._seen[raw]} {raw!r}").random()
        for fault, share in self.mix.items():
            if drawn < share:
                return fault
            drawn -= share
        return "ok"


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    owner: MisbehavingServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: tests read the counters."""

    def setup(self) -> None:
        super().setup()
        with self.server.owner._lock:
            self.server.owner.connections += 1
            self.server.owner.open_connections += 1

    def finish(self) -> None:
        super().finish()
        with self.server.owner._lock:
            self.server.owner.open_connections -= 1

    def do_POST(self) -> None:
        owner, gone = self.server.owner, False
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        body, fate = owner.arrive(raw, self.path, {name.lower(): value for name, value in self.headers.items()})
        try:
            gone = self._gone_within(60.0 if fate == "hang" else owner.delay_s if fate == "ok" else 0.0)
            if fate in ("hang", "cut"):
                self._cut(fate)
            elif not gone:
                self._respond(fate, owner.reply(body))
        finally:
            owner.leave(gone)

    def _gone_within(self, seconds: float) -> bool:
        """Wait; whether the client closed the connection meanwhile."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self.server.owner.closing.is_set():
            readable, _, _ = select.select([self.connection], [], [], min(left, _POLL_S))
            if readable and not self._peek():
                return True
        return False

    def _peek(self) -> bytes:
        try:
            return self.connection.recv(1, socket.MSG_PEEK)
        except ConnectionError:
            return b""

    def _cut(self, fate: str) -> None:
        if fate == "cut":  # in the middle of the body
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{")
        self.close_connection = True

    def _respond(self, fate: str, reply: str | dict[str, Any]) -> None:
        status = int(fate.split()[1]) if fate.startswith("status") else 200
        whole = {**completion(""), "choices": [reply]} if isinstance(reply, dict) else completion(reply)
        right = json.dumps(whole).encode()
        bodies = {"empty": b"", "truncated": right[: len(right) // 2], "garbage": b"\xff\xfe<html>[[[{" + right[:9]}
        # As careless as some servers are: the error quotes the key.
        refusal = json.dumps({"error": {"message": f"scripted; you sent {self.headers['Authorization']}"}}).encode()
        content = right if fate == "ok" else bodies.get(fate, refusal)
        head = f"HTTP/1.1 {status} Scripted\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        if status == 429:
            head += f"Retry-After: {self.server.owner.retry_after}\r\n"
        self.wfile.write(head.encode() + b"\r\n" + content)


def completion(text: str, finish_reason: str | None = "stop", prompt_tokens: int = 11) -> dict[str, Any]:
    """A chat completion of one token per word."""
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": len(text.split())}
    usage |= {"total_tokens": usage["prompt_tokens"] + usage["completion_tokens"]}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
