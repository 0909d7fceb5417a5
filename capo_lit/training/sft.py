"""SFTModule: supervised fine-tuning on demonstrations, the cold start of the paper's base policies."""

import time
from typing import Any

import torch

from capo_lit.data.sft import SFTBatch
from capo_lit.evaluation.reduction import Mean
from capo_lit.training.logprobs import response_logprobs
from capo_lit.training.policy import PolicyModule
from capo_lit.training.settings import OptimConfig, UpdateConfig


class SFTModule(PolicyModule):
    """A policy trained on demonstrations by next-token cross-entropy over their responses.

    loss = - sum of log p(token) over the response tokens of the batch / their count

    Args:
        policy: directory or hub id of a Hugging Face causal LM.
        optim: optimizer and schedule.
        update: micro-batches and memory; epochs and minibatches do not apply and must be 1.
        seed: of the run.
        lora_rank: of adapters (LoRA), which alone are trained then; 0 trains all weights.
    """

    def __init__(
        self,
        policy: str,
        optim: OptimConfig = OptimConfig(lr=1e-5),
        update: UpdateConfig = UpdateConfig(),
        seed: int = 0,
        lora_rank: int = 0,
    ) -> None:
        super().__init__(policy, optim, update, seed, lora_rank)

    def training_step(self, batch: SFTBatch, batch_idx: int) -> None:
        """One optimizer step on one batch of demonstrations."""
        self.rest_engine()
        started = time.perf_counter()
        prompts = [ids[:length] for ids, length in zip(batch.ids, batch.prompt_lengths, strict=True)]
        responses = [ids[length:] for ids, length in zip(batch.ids, batch.prompt_lengths, strict=True)]
        tokens = sum(map(len, responses))
        local = torch.tensor(tokens, dtype=torch.float64, device=self.device)
        # The mean over ranks of local sums over this is the sum over all ranks by the count over all ranks.
        count = float(self.trainer.strategy.reduce(local, reduce_op="mean"))
        optimizer: Any = self.optimizers()
        plan, total = self.microbatches(prompts, responses), 0.0
        for index, rows in enumerate(plan):
            with optimizer.toggle_model(sync_grad=index == len(plan) - 1):
                picked = [prompts[row] for row in rows], [responses[row] for row in rows]
                logprobs, _ = response_logprobs(self.policy, *picked)
                loss = -logprobs.sum() / count
                self.manual_backward(loss)
            total += float(loss.detach())
        norm = self.apply_gradient(optimizer)
        seconds = time.perf_counter() - started
        self.measure(
            {
                "sft/loss": Mean(total),
                "sft/tokens_per_s": Mean(sum(map(len, batch.ids)), seconds),
                "policy/grad_norm": Mean(norm),
                "policy/lr": Mean(self.last_lr),
            }
        )
