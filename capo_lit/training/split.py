"""How long a step takes on more GPUs, and how to share them out, from the times that a run logged.

Sampling costs so much for each position of the longest response (its tokens come one after another, whatever the number
of GPUs) and so much for each token; judge and update cost in proportion to the tokens. A run whose responses are all of
one length cannot tell the two apart: then a GPU, which reads all weights for every position, is taken to pay by
position, and a CPU, which computes for as long as it reads, by token. What GPUs say to each other is left out, so that
the figures are bounds of what many of them reach.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from scipy.optimize import nnls

from capo_lit.core.errors import DataError
from capo_lit.records.curves import Curve

_NEEDED = ("rollout/tokens", "rollout/length_max", "time/rollout_s", "time/update_s", "time/step_s")
_WARM = 2  # first steps that engines and kernels warm up in
_LEAST = 3  # steps after them
_APART = 0.05  # relative spread of the tokens for each position from which on the two costs can be told apart


@dataclass(frozen=True)
class Rates:
    """What a run took for a step, in seconds, on the GPUs (or processes) that it had.

    Args:
        processes: that shared the work.
        rollouts: of a step.
        decode: of sampling, whatever the number of responses.
        sample: of sampling, in proportion to the responses.
        judge: waiting for critiques after the last rollout.
        update: forward, backward and optimizer.
        push: weights into the engine.
        other: the rest of the step: records, credit, checkpoints.
    """

    processes: int
    rollouts: int
    decode: float
    sample: float
    judge: float
    update: float
    push: float
    other: float


@dataclass(frozen=True)
class Split:
    """Who does what.

    Args:
        trainers: GPUs that train.
        servers: GPUs that only sample; 0 if the trainers sample too.
        ahead: the next batch is sampled while this one is trained (rollout.ahead 1).
    """

    trainers: int
    servers: int = 0
    ahead: bool = False


def measured_rates(curves: Mapping[str, Curve], processes: int, rollouts: int, gpu: bool, where: Path) -> Rates:
    """Rates of a run.

    Args:
        curves: what it logged, by metric and step.
        processes: that it ran in.
        rollouts: of a step, in all of them.
        gpu: it ran on GPUs.
        where: the run, for the error.

    Raises:
        DataError: if it logged too few steps, or not what is needed.
    """
    missing = [name for name in _NEEDED if name not in curves]
    if missing:
        raise DataError(f"no {', '.join(missing)}", "the log of a run of CapoModule", str(where), "--split")
    steps = sorted(set.intersection(*(set(curves[name]) for name in _NEEDED)))[_WARM:]
    if len(steps) < _LEAST:
        expected = f"at least {_WARM + _LEAST}: the first {_WARM} warm up"
        raise DataError(f"{len(steps) + _WARM} steps or fewer", expected, str(where), "--split")

    def column(name: str) -> list[float]:
        return [curves.get(name, {}).get(step, 0.0) for step in steps]

    longest, tokens, seconds = (column(name) for name in ("rollout/length_max", "rollout/tokens", "time/rollout_s"))
    costs = np.array([longest, tokens]).T
    width = costs[:, 1] / costs[:, 0]
    if width.std() < _APART * width.mean():
        costs[:, 1 if gpu else 0] = 0
    per_position, per_token = nnls(costs, np.array(seconds))[0]
    judge, update, push = (median(column(f"time/{name}_s")) for name in ("critique", "update", "sync"))
    return Rates(
        processes=processes,
        rollouts=rollouts,
        decode=float(per_position) * median(longest),
        sample=float(per_token) * median(tokens),
        judge=judge,
        update=update,
        push=push,
        other=max(0.0, median(column("time/step_s")) - median(seconds) - judge - update - push),
    )


def step_seconds(rates: Rates, split: Split, rollouts: float, judge_beside: bool) -> float:
    """Seconds of one step.

    Args:
        rates: measured.
        split: of the GPUs.
        rollouts: of a step.
        judge_beside: the judge runs on machines of its own, which stay as they are.
    """
    more = rollouts / rates.rollouts
    sampling = more * rates.processes / (split.servers or split.trainers)
    gather = rates.decode + rates.sample * sampling + rates.judge * (more if judge_beside else sampling)
    train = rates.update * more * rates.processes / split.trainers + rates.other * more
    return rates.push + (max(gather, train) if split.ahead else gather + train)


def splits(gpus: int) -> Iterator[Split]:
    """All ways to share out some GPUs: all do everything, or some only sample, one after the other or overlapped."""
    yield Split(gpus)
    for servers in range(1, gpus):
        yield Split(gpus - servers, servers)
        yield Split(gpus - servers, servers, ahead=True)
