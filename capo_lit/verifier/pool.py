"""Outcomes by rule: right, wrong, or unknown; hostile answers are judged in processes that can be killed."""

import importlib.util
import math
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import TYPE_CHECKING

from capo_lit.core.errors import ConfigError, VerifierError
from capo_lit.verifier.answer import final_answer, gold_answer, is_oversized
from capo_lit.verifier.checks import comparable
from capo_lit.verifier.exact import compare_exact, is_settled
from capo_lit.verifier.normal import Form, normalise
from capo_lit.verifier.worker import WorkerContext, judge, start_worker

if TYPE_CHECKING:
    from pebble import ProcessPool

Outcome = float | None
Key = tuple[Form, Form]

_STALL_S = 60
"""A pool that settles nothing for this long beyond one deadline is stuck; starting workers takes a few seconds."""
_WATCH_S = 0.5
_POOL_ATTEMPTS = 3
_ANSWERS_PER_WORKER = 500
_REMEMBERED = 10_000


class Verifier:
    """Compares the final answer of a response with the gold answer.

    What counts as the answer is said at `final_answer`; a response without one is wrong. Both answers are brought to
    one spelling (`normalise`); equal texts and rational numbers are compared exactly in this process. What no
    comparison can read is wrong. Everything else goes to math-verify in worker processes, each with
    a memory limit; an answer that outlives its deadline is unknown, its worker is killed and replaced, and no other
    answer is touched. The same gold and answer are judged once. A batch with h different hostile answers takes at
    most about h / workers * (timeout_s + 2) seconds.

    Args:
        timeout_s: deadline of one answer, seconds; counts from when a worker takes it up.
        workers: worker processes; they start when the first answer needs them.

    Raises:
        ConfigError: if a number is not positive.
        VerifierError: if math-verify is not installed.
    """

    def __init__(self, timeout_s: float = 5.0, workers: int = 2) -> None:
        for name, value in (("timeout_s", timeout_s), ("workers", workers)):
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} {value}", "a finite number > 0", "Verifier", f"verifier.{name}")
        if importlib.util.find_spec("math_verify") is None:
            raise VerifierError("no module math_verify", "it to be installed", change="pip install capo_lit")
        self.timeout_s, self.workers = timeout_s, workers
        self.counters: Counter[str] = Counter()
        """Answers so far by how they ended: exact, math, no_answer, oversized, unreadable; and the unknown ones:
        timeout, memory, crash, lost."""
        self._lock = threading.RLock()
        self._pool: ProcessPool | None = None
        self._progress = time.monotonic()
        self._tasks: dict[Key, Future[bool]] = {}  # in flight, all in the present pool
        self._known: OrderedDict[Key, bool] = OrderedDict()  # what is unknown is not remembered

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[Outcome]:
        """Outcome of every pair, in order.

        Args:
            pairs: (gold answer, response text).

        Returns:
            1.0 right, 0.0 wrong, None unknown.

        Raises:
            VerifierError: if the workers cannot be started.
        """
        futures = [self.submit(gold, response) for gold, response in pairs]
        return [future.result() for future in futures]

    def submit(self, gold: str, response: str) -> "Future[Outcome]":
        """Judge one response in the background; the future holds its outcome.

        The future is done at once if no worker is needed, and in any case in bounded time. It cannot be cancelled.

        Raises:
            VerifierError: if the workers cannot be started.
        """
        out: Future[Outcome] = Future()
        out.set_running_or_notify_cancel()
        gold = gold_answer(gold)
        answer = final_answer(response)
        if answer is None:
            return self._settle(out, 0.0, "no_answer")
        if is_oversized(answer) or is_oversized(gold):
            return self._settle(out, float(answer.strip() == gold), "oversized")
        equal = compare_exact(gold, answer)
        if equal is not None:
            return self._settle(out, float(equal), "exact")
        key = normalise(gold), normalise(answer)
        if not comparable(key[0].text, key[1].text):
            return self._settle(out, 0.0, "unreadable")
        self._ask(key, out, 1)
        return out

    def text_only(self, golds: Iterable[str]) -> list[str]:
        """The gold answers among `golds` that no algebra can be done with, such as 1/0 or 1, 2, ..., n.

        A response is right by them only if it gives the same text or number. Golds that are numbers or words are not
        among them, and cost nothing; the others are compared with themselves by the workers.
        """
        asked: dict[str, Future[Outcome] | None] = {}
        for gold in dict.fromkeys(golds):
            answer = gold_answer(gold)
            form = normalise("" if is_oversized(answer) else answer)
            if is_settled(form):
                continue
            asked[gold] = None
            if comparable(form.text, form.text):
                out: Future[Outcome] = Future()
                self._ask((form, form), out, 1)
                asked[gold] = out
        return [gold for gold, done in asked.items() if done is None or done.result() != 1.0]

    def close(self) -> None:
        """End the workers; what is still in flight becomes unknown. A later submit starts new workers."""
        self._drop(self._pool, None)

    def __enter__(self) -> "Verifier":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _settle(self, out: "Future[Outcome]", outcome: Outcome, cause: str) -> "Future[Outcome]":
        with self._lock:
            self.counters[cause] += 1
        out.set_result(outcome)
        return out

    def _ask(self, key: Key, out: "Future[Outcome]", attempt: int) -> None:
        with self._lock:
            known = self._known.get(key)
            task = self._tasks.get(key) if known is None else None
            if known is None and task is None:
                task = self._tasks[key] = self._schedule(key)
        # Outside the lock, for a task that is done already runs the callback here.
        if task is None:
            self._settle(out, float(bool(known)), "math")
        else:
            task.add_done_callback(lambda done: self._finish(key, out, attempt, done))

    def _schedule(self, key: Key) -> "Future[bool]":
        backstop_s = math.ceil(2 * self.timeout_s) + 1
        for _ in range(_POOL_ATTEMPTS):
            pool = self._pool or self._start()
            if not self._tasks:
                self._progress = time.monotonic()
            try:
                return pool.schedule(judge, args=(*key, backstop_s), timeout=self.timeout_s)
            except RuntimeError:  # the pool broke, and the watch has not seen it yet
                self._drop(pool, BrokenProcessPool())
        raise VerifierError("a worker pool that breaks when it starts", "workers that start", "Verifier")

    def _start(self) -> "ProcessPool":
        from pebble import ProcessPool

        self._pool = ProcessPool(
            max_workers=self.workers,
            max_tasks=_ANSWERS_PER_WORKER,
            initializer=start_worker,
            context=WorkerContext(),
        )
        threading.Thread(target=self._watch, args=(self._pool,), name="verifier-watch", daemon=True).start()
        return self._pool

    def _watch(self, pool: "ProcessPool") -> None:
        """See to it that no future waits for ever.

        A pool whose idle workers were killed from outside (out of memory) breaks and forgets the tasks it had not
        handed out; one whose worker died with the channel's lock in hand stands still.
        """
        while self._pool is pool:
            if not pool.active:
                self._drop(pool, BrokenProcessPool())
            elif self._tasks and time.monotonic() - self._progress > self.timeout_s + _STALL_S:
                self._drop(pool, None)
            time.sleep(_WATCH_S)

    def _drop(self, pool: "ProcessPool | None", reason: Exception | None) -> None:
        """Give up a pool; its tasks end with `reason`, or cancelled without one."""
        with self._lock:
            if pool is None or self._pool is not pool:
                return
            self._pool, tasks, self._tasks = None, list(self._tasks.values()), {}
        if reason is None:  # first, since a pool that stops breaks what it has in hand, and that would be asked again
            for task in tasks:
                task.cancel()
        pool.stop()  # type: ignore[no-untyped-call]
        # A pool cannot be joined in one of its own threads, where a retry may have brought us.
        joiner = threading.Thread(target=_bury, args=(pool, tasks, reason), name="verifier-join", daemon=True)
        joiner.start()
        if reason is None:
            joiner.join()

    def _finish(self, key: Key, out: "Future[Outcome]", attempt: int, done: "Future[bool]") -> None:
        error = CancelledError() if done.cancelled() else done.exception()
        with self._lock:
            self._progress = time.monotonic()
            if self._tasks.get(key) is done:
                del self._tasks[key]
            if error is None:
                self._known[key] = done.result()
                while len(self._known) > _REMEMBERED:
                    self._known.popitem(last=False)
        if error is None:
            self._settle(out, float(done.result()), "math")
        elif not isinstance(error, BrokenProcessPool):
            self._settle(out, None, _cause(error))
        else:  # no fault of this answer
            self._retry(key, out, attempt)

    def _retry(self, key: Key, out: "Future[Outcome]", attempt: int) -> None:
        try:
            if attempt == _POOL_ATTEMPTS:
                raise VerifierError(f"a worker pool that broke {attempt} times", "workers that run", "Verifier")
            self._ask(key, out, attempt + 1)
        except VerifierError as error:
            out.set_exception(error)


def _bury(pool: "ProcessPool", tasks: "list[Future[bool]]", reason: Exception | None) -> None:
    pool.join()
    for task in tasks:  # what the pool had not settled when it stopped, nobody else will
        if not task.done():
            task.set_exception(reason)


def _cause(error: BaseException) -> str:
    causes = {TimeoutError: "timeout", MemoryError: "memory", CancelledError: "lost"}
    return next((cause for kind, cause in causes.items() if isinstance(error, kind)), "crash")
