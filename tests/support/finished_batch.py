"""One finished batch, small enough to write its records by hand."""

from dataclasses import replace

import torch

from capo_lit.batch.credit import token_table
from capo_lit.batch.facts import Completion, Critique, CritiquedRollout, Prompt, Rollout
from capo_lit.batch.step import StepBatch
from capo_lit.core.votes import tally

PROMPT = Prompt("toy/0", "1+1?", (5, 6), "2", reference=None)


def completion(pieces: tuple[str, ...], logprobs: tuple[float, ...] | None) -> Completion:
    """One token per piece and an end token."""
    return Completion(
        request_id="r",
        ids=(*range(10, 10 + len(pieces)), 2),
        pieces=(*pieces, ""),
        special=(*(False for _ in pieces), True),
        text="".join(pieces),
        logprobs=logprobs,
        finish_reason="stop",
        prompt_tokens=2,
        version=7,
        seconds=0.25,
    )


def make_batch(step: int = 12, verdicts: bool = True, dtype: torch.dtype = torch.float32) -> StepBatch:
    """Two rollouts of one prompt, 3 and 2 tokens long, padded to 3 columns; the second one's outcome is unknown."""
    rollouts = (
        Rollout(0, 0, 0, PROMPT, completion(("a\n\n", "b"), (-0.5, -0.25, -1.0)), 1.0),
        Rollout(1, 0, 1, PROMPT, completion(("c",), None), None),
    )
    batch = StepBatch([PROMPT], step)
    batch.set_rollouts(reversed(rollouts))  # they finish in any order
    if verdicts:
        votes = (
            Critique("step 1 is wrong", frozenset({1}), "", 40, 8, 0.5),
            Critique("?\ud800", None, "parse", 40, 2, 0.25),
        )
        batch.set_verdicts(
            [
                CritiquedRollout(rollouts[0], votes, tally([frozenset({1}), None], 2, "majority")),
                CritiquedRollout(rollouts[1], votes[1:], tally([None], 1, "majority")),
            ]
        )
    batch.set_credit(
        replace(
            token_table(batch, w_process=0.0),
            token_rewards=torch.tensor([[2.0, 1.0, 2.0], [9.0, 9.0, 9.0]], dtype=dtype),
            advantages=torch.tensor([[0.5, -1.0, 0.5], [0.0, 0.0, 9.0]], dtype=dtype, requires_grad=True),
            mask=torch.tensor([[True, True, True], [False, False, False]]),
            step_of_token=torch.tensor([[0, 1, -1], [0, -1, -1]]),
            logprobs=torch.tensor([[-0.5, -0.25, -1.5], [-3.0, -4.0, 9.0]], dtype=dtype),
        )
    )
    return batch
