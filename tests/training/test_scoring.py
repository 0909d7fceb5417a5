"""Logprobs of responses: equal to the model's own, whatever the padding and the micro-batch."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capo_lit.core.errors import ConfigError
from capo_lit.core.microbatches import cut_microbatches, plan_microbatches, tally
from capo_lit.training.logprobs import check_head, response_logprobs
from tests.support.builders import tiny_llama

PROMPTS = [(1, 2, 3), (4,), (5, 6, 7, 8, 9)]
RESPONSES = [(10, 11), (12, 13, 14, 15), ()]


@given(st.lists(st.integers(1, 300), max_size=40), st.integers(1, 1000))
def test_every_row_is_in_one_microbatch_and_the_budget_holds(lengths, budget):
    plan = plan_microbatches(lengths, budget)
    assert sorted(row for rows in plan for row in rows) == list(range(len(lengths)))
    for rows in plan:
        assert len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= budget
    widths = [max(lengths[row] for row in rows) for rows in plan]
    assert widths == sorted(widths, reverse=True)


ROWS = st.lists(st.tuples(st.sampled_from([(1,), (2,), (1, 2, 3), (4,) * 30]), st.integers(0, 60)), max_size=40)


@given(ROWS, st.integers(1, 500))
def test_rows_of_one_prompt_are_computed_together_where_the_budget_holds_them(rows, budget):
    prompts, responses = [prompt for prompt, _ in rows], [(7,) * length for _, length in rows]
    lengths = [len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True)]
    plan = plan_microbatches(lengths, budget, prompts)
    assert sorted(row for part in plan for row in part) == list(range(len(rows)))
    for part in plan:
        own = [prompts[row] for row in part], [responses[row] for row in part]
        size = tally(*own, packable=True)
        distinct = sum(map(len, set(own[0]))) + sum(map(len, own[1]))
        padded = len(part) * max(lengths[row] for row in part)
        copies = (padded + len(part) * max(map(len, own[1]))) // 16
        assert size.packs == (distinct + copies < padded)
        assert size.computed == (distinct if size.packs else padded)
        assert size.padding == (0 if size.packs else padded - sum(lengths[row] for row in part))
        assert len(part) == 1 or min(distinct + copies, padded) <= budget
    # The rows of a prompt follow each other, from micro-batch to micro-batch.
    following = [prompts[row] for part in plan for row in part]
    assert sum(one != two for one, two in pairwise(following)) == max(0, len(set(following)) - 1)


def test_a_prompt_counts_once_in_the_budget():
    prompts, responses = [(1,) * 100] * 4 + [(2,) * 100] * 4, [(3,) * 25] * 8
    # 100 + 4 x 25 tokens, and a sixteenth of 4 x (125 + 25) places.
    assert plan_microbatches([125] * 8, 237, prompts) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert plan_microbatches([125] * 8, 236, prompts)[0] == [0, 1, 2]
    assert plan_microbatches([125] * 8, 237) == [[row] for row in range(8)]
    assert tally(prompts, responses, packable=True).computed == 400
    assert tally(prompts, responses, packable=False).computed == 1000


def test_few_short_responses_are_packed_with_a_long_one():
    # Attention holds each of n rows at the width of the longest: 2016 + (n - 1) tokens and n (2016 + 2000) / 16 for the
    # copies, which is 4031 for 8 rows and 4283 for 9.
    lengths = [2016, *[17] * 64]
    assert len(plan_microbatches(lengths, 4096, [(1,) * 16] * 65)[0]) == 8


@given(st.lists(st.integers(1, 300), min_size=1, max_size=40), st.integers(1, 1000), st.data())
def test_microbatches_are_cut_to_a_number_without_a_row_lost_or_moved(lengths, budget, data):
    plan = plan_microbatches(lengths, budget)
    count = data.draw(st.integers(1, len(lengths)))
    cut = cut_microbatches(plan, count)
    assert len(cut) == max(count, len(plan))
    assert all(cut)
    assert [row for rows in cut for row in rows] == [row for rows in plan for row in rows]
    with pytest.raises(ValueError, match=f"got {len(lengths)} rows"):
        cut_microbatches(plan, len(lengths) + 1)


def test_sorting_by_length_pads_less_than_the_given_order():
    lengths = [10, 100] * 16
    plan = plan_microbatches(lengths, 400)
    # In the given order every micro-batch of 4 rows is 100 wide: 3,200 padded tokens for 1,760, a share of 0.45.
    assert sum(lengths) <= sum(len(rows) * max(lengths[row] for row in rows) for rows in plan) < sum(lengths) / 0.98


def test_logprobs_are_those_of_the_full_forward(tmp_path):
    model = tiny_llama(tmp_path).eval()
    got, entropy = response_logprobs(model, PROMPTS, RESPONSES, temperature=0.7, chunk_tokens=2)
    assert got.shape == entropy.shape == (3, 4)
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        logits = model(torch.tensor([prompt + response])).logits[0] / 0.7
        logprobs = logits.log_softmax(-1)
        for t, token in enumerate(response):
            line = logprobs[len(prompt) + t - 1]
            torch.testing.assert_close(got[row, t], line[token], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(entropy[row, t], -(line.exp() * line).sum(), atol=1e-5, rtol=1e-5)
        assert not got[row, len(response) :].any()


def test_gradients_are_those_of_the_full_forward(tmp_path):
    model = tiny_llama(tmp_path)
    response_logprobs(model, PROMPTS, RESPONSES, chunk_tokens=2)[0].sum().backward()
    got = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    total = torch.zeros(())
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        logprobs = model(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
        total = total + sum(logprobs[len(prompt) + t - 1, token] for t, token in enumerate(response))
    total.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(got[name], parameter.grad, atol=1e-4, rtol=1e-4)


def test_a_head_that_is_not_linear_is_refused(tmp_path, monkeypatch):
    model = tiny_llama(tmp_path)
    check_head(model)
    forward = type(model).forward

    def scaled(self, *args, **kwargs):
        out = forward(self, *args, **kwargs)
        out.logits = out.logits * 3
        return out

    monkeypatch.setattr(type(model), "forward", scaled)
    with pytest.raises(ConfigError, match="whose logits differ"):
        check_head(model)
