"""The loader: order, shards, and resuming anywhere."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capo_lit.core.errors import ConfigError
from capo_lit.data.loader import PromptLoader


def loader(n: int, size: int, seed: int | None = 0, rank: int = 0, world: int = 1) -> PromptLoader:
    return PromptLoader(
        list(range(n)), [str(i) for i in range(n)], lambda i, step: (step, tuple(i)), size, seed, rank, world
    )


def test_training_epochs_shuffle_drop_the_rest_and_count_steps():
    made = loader(10, 3)
    epochs = [list(made) for _ in range(3)]
    assert [len(epoch) for epoch in epochs] == [len(made)] * 3 == [3] * 3  # 10 // 3
    assert [step for epoch in epochs for step, _ in epoch] == list(range(9))
    for epoch in epochs:
        assert len({i for _, items in epoch for i in items}) == 9  # nothing twice
    orders = [[items for _, items in epoch] for epoch in epochs]
    assert orders[0] != orders[1] != orders[2]
    assert [items for _, items in loader(10, 3)] == orders[0]
    assert [items for _, items in loader(10, 3, seed=1)] != orders[0]


@given(st.integers(1, 30), st.integers(1, 7), st.integers(0, 60))
def test_a_resumed_loader_yields_exactly_the_rest(n, size, taken):
    size = min(n, size)

    def steps(made):
        while True:
            yield from made

    whole, stopped = steps(loader(n, size)), loader(n, size)
    first = steps(stopped)
    head = [next(first) for _ in range(taken)]
    state = json.loads(json.dumps(stopped.state_dict()))  # plain numbers and text: a checkpoint loads weights only
    resumed = loader(n, size)
    resumed.load_state_dict(state)
    tail = steps(resumed)
    assert head + [next(tail) for _ in range(10)] == [next(whole) for _ in range(taken + 10)]


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 20))
def test_ranks_share_each_training_batch(world, per_rank, extra):
    size = world * per_rank
    n = size + extra
    single = list(loader(n, size))
    ranks = [list(loader(n, size, rank=r, world=world)) for r in range(world)]
    for index, (step, items) in enumerate(single):
        parts = [rank[index] for rank in ranks]
        assert all(part[0] == step and len(part[1]) == per_rank for part in parts)
        assert sorted(i for _, part in parts for i in part) == sorted(items)


@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 30))
def test_evaluation_covers_everything_once_in_equally_many_batches(world, size, extra):
    n = world + extra
    ranks = [list(loader(n, size, seed=None, rank=r, world=world)) for r in range(world)]
    assert len({len(rank) for rank in ranks}) == 1
    assert all(items for rank in ranks for _, items in rank), "a rank got an empty batch"
    assert sorted(i for rank in ranks for _, items in rank for i in items) == list(range(n))
    if world == 1:
        assert [i for _, items in ranks[0] for i in items] == list(range(n))
        assert [len(items) for _, items in ranks[0]] == [min(size, n - start) for start in range(0, n, size)]


def test_an_evaluation_loader_always_starts_at_the_front():
    made = loader(5, 2, seed=None)
    next(iter(made))
    assert [items for _, items in made] == [(0, 1), (2, 3), (4,)]
    assert len(made) == 3


def test_loader_refuses_what_cannot_be_split_or_resumed():
    with pytest.raises(ConfigError, match="batch size 3"):
        loader(10, 3, world=2)
    with pytest.raises(ConfigError, match="2 items"):
        loader(2, 3)
    with pytest.raises(ConfigError, match="1 items"):
        loader(1, 1, seed=None, world=2)
    with pytest.raises(ConfigError, match="batch_size 2"):
        loader(10, 5).load_state_dict(loader(10, 2).state_dict())
    with pytest.raises(ConfigError, match="items"):
        loader(10, 2).load_state_dict(loader(11, 2).state_dict())


def test_a_peek_sees_the_next_batch_also_of_the_next_epoch_and_moves_nothing():
    loader = PromptLoader(
        list(range(7)), [str(i) for i in range(7)], lambda items, step: (step, list(items)), 2, seed=3
    )
    peeked, drawn = [loader.peek()], []
    for _ in range(3):
        for batch in loader:
            drawn.append(batch)
            before = loader.state_dict()
            peeked.append(loader.peek())
            assert loader.state_dict() == before
    assert peeked[:-1] == drawn
    assert [step for step, _ in drawn] == list(range(9))
