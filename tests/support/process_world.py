"""What an engine in this process must leave alone."""

import os
import random

import numpy
import torch


def world() -> dict[str, object]:
    """Threads, environment and random states, to be compared before and after."""
    return {
        "threads": torch.get_num_threads(),
        "set_num_threads": torch.set_num_threads,
        "affinity": os.sched_getaffinity(0),
        "preload": os.environ.get("LD_PRELOAD"),
        "world_size": os.environ.get("LOCAL_WORLD_SIZE"),
        "torch": torch.get_rng_state().tolist(),
        "python": random.getstate(),
        "numpy": numpy.random.get_state()[1].tolist(),
        "dtype": torch.get_default_dtype(),
    }
