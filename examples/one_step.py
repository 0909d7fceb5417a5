"""One step of CAPO by hand, without a Trainer: prompts -> rollouts -> critiques -> credit -> loss -> record.

A small random policy solves the built-in arithmetic; a rule that errs stands for the judge. `CapoModule.training_step`
does the same in micro-batches. Run it as `python examples/one_step.py FOLDER`.
"""

import sys
from pathlib import Path

import pyarrow.parquet as pq
import torch
from transformers import AutoTokenizer

from capo_lit.arithmetic.judge import ArithmeticStepVerifier
from capo_lit.arithmetic.model import write_initial_model
from capo_lit.arithmetic.task import ArithmeticSource
from capo_lit.batch.credit import CreditConfig, assign_credit
from capo_lit.batch.facts import Prompt
from capo_lit.batch.sampling import Sampling
from capo_lit.batch.step import StepBatch
from capo_lit.core.loss import loss_means, policy_loss
from capo_lit.engines.hf import HFEngine
from capo_lit.records.table import batch_table
from capo_lit.training.loading import load_policy
from capo_lit.training.logprobs import response_logprobs
from capo_lit.training.rollouts import Sampler
from capo_lit.verifier.pool import Verifier


def main(folder: Path) -> dict[str, float]:
    """Train one step, and write its record to folder/record.parquet."""
    model = str(write_initial_model(folder / "policy"))
    policy, tokenizer = load_policy(model), AutoTokenizer.from_pretrained(model)
    problems = ArithmeticSource(size=4).load()
    prompts = [Prompt(p.uid, p.problem, tuple(tokenizer.encode(p.problem)), p.answer) for p in problems]
    batch, sampling = StepBatch(prompts, step=0), Sampling(max_tokens=32)

    with Verifier() as verifier:  # each rollout comes when it is done, with its outcome and cut into steps
        batch.set_rollouts(Sampler(HFEngine(model)).sample(prompts, 8, sampling, verifier, ("rollout", 0)), sampling)
        judge = ArithmeticStepVerifier(k=4, vote="majority", false_positive=0.1)  # four critiques, and a vote
        batch.set_verdicts(judge.judge(batch.stream_rollouts(), seed=0))

    table = assign_credit(batch, CreditConfig(w_whole=2.0, w_process=1.0))  # a reward and an advantage for every token
    new, table.entropy[:] = response_logprobs(policy, table.prompts, table.responses)
    table.logprobs[:] = new.detach()  # one update: its own forward gives the old logprobs
    engine = table.engine_logprobs  # the importance correction divides by them
    facts = (new, table.logprobs, table.advantages, table.mask)
    loss, sums = policy_loss(*facts, engine_logprobs=engine, importance_cap=2.0)
    loss.backward()
    torch.optim.AdamW(policy.parameters(), lr=1e-3).step()

    batch.set_credit(table)
    pq.write_table(batch_table(batch, run="one_step"), folder / "record.parquet")
    return {"loss": loss.item(), **loss_means(sums)}


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
