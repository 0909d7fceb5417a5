"""One optimizer step on ragged rollouts, whose gradient must not depend on how the rollouts are laid out."""

import random
from dataclasses import dataclass, replace

import torch
from lightning.pytorch import Trainer
from torch.distributed.tensor import DTensor

from capo_lit.batch.facts import CritiquedRollout, Prompt, Rollout
from capo_lit.batch.sampling import Sampling
from capo_lit.batch.step import StepBatch
from capo_lit.core.votes import Verdict
from capo_lit.training.capo import CapoModule
from capo_lit.training.settings import LossConfig, OptimConfig, UpdateConfig
from tests.support.builders import make_completion
from tests.support.loaders import Loader

HOWS = ("token", "sequence", "dr_grpo")  # aggregations of CAPO's loss
TOLERANCE = 1e-6  # of the whole gradient's norm
WHOLE = 10**6  # a micro-batch budget that every batch here fits into


@dataclass(frozen=True)
class Row:
    """A rollout before it has a place in a batch: ids of prompt and response, logprobs, outcome, two step errors."""

    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    outcome: float | None
    errors: tuple[float, float]


Groups = list[list[Row]]


def make_groups(count: int = 4, seed: int = 0, longest: int = 24) -> Groups:
    """Groups of 4 rollouts of 3 to `longest` tokens; a quarter or so of the outcomes is unknown."""
    draw = random.Random(seed)

    def row(prompt: tuple[int, ...]) -> Row:
        ids = tuple(draw.randrange(3, 32) for _ in range(draw.randint(3, longest)))
        # Logprobs of a random model over 32 words lie near -3.5: some importance weights reach the cap of 2, some not.
        logprobs = tuple(draw.uniform(-6.0, -1.0) for _ in ids)
        errors = (draw.choice((0.0, 0.5, 1.0)), draw.choice((0.0, 0.25, 1.0)))
        return Row(prompt, ids, logprobs, draw.choice((0.0, 1.0, 1.0, None)), errors)

    prompts = [tuple(draw.randrange(3, 32) for _ in range(draw.randint(1, 6))) for _ in range(count)]
    return [[row(prompt) for _ in range(4)] for prompt in prompts]


def forget(groups: Groups) -> Groups:
    """The same rollouts, all outcomes unknown."""
    return [[replace(row, outcome=None) for row in group] for group in groups]


def make_batch(groups: Groups) -> StepBatch:
    """The rollouts in this order, with two steps each and the end token outside both."""
    rollouts, verdicts = [], []
    prompts = [Prompt(f"p{index}", "?", group[0].prompt, "0") for index, group in enumerate(groups)]
    for index, group in enumerate(groups):
        for sample, row in enumerate(group):
            pieces = ("a\n\n", *("b" for _ in row.ids[2:]), "")
            done = make_completion(pieces=pieces, ids=row.ids, logprobs=row.logprobs)
            spans = ((0, 3), (3, len(done.text)))
            rollouts.append(Rollout(len(rollouts), index, sample, prompts[index], done, row.outcome, spans=spans))
            verdicts.append(CritiquedRollout(rollouts[-1], (), Verdict(row.errors, 1, 0, 1.0)))
    batch = StepBatch(prompts, step=0)
    batch.set_rollouts(rollouts, Sampling(max_tokens=64))
    batch.set_verdicts(verdicts)
    return batch


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of which this process may have a shard alone."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


class Watch:
    """Keeps every gradient; starts off the reference model, so that the KL term has a gradient from the start."""

    def watch(self) -> None:
        """Call once, before training."""
        self.gradients: list[torch.Tensor] = []
        self.logged: dict[str, float] = {}
        self.backwards = 0
        noise = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=noise))

    def on_after_backward(self) -> None:
        self.backwards += 1

    def apply_gradient(self, optimizer) -> float:
        self.gradients.append(torch.cat([whole(p.grad).flatten().clone() for p in self.parameters()]))
        return super().apply_gradient(optimizer)

    def log_metrics(self, values, batch_size) -> None:
        self.logged.update(values)
        super().log_metrics(values, batch_size)

    def weights(self) -> torch.Tensor:
        return torch.cat([whole(p.detach()).flatten() for p in self.parameters()])


class WatchedCapo(Watch, CapoModule):
    """CAPO."""


def build(policy: str, how: str, budget: int) -> Watch:
    """A module with every term of the loss: one of HOWS."""
    loss = LossConfig(aggregation=how, kl_coef=0.3, importance_cap=2.0, clip_low=0.05, clip_high=0.05)
    update = UpdateConfig(epochs=2, tokens_per_microbatch=budget)
    module = WatchedCapo(policy, OptimConfig(lr=1e-3, grad_clip=0.1), loss=loss, update=update)
    module.watch()
    return module


def fit(policy: str, batch: StepBatch, how: str, budget: int = WHOLE, **trainer) -> Watch:
    """Both updates of one batch on the CPU, in fp32 unless told otherwise."""
    module = build(policy, how, budget)
    settings = {"devices": 1, "precision": "32-true", **trainer}
    Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False, **settings,
    ).fit(module, Loader([batch]))  # fmt: skip
    return module


def distance(one: torch.Tensor, two: torch.Tensor) -> float:
    """|one - two| / |two|."""
    return float((one.double() - two.double()).norm() / two.double().norm())
