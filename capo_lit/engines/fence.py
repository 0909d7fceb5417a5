"""Keep an engine in this process from changing what the trainer beside it sees."""

import os
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# vLLM sets these for worker processes of its own. Ours (verifiers, data loaders) must not inherit them: a preloaded
# OpenMP runtime, a changed library path, a local world size that is not the trainer's.
_ENVIRONMENT = ("LD_PRELOAD", "LD_LIBRARY_PATH", "LOCAL_WORLD_SIZE", "OMP_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS")


@contextmanager
def random_fence() -> Iterator[None]:
    """Give the global random states of python, numpy and torch back as they were."""
    # Only where numpy is loaded is there a state to keep.
    numpy = sys.modules.get("numpy")
    python, cpu = random.getstate(), torch.get_rng_state()
    array = numpy.random.get_state() if numpy else None
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(python)
        torch.set_rng_state(cpu)
        if numpy and array is not None:
            numpy.random.set_state(array)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)


@contextmanager
def process_fence() -> Iterator[None]:
    """Give random states, threads, CPU affinity and environment back as they were before an engine started.

    vLLM on CPU replaces torch.set_num_threads by a function that does nothing, and lowers the thread count on the way;
    a second engine would leave the trainer with one thread.
    """
    set_num_threads, threads = torch.set_num_threads, torch.get_num_threads()
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    environment = {name: os.environ.get(name) for name in _ENVIRONMENT}
    dtype = torch.get_default_dtype()
    try:
        with random_fence(), warnings.catch_warnings():
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
