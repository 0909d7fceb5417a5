"""Two real processes over gloo, each with some of the groups, take the same optimizer steps as one with all."""

import os
from itertools import product
from pathlib import Path

import pytest
import torch

from tests.support.builders import tiny_llama
from tests.support.invariance import HOWS, TOLERANCE, WHOLE, Groups, distance, fit, forget, make_batch, make_groups
from tests.support.ranks import run_two

pytestmark = pytest.mark.slow


def long_and_short() -> tuple[Groups, Groups]:
    """Few tokens on one rank, many on the other."""
    return make_groups(2, seed=1, longest=4), make_groups(2, seed=2, longest=40)


def even() -> tuple[Groups, Groups]:
    groups = make_groups(4)
    return groups[:2], groups[2:]


def one_knows_nothing() -> tuple[Groups, Groups]:
    groups = make_groups(4)
    return groups[:2], forget(groups[2:])


def three_to_one() -> tuple[Groups, Groups]:
    groups = make_groups(4)
    return groups[:3], groups[3:]


HALVES = {case.__name__: case for case in (even, long_and_short, one_knows_nothing, three_to_one)}
BUDGETS = (WHOLE, 50)  # one micro-batch on each rank; many, of different number on the two


CASES = list(product(HALVES, HOWS, BUDGETS))
# Every half with both budgets, and every kind of loss where ranks differ most; the others at night.
FEW = [case for case in CASES if case[1] == "token" or case[::2] == ("long_and_short", 50)]
OTHERS = [case for case in CASES if case not in FEW]


def worker(rank: int, port: int, policy: str, folder: str, cases: list[tuple[str, str, int]]) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "LOCAL_RANK": str(rank)}
    results = {}
    for name, how, budget in cases:
        batch = make_batch(HALVES[name]()[rank])
        module = fit(policy, batch, how, budget, devices=2, strategy="ddp")
        results[name, how, budget] = (module.gradients, module.weights(), module.backwards)
    torch.save(results, Path(folder) / f"{rank}.pt")


def on_two_ranks(folder, cases):
    """What each rank got in each case, and the policy they started from."""
    tiny_llama(folder / "policy", initializer_range=0.1)
    run_two(worker, str(folder / "policy"), str(folder), cases)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)], str(folder / "policy")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return on_two_ranks(tmp_path_factory.mktemp("ranks"), FEW)


def assert_one(both, name, how, budget):
    """Gradients of the first update and weights after two are those of one process; the ranks' weights are equal."""
    ranks, policy = both
    halves = HALVES[name]()
    alone = fit(policy, make_batch([*halves[0], *halves[1]]), how)
    for rank in ranks:
        gradients, weights, _ = rank[name, how, budget]
        assert distance(gradients[0], alone.gradients[0]) < TOLERANCE
        assert distance(weights, alone.weights()) < TOLERANCE
    assert torch.equal(ranks[0][name, how, budget][1], ranks[1][name, how, budget][1])


@pytest.mark.parametrize(("name", "how", "budget"), FEW)
def test_two_processes_are_one(both, name, how, budget):
    assert_one(both, name, how, budget)


@pytest.mark.nightly
def test_two_processes_are_one_in_every_other_case(tmp_path):
    both = on_two_ranks(tmp_path, OTHERS)
    for case in OTHERS:
        assert_one(both, *case)


def test_the_cases_are_what_they_say(both):
    ranks, _ = both
    backwards = [[rank[name, "token", 50][2] for rank in ranks] for name in ("even", "long_and_short", "three_to_one")]
    assert all(one != two for one, two in backwards[1:])
    tokens = [sum(len(row.ids) for group in half for row in group) for half in long_and_short()]
    assert 4 * tokens[0] < tokens[1]
    # Gradients that each rank normalised by its own tokens, and DDP averaged, would be others.
    assert all(rank["one_knows_nothing", "token", WHOLE][0][0].norm() > 0.01 for rank in ranks)
