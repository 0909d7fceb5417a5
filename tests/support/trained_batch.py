"""Batches with random critiques, whose credit was computed as a training step computes it."""

import random

from capo_lit.batch.credit import CreditConfig, assign_credit
from capo_lit.batch.facts import Critique, CritiquedRollout, Rollout
from capo_lit.batch.step import StepBatch
from capo_lit.core.votes import VoteRule
from capo_lit.genprm.base import critiqued
from tests.support.finished_batch import PROMPT, completion

TEXTS = (("a\n\n", "b"), ("c",), ("d\n\n", "e", "f\n\n", "g"), ())
PAPER = CreditConfig()


def credited(items: list[CritiquedRollout], credit: CreditConfig, step: int) -> StepBatch:
    """A batch whose credit was computed as a training step computes it."""
    batch = StepBatch([PROMPT, PROMPT], step)
    batch.set_rollouts(item.rollout for item in items)
    batch.set_verdicts(items)
    batch.set_credit(assign_credit(batch, credit))
    return batch


def trained(rule: VoteRule, credit: CreditConfig = PAPER, step: int = 0, k: int = 4) -> StepBatch:
    """Two groups of four rollouts with k random critiques each; some abstain, and some outcomes are unknown."""
    random_of = random.Random(step)
    items = []
    for row in range(8):
        done = completion(TEXTS[(row + step) % 4], None)
        rollout = Rollout(row, row // 4, row % 4, PROMPT, done, random_of.choice([1.0, 0.0, 1.0, None]))
        critiques = [
            Critique("?", None, "parse")
            if random_of.random() < 0.2
            else Critique("", frozenset(i for i in range(len(rollout.spans)) if random_of.random() < 0.5))
            for _ in range(k if rollout.spans else 0)
        ]
        items.append(critiqued(rollout, critiques, rule))
    return credited(items, credit, step)
