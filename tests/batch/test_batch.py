"""The carrier: slots are written once, streams are read in any order, padding happens in one place."""

import pytest
import torch

from capo_lit.batch.facts import CritiquedRollout
from capo_lit.batch.step import StepBatch, pad_rows
from capo_lit.core.errors import BatchError
from capo_lit.core.votes import Verdict
from tests.support.builders import make_rollout


def critiqued(rollout):
    return CritiquedRollout(rollout, (), Verdict((0.0, 0.0), 1, 0, 1.0))


def test_a_missing_slot_names_the_callback_that_fills_it():
    batch = StepBatch([], step=7)
    with pytest.raises(BatchError, match=r"step 7.*RolloutCallback"):
        batch.require_rollouts()
    with pytest.raises(BatchError, match=r"--critique\.judge"):
        batch.require_verdicts()
    with pytest.raises(BatchError, match="training_step"):
        batch.require_credit()


def test_a_slot_is_written_once():
    batch = StepBatch([], step=0)
    batch.set_rollouts([make_rollout(0)])
    with pytest.raises(BatchError, match="second write"):
        batch.set_rollouts([])
    batch.set_verdicts([critiqued(make_rollout(0))])
    with pytest.raises(BatchError, match="second write"):
        batch.set_verdicts([])


def test_a_stream_is_drawn_once_and_every_reader_sees_all_of_it():
    drawn = []

    def source():
        for row in (2, 0, 1):
            drawn.append(row)
            yield make_rollout(row)

    batch = StepBatch([], step=0)
    batch.set_rollouts(source())
    first = next(batch.stream_rollouts())
    assert (first.row, drawn) == (2, [2])  # the others still "generate"
    assert [rollout.row for rollout in batch.require_rollouts()] == [0, 1, 2]
    assert [rollout.row for rollout in batch.stream_rollouts()] == [2, 0, 1]
    assert drawn == [2, 0, 1]


def test_two_readers_that_take_turns_both_see_every_rollout():
    batch = StepBatch([], step=0)
    batch.set_rollouts(make_rollout(row) for row in range(4))
    one, two = batch.stream_rollouts(), batch.stream_rollouts()
    seen_one, seen_two = [next(one).row], [next(two).row]
    seen_one.append(next(one).row)
    seen_two += [rollout.row for rollout in two]
    seen_one += [rollout.row for rollout in one]
    assert seen_one == seen_two == [0, 1, 2, 3]


def test_verdicts_must_cover_the_rollouts():
    batch = StepBatch([], step=0)
    batch.set_rollouts([make_rollout(0), make_rollout(1)])
    with pytest.raises(BatchError, match=r"rows \[0\].*\[0, 1\]"):
        batch.set_verdicts([critiqued(make_rollout(0))])
    batch.set_verdicts([critiqued(make_rollout(1)), critiqued(make_rollout(0))])
    assert [item.rollout.row for item in batch.require_verdicts()] == [0, 1]


def test_pad_rows():
    padded = pad_rows([[1, 2, 3], [], [4]], -1, torch.long)
    assert padded.tolist() == [[1, 2, 3], [-1, -1, -1], [4, -1, -1]]
    assert pad_rows([], 0, torch.long).shape == (0, 0)
    with pytest.raises(BatchError, match="3 entries"):
        pad_rows([[1, 2, 3]], 0, torch.long, width=2)
