"""What runs in the verifier's worker processes: math-verify under a memory limit, in a process that may be killed."""

import contextlib
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing import context, spawn
from typing import Any

from capo_lit.verifier.checks import agrees, same_complex
from capo_lit.verifier.normal import Form, normalise

# Address space of one answer beyond what the warm worker uses, bytes: far more than any answer of sense needs.
_MEMORY = 1 << 30
_starting = threading.local()
_prepare: Callable[[str], dict[str, Any]] = spawn.get_preparation_data


def _prepare_without_main(name: str) -> dict[str, Any]:
    data = _prepare(name)
    if getattr(_starting, "worker", False):
        data.pop("init_main_from_name", None)
        data.pop("init_main_from_path", None)
    return data


class _WorkerProcess(context.SpawnProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802  (the standard library's name)
        _starting.worker = True
        try:
            return context.SpawnProcess._Popen(process_obj)
        finally:
            _starting.worker = False


class WorkerContext(context.SpawnContext):
    """Spawned processes that do not import the caller's main module.

    An ordinary spawned process runs the main script again. A worker needs nothing from it, and without this a script
    with no `if __name__ == "__main__"` guard, or read from standard input, could not use the verifier; a training
    script would import torch in every worker.
    """

    Process = _WorkerProcess

    def __init__(self) -> None:
        super().__init__()
        spawn.get_preparation_data = _prepare_without_main


def start_worker() -> None:
    """Import math-verify, do one comparison to warm it up, then limit the memory that answers may take."""
    # The pool's own handler runs between two bytecodes, so never inside one big power: let the kernel end the process.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    # Parsers write their complaints about bad LaTeX to the terminal of the training run.
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    compare(normalise(r"\frac{1}{2}+x"), normalise(r"x+\frac{2}{4}"))
    _limit_memory()


def judge(gold: Form, answer: Form, backstop_s: int) -> bool:
    """Compare under a backstop: the kernel ends this process after `backstop_s` even if its parent is gone.

    Args:
        gold: the gold answer.
        answer: the final answer of the response.
        backstop_s: seconds, longer than the deadline that the parent keeps.

    Raises:
        MemoryError: if the comparison needs more memory than it may take.
    """
    signal.alarm(backstop_s)
    try:
        return compare(gold, answer)
    finally:
        signal.alarm(0)


def compare(gold: Form, answer: Form) -> bool:
    """Whether math-verify finds the two equal; a text that it cannot read or compare equals nothing."""
    left, right = gold.text, answer.text
    if _equal(left, right):
        return True
    # Beside a number without one, a percent sign may mean hundredths.
    if gold.unit == "%" and not answer.unit:
        return _equal(rf"\frac{{{left}}}{{100}}", right)
    if answer.unit == "%" and not gold.unit:
        return _equal(left, rf"\frac{{{right}}}{{100}}")
    return False


def _equal(gold: str, answer: str) -> bool:
    from math_verify import verify

    try:
        left, right = _parse(gold), _parse(answer)
        # Its own timeouts are off (they use signal.alarm, and cannot end one big power): the pool's deadline counts.
        same = verify(left, right, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True)
        return bool(same and agrees(left, right)) or same_complex(left, right)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  (whatever parsers and sympy raise on hostile text means: not comparable)
        return False


def _parse(text: str) -> Any:
    """The expression in a text; raises if math-verify cannot read all of it."""
    from sympy import FiniteSet, Intersection, Union

    if "\\pm" in text and "," not in text:
        text = re.sub(r"^[A-Za-z]\s*=\s*", "", text)
        return FiniteSet(*(_parse_one(text.replace("\\pm", sign)) for sign in "+-"))
    for word, join in ((" or ", Union), (" and ", Intersection)):
        if word in text:  # x < 2 or x > 3
            return join(*(_parse_one(part).as_set() for part in text.split(word)))
    return _parse_one(text)


def _parse_one(text: str) -> Any:
    from latex2sympy2_extended.latex2sympy2 import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse

    # The box alone, and no number inside it where the whole cannot be read. Units are ours to take off: math-verify
    # would take the m of 2m for one.
    spelling = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all", equations=False
    )
    config = [LatexExtractionConfig(False, 0, spelling)]
    boxed = "\\boxed{" + text + "}"
    found = parse(boxed, config, fallback_mode="no_fallback", parsing_timeout=None, raise_on_error=True)
    if not found:
        raise ValueError(f"unreadable: {text}")
    return found[0]


def _limit_memory() -> None:
    if sys.platform != "linux":  # elsewhere the limit is not kept by the kernel; the deadline still is
        return
    import resource

    import psutil

    limit = psutil.Process().memory_info().vms + _MEMORY
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    with contextlib.suppress(ValueError):  # a stricter limit is already in force
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
