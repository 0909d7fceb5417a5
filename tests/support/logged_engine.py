"""An engine for `capo critique` by class_path: replies that stand in the problem, and a log of what was asked."""

import os
import re
import time
from pathlib import Path

from capo_lit.core.errors import EngineError
from capo_lit.engines.base import Request
from tests.support.scripted_engine import Scripted, ScriptedEngine


class LoggedEngine(ScriptedEngine):
    """Answers a problem that says "p3 replies a;b;c" with \\boxed{a}, \\boxed{b}, \\boxed{c}, by number of critique.

    LOGGED_ENGINE_DELAY_S in the environment is how long each request takes to submit, seconds.

    Args:
        log: file to which the problem's name is appended for every request.
        down: every request fails.
        max_num_seqs: unused; a setting that does not change what is said.
    """

    def __init__(self, log: str, down: bool = False, max_num_seqs: int = 8) -> None:
        super().__init__(self._reply)
        self.log, self.down = Path(log), down

    def submit(self, request: Request):
        time.sleep(float(os.environ.get("LOGGED_ENGINE_DELAY_S", "0")))
        return super().submit(request)

    def _reply(self, request: Request) -> Scripted:
        name, replies = re.search(r"(\w+) replies (\S+)", request.prompt[0]["content"]).groups()
        with self.log.open("a") as file:
            file.write(name + "\n")
        if self.down:
            return EngineError("no server", "a server")
        several = replies.split(";")
        number = int(request.request_id.rsplit("-", 1)[1])
        return f"\\boxed{{{several[number % len(several)]}}}"
