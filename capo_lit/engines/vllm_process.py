"""What engines share with the process they run in, and leave as it was: random states, threads, groups, weights."""

import os
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from vllm import LLM

# Shutting one engine down tears down the process groups that all of them use, and so would its collection as garbage:
# every engine is held here until it is closed, and only the last one to close takes the groups with it.
_OPEN: "list[LLM]" = []


class _Groups:
    """Whether torch.distributed's groups were there before the first engine, and so belong to the trainer."""

    borrowed = False


def prepare() -> None:
    """Note whose process groups those are that the next engine will find."""
    if not _OPEN:
        _Groups.borrowed = torch.distributed.is_available() and torch.distributed.is_initialized()


def may_sleep() -> bool:
    """Whether the next engine may give its memory back: vLLM's allocator for that serves one engine of a process."""
    return not any(llm.llm_engine.model_config.enable_sleep_mode for llm in _OPEN)


def launcher() -> dict[str, str]:
    """What makes an engine of a data-parallel process one of its own, on the process's own device.

    Sets RANK and LOCAL_RANK, which vLLM reads and Lightning's launcher does not set, or not both; within
    `process_kept` they are taken back.

    Returns:
        Arguments of LLM; none in a process that is alone.
    """
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    # A group of vLLM's own has one member.
    if not distributed or torch.distributed.get_world_size() == 1:
        return {}
    rank = torch.distributed.get_rank()
    os.environ["RANK"] = str(rank)
    if torch.cuda.is_available():
        # The trainer's device, which with --trainer.devices 2,3 is not the one of the local rank's number.
        os.environ["LOCAL_RANK"] = str(torch.cuda.current_device())
    else:
        os.environ.setdefault("LOCAL_RANK", str(rank))
    return {"distributed_executor_backend": "external_launcher"}


def keep(llm: "LLM") -> None:
    """Hold an engine until `release`."""
    _OPEN.append(llm)


def release(llm: "LLM") -> None:
    """Free an engine's weights and cache; with the last engine, the process groups that vLLM made as well."""
    _OPEN.remove(llm)
    client: Any = llm.llm_engine.engine_core
    if _OPEN or _Groups.borrowed:
        client._finalizer.detach()
        client.engine_core.model_executor.shutdown()
    else:
        client.shutdown()


def repack(model: torch.nn.Module) -> None:
    """Build the packed copy of every CPU weight that was kept beside it anew.

    Layers whose weight lives in the packed copy alone are packed again by the reload itself. A tied lm_head is not: no
    tensor is loaded under its name, so without this it goes on answering with the old weights, silently.
    """
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    for layer in model.modules():
        weight = getattr(layer, "weight", None)
        if hasattr(layer, "cpu_linear") and isinstance(weight, torch.Tensor) and weight.numel():
            dispatch_cpu_unquantized_gemm(layer, remove_weight=False)


# vLLM sets these for worker processes of its own. Ours (verifiers, data loaders) must not inherit them: a preloaded
# OpenMP runtime, a changed library path, a local world size that is not the trainer's.
_ENVIRONMENT = (
    "LD_PRELOAD", "LD_LIBRARY_PATH", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS",
    "RANK", "LOCAL_RANK",  # set by `launcher`
)  # fmt: skip


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Give the global random states of python, numpy and torch back as they were."""
    # Only where numpy is loaded is there a state to keep.
    numpy = sys.modules.get("numpy")
    python, cpu = random.getstate(), torch.get_rng_state()
    array = numpy.random.get_state() if numpy else None
    # Of the current device: an engine touches no other, and there may be eight.
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(python)
        torch.set_rng_state(cpu)
        if numpy and array is not None:
            numpy.random.set_state(array)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda)


@contextmanager
def process_kept() -> Iterator[None]:
    """Give random states, threads, CPU affinity and environment back as they were before an engine started.

    vLLM on CPU replaces torch.set_num_threads by a function that does nothing, and lowers the thread count on the way;
    a second engine would leave the trainer with one thread.
    """
    set_num_threads, threads = torch.set_num_threads, torch.get_num_threads()
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    environment = {name: os.environ.get(name) for name in _ENVIRONMENT}
    dtype = torch.get_default_dtype()
    try:
        with random_state_kept(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        torch.set_num_threads = set_num_threads
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        if affinity is not None:
            os.sched_setaffinity(0, affinity)
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
