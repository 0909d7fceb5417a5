"""Two real processes over gloo, each with some of the groups, take the same optimizer steps as one with all: with a
whole policy each (DDP), and with a policy in shards (FSDP2)."""

import os
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from capo_lit.core.errors import BatchError
from tests.support.builders import tiny_llama
from tests.support.invariance import HOWS, TOLERANCE, WHOLE, Groups, distance, fit, forget, make_batch, make_groups
from tests.support.ranks import run_two
from tests.support.sharded import MODES, sharded, trained

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
# Many micro-batches, of different number on the two ranks where rows are long and short; and one on each.
SHARDED = [("long_and_short", "token", 50), ("one_knows_nothing", "token", WHOLE)]


def unequal_rows(rank: int, policy: str) -> str:
    """Why a sharded policy is not trained on 12 rows here and 4 there."""
    try:
        fit(policy, make_batch(three_to_one()[rank]), "token", 50, devices=2, strategy=sharded())
    except BatchError as error:
        return str(error)
    return ""


def saved_and_resumed(rank: int, policy: str, folder: Path, mode: str) -> list[dict[str, Any]]:
    """A run with checkpoints, and one that goes on from its checkpoint of step 4."""
    groups, roots = make_groups(2, seed=rank), [folder / f"{mode} {name}" for name in ("whole", "resumed")]
    if rank == 0:  # what a run leaves that is killed while it saves
        (roots[0] / "checkpoints" / ".step=8.ckpt.partial-1").mkdir(parents=True)
        (roots[0] / "checkpoints" / ".step=8.ckpt.partial-1" / "__0_0.distcp").write_bytes(b"half")
    first = trained(policy, groups, roots[0], mode)
    return [first, trained(policy, groups, roots[1], mode, roots[0] / "checkpoints" / "step=4.ckpt")]


def worker(rank: int, port: int, policy: str, folder: str, cases: list[tuple[str, str, int]]) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "LOCAL_RANK": str(rank)}
    results = {}
    for name, how, budget in cases:
        batch = make_batch(HALVES[name]()[rank])
        module = fit(policy, batch, how, budget, devices=2, strategy="ddp")
        results[name, how, budget] = (module.gradients, module.weights(), module.backwards)
    if cases == FEW:
        for name, how, budget in SHARDED:
            module = fit(policy, make_batch(HALVES[name]()[rank]), how, budget, devices=2, strategy=sharded())
            results["sharded", name] = (module.gradients, module.weights(), module.backwards)
        name, how, budget = SHARDED[0]
        batch, low = make_batch(HALVES[name]()[rank]), {"strategy": sharded(), "precision": "bf16-mixed"}
        module = fit(policy, batch, how, budget, devices=2, **low)
        results["bf16"] = (module.gradients, module.policy.dtype, module.compute_dtype)
        results["unequal"] = unequal_rows(rank, policy)
        results |= {("saved", mode): saved_and_resumed(rank, policy, Path(folder), mode) for mode in MODES}
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


@pytest.mark.parametrize(("name", "how", "budget"), SHARDED)
def test_a_sharded_policy_takes_the_steps_of_a_whole_one(both, name, how, budget):
    ranks, _ = both
    for rank in ranks:
        gradients, weights, backwards = rank["sharded", name]
        expected_gradients, expected_weights, _ = rank[name, how, budget]
        assert distance(gradients[0], expected_gradients[0]) < TOLERANCE
        assert distance(weights, expected_weights) < TOLERANCE
        # As many micro-batches on each, or the ranks would wait for each other: the most that either had.
        assert backwards == max(one[name, how, budget][2] for one in ranks)


def test_a_sharded_policy_computes_in_bf16_and_keeps_fp32(both):
    for rank in both[0]:
        gradients, stored, computed = rank["bf16"]
        exact = rank["sharded", SHARDED[0][0]][0][0]
        assert (gradients[0].dtype, stored, computed) == (torch.float32, torch.float32, torch.bfloat16)
        assert distance(gradients[0], exact) > 1e-4
        assert torch.cosine_similarity(gradients[0], exact, dim=0) > 0.97


def test_ranks_that_cannot_have_equally_many_microbatches_all_say_so(both):
    for rank in both[0]:
        assert "a process with 4 rows while another has" in rank["unequal"]


@pytest.mark.parametrize("mode", MODES)
def test_a_sharded_run_goes_on_from_its_checkpoint_to_the_bit(both, mode):
    for rank in both[0]:
        untouched, resumed = rank["saved", mode]
        assert untouched["found"] == {f"step={step}.ckpt": mode == "shards" for step in (4, 6)}
        assert resumed["found"] == {"step=6.ckpt": mode == "shards"}
        assert untouched["version"] == resumed["version"] == 6
        assert torch.equal(untouched["weights"], resumed["weights"])
        for one, two in zip(untouched["moments"], resumed["moments"], strict=True):
            assert torch.equal(one, two)


def test_the_cases_are_what_they_say(both):
    ranks, _ = both
    backwards = [[rank[name, "token", 50][2] for rank in ranks] for name in ("even", "long_and_short", "three_to_one")]
    assert all(one != two for one, two in backwards[1:])
    tokens = [sum(len(row.ids) for group in half for row in group) for half in long_and_short()]
    assert 4 * tokens[0] < tokens[1]
    # Gradients that each rank normalised by its own tokens, and DDP averaged, would be others.
    assert all(rank["one_knows_nothing", "token", WHOLE][0][0].norm() > 0.01 for rank in ranks)
